"""Try other preprocessing on photos whose vectors in an index are not the model's.

The model itself computes the vectors of the changed pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, get_args

from ...arrays import Array, float64
from ...core.images.source import DecodedImage
from ...core.measure.opening import OpenedJob
from ...core.measure.prepare import Prepared, prepare, stack
from ...core.preprocessing import Preprocessing
from ...text import number_text
from . import holds
from .similarity import cosine
from .vectors import VectorsByPhoto

PHOTOS = 16  # that each preprocessing is tried on
FEWEST = 8  # photos from which a preprocessing is named
GAIN = 0.8  # of the mean of 1 − cosine, below which a change is kept
SHORT_EDGE = 0.875  # of the crop relative to the resized edge: 224 of 256


def explained(opened: OpenedJob, names: Sequence[str], ours: Array, stored: VectorsByPhoto) -> str:
    """Name another preprocessing of the photos that gives the stored vectors; empty if none of those tried does.

    Colour order, resize and crop, colour order again, and the filter are changed one after the other. What brings the
    vectors nearer to the stored ones stays for the next.

    Args:
        opened: the model; photos that were given as tensors are not tried.
        names: of the photos.
        ours: (photo, feature) the model's vectors.
        stored: the vectors that are not the model's, by photo.
    """
    pictures = _pictures(opened, names, stored)
    if len(pictures) < FEWEST:
        return ""
    photos = list(pictures)
    theirs = float64([stored[photo] for photo in photos])
    own = opened.preprocessing.preprocessing
    best = own
    cosines = cosine(ours[photos], theirs)
    before = number_text(float(cosines.min()))
    for others in STEPS:
        for other in others(best):
            rows = _vectors(opened, list(pictures.values()), other)
            if rows is None:
                continue
            tried = cosine(rows, theirs)
            if 1 - tried.mean() < GAIN * (1 - cosines.mean()):
                best = other
                cosines = tried
    is_same = holds.is_same(cosines, holds.spacing(ours)[photos])
    if best == own or is_same.mean() < holds.SAME_SHARE:
        return ""
    after = number_text(float(cosines.min()), 5)
    changed = " and ".join(_changes(own, best))
    return f"with {changed}, the lowest cosine of {len(photos)} of them is {after}, and {before} without"


def _pictures(opened: OpenedJob, names: Sequence[str], stored: Iterable[int]) -> dict[int, DecodedImage]:
    """Decode the first photos that have a stored vector."""
    numbers = {name: number for number, name in enumerate(opened.source.entries.names())}
    pictures = {}
    for photo in islice(sorted(stored), PHOTOS):
        item = opened.source.load(numbers[names[photo]])
        if isinstance(item, DecodedImage):
            pictures[photo] = item
    return pictures


def _vectors(opened: OpenedJob, pictures: Sequence[DecodedImage], preprocessing: Preprocessing) -> Array | None:
    """Return the vectors of photos that are resized and cropped in this way; None where a photo can't be."""
    ready = [prepare(picture, opened.models[0], preprocessing, None) for picture in pictures]
    pixels = [each for each in ready if isinstance(each, Prepared)]
    if len(pixels) < len(pictures):
        return None
    rows, *_ = opened.runners[0].represent_in_batches(stack(pixels))
    return float64(rows)


def _colours(own: Preprocessing) -> list[Preprocessing]:
    """Return the preprocessing with red and blue swapped, and mean and SD as they are."""
    if own.color_order == "grey":
        return []
    swapped = "RGB" if own.color_order == "BGR" else "BGR"
    return _others(own, [{"color_order": swapped}])


def _crops(own: Preprocessing) -> list[Preprocessing]:
    """Return the preprocessing with each of the usual ways to resize and crop."""
    larger = tuple(round(edge / SHORT_EDGE) for edge in own.size)
    ways = [
        ("squash", own.size),
        ("shortest", own.size),
        ("shortest", larger),
        ("longest", own.size),
    ]
    updates = [{"resize_mode": mode, "resize_size": size, "crop": "center"} for mode, size in ways]
    return _others(own, updates)


def _filters(own: Preprocessing) -> list[Preprocessing]:
    """Return the preprocessing with each filter of Pillow."""
    filters = get_args(Preprocessing.model_fields["interpolation"].annotation)
    return _others(own, [{"interpolation": name} for name in filters])


STEPS = (_colours, _crops, _colours, _filters)


def _others(own: Preprocessing, updates: Iterable[Mapping[str, Any]]) -> list[Preprocessing]:
    changed = [own.model_copy(update=dict(update)) for update in updates]
    return [each for each in changed if each != own]


def _changes(own: Preprocessing, other: Preprocessing) -> list[str]:
    """Describe each field that another preprocessing changes, as a preprocessing file names it."""
    before = dict(own)
    return [f"{name} {_value(value)}" for name, value in dict(other).items() if value != before[name]]


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return str(value)
