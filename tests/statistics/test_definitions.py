"""The statistics, their bounds and accuracies, where rounding, closed forms and rates of error decide."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from robustcheck_onnx.checker.core.statistics import definitions, intervals
from robustcheck_onnx.checker.core.statistics import state as sums
from robustcheck_onnx.checker.core.statistics.definitions import (
    SAME,
    effective_rank,
    mean_of_rest,
    relative_variance,
    unit_rows,
)
from robustcheck_onnx.checker.core.statistics.intervals import wilson
from robustcheck_onnx.checker.core.statistics.state import State, update
from robustcheck_onnx.checker.questions.shift.classes import is_correct
from robustcheck_onnx.checker.questions.shift.robustness import difference
from robustcheck_onnx.thresholds.statistics import LOOKS_ALPHA
from support import normal, raised, sized


def per_image(h: np.ndarray) -> np.ndarray:
    """Each image's activation kurtosis, as a check adds it up."""
    return update(State(h.shape[1]), h, np.arange(len(h))).kurtosis


def test_one_hot_reaches_the_largest_value() -> None:
    for d in [4, 512, 2048]:
        one_hot = np.zeros((1, d))
        one_hot[0, d // 2] = 5.0
        # closed form: p = 1/d, (1 − 3p + 3p²) / (p(1 − p)) = d²/(d − 1) − 3
        assert_allclose(per_image(one_hot), [d**2 / (d - 1) - 3], rtol=1e-10)


def test_neither_an_offset_of_1000_in_float32_nor_outliers_of_float16_harm() -> None:
    rng = default_rng(7)
    base = rng.normal(size=(5, 512)).astype(np.float32)
    shifted = (base.astype(np.float64) + 1000).astype(np.float32)
    assert_allclose(per_image(shifted), per_image(base), rtol=1e-3)
    h = rng.normal(size=(4, 768)).astype(np.float16)
    h[:, 5] = 60, 600, 6000, 60000
    for rows, rtol in ((shifted, 1e-9), (h, 1e-12)):
        want = stats.kurtosis(rows.astype(np.float64), axis=1, fisher=False)
        assert_allclose(per_image(rows), want, rtol=rtol)


def test_extreme_scales_do_not_under_or_overflow() -> None:
    h = normal(3, 50, seed=7)
    for scale in (1e-300, 1e300):
        assert_allclose(definitions.standardise(h * scale), definitions.standardise(h), rtol=1e-9)


def test_unusable_rows_are_told_apart() -> None:
    h = np.array([[1.0] * 4, [1, 2, 3, 4], [np.nan, 1, 1, 1], [np.inf, 1, 1, 1], [0] * 4, [1e200, -1e200, 0, 0]])
    usable, nonfinite, constant = (np.flatnonzero(rows).tolist() for rows in definitions.usable_rows(h))
    assert (usable, nonfinite, constant) == ([1, 5], [2, 3], [0, 4])


def test_an_unusable_row_is_an_error_not_a_number() -> None:
    for bad in ([1.0, 1.0, 1.0], [1.0, np.nan, 2.0]):
        raised(ValueError, "constant or not finite", definitions.standardise, [bad])


def test_max_median_ratio() -> None:
    assert_array_equal(definitions.max_median_ratio([[1.0, -2.0, 30.0], [0.0, 0.0, 1.0]]), [15.0, np.inf])


def test_shares_of_several_groups_add_to_one_each_and_ties_go_to_the_smaller_index() -> None:
    shares = definitions.shares_of_kurtosis(np.array([[1, 3, 4], [6, 2, 2]], dtype=np.float32))
    assert_array_equal(shares, np.array([[0.125, 0.375, 0.5], [0.6, 0.2, 0.2]]), strict=True)  # in float64
    ties = np.zeros(64)
    ties[[40, 9, 50, 3]] = 2.0, 2.0, 2.0, 5.0
    assert_array_equal(definitions.top_features(ties), [3, 9, 40])


def test_scales_of_images_and_rotations_change_nothing() -> None:
    rng = default_rng(2)
    h = rng.normal(0.5, 1, size=(50, 32))
    for changed in (h * rng.lognormal(0, 3, (50, 1)), h @ stats.ortho_group.rvs(32, random_state=3), h * 1e200):
        assert effective_rank(changed) == pytest.approx(effective_rank(h), rel=1e-9)
        assert relative_variance(changed) == pytest.approx(relative_variance(h), rel=1e-9)


def strong(n: int, d: int = 64, *, seed: int = 8) -> np.ndarray:
    """Representations about a mean of their own, with three strong features."""
    rng = default_rng(seed)
    mean = np.concatenate([[20.0, -15.0, 12.0], default_rng(9).normal(0, 0.7, d - 3)])
    return np.asarray(rng.normal(size=(n, d)) + mean)


def test_the_mean_of_the_rest_is_that_of_all_pairs_of_different_images() -> None:
    u = unit_rows(strong(9))
    assert set(definitions.top_features((stats.zscore(u, axis=1) ** 4).sum(axis=0))) == {0, 1, 2}
    rest = u[:, 3:]
    products = [rest[i] @ rest[k] for i in range(9) for k in range(9) if i != k]
    expected = np.mean(products) / np.mean([row @ row for row in rest])
    assert mean_of_rest(strong(9)) == pytest.approx(expected, rel=1e-12)


def test_few_images_add_nothing_to_the_mean_of_the_rest() -> None:
    draws = [mean_of_rest(strong(10, seed=seed)) for seed in range(300)]
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - mean_of_rest(strong(30_000))) < 3 * error < 0.01


