"""Thumbnails: the right pixels, upright, without metadata; an image that changed or fails has none."""

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx.checker.evidence import SeenImage
from robustcheck_onnx.checker.images.source import Thumbnails, make_thumbnails, open_images

RED, BLUE = (220, 20, 20), (20, 20, 220)


def photo(name: str, orientation: int = 1) -> str:
    """A photo that is red left and blue right as stored; returns its digest."""
    image = Image.new("RGB", (300, 120), RED)
    image.paste(BLUE, (150, 0, 300, 120))
    exif = Image.Exif()
    exif.update({0x0112: orientation, 0x010E: "secret place"})
    image.save(name, exif=exif, comment=b"secret comment", quality=95)
    return digest(Path(name).read_bytes())


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def made(folder: str, names: dict[str, str]) -> Thumbnails:
    """The thumbnails of the images with these digests and names."""
    wanted = [SeenImage(name=name, digest=known, kurtosis=1.0, z=()) for known, name in names.items()]
    return make_thumbnails(wanted, folder)


def opened(uri: str) -> Image.Image:
    """The picture, which holds pixels only."""
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    content = base64.b64decode(body)
    image = Image.open(io.BytesIO(content))
    image.load()
    assert (dict(image.getexif()), "comment" in image.info, b"secret" in content) == ({}, False, False)
    return image


def test_a_thumbnail_is_small_upright_and_holds_pixels_only() -> None:
    plain, turned = photo("plain.jpg"), photo("turned.jpg", orientation=6)  # 6: turn clockwise
    found = made(".", {plain: "plain.jpg", turned: "turned.jpg"})
    assert (found.missing, set(found.uris)) == ({}, {plain, turned})
    # left turned clockwise is up
    for known, size, red, blue in ((plain, (96, 38), (10, 19), (85, 19)), (turned, (38, 96), (19, 10), (19, 85))):
        image = opened(found.uris[known])
        assert image.size == size
        assert image.getpixel(red) == pytest.approx(RED, abs=12)
        assert image.getpixel(blue) == pytest.approx(BLUE, abs=12)


def test_what_changed_is_gone_or_broken_is_left_out_with_a_word() -> None:
    for folder, orientation in (("a", 1), ("b", 3)):  # of two files of one name the one that was measured is taken
        Path(folder).mkdir()
        good = photo(f"{folder}/x.jpg", orientation)
    photo("changed.jpg")
    Path("broken.jpg").write_bytes(b"\xff\xd8 no photo")
    broken = digest(b"\xff\xd8 no photo")
    names = {good: "b/x.jpg", "sha256:0": "changed.jpg", "sha256:1": "gone.jpg", broken: "broken.jpg"}
    found = made(".", names)
    assert opened(found.uris.pop(good)).getpixel((10, 19)) == pytest.approx(BLUE, abs=12)
    assert found.uris == {}
    assert "decode" in found.missing.pop(broken)
    assert found.missing == {
        "sha256:0": "the file is not the one that was measured", "sha256:1": "not found again",
    }  # fmt: skip
    assert "could not be opened again" in made("nowhere", names).missing[good]


def test_tensors_have_none() -> None:
    np.save("t.npy", np.zeros((1, 3, 4, 4), np.float32))
    known = str(open_images("t.npy").digest(0))
    found = made("t.npy", {known: "t.npy#00000000"})
    assert (found.uris, found.missing) == ({}, {known: "given as a preprocessed tensor"})
