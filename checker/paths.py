"""Names of files: the suffixes of images, and the file that a mistyped path means."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath

SUFFIXES = {
    f".{suffix}": form
    for form, suffixes in (
        ("JPEG", "jpg jpeg jpe jfif"),
        ("MPO", "mpo"),
        ("PNG", "png apng"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp dib"),
        ("TIFF", "tif tiff"),
        ("PPM", "ppm pgm pbm pnm"),
        ("JPEG2000", "jp2"),
        ("AVIF", "avif"),
        ("HEIC", "heic heif"),  # Pillow can't decode these alone, nor JXL: a named skip is not invisible
        ("JXL", "jxl"),
    )
    for suffix in suffixes.split()
}
"""of an image file, and the format that it promises"""
"""how an image's format is named, by the suffix of its file"""


def nearest_path(path: Path) -> Path | None:
    """Return the file that a mistyped path means. None where no name is close."""
    if "\\" in path.name:  # a path of Windows
        path = Path(PureWindowsPath(path.name).name)
    near = existing_parent(path)
    for part in path.relative_to(near).parts:
        suffix = Path(part).suffix.lower()
        names = sorted(file.name for file in near.glob("*") if not suffix or _is_alike(suffix, file.suffix.lower()))
        stems = get_close_matches(
            Path(part).stem, [Path(name).stem for name in names], 1, 0.6
        )  # v1.onnx is not v2.onnx
        close = get_close_matches(part, [name for name in names if Path(name).stem in stems], 1, 0)
        if not close:
            return None
        near /= close[0]
    return near


def _is_alike(suffix: str, other: str) -> bool:
    return not other or bool(get_close_matches(suffix, [other]))


def existing_parent(path: Path) -> Path:
    """Return the folder of a path that exists. It is the last one on the way to the file."""
    return next(parent for parent in (*path.parents, path) if os.path.isdir(parent) or parent == parent.parent)  # noqa: PTH112
