"""Preprocess a decoded photo as the source library does, and sum up the pixels that a model gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustcheck_onnx.checker.arrays import Float32s, GenericArray
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import Preprocessing

MAX_RESIZED_PX = 89_478_485  # Pillow's own limit for one image (Image.MAX_IMAGE_PIXELS: 0.25 GiB / 3 bytes)

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def at_size(preprocessing: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    """Change the preprocessing to another input size (height, width), px.

    The resize size keeps its proportion to the input size, rounded down as in timm (224 / 0.875 = 256).
    """
    height, width = (
        new * old // was for new, old, was in zip(size, preprocessing.resize_size, preprocessing.size, strict=True)
    )
    return preprocessing.model_copy(update={"size": size, "resize_size": (height, width)})


def channels(preprocessing: Preprocessing) -> int:
    """Count the channels that a model gets: 1 in grey, else 3."""
    return 1 if preprocessing.color_order == "grey" else 3


def apply_uint8(preprocessing: Preprocessing, image: Image.Image) -> NDArray[np.uint8]:
    """Resize and crop only: the pixels for a model whose input is uint8.

    image: Pillow, mode RGB. Returns (height, width, 3), or (height, width, 1) of a grey preprocessing, uint8, 0–255, in
    the preprocessing's colour order.
    Raises CannotAssessError when the resized image would be larger than Pillow's limit for one image, or when
    there is neither resize nor crop and the image does not have the size of the input.
    """
    if preprocessing.color_order == "grey":
        image = image.convert("L")
    pixels = np.asarray(_crop(preprocessing, _resize(preprocessing, image)))
    if preprocessing.color_order == "grey":
        return pixels[..., None]
    return pixels[..., ::-1] if preprocessing.color_order == "BGR" else pixels


def apply(preprocessing: Preprocessing, image: Image.Image) -> Float32s:
    """Compute the array that a float model sees for one photo.

    (pixels · rescale − mean) / std in float32; equal to torchvision's Resize, CenterCrop, ToTensor, Normalize
    on a Pillow image, and to the Pillow-backed image processors of transformers. The check does the same to the pixels
    of `apply_uint8` in the graph (`runtime/feed.py`).
    image: Pillow, mode RGB. Returns as apply_uint8 does, in float32.
    Raises CannotAssessError as apply_uint8 does.
    """
    turned = slice(None, None, -1) if preprocessing.color_order == "BGR" else slice(None)
    return _scale(preprocessing, apply_uint8(preprocessing, image)[..., turned])[..., turned]


def scales_finitely(preprocessing: Preprocessing) -> bool:
    """Whether `apply` gives finite values for every pixel, 0–255."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels(preprocessing), axis=1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return bool(np.isfinite(_scale(preprocessing, levels)).all())


def _scale(preprocessing: Preprocessing, pixels: NDArray[np.uint8]) -> Float32s:
    """(…, 3) RGB or (…, 1) grey, 0–255, to the values that a model sees."""
    n = channels(preprocessing)
    values = pixels * np.float32(preprocessing.rescale)
    values -= np.asarray(preprocessing.mean[:n], dtype=np.float32)
    values /= np.asarray(preprocessing.std[:n], dtype=np.float32)
    return values


def as_photo(preprocessing: Preprocessing, values: Float32s) -> Image.Image:
    """Recover the photo, as resize and crop left it, from preprocessed values.

    pixels = (values · std + mean) / rescale, rounded and clipped to 0–255: the inverse of `apply` after its crop.
    values: (height, width, 3), or 1, float32, in the preprocessing's colour order. Values that are not finite become 0.
    """
    if preprocessing.color_order == "grey":
        values = np.repeat(values, 3, axis=-1)
    rgb = values[..., ::-1] if preprocessing.color_order == "BGR" else values
    pixels = (rgb * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)) / preprocessing.rescale
    return Image.fromarray(np.clip(np.rint(np.nan_to_num(pixels)), 0, 255).astype(np.uint8))