def test_the_svd_of_other_images_leaves_the_rest_no_mean() -> None:
    basis = np.linalg.svd(strong(200, seed=1))[2].T
    assert mean_of_rest(strong(50)) > 0.25
    assert mean_of_rest(strong(50) @ basis) < 0.02


def test_float16_near_its_end_does_not_overflow() -> None:
    h = normal(10, 300, seed=4) * 1e4
    assert relative_variance(h.astype(np.float16)) == pytest.approx(relative_variance(h), rel=1e-3)


def test_nothing_varies() -> None:
    same = np.tile(normal(64, seed=5).astype(np.float32), (50, 1))
    for h in (np.zeros((0, 5)), np.ones((1, 5)), np.outer(np.arange(1.0, 51.0), [1.0, 2.0, -0.3]), same):
        assert (effective_rank(h), relative_variance(h)) == (0.0, 0.0)
    for h in (np.array([[1.0, 2.0, 5.0, 0.0]]), normal(9, 3, seed=5), np.eye(9)):
        assert mean_of_rest(h) == 0.0  # one image; nothing but the three; different features in each image


def test_what_float32_rounding_leaves_is_below_the_limit() -> None:
    h = np.tile(normal(512, seed=6), (50, 1)) * np.linspace(1, 3, 50)[:, None]
    rounded = unit_rows(h).astype(np.float32)
    noise = np.nextafter(rounded, np.float32(1), dtype=np.float32)
    assert relative_variance(np.vstack([rounded, noise])) < SAME


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
    assert [n for n in range(1, intervals.HORIZON + 1) if intervals.is_look(n)] == LOOKS
    spent = (1 - intervals.BEYOND) * LOOKS_ALPHA
    assert ever_above(intervals.CRITICAL, LOOKS) == pytest.approx(spent, abs=1e-5)
    n = np.array(LOOKS, dtype=float)
    correlation = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    normals = stats.multivariate_normal(cov=correlation, seed=0, maxpts=200_000)
    assert 1 - normals.cdf(np.full(len(n), intervals.CRITICAL)) == pytest.approx(spent, abs=5e-4)
    steps = normal(100000, len(n)) * np.sqrt(np.diff(n, prepend=0))
    crossed = (np.cumsum(steps, axis=1) > intervals.CRITICAL * np.sqrt(n)).any(axis=1).mean()
    assert crossed == pytest.approx(spent, abs=4 * math.sqrt(spent / 100_000))


