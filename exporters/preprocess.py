"""Applies the contract's preprocessing to a photo, to prove that it says what the source library does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .errors import USAGE, ExportError

if TYPE_CHECKING:
    import torch

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def open_photo(path: Path, what: str, why: str, hint: str) -> Image.Image:
    """Return a photo as RGB.

    Args:
        what, why, hint: for the error: what the photo is, why it must be a real one, and the next step.

    Raises:
        ExportError: it is unreadable (exit 2).
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ExportError(f"{path}: {what} is unreadable ({error}); {why}", hint, exit_code=USAGE) from error


def apply(preprocessing: Mapping[str, Any], image: Image.Image) -> NDArray[np.float32]:
    """Return a photo as the model sees it: resize → crop or pad → rescale → mean, std → channel order.

    Shapes: (channel, height, width), float32. Independent equals: open_clip's, timm's, torchvision's and
    transformers' own transforms (tests/exporters/test_preprocessing.py).
    """
    image = _resized(image.convert("RGB"), preprocessing)
    if preprocessing["crop"] == "center":
        image = _centred(image, preprocessing)
    pixels = np.asarray(image, dtype=np.float32) * np.float32(preprocessing["rescale"])
    mean, std = (np.asarray(preprocessing[name], dtype=np.float32) for name in ("mean", "std"))
    channels_first = ((pixels - mean) / std).transpose(2, 0, 1)
    if preprocessing["color_order"] == "BGR":
        channels_first = channels_first[::-1]
    return np.ascontiguousarray(channels_first)


def as_transform(preprocessing: Mapping[str, Any]) -> Any:
    """Return the preprocessing as a PIL image → torch tensor function, for models that come without one."""

    def transform(image: Image.Image) -> torch.Tensor:
        import torch

        return torch.from_numpy(apply(preprocessing, image))

    return transform


def grey_levels_apart(
    preprocessing: Mapping[str, Any], ours: NDArray[np.float32], theirs: NDArray[np.float32]
) -> float:
    """Return the largest difference of two preprocessed photos in grey levels; inf for unequal shapes."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return float("inf")
    std = np.asarray(preprocessing["std"], dtype=np.float64)
    if preprocessing["color_order"] == "BGR":
        std = std[::-1]
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return float((difference * std[:, None, None]).max() / preprocessing["rescale"])


def _resized(image: Image.Image, preprocessing: Mapping[str, Any]) -> Image.Image:
    mode, (edge_height, edge_width) = preprocessing["resize_mode"], preprocessing["resize_size"]
    width, height = image.size
    if mode == "none":
        return image
    if mode == "squash":
        target = (edge_width, edge_height)
    elif mode == "shortest" and edge_height == edge_width:
        # the other edge is cut to whole pixels, as torchvision and transformers do
        short, long = sorted((width, height))
        other = int(edge_height * long / short)
        target = (edge_height, other) if width <= height else (other, edge_height)
    else:  # a box to cover or to fit in: timm's and open_clip's ResizeKeepRatio rounds
        ratios = (height / edge_height, width / edge_width)
        ratio = max(ratios) if mode == "longest" else min(ratios)
        target = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    return image.resize(target, _FILTERS[preprocessing["interpolation"]])


def _centred(image: Image.Image, preprocessing: Mapping[str, Any]) -> Image.Image:
    height, width = preprocessing["size"]
    rounds = preprocessing["crop_rounding"] == "round"
    short_w, short_h = max(width - image.width, 0), max(height - image.height, 0)
    if short_w or short_h:
        # the odd pixel of the padding: torchvision puts it right and bottom, transformers left and top
        left, top = (short_w // 2, short_h // 2) if rounds else (-(-short_w // 2), -(-short_h // 2))
        border = (left, top, short_w - left, short_h - top)
        image = ImageOps.expand(image, border, fill=tuple(preprocessing["fill"]))
    spare_w, spare_h = image.width - width, image.height - height
    left, top = (round(spare_w / 2), round(spare_h / 2)) if rounds else (spare_w // 2, spare_h // 2)
    return image.crop((left, top, left + width, top + height))
