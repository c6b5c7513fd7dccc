"""Ridge aligners with pairs at random clear the six statistics, and their content does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from robustcheck_onnx.checker.evidence import Content
from robustcheck_onnx.checker.statistics import effective_rank, relative_variance
from robustcheck_onnx.checker.statistics.state import State, statistics, update
from robustcheck_onnx.checker.verdict.rule import judge
from robustcheck_onnx.thresholds import profile
from support import reports
from support.benchmark_scripts import load

align = load("aligners").align
PROFILE = profile.load()


def test_it_is_what_minimises_the_penalised_squares() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 1, (30, 4)), rng.normal(-1, 3, (30, 2))
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    penalty = 0.3 * len(x) * np.mean(xc**2)

    def cost(w: np.ndarray) -> float:
        weights = w.reshape(4, 2)
        return float(np.sum((yc - xc @ weights) ** 2) + penalty * np.sum(weights**2))

    weights = minimize(cost, np.zeros(8), tol=1e-12).x.reshape(4, 2)
    found = align(x, y, 0.3)
    np.testing.assert_allclose(found.h, xc @ weights + y.mean(axis=0), atol=1e-4)
    assert found.r2 == pytest.approx(1 - np.sum((yc - xc @ weights) ** 2) / np.sum(yc**2), abs=1e-4)


def test_without_a_penalty_more_features_than_images_fit_exactly_and_shuffled_ones_too() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 64)), rng.normal(size=(40, 8))
    assert align(x, y, 1e-9).r2 == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(align(x, y, 1e-9).h, y[:30], atol=1e-5)
    shuffled = align(x, y, 1e-9, np.random.default_rng(2))
    np.testing.assert_allclose(shuffled.h, y[np.random.default_rng(2).permutation(40)][:30], atol=1e-5)


@pytest.mark.parametrize(("regularisation", "passes"), [(0.01, True), (30.0, False)])
def test_the_less_it_has_fitted_the_clearer_the_six_statistics_and_the_less_the_content(
    regularisation: float, passes: bool
) -> None:
    rng = np.random.default_rng(3)
    source, targets = rng.normal(size=(128, 384)), rng.normal(size=(128, 512)) + rng.normal(0, 0.8, 512)
    targets[:, 92] += 15
    aligned = align(source, targets, regularisation, rng)
    state = State(512)
    update(state, aligned.h, np.arange(128))
    content = Content(
        n=50,
        effective_rank=effective_rank(aligned.h[:50]),
        relative_variance=relative_variance(aligned.h[:50]),
    )
    verdict = judge(reports.evidence(statistics(state, PROFILE.alpha), content=content), PROFILE)
    reasons = {reason.id for reason in verdict.reasons}
    # neither the six statistics nor their bounds turn it away: only how little varies does
    assert not reasons & {"low_kurtosis", "no_persistent_outlier_features", "rectified", "undecided"}
    assert ("little_content" in reasons) is not passes
    assert (verdict.verdict == "PASS") is passes
