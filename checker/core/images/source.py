"""Load and digest the photos of a set, in its seeded order and ahead of who asks for them."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ...arrays import Counts, Float32s
from ...errors import CannotAssessError, UsageError
from ...text import Texts, frozen, sha256_of
from .entries import Entries, Kind
from .preprocess import FULL_SIZE, UnreadableImageError, decode, from_picture

_BYTES = 32  # of a sha256
_PREFIX = "sha256:"
_DIGEST = re.compile(_PREFIX + "[0-9a-f]{64}")


Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded photo. image is loaded and of mode RGB; digest is sha256 of the file's bytes."""

    name: str
    image: Image.Image
    digest: str
    notes: Texts = ()
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Tensor:
    """A preprocessed image. values are (channel, height, width) float32; digest is sha256 of shape and values."""

    name: str
    values: Float32s
    digest: str
    label: str | None = None


@frozen
class Skipped:
    """An image that cannot be used, and why."""

    name: str
    reason: str


Item = DecodedImage | Tensor | Skipped


@frozen
class ImageSource:
    """An image set in its seeded order. Nothing is decoded before load."""

    spec: str
    """the path, or the URL without its secrets; empty for the bundled photos"""
    kind: Kind
    entries: Entries
    n_available: int
    """images found, before `limit`"""
    seed: int
    given: bool = False
    """whether Python handed the images over as objects (`open_iterable`)"""
    keep: int = 0
    """px that the shorter edge of a decoded JPEG keeps, at least (`preprocess.least_edge`); 0: decoded whole"""

    def __len__(self) -> int:
        """Return the number of images after `limit`."""
        return len(self.entries)

    @property
    def is_limited(self) -> bool:
        """Return whether more images were found than are read."""
        return self.n_available > len(self)

    def load(self, index: int) -> Item:
        """Read and decode one image. index counts in the seeded order; safe to call from several threads.

        An image that cannot be used is a Skipped with its reason. Raises UsageError for a row of a long list or
        manifest that names no file (see files.CHECKED_ROWS), nothing else.
        """
        entry = self.entries[index]
        try:
            content = entry.read()
            if isinstance(content, bytes):
                image, notes = decode(content, entry.name, self.keep or FULL_SIZE)
                return DecodedImage(entry.name, image, _digest(content), notes, entry.label)
            if isinstance(content, Image.Image):
                image, notes = from_picture(content)
                return DecodedImage(entry.name, image, _digest(image), notes, entry.label)
            values = np.ascontiguousarray(content, dtype=np.float32)
        except UnreadableImageError as fault:
            return Skipped(entry.name, str(fault))
        except OSError as fault:
            return Skipped(entry.name, f"cannot be read: {fault.strerror or fault}")
        if not np.isfinite(values).all():
            return Skipped(entry.name, "values that are not finite")
        return Tensor(entry.name, values, _digest(values), entry.label)

    def digest(self, index: int) -> str | None:
        """Return the digest that load gives, without decoding an image: None where it cannot be read.

        Raises UsageError as load.
        """
        try:
            content = self.entries[index].read()
        except (UnreadableImageError, OSError):
            return None
        if isinstance(content, bytes):
            return _digest(content)
        if isinstance(content, Image.Image):
            item = self.load(index)
            return None if isinstance(item, Skipped) else item.digest
        return _digest(np.ascontiguousarray(content, dtype=np.float32))

    @property
    def named(self) -> str:
        """Return where the images come from, for people."""
        return self.spec or "bundled photos"

    @cached_property
    def names_digest(self) -> str:
        """Return sha256, hexadecimal, of the ordered names. A zero byte ends each name."""
        digest = hashlib.sha256()
        for names in self.entries.names_in_chunks():
            digest.update("\0".join([*names, ""]).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def items(self) -> Iterator[Item]:
        """Yield all images in order, one at a time."""
        return map(self.load, range(len(self.entries)))


def seeded(names: Sequence[str], seed: int) -> Counts:
    """Return indices of names in seeded order, (image,) int64.

    The keys are sha256(seed, NFC name), then NFC name, then name, then index. The first 8 bytes of each digest are
    sorted as numbers; where they are equal, the whole keys decide.
    """
    start = f"{seed}\0".encode()

    def key(index: int) -> tuple[bytes, bytes, bytes]:
        name = _nfc(names[index])
        return hashlib.sha256(start + name).digest(), name, names[index].encode("utf-8", "surrogateescape")

    heads = bytearray()
    for name in names:
        heads += hashlib.sha256(start + _nfc(name)).digest()[:8]
    numbers = np.frombuffer(heads, ">u8").astype(np.uint64)
    order = np.argsort(numbers, kind="stable").astype(np.int64, copy=False)
    is_same = numbers[order[1:]] == numbers[order[:-1]]
    runs = np.concatenate([[False], is_same, [False]])
    edges = np.flatnonzero(np.diff(runs.astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        equal = order[first : last + 1]
        equal[:] = sorted(equal.tolist(), key=key)
    return order


def _nfc(name: str) -> bytes:
    """Return a name in NFC, as bytes. macOS gives decomposed names, Linux gives what was written."""
    return unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")


def _digest(content: bytes | Float32s | Image.Image) -> str:
    """Digest a file's bytes, a tensor's shape and values, or a picture's size and pixels."""
    if isinstance(content, bytes):
        return sha256_of(content)
    shape = content.size if isinstance(content, Image.Image) else content.shape
    return sha256_of(repr(shape).encode() + content.tobytes())


def prefetch(
    source: ImageSource,
    function: Callable[[Item], Result],
    *,
    workers: int = 2,
    window: int = 16,
    stops: Container[int] = (),
) -> Generator[Result, None, None]:
    """Apply a function to all images, in threads, and yield the results in order.

    At most `window` results wait in memory. Behind any number of images in `stops` the next one is begun only once it
    is asked for: a caller that may stop there loses no work. An exception of the function surfaces at its image's turn.
    Closing the generator early (or leaving it to the garbage collector) drops what has not started and waits
    for the at most `workers` images in progress.
    """
    ahead = max(1, window)
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for index in range(len(source)):
                while waiting and index in stops:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(lambda index: function(source.load(index)), index))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def check_bad(
    n_read: int,
    n_bad: int,
    limit: float,
    examples: Sequence[Skipped] = (),
    where: str = "images",
    *,
    sampled: bool = False,
) -> None:
    """Refuse an image set with too many unusable images.

    n_read: images tried, good and bad. limit: largest share of bad ones, 0 to 1. examples, where: for the message.
    sampled: whether only a part of the set was read; the share allowed then rounds up to a whole image, or one bad
    image among the first 64 would condemn a set that has far less than `limit` of them.
    Raises CannotAssessError when nothing is usable or n_bad > limit · n_read; UsageError where limit is not a share.
    """
    if not 0 <= limit <= 1:  # NaN too: every comparison with it would let all pass
        raise UsageError(f"share of images that may be unusable is {limit:g}; it must be 0 to 1", "--max-bad 0.01")
    named = "; ".join(f"{bad.name}: {bad.reason}" for bad in examples[:3])
    names = f" ({named})" if named else ""
    if n_bad == n_read:
        raise CannotAssessError(
            f"{where}: no usable images among {n_read}{names}; at least one is needed",
            "name a set of photos: --images FOLDER",
        )
    if n_bad > (math.ceil(limit * n_read) if sampled else limit * n_read):
        raise CannotAssessError(
            f"{where}: number of unusable images is {n_bad} of {n_read}{names}; at most {limit:.2%} may be",
            "repair or remove them, or allow more: --max-bad SHARE",
        )


class Digests(Sequence[str]):
    """The digests ("sha256:…") in the order of addition, 32 bytes each; strings would take four times that.

    Raises ValueError for anything that is not a sha256 with its prefix.
    """

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self._content = bytearray()
        for digest in digests:
            self.append(digest)

    def append(self, digest: str) -> None:
        """Add one at the end."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"digest is {digest!r}; it must be sha256: and 64 hexadecimal digits")
        self._content += bytes.fromhex(digest.removeprefix(_PREFIX))

    def sorted(self) -> Iterator[str]:
        """Yield all of them, smallest first."""
        for digest in np.sort(np.frombuffer(self._content, f"S{_BYTES}")):
            yield _PREFIX + bytes(digest).ljust(_BYTES, b"\0").hex()

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index] * _BYTES  # IndexError as of any sequence; no slices
        return _PREFIX + self._content[place : place + _BYTES].hex()

    def __len__(self) -> int:
        return len(self._content) // _BYTES

    def __add__(self, other: Digests) -> Digests:
        joined = Digests()
        joined._content = self._content + other._content
        return joined


def digest_of_set(digests: Iterable[str]) -> str:
    """Digest an image set from its images' digests, the same for every order and every naming.

    sha256 over the sorted digests, one per line; an image used twice counts twice.
    """
    combined = hashlib.sha256()
    for digest in digests.sorted() if isinstance(digests, Digests) else sorted(digests):
        combined.update(f"{digest}\n".encode())
    return _PREFIX + combined.hexdigest()
