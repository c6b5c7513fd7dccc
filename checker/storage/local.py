"""Walk folders of this machine, find what a glob can't see, and copy remote files here.

A folder that can't be read is an error: no file is left out in silence."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError

from .remote import LIMIT, LIMIT_BYTES, RemoteFile, StoreError

MOST_DIGITS = 18  # of a number of bytes


def limit_bytes() -> int:
    """Most bytes of one download. Raises UsageError where the environment's value is no number."""
    value = os.environ.get(LIMIT, "")
    if not value:
        return LIMIT_BYTES
    if not value.isdecimal() or len(value) > MOST_DIGITS or int(value) < 1:
        raise UsageError(f"{LIMIT} is {value!r:.40}; it must be a number of bytes", f"export {LIMIT}={LIMIT_BYTES}")
    return int(value)


def download(file: RemoteFile, target: Path, limit: int) -> int:
    """Copy a remote file to this machine and return its size in bytes.

    limit: most bytes allowed.
    Raises FileNotFoundError, StoreError, EnvironmentFaultError (larger than the limit, no space). After an error the
    caller removes what was written.
    """
    info = {} if file.url.is_http else file.info()
    if info.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, "a folder, no file", file.shown)
    size = info.get("size")
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
    except (StoreError, FileNotFoundError):
        raise
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{file}: download can't be written ({fault.strerror}); {target.parent} must have space for it",
            "df -h; export TMPDIR=a folder with more space",
        ) from fault
    if isinstance(size, int) and n_bytes != size:  # a web server's stream that ends early is an error of its own
        raise StoreError(file.shown, f"{n_bytes} of {size} bytes came")
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
    """Make a temporary folder that only this user can read; it is removed at the end, after an error too."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="robustcheck-", ignore_cleanup_errors=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"temporary folder can't be made ({fault.strerror}); downloads need one", "df -h; export TMPDIR=FOLDER"
        ) from fault
    with folder as name:
        yield Path(name).resolve()


@contextlib.contextmanager
def copied(file: Path | RemoteFile) -> Iterator[Path]:
    """Give a file of this machine: the file itself, or a copy of a remote one.

    The copy is removed at the end; a memory map of it stays valid.
    """
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
    """Walk as os.walk does, following links but entering each folder once.

    error: makes the error of a folder that can't be read; it is raised.
    """

    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(folder)]
    while waiting:  # os.walk calls itself for each level, and ends at a thousand
        top = waiting.pop()
        try:
            status = os.stat(top)  # noqa: PTH116 # a Path for each folder takes time
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(top) as entries:
                is_folder = {entry.name: entry.is_dir() for entry in entries}
        except OSError as fault:
            raise error(fault) from fault
        folders = [name for name, yes in is_folder.items() if yes]
        yield top, folders, [name for name, yes in is_folder.items() if not yes]
        waiting += [os.path.join(top, name) for name in reversed(folders)]  # noqa: PTH118


def expand(parts: Sequence[str]) -> list[Path]:
    """Give what a glob names, with `**` for folders at any depth, links to folders included.

    Each `**` enters a folder once, by its shortest path: two links to their own folder would be 2^40 paths to it, of
    which `glob.glob` follows each. As there, hidden folders and those that can't be read are passed by.

    parts: of the pattern's path.
    """
    start, found = 0, [""]
    for at, part in enumerate(parts):
        if part == "**":
            found = _folders_below(_named(found, parts[start:at]))
            start = at + 1
    return [Path(path) for path in _named(found, parts[start:] or ["*"])]


def _named(folders: Iterable[str], parts: Sequence[str]) -> list[str]:
    """Give what a pattern names in each of some folders; the folders themselves where it has no part."""
    if not parts:
        return list(folders)
    # Path.glob passes by what glob.glob finds through links
    return [path for folder in folders for path in glob.glob(os.path.join(glob.escape(folder), *parts))]  # noqa: PTH118, PTH207


def _folders_below(tops: Iterable[str]) -> list[str]:
    """Give some folders ("" is the current one) and all below them, each once, the shortest paths first."""
    seen: set[tuple[int, int]] = set()
    every: list[str] = []
    level = [top for top in tops if os.path.isdir(top or ".")]  # noqa: PTH112
    while level:
        deeper: list[str] = []
        for folder in sorted(level, key=lambda path: path + "/"):
            try:
                status = os.stat(folder or ".")  # noqa: PTH116
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder or ".") as listed:
                    names = [entry.name for entry in listed if not entry.name.startswith(".") and entry.is_dir()]
            except OSError:  # `unreadable` tells of those that count
                continue
            every.append(folder)
            deeper += [os.path.join(folder, name) for name in names]  # noqa: PTH118
        level = deeper
    return every


def unreadable(
    pattern: str, below: Callable[[str], object], leaves_out: Callable[[str], bool] = lambda folder: False
) -> OSError | None:
    """Return the error of the first folder that can't be read and so may hide matches of a glob; None if there is none.

    A wildcard needs the right to list a folder and to enter it. A plain name behind it needs only the right to enter,
    which is often all that other users' home folders give.

    Args:
        pattern: with at least one wildcard.
        below: called with each folder that `**` enters; it must raise where it can't read a folder below.
        leaves_out: whether a folder's files are ignored anyway.
    """
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
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
