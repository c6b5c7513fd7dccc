"""Names of files: the suffixes of images, and the file that a mistyped path means."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath

SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "MPO",
    ".png": "PNG",
    ".apng": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".jp2": "JPEG2000",
    ".avif": "AVIF",
    ".heic": "HEIC",  # Pillow can't decode these alone, nor JXL: a named skip is not invisible
    ".heif": "HEIC",
    ".jxl": "JXL",
}
"""by the suffix of an image file, the format that it promises"""


def nearest_path(path: Path) -> Path | None:
    """Return the file that a mistyped path means; None where no name is close."""
    if "\\" in path.name:  # a path of Windows
        path = Path(PureWindowsPath(path.name).name)
    near = existing_parent(path)
    for part in path.relative_to(near).parts:
        typed = Path(part)
        suffix = typed.suffix.lower()
        files = sorted(file for file in near.glob("*") if _is_alike(suffix, file.suffix.lower()))
        stems = get_close_matches(typed.stem, [file.stem for file in files], 1, 0.6)  # v1.onnx is not v2.onnx
        names = [file.name for file in files if file.stem in stems]
        close = get_close_matches(part, names, 1, 0)
        if not close:
            return None
        near /= close[0]
    return near


def _is_alike(suffix: str, other: str) -> bool:
    return not (suffix and other) or bool(get_close_matches(suffix, [other]))


def existing_parent(path: Path) -> Path:
    """Return the last folder on the way to a file that exists."""
    folders = (parent for parent in path.parents if os.path.isdir(parent))  # noqa: PTH112
    return next(folders, Path(path.anchor))
