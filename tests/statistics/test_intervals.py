"""Confidence bounds that hold at every look."""

import math

import numpy as np
import pytest
import scipy.special
from scipy import stats

from robustcheck_onnx.checker.statistics import intervals
from support import profile

ALPHA = 0.05


def test_the_bounds_are_tightest_at_the_first_look() -> None:
    assert intervals.TUNED_FOR == intervals.FIRST_LOOK == 50
    assert [n for n in range(1, 130) if intervals.is_look(n)] == [50, 64, 80, 96, 112, 128]
    assert [n for n in range(1, 130) if intervals.is_look(n, first=100)] == [100, 112, 128]


def test_radius_is_the_formula_of_the_paper_widened_for_few_images() -> None:
    n, sd = 64, 2.0
    rho = math.sqrt((-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA) + 1)) / 50)
    want = sd * math.sqrt(2 * (n * rho**2 + 1) / (n**2 * rho**2) * math.log(math.sqrt(n * rho**2 + 1) / ALPHA))
    want *= 1 + 2 / math.sqrt(n)
    assert intervals.radius(n, sd, ALPHA) == pytest.approx(want, rel=1e-12)


def test_unknown_spread_gives_no_bound() -> None:
    assert intervals.radius(64, math.nan, ALPHA) == math.inf


def test_jackknife_of_a_mean_with_single_images_is_the_sample_sd() -> None:
    x = np.random.default_rng(0).normal(size=40)
    without = (x.sum() - x) / 39
    got = intervals.grouped_jackknife_sd(float(x.mean()), without, np.ones(40))
    assert got == pytest.approx(float(x.std(ddof=1)), rel=1e-10)


def test_jackknife_with_unequal_groups_estimates_the_sd() -> None:
    rng = np.random.default_rng(0)
    sizes = np.tile([10.0, 20.0], 50)
    estimates = []
    for _ in range(200):
        groups = [rng.normal(0, 3, int(m)) for m in sizes]
        total, n = sum(g.sum() for g in groups), sizes.sum()
        without = np.array([(total - g.sum()) / (n - m) for g, m in zip(groups, sizes, strict=True)])
        estimates.append(intervals.grouped_jackknife_sd(total / n, without, sizes))
    assert np.mean(estimates) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_jackknife_of_an_undefined_statistic_is_undefined(bad: float) -> None:
    assert math.isnan(intervals.grouped_jackknife_sd(1.0, np.array([1.0, bad]), np.ones(2)))
    assert math.isnan(intervals.grouped_jackknife_sd(1.0, np.array([1.0]), np.ones(1)))


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (50, 50), (45, 50), (3, 200), (100, 200)])
def test_share_bounds_are_where_the_betting_martingale_reaches_one_over_alpha(count: int, n: int) -> None:
    """Against SciPy's beta function: at a bound the mixture's likelihood ratio is exactly 1/α, inside it is less."""

    def ratio(p: float) -> float:
        return float(scipy.special.beta(1 + count, 1 + n - count) / (p**count * (1 - p) ** (n - count)))

    low, high = intervals.share_bounds(count, n, ALPHA)
    assert (low == 0) == (count == 0)
    assert (high == 1) == (count == n)
    for bound in {low, high} - {0.0, 1.0}:
        assert ratio(bound) == pytest.approx(1 / ALPHA, rel=1e-9)
    assert ratio(min(max(count / n, 1e-9), 1 - 1e-9)) < 1 / ALPHA
    assert low <= count / n <= high


def test_share_bounds_of_always_have_a_closed_form() -> None:
    assert intervals.share_bounds(64, 64, ALPHA)[0] == pytest.approx((ALPHA / 65) ** (1 / 64), rel=1e-12)
    with pytest.raises(ValueError, match="count is 3 of 2"):
        intervals.share_bounds(3, 2, ALPHA)


@pytest.mark.parametrize("rate", [0.5, 0.66, 0.9, 0.99])
def test_share_bounds_hold_at_all_looks_together(rate: float) -> None:
    """Runs that look after every image: the truth ever outside in at most α of them."""
    rng, last = np.random.default_rng(3), profile.sized(100, 300)
    count = np.cumsum(rng.random((profile.sized(500, 2000), last)) < rate, axis=1)
    bounds = {
        (s, n): intervals.share_bounds(s, n, ALPHA) for n in range(1, last + 1) for s in np.unique(count[:, n - 1])
    }
    low, high = (np.array([[bounds[s, n][side] for n, s in enumerate(row, 1)] for row in count]) for side in (0, 1))
    assert ((low > rate) | (high < rate)).any(axis=1).mean() <= ALPHA


@pytest.mark.parametrize(
    ("name", "draw", "mean", "most"),
    [
        ("light", lambda g, s: g.uniform(0, 1, s), 0.5, ALPHA),
        ("normal", lambda g, s: g.normal(10, 3, s), 10.0, ALPHA),
        ("heavy", lambda g, s: g.lognormal(0, 1, s), math.exp(0.5), ALPHA),
        ("heavier", lambda g, s: g.pareto(3, s) + 1, 1.5, ALPHA),
        ("left-skewed", lambda g, s: -g.lognormal(0, 1, s), -math.exp(0.5), 0.06),
        ("5 % low", lambda g, s: np.where(g.random(s) < 0.05, 0.0, 1.0) + g.normal(0, 0.05, s), 0.95, 0.11),
        ("2 % low", lambda g, s: np.where(g.random(s) < 0.02, 0.0, 1.0) + g.normal(0, 0.05, s), 0.98, 0.21),
    ],
)
def test_how_often_a_bound_passes_the_truth(name: str, draw: object, mean: float, most: float) -> None:
    """A threshold exactly at the true mean: every stop is wrong. Looks as a run has them, to 2,048 images.

    Left-skewed data exceed α, the more the rarer their low images: docs/statistics.md has these rates.

    The lower bound has α to itself, the upper ones share it between six statistics, as in `state.statistics`.
    """
    rng = np.random.default_rng(11)
    runs, last = 2000, 2048
    x = draw(rng, (runs, last))  # type: ignore[operator]
    looks = np.array([n for n in range(1, last + 1) if intervals.is_look(n)])
    n = looks[None, :]
    s1, s2 = np.cumsum(x, axis=1)[:, looks - 1], np.cumsum(x**2, axis=1)[:, looks - 1]
    sd = np.sqrt(np.maximum(s2 - s1**2 / n, 0) / (n - 1))
    low, high = (np.array([intervals.radius(int(m), 1.0, a) for m in looks]) * sd for a in (ALPHA, ALPHA / 6))
    too_high = ((s1 / n - low) > mean).any(axis=1).mean()  # "above the threshold": the way to a false PASS
    too_low = ((s1 / n + high) < mean).any(axis=1).mean()
    assert too_high <= most, name
    assert too_low <= ALPHA, name


@pytest.mark.parametrize("n", [4, 16, 80])
def test_bounds_of_a_correlation_are_scipy_s(n: int) -> None:
    rng = np.random.default_rng(n)
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
