"""Images that fake outlier features, or say less than they seem, never give PASS.

The models pass on photos, so each WARN below is the images' doing alone. In `make test` the model looks its
representations up: what is said of the images does not depend on the model; `make test-long` has real networks.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.verdict.rule import Verdict
from support import PHOTOS, lookup

N = 64
Rng = np.random.Generator
Make = Callable[[Rng, int], Image.Image]


def noise(rng: Rng, _: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))


def dead_leaves(rng: Rng, _: int) -> Image.Image:
    image = Image.new("RGB", (256, 256))
    draw = ImageDraw.Draw(image)
    for radius in (6 / np.sqrt(rng.uniform(0.003, 1, 1500))).astype(int):
        x, y = rng.integers(0, 256, 2)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def one_photo(_: Rng, __: int) -> Image.Image:
    return Image.open(PHOTOS[3]).convert("RGB")


def one_photo_brighter(rng: Rng, i: int) -> Image.Image:
    return ImageEnhance.Brightness(one_photo(rng, i)).enhance(1 + i / 200)


def wide_part(photos: slice, rng: Rng, i: int) -> Image.Image:
    """60 to 100 % of each edge, in one of the 8 orientations."""
    photo = Image.open(PHOTOS[photos][i % len(PHOTOS[photos])])
    width, height = (int(rng.uniform(0.6, 1) * edge) for edge in photo.size)
    x, y = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
    part = photo.crop((x, y, x + width, y + height)).rotate(90 * (i % 4), expand=True)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 8 < 4 else part


TRAPS: dict[str, tuple[Make, int, str]] = {
    "noise": (noise, N, "images_not_photo_like"),
    "dead leaves": (dead_leaves, N, "images_not_photo_like"),
    "one photo in many brightnesses": (one_photo_brighter, N, "near_duplicate_images"),
    "parts of one photo": (partial(wide_part, slice(3, 4)), N, "too_few_images"),
    "parts of three photos": (partial(wide_part, slice(3)), N, "too_few_images"),
    "twenty photos": (lambda rng, i: Image.open(PHOTOS[i]), 20, "too_few_images"),
    "black images": (lambda rng, i: Image.new("RGB", (256, 256)), N, "images_not_photo_like"),
}
SHORT = ("noise", "twenty photos", "black images")


@pytest.fixture(scope="module")
def looks_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that passes, whichever of its rows the pixels of an image choose."""
    rng = np.random.default_rng(3)
    h = rng.normal(size=(3000, 512)) + rng.normal(0, 0.5, 512)
    h[:, 7] += 20
    h *= rng.uniform(0.5, 2, (3000, 1))
    contract = lookup.lookup_contract()
    contract["preprocessing"]["resize_mode"] = "squash"
    return lookup.write_lookup_model(tmp_path_factory.mktemp("traps") / "model.onnx", h, contract=contract)


def verdict_on(model: Path, trap: str, folder: Path) -> tuple[Verdict, set[str]]:
    make, n, _ = TRAPS[trap]
    rng = np.random.default_rng(0)
    for i in range(n):
        make(rng, i).save(folder / f"{i:03}.png")
    verdict = check(model, images=folder).verdict
    return verdict, {reason.id for reason in verdict.reasons}


@pytest.mark.parametrize("trap", SHORT)
def test_a_model_that_passes_warns_on_bad_images(trap: str, looks_up: Path, tmp_path: Path) -> None:
    verdict, reasons = verdict_on(looks_up, trap, tmp_path)
    assert verdict.verdict == "WARN"
    assert TRAPS[trap][2] in reasons
    assert trap != "black images" or "representations_alike" in reasons


def test_it_passes_on_photos_and_not_without_images(looks_up: Path, tmp_path: Path) -> None:
    assert check(looks_up).verdict.verdict == "PASS"
    for i in range(3):
        (tmp_path / f"{i:03}.jpg").write_bytes(b"no image")
    with pytest.raises(CannotAssessError, match="number of usable images is 0 of 3"):
        check(looks_up, images=tmp_path)


def test_a_model_that_passes_on_photos_does_not_on_parts_of_one(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    assert check(model, images=photos).verdict.verdict == "PASS"
    lookup.write_lookup_images(tmp_path, 80, photos=[PHOTOS[3]])
    verdict = check(model, images=tmp_path).verdict
    assert verdict.verdict == "WARN"
    assert {"too_few_images", "near_duplicate_images"} <= {reason.id for reason in verdict.reasons}


@pytest.mark.long
@pytest.mark.parametrize("trap", TRAPS)
def test_the_planted_network_warns_on_bad_images(trap: str, planted_outlier: Path, tmp_path: Path) -> None:
    verdict, reasons = verdict_on(planted_outlier, trap, tmp_path)
    assert verdict.verdict == "WARN"
    assert TRAPS[trap][2] in reasons


@pytest.mark.long
def test_the_planted_network_passes_on_photos(planted_outlier: Path) -> None:
    assert check(planted_outlier).verdict.verdict == "PASS"


@pytest.mark.long
@pytest.mark.parametrize("make", [noise, dead_leaves])
def test_faked_outlier_features_of_a_supervised_network_are_seen_through(
    make: Make, efficientnet_lite0: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for i in range(N):
        make(rng, i).save(tmp_path / f"{i:03}.png")
    report = check(efficientnet_lite0, images=tmp_path)
    reasons = {r.id for r in report.verdict.reasons}
    assert {"rectified", "images_not_photo_like"} <= reasons
    assert report.evidence.statistics.persistent  # the fake is there: noise makes constant large features
    assert not check(efficientnet_lite0).evidence.statistics.persistent
