"""The verbs `init` (writes a commented robustcheck.toml) and `cache` (shows and clears the cache)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import printable

from ..help import Verbs
from ..options import Debug, Output
from ..output import check_target

cache = Verbs(name="cache", help="Show or clear what is kept of earlier checks.")


@cache.verb(examples=("robustcheck cache info",))
def info(output: Output = "terminal", debug: Debug = False) -> int:
    """Show where records are kept, how many, and how large they are."""
    from robustcheck_onnx.checker.measure import cache as records
    from robustcheck_onnx.checker.storage import own_files
    from robustcheck_onnx.checker.text import as_json

    size = records.size()
    if output == "json":
        sys.stdout.write(as_json(size.model_dump(mode="json")))
    else:
        off = f"switched off by {own_files.OFF}\n" if own_files.is_off() else ""
        off += f"not used: {printable(size.unused)}\n" if size.unused else ""
        sys.stdout.write(
            f"{size.folder}\n{size.records} records, {size.size_bytes / 2**20:.1f} MiB of at most "
            f"{size.limit_bytes / 2**20:.0f} MiB; when full, those unused for the longest time are removed\n{off}"
        )
    return 0


@cache.verb(examples=("robustcheck cache clear",))
def clear(debug: Debug = False) -> int:
    """Remove every record."""
    from robustcheck_onnx.checker.measure import cache as records
    from robustcheck_onnx.checker.storage import own_files

    sys.stdout.write(f"removed {records.clear()} records from {own_files.folder()}\n")
    return 0


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")] = Path("robustcheck.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    debug: Debug = False,
) -> int:
    """Write a settings file with every setting, its default and meaning."""
    import os

    from robustcheck_onnx.checker.storage import write_whole

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
            f"robustcheck init {shlex.quote(str(path))} --force",
        )
    write_whole(path, settings_text.template())
    sys.stdout.write(f"wrote {path}; nothing in it is set yet: remove the # in front of what you want to set\n")
    return 0
