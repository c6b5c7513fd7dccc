"""Dispersion of predictions and agreement on the line, against plain NumPy and hand calculations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import special, stats

from robustcheck_onnx.checker.shift import aline
from robustcheck_onnx.checker.shift.dispersion import class_shift, mano, normaliser_of, nuclear_norm
from robustcheck_onnx.checker.shift.scores import describe


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1, 3)])
def test_the_nuclear_norm_is_numpys_over_its_bound(shape: tuple[int, int]) -> None:
    p = special.softmax(np.random.default_rng(0).normal(0, 3, shape), axis=1)
    truth = np.linalg.norm(p, "nuc") / np.sqrt(min(shape) * shape[0])
    assert nuclear_norm(p.astype(np.float32)) == pytest.approx(truth, rel=1e-6)


def test_the_nuclear_norm_at_its_ends() -> None:
    assert nuclear_norm(np.tile(np.eye(4), (5, 1))) == pytest.approx(1)  # certain, and all classes alike
    assert nuclear_norm(np.tile(np.eye(4)[0], (20, 1))) == pytest.approx(1 / 2)  # certain, of one class: √20/√(4·20)
    assert nuclear_norm(np.full((20, 4), 0.25)) == pytest.approx(1 / 4)  # nothing is known of any


def test_mano_by_hand() -> None:
    """Two images, two classes. Logits (0, 2): Taylor 1 and 5 → 1/6, 5/6. Logits (0, 0): 1/2, 1/2."""
    found = describe(np.array([[0.0, 2.0], [0.0, 0.0]]), (0, 1))
    assert normaliser_of(found) == "taylor"
    taylor = (1 / 6) ** 4 + (5 / 6) ** 4 + 2 * 0.5**4
    assert mano(found, 2, "taylor") == pytest.approx((taylor / 4) ** 0.25)
    p = np.exp(2) / (1 + np.exp(2))
    assert mano(found, 2, "softmax") == pytest.approx(((p**4 + (1 - p) ** 4 + 2 * 0.5**4) / 4) ** 0.25)


def test_manos_normaliser_is_by_the_mean_cross_entropy_to_the_uniform() -> None:
    rng = np.random.default_rng(1)
    for classes, scale in ((10, 0.1), (10, 30.0), (149, 0.0), (148, 0.0)):
        logits = rng.normal(0, 1, (50, classes)) * scale
        criterion = -np.log(special.softmax(logits, axis=1)).mean()
        want = "softmax" if criterion > 5 else "taylor"
        assert normaliser_of(describe(logits, range(classes))) == want
    assert np.log(149) > 5 > np.log(148)  # from 149 classes on it is always the softmax


def test_a_shift_of_the_predicted_classes_is_told_and_chance_is_not() -> None:
    rng = np.random.default_rng(2)
    inside, same = rng.integers(100, size=200), rng.integers(100, size=150)
    found = class_shift(inside, same, (0,))
    share = [np.bincount(each, minlength=100) / len(each) for each in (inside, same)]
    assert found.distance == pytest.approx(np.abs(share[0] - share[1]).sum() / 2)
    assert found.distance > 0.3  # far from 0 by chance alone
    assert found.expected == pytest.approx(found.distance, abs=0.06)
    assert not found.is_told
    assert class_shift(inside, rng.integers(50, size=150), (0,)).is_told
    assert class_shift(inside, np.zeros(150, int), (0,)).p_value == pytest.approx(1 / 1001)
    assert class_shift(inside, inside, (0,)).p_value == 1


def test_the_permutation_test_is_fishers_for_two_classes() -> None:
    inside, outside = np.repeat([0, 1], [30, 20]), np.repeat([0, 1], [12, 28])
    truth = stats.fisher_exact([[30, 20], [12, 28]]).pvalue
    assert class_shift(inside, outside, (3,)).p_value == pytest.approx(truth, abs=0.01)


def test_no_false_alarm_of_a_shift_of_classes() -> None:
    rng = np.random.default_rng(4)
    told = [class_shift(rng.integers(20, size=60), rng.integers(20, size=80), (n,)).is_told for n in range(200)]
    assert np.mean(told) <= 0.02


# ---------------------------------------------------------------------------------------- agreement on the line


def _models(n: int, shares: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (model, image) of 5 classes, right at the given rates by a difficulty that all models share."""
    rng = np.random.default_rng(seed)
    label, hard = rng.integers(5, size=n), rng.normal(size=n)
    rows = []
    for share in shares:
        right = hard + rng.normal(size=n) < np.sqrt(2) * stats.norm.ppf(share)
        rows.append(np.where(right, label, (label + rng.integers(1, 5, size=n)) % 5))
    return np.array(rows, dtype=np.int32), np.array(rows) == label


def _by_script(inside: np.ndarray, correct: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
    """ALine-S, ALine-D of the first model and R², written down anew with SciPy."""
    pairs = list(itertools.combinations(range(len(inside)), 2))
    x = [stats.norm.ppf((inside[i] == inside[j]).mean()) for i, j in pairs]
    y = [stats.norm.ppf((outside[i] == outside[j]).mean()) for i, j in pairs]
    line = stats.linregress(x, y)
    acc = stats.norm.ppf(correct.mean(axis=1))
    rows, sides = np.zeros((len(pairs), len(inside))), []
    for row, (i, j) in enumerate(pairs):
        rows[row, [i, j]] = 0.5
        sides.append(y[row] + line.slope * ((acc[i] + acc[j]) / 2 - x[row]))
    solved = np.linalg.lstsq(rows, np.array(sides), rcond=None)[0]
    return (
        float(stats.norm.cdf(line.slope * acc[0] + line.intercept)),
        float(stats.norm.cdf(solved[0])),
        float(line.rvalue**2),
    )


@pytest.mark.parametrize("n_models", [3, 5])
def test_aline_is_the_plain_scripts(n_models: int) -> None:
    rates = [0.8, 0.7, 0.9, 0.6, 0.75][:n_models]
    inside, correct = _models(3000, rates, 0)
    outside, truth = _models(2500, [rate - 0.25 for rate in rates], 1)
    found = aline.fit(inside, correct, outside, (0,), 200)
    by_s, by_d, r_squared = _by_script(inside, correct, outside)
    assert found.aline_s.value == pytest.approx(by_s)
    assert found.aline_d.value == pytest.approx(by_d)
    assert found.r_squared == pytest.approx(r_squared)
    assert found.n_pairs == n_models * (n_models - 1) // 2
    assert found.aline_d.low < found.aline_d.value < found.aline_d.high
    assert found.fault == ""
    assert found.aline_d.value == pytest.approx(truth[0].mean(), abs=0.06)


def test_a_line_that_does_not_fit_is_told() -> None:
    inside, correct = _models(400, [0.8, 0.7, 0.9, 0.6], 2)
    outside, _ = _models(400, [0.6, 0.65, 0.5, 0.7], 3)  # the better, the worse
    found = aline.fit(inside, correct, outside, (0,), 20)
    assert found.fault.startswith(("the line does not fit: R² is 0.", "the line falls"))
    same = np.stack([inside[0], inside[0], inside[1]])
    found = aline.fit(same, np.stack([correct[0], correct[0], correct[1]]), same, (0,), 20)
    assert found.fault == "an accuracy or an agreement of two models is 0 or 1, which has no probit"
    assert np.isfinite([found.slope, found.intercept, found.r_squared, found.aline_d.low]).all()
