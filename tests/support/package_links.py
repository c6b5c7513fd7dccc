"""Link the folders of this repository into one package folder, `robustcheck_onnx/`, as an installation has it.

mypy, import-linter and mkdocstrings read a package from one folder; an editable install has none. Git ignores this
one. Run `python tests/support/package_links.py`; every run of pytest does the same.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "robustcheck_onnx"


def link(place: Path, target: Path) -> None:
    """Make a place lead to a file or folder. On Windows by a hard link or a junction, which need no rights."""
    if place.exists() and place.samefile(target):
        return
    with suppress(FileNotFoundError, IsADirectoryError):
        place.unlink()  # a link to what is gone, or a hard link to what Git has replaced since
    with suppress(FileExistsError):  # another process was faster
        if sys.platform != "win32":
            place.symlink_to(os.path.relpath(target, place.parent))
        elif target.is_dir():
            import _winapi

            _winapi.CreateJunction(str(target), str(place))
        else:
            place.hardlink_to(target)


def make() -> None:
    """Make the package folder, or what is missing of it."""
    PACKAGE.mkdir(exist_ok=True)
    for target in (*(ROOT / "face").glob("*.*"), *(ROOT / room for room in ("checker", "exporters", "thresholds"))):
        link(PACKAGE / target.name, target)


if __name__ == "__main__":
    make()
