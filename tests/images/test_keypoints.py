"""Parts of one photo are recognised by their keypoints, different photos are not."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from robustcheck_onnx.checker.images import sanity
from robustcheck_onnx.checker.images.sanity import SIGMAS, Gallery, find_keypoints
from support import PHOTOS
from support.skimage_data import photo


def table(points: bytes) -> np.ndarray:
    return np.frombuffer(points, np.uint8).reshape(-1, 23).astype(int)


def is_known(points: bytes, *kept: bytes) -> bool:
    gallery = Gallery(len(kept))
    for other in kept:
        gallery.add(other)
    return gallery.has_part_of(points)


def test_a_blob_is_found_where_and_as_large_as_it_is() -> None:
    # Gaussians G(s) blurred by G(σ): the difference to the next level, σ√2, peaks where s² = σ·σ√2 (in two dimensions)
    rows, columns = np.mgrid[:96, :96]
    for level in (1, 2, 3, 4):
        size = SIGMAS[level] * 2**0.25
        blob = 200 * np.exp(-((rows - 40) ** 2 + (columns - 55) ** 2) / (2 * size**2))
        first = table(find_keypoints(Image.fromarray(blob.astype(np.uint8))))[0]
        assert tuple(first[:3]) == (55, 40, level)


def test_mirroring_and_turning_moves_points_and_changes_no_description() -> None:
    square = photo("astronaut.png").crop((100, 0, 356, 256)).resize((96, 96))
    plain = table(find_keypoints(square))
    places = np.zeros((96, 96), np.uint8)
    places[plain[:, 1], plain[:, 0]] = 1
    for turn in list(Image.Transpose):
        turned = table(find_keypoints(square.transpose(turn)))
        moved = np.argwhere(np.asarray(Image.fromarray(places).transpose(turn)))
        assert {*map(tuple, turned[:, 1::-1].tolist())} == {*map(tuple, moved.tolist())}
        by_strength = np.abs(plain[:, 3:] - turned[:, 3:]).max(axis=1)  # both lists begin with the strongest
        assert np.mean(by_strength <= 2) > 0.9  # two of 255: rounding


@pytest.mark.long
def test_parts_are_known() -> None:
    known = []
    for path in PHOTOS[::4]:
        whole = Image.open(path)
        points = find_keypoints(whole)
        for part in ((0.0, 0.0, 0.7, 0.7), (0.2, 0.1, 0.9, 0.9), (0.1, 0.3, 0.8, 1.0)):
            left, top, right, bottom = np.multiply(part, whole.size * 2)
            crop = whole.crop((left, top, right, bottom))
            versions = [crop, *(crop.transpose(turn) for turn in [*Image.Transpose][::2])]  # mirrored, turned, both
            versions += [ImageEnhance.Brightness(crop).enhance(0.6), crop.reduce(2)]
            versions.append(crop.rotate(17, Image.Resampling.BICUBIC))
            known.append([is_known(find_keypoints(version), points) for version in versions])
    *shares, tilted = np.mean(known, axis=0)
    assert min(shares) > 0.8  # measured: 0.84 or more
    assert tilted > 0.5  # measured: 0.64


@pytest.mark.long
def test_no_photo_is_taken_for_a_part_of_another() -> None:
    found = [find_keypoints(Image.open(path)) for path in PHOTOS]
    for index, points in enumerate(found):
        assert not is_known(points, b"", *found[:index]), PHOTOS[index].name


def test_halves_of_a_photo_are_not_parts_of_each_other() -> None:
    for path in PHOTOS[::6]:
        whole = Image.open(path)
        width, height = whole.size
        left, right = (whole.crop((at, 0, at + width // 2, height)) for at in (0, width // 2))
        # the Brandenburg Gate's right half is its left half, mirrored
        assert is_known(find_keypoints(left), find_keypoints(right)) == (
            path.name == "building-brandenburg-gate.jpg"
        ), path.name


def test_a_similarity_is_needed() -> None:
    rng = np.random.default_rng(0)
    z, sizes = rng.uniform(0, 96, (12, 2)) @ [1, 1j], np.log(rng.choice(SIGMAS, 12))

    def is_shared(places: NDArray[Any], at: NDArray[Any], n: int = 12) -> bool:
        one, other = np.zeros((2, 1, sanity.MOST_POINTS, 3))
        one[0, :12], other[0, :12] = (np.column_stack([p.real, p.imag, s]) for p, s in ((z, sizes), (places, at)))
        return sanity._share_a_similarity(one, other, np.arange(sanity.MOST_POINTS)[None] < n)

    for zoom, turn, mirror in ((1.0, 0.0, False), (0.6, 1.0, False), (1.7, 2.5, True)):
        mapped = zoom * np.exp(1j * turn) * (z.conj() if mirror else z) + (5 - 3j)
        zoomed = sizes + np.log(zoom)
        assert is_shared(mapped, zoomed)
        assert not is_shared(mapped, zoomed, 5)  # too few
        assert not is_shared(mapped + 2 * mapped.real, zoomed)  # stretched
        assert not is_shared(mapped, zoomed + 1.0)
    assert not is_shared(rng.uniform(0, 96, (12, 2)) @ [1, 1j], sizes)


def test_images_without_keypoints_are_like_nothing() -> None:
    coffee = photo("coffee.png")
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    for image in (Image.new("RGB", (200, 100), "red"), ramp, coffee.resize((15, 40))):
        assert find_keypoints(image) == b""
    assert not is_known(b"", b"")
    assert not Gallery(3).has_part_of(find_keypoints(coffee))
    assert len(find_keypoints(coffee.filter(ImageFilter.GaussianBlur(60)))) < len(find_keypoints(coffee))
    for size in ((3000, 40), (40, 3000), (97, 31), (16, 16)):
        points = table(find_keypoints(coffee.resize(size)))
        assert len(points) <= 32
        assert {*points[:, 2]} <= {1, 2, 3, 4}


def test_a_full_gallery_stays_as_it_is() -> None:
    points = [find_keypoints(photo(name)) for name in ("astronaut.png", "chelsea.png", "coffee.png")]
    gallery = Gallery(2)
    for one in points:
        gallery.add(one)
    assert [gallery.has_part_of(one) for one in points] == [True, True, False]
