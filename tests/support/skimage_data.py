"""Images that scikit-image carries."""

from __future__ import annotations

from pathlib import Path

import skimage
from PIL import Image

DATA = Path(skimage.__file__).parent / "data"


def photo(name: str) -> Image.Image:
    return Image.open(DATA / name).convert("RGB")
