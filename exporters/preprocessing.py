"""The preprocessing of the contract: its fields, their rules, and what they make of a photo."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import CallError

if TYPE_CHECKING:
    from torch import Tensor


Fields = dict[str, Any]  # values by their names


Array = NDArray[np.float32]
FIELDS_FILE = "give it with --preprocess FILE; robustcheck explain preprocessing shows one"  # a hint
_DEFAULTS: Fields = {
    "crop": "center",
    "crop_rounding": "round",
    "fill": (0, 0, 0),
    "rescale": 1 / 255,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "color_order": "RGB",
}
_CHOICES = {
    "resize_mode": ("shortest", "longest", "squash", "none"),
    "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "crop": ("center", "none"),
    "crop_rounding": ("round", "floor"),
    "color_order": ("RGB", "BGR"),
}
_LENGTHS = {"size": 2, "resize_size": 2, "fill": 3, "mean": 3, "std": 3}
_LEAST = {"size": 1, "resize_size": 1, "fill": 0}  # of the fields that are whole numbers
PREPROCESSING_FIELDS = ("size", "resize_mode", "resize_size", "interpolation", *_DEFAULTS)


def checked_preprocessing(values: Fields, where: str) -> Fields:
    """Return the preprocessing with defaults filled in.

    Args:
        values: size and resize_size (height, width; px; one number for a square), resize_mode, interpolation; optional
            crop, crop_rounding, fill (RGB 0–255), rescale, mean, std, color_order.
        where: the file or object named in the error.

    Raises:
        ExportError: a field is missing, unknown, of the wrong length, or out of range (exit 2).
    """
    fields = {**_DEFAULTS, **values}

    def require(name: str, is_right: bool, rule: str) -> None:
        if not is_right:
            raise _wrong(where, name, f"{fields[name]!r}; it must be {rule}")

    for name in sorted(fields.keys() - set(PREPROCESSING_FIELDS)):
        raise _wrong(where, name, "unknown")
    for name in PREPROCESSING_FIELDS:
        if name not in fields:
            raise _wrong(where, name, "missing")
    for name, choices in _CHOICES.items():
        require(name, fields[name] in choices, f"one of {', '.join(choices)}")
    for name, length in _LENGTHS.items():
        value = fields[name]
        if _is_number(value):
            value = [value] * length
            fields[name] = value
        is_row = isinstance(value, list | tuple) and len(value) == length
        require(name, is_row, f"{length} numbers")
        require(name, all(map(_is_number, value)), "finite numbers")
        if name in _LEAST:
            is_whole = all(number == int(number) >= _LEAST[name] for number in value)
            require(name, is_whole, "positive whole numbers")
            fields[name] = [int(number) for number in value]
        else:
            fields[name] = [float(number) for number in value]
    require("fill", max(fields["fill"]) <= 255, "0 to 255")
    require("std", min(fields["std"]) > 0, "above 0")
    rescale = fields["rescale"]
    require("rescale", _is_number(rescale) and rescale > 0, "a number above 0")
    fields["rescale"] = float(rescale)
    squashed = fields["resize_mode"] == "squash" and fields["resize_size"] == fields["size"]
    if fields["crop"] == "none" and fields["resize_mode"] != "none" and not squashed:
        raise _wrong(where, "crop", "'none'; then resize_mode must be none, or squash with resize_size equal to size")
    return {name: fields[name] for name in PREPROCESSING_FIELDS}


def _wrong(where: str, field: str, fault: str) -> CallError:
    return CallError(f"{where}: preprocessing field {field} is {fault}", "robustcheck explain preprocessing")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def shared_preprocessing(candidates: Mapping[str, Fields], name: str) -> Fields:
    """Return the preprocessing that all published weights of a model name share.

    A checkpoint file does not say how its images were prepared. Where the library's published weights of
    that name disagree (or there are none), a guess would be silent, so it is an error.

    Args:
        candidates: tag → preprocessing, of every published set of weights.

    Raises:
        ExportError: there are none, or they differ (exit 2).
    """
    values = list(candidates.values())
    if values and values.count(values[0]) == len(values):
        return dict(values[0])
    why = "the library publishes none for this name"
    if values:
        why = f"the published weights ({', '.join(list(candidates)[:3])}, …) differ in theirs"
    raise CallError(f"{name}: preprocessing of this checkpoint is not known; {why}", FIELDS_FILE)


def preprocess(fields: Fields, image: Image.Image) -> Array:
    """Return a photo as the model sees it: resized, cropped, normalised.

    Shapes: (channel, height, width), float32. Independent equals: open_clip's, timm's, torchvision's and
    transformers' own transforms (tests/exporters/test_families.py).
    """
    image = _resized(image.convert("RGB"), fields)
    if fields["crop"] == "center":
        image = _centred(image, fields)
    pixels = np.asarray(image, dtype=np.float32) * np.float32(fields["rescale"])
    mean = np.asarray(fields["mean"], dtype=np.float32)
    std = np.asarray(fields["std"], dtype=np.float32)
    normalised = (pixels - mean) / std
    channels_first = normalised.transpose(2, 0, 1)
    if fields["color_order"] == "BGR":
        channels_first = channels_first[::-1]
    return np.ascontiguousarray(channels_first)


def as_transform(fields: Fields) -> Callable[[Image.Image], Tensor]:
    """Return the preprocessing as a function PIL image → torch tensor."""
    import torch

    return lambda image: torch.from_numpy(preprocess(fields, image))


def grey_levels_apart(fields: Fields, ours: Array, theirs: Array) -> float:
    """Return the largest difference of two preprocessed photos of the same shape in grey levels."""
    if not np.isfinite(theirs).all():
        return math.inf
    std = np.asarray(fields["std"], dtype=np.float64)
    if fields["color_order"] == "BGR":
        std = std[::-1]
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    levels = difference * std[:, None, None] / fields["rescale"]
    return float(levels.max())


def _resized(image: Image.Image, fields: Fields) -> Image.Image:
    mode = fields["resize_mode"]
    edge_height, edge_width = fields["resize_size"]
    width, height = image.size
    if mode == "none":
        return image
    if mode == "squash":
        target = (edge_width, edge_height)
    elif mode == "shortest" and edge_height == edge_width:
        # the other edge is cut to whole pixels, as torchvision and transformers do
        other = int(edge_height * max(image.size) / min(image.size))
        target = (other, edge_height)
        if width <= height:
            target = (edge_height, other)
    else:  # a box to cover or to fit in: timm's and open_clip's ResizeKeepRatio rounds
        ratios = (height / edge_height, width / edge_width)
        ratio = max(ratios) if mode == "longest" else min(ratios)
        target = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    return image.resize(target, Image.Resampling[fields["interpolation"].upper()])


def _centred(image: Image.Image, fields: Fields) -> Image.Image:
    height, width = fields["size"]

    def start(spare: int) -> int:  # of the crop; the odd pixel of a padding is right and bottom, or left and top
        if fields["crop_rounding"] == "floor":  # as transformers does it
            return spare // 2
        if spare > 0:
            return round(spare / 2)
        return -(-spare // 2)

    cropped = Image.new("RGB", (width, height), tuple(fields["fill"]))
    left = start(image.width - width)
    top = start(image.height - height)
    cropped.paste(image, (-left, -top))
    return cropped
