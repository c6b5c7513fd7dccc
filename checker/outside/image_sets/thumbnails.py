"""Make small copies of photos for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

from PIL import Image

from ...core.evidence import SeenImage
from ...core.images.source import DecodedImage, ImageSource, Skipped, Tensor
from ...errors import RobustcheckError
from ...text import frozen
from .open import open_images

THUMBNAIL_PX = 96  # longer edge at most
THUMBNAIL_QUALITY = 80  # of JPEG: about 3 kB each


@frozen
class Thumbnails:
    """The thumbnails, and the reasons for missing ones."""

    uris: dict[str, str] = field(default_factory=dict)
    """data: URI of a JPEG by the digest of its image"""
    missing: dict[str, str] = field(default_factory=dict)
    """why there is none, by the digest of the image"""


def make_thumbnails(
    wanted: Sequence[SeenImage], images: str | Path | None, *, seed: int = 0, limit: int | None = None
) -> Thumbnails:
    """Make small copies of photos for a report, turned upright and without metadata.

    That is done after the verdict, which it does not change. The image set is opened as the check opened it. An image
    whose bytes have another digest now is left out.

    Args:
        wanted: the images, each once.
        images, seed, limit: as the check had them (`open_images`).

    Returns:
        One entry for each image wanted, in `uris` or in `missing`; never raises for an image or a set that is faulty.
    """
    places: dict[str, list[int]] = {image.name: [] for image in wanted}  # several where a manifest has a row twice
    try:
        source = open_images(images, seed=seed, limit=limit)
        for place, name in enumerate(source.entries.names()):
            if name in places:
                places[name].append(place)
    except (RobustcheckError, OSError) as fault:
        why = f"the images could not be opened again ({getattr(fault, 'message', fault)})"
        return Thumbnails(missing={image.digest: why for image in wanted})
    thumbnails = Thumbnails()
    for image in wanted:
        uri, why = _thumbnail(source, places[image.name], image.digest)
        if uri:
            thumbnails.uris[image.digest] = uri
        else:
            thumbnails.missing[image.digest] = why
    return thumbnails


def _thumbnail(source: ImageSource, places: Sequence[int], digest: str) -> tuple[str, str]:
    """Return the thumbnail of the image with a digest as a data: URI, or an empty one and the reason."""
    why = "not found again"
    for place in places:
        try:
            item = source.load(place)
        except RobustcheckError as fault:
            why = fault.message
            continue
        if isinstance(item, Skipped):
            why = item.reason
        elif item.digest != digest:
            why = "the file is not the one that was measured"
        elif isinstance(item, Tensor):
            why = "given as a preprocessed tensor"
        else:
            return _data_uri(item), ""
    return "", why


def _data_uri(picture: DecodedImage) -> str:
    small = picture.image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    # pixels only: Pillow hands on comments and colour profiles of the file it read
    bare = Image.frombytes("RGB", small.size, small.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
