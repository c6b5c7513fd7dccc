"""Numbered names in one word: what they stand for, and that all of them must be there."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.images import braces, source
from support import PHOTOS
from support.stores import contents, put


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{000..002}", ["000", "001", "002"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]),
        ("{model}-{1..2}", ["{model}-1", "{model}-2"]),
    ],
)
def test_what_a_pattern_stands_for(text: str, names: list[str]) -> None:
    assert braces.is_pattern(text)
    assert braces.expand(text) == names


@pytest.mark.parametrize(("text", "said"), [("{3..1}", "must run upwards"), ("{0..999999}", "more than 100,000")])
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        braces.expand(text)


def test_shards_here_and_in_a_store_are_the_same_images(tmp_path: Path, memory: Any) -> None:
    (tmp_path / "s").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / "s" / f"train-00000{number}.tar", "w") as archive:
            for photo in PHOTOS[number:9:3]:
                archive.add(photo, photo.name)
    put(memory, tmp_path / "s", "s")
    folder = contents(source.open_images(tmp_path / "s"))
    assert len(folder) == 9
    assert len(contents(source.open_images(f"{tmp_path}/s/train-{{000000,000002}}.tar"))) == 6
    for root, said in (
        (f"{tmp_path}/s", "is missing; all 4 names of a pattern must be there"),
        ("memory://s", "file cannot be read"),
    ):
        assert contents(source.open_images(root + "/train-{000000..000002}.tar")) == folder
        with pytest.raises(UsageError, match=rf"train-000003\.tar.* {said}"):
            source.open_images(root + "/train-{000000..000003}.tar")


def test_a_file_whose_name_has_braces_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a{1,2}.jpg").write_bytes(PHOTOS[0].read_bytes())
    assert len(source.open_images(tmp_path / "a{1,2}.jpg")) == 1
