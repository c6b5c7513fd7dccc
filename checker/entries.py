"""An image set as a listing: images that are named and not read yet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from robustcheck_onnx.checker.remote_file import RemoteFile

File = Path | RemoteFile
"""where an image, or a file of many, lies: on this machine, or in a store"""
_CHUNK: Final = 4096  # names looked up together: a list of all places would be 40 bytes an image


@dataclass(frozen=True, eq=False)
class Entry:
    """One image, not read yet: read gives the file's bytes, or a (channel, height, width) array."""

    name: str
    read: Callable[[], bytes | NDArray[Any]]
    label: str | None = None
    origin: str = ""
    row: int = -1


def _no_entry(index: int) -> Entry:
    raise IndexError(index)


@dataclass(frozen=True, eq=False, repr=False)
class Entries(Sequence[Entry]):
    """Images in an order of their own, each an Entry when it is asked for.

    A million rows are a million strings, not a million objects; a slice shares them.
    """

    all_names: Sequence[str] = ()
    """in the order of the listing"""
    make: Callable[[int], Entry] = _no_entry
    """of a place in the listing"""
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(image,) int64: place in the listing"""

    @classmethod
    def listed(cls, names: Sequence[str], make: Callable[[int], Entry]) -> Entries:
        """All of a listing, in its order."""
        return cls(names, make, np.arange(len(names), dtype=np.int64))

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Entries:
        """Entries that are there already."""
        return cls.listed([entry.name for entry in entries], entries.__getitem__)

    def take(self, places: NDArray[np.int64]) -> Entries:
        """Those at the given places of this sequence, in that order."""
        return replace(self, order=self.order[places])

    def names(self) -> Iterator[str]:
        """The names in order; no Entry is made."""
        return itertools.chain.from_iterable(self.names_in_chunks())

    def names_in_chunks(self) -> Iterator[list[str]]:
        """The names in order, some thousands at a time."""
        for start in range(0, len(self.order), _CHUNK):
            yield [self.all_names[place] for place in self.order[start : start + _CHUNK].tolist()]

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


def is_hidden(part: str) -> bool:
    """Whether one part of a path is a hidden file or folder (`.` and `..` are not)."""
    return part.startswith(".") and part not in (".", "..")
