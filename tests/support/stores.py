"""Image sets for the tests, here and in stores behind URLs: files put there, images listed; hard names, a secret."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from robustcheck_onnx.checker.images.source import ImageSource
from robustcheck_onnx.checker.storage.places import Url, parse_place

ODD = "ein Ort/100%/ü €"  # spaces, a percent sign that escapes nothing, letters beyond ASCII
SECRET = "hunter2hunter2"  # no real one


def url_of(text: str) -> Url:
    place = parse_place(text)
    assert isinstance(place, Url)
    return place


def put(store: Any, folder: Path, at: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/{at}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def contents(source: ImageSource) -> list[tuple[str, str | None]]:
    return [(entry.name, source.digest(place)) for place, entry in enumerate(source.entries)]


def png(level: int) -> bytes:
    """A red picture of one level."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(names: Sequence[str], folder: str = ".") -> Path:
    """Write pictures of rising levels, and return the folder."""
    for level, name in enumerate(names):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(level))
    return Path(folder)


def shard(path: str, members: dict[str, bytes]) -> Path:
    """Write a tar file, and return its path."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return Path(path)