def resized_size(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """Compute height and width (px) after the resize step, by the rounding rule of the libraries.

    One edge length: the other edge is int(edge · long / short), as in torchvision and transformers.
    A box, or longest: round(edge / ratio), as in timm's and open_clip's ResizeKeepRatio.
    """
    target_height, target_width = preprocessing.resize_size
    if preprocessing.resize_mode == "none":
        return height, width
    if preprocessing.resize_mode == "squash":
        return target_height, target_width
    if preprocessing.resize_mode == "shortest" and target_height == target_width:
        if width <= height:
            return int(target_width * height / width), target_width
        return target_height, int(target_height * width / height)
    ratios = (height / target_height, width / target_width)
    ratio = max(ratios) if preprocessing.resize_mode == "longest" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _resize(preprocessing: Preprocessing, image: Image.Image) -> Image.Image:
    height, width = resized_size(preprocessing, image.height, image.width)
    if height * width > MAX_RESIZED_PX:
        raise CannotAssessError(
            f"image: size is {image.width}×{image.height} px; "
            f"resized it would have {height * width:,} pixels, the limit is {MAX_RESIZED_PX:,}",
            "leave such strips out of the image set",
        )
    if (width, height) == image.size:
        return image
    return image.resize((width, height), _FILTERS[preprocessing.interpolation])


def _crop(preprocessing: Preprocessing, image: Image.Image) -> Image.Image:
    height, width = preprocessing.size
    if image.size == (width, height):
        return image
    if preprocessing.crop == "none":
        raise CannotAssessError(
            f"image: size is {image.width}×{image.height} px; this preprocessing neither resizes nor crops, "
            f"so images must be {width}×{height} px",
            "set resize_mode and crop in the preprocessing, or resize the images",
        )
    left = _offset(image.width - width, preprocessing.crop_rounding)
    top = _offset(image.height - height, preprocessing.crop_rounding)
    fill = Image.new("RGB", (1, 1), preprocessing.fill).convert(image.mode).getpixel((0, 0))
    canvas = Image.new(image.mode, (width, height), fill)
    canvas.paste(image, (-left, -top))
    return canvas


def _offset(excess: int, rounding: str) -> int:
    """Where the crop starts (px); negative when there is padding before the image."""
    if excess < 0 and rounding == "round":
        return -(-excess // 2)  # torchvision pads the smaller half before the image
    if rounding == "floor":
        return excess // 2  # for padding too: transformers pads the larger half before the image
    return round(excess / 2)


@dataclass(frozen=True)
class LevelSums:
    """The sums of the values of each channel, and of their squares; of uint8 pixels exact, in any order."""

    n_values: int = 0
    sums: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()

    def __add__(self, other: LevelSums) -> LevelSums:
        """Return the sums over both, which must have as many channels."""
        if not self.n_values or not other.n_values:
            return self if self.n_values else other
        return LevelSums(
            self.n_values + other.n_values,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the mean of each channel; empty of no image."""
        return tuple(total / self.n_values for total in self.sums)

    @property
    def sd(self) -> tuple[float, ...]:
        """Return the standard deviation of each channel, over all values; empty of no image.

        Of float values that lie far from zero it loses digits, as every difference of squares does.
        """
        pairs = zip(self.squares, self.mean, strict=True)
        return tuple(float(np.sqrt(max(total / self.n_values - mean**2, 0))) for total, mean in pairs)


def level_sums(pixels: GenericArray) -> LevelSums:
    """Sum up one image, (height, width, channel), in float64, which counts uint8 pixels exactly.

    Values that are not finite, or too large to be squared, give sums that are not.
    """
    values = pixels.reshape(-1, pixels.shape[-1]).T.astype(np.float64, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        sums, squares = values.sum(axis=1), np.einsum("ij,ij->i", values, values)
    return LevelSums(values.shape[1], tuple(sums.tolist()), tuple(squares.tolist()))
