"""Makes checker/photos/*.jpg from the packages that checker/photos/ATTRIBUTION.md names.

    apt-get download gcompris-qt-data budgie-backgrounds lomiri-wallpapers-16.04   # then dpkg -x each into a folder
    python studies/bundle_photos.py --gcompris .../gcompris-qt/rcc --budgie .../backgrounds/budgie \
        --lomiri .../share/backgrounds --scikit-image .../skimage/data

The table in ATTRIBUTION.md is the only list: a photo without author and licence cannot get in.
"""

from __future__ import annotations

import argparse
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from robustcheck_onnx.checker.core.images.preprocess import decode
from robustcheck_onnx.checker.core.images.sanity import ImageSetState, describe

PHOTOS = Path(__file__).parents[1] / "checker" / "photos"
SHORTER_PX = 256  # as large as the usual models' resize step wants; larger costs bytes only
QUALITY = 82  # JPEG; keeps the set below MAX_BYTES
MAX_BYTES = 3_500_000  # of all photos together
OPEN_LICENCES = ("public domain", "CC0-1.0")


class Row(NamedTuple):
    """One photo of the table."""

    file: str
    author: str
    licence: str
    original: str
    source: str


def rows(table: str) -> list[Row]:
    """The rows of the table of photos; every cell must be filled and the licence an open one."""
    cells = [line.strip("| \n").split(" | ") for line in table.splitlines() if ".jpg | " in line]
    found = [Row(*row) for row in cells]
    for row in found:
        if not all(row) or row.licence not in OPEN_LICENCES:
            raise SystemExit(f"{row.file}: licence is {row.licence!r}, author {row.author!r}; see ATTRIBUTION.md")
    return found


def qt_resources(path: Path) -> dict[str, bytes]:
    """All files in a Qt resource file (.rcc: header, then tree, names and data, big-endian)."""
    content = path.read_bytes()
    magic, version, tree, data, names = struct.unpack_from(">4s4I", content)
    if magic != b"qres":
        raise SystemExit(f"{path}: is not a Qt resource file")
    node_bytes = 22 if version >= 2 else 14
    files = {}

    def walk(node: int, folder: str) -> None:
        start = tree + node * node_bytes
        name_at, flags, first, second = struct.unpack_from(">IHII", content, start)
        (length,) = struct.unpack_from(">H", content, names + name_at)
        name = content[names + name_at + 6 :][: 2 * length].decode("utf-16-be") if node else ""
        path_here = f"{folder}/{name}".strip("/")
        if flags & 2:  # a folder: number of children, first child
            for child in range(second, second + first):
                walk(child, path_here)
        elif not flags & 4:  # zstd is not needed for any photo
            (size,) = struct.unpack_from(">I", content, data + second)
            raw = content[data + second + 4 :][:size]
            files[path_here] = zlib.decompress(raw[4:]) if flags & 1 else raw

    walk(0, "")
    return files


def original_of(source: str, folders: dict[str, Path], resources: dict[Path, dict[str, bytes]]) -> bytes:
    """The bytes of one original, from the folder given for its package."""
    package, _, member = source.partition(":")
    if package != "gcompris":
        return (folders[package] / member).read_bytes()
    path = folders[package] / (member.split("/")[0] + ".rcc")
    if path not in resources:
        resources[path] = qt_resources(path)
    return resources[path]["gcompris/src/activities/" + member]


def scaled(image: Image.Image) -> Image.Image:
    """At most SHORTER_PX on the shorter edge; never enlarged."""
    ratio = min(image.size) / SHORTER_PX
    if ratio <= 1:
        return image
    return image.resize((round(image.width / ratio), round(image.height / ratio)), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in ("gcompris", "budgie", "lomiri", "scikit-image"):
        parser.add_argument(f"--{package}", type=Path, required=True, metavar="FOLDER")
    folders = {name.replace("_", "-"): path for name, path in vars(parser.parse_args()).items()}
    resources: dict[Path, dict[str, bytes]] = {}
    state = ImageSetState()
    for old in PHOTOS.glob("*.jpg"):
        old.unlink()
    table = rows((PHOTOS / "ATTRIBUTION.md").read_text(encoding="utf-8"))
    for row in table:
        image, _ = decode(original_of(row.source, folders, resources), row.source)
        small = scaled(image)
        small.info.clear()
        small.save(PHOTOS / row.file, "JPEG", quality=QUALITY, optimize=True, progressive=True)
        state.add(describe(small))
    size = sum(path.stat().st_size for path in PHOTOS.glob("*.jpg"))
    facts = state.facts()
    print(f"{len(table)} photos, {size:,} bytes, {facts.n_varied} varied, {facts.unlike_share:.0%} unlike photos")
    if size > MAX_BYTES or facts.findings:
        raise SystemExit(f"limit: {MAX_BYTES:,} bytes; findings: {[finding.seen for finding in facts.findings]}")


if __name__ == "__main__":
    main()
