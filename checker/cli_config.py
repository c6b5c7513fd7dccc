"""The verb `init`: a file of settings to start from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from robustcheck_onnx.checker.cli_options import Debug
from robustcheck_onnx.checker.errors import UsageError


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")] = Path("robustcheck.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    debug: Debug = False,
) -> int:
    """Write a commented robustcheck.toml: every setting of a check, with its default and one line about it."""
    import os

    from robustcheck_onnx.checker import config_template, delivery, settings_file

    if path.name == settings_file.SHARED_FILE:
        raise UsageError(
            f"{path}: file holds more than these settings; write [tool.{settings_file.TABLE}] into it by hand",
            "robustcheck init robustcheck.toml",
        )
    delivery.check_target(path)
    if os.path.lexists(path) and not force:
        raise UsageError(
            f"{path}: file is there already; init replaces none", f"robustcheck init {shlex.quote(str(path))} --force"
        )
    delivery.write_whole(path, config_template.template())
    sys.stdout.write(f"wrote {path}; nothing in it is set yet: take the # away from the lines that you want\n")
    return 0
