"""Decode and preprocess images as the source library does.

What had to be converted leaves a note, so that a report can say how many images were not plain 8-bit RGB.
"""

from __future__ import annotations

import io
import struct
import sys
import threading
import warnings
import zlib
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ...arrays import Float32s, GenericArray
from ...errors import CannotAssessError
from ...paths import SUFFIXES
from ...text import Texts, frozen
from ..preprocessing import Preprocessing

MAX_PIXELS = 89_478_485  # of one image: Pillow's warning level (0.25 GiB / 3 bytes), here an error: decompression bombs

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def at_size(preprocessing: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    """Change the preprocessing to another input size, (height, width) in px.

    The resize size keeps its proportion to the input size, rounded down as in timm (224 / 0.875 = 256).
    """
    sizes = zip(size, preprocessing.resize_size, preprocessing.size, strict=True)
    resize_size = tuple(new * resized // old for new, resized, old in sizes)
    return preprocessing.model_copy(update={"size": size, "resize_size": resize_size})


def channels(preprocessing: Preprocessing) -> int:
    """Count a model's input channels: 1 in grey, else 3."""
    return 1 if preprocessing.color_order == "grey" else 3


def apply_uint8(preprocessing: Preprocessing, image: Image.Image) -> NDArray[np.uint8]:
    """Resize and crop only, for a uint8 input.

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
    """Compute a float model's input array for one photo.

    (pixels · rescale − mean) / std in float32; equal to torchvision's Resize, CenterCrop, ToTensor, Normalize
    on a Pillow image, and to the Pillow-backed image processors of transformers. The check does the same to the pixels
    of `apply_uint8` in a graph (`runtime/inputs.py`).
    image: Pillow, mode RGB. Returns as apply_uint8 does, in float32.
    Raises CannotAssessError as apply_uint8 does.
    """
    pixels = apply_uint8(preprocessing, image)
    if preprocessing.color_order == "BGR":
        return _scale(preprocessing, pixels[..., ::-1])[..., ::-1]
    return _scale(preprocessing, pixels)


def scales_finitely(preprocessing: Preprocessing) -> bool:
    """Return whether `apply` gives finite values for every pixel, 0–255."""
    grey = np.arange(256, dtype=np.uint8)[:, None]
    levels = np.repeat(grey, channels(preprocessing), axis=1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return bool(np.isfinite(_scale(preprocessing, levels)).all())


def _scale(preprocessing: Preprocessing, pixels: NDArray[np.uint8]) -> Float32s:
    """Scale pixels to the values of a model's input. Pixels: (…, 3) RGB or (…, 1) grey, 0–255."""
    n = channels(preprocessing)
    values = pixels * np.float32(preprocessing.rescale)
    values -= np.asarray(preprocessing.mean[:n], dtype=np.float32)
    values /= np.asarray(preprocessing.std[:n], dtype=np.float32)
    return values


def as_photo(preprocessing: Preprocessing, values: Float32s) -> Image.Image:
    """Recover the resized and cropped photo from preprocessed values.

    pixels = (values · std + mean) / rescale, rounded and clipped to 0–255: the inverse of `apply` after its crop.
    values: (height, width, 3), or 1, float32, in the preprocessing's colour order. Values that are not finite become 0.
    """
    if preprocessing.color_order == "grey":
        values = np.repeat(values, 3, axis=-1)
    rgb = values[..., ::-1] if preprocessing.color_order == "BGR" else values
    scaled = rgb * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)
    pixels = np.rint(np.nan_to_num(scaled / preprocessing.rescale))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def resized_size(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """Compute height and width (px) after the resize, rounded as the libraries do.

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
    if height * width > MAX_PIXELS:
        raise CannotAssessError(
            f"image: size is {image.width}×{image.height} px; "
            f"resized it would have {height * width:,} pixels, the limit is {MAX_PIXELS:,}",
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
    """Return where the crop starts (px), below zero when there is padding before the image."""
    if excess < 0 and rounding == "round":
        return -(-excess // 2)  # torchvision pads the smaller half before the image
    if rounding == "floor":
        return excess // 2  # for padding too: transformers pads the larger half before the image
    return round(excess / 2)


@frozen
class LevelSums:
    """The sums of each channel's values and squares, exact in any order for uint8 pixels."""

    n_values: int = 0
    sums: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()

    def __add__(self, other: LevelSums) -> LevelSums:
        """Return the sums over both. Both must have as many channels."""
        if not self.n_values:
            return other
        if not other.n_values:
            return self
        sums = tuple(a + b for a, b in zip(self.sums, other.sums, strict=True))
        squares = tuple(a + b for a, b in zip(self.squares, other.squares, strict=True))
        return LevelSums(self.n_values + other.n_values, sums, squares)

    @property
    def mean(self) -> tuple[float, ...]:
        """Return each channel's mean; empty without images."""
        return tuple(total / self.n_values for total in self.sums)

    @property
    def sd(self) -> tuple[float, ...]:
        """Return each channel's standard deviation; empty without images.

        Of float values that lie far from zero it loses digits, as every difference of squares does.
        """
        pairs = zip(self.squares, self.mean, strict=True)
        variances = [total / self.n_values - mean**2 for total, mean in pairs]
        return tuple(float(np.sqrt(max(variance, 0))) for variance in variances)


def level_sums(pixels: GenericArray) -> LevelSums:
    """Sum up one image, (height, width, channel). float64 counts uint8 pixels exactly.

    Values that are not finite, or too large to be squared, give sums that are not.
    """
    by_channel = pixels.reshape(-1, pixels.shape[-1]).T
    values = by_channel.astype(np.float64, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        sums = values.sum(axis=1)
        squares = np.einsum("ij,ij->i", values, values)
    return LevelSums(values.shape[1], tuple(sums.tolist()), tuple(squares.tolist()))


FULL_SIZE = sys.maxsize  # px; no photo is as large, so each is decoded whole
SPARE = 5  # times the resized edge; what it moves: benchmarks/results/performance.md, "JPEG decoding"
MAX_FILE_BYTES = 256 * 2**20  # 256 MiB: no photo of MAX_PIXELS needs more
MAX_ASPECT = 64  # longer : shorter edge; beyond it a strip, whose resized copy would fill the memory

ALPHA = "alpha composited on white"
ANIMATED = "first of several frames"
CMYK = "CMYK converted"
EXIF = "EXIF orientation applied"
GREY = "greyscale"
MISNAMED = "suffix does not match the content"
PALETTE = "palette"
SIXTEEN_BIT = "16-bit rescaled"
SMALLER = "decoded at a smaller scale"

# Only these decoders are ever tried: no EPS (would start Ghostscript), no PDF, no stub formats.
_DECODERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO")
_ORIENTATION = 0x0112  # EXIF tag
_WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
_LFS = b"version https://git-lfs"  # first bytes of a Git LFS pointer
_HEADER_LOCK = threading.Lock()  # warnings.catch_warnings is not thread-safe before Python 3.14
_PICTURE_LOCK = threading.Lock()  # Pillow loads on first use, and one image may occur twice in a set

# What Pillow's decoders raise on damaged files (Pillow's own fuzz tests list the same kinds).
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,  # AVIF
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UnreadableImageError(Exception):
    """An image that can't be used. The message is the reason, without the image's name."""


def least_edge(preprocessing: Preprocessing) -> int:
    """Compute the edge (px) that decoded photos keep, so that they hold enough for the preprocessing's resize."""
    if preprocessing.resize_mode == "none":
        return FULL_SIZE
    return SPARE * max(preprocessing.resize_size)


def decode(data: bytes, name: str, keep: int = FULL_SIZE) -> tuple[Image.Image, Texts]:
    """Decode the first frame to upright RGB pixels, with notes that record conversions.

    EXIF orientation applied; transparency composited on white (255, 255, 255); 16-bit grey divided by 257;
    CMYK by Pillow's conversion, colour profiles ignored, as the model libraries do.
    data: the file's bytes, of any suffix (the content decides). name: for the suffix only.
    keep: px; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its shorter edge keeps as much.
    Returns a loaded Pillow image of mode RGB and notes (the constants above, in alphabetical order).
    Raises UnreadableImageError: empty, text, unknown format, truncated or damaged, more than MAX_PIXELS
    pixels, edges more than MAX_ASPECT : 1, 32-bit integer or float pixels (their white level is unknown).
    """
    if not data:
        raise UnreadableImageError("empty file")
    if data.startswith(_LFS):
        raise UnreadableImageError("Git LFS pointer, not an image (git lfs pull)")
    try:
        return _decode(data, name, keep)
    except UnidentifiedImageError as fault:
        raise UnreadableImageError("not an image that Pillow can decode") from fault
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels") from fault
    except DAMAGE as fault:
        raise UnreadableImageError(f"damaged: {fault}") from fault


def _decode(data: bytes, name: str, keep: int) -> tuple[Image.Image, Texts]:
    notes = set()
    with _HEADER_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF blocks would reach stderr
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(io.BytesIO(data), formats=_available_decoders())
        _check_size(image)
        image_format = image.format
        stored_size = image.size
        if image_format == "JPEG" and image.draft(None, (keep, keep)) and image.size != stored_size:
            notes.add(SMALLER)
        orientation = image.getexif().get(_ORIENTATION, 1)
        if getattr(image, "n_frames", 1) > 1:
            notes.add(ANIMATED)
            image.seek(0)
    image.load()
    promised = SUFFIXES.get(PurePosixPath(name).suffix.lower())
    if promised is not None and {promised, image_format} not in ({image_format}, {"JPEG", "MPO"}):
        notes.add(MISNAMED)
    if orientation in range(2, 9):
        image = ImageOps.exif_transpose(image)
        notes.add(EXIF)
    return _to_rgb(image, notes), tuple(sorted(notes))


def from_picture(image: Image.Image) -> tuple[Image.Image, Texts]:
    """Decode a Pillow image as `decode` does a file. Its current frame counts.

    The image is loaded if it was not, and else left as it is.
    Returns and raises as `decode`.
    """
    notes = set()
    try:
        with _PICTURE_LOCK:
            _check_size(image)
            if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
                notes.add(EXIF)
            own = ImageOps.exif_transpose(image)  # a copy, turned or not
        return _to_rgb(own, notes), tuple(sorted(notes))
    except DAMAGE as fault:
        raise UnreadableImageError(f"damaged: {fault}") from fault


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{width}×{height} px, more than {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(f"{width}×{height} px, edges more than {MAX_ASPECT}:1")


def _to_rgb(image: Image.Image, notes: set[str]) -> Image.Image:
    mode = image.mode
    if mode in ("P", "PA"):
        notes.add(PALETTE)
    if mode in ("1", "L", "LA", "La", *_WIDE_MODES):
        notes.add(GREY)
    if mode == "CMYK":
        notes.add(CMYK)
    if mode in _WIDE_MODES:
        notes.add(SIXTEEN_BIT)
        wide = np.asarray(image).astype(np.uint32)
        levels = (wide * 255 + 32767) // 65535  # round(wide / 257)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if mode in ("I", "F"):
        raise UnreadableImageError(f"pixels of mode {mode} (32 bit), whose white level is unknown")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
        if rgba.getchannel("A").getextrema() == (255, 255):
            return rgba.convert("RGB")
        notes.add(ALPHA)
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _available_decoders() -> list[str]:
    if "JPEG2000" not in Image.OPEN:
        Image.init()  # registers every plugin of this Pillow; which ones exist depends on how it was built
    return [decoder for decoder in _DECODERS if decoder in Image.OPEN]
