"""Confidence bounds that hold at every look."""

import math

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import stats

from robustcheck_onnx.checker.statistics import intervals
from support import profile, raised

ALPHA = 0.05


def test_the_bounds_are_tightest_at_the_first_look() -> None:
    assert intervals.TUNED_FOR == intervals.FIRST_LOOK == 50
    assert [n for n in range(1, 130) if intervals.is_look(n)] == [50, 64, 80, 96, 112, 128]
    assert [n for n in range(1, 130) if intervals.is_look(n, first=100)] == [100, 112, 128]


def test_unknown_spread_gives_no_bound() -> None:
    lower = [intervals.depth(64, *unknown) for unknown in ((math.nan, 0.0), (1.0, math.nan))]
    assert [intervals.radius(64, math.nan, ALPHA), *lower] == 3 * [math.inf]


def test_jackknife_of_an_undefined_statistic_is_undefined() -> None:
    for bad in [math.nan, math.inf]:
        assert math.isnan(intervals.grouped_jackknife_sd(1.0, np.array([1.0, bad]), np.ones(2)))
        assert math.isnan(intervals.grouped_jackknife_sd(1.0, np.array([1.0]), np.ones(1)))


def test_share_bounds_of_always_have_a_closed_form() -> None:
    assert intervals.share_bounds(64, 64, ALPHA)[0] == pytest.approx((ALPHA / 65) ** (1 / 64), rel=1e-12)
    raised(ValueError, "count is 3 of 2", intervals.share_bounds, 3, 2, ALPHA)


def test_share_bounds_hold_at_all_looks_together() -> None:
    """Runs that look after every image: the truth ever outside in at most α of them."""
    for rate in [0.5, 0.66, 0.9, 0.99]:
        rng, last = default_rng(3), profile.sized(100, 300)
        count = np.cumsum(rng.random((profile.sized(500, 2000), last)) < rate, axis=1)
        bounds = {
            (s, n): intervals.share_bounds(s, n, ALPHA) for n in range(1, last + 1) for s in np.unique(count[:, n - 1])
        }
        low, high = (np.array([[bounds[s, n][side] for n, s in enumerate(row, 1)] for row in count]) for side in (0, 1))
        assert ((low > rate) | (high < rate)).any(axis=1).mean() <= ALPHA


def test_bounds_of_a_correlation_are_scipy_s() -> None:
    for n in [4, 16, 80]:
        rng = default_rng(n)
        x = rng.normal(size=n)
        for share in (-2.0, 0.0, 0.7):
            found = stats.pearsonr(x, share * x + rng.normal(size=n))
            for confidence in (0.9, 0.95):
                truth = found.confidence_interval(confidence)
                bounds = intervals.correlation_bounds(float(found.statistic), n, confidence)
                np.testing.assert_allclose(bounds, (truth.low, truth.high), rtol=1e-9)


def test_bounds_of_a_correlation_at_the_ends() -> None:
    assert intervals.correlation_bounds(0.9, 3) == (-1.0, 1.0)
    assert intervals.correlation_bounds(1.0, 10) == (1.0, 1.0)
    assert intervals.correlation_bounds(-1.0, 10) == (-1.0, -1.0)
