"""Images that scikit-image carries, and how far two ways to make pixels of them are apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image

from robustcheck_onnx.checker.core.images.preprocess import apply
from robustcheck_onnx.checker.core.preprocessing import Preprocessing

DATA = Path(skimage.__file__).parent / "data"


def photo(name: str) -> Image.Image:
    return Image.open(DATA / name).convert("RGB")


def photos() -> list[Image.Image]:
    """Landscape, portrait, odd sizes, and one smaller than every model input."""
    chelsea, rocket, coffee = (photo(name) for name in ("chelsea.png", "rocket.jpg", "coffee.png"))
    return [
        chelsea, rocket, coffee.crop((0, 0, 333, 399)),
        coffee.crop((101, 7, 376, 390)).transpose(Image.Transpose.ROTATE_90), chelsea.crop((50, 20, 201, 163)),
    ]  # fmt: skip


def worst(ours: Preprocessing, theirs: Callable[[Image.Image], Any]) -> float:
    """Largest difference from a library's pixels (channel, height, width) of `photos`, in grey levels of 255."""
    levels = 0.0
    scale = np.asarray(ours.std, np.float64) / ours.rescale
    for image in photos():
        mine, other = apply(ours, image), np.asarray(theirs(image), np.float32).transpose(1, 2, 0)
        assert mine.dtype == np.float32
        assert mine.shape == other.shape == (*ours.size, 3)
        levels = max(levels, float(np.abs((mine.astype(np.float64) - other) * scale).max()))
    return levels
