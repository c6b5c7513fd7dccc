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
"""by the suffix of an image file, the format that it promises"""


def nearest_path(path: Path) -> Path | None:
    """Return the file that a mistyped path means; None where no name is close."""
    if "\\" in path.name:  # a path of Windows
        path = Path(PureWindowsPath(path.name).name)
    near = existing_parent(path)
    for part in path.relative_to(near).parts:
        typed = Path(part)
        suffix = typed.suffix.lower()
        files = [file for file in near.glob("*") if not suffix or _is_alike(suffix, file.suffix.lower())]
        files.sort(key=lambda file: file.name)
        stems = get_close_matches(typed.stem, [file.stem for file in files], 1, 0.6)  # v1.onnx is not v2.onnx
        close = get_close_matches(part, [file.name for file in files if file.stem in stems], 1, 0)
        if not close:
            return None
        near /= close[0]
    return near


def _is_alike(suffix: str, other: str) -> bool:
    return not other or bool(get_close_matches(suffix, [other]))


def existing_parent(path: Path) -> Path:
    """Return the last folder on the way to a file that exists."""
    return next(parent for parent in (*path.parents, path) if os.path.isdir(parent) or parent == parent.parent)  # noqa: PTH112
