"""Make shifted versions of labelled photos: sketch-like, rendition-like, with another texture, blurred.

    python studies/make_shifted.py PHOTOS OUT     # OUT/<kind>/<label>/<photo>.png

PHOTOS is a folder of class folders or a manifest with a column label, as `robustcheck shift --in` takes it. The
versions are made by fixed rules from the photo alone: they are like the shifts of ImageNet-Sketch, -R and others in
kind, not in distribution, and no published baseline holds for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage
from skimage import data

from robustcheck_onnx.checker.core.images.source import DecodedImage
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.questions.shift.sets import labels_of

EDGE_PX = 256  # shortest edge that the versions are made at: strokes and tiles keep their size relative to the photo
STROKE_SD_PX = 1.2  # smoothing before the edges of the sketch
STROKE_QUANTILE = 0.97  # edge strength that becomes full black
COLOURS = 12  # of the rendition's palette
SMOOTHING_PX = 5  # edge of the rendition's median filter
TEXTURE_SD_PX = 2.5  # details finer than this are replaced by the texture
TEXTURE_STRENGTH = 0.15  # standard deviation of the texture, as a share of the brightness under it
BLUR_SD_PX = 3.5

Pixels = NDArray[np.float64]


def at_working_size(image: Image.Image) -> Image.Image:
    """The photo in RGB with its shortest edge at EDGE_PX."""
    image = image.convert("RGB")
    scale = EDGE_PX / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def sketch(image: Image.Image) -> Image.Image:
    """Dark strokes on white where the luminance changes: no colour, no surfaces."""
    grey = np.asarray(at_working_size(image).convert("L"), dtype=np.float64)
    strength = ndimage.gaussian_gradient_magnitude(grey, STROKE_SD_PX)
    top = max(float(np.quantile(strength, STROKE_QUANTILE)), 1e-9)
    return _image(np.repeat(255 * (1 - np.clip(strength / top, 0, 1))[..., None], 3, axis=2))


def rendition(image: Image.Image) -> Image.Image:
    """Flat patches of a few colours with dark outlines, as in a poster."""
    flat = at_working_size(image).filter(ImageFilter.MedianFilter(SMOOTHING_PX))
    poster = flat.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
    outline = np.asarray(sketch(flat), dtype=np.float64) / 255
    return _image(np.asarray(poster, dtype=np.float64) * outline)


def texture(image: Image.Image) -> Image.Image:
    """The photo's coarse shapes and colours with the fine structure of grass (scikit-image's grass.png)."""
    coarse = ndimage.gaussian_filter(_pixels(image), (TEXTURE_SD_PX, TEXTURE_SD_PX, 0))
    grass = np.asarray(data.grass(), dtype=np.float64)
    tiles = [-(-have // want) for have, want in zip(coarse.shape[:2], grass.shape, strict=True)]
    grass = np.tile(grass, tiles)[: coarse.shape[0], : coarse.shape[1]]
    grass = (grass - grass.mean()) / grass.std()
    return _image(coarse * (1 + TEXTURE_STRENGTH * grass[..., None]))


def blur(image: Image.Image) -> Image.Image:
    """Gaussian blur."""
    return _image(ndimage.gaussian_filter(_pixels(image), (BLUR_SD_PX, BLUR_SD_PX, 0)))


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "sketch": sketch,
    "rendition": rendition,
    "texture": texture,
    "blur": blur,
}


def write(photos: str, out: Path, kinds: tuple[str, ...] = tuple(KINDS)) -> dict[str, Path]:
    """Write every kind of every photo to out/<kind>/<label>/<photo>.png; returns each kind's folder."""
    source = open_images(photos)
    for item, label in zip(source.items(), labels_of(source), strict=True):
        if not isinstance(item, DecodedImage):
            raise SystemExit(f"error: {item.name} cannot be used: {getattr(item, 'reason', 'no photo')}")
        for kind in kinds:
            folder = out / kind / label
            folder.mkdir(parents=True, exist_ok=True)
            KINDS[kind](item.image).save(folder / f"{Path(item.name).stem}.png", compress_level=1)
    return {kind: out / kind for kind in kinds}


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(at_working_size(image), dtype=np.float64)


def _image(values: Any) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    for made, place in write(sys.argv[1], Path(sys.argv[2])).items():
        print(f"{made}: {place}")
