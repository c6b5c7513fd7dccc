"""Numbered names in one word: what they stand for, and that all of them must be there."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.images import braces, source
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


def shards(folder: Path, photos: list[Path]) -> None:
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w") as archive:
            for photo in photos[number::3]:
                member = tarfile.TarInfo(photo.name)
                member.size = photo.stat().st_size
                archive.addfile(member, io.BytesIO(photo.read_bytes()))


def test_shards_here_and_in_a_store_are_the_same_images(
    lookup_pass: tuple[Path, Path], tmp_path: Path, memory: Any
) -> None:
    shards(tmp_path / "s", sorted(lookup_pass[1].iterdir())[:9])
    put(memory, tmp_path / "s", "s")
    folder = contents(source.open_images(tmp_path / "s"))
    assert len(folder) == 9
    assert contents(source.open_images(f"{tmp_path}/s/train-{{000000..000002}}.tar")) == folder
    assert contents(source.open_images("memory://s/train-{000000..000002}.tar")) == folder
    assert len(contents(source.open_images(f"{tmp_path}/s/train-{{000000,000002}}.tar"))) == 6
    with pytest.raises(UsageError, match=r"train-000003\.tar is missing; all 4 names of a pattern must be there"):
        source.open_images(f"{tmp_path}/s/train-{{000000..000003}}.tar")
    with pytest.raises(UsageError, match=r"train-000003\.tar"):
        source.open_images("memory://s/train-{000000..000003}.tar")


def test_a_file_whose_name_has_braces_is_that_file(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    photo = next(iter(sorted(lookup_pass[1].iterdir())))
    odd = tmp_path / "a{1,2}.png"
    odd.write_bytes(photo.read_bytes())
    assert len(source.open_images(odd)) == 1
