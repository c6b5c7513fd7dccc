"""Confidence bounds, and those of a run that looks at fixed numbers of images: formulas, how often they are wrong."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import stats

from robustcheck_onnx.checker.statistics import definitions
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.thresholds.profile import LOOKS_ALPHA
from support import normal, raised, sized

LOOKS = [50, *range(64, 289, 16)]


def ever_above(critical: float, looks: Sequence[int]) -> float:
    """P(a standard Brownian motion W has W(n) > critical·√n at a look), by integration from look to look."""
    x, w = np.polynomial.legendre.leggauss(101)
    place, mass, before, total = np.zeros(1), np.ones(1), 0, 0.0
    for n in looks:
        sd, edge, floor = math.sqrt(n - before), critical * math.sqrt(n), -9 * math.sqrt(n)
        total += float(mass @ stats.norm.sf((edge - place) / sd))
        new = (edge - floor) / 2 * x + (edge + floor) / 2
        mass = (edge - floor) / 2 * w * (stats.norm.pdf((new[:, None] - place) / sd) / sd @ mass)
        place, before = new, n
    return total


def test_the_constant_spends_nine_tenths_of_the_error_rate_over_the_looks() -> None:
    """By integration, by the multivariate normal distribution, and by simulation."""
    assert [n for n in range(1, definitions.HORIZON + 1) if definitions.is_look(n)] == LOOKS
    spent = (1 - definitions.BEYOND) * LOOKS_ALPHA
    assert ever_above(definitions.CRITICAL, LOOKS) == pytest.approx(spent, abs=1e-5)
    n = np.array(LOOKS, dtype=float)
    correlation = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    below = stats.multivariate_normal(cov=correlation, seed=0, maxpts=200_000).cdf(
        np.full(len(n), definitions.CRITICAL)
    )
    assert 1 - below == pytest.approx(spent, abs=5e-4)
    steps = normal(100000, len(n)) * np.sqrt(np.diff(n, prepend=0))
    crossed = (np.cumsum(steps, axis=1) > definitions.CRITICAL * np.sqrt(n)).any(axis=1).mean()
    assert crossed == pytest.approx(spent, abs=4 * math.sqrt(spent / 100_000))


def error_of_share(rate: float, looks: Sequence[int]) -> float:
    """P(`share_floor` is ever above the rate at a look), exactly: the distribution of the count from look to look."""
    counts, before, total = np.ones(1), 0, 0.0
    for n in looks:
        counts = np.convolve(counts, stats.binom.pmf(np.arange(n - before + 1), n - before, rate))
        above = stats.binom.sf(np.arange(n + 1) - 1, n, rate) < stats.norm.sf(definitions.CRITICAL)
        total += float(counts[above].sum())
        counts, before = np.where(above, 0, counts), n
    return total


@pytest.mark.parametrize("first", [50, 57, 100, 250])
@pytest.mark.parametrize("last", [64, 171, 287, 288])
def test_other_first_and_last_looks_are_wrong_no_more_often(first: int, last: int) -> None:
    """A profile may ask for more images, and a run may end between two looks."""
    looks = [*(n for n in range(1, last) if definitions.is_look(n, first)), last]
    assert ever_above(definitions.CRITICAL, looks) <= 0.045 + 1e-5
    assert max(error_of_share(rate, looks) for rate in np.linspace(0.02, 0.98, 25)) <= 0.045


def test_share_floor_is_wrong_in_less_than_its_error_rate_at_every_rate() -> None:
    assert max(error_of_share(rate, LOOKS) for rate in np.linspace(0.005, 0.995, sized(100, 496))) <= 0.045


def test_skewness_of_a_mean_is_that_of_the_images_over_root_n() -> None:
    x = default_rng(0).gamma(2, size=60)
    sd, skewness = definitions.grouped_jackknife(float(x.mean()), (x.sum() - x) / 59, np.ones(60))
    assert sd == pytest.approx(x.std(ddof=1), rel=1e-10)
    assert skewness == pytest.approx(stats.skew(x) / math.sqrt(60), rel=1e-10)
    alike = np.ones(4)
    assert definitions.grouped_jackknife(1.0, alike, alike) == (0.0, 0.0)


def low(share: float) -> Callable[..., np.ndarray]:
    """Values of which a share is low."""
    return lambda g, s: np.where(g.random(s) < share, share - 1, share) + g.normal(0, 0.05, s)


FAMILIES: dict[str, tuple[Callable[..., np.ndarray], float, float]] = {
    "uniform": (lambda g, s: g.uniform(-1, 1, s), 0.05, 0.05),
    "Gaussian": (lambda g, s: g.normal(0, 3, s), 0.05, 0.05),
    "lognormal(1)": (lambda g, s: g.lognormal(0, 1, s) - math.exp(0.5), 0.05, 0.05),
    "Pareto(3)": (lambda g, s: g.pareto(3, s) - 0.5, 0.05, 0.05),
    "t(3)": (lambda g, s: g.standard_t(3, s), 0.05, 0.05),
    "left lognormal(1)": (lambda g, s: math.exp(0.5) - g.lognormal(0, 1, s), 0.06, 0.06),
    "10 % low": (low(0.1), 0.05, 0.05),
    "5 % low": (low(0.05), 0.11, 0.10),
    "2 % low": (low(0.02), 0.21, 0.31),
}
"""How values of mean 0 are drawn, and in which share of the runs a bound for all n, and one for looks, may pass it."""


@pytest.mark.parametrize("family", FAMILIES)
def test_how_often_a_bound_passes_the_truth(family: str) -> None:
    """A threshold exactly at the truth, looks to 2,048 images: benchmarks/results/bounds.md has these rates."""
    draw, before, now = FAMILIES[family]
    looks = np.array([n for n in range(1, 2049) if definitions.is_look(n)])
    x = draw(default_rng(11), (sized(500, 2000), 2048))
    m1, m2, m3 = (np.cumsum(x**k, axis=1)[:, looks - 1] / looks for k in (1, 2, 3))
    variance = m2 - m1**2
    skewness = (m3 - 3 * m1 * m2 + 2 * m1**3) / variance**1.5 / np.sqrt(looks)
    sd = np.sqrt(variance * looks / (looks - 1))
    for_all, upper = (np.array([definitions.radius(int(n), 1.0, a) for n in looks]) * sd for a in (0.05, 0.05 / 6))
    depths = np.vectorize(definitions.depth)(looks, sd, skewness)
    for most, above in ((before, m1 > for_all), (now, m1 > depths), (0.05, -m1 > upper)):
        assert above.any(axis=1).mean() <= most


def test_bounds_at_the_looks_are_for_one_error_rate() -> None:
    state = sums.State(40)
    sums.update(state, normal(2, 40), [0, 1])
    raised(ValueError, r"alpha is 0.1; bounds at the looks of a run are for 0.05", sums.statistics, state, 0.1, "looks")


ALPHA = 0.05


def test_the_bounds_are_tightest_at_the_first_look() -> None:
    assert definitions.TUNED_FOR == definitions.FIRST_LOOK == 50
    assert [n for n in range(1, 130) if definitions.is_look(n)] == [50, 64, 80, 96, 112, 128]
    assert [n for n in range(1, 130) if definitions.is_look(n, first=100)] == [100, 112, 128]


def test_unknown_spread_gives_no_bound() -> None:
    lower = [definitions.depth(64, *unknown) for unknown in ((math.nan, 0.0), (1.0, math.nan))]
    assert [definitions.radius(64, math.nan, ALPHA), *lower] == 3 * [math.inf]


def test_jackknife_of_an_undefined_statistic_is_undefined() -> None:
    for bad in [math.nan, math.inf]:
        assert math.isnan(definitions.grouped_jackknife_sd(1.0, np.array([1.0, bad]), np.ones(2)))
        assert math.isnan(definitions.grouped_jackknife_sd(1.0, np.array([1.0]), np.ones(1)))


def test_share_bounds_of_always_have_a_closed_form() -> None:
    assert definitions.share_bounds(64, 64, ALPHA)[0] == pytest.approx((ALPHA / 65) ** (1 / 64), rel=1e-12)
    raised(ValueError, "count is 3 of 2", definitions.share_bounds, 3, 2, ALPHA)


def test_share_bounds_hold_at_all_looks_together() -> None:
    """Runs that look after every image: the truth ever outside in at most α of them."""
    for rate in [0.5, 0.66, 0.9, 0.99]:
        rng, last = default_rng(3), sized(100, 300)
        count = np.cumsum(rng.random((sized(500, 2000), last)) < rate, axis=1)
        bounds = {
            (s, n): definitions.share_bounds(s, n, ALPHA)
            for n in range(1, last + 1)
            for s in np.unique(count[:, n - 1])
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
                bounds = definitions.correlation_bounds(float(found.statistic), n, confidence)
                np.testing.assert_allclose(bounds, (truth.low, truth.high), rtol=1e-9)


def test_bounds_of_a_correlation_at_the_ends() -> None:
    assert definitions.correlation_bounds(0.9, 3) == (-1.0, 1.0)
    assert definitions.correlation_bounds(1.0, 10) == (1.0, 1.0)
    assert definitions.correlation_bounds(-1.0, 10) == (-1.0, -1.0)
