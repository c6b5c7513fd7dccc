"""Open any image set in its seeded order: by path or URL, or what Python hands over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from ...arrays import GenericArray, SupportsArray, as_array, is_array
from ...core.images.entries import Entries, Kind, ListedImage
from ...core.images.source import ImageSource, seeded
from ...core.options import STOCK, Options, RunOptions
from ...errors import CallError, EnvironmentFaultError, UsageError
from ...text import type_name
from ..storage.places import Place, parse_place, redact
from .files import CHECKED_ROWS, Files, file_entries, is_url
from .listing import image_files, list_images, parse_image_set

BUNDLED = Path(__file__).parents[2] / "photos"
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


def open_images(images: str | Place | None, *, seed: int = 0, limit: int | None = None) -> ImageSource:
    """List an image set without decoding it. The order depends on names and seed only.

    The order is that of sha256(seed, name) over the images sorted bytewise by name: the same on every file
    system and platform, and any first n of them are a fair sample. Names are relative to the folder (for a
    glob: to the part without wildcards; for a manifest: as written), `/` as separator.
    images: one of listing.KINDS, or its URL (docs/images.md); None, or the word `bundled`, is the bundled photos.
    limit: keep only the first so many.
    Hidden files, `@eaDir` and `__MACOSX` are ignored, suffixes compared without case, symlink loops entered
    once. Of a list or manifest the first files.CHECKED_ROWS rows must name files that are there; a later
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
    spec = "" if place is None else redact(str(images))
    return ImageSource(spec, kind, chosen, len(entries), seed)


def _drawn(entries: Entries, seed: int, limit: int | None) -> Entries:
    """Return the first `limit` entries of the seeded order."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit: number of images is {limit}; it must be at least 1", "leave it out for all images")
    return entries.take(seeded(entries.all_names, seed)[:limit])


def count_images(images: str | Place | None, *, seed: int = 0, limit: int | None = None) -> int:
    """Count the images of a set, up to `limit`. Raises as `open_images`."""
    return len(open_images(images, seed=seed, limit=limit))


def open_files(folder: Path, names: Sequence[str], *, spec: str, seed: int = 0) -> ImageSource:
    """Open image files by names relative to a folder, in the order that `open_images` gives these names.

    No file is looked for before it is read. spec: names the set for people.
    """
    entries = file_entries(folder, names)
    return ImageSource(spec, "list", entries.take(seeded(names, seed)), len(entries), seed)


def open_iterable(images: Iterable[ImageLike], *, seed: int = 0, limit: int | None = None) -> ImageSource:
    """List images that Python hands over, in an order that depends on their number and the seed only.

    Paths keep their names; pictures and arrays are "image 0", "image 1", … as they come. Nothing is decoded yet: the
    caller's images must stay as they are until the run ends. Of an iterator, which may use one buffer again and again,
    arrays and frames are copied; all images are held until then.

    Args:
        images: all of one kind. An array of four dimensions is an iterable of images, too.
        seed, limit: as in `source.open_images`.

    Raises:
        CallError: no iterable, or an item of another type; it names the type.
        UsageError: none at all, several kinds, a path without its file, an array of another dtype or shape.
    """
    if isinstance(images, (bytes, bytearray, memoryview)) or not isinstance(images, Iterable):
        raise CallError(f"images: type is {type_name(images)}; it must be {_ACCEPTED}")
    kind, items = _listed(images)
    entries = _path_entries(items) if kind == "paths" else _entries(kind, items)
    chosen = _drawn(entries, seed, limit)
    singular, plural = _WORDS[kind]
    n_items = len(items)
    spec = f"{n_items} {plural if n_items > 1 else singular}"
    return ImageSource(spec, kind, chosen, n_items, seed, given=True)


def _listed(images: Iterable[object]) -> tuple[Kind, Sequence[RawImage]]:
    """Return the kind and the images, of which each is looked at once and arrays are NumPy's."""
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
    """Copy an item that an iterator may change afterwards: an array, a picture in memory, or a frame of several.

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
        raise CallError(f"{name}: type is {type_name(image)}; each must be a path, a PIL image or an array")
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
    return Entries.listed(names, lambda index: ListedImage(names[index], partial(read, items[index])))


def _path_entries(items: Sequence[RawImage]) -> Entries:
    paths = [str(item) for item in items]
    full_urls = {}
    for index, path in enumerate(paths):
        if is_url(path):
            parse_place(path)  # refused while offline
            paths[index] = redact(path)
            if paths[index] != path:
                full_urls[index] = path
        elif index < CHECKED_ROWS and not Path(path).is_file():
            raise UsageError(f"image {index} is {path}; there is no such file")
    return Entries.listed(paths, Files(Path(), paths, full_urls=full_urls).entry)


def of_job(options: Options) -> ImageSource:
    """Open the image set that the options of a job name. Raises as `open_images`."""
    return open_images(options.images, seed=options.seed, limit=options.max_images)


def opener(source: ImageSource | None) -> Callable[[Options], ImageSource]:
    """Return what opens the images of a job: `source` where they are open already, else the set that it names."""
    return of_job if source is None else lambda _: source


def settle(images: Images | None, options: RunOptions, **defaults: int) -> tuple[Options, ImageSource | None]:
    """Return the options and the image objects, which are None where the call names a set.

    Raises UsageError: as `Options.of` and `images.open_iterable`.
    """
    if images is None or isinstance(images, (str, os.PathLike)):
        path = images if images is None else os.fspath(images)
        if path == STOCK and not isinstance(images, str):
            path = os.path.join(os.curdir, path)  # noqa: PTH118 # a Path is a folder, whatever its name
        return Options.of({**options, "images": path}, **defaults), None
    run = Options.of({**options, "images": None}, **defaults)
    source = open_iterable(images, seed=run.seed, limit=run.max_images)
    # a name that opens nothing: no code can take the bundled photos, or a folder, for them
    return run.model_copy(update={"images": f"<{source.spec}>"}), source
