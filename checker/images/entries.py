"""Images that have a name and are not read yet: one (`Entry`), a sequence of them (`Entries`), in files (`Files`)."""

from __future__ import annotations

import itertools
import os
import stat
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, overload

import numpy as np
from PIL import Image

from robustcheck_onnx.checker.arrays import AnyArray, Counts
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.storage.places import Url, parse_place
from robustcheck_onnx.checker.storage.stores import RemoteFile, StoreError, open_url
from robustcheck_onnx.checker.text import quoted

from .decode import MAX_FILE_BYTES, UnreadableImageError

File = Path | RemoteFile
"""where an image, or a file of many images, is: on this machine, or in a store"""
SHOWN: Final = 1000  # characters of a name in a message
PATH_COLUMNS: Final = ("path", "image", "file")  # of a manifest; the first that is there names the image
CHECKED_ROWS: Final = 10_000  # rows of a list or manifest whose files are looked for before anything is read
_CHUNK: Final = 4096  # names looked up together: a list of all indices would be 40 bytes an image


@dataclass(frozen=True, eq=False)
class Entry:
    """One image, not read yet: read gives the file's bytes, a (channel, height, width) array, or a picture."""

    name: str
    read: Callable[[], bytes | AnyArray | Image.Image]
    label: str | None = None
    origin: str = ""
    """path of the file on this machine; empty where there is none"""
    row: int = -1
    """number of the row in a table"""


def _no_entry(index: int) -> Entry:
    raise IndexError(index)


def _plan_nothing(order: Counts) -> None:
    """Do nothing: files are read in any order."""


@dataclass(frozen=True, eq=False, repr=False)
class Entries(Sequence[Entry]):
    """A listing's images in some order; each Entry is made when it is asked for.

    A million rows are a million strings, not a million objects; a slice shares them.
    """

    all_names: Sequence[str] = ()
    """in the order of the listing"""
    make: Callable[[int], Entry] = _no_entry
    """makes the Entry of an index into the listing"""
    order: Counts = field(default_factory=lambda: np.empty(0, np.int64))
    """(image,) int64: index into the listing"""
    plan: Callable[[Counts], None] = _plan_nothing
    """of tables, called with the order before the first read"""

    @classmethod
    def listed(cls, names: Sequence[str], make: Callable[[int], Entry]) -> Entries:
        """Return all images of a listing, in its order."""
        return cls(names, make, np.arange(len(names), dtype=np.int64))

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Entries:
        """Return all of these entries, in their order."""
        return cls.listed([entry.name for entry in entries], entries.__getitem__)

    def take(self, indices: Counts) -> Entries:
        """Return the images at these indices of this sequence, in that order."""
        return replace(self, order=self.order[indices])

    def names(self) -> Iterator[str]:
        """Return the names in order; no Entry is made."""
        return itertools.chain.from_iterable(self.names_in_chunks())

    def names_in_chunks(self) -> Iterator[list[str]]:
        """Yield the names in order, some thousands at a time."""
        for start in range(0, len(self.order), _CHUNK):
            yield [self.all_names[index] for index in self.order[start : start + _CHUNK].tolist()]

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Entries: ...
    def __getitem__(self, index: int | slice) -> Entry | Entries:
        if isinstance(index, slice):
            return replace(self, order=self.order[index])
        return self.make(int(self.order[index]))


def file_entries(folder: File, names: Sequence[str]) -> Entries:
    """List the image files of a folder, by their names relative to it."""
    return Entries.listed(names, Files(folder, names).entry)


@dataclass(frozen=True, eq=False, repr=False)
class Files:
    """Image files by their names, which are relative to a folder, absolute, or URLs."""

    folder: File
    names: Sequence[str]
    labels: Sequence[str | None] | None = None
    rows: Rows | None = None
    """the rows of a list or manifest that the names come from"""
    whole_urls: Mapping[int, str] = field(default_factory=dict)
    """by index, the URLs of which the name shows only a part"""

    def entry(self, index: int) -> Entry:
        """Return the image at an index of the names."""
        name = self.names[index]
        is_remote = isinstance(self.folder, RemoteFile) or is_url(name)
        return Entry(
            name,
            partial(self._read, index, is_remote=is_remote),
            None if self.labels is None else self.labels[index],
            origin="" if is_remote else str(self.folder / name),
        )

    def _read(self, index: int, *, is_remote: bool) -> bytes:
        name = self.whole_urls.get(index, self.names[index])
        # absolute names and URLs replace the folder; only the first rows were looked for before
        file = parse_place(name) if is_url(name) and isinstance(self.folder, Path) else self.folder / name
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
    """Line and column of each row of a list or manifest, for the error of a row whose file is missing."""

    path: File
    numbers: array[int]
    """(row,) line number; an array, as a million int objects take more memory"""
    columns: bytes
    """(row,) index into PATH_COLUMNS"""

    def missing(self, index: int, value: str) -> UsageError:
        """Return the error of a row that names no file."""
        shown = value if is_url(value) else str(self.path.parent / value)
        return UsageError(
            f"{self.path}: row {self.numbers[index]}: {PATH_COLUMNS[self.columns[index]]} is {value:.{SHOWN}}; "
            "there is no such file",
            f"ls -l {quoted(shown):.{SHOWN}}  # paths are relative to the folder of {self.path.name}",
        )


def is_url(name: str) -> bool:
    """Return whether a row names a URL rather than a path."""
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
    """Read a file of a set. Raises UnreadableImageError where it is no regular file, or too large."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
        raise UnreadableImageError("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"file of {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return path.read_bytes()
