"""`robustcheck shift --target` as a whole, on classes told by a colour, and what it refuses."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.shift.predicted import Predicted
from robustcheck_onnx.checker.shift.run import ShiftReport, document_of, measure_shift
from support import lookup, onnx_models, raised
from support.onnx_models import COLOUR_PX
from support.screens import shown

COLOURS = 255.0 * np.vstack([np.eye(3), np.ones(3)])


def _images(folder: Path, n: int, spread: float, seed: int, *, only: int | None = None) -> Path:
    """`n` images in folders of their class, each its colour mixed with a random one: `spread` of it."""
    rng = default_rng(seed)
    for number in range(n):
        label = number % 4 if only is None else only
        share = spread * rng.random()
        colour = (1 - share) * COLOURS[label] + share * rng.uniform(0, 255, 3)
        pixels = np.clip(colour + rng.normal(0, 1, (COLOUR_PX, COLOUR_PX, 3)), 0, 255).astype(np.uint8)
        (folder / f"{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{label}/{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    for name, end in {"model": "Identity", "softmax": "Softmax", "log": "LogSoftmax", "sigmoid": "Sigmoid"}.items():
        onnx_models.colour_classifier(folder / f"{name}.onnx", COLOURS / 255, end)
    (folder / "plain.json").write_text(json.dumps(lookup.lookup_preprocessing(COLOUR_PX)))
    _images(folder / "val", 200, 1.0, 0)
    _images(folder / "hard", 160, 1.6, 1)
    _images(folder / "one", 60, 0.1, 2, only=2)
    _images(folder / "few", 12, 1.0, 3)
    shutil.copytree(folder / "val", folder / "copy")
    np.save(folder / "huge.npy", np.full((60, 3, COLOUR_PX, COLOUR_PX), 3e38, np.float32))
    np.save(folder / "tensors.npy", default_rng(4).random((60, 3, COLOUR_PX, COLOUR_PX), dtype=np.float32))
    return folder


def _run(place: Path, *targets: str, model: str = "model.onnx", inside: str = "val", **options: Any) -> ShiftReport:
    options = {"preprocess": str(place / "plain.json")} | options
    return measure_shift(place / model, place / inside, target=[str(place / each) for each in targets], **options)


def _predicted(report: ShiftReport) -> Predicted:
    assert report.predicted is not None
    return report.predicted


def _scores(place: Path, folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and whether each image is right, in NumPy alone, in any order."""
    files = sorted((place / folder).rglob("*.png"))
    means = np.array([np.asarray(Image.open(file), float).mean(axis=(0, 1)) for file in files])
    logits = -8 * (((means[:, None] - COLOURS) / 255) ** 2).sum(axis=-1)
    p = np.exp(logits - logits.max())
    right = logits.argmax(axis=1) == [int(file.parent.name) for file in files]
    return (p / p.sum(axis=1, keepdims=True)).max(axis=1), right


@pytest.fixture(scope="module")
def report(place: Path) -> ShiftReport:
    return _run(place, "hard", "few", "one", shifted=[str(place / "hard")])


def test_predictions_are_those_of_a_plain_script(place: Path, report: ShiftReport) -> None:
    target, *_ = _predicted(report).targets
    (inside, right), (outside, truth) = _scores(place, "val"), _scores(place, "hard")
    assert report.in_distribution.accuracy.n_correct == right.sum()
    assert 0.7 < right.mean() < 0.99
    *by_atc, doc = target.estimates
    assert [each.method for each in target.estimates] == ["atc_confidence", "atc_entropy", "doc"]
    threshold = np.sort(inside)[(~right).sum()]
    assert by_atc[0].accuracy == pytest.approx((outside >= threshold).mean(), abs=1 / 160)
    assert doc.accuracy == pytest.approx(right.mean() - inside.mean() + outside.mean(), abs=1e-5)
    assert (doc.low, doc.high) == (None, None)
    assert target.mean_confidence == pytest.approx(outside.mean(), abs=1e-5)
    for each in by_atc:
        assert each.low < each.accuracy < each.high  # type: ignore[operator]
    for each in target.estimates:
        assert each.drop_points == pytest.approx(100 * (right.mean() - each.accuracy))
        assert each.assumes
    # the same images were given with labels, too
    assert target.measured == report.shifted[0].result.accuracy
    assert report.shifted[0].result.accuracy.n_correct == truth.sum()
    assert report.agreement.outcome == "nothing to compare"
    assert ShiftReport.model_validate_json(report.model_dump_json()) == report


