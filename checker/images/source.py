"""Open, decode and digest any image set in seeded order.

So are images that Python hands over: paths, pictures (PIL images, uint8 arrays), or preprocessed float arrays. A report
gets small copies of some photos.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFile

from ..arrays import Counts, Float32s, GenericArray, SupportsArray, as_array, is_array
from ..errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from ..evidence import SeenImage
from ..storage.places import Place, parse_place, redact
from ..text import Texts, frozen, sha256_of, type_name
from .containers import CHECKED_ROWS, Entries, Entry, Files, file_entries, is_url
from .listing import Kind, image_files, list_images, parse_image_set
from .preprocess import FULL_SIZE, UnreadableImageError, decode, from_picture

BUNDLED = Path(__file__).parent.parent / "photos"
THUMBNAIL_PX = 96  # longer edge at most
THUMBNAIL_QUALITY = 80  # of JPEG: about 3 kB each
_BYTES = 32  # of a sha256
_PREFIX = "sha256:"
_DIGEST = re.compile(_PREFIX + "[0-9a-f]{64}")

ImageLike = str | os.PathLike[str] | Image.Image | SupportsArray
"""one image: a path or URL, a PIL image, a uint8 array (height, width, 3), a float array (channel, height, width)"""
Images = str | os.PathLike[str] | Iterable[ImageLike]
"""what `images=` takes: the path or URL of a set, or the images themselves"""

RawImage = str | Image.Image | GenericArray

_ACCEPTED = "a path, or an iterable of paths, PIL images or arrays"
_WORDS: dict[Kind, tuple[str, str]] = {
    "paths": ("path", "paths"),
    "pictures": ("image in memory", "images in memory"),
    "tensors": ("preprocessed image in memory", "preprocessed images in memory"),
}
_KINDS: dict[Kind, str] = {"paths": "a path", "pictures": "a picture", "tensors": "a preprocessed array"}

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Picture:
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


Item = Picture | Tensor | Skipped


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

    def load(self, index: int) -> Item:
        """Read and decode one image. index counts in the seeded order; safe to call from several threads.

        An image that cannot be used is a Skipped with its reason. Raises UsageError for a row of a long list or
        manifest that names no file (see containers.CHECKED_ROWS), nothing else.
        """
        entry = self.entries[index]
        try:
            content = entry.read()
            if isinstance(content, bytes):
                image, notes = decode(content, entry.name, self.keep or FULL_SIZE)
                return Picture(entry.name, image, _digest(content), notes, entry.label)
            if isinstance(content, Image.Image):
                image, notes = from_picture(content)
                return Picture(entry.name, image, _digest(image), notes, entry.label)
            values = np.ascontiguousarray(content, dtype=np.float32)
        except UnreadableImageError as fault:
            return Skipped(entry.name, str(fault))
        except OSError as fault:
            return Skipped(entry.name, f"cannot be read: {fault.strerror or fault}")
        if not np.isfinite(values).all():
            return Skipped(entry.name, "values that are not finite")
        return Tensor(entry.name, values, _digest(values), entry.label)

    def digest(self, index: int) -> str | None:
        """Return an image's digest, without decoding it. It is the one that load gives; None where it cannot be read.

        Raises UsageError as load.
        """
        try:
            content = self.entries[index].read()
        except (UnreadableImageError, OSError):
            return None
        if isinstance(content, Image.Image):
            item = self.load(index)
            return None if isinstance(item, Skipped) else item.digest
        return _digest(content if isinstance(content, bytes) else np.ascontiguousarray(content, dtype=np.float32))

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


def open_images(images: str | Place | None, *, seed: int = 0, limit: int | None = None) -> ImageSource:
    """List an image set without decoding it. The order depends on names and seed only.

    The order is that of sha256(seed, name) over the images sorted bytewise by name: the same on every file
    system and platform, and any first n of them are a fair sample. Names are relative to the folder (for a
    glob: to the part without wildcards; for a manifest: as written), `/` as separator.
    images: one of listing.KINDS, or its URL (docs/images.md); None, or the word `bundled`, is the bundled photos.
    limit: keep only the first so many.
    Hidden files, `@eaDir` and `__MACOSX` are ignored, suffixes compared without case, symlink loops entered
    once. Of a list or manifest the first containers.CHECKED_ROWS rows must name files that are there; a later
    row says so when it is read. Raises UsageError (not found, unreadable folder, bad manifest row, no image in a tar,
    limit < 1), EnvironmentFaultError (Parquet or Arrow without pyarrow; the bundled photos are
    missing), CannotAssessError (no image; damaged tar, Parquet or npy). With a URL also UsageError (offline),
    EnvironmentFaultError (fsspec is missing, the store can't be reached).
    """
    place = parse_image_set(images)
    if place is None:
        kind: Kind = "bundled"
        names = image_files(BUNDLED) if BUNDLED.is_dir() else []
        entries = file_entries(BUNDLED, names)
        if not names:
            raise EnvironmentFaultError(
                f"{BUNDLED}: no bundled photos found; the installation is incomplete",
                "install robustcheck again, or name your own images",
            )
    else:
        kind, entries = list_images(place)
    chosen = _drawn(entries, seed, limit)
    if chosen.plan is not None:
        chosen.plan(chosen.order)
    return ImageSource("" if place is None else redact(str(images)), kind, chosen, len(entries), seed)


def _drawn(entries: Entries, seed: int, limit: int | None) -> Entries:
    """Return the first `limit` entries of the seeded order."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit: number of images is {limit}; it must be at least 1", "leave it out for all images")
    return entries.take(seeded(entries.all_names, seed)[:limit])


