"""Images that fake outlier features, or say less than they seem, never give PASS.

The models pass on photos, so each WARN below is the images' doing alone. In `make test` the model looks its
representations up: what is said of the images does not depend on the model; `make test-long` has real networks.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.report.record import Report
from support import PHOTOS, Place, levels, lookup

TRAPS: dict[str, tuple[Callable[[int], Image.Image], int, str]] = {
    "noise": (lambda i: Image.fromarray(levels(256, 256, 3, seed=i)), 64, "images_not_photo_like"),
    "twenty photos": (lambda i: Image.open(PHOTOS[i]), 20, "too_few_images"),
    "black images": (lambda _: Image.new("RGB", (256, 256)), 64, "images_not_photo_like"),
}


@pytest.fixture(scope="module")
def looks_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that passes, whichever of its rows the pixels of an image choose."""
    contract = lookup.lookup_contract()
    contract["preprocessing"]["resize_mode"] = "squash"
    path = tmp_path_factory.mktemp("traps") / "model.onnx"
    return lookup.write_lookup_model(path, lookup.passing_rows(3000), contract=contract)


def report_on(model: Path, trap: str) -> Report:
    make, n, reason = TRAPS[trap]
    folder = Path(trap)
    folder.mkdir()
    for i in range(n):
        make(i).save(folder / f"{i:03}.png")
    report = check(model, images=folder)
    assert report.verdict.verdict == "WARN"
    assert reason in reasons_of(report)
    return report


def reasons_of(report: Report) -> set[str]:
    return {each.id for each in report.verdict.reasons}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_model_that_passes_warns_on_bad_images(trap: str, looks_up: Path) -> None:
    report = report_on(looks_up, trap)
    assert trap != "black images" or "representations_alike" in reasons_of(report)


def test_it_passes_on_photos(looks_up: Path) -> None:
    assert check(looks_up).verdict.verdict == "PASS"


def test_a_model_that_passes_on_photos_does_not_on_parts_of_one(lookup_pass: Place) -> None:
    lookup.write_lookup_images(Path(), 80, photos=[PHOTOS[3]])
    report = check(lookup_pass[0], images=".")
    assert report.verdict.verdict == "WARN"
    assert {"too_few_images", "near_duplicate_images"} <= reasons_of(report)


@pytest.mark.long
def test_the_planted_network_passes_on_photos_and_warns_on_bad_images(planted_outlier: Path) -> None:
    assert check(planted_outlier).verdict.verdict == "PASS"
    for trap in TRAPS:
        report_on(planted_outlier, trap)


@pytest.mark.long
def test_faked_outlier_features_of_a_supervised_network_are_seen_through(efficientnet_lite0: Path) -> None:
    report = report_on(efficientnet_lite0, "noise")
    assert "one_sided" in reasons_of(report)
    assert report.evidence.statistics.persistent  # the fake is there: noise makes constant large features
    assert not check(efficientnet_lite0).evidence.statistics.persistent
