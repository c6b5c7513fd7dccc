"""Parts of one photo are recognised by their keypoints, different photos are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from robustcheck_onnx.checker.images import keypoints
from robustcheck_onnx.checker.images.keypoints import SIGMAS, Gallery, find
from support import PHOTOS
from support.skimage_data import photo

Transpose = Image.Transpose


def table(points: bytes) -> np.ndarray:
    return np.frombuffer(points, np.uint8).reshape(-1, 23).astype(int)


def is_known(points: bytes, *kept: bytes) -> bool:
    gallery = Gallery(len(kept))
    for other in kept:
        gallery.add(other)
    return gallery.has_part_of(points)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_blob_is_found_where_and_as_large_as_it_is(level: int) -> None:
    # Gaussians G(s) blurred by G(σ): the difference to the next level, σ√2, peaks where s² = σ·σ√2 (in two dimensions)
    size = SIGMAS[level] * 2**0.25
    rows, columns = np.mgrid[:96, :96]
    blob = 200 * np.exp(-((rows - 40) ** 2 + (columns - 55) ** 2) / (2 * size**2))
    first = table(find(Image.fromarray(blob.astype(np.uint8))))[0]
    assert tuple(first[:3]) == (55, 40, level)


@pytest.mark.parametrize("turn", list(Transpose))
def test_mirroring_and_turning_moves_points_and_changes_no_description(turn: Image.Transpose) -> None:
    square = photo("astronaut.png").crop((100, 0, 356, 256)).resize((96, 96))
    plain, turned = find(square), find(square.transpose(turn))
    places = np.zeros((96, 96), np.uint8)
    for column, row in table(plain)[:, :2]:
        places[row, column] = 1
    moved = np.argwhere(np.asarray(Image.fromarray(places).transpose(turn)))
    a, b = table(plain), table(turned)
    assert {(row, column) for column, row in b[:, :2]} == set(map(tuple, moved.tolist()))
    by_strength = np.abs(a[:, 3:] - b[:, 3:]).max(axis=1)  # both lists begin with the strongest
    assert np.mean(by_strength <= 2) > 0.9  # two of 255: rounding


def test_descriptions_ignore_contrast_and_brightness() -> None:
    grey = np.asarray(photo("coffee.png").convert("L"), dtype=float)
    a, b = (
        table(find(Image.fromarray((gain * grey + offset).astype(np.uint8)))) for gain, offset in ((1, 0), (0.5, 60))
    )
    same = [(p[3:] - q[3:]) for p in a for q in b if (p[:3] == q[:3]).all()]
    assert len(same) >= 24
    assert np.median(np.abs(same).max(axis=1)) <= 4


def versions(crop: Image.Image) -> list[Image.Image]:
    return [
        crop,
        crop.transpose(Transpose.FLIP_LEFT_RIGHT),
        crop.transpose(Transpose.ROTATE_90),
        crop.transpose(Transpose.TRANSVERSE),
        crop.rotate(17, Image.Resampling.BICUBIC),
        ImageEnhance.Brightness(crop).enhance(0.6),
        crop.resize((crop.width // 2, crop.height // 2)),
    ]


@pytest.mark.long
def test_parts_are_known() -> None:
    known = []
    for path in PHOTOS[::4]:
        whole = Image.open(path)
        points = find(whole)
        for part in ((0.0, 0.0, 0.7, 0.7), (0.2, 0.1, 0.9, 0.9), (0.1, 0.3, 0.8, 1.0)):
            left, top, right, bottom = part
            crop = whole.crop((left * whole.width, top * whole.height, right * whole.width, bottom * whole.height))
            known.append([is_known(find(version), points) for version in versions(crop)])
    as_is, mirrored, turned, turned_mirrored, tilted, darker, smaller = np.mean(known, axis=0)
    assert min(as_is, mirrored, turned, turned_mirrored, darker, smaller) > 0.8  # measured: 0.84 or more
    assert tilted > 0.5  # measured: 0.64


@pytest.mark.long
def test_no_photo_is_taken_for_a_part_of_another() -> None:
    found = [find(Image.open(path)) for path in PHOTOS]
    for index, points in enumerate(found):
        assert not is_known(points, b"", *found[:index]), PHOTOS[index].name


def test_halves_of_a_photo_are_not_parts_of_each_other() -> None:
    for path in PHOTOS[::6]:
        whole = Image.open(path)
        middle = whole.width // 2
        left, right = whole.crop((0, 0, middle, whole.height)), whole.crop((middle, 0, whole.width, whole.height))
        # the Brandenburg Gate's right half is its left half, mirrored
        assert is_known(find(left), find(right)) == (path.name == "building-brandenburg-gate.jpg"), path.name


def test_a_similarity_is_needed() -> None:
    rng = np.random.default_rng(0)
    rng_places = rng.uniform(0, 96, (12, 2))
    one = np.column_stack([rng_places, np.log(rng.choice(SIGMAS, 12))])
    z = rng_places @ [1, 1j]
    for zoom, turn, mirror in ((1.0, 0.0, False), (0.6, 1.0, False), (1.7, 2.5, True)):
        mapped = zoom * np.exp(1j * turn) * (z.conj() if mirror else z) + (5 - 3j)
        other = np.column_stack([mapped.real, mapped.imag, one[:, 2] + np.log(zoom)])
        assert keypoints._share_a_similarity(one, other)
        assert not keypoints._share_a_similarity(one[:5], other[:5])  # too few
        stretched = np.column_stack([3 * mapped.real, mapped.imag, other[:, 2]])
        assert not keypoints._share_a_similarity(one, stretched)
        wrong_scales = np.column_stack([mapped.real, mapped.imag, other[:, 2] + 1.0])
        assert not keypoints._share_a_similarity(one, wrong_scales)
    assert not keypoints._share_a_similarity(one, np.column_stack([rng.uniform(0, 96, (12, 2)), one[:, 2]]))


def test_images_without_keypoints_are_like_nothing() -> None:
    flat = Image.new("RGB", (200, 100), "red")
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    small = photo("coffee.png").resize((15, 40))
    for image in (flat, ramp, small):
        assert find(image) == b""
    assert not is_known(b"", b"")
    assert not Gallery(3).has_part_of(find(photo("coffee.png")))


def test_sizes() -> None:
    for size in ((3000, 40), (40, 3000), (97, 31), (16, 16)):
        points = find(photo("coffee.png").resize(size))
        assert len(points) % 23 == 0
        assert len(points) <= 32 * 23
        assert (table(points)[:, 2] >= 1).all()
        assert (table(points)[:, 2] <= 4).all()
    blurred = photo("coffee.png").filter(ImageFilter.GaussianBlur(60))
    assert len(find(blurred)) < len(find(photo("coffee.png")))


def test_a_full_gallery_stays_as_it_is() -> None:
    names = ["astronaut.png", "chelsea.png", "coffee.png"]
    points = [find(photo(name)) for name in names]
    gallery = Gallery(2)
    for one in points:
        gallery.add(one)
    assert [gallery.has_part_of(one) for one in points] == [True, True, False]
