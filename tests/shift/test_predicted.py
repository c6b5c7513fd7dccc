"""Predicted accuracy: formulas against a closed form, SciPy or NumPy; `shift --target` as a whole."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import special, stats

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.questions.shift import predicted
from robustcheck_onnx.checker.questions.shift.confidence import (
    COSINES,
    ImageScores,
    NoScoresError,
    as_logits,
    describe,
    kind_of,
)
from robustcheck_onnx.checker.questions.shift.document import ShiftReport
from robustcheck_onnx.checker.questions.shift.predicted import Predicted, atc, atc_thresholds, class_shift, doc
from robustcheck_onnx.checker.questions.shift.run import measure_shift
from robustcheck_onnx.checker.report.document import document_of
from support import Patch, lookup, normal, onnx_models, raised, sized
from support.comparisons import numbers
from support.onnx_models import COLOUR_PX
from support.screens import shown


def _two_classes(confidence: np.ndarray) -> ImageScores:
    """Two classes with a given confidence in the first or second."""
    p = np.stack([confidence, 1 - confidence], axis=1)
    return describe(as_logits(p, "probabilities"), (0, 1))


# ------------------------------------------------------------------------------------------------- ATC and DoC


def test_atcs_threshold_balances_the_wrong_images_with_those_below() -> None:
    rng = default_rng(1)
    values, correct = rng.random(501), rng.random(501) < 0.3
    once = np.ones((1, 501), int)
    ((threshold,), (share_right,)) = atc_thresholds(values, correct, once)
    assert ((values < threshold).sum(), share_right) == ((~correct).sum(), 1)
    assert atc_thresholds(values, np.ones(501, bool), once).tolist() == [[values.min()], [1]]
    assert atc(values, np.zeros(501, bool), values) == 0
    # equal scores: as large a share of them counts as right as makes the labelled images' accuracy
    assert atc([1.0, 1.0, 1.0], [True, False, True], [1.0, 0.9]) == pytest.approx(2 / 3 / 2)


def test_atc_is_not_too_high_where_many_confidences_are_exactly_1() -> None:
    """Four fifths have confidence 1, as after a softmax in half precision; 70 % are right, in both sets."""
    rng = default_rng(8)
    inside, outside = (_two_classes(np.where(rng.random(n) < 0.8, 1.0, rng.uniform(0.5, 0.9, n))) for n in (3000, 2000))
    correct = rng.random(3000) < 0.7
    resamples = predicted.resample_inside(inside, correct, 0, 200)
    for method in ("atc_confidence", "atc_entropy"):
        name = predicted.SCORES[method]
        assert atc(getattr(inside, name), correct, getattr(inside, name)) == pytest.approx(correct.mean())
        found = predicted.predict(resamples, outside, (0, 1))[method]
        assert found.value == pytest.approx(0.7, abs=0.03)
        low, high = numbers(found.low, found.high)
        assert low < 0.7 < high < 0.75


def test_doc_is_accuracy_less_the_fall_of_confidence() -> None:
    for inside, correct, outside, accuracy in (
        ([0.9, 0.7], [True, True], [0.5, 0.6], 1 - (0.8 - 0.55)),
        ([0.9, 0.9], [True, False], [0.1, 0.1], 0),  # never below
        ([0.1, 0.1], [True, True], [0.9, 0.9], 1),
    ):
        assert doc(inside, correct, outside) == pytest.approx(accuracy)


def test_scores_of_an_image_are_those_of_scipys_softmax() -> None:
    """Huge logits neither overflow nor make a NaN."""
    logits, classes = default_rng(2).normal(0, 4, (30, 7)), np.array([3, 5, 8, 9, 10, 11, 12])
    logits[:2] *= 1e5
    found = describe(logits, classes.tolist())
    p = special.softmax(logits, axis=1)
    assert_allclose(found.confidence, p.max(axis=1))
    assert_allclose(found.negative_entropy, -special.entr(p).sum(axis=1), atol=1e-12)
    assert_array_equal(found.predicted, classes[logits.argmax(axis=1)])


# --------------------------------------------------------------------------------------------------- bootstrap


def test_resamples_are_what_a_loop_over_images_gives() -> None:
    """The vectorised bootstrap against one that draws images and calls `atc` and `doc` on them."""
    for places in (9, 1):  # the second has ties
        rng = default_rng(3)
        inside, outside = (_two_classes(rng.uniform(0.5, high, n).round(places)) for n, high in ((60, 1), (50, 0.9)))
        correct = rng.random(60) < inside.confidence
        found = predicted.predict(predicted.resample_inside(inside, correct, 7, 40), outside, (7, 1, 1))
        drawn = ((60, (7, 0)), (50, (7, 1, 1)))
        ours, theirs = (np.concatenate([*predicted.resampled(n, seed, 40)]) for n, seed in drawn)
        pairs = [*zip(ours, theirs, strict=True)]
        assert ours.sum(axis=1).tolist() == [60] * 40
        assert found.pop("doc") == predicted.Prediction(doc(inside.confidence, correct, outside.confidence))
        for method, each in found.items():
            one, other = (getattr(scores, predicted.SCORES[method]) for scores in (inside, outside))
            by_hand = [atc(np.repeat(one, i), np.repeat(correct, i), np.repeat(other, j)) for i, j in pairs]
            low, high = np.quantile(by_hand, [0.025, 0.975])
            # or Wilson's interval of the target alone, where that is wider
            alone = stats.binomtest(round(each.value * 50), 50).proportion_ci(0.95, method="wilson")
            assert (each.low, each.high) == pytest.approx((min(low, alone.low), max(high, alone.high)))


def test_intervals_cover_what_the_method_would_give_with_endless_images() -> None:
    """Calibrated scores, target of another mix: of simulated pairs of sets, 95 % must hold in at least 90 %."""
    rng = default_rng(4)

    def draw(n_inside: int, n_outside: int) -> tuple[ImageScores, np.ndarray, ImageScores]:
        inside, outside = 0.5 + 0.5 * rng.random(n_inside), 0.5 + 0.5 * rng.random(n_outside) ** 2
        return _two_classes(inside), rng.random(n_inside) < inside, _two_classes(outside)

    inside, correct, outside = draw(200_000, 200_000)
    truth, held = atc(inside.confidence, correct, outside.confidence), []
    for number in range(sized(150, 300)):
        inside, correct, outside = draw(150, 100)
        resamples = predicted.resample_inside(inside, correct, number, 200)
        found = predicted.predict(resamples, outside, (number, 1))["atc_confidence"]
        low, high = numbers(found.low, found.high)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.9


def test_a_share_of_one_still_has_an_interval() -> None:
    inside = _two_classes(np.linspace(0.5, 1, 100))
    resamples = predicted.resample_inside(inside, inside.confidence >= 0.6, 0)
    found = predicted.predict(resamples, _two_classes(np.full(60, 0.99)), (0, 1))["atc_confidence"]
    assert (found.value, (found.low or 1) < 0.95) == (1, True)


def test_blocks_hold_all_resamples(monkeypatch: Patch) -> None:
    monkeypatch.setattr(predicted, "_BLOCK_COUNTS", 1000)
    blocks = list(predicted.resampled(300, (0,), 100))
    assert ({len(block) for block in blocks}, sum(map(len, blocks))) == ({3, 1}, 100)


# ------------------------------------------------------------------------------------------- predicted classes


def test_a_shift_of_the_predicted_classes_is_told_and_chance_is_not() -> None:
    rng = default_rng(2)
    inside, same = rng.integers(100, size=200), rng.integers(100, size=150)
    found = class_shift(inside, same, (0,))
    ours, theirs = (np.bincount(each, minlength=100) / len(each) for each in (inside, same))
    assert 0.3 < found.distance == pytest.approx(np.abs(ours - theirs).sum() / 2)  # far from 0 by chance alone
    assert found.expected_distance == pytest.approx(found.distance, abs=0.06)
    assert not found.are_shifted
    assert class_shift(inside, rng.integers(50, size=150), (0,)).are_shifted
    assert class_shift(inside, np.zeros(150, int), (0,)).p_value == pytest.approx(1 / 1001)
    assert class_shift(inside, inside, (0,)).p_value == 1
    table = [30, 20], [12, 28]  # for two classes the permutation test is Fisher's
    one, other = (np.repeat([0, 1], counts) for counts in table)
    assert class_shift(one, other, (3,)).p_value == pytest.approx(stats.fisher_exact(table).pvalue, abs=0.01)


# ---------------------------------------------------------------------------------------------- kinds of scores


def test_what_the_class_output_holds() -> None:
    logits = normal(9, 4, seed=6)
    p = special.softmax(logits, axis=1)
    for values, crossed, cosine, kind, why in (
        (logits, "", False, "logits", ""),
        (p, "", False, "probabilities", "each row adds up to 1"),
        (p.astype(np.float16), "Softmax", False, "probabilities", "it ends in Softmax"),
        (np.log(p), "", False, "log-probabilities", ""),
        (np.full((2, 4), 0.3), "", True, "logits", COSINES),
    ):
        found = kind_of(values, frozenset(crossed.split()), cosine=cosine)
        assert found == (kind, why or found[1])
    for values, crossed, said in (
        (p, "Sigmoid", "it ends in Sigmoid"),
        (special.expit(logits), "", "as after a sigmoid"),
        (2 * p, "Softmax", "a row adds up to 2"),
    ):
        raised(NoScoresError, said, kind_of, values, frozenset(crossed.split()))
    for taken in (p, np.eye(3)):  # as they are, and zeros do no harm
        found_ = describe(as_logits(taken, "probabilities"), range(len(taken[0])))
        assert_allclose(found_.confidence, taken.max(axis=1))
        assert_allclose(found_.negative_entropy, -special.entr(taken).sum(axis=1), atol=1e-12)
    for odd in (logits, np.zeros((1, 4))):
        raised(ValueError, "of others are not", as_logits, odd, "probabilities")


COLOURS = 255.0 * np.vstack([np.eye(3), np.ones(3)])


def _images(folder: Path, n: int, spread: float, seed: int, only: int | None = None) -> Path:
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
    for name, n, spread, seed in (("val", 200, 1.0, 0), ("hard", 160, 1.6, 1), ("few", 12, 1.0, 3)):
        _images(folder / name, n, spread, seed)
    _images(folder / "one", 60, 0.1, 2, only=2)
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
    assert by_atc[0].accuracy == pytest.approx((outside >= np.sort(inside)[(~right).sum()]).mean(), abs=1 / 160)
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
    report = _run(place, "hard", inside=str(_images(tmp_path / "part", 60, 0.1, 5, only=1)))
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
