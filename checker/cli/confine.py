"""Where a run may write: what a settings file names stays in its folder, and with `--strict` no link is followed.

The tests of names import only Python's own library: they are needed even where a signal ended every other import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*://", re.DOTALL)
"""what `storage.parse_place` can take for a URL, and more; a drive of Windows has one letter"""


def is_inside(path: str, folder: str | Path) -> bool:
    """Whether a file lies below a folder when every link on the way is followed; False for a URL."""
    if _URL.match(path):
        return False
    try:
        real, root = os.path.realpath(path), os.path.realpath(folder)
        is_loop = os.path.islink(real)  # noqa: PTH114 # a Path would change the name
        return not is_loop and real != root and os.path.commonpath([real, root]) == root
    except (OSError, ValueError):  # a name that can't be one; another drive
        return False


def follows_link(path: str) -> bool:
    """Whether a file is a link, or a path below the current folder leads out of it over one; False for a URL."""
    path = re.sub(r"^(?:file|local):/+", "/", path, flags=re.IGNORECASE)
    if _URL.match(path) or path.startswith("/dev/"):  # /dev/stdout is a link, and nobody's but the system's
        return False
    if os.path.islink(path):  # noqa: PTH114
        return True
    goes_up = os.path.isabs(path) or os.pardir in Path(path).parts  # noqa: PTH117
    return not goes_up and not is_inside(path, os.curdir)


def safe_documents(documents: Iterable[tuple[str, str]], folder: Path | None, *, strict: bool) -> list[tuple[str, str]]:
    """Those of the documents, (form, path) with path "" for stdout, that a run may write; the others are never touched.

    folder: of the settings file, where that names them.
    """

    def is_safe(path: str) -> bool:
        return is_inside(path, folder) if folder is not None else not (strict and follows_link(path))

    return [(form, path) for form, path in documents if not path or is_safe(path)]
