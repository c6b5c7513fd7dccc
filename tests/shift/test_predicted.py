"""Predicted accuracy: ATC, DoC, their bootstrap, predicted classes; each against a closed form, SciPy or NumPy."""

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special, stats

from robustcheck_onnx.checker.shift import predicted
from robustcheck_onnx.checker.shift.predicted import atc, atc_thresholds, class_shift, doc
from support import Patch, normal, raised, sized
from support.comparisons import numbers


def _images(confidence: np.ndarray) -> predicted.ImageScores:
    """Two classes with a given confidence in the first or second."""
    p = np.stack([confidence, 1 - confidence], axis=1)
    return predicted.describe(predicted.as_logits(p, "probabilities"), (0, 1))


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
    inside, outside = (_images(np.where(rng.random(n) < 0.8, 1.0, rng.uniform(0.5, 0.9, n))) for n in (3000, 2000))
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
    found = predicted.describe(logits, classes.tolist())
    p = special.softmax(logits, axis=1)
    assert_allclose(found.confidence, p.max(axis=1))
    assert_allclose(found.negative_entropy, -special.entr(p).sum(axis=1), atol=1e-12)
    assert_array_equal(found.predicted, classes[logits.argmax(axis=1)])


# --------------------------------------------------------------------------------------------------- bootstrap


def test_resamples_are_what_a_loop_over_images_gives() -> None:
    """The vectorised bootstrap against one that draws images and calls `atc` and `doc` on them."""
    for places in (9, 1):  # the second has ties
        rng = default_rng(3)
        inside, outside = (_images(rng.uniform(0.5, high, n).round(places)) for n, high in ((60, 1), (50, 0.9)))
        correct = rng.random(60) < inside.confidence
        found = predicted.predict(predicted.resample_inside(inside, correct, 7, 40), outside, (7, 1, 1))
        drawn = ((60, (7, 0)), (50, (7, 1, 1)))
        ours, theirs = (np.concatenate([*predicted.resampled(n, seed, 40)]) for n, seed in drawn)
        assert ours.sum(axis=1).tolist() == [60] * 40
        assert found.pop("doc") == predicted.Prediction(doc(inside.confidence, correct, outside.confidence))
        for method, each in found.items():
            one, other = (getattr(scores, predicted.SCORES[method]) for scores in (inside, outside))
            by_hand = [
                atc(np.repeat(one, i), np.repeat(correct, i), np.repeat(other, j))
                for i, j in zip(ours, theirs, strict=True)
            ]
            low, high = np.quantile(by_hand, [0.025, 0.975])
            # or Wilson's interval of the target alone, where that is wider
            alone = stats.binomtest(round(each.value * 50), 50).proportion_ci(0.95, method="wilson")
            assert (each.low, each.high) == pytest.approx((min(low, alone.low), max(high, alone.high)))


def test_intervals_cover_what_the_method_would_give_with_endless_images() -> None:
    """Calibrated scores, target of another mix: of simulated pairs of sets, 95 % must hold in at least 90 %."""
    rng = default_rng(4)

    def draw(n_inside: int, n_outside: int) -> tuple[predicted.ImageScores, np.ndarray, predicted.ImageScores]:
        inside, outside = 0.5 + 0.5 * rng.random(n_inside), 0.5 + 0.5 * rng.random(n_outside) ** 2
        return _images(inside), rng.random(n_inside) < inside, _images(outside)

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
    inside = _images(np.linspace(0.5, 1, 100))
    resamples = predicted.resample_inside(inside, inside.confidence >= 0.6, 0)
    found = predicted.predict(resamples, _images(np.full(60, 0.99)), (0, 1))["atc_confidence"]
    assert (found.value, (found.low or 1) < 0.95) == (1, True)


def test_blocks_hold_all_resamples(monkeypatch: Patch) -> None:
    monkeypatch.setattr(predicted, "_AT_ONCE", 1000)
    blocks = list(predicted.resampled(300, (0,), 100))
    assert {len(block) for block in blocks} == {3, 1}
    assert sum(map(len, blocks)) == 100


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
        (np.full((2, 4), 0.3), "", True, "logits", predicted.COSINES),
    ):
        found = predicted.kind_of(values, frozenset(crossed.split()), cosine=cosine)
        assert found == (kind, why or found[1])
    for values, crossed, said in (
        (p, "Sigmoid", "it ends in Sigmoid"),
        (special.expit(logits), "", "as after a sigmoid"),
        (2 * p, "Softmax", "a row adds up to 2"),
    ):
        raised(predicted.NoScoresError, said, predicted.kind_of, values, frozenset(crossed.split()))
    for taken in (p, np.eye(3)):  # as they are, and zeros do no harm
        found_ = predicted.describe(predicted.as_logits(taken, "probabilities"), range(len(taken[0])))
        assert_allclose(found_.confidence, taken.max(axis=1))
        assert_allclose(found_.negative_entropy, -special.entr(taken).sum(axis=1), atol=1e-12)
    for odd in (logits, np.zeros((1, 4))):
        raised(ValueError, "of others are not", predicted.as_logits, odd, "probabilities")