def count_images(images: str | Place | None, *, seed: int = 0, limit: int | None = None) -> int:
    """Count the images of a set, up to `limit`. Raises as `open_images`."""
    return len(open_images(images, seed=seed, limit=limit))


def open_files(folder: Path, names: Sequence[str], *, spec: str, seed: int = 0) -> ImageSource:
    """Open image files by names relative to a folder. They get the order that `open_images` gives these names.

    None is looked at before it is read. spec: names the set for people.
    """
    entries = file_entries(folder, names)
    return ImageSource(spec, "list", entries.take(seeded(names, seed)), len(entries), seed)


def open_iterable(images: Iterable[ImageLike], *, seed: int = 0, limit: int | None = None) -> ImageSource:
    """List images that Python hands over. Their order depends on their number and the seed only.

    Paths keep their names; pictures and arrays are "image 0", "image 1", … as they come. Nothing is decoded yet: the
    caller's images must stay as they are until the run ends. Of an iterator, which may use one buffer again and again,
    arrays and frames are copied; all images are held until then.

    Args:
        images: all of one kind. An array of four dimensions is an iterable of images, too.
        seed, limit: as in `source.open_images`.

    Raises:
        TypeError: no iterable, or an item of another type; it names the type.
        UsageError: none at all, several kinds, a path without its file, an array of another dtype or shape.
    """
    if isinstance(images, (bytes, bytearray, memoryview)) or not isinstance(images, Iterable):
        raise TypeError(f"images: type is {type_name(images)}; it must be {_ACCEPTED}")
    kind, items = _listed(images)
    entries = _path_entries(items) if kind == "paths" else _entries(kind, items)
    chosen = _drawn(entries, seed, limit)
    return ImageSource(f"{len(items)} {_WORDS[kind][len(items) > 1]}", kind, chosen, len(items), seed, given=True)