def error_of_share(rate: float, looks: Sequence[int]) -> float:
    """P(`share_floor` is ever above the rate at a look), exactly: the distribution of the count from look to look."""
    counts, before, total = np.ones(1), 0, 0.0
    for n in looks:
        counts = np.convolve(counts, stats.binom.pmf(np.arange(n - before + 1), n - before, rate))
        above = stats.binom.sf(np.arange(n + 1) - 1, n, rate) < stats.norm.sf(intervals.CRITICAL)
        total += float(counts[above].sum())
        counts, before = np.where(above, 0, counts), n
    return total


@pytest.mark.parametrize("first", [50, 57, 100, 250])
@pytest.mark.parametrize("last", [64, 171, 287, 288])
def test_other_first_and_last_looks_are_wrong_no_more_often(first: int, last: int) -> None:
    """A profile may ask for more images, and a run may end between two looks."""
    looks = [*(n for n in range(1, last) if intervals.is_look(n, first)), last]
    assert ever_above(intervals.CRITICAL, looks) <= 0.045 + 1e-5
    assert max(error_of_share(rate, looks) for rate in np.linspace(0.02, 0.98, 25)) <= 0.045


def test_share_floor_is_wrong_in_less_than_its_error_rate_at_every_rate() -> None:
    assert max(error_of_share(rate, LOOKS) for rate in np.linspace(0.005, 0.995, sized(100, 496))) <= 0.045


def test_skewness_of_a_mean_is_that_of_the_images_over_root_n() -> None:
    x = default_rng(0).gamma(2, size=60)
    sd, skewness = intervals.grouped_jackknife(float(x.mean()), (x.sum() - x) / 59, np.ones(60))
    assert sd == pytest.approx(x.std(ddof=1), rel=1e-10)
    assert skewness == pytest.approx(stats.skew(x) / math.sqrt(60), rel=1e-10)
    alike = np.ones(4)
    assert intervals.grouped_jackknife(1.0, alike, alike) == (0.0, 0.0)


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
    """A threshold exactly at the truth, looks to 2,048 images: studies/results/bounds.md has these rates."""
    draw, before, now = FAMILIES[family]
    looks = np.array([n for n in range(1, 2049) if intervals.is_look(n)])
    x = draw(default_rng(11), (sized(500, 2000), 2048))
    m1, m2, m3 = (np.cumsum(x**k, axis=1)[:, looks - 1] / looks for k in (1, 2, 3))
    variance = m2 - m1**2
    skewness = (m3 - 3 * m1 * m2 + 2 * m1**3) / variance**1.5 / np.sqrt(looks)
    sd = np.sqrt(variance * looks / (looks - 1))
    for_all, upper = (np.array([intervals.radius(int(n), 1.0, a) for n in looks]) * sd for a in (0.05, 0.05 / 6))
    depths = np.vectorize(intervals.depth)(looks, sd, skewness)
    for most, above in ((before, m1 > for_all), (now, m1 > depths), (0.05, -m1 > upper)):
        assert above.any(axis=1).mean() <= most


def test_bounds_at_the_looks_are_for_one_error_rate() -> None:
    state = sums.State(40)
    sums.update(state, normal(2, 40), [0, 1])
    raised(ValueError, r"alpha is 0.1; bounds at the looks of a run are for 0.05", sums.statistics, state, 0.1, "looks")


def test_the_bounds_are_tightest_at_the_first_look() -> None:
    assert intervals.TUNED_FOR == intervals.FIRST_LOOK == 50
    assert [n for n in range(1, 130) if intervals.is_look(n)] == [50, 64, 80, 96, 112, 128]
    assert [n for n in range(1, 130) if intervals.is_look(n, first=100)] == [100, 112, 128]


def test_unknown_spread_gives_no_bound() -> None:
    lower = [intervals.depth(64, *unknown) for unknown in ((math.nan, 0.0), (1.0, math.nan))]
    assert [intervals.radius(64, math.nan, LOOKS_ALPHA), *lower] == 3 * [math.inf]


