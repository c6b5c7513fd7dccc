"""Folders and files of this machine: globs, whole walks, copies of remote files in private folders.

A folder that can't be read is an error: nothing is passed by without a word."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError

from .remote import LIMIT, LIMIT_BYTES, RemoteFile, StoreError


def limit_bytes() -> int:
    """Most bytes of one download. Raises UsageError where the environment's value is no number."""
    given = os.environ.get(LIMIT, "")
    if not given:
        return LIMIT_BYTES
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(f"{LIMIT} is {given!r}; it must be a number of bytes", f"export {LIMIT}={LIMIT_BYTES}")
    return int(given)


def download(file: RemoteFile, target: Path, limit: int) -> int:
    """Copy a remote file to this machine; its size in bytes.

    limit: most bytes allowed.
    Raises FileNotFoundError, StoreError, EnvironmentFaultError (larger than the limit, no space). What is half there
    is for the caller to remove.
    """
    known = {} if file.url.is_http else file.info()
    if known.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, "a folder, no file", file.shown)
    size = known.get("size")
    if isinstance(size, int):
        _check_size(file, size, limit, target)
    n_bytes = 0
    try:
        with target.open("wb") as out, contextlib.closing(file.stream()) as pieces:
            for piece in pieces:
                n_bytes += len(piece)
                if n_bytes > limit:
                    _check_size(file, n_bytes, limit, target)
                out.write(piece)
    except StoreError:
        raise
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{file}: download is not possible ({fault.strerror}); {target.parent} must have space for it",
            "df -h; export TMPDIR=a folder with more space",
        ) from fault
    if isinstance(size, int) and n_bytes != size:  # a web server's stream that ends early is an error of its own
        raise StoreError(file.shown, f"{n_bytes} bytes came, and its size is {size}")
    return n_bytes


def _check_size(file: RemoteFile, size_bytes: int, limit: int, target: Path) -> None:
    if size_bytes > limit:
        raise EnvironmentFaultError(
            f"{file}: download is more than {limit:,} bytes; that is the limit", f"export {LIMIT}=BYTES"
        )
    free = shutil.disk_usage(target.parent).free
    if size_bytes > free:
        raise EnvironmentFaultError(
            f"{file}: download is {size_bytes:,} bytes; {target.parent} has {free:,} bytes left",
            "df -h; export TMPDIR=a folder with more space",
        )


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder that only this user can read; gone at the end, however that comes."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="robustcheck-", ignore_cleanup_errors=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"temporary folder is not possible ({fault.strerror}); downloads need one", "df -h; export TMPDIR=FOLDER"
        ) from fault
    with folder as name:
        yield Path(name).resolve()


@contextlib.contextmanager
def copied(file: Path | RemoteFile) -> Iterator[Path]:
    """A file as one of this machine: itself, or a copy that is removed at the end (a memory map of it stays good)."""
    if isinstance(file, Path):
        yield file
        return
    with private_folder() as folder:
        target = folder / re.sub(r"[/\\\0]", "_", file.name)
        try:
            download(file, target, limit_bytes())
        except FileNotFoundError as fault:
            raise UsageError(f"{file}: file is missing; no such file", "look at the URL") from fault
        yield target


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
