"""Make small copies of photos for a report. People look at them.

They are made after the verdict and do not change it: an image that fails has no thumbnail, and the report says why.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.evidence import SeenImage

from .source import ImageSource, Picture, Skipped, Tensor, open_images

EDGE_PX: Final = 96  # longer edge at most
QUALITY: Final = 80  # of JPEG: about 3 kB each

CHANGED, GONE, TENSOR = (
    "the file is not the one that was measured",
    "not found again",
    "given as a preprocessed tensor",
)


@dataclass(frozen=True)
class Thumbnails:
    """The thumbnails, and the reasons for missing ones."""

    uris: dict[str, str] = field(default_factory=dict)
    """data: URI of a JPEG by the digest of its image"""
    missing: dict[str, str] = field(default_factory=dict)
    """why there is none, by the digest of the image"""


def make(
    wanted: Sequence[SeenImage],
    images: str | Path | None,
    *,
    seed: int = 0,
    limit: int | None = None,
) -> Thumbnails:
    """Make thumbnails of images. They are turned upright and have no metadata.

    The image set is opened as the check opened it. An image whose bytes have another digest now is left out.

    Args:
        wanted: the images, each once.
        images, seed, limit: as the check had them (`images.open_images`).

    Returns:
        One entry for each image wanted, in `uris` or in `missing`; never raises for an image or a set that is faulty.
    """
    try:
        source = open_images(images, seed=seed, limit=limit)
        places = _places(source, {image.name for image in wanted})
    except (RobustcheckError, OSError) as fault:
        why = f"the images could not be opened again ({getattr(fault, 'message', fault)})"
        return Thumbnails(missing={image.digest: why for image in wanted})
    made = Thumbnails()
    for image in wanted:
        uri, why = _one(source, places.get(image.name, []), image.digest)
        if uri:
            made.uris[image.digest] = uri
        else:
            made.missing[image.digest] = why
    return made


def _places(source: ImageSource, names: set[str]) -> dict[str, list[int]]:
    """Return each name's indices in the image set. There are several where a manifest has a row twice."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(source.entries.names()):
        if name in names:
            places.setdefault(name, []).append(place)
    return places


def _one(source: ImageSource, places: Sequence[int], digest: str) -> tuple[str, str]:
    """Return the thumbnail of the image with a digest. It is a data: URI, or an empty one and the reason."""
    why = GONE
    for place in places:
        try:
            item = source.load(place)
        except RobustcheckError as fault:
            why = fault.message
            continue
        if isinstance(item, Skipped):
            why = item.reason
        elif item.digest != digest:
            why = CHANGED
        elif isinstance(item, Tensor):
            why = TENSOR
        else:
            return _data_uri(item), ""
    return "", why


def _data_uri(picture: Picture) -> str:
    small = picture.image.copy()
    small.thumbnail((EDGE_PX, EDGE_PX), Image.Resampling.LANCZOS)
    # pixels only: Pillow hands on comments and colour profiles of the file it read
    bare = Image.frombytes("RGB", small.size, small.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
