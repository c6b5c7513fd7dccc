"""Stores behind URLs for the tests: names that are hard to quote, a secret, files put there, images listed."""

from pathlib import Path
from typing import Any

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
