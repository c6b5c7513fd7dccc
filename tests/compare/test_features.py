"""What became of each outlier feature: kept, moved, rotated away, lost, new."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.testing import assert_allclose
from scipy import stats

from robustcheck_onnx.checker.compare import pairs
from robustcheck_onnx.checker.statistics import state
from support.comparisons import ALPHA, Array, numbers, paired, planted, rotation, same_mean


def fates_of(candidate: Array, reference: Array) -> dict[int, pairs.FeatureFate]:
    pair = paired(candidate, reference)
    found = pairs.fates(pair.candidate, pair.reference, state.statistics(pair.reference.state, ALPHA), 0.2)
    return {fate.index: fate for fate in found}


def test_features_are_found_where_a_permutation_put_them() -> None:
    h = planted(features=(7, 30, 200))
    order = default_rng(0).permutation(h.shape[1])
    for sign in (1.0, -1.0):
        found = fates_of(sign * h[:, order], h)
        assert {i: (f.fate, f.to) for i, f in found.items()} == {
            i: ("moved", list(order).index(i)) for i in (7, 30, 200)
        }
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
        assert pairs.new_features(now, tuple(found.values())) == (99,)


def test_a_rotation_is_told_from_a_loss_and_a_constant_and_few_images_keep_nothing() -> None:
    h, is_planted = planted(120), np.arange(384) == 7
    turned, lost = h @ rotation(384), h - is_planted * h[:, 7].mean()
    for candidate, reference, fates in (
        (turned, h, "rotated"),
        (np.round(turned / turned.max() * 127), h, "rotated"),
        (lost @ rotation(384), h, "lost"),
        (np.where(is_planted, 14, h), h, "uncorrelated or undecided"),
        (h[:15], h[:15], "undecided"),
        (h[:16], h[:16], "kept"),
    ):
        assert fates_of(candidate, reference)[7].fate in fates.split(" or ")


@given(share=st.floats(0, 1), seed=st.integers(0, 99), n=st.integers(16, 120))
def test_kept_needs_the_correlation_that_scipy_bounds(share: float, seed: int, n: int) -> None:
    h = planted(n, d=64)
    candidate = same_mean(h, share, seed)
    found = fates_of(candidate, h)[7]
    truth = stats.pearsonr(pairs.scaled(candidate)[:, 7], pairs.scaled(h)[:, 7])
    low, high = truth.confidence_interval(0.95)
    limit = pairs.KEPT_CORRELATION
    assert_allclose(numbers(found.correlation), truth.statistic, atol=1e-5)
    if min(abs(low - limit), abs(high - limit)) > 1e-4:  # the rows are kept in float32
        assert found.fate == ("kept" if low > limit else "uncorrelated" if high < limit else "undecided")
    assert found.to == 7
