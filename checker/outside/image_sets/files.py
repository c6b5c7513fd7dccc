"""Read image files by their names in a folder, a list or a store."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...core.images.entries import Entries, ListedImage
from ...core.images.preprocess import MAX_FILE_BYTES, UnreadableImageError
from ...errors import UsageError
from ...text import quoted
from ..storage.places import Url, parse_place
from ..storage.stores import RemoteFile, StoreError, open_url

File = Path | RemoteFile
"""where an image, or a file of many images, is: on this machine, or in a store"""
SHOWN = 1000  # characters of a name in a message
PATH_COLUMNS = ("path", "image", "file")  # of a manifest; the first that is there names the image
CHECKED_ROWS = 10_000  # rows of a list or manifest whose files are looked for before anything is read


def file_entries(folder: File, names: Sequence[str]) -> Entries:
    """List image files by their names relative to a folder."""
    return Entries.listed(names, Files(folder, names).entry)


@dataclass(frozen=True, eq=False, repr=False)
class Files:
    """The image files of a folder, by names that are relative to it, absolute, or URLs."""

    folder: File
    names: Sequence[str]
    labels: Sequence[str | None] | None = None
    rows: Rows | None = None
    """the rows of a list or manifest that the names come from"""
    full_urls: Mapping[int, str] = field(default_factory=dict)
    """by index, the URLs of which the name shows only a part"""

    def entry(self, index: int) -> ListedImage:
        """Return the image at an index of the names."""
        name = self.names[index]
        is_remote = isinstance(self.folder, RemoteFile) or is_url(name)
        label = None if self.labels is None else self.labels[index]
        origin = "" if is_remote else str(self.folder / name)
        return ListedImage(name, partial(self._read, index, is_remote=is_remote), label, origin)

    def _read(self, index: int, *, is_remote: bool) -> bytes:
        name = self.full_urls.get(index, self.names[index])
        # absolute names and URLs replace the folder; only the first rows were looked for before
        if is_url(name) and isinstance(self.folder, Path):
            file: File | Url = parse_place(name)
        else:
            file = self.folder / name
        is_unchecked = self.rows is not None and index >= CHECKED_ROWS
        try:
            if isinstance(file, Url):
                file = open_url(file)
            if isinstance(file, RemoteFile):
                return read_remote(file)
            if is_unchecked and not is_remote and not os.path.isfile(file):  # noqa: PTH113 # Path.is_file raises where a name is too long
                raise FileNotFoundError
            return read_file(file)
        except FileNotFoundError as fault:
            if self.rows is None or not (is_remote or is_unchecked):
                raise
            raise self.rows.missing(index, self.names[index]) from fault


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """The line and column of each row of a list, for the error of a row without its file."""

    path: File
    numbers: array[int]
    """(row,) line number; an array, as a million int objects take more memory"""
    columns: bytes
    """(row,) index into PATH_COLUMNS"""

    def missing(self, index: int, value: str) -> UsageError:
        """Return the error for a row without its file."""
        place = value if is_url(value) else self.path.parent / value
        number = self.numbers[index]
        column = PATH_COLUMNS[self.columns[index]]
        return UsageError(
            f"{self.path}: row {number}: {column} is {value:.{SHOWN}}; there is no such file",
            f"ls -l {quoted(place):.{SHOWN}}  # paths are relative to the folder of {self.path.name}",
        )


def is_url(name: str) -> bool:
    """Return whether a row names a URL."""
    return "://" in name


def read_remote(file: RemoteFile) -> bytes:
    """Read an image in a store. Raises UnreadableImageError where it is too large or the store fails."""
    try:
        content = file.read_bytes(MAX_FILE_BYTES)
    except StoreError as fault:
        raise UnreadableImageError(f"cannot be read: {fault.reason}") from fault
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"file of more than {MAX_FILE_BYTES:,} bytes")
    return content


def read_file(path: Path) -> bytes:
    """Read a file of a set. Raises UnreadableImageError where it is not a regular file, or too large."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait forever
        raise UnreadableImageError("not a regular file")
    check_size("file", status.st_size)
    return path.read_bytes()


def check_size(what: str, n_bytes: int) -> None:
    """Refuse an image of too many bytes. Raises UnreadableImageError."""
    if n_bytes > MAX_FILE_BYTES:
        raise UnreadableImageError(f"{what} of {n_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")