def _listed(images: Iterable[object]) -> tuple[Kind, Sequence[RawImage]]:
    """Return the kind and the images. Each is looked at once; arrays are NumPy's."""
    reused = isinstance(images, Iterator)
    kind: Kind | None = None
    items: list[RawImage] = []
    for index, image in enumerate(images):
        name = f"image {index}"
        its_kind, item = _look_at(image, name)
        if kind not in (None, its_kind):
            raise UsageError(f"{name} is {_KINDS[its_kind]}, image 0 is {_KINDS[kind]}; all must be of one kind")
        kind = its_kind
        if its_kind == "tensors" and items and _shape(item) != _shape(items[0]):
            raise UsageError(f"{name}: shape is {_shape(item)}, image 0's is {_shape(items[0])}; all must be the same")
        items.append(_own(item) if reused else item)
    if kind is None:
        raise UsageError("images: no images given; at least one is needed", "give some, or a folder of them")
    return kind, items


def _own(item: RawImage) -> RawImage:
    """Copy an item that an iterator may change afterwards. It is an array, a picture in memory, or a frame of several.

    A photo that Pillow has opened and not read yet stays so: a copy would hold all of them decoded.
    """
    if isinstance(item, str) or (isinstance(item, ImageFile.ImageFile) and getattr(item, "n_frames", 1) == 1):
        return item
    try:
        return item.copy()
    except (OSError, SyntaxError, ValueError):  # damaged: it is skipped, with its reason, when it is read
        return item


def _shape(item: RawImage) -> tuple[int, ...]:
    assert isinstance(item, np.ndarray)
    return item.shape


def _look_at(image: object, name: str) -> tuple[Kind, RawImage]:
    if isinstance(image, (str, os.PathLike)):
        return "paths", os.fspath(image)
    if isinstance(image, Image.Image):
        return "pictures", image
    if not is_array(image):
        raise TypeError(f"{name}: type is {type_name(image)}; each must be a path, a PIL image or an array")
    array = as_array(image, name)
    if array.dtype == np.uint8:
        if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise UsageError(f"{name}: shape is {array.shape}; a uint8 array must be (height, width, 3)")
        return "pictures", array
    if array.dtype.kind != "f":
        raise UsageError(f"{name}: dtype is {array.dtype}; it must be uint8 (a photo) or float (preprocessed)")
    if array.ndim != 3 or array.shape[0] not in (1, 3) or 0 in array.shape:
        raise UsageError(
            f"{name}: shape is {array.shape}; a float array is preprocessed, and must be (1 or 3 channels, height, "
            "width)",
            "give photos as uint8 arrays (height, width, 3)",
        )
    return "tensors", array


def _entries(kind: Kind, items: Sequence[RawImage]) -> Entries:
    def read(item: RawImage) -> Image.Image | GenericArray:
        assert not isinstance(item, str)
        is_plain = kind == "tensors" or isinstance(item, Image.Image)
        return item if is_plain else Image.fromarray(np.ascontiguousarray(item))

    names = [f"image {index}" for index in range(len(items))]
    return Entries.listed(names, lambda index: Entry(names[index], partial(read, items[index])))


def _path_entries(items: Sequence[RawImage]) -> Entries:
    paths = [str(item) for item in items]
    full_urls = {}
    for index, path in enumerate(paths):
        if is_url(path):
            parse_place(path)  # refused while offline
            if (shown := redact(path)) != path:
                full_urls[index], paths[index] = path, shown
        elif index < CHECKED_ROWS and not Path(path).is_file():
            raise UsageError(f"image {index} is {path}; there is no such file")
    return Entries.listed(paths, Files(Path(), paths, full_urls=full_urls).entry)


def seeded(names: Sequence[str], seed: int) -> Counts:
    """Return indices of names in seeded order, (image,) int64.

    The keys are sha256(seed, NFC name), then NFC name, then name, then index.

    The first 8 bytes of each digest are sorted as numbers; where they are equal, the whole keys decide.
    """
    start = f"{seed}\0".encode()
    heads = bytearray()
    for name in names:
        heads += hashlib.sha256(start + _nfc(name)).digest()[:8]
    numbers = np.frombuffer(heads, ">u8").astype(np.uint64)
    order = np.argsort(numbers, kind="stable").astype(np.int64, copy=False)
    same = numbers[order[1:]] == numbers[order[:-1]]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        order[first : last + 1] = sorted(
            order[first : last + 1].tolist(),
            key=lambda index: (
                hashlib.sha256(start + _nfc(names[index])).digest(),
                _nfc(names[index]),
                names[index].encode("utf-8", "surrogateescape"),
            ),
        )
    return order


