"""Images that fake outlier features, or say less than they seem, never give PASS: real networks, real commands.

`planted_outlier` passes on photos, so each WARN below is the images' doing alone.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError
from support import PHOTOS, lookup

RNG = np.random.default_rng(0)
N = 64

pytestmark = pytest.mark.long


def noise(_: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (256, 256, 3), dtype=np.uint8))


def dead_leaves(_: int) -> Image.Image:
    image = Image.new("RGB", (256, 256))
    draw = ImageDraw.Draw(image)
    for radius in (6 / np.sqrt(RNG.uniform(0.003, 1, 1500))).astype(int):
        x, y = RNG.integers(0, 256, 2)
        colour = tuple(int(c) for c in RNG.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def gradient(_: int) -> Image.Image:
    a, b = RNG.integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, 256)[None, :, None] * np.ones((256, 1, 1))
    return Image.fromarray((a * ramp + b * (1 - ramp)).astype(np.uint8))


def one_photo(_: int) -> Image.Image:
    return Image.open(PHOTOS[3]).convert("RGB")


def one_photo_brighter(i: int) -> Image.Image:
    return ImageEnhance.Brightness(one_photo(i)).enhance(1 + i / 200)


def video_frames(i: int) -> Image.Image:
    photo = one_photo(i)
    return photo.crop((i // 8, 0, photo.width - 8 + i // 8, photo.height - 8 + i % 8))


def wide_part(photo: Image.Image, i: int) -> Image.Image:
    """60 to 100 % of each edge, in one of the 8 orientations."""
    width, height = (int(RNG.uniform(0.6, 1) * edge) for edge in photo.size)
    x, y = int(RNG.integers(photo.width - width + 1)), int(RNG.integers(photo.height - height + 1))
    part = photo.crop((x, y, x + width, y + height)).rotate(90 * (i % 4), expand=True)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 8 < 4 else part


TRAPS: dict[str, tuple[Callable[[int], Image.Image], int, str]] = {
    "noise": (noise, N, "images_not_photo_like"),
    "dead leaves": (dead_leaves, N, "images_not_photo_like"),
    "gradients": (gradient, N, "images_not_photo_like"),
    "one photo repeated": (one_photo, N, "duplicate_images"),
    "one photo in many brightnesses": (one_photo_brighter, N, "near_duplicate_images"),
    "frames of a video": (video_frames, N, "near_duplicate_images"),
    "parts of one photo": (lambda i: wide_part(one_photo(i), i), N, "too_few_images"),
    "parts of three photos": (lambda i: wide_part(Image.open(PHOTOS[i % 3]), i), N, "too_few_images"),
    "twenty photos": (lambda i: Image.open(PHOTOS[i]), 20, "too_few_images"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_the_planted_model_warns_on_bad_images(trap: str, planted_outlier: Path, tmp_path: Path) -> None:
    make, n, reason = TRAPS[trap]
    for i in range(n):
        make(i).save(tmp_path / f"{i:03}.png")
    verdict = check(planted_outlier, images=tmp_path).verdict
    assert verdict.verdict == "WARN"
    assert reason in {r.id for r in verdict.reasons}


def test_the_planted_model_passes_on_photos(planted_outlier: Path) -> None:
    assert check(planted_outlier).verdict.verdict == "PASS"


@pytest.mark.parametrize("make", [noise, dead_leaves])
def test_faked_outlier_features_of_a_supervised_network_are_seen_through(
    make: Callable[[int], Image.Image], efficientnet_lite0: Path, tmp_path: Path
) -> None:
    for i in range(N):
        make(i).save(tmp_path / f"{i:03}.png")
    report = check(efficientnet_lite0, images=tmp_path)
    reasons = {r.id for r in report.verdict.reasons}
    assert {"rectified", "images_not_photo_like"} <= reasons
    assert report.evidence.statistics.persistent  # the fake is there: noise makes constant large features
    assert not check(efficientnet_lite0).evidence.statistics.persistent


def test_black_images_are_no_evidence(planted_outlier: Path, tmp_path: Path) -> None:
    for i in range(N):
        Image.new("RGB", (256, 256)).save(tmp_path / f"{i:03}.png")
    verdict = check(planted_outlier, images=tmp_path).verdict
    assert verdict.verdict == "WARN"
    assert {"images_not_photo_like", "representations_alike"} <= {r.id for r in verdict.reasons}


def test_no_image_that_decodes_is_an_error(planted_outlier: Path, tmp_path: Path) -> None:
    for i in range(N):
        (tmp_path / f"{i:03}.jpg").write_bytes(b"no image")
    with pytest.raises(CannotAssessError, match="number of usable images is 0 of 64"):
        check(planted_outlier, images=tmp_path)


def test_a_model_that_passes_on_photos_does_not_on_parts_of_one(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    lookup.write_lookup_images(tmp_path, 80, photos=[PHOTOS[3]])
    command = [str(Path(sys.executable).parent / "robustcheck"), str(model), "-o", "json", "--images"]
    done = [subprocess.run([*command, str(folder)], capture_output=True, check=False) for folder in (photos, tmp_path)]
    assert [one.returncode for one in done] == [0, 1]
    verdict = json.loads(done[1].stdout)["verdict"]
    assert {"too_few_images", "near_duplicate_images"} <= {reason["id"] for reason in verdict["reasons"]}
