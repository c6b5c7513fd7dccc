"""Images that Python hands over: a list of paths, pictures (PIL images, uint8 arrays), or preprocessed float arrays.

They become an image set like any other: named, put into seeded order, decoded one at a time, described and digested.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFile

from robustcheck_onnx.checker.arrays import GenericArray, SupportsArray, as_array, is_array
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.storage.places import parse_place, redact
from robustcheck_onnx.checker.text import type_name

from .entries import CHECKED_ROWS, Entries, Entry, Files, is_url
from .listing import Kind
from .source import ImageSource, seeded

Given = str | os.PathLike[str] | Image.Image | SupportsArray
"""one image: a path or URL, a PIL image, a uint8 array (height, width, 3), a float array (channel, height, width)"""
Images = str | os.PathLike[str] | Iterable[Given]
"""what `images=` takes: the path or URL of a set, or the images themselves"""

Taken = str | Image.Image | GenericArray

_TAKEN: Final = "a path, or an iterable of paths, PIL images or arrays"
_WORDS: Final[dict[Kind, tuple[str, str]]] = {
    "paths": ("path", "paths"),
    "pictures": ("image in memory", "images in memory"),
    "tensors": ("preprocessed image in memory", "preprocessed images in memory"),
}
_KINDS: Final[dict[Kind, str]] = {"paths": "a path", "pictures": "a picture", "tensors": "a preprocessed array"}


def open_given(images: Iterable[Given], *, seed: int = 0, limit: int | None = None) -> ImageSource:
    """List images that Python hands over, in an order that depends on their number and the seed only.

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
    if limit is not None and limit < 1:
        raise UsageError(f"limit: number of images is {limit}; it must be at least 1", "leave it out for all images")
    if isinstance(images, (bytes, bytearray, memoryview)) or not isinstance(images, Iterable):
        raise TypeError(f"images: type is {type_name(images)}; it must be {_TAKEN}")
    kind, items = _listed(images)
    entries = _path_entries(items) if kind == "paths" else _entries(kind, items)
    chosen = entries.take(seeded(entries.all_names, seed)[:limit])
    word = _WORDS[kind][len(items) > 1]
    return ImageSource(f"{len(items)} {word}", kind, chosen, len(items), seed, given=True)


def _listed(images: Iterable[object]) -> tuple[Kind, Sequence[Taken]]:
    """Look at each image once: its kind, and itself, arrays as NumPy's."""
    reused = isinstance(images, Iterator)
    kind: Kind | None = None
    items: list[Taken] = []
    for index, given in enumerate(images):
        name = f"image {index}"
        its_kind, item = _look_at(given, name)
        if kind not in (None, its_kind):
            raise UsageError(f"{name} is {_KINDS[its_kind]}, image 0 is {_KINDS[kind]}; all must be of one kind")
        kind = its_kind
        if its_kind == "tensors" and items and _shape(item) != _shape(items[0]):
            raise UsageError(f"{name}: shape is {_shape(item)}, image 0's is {_shape(items[0])}; all must be the same")
        items.append(_own(item) if reused else item)
    if kind is None:
        raise UsageError("images: number of images is 0; at least one is needed", "give some, or a folder of them")
    return kind, items


def _own(item: Taken) -> Taken:
    """A copy of what an iterator may change afterwards: an array, a picture in memory, a frame of several.

    A photo that Pillow has opened and not read yet stays so: a copy would hold all of them decoded.
    """
    if isinstance(item, str) or (isinstance(item, ImageFile.ImageFile) and getattr(item, "n_frames", 1) == 1):
        return item
    try:
        return item.copy()
    except (OSError, SyntaxError, ValueError):  # damaged: it is skipped, with its reason, when it is read
        return item


def _shape(item: Taken) -> tuple[int, ...]:
    assert isinstance(item, np.ndarray)
    return item.shape


def _look_at(given: object, name: str) -> tuple[Kind, Taken]:
    if isinstance(given, (str, os.PathLike)):
        return "paths", os.fspath(given)
    if isinstance(given, Image.Image):
        return "pictures", given
    if not is_array(given):
        raise TypeError(f"{name}: type is {type_name(given)}; each must be a path, a PIL image or an array")
    array = as_array(given, name)
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


def _entries(kind: Kind, items: Sequence[Taken]) -> Entries:
    names = [f"image {index}" for index in range(len(items))]
    read = _picture if kind == "pictures" else _tensor
    return Entries.listed(names, lambda index: Entry(names[index], partial(read, items[index])))


def _picture(item: Taken) -> Image.Image:
    return item if isinstance(item, Image.Image) else Image.fromarray(np.ascontiguousarray(item))


def _tensor(item: Taken) -> GenericArray:
    assert isinstance(item, np.ndarray)
    return item


def _path_entries(items: Sequence[Taken]) -> Entries:
    paths = [str(item) for item in items]
    whole_urls = {}
    for index, path in enumerate(paths):
        if is_url(path):
            parse_place(path)  # refused while offline
            if (shown := redact(path)) != path:
                whole_urls[index], paths[index] = path, shown
        elif index < CHECKED_ROWS and not Path(path).is_file():
            raise UsageError(f"image {index} is {path}; there is no such file")
    return Entries.listed(paths, Files(Path(), paths, whole_urls=whole_urls).entry)
