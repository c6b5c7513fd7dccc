"""The images of a set by name and order, before any of them is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
from PIL import Image

from ...arrays import AnyArray, Counts

CHUNK = 4096  # names looked up together: a list of all indices would be 40 bytes an image
Kind = Literal[
    "bundled", "image", "folder", "glob", "list", "manifest", "tar", "parquet", "arrow", "tensors", "paths", "pictures"
]


@dataclass(frozen=True, eq=False)
class ListedImage:
    """An image that is not read yet. read gives the file's bytes, a (channel, height, width) array, or a picture."""

    name: str
    read: Callable[[], bytes | AnyArray | Image.Image]
    label: str | None = None
    origin: str = ""
    """path of the file on this machine; empty where there is none"""
    row: int = -1
    """number of the row in a table"""


@dataclass(frozen=True, eq=False, repr=False)
class Entries(Sequence[ListedImage]):
    """The images of a listing in some order. A ListedImage is made when somebody asks for it.

    A million rows are a million strings, not a million objects; a slice shares them.
    """

    all_names: Sequence[str]
    """in the order of the listing"""
    make: Callable[[int], ListedImage]
    """makes the image of an index into the listing"""
    order: Counts
    """(image,) int64: index into the listing"""
    plan: Callable[[Counts], None] | None = None
    """of tables, called with the order before the first read; files are read in any order"""

    @classmethod
    def listed(cls, names: Sequence[str], make: Callable[[int], ListedImage]) -> Entries:
        """Return all images of a listing, in its order."""
        return cls(names, make, np.arange(len(names), dtype=np.int64))

    @classmethod
    def of(cls, entries: Sequence[ListedImage]) -> Entries:
        """Return all of these entries, in their order."""
        return cls.listed([entry.name for entry in entries], entries.__getitem__)

    def take(self, indices: Counts) -> Entries:
        """Return the images at these indices, in that order."""
        return replace(self, order=self.order[indices])

    def names(self) -> Iterator[str]:
        """Return the names in order; no ListedImage is made."""
        return itertools.chain.from_iterable(self.names_in_chunks())

    def names_in_chunks(self) -> Iterator[list[str]]:
        """Yield the names in order, in chunks."""
        for start in range(0, len(self.order), CHUNK):
            yield [self.all_names[index] for index in self.order[start : start + CHUNK].tolist()]

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> ListedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Entries: ...
    def __getitem__(self, index: int | slice) -> ListedImage | Entries:
        if isinstance(index, slice):
            return replace(self, order=self.order[index])
        return self.make(int(self.order[index]))
