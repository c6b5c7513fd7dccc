"""Numbers of a comparison against independent truths, and what became of each outlier feature."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.testing import assert_allclose
from scipy import spatial, stats

from robustcheck_onnx.checker.core.evidence import Interval
from robustcheck_onnx.checker.core.statistics import intervals, state
from robustcheck_onnx.checker.questions.compare import pairs
from robustcheck_onnx.checker.questions.compare.changes import (
    KEEPS,
    ModelJackknife,
    StatisticChange,
    _keeps,
    changes,
    jackknife_of,
    required_by,
    smallest_losses,
)
from robustcheck_onnx.checker.questions.compare.features import (
    MIN_CORRELATION,
    FeatureFate,
    follow_features,
    new_features,
)
from robustcheck_onnx.checker.questions.compare.pairs import Pair, add_predictions
from robustcheck_onnx.checker.questions.compare.similarity import (
    _hsic,
    cosines,
    nearest_distance,
    same_nearest,
    scaled,
    similarity,
)
from robustcheck_onnx.thresholds.profile import load
from support import but, normal, raised, sized
from support.comparisons import ALPHA, Array, numbers, paired, planted, rotation, same_mean


def sides(pair: Pair) -> tuple[ModelJackknife, ModelJackknife]:
    return jackknife_of(pair.candidate), jackknife_of(pair.reference)


def changed(pair: Pair, tolerance: float = 0.2) -> dict[str, StatisticChange]:
    return {c.name: c for c in changes(*sides(pair), KEEPS, ALPHA, tolerance)}


def test_a_loss_just_above_the_smallest_that_is_seen_is_seen() -> None:
    """Intervals of the same width around a smaller ratio, judged as every interval is."""
    change = changed(paired(planted(), planted()))["outlier_frequency"]
    for low, high, tolerance in ((0.962, 1.04, 0.2), (0.9, 1.1, 0.1), (0.85, 1.05, 0.3)):
        losses = smallest_losses(but(change, ratio=Interval(estimate=1.0, low=low, high=high)), tolerance)
        assert losses is not None
        width = np.sqrt(high / low)
        lost = [1 - loss - beyond for loss in losses for beyond in (-1e-9, 1e-9)]
        ratios = [Interval(estimate=left, low=left / width, high=left * width) for left in lost]
        answers = [_keeps(ratio, change.difference, 1.0, tolerance) for ratio in ratios]
        assert answers == ["kept", "undecided", "undecided", "shrank"]
    same = Interval(estimate=1.0, low=1.0, high=1.0)
    assert smallest_losses(but(change, ratio=same), 0.2) == pytest.approx((0.2, 0.2))  # the tolerance limits it
    assert smallest_losses(but(change, keeps="shrank"), 0.2) is None


def test_cka_is_kornblith_s_in_the_form_over_features() -> None:
    x = normal(50, 12) + 3
    y = np.tanh(x @ normal(12, 30, seed=1)) + normal(50, 30, seed=2)
    a, b, size = x - x.mean(0), y - y.mean(0), np.linalg.norm
    found, cka = similarity(x, y), size(b.T @ a) ** 2 / (size(a.T @ a) * size(b.T @ b))
    assert [found.cka, found.n_images] == [pytest.approx(cka, rel=1e-12), 50]


def test_cka_does_not_see_rotation_scale_or_offset_and_is_1_for_the_same() -> None:
    x = planted(60)
    for other in (x, 3 * x @ rotation(x.shape[1]) + 2.0, x[:, default_rng(0).permutation(x.shape[1])]):
        found = similarity(x, other)
        assert_allclose(numbers(found.cka, found.cka_debiased), 1.0, atol=1e-9)
    assert similarity(np.ones((8, 4)), x[:8]).cka is None


def test_hsic_is_the_mean_over_ordered_quadruples() -> None:
    """Song et al. 2012: the U-statistic K12 (L12 + L34 − 2 L13), by brute force."""
    k, m = (x @ x.T for x in (normal(7, 3), normal(7, 2, seed=1)))
    terms = [k[a, b] * (m[a, b] + m[c, d] - 2 * m[a, c]) for a, b, c, d in itertools.permutations(range(7), 4)]
    assert_allclose(_hsic(k, m) / (7 * 4), np.mean(terms), rtol=1e-10)


def test_the_nearest_neighbour_is_that_of_a_search_tree() -> None:
    x = normal(70, 6) + 1
    y = x + 0.3 * normal(70, 6, seed=1)
    units = [h / np.linalg.norm(h, axis=1, keepdims=True) for h in (x, y)]
    (far, nearest), (far_before, before) = (spatial.KDTree(unit).query(unit, k=2) for unit in units)
    truth = np.mean(nearest[:, 1] == before[:, 1])
    assert 0.2 < truth < 0.8
    # each image three times, and one of three moves a little: it was one of the two nearest of the others
    thrice, moved = (np.repeat(x[:10], 3, axis=0) for _ in range(2))
    moved[::3] += 0.01 * normal(10, 6, seed=2)
    ours, theirs, three, other = (cosines(scaled(h)) for h in (x, y, thrice, moved))
    # half the square of the distance of two unit vectors is 1 − their cosine
    ratio = np.mean(far_before[:, 1] ** 2) / np.mean(far[:, 1] ** 2)
    ratio *= np.mean(spatial.distance.pdist(units[0]) ** 2) / np.mean(spatial.distance.pdist(units[1]) ** 2)
    assert [nearest_distance(*each) for each in ((theirs, ours), (three, three))] == [pytest.approx(ratio), None]
    for a, b, same in (
        (ours, theirs, truth),
        (three, three, 1),
        (three, other, (2 * 1 / 2 + 1) / 3),
        (np.ones((70, 70)), ours, 1 / 69),  # all is tied: one image of those that may be the nearest is right
        (np.ones((2, 2)), np.ones((2, 2)), None),
    ):
        assert same_nearest(a, b) == pytest.approx(same)


def test_statistics_are_those_of_the_check() -> None:
    a, b = planted(seed=5), planted(seed=6, strength=9)
    pair = paired(a, b)
    ours, theirs = (state.statistics(side.state, ALPHA) for side in (pair.candidate, pair.reference))
    for name, change in changed(pair).items():
        x, y = getattr(ours, name).estimate, getattr(theirs, name).estimate
        found = numbers(change.candidate, change.reference, change.difference.estimate, change.ratio.estimate)
        assert_allclose(found, [x, y, x - y, x / y], rtol=1e-12)


def test_the_paired_spread_is_the_bootstrap_s() -> None:
    """Resampling images, both models alike, gives the spread of the log ratio that the jackknife claims."""
    b = planted(120, 64, seed=8, strength=7)
    a = b * (1 - 0.3 * (np.arange(64) == 7)) + 0.5 * normal(120, 64, seed=7)
    pair = paired(a, b)
    apart = changes(*sides(pair), KEEPS, ALPHA, 0.2, paired=False)[0].ratio
    ratios = [numbers(ratio.estimate, ratio.low) for ratio in (changed(pair)["kurtosis"].ratio, apart)]
    half, wider = (np.log(estimate / low) for estimate, low in ratios)
    claimed = half / intervals.radius(120, 1.0, ALPHA / 4)  # the SD of the influence function
    x, y = (stats.kurtosis(h, axis=1, fisher=False) for h in (a, b))
    draws = default_rng(7).integers(0, 120, (4000, 120))
    spread = np.log(x[draws].mean(1) / y[draws].mean(1)).std() * np.sqrt(120)
    assert_allclose(claimed, spread, rtol=0.1)
    assert wider > 1.3 * half  # not paired it would be much wider


def test_paired_intervals_cover_the_true_ratio() -> None:
    """Draws of 64 images from two models whose ratios are known from 40,000 images; at most α may miss."""
    rng = default_rng(9)

    def ratios(n: int) -> Array:
        b = rng.normal(size=(n, 48))
        b[:, 3] += 6 * rng.lognormal(0, 0.3, n)
        a = b + 0.4 * rng.normal(size=b.shape)
        a[:, 3] *= 0.9
        found = changed(paired(a, b))
        bounds = [(ratio.low, ratio.estimate, ratio.high) for ratio in (found[name].ratio for name in KEEPS)]
        return np.array(bounds, np.float64).T

    truth, draws = ratios(40_000)[1], sized(100, 300)
    held = [((low <= truth) & (truth <= high)).all() for low, _, high in (ratios(64) for _ in range(draws))]
    assert draws - sum(held) <= stats.binom.ppf(0.99, draws, ALPHA)


def test_what_must_be_kept_is_what_the_profile_asks_for_and_alpha_is_theirs() -> None:
    required = required_by(load())
    assert required == ("strength", "outlier_frequency")
    models = sides(paired(planted(), planted(strength=13)))
    for names in (required, required[:1], KEEPS):
        found = changes(*models, names, ALPHA, 0.2)
        alone = changes(*models, required[:1], ALPHA / len(names), 0.2)
        assert [s.ratio for s in found] == [s.ratio for s in alone]
        assert {s.name for s in found if s.keeps != "not required"} == set(names)


def test_always_in_both_is_no_certainty_and_other_images_are_not_paired() -> None:
    frequency = changed(paired(planted(), planted()), tolerance=0.01)["outlier_frequency"]
    assert (frequency.candidate, frequency.reference, frequency.ratio.estimate) == (1, 1, 1)
    assert 0.85 < (frequency.ratio.low or 0) < 0.97
    assert frequency.keeps == "undecided"
    a, b = (sides(paired(h, h))[0] for h in (planted(), planted(60)))
    raised(ValueError, "not paired", changes, a, b, KEEPS, ALPHA, 0.2)
    assert changes(a, b, KEEPS, ALPHA, 0.2, paired=False)[0].ratio.low is not None


def test_pairs_that_one_model_cannot_measure_count_at_it_and_nowhere_else() -> None:
    a, b = planted(20), planted(20, seed=1)
    a[3], b[5], b[6] = np.nan, 1.0, np.inf
    pair, left = paired(a, b), np.delete(np.arange(20), (3, 5, 6))
    states = pair.candidate.state, pair.reference.state
    assert [(each.n, each.n_nonfinite, each.n_constant) for each in states] == [(17, 1, 0), (17, 1, 1)]
    assert_allclose(pair.candidate.scaled_rows, scaled(a[left]), rtol=1e-6)
    assert_allclose(states[1].z_powers, paired(a[left], b[left], left).reference.state.z_powers)


def test_a_tie_or_a_nan_agrees_with_nothing() -> None:
    pair = paired(planted(4), planted(4))
    a = np.array([[1.0, 2, 0], [2, 2, 0], [np.nan, 9, 1], [5, 1, 1]])
    add_predictions(pair, a, a)
    add_predictions(pair, a[:1], a[3:])
    agreement = vars(pairs.agreement(pair))
    assert (agreement["n_same"], agreement["n"]) == (2, 5)


def fates_of(candidate: Array, reference: Array) -> dict[int, FeatureFate]:
    pair = paired(candidate, reference)
    found = follow_features(pair.candidate, pair.reference, state.statistics(pair.reference.state, ALPHA), 0.2)
    return {fate.index: fate for fate in found}


def test_features_are_found_where_a_permutation_put_them() -> None:
    h = planted(features=(7, 30, 200))
    order = default_rng(0).permutation(h.shape[1])
    places = {feature: list(order).index(feature) for feature in (7, 30, 200)}
    for sign in (1.0, -1.0):
        found = fates_of(sign * h[:, order], h)
        assert {i: (f.fate, f.to) for i, f in found.items()} == {i: ("moved", to) for i, to in places.items()}
        assert (sign * numbers(*(f.correlation for f in found.values())) > 0.999).all()


def test_kept_lost_and_new_features() -> None:
    """Outlier features of CLIP ViT-L/14 correlate at −1: a twin that stayed does not stand for the one that went."""
    h, twins = planted(features=(7, 30)), planted()
    twins[:, 30] = -twins[:, 7]
    for reference in (h, twins):
        candidate = reference.copy()
        candidate[:, 30] -= candidate[:, 30].mean()
        candidate[:, 99] += 15
        found = fates_of(candidate, reference)
        assert {i: (f.fate, f.to) for i, f in found.items()} == {7: ("kept", 7), 30: ("lost", None)}
        now = state.statistics(paired(candidate, reference).candidate.state, ALPHA)
        assert new_features(now, tuple(found.values())) == (99,)


def test_a_rotation_is_told_from_a_loss_and_a_constant_and_few_images_keep_nothing() -> None:
    h, is_planted = planted(120), np.arange(384) == 7
    turned, lost = h @ rotation(384), h - is_planted * h[:, 7].mean()
    for candidate, fates in (
        (turned, "rotated"),
        (np.round(turned / turned.max() * 127), "rotated"),
        (lost @ rotation(384), "lost"),
        (np.where(is_planted, 14, h), "uncorrelated or undecided"),
        (h[:15], "undecided"),
        (h[:16], "kept"),
    ):
        assert fates_of(candidate, h[: len(candidate)])[7].fate in fates.split(" or ")


def test_a_feature_that_shrank_is_weaker_and_nothing_is_rotated() -> None:
    """The vectors are the same but for one feature, which is beyond 4 SD in half of the images, and then in fewer."""
    h = planted(100, strength=6.2, features=(7, 30))
    h[:, 7] *= 1.5
    for left, fate in ((1, "kept"), (0.92, "weaker"), (0.1, "lost")):
        assert fates_of(h * np.where(np.arange(384) == 30, left, 1), h)[30].fate == fate


def test_cosines_that_are_alike_by_chance_are_not_a_rotation() -> None:
    """Two encoders of many features, whose images all have the same cosine but for the noise of so many features."""
    h, other = (normal(60, 2048, seed=seed) for seed in (0, 1))
    h[:, 7] += 60
    other[:, 9] += 60
    assert fates_of(other, h)[7].fate == "lost"


@given(share=st.floats(0, 1), seed=st.integers(0, 99), n=st.integers(16, 120))
def test_kept_needs_the_correlation_that_scipy_bounds(share: float, seed: int, n: int) -> None:
    h = planted(n, d=64)
    candidate = same_mean(h, share, seed)
    found = fates_of(candidate, h)[7]
    truth, limit = stats.pearsonr(scaled(candidate)[:, 7], scaled(h)[:, 7]), MIN_CORRELATION
    low, high = truth.confidence_interval(0.95)
    assert_allclose(numbers(found.correlation), truth.statistic, atol=1e-5)
    if min(abs(low - limit), abs(high - limit)) > 1e-4:  # the rows are kept in float32
        assert found.fate == ("kept" if low > limit else "uncorrelated" if high < limit else "undecided")
    assert found.to == 7
