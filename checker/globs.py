"""What a glob passes by without a word: a folder that it has to enter, and can't."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path


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
