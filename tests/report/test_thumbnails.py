"""Thumbnails: the right pixels, upright, without metadata; an image that changed or fails has none."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx.checker.evidence import Gallery, SeenImage
from robustcheck_onnx.checker.report.html import thumbnails
from robustcheck_onnx.checker.report.record import Failed, Outcome, Report

PHOTO_SIZE = (300, 120)


def photo(path: Path, orientation: int = 1) -> str:
    """A photo that is red left and blue right as stored; returns its digest."""
    image = Image.new("RGB", PHOTO_SIZE, (220, 20, 20))
    image.paste((20, 20, 220), (PHOTO_SIZE[0] // 2, 0, *PHOTO_SIZE))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "secret place"
    image.save(path, exif=exif, comment=b"secret comment", quality=95)
    return digest(path)


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(*images: tuple[str, str]) -> Outcome:
    rows = tuple(SeenImage(name=name, digest=known, kurtosis=1.0, z=()) for name, known in images)
    kept = Gallery(features=(), shown=(), most=rows, least=rows[:1])
    evidence = type("E", (), {"gallery": kept})
    return Report.model_construct(evidence=evidence)  # nothing else of a report is looked at


def opened(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    image.load()
    return image


def test_a_thumbnail_is_small_upright_and_holds_pixels_only(tmp_path: Path) -> None:
    plain, turned = photo(tmp_path / "plain.jpg"), photo(tmp_path / "turned.jpg", orientation=6)  # 6: turn clockwise
    found = thumbnails.make([outcome(("plain.jpg", plain), ("turned.jpg", turned))], tmp_path)
    assert set(found.uris) == {plain, turned}
    assert found.missing == {}
    flat, upright = opened(found.uris[plain]), opened(found.uris[turned])
    assert flat.size == (96, 38)
    assert upright.size == (38, 96)
    assert flat.getpixel((10, 19)) == pytest.approx((220, 20, 20), abs=12)
    assert flat.getpixel((85, 19)) == pytest.approx((20, 20, 220), abs=12)
    assert upright.getpixel((19, 10)) == pytest.approx((220, 20, 20), abs=12)  # left turned clockwise is up
    assert upright.getpixel((19, 85)) == pytest.approx((20, 20, 220), abs=12)
    for image, uri in ((flat, found.uris[plain]), (upright, found.uris[turned])):
        assert not dict(image.getexif())
        assert "comment" not in image.info
        assert b"secret" not in base64.b64decode(uri.partition(",")[2])


def test_what_changed_is_gone_or_broken_is_left_out_with_a_word(tmp_path: Path) -> None:
    good = photo(tmp_path / "good.jpg")
    photo(tmp_path / "changed.jpg", orientation=3)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
    broken = digest(tmp_path / "broken.jpg")
    wanted = outcome(("good.jpg", good), ("changed.jpg", "sha256:0"), ("gone.jpg", "sha256:1"), ("broken.jpg", broken))
    found = thumbnails.make([wanted], tmp_path)
    assert set(found.uris) == {good}
    assert found.missing["sha256:0"] == "the file is not the one that was measured"
    assert found.missing["sha256:1"] == "not found again"
    assert "decode" in found.missing[broken]
    assert "could not be opened again" in thumbnails.make([wanted], tmp_path / "nowhere").missing["sha256:0"]


def test_tensors_have_none(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 4, 4), np.float32)
    np.save(tmp_path / "t.npy", values)
    from robustcheck_onnx.checker.images.source import open_images

    source = open_images(tmp_path / "t.npy")
    known = source.digest(0)
    assert known is not None
    found = thumbnails.make([outcome((source.entries[0].name, known))], tmp_path / "t.npy")
    assert found.uris == {}
    assert found.missing == {known: "given as a preprocessed tensor"}


def test_of_two_files_of_one_name_the_one_that_was_measured_is_taken(tmp_path: Path) -> None:
    for folder, orientation in (("a", 1), ("b", 3)):
        (tmp_path / folder).mkdir()
        photo(tmp_path / folder / "x.jpg", orientation)
    known = digest(tmp_path / "b" / "x.jpg")
    found = thumbnails.make([outcome(("b/x.jpg", known))], tmp_path)
    assert opened(found.uris[known]).getpixel((10, 19)) == pytest.approx((20, 20, 220), abs=12)


def test_nothing_is_opened_where_nothing_is_wanted(tmp_path: Path) -> None:
    failed = Failed(model="m", message="m", hint="", exit_code=3)
    assert thumbnails.make([failed], tmp_path / "nowhere") == thumbnails.Thumbnails()
