"""Folders below a name or a glob: each entered once, and none that can't be read passed by without a word."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(folder: str | Path, error: Callable[[OSError], Exception]) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk that follows links, but enters each folder once; `error` makes what is raised of one it can't read."""

    def refuse(fault: OSError) -> None:
        raise error(fault) from fault

    seen: set[tuple[int, int]] = set()
    for top, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = Path(top).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield top, folders, names


def unreadable(
    pattern: str, below: Callable[[str], object], leaves_out: Callable[[str], bool] = lambda folder: False
) -> OSError | None:
    """The fault of the first folder that hides matches of a pattern; None where nothing is hidden.

    A wildcard needs a folder's list of names, and the right to pass through. A plain name behind it needs only the
    latter, and others' home folders often give no more.

    Args:
        pattern: with at least one wildcard.
        below: called with each folder that `**` enters; it must refuse what it can't read.
        leaves_out: whether nothing in this folder counts.
    """
    parts = Path(pattern).parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    for end, part in enumerate(parts[first:], first):
        for folder in glob.glob(os.path.join(*parts[:end], "")) if end else ["."]:  # noqa: PTH207, PTH118 # folders only
            if leaves_out(folder):
                continue
            try:
                if part == "**":
                    below(folder)
                    continue
                if glob.has_magic(part):
                    os.scandir(folder).close()
                os.lstat(os.path.join(folder, "." if glob.has_magic(part) else part))  # noqa: PTH118 # as glob does
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as fault:
                fault.filename = os.path.normpath(folder)
                return fault
        if part == "**":
            break
    return None
