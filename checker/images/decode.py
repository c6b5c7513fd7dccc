"""Decode the bytes of an image file to RGB pixels, or say why they can't be.

What had to be converted leaves a note, so that a report can say how many images were not plain 8-bit RGB.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from robustcheck_onnx.checker.storage.places import SUFFIXES

MAX_PIXELS: Final = 89_478_485  # Pillow's warning level (0.25 GiB / 3 bytes), here an error: decompression bombs
MAX_FILE_BYTES: Final = 256 * 2**20  # 256 MiB: no photo of MAX_PIXELS needs more
MAX_ASPECT: Final = 64  # longer : shorter edge; beyond it a strip, whose resized copy would fill the memory

ALPHA, ANIMATED, CMYK, EXIF, GREY, MISNAMED, PALETTE, SIXTEEN_BIT = (
    "alpha composited on white",
    "first of several frames",
    "CMYK converted",
    "EXIF orientation applied",
    "greyscale",
    "suffix does not match the content",
    "palette",
    "16-bit rescaled",
)

"""Suffix of an image file (lower case) and the format it promises."""

# Only these decoders are ever tried: no EPS (would start Ghostscript), no PDF, no stub formats.
_DECODERS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO")
_ORIENTATION: Final = 0x0112  # EXIF tag
_WIDE_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N")
_LFS: Final = b"version https://git-lfs"  # first bytes of a Git LFS pointer
_HEADER_LOCK: Final = threading.Lock()  # warnings.catch_warnings is not thread-safe before Python 3.14
_PICTURE_LOCK: Final = threading.Lock()  # Pillow loads on first use, and one image may stand twice in a set

# What Pillow's decoders raise on damaged files (Pillow's own fuzz tests list the same kinds).
_DAMAGE: Final = (
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
    """One image cannot be used; the message is the reason, without the image's name."""


def decode(data: bytes, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode the first frame to RGB pixels as a person sees it, and note what had to be converted.

    EXIF orientation applied; transparency composited on white (255, 255, 255); 16-bit grey divided by 257;
    CMYK by Pillow's conversion, colour profiles ignored, as the model libraries do.
    data: the file's bytes, of any suffix (the content decides). name: for the suffix only.
    Returns a loaded Pillow image of mode RGB and notes (the constants above, in alphabetical order).
    Raises UnreadableImageError: empty, text, unknown format, truncated or damaged, more than MAX_PIXELS
    pixels, edges more than MAX_ASPECT : 1, 32-bit integer or float pixels (their white level is unknown).
    """
    if not data:
        raise UnreadableImageError("empty file")
    if data.startswith(_LFS):
        raise UnreadableImageError("Git LFS pointer, not an image (git lfs pull)")
    try:
        return _decode(data, name)
    except UnidentifiedImageError as fault:
        raise UnreadableImageError("not an image that Pillow can decode") from fault
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels") from fault
    except _DAMAGE as fault:
        raise UnreadableImageError(f"damaged: {fault}") from fault


def _decode(data: bytes, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    notes = set()
    with _HEADER_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF blocks would reach stderr
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(io.BytesIO(data), formats=_available_decoders())
        _check_size(image)
        image_format = image.format
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


def from_picture(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Make of an image that Pillow holds already what `decode` makes of a file; its current frame counts.

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
    except _DAMAGE as fault:
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
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")  # round(wide / 257)
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
