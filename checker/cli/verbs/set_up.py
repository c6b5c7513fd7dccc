"""The verb `init`: writes a commented robustcheck.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import quoted

from ..options import Debug
from ..output import check_target


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")] = Path("robustcheck.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    debug: Debug = False,
) -> int:
    """Write a settings file with every setting, its default and meaning."""
    import os

    from robustcheck_onnx.checker.storage.write import write_whole

    from .. import settings_file, settings_text

    if path.name == settings_file.SHARED_FILE:
        raise UsageError(
            f"{path}: file holds more than these settings; write [tool.{settings_file.TABLE}] into it by hand",
            "robustcheck init robustcheck.toml",
        )
    check_target(path)
    if os.path.lexists(path) and not force:
        raise UsageError(
            f"{path}: file exists already; init does not replace it",
            f"robustcheck init {quoted(path)} --force",
        )
    write_whole(path, settings_text.template())
    sys.stdout.write(f"wrote {path}; nothing in it is set yet: remove the # in front of what you want to set\n")
    return 0