def _nfc(name: str) -> bytes:
    """Return a name in NFC, as bytes. macOS gives decomposed names, Linux gives what was written."""
    return unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")


def _digest(content: bytes | Float32s | Image.Image) -> str:
    """Digest an image's content. It is a file's bytes, a tensor's shape and values, or a picture's size and pixels."""
    if isinstance(content, Image.Image):
        content = repr(content.size).encode() + content.tobytes()
    if not isinstance(content, bytes):
        content = repr(content.shape).encode() + content.tobytes()
    return sha256_of(content)


def prefetch(
    source: ImageSource,
    function: Callable[[Item], Result],
    *,
    workers: int = 2,
    window: int = 16,
    stops: Container[int] = (),
) -> Generator[Result, None, None]:
    """Apply a function to all images, in threads. Results come in order.

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
    """The digests ("sha256:…") in the order of addition. They take 32 bytes each; strings would take four times that.

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
    """Digest an image set from its images' digests. The result is the same for every order and every naming.

    sha256 over the sorted digests, one per line; an image used twice counts twice.
    """
    combined = hashlib.sha256()
    for digest in digests.sorted() if isinstance(digests, Digests) else sorted(digests):
        combined.update(f"{digest}\n".encode())
    return _PREFIX + combined.hexdigest()


@frozen
class Thumbnails:
    """The thumbnails, and the reasons for missing ones."""

    uris: dict[str, str] = field(default_factory=dict)
    """data: URI of a JPEG by the digest of its image"""
    missing: dict[str, str] = field(default_factory=dict)
    """why there is none, by the digest of the image"""


def make_thumbnails(
    wanted: Sequence[SeenImage], images: str | Path | None, *, seed: int = 0, limit: int | None = None
) -> Thumbnails:
    """Make small copies of photos for a report. They are turned upright and have no metadata.

    They are made after the verdict and do not change it. The image set is opened as the check opened it. An image
    whose bytes have another digest now is left out.

    Args:
        wanted: the images, each once.
        images, seed, limit: as the check had them (`open_images`).

    Returns:
        One entry for each image wanted, in `uris` or in `missing`; never raises for an image or a set that is faulty.
    """
    places: dict[str, list[int]] = {image.name: [] for image in wanted}  # several where a manifest has a row twice
    try:
        source = open_images(images, seed=seed, limit=limit)
        for place, name in enumerate(source.entries.names()):
            if name in places:
                places[name].append(place)
    except (RobustcheckError, OSError) as fault:
        why = f"the images could not be opened again ({getattr(fault, 'message', fault)})"
        return Thumbnails(missing={image.digest: why for image in wanted})
    thumbnails = Thumbnails()
    for image in wanted:
        uri, why = _thumbnail(source, places[image.name], image.digest)
        if uri:
            thumbnails.uris[image.digest] = uri
        else:
            thumbnails.missing[image.digest] = why
    return thumbnails


def _thumbnail(source: ImageSource, places: Sequence[int], digest: str) -> tuple[str, str]:
    """Return the thumbnail of the image with a digest. It is a data: URI, or an empty one and the reason."""
    why = "not found again"
    for place in places:
        try:
            item = source.load(place)
        except RobustcheckError as fault:
            why = fault.message
            continue
        if isinstance(item, Skipped):
            why = item.reason
        elif item.digest != digest:
            why = "the file is not the one that was measured"
        elif isinstance(item, Tensor):
            why = "given as a preprocessed tensor"
        else:
            return _data_uri(item), ""
    return "", why


def _data_uri(picture: Picture) -> str:
    small = picture.image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    # pixels only: Pillow hands on comments and colour profiles of the file it read
    bare = Image.frombytes("RGB", small.size, small.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