def test_a_softmax_at_the_end_changes_no_prediction(place: Path, report: ShiftReport) -> None:
    logits = [each.accuracy for each in _predicted(report).targets[0].estimates]
    for model, kind in (("softmax.onnx", "probabilities"), ("log.onnx", "log-probabilities")):
        other = _run(place, "hard", model=model)
        found = _predicted(other)
        assert found.scores == kind
        assert [each.accuracy for each in found.targets[0].estimates] == pytest.approx(logits, abs=1 / 160)
        assert any(f"The class output holds {kind}" in note for note in other.notes)


def test_too_few_images_and_one_class_are_told(place: Path, report: ShiftReport) -> None:
    sampled = _run(place, "hard", max_images=40)
    _, few, one = _predicted(report).targets
    for estimates, why in (
        (few.estimates, "12 usable target images; at least 50 are needed"),
        (_predicted(sampled).targets[0].estimates, "40 labelled in-distribution images; at least 50 are needed"),
    ):
        assert {(each.accuracy, each.not_established) for each in estimates} == {(None, why)}
    assert (one.classes.n_classes, one.classes.top_share) == (1, 1)
    assert one.classes.distance > 0.5
    assert "All images of one are predicted to be of one class." in report.notes
    assert not any("label shift" in note for note in report.notes)  # one class says it already
    assert "hard: 40 of 160 images, drawn by seed." in sampled.notes


def test_classes_that_shift_and_classes_without_labels_are_told(place: Path, tmp_path: Path) -> None:
    """The labelled images are of one class and all right: then ATC is not established."""
    inside = _images(tmp_path / "part", 60, 0.1, 5, only=1)
    report = _run(place, "hard", inside=str(inside))
    notes = " ".join(report.notes)
    assert "The labelled images of part are of 1 of 4 classes" in notes
    assert "Other classes are predicted on hard than on part" in notes
    confidence, entropy, doc = _predicted(report).targets[0].estimates
    assert confidence.not_established == entropy.not_established
    assert confidence.not_established.startswith("every labelled image is predicted right; ATC's threshold needs")
    assert doc.accuracy is not None


def test_a_target_may_be_any_image_set_and_the_same_call_gives_the_same(place: Path) -> None:
    report = _run(place, "tensors.npy", "hard", seed=-1)
    assert _predicted(report).targets[0].n_images == 60
    assert _run(place, "tensors.npy", "hard", seed=-1, batch_size=7).predicted == report.predicted


@pytest.mark.process
def test_behind_the_wall_it_is_the_same(place: Path, wall: None) -> None:
    ours, theirs = (_run(place, "hard", isolate=isolate) for isolate in (True, False))
    assert ours.predicted == theirs.predicted


def test_bad_input(place: Path) -> None:
    no_confidence = r"no confidence \(it ends in Sigmoid: one yes or no for each class"
    raised(CannotAssessError, no_confidence, _run, place, "hard", model="sigmoid.onnx")
    for target, fault, said in (
        ("val", UsageError, "val: image set is given twice"),
        ("huge.npy", CannotAssessError, r"huge\.npy are not all numbers"),  # on the target alone
        ("copy", UsageError, "copy: images are those of .*val; a target must have other images"),
    ):
        raised(fault, said, _run, place, target)
    named = place / "model.onnx", place / "val"
    raised(UsageError, r"it must be an image set, \[NAME=\]PATH", measure_shift, *named, target=" ")


def test_the_terminal_report(report: ShiftReport) -> None:
    text = shown(report)
    assert "95 %" not in text[text.index("Predicted accuracy") :]
    flat = " ".join(text.split())
    for said in (
        "ATC, confidence", "ATC, entropy", "12 usable target images", "measured", "top-1", "nothing to compare", "WARN",
        "accuracy falls by as many points as the mean confidence does", "predictions, not measurements",
        "interval is one of resampling", "57 and 44 of 100", "predicted on few: not established", "change no verdict",
    ):  # fmt: skip
        assert said in flat
    assert re.search("predicted={'hard': '.*'few': 'not established'", repr(report))
    assert "predicted accuracy on few: not established" in document_of(report).one_line