def test_jackknife_of_an_undefined_statistic_is_undefined() -> None:
    for without in ([1.0, math.nan], [1.0, math.inf], [1.0]):
        assert math.isnan(intervals.grouped_jackknife(1.0, np.array(without), np.ones(len(without)))[0])


def test_share_bounds_of_always_have_a_closed_form() -> None:
    assert intervals.share_bounds(64, 64, LOOKS_ALPHA)[0] == pytest.approx((LOOKS_ALPHA / 65) ** (1 / 64), rel=1e-12)
    raised(ValueError, "count is 3 of 2", intervals.share_bounds, 3, 2, LOOKS_ALPHA)


def test_share_bounds_hold_at_all_looks_together() -> None:
    """Runs that look after every image: the truth ever outside in at most α of them."""
    for rate in [0.5, 0.66, 0.9, 0.99]:
        rng, last = default_rng(3), sized(100, 300)
        count = np.cumsum(rng.random((sized(500, 2000), last)) < rate, axis=1)
        pairs = {(s, n) for n in range(1, last + 1) for s in np.unique(count[:, n - 1])}
        bounds = {pair: intervals.share_bounds(*pair, LOOKS_ALPHA) for pair in pairs}
        low, high = (np.array([[bounds[s, n][side] for n, s in enumerate(row, 1)] for row in count]) for side in (0, 1))
        assert ((low > rate) | (high < rate)).any(axis=1).mean() <= LOOKS_ALPHA


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
    for r, n, bounds in ((0.9, 3, (-1.0, 1.0)), (1.0, 10, (1.0, 1.0)), (-1.0, 10, (-1.0, -1.0))):
        assert intervals.correlation_bounds(r, n) == bounds


def test_the_interval_is_scipys_wilson() -> None:
    for n_correct, n in [(0, 1), (1, 1), (0, 40), (33, 40), (25_000, 50_000), (199, 200)]:
        found = wilson(n_correct, n)
        truth = stats.binomtest(n_correct, n).proportion_ci(0.95, method="wilson")
        assert_allclose([found.low, found.value, found.high], [truth.low, n_correct / n, truth.high], atol=1e-12)
        assert found.low <= found.value <= found.high


def test_a_share_of_nothing_is_refused() -> None:
    for n_correct, n in [(0, 0), (-1, 3), (4, 3)]:
        raised(ValueError, "between 0 and n", wilson, n_correct, n)


def test_the_difference_is_newcombes() -> None:
    for first, second, low, high in [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ]:
        found = difference(wilson(*first), wilson(*second))
        assert_allclose([found.low, found.high], [low, high], atol=6e-5)


def test_a_prediction_is_the_largest_of_the_competing_scores() -> None:
    rng = default_rng(0)
    for classes in range(2, 10):
        scores = rng.normal(size=(50, classes))
        compete = sorted(rng.choice(classes, size=rng.integers(2, classes + 1), replace=False).tolist())
        truth, right = np.take(compete, scores[:, compete].argmax(axis=1)), rng.choice(compete, 50)
        assert is_correct(scores, right[:, None].tolist(), compete).tolist() == (truth == right).tolist()


def test_ties_infinities_and_several_right_classes() -> None:
    everything = (0, 1, 2)
    scores = np.array([[1.0, 1.0, 0.0], [np.inf, 1.0, 0.0], [-np.inf, -np.inf, -5.0], [2.0, 2.0, 1.0]])
    assert is_correct(scores, [(0,), (0,), (2,), (0, 1)], everything).tolist() == [False, True, True, True]
    raised(ValueError, "NaN", is_correct, np.array([[np.nan, 1.0, 0.0]]), [(1,)], everything)
    # a NaN among classes that do not compete says nothing
    assert is_correct(np.array([[np.nan, 1.0, 0.0]]), [(1,)], (1, 2)).tolist() == [True]
