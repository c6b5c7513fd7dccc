"""Digests of many images in little memory, and the one digest of them all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

import numpy as np

_BYTES: Final = 32  # of a sha256
_PREFIX: Final = "sha256:"
_DIGEST: Final = re.compile(_PREFIX + "[0-9a-f]{64}")


class Digests(Sequence[str]):
    """Digests ("sha256:…") in the order they were added: 32 bytes each, where a string takes four times that.

    Raises ValueError for anything that is no sha256 with its prefix.
    """

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self._content = bytearray()
        for digest in digests:
            self.append(digest)

    def append(self, digest: str) -> None:
        """Add one behind the others."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"digest is {digest!r}; it must be sha256: and 64 hexadecimal digits")
        self._content += bytes.fromhex(digest.removeprefix(_PREFIX))

    def sorted(self) -> Iterator[str]:
        """All of them, smallest first."""
        words = np.frombuffer(self._content, ">u8").reshape(-1, _BYTES // 8)
        for place in np.lexsort(words.T[::-1]):  # its last key is the first to sort by
            yield self[int(place)]

    def __add__(self, other: Digests) -> Digests:
        joined = Digests()
        joined._content = self._content + other._content
        return joined

    def __eq__(self, other: object) -> bool:
        return self._content == other._content if isinstance(other, Digests) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # it can change

    def __len__(self) -> int:
        return len(self._content) // _BYTES

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Digests: ...
    def __getitem__(self, index: int | slice) -> str | Digests:
        if isinstance(index, slice):
            return Digests(self[place] for place in range(*index.indices(len(self))))
        start = range(len(self))[index] * _BYTES  # IndexError as of any sequence
        return _PREFIX + self._content[start : start + _BYTES].hex()


def digest_of_set(digests: Iterable[str]) -> str:
    """Digest of an image set from the digests of its images: the same for every order and every naming.

    sha256 over the sorted digests, one a line; an image used twice counts twice.
    """
    whole = hashlib.sha256()
    for digest in digests.sorted() if isinstance(digests, Digests) else sorted(digests):
        whole.update(f"{digest}\n".encode())
    return _PREFIX + whole.hexdigest()
