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
            i: ("moved", int(np.flatnonzero(order == i)[0])) for i in (7, 30, 200)
        }
        assert all(f.correlation is not None and sign * f.correlation > 0.999 for f in found.values())


def test_kept_lost_and_new_features() -> None:
    h = planted(features=(7, 30))
    candidate = h.copy()
    candidate[:, 30] -= candidate[:, 30].mean()
    candidate[:, 99] += 15
    found = fates_of(candidate, h)
    assert {i: (f.fate, f.to) for i, f in found.items()} == {7: ("kept", 7), 30: ("lost", None)}
    pair = paired(candidate, h)
    new = pairs.new_features(state.statistics(pair.candidate.state, ALPHA), tuple(found.values()))
    assert new == (99,)


def test_a_lost_feature_is_not_found_in_its_twin() -> None:
    """Outlier features of CLIP ViT-L/14 correlate at −1: the one that stayed does not stand for the one that went."""
    h = planted(features=(7,))
    h[:, 30] = -h[:, 7]
    candidate = h.copy()
    candidate[:, 7] -= candidate[:, 7].mean()
    assert {i: f.fate for i, f in fates_of(candidate, h).items()} == {7: "lost", 30: "kept"}


def test_a_rotation_is_told_from_a_loss() -> None:
    h = planted(120)
    turned = h @ rotation(h.shape[1])
    assert fates_of(turned, h)[7].fate == "rotated"
    rounded = np.round(turned / turned.max() * 127)
    assert fates_of(rounded, h)[7].fate == "rotated"
    lost = h.copy()
    lost[:, 7] -= lost[:, 7].mean()
    assert fates_of(lost @ rotation(h.shape[1]), h)[7].fate == "lost"
    kurtosis_after = stats.kurtosis(turned, axis=1, fisher=False).mean()
    assert abs(kurtosis_after - 3) < 0.2


@given(share=st.floats(0, 1), seed=st.integers(0, 99), n=st.integers(16, 120))
def test_kept_needs_the_correlation_that_scipy_bounds(share: float, seed: int, n: int) -> None:
    h = planted(n, d=64)
    found = fates_of(same_mean(h, share, seed), h)[7]
    x, y = (pairs.scaled(rows)[:, 7] for rows in (same_mean(h, share, seed), h))
    truth = stats.pearsonr(x, y)
    low, high = truth.confidence_interval(0.95)
    limit = pairs.KEPT_CORRELATION
    assert_allclose(numbers(found.correlation), truth.statistic, atol=1e-5)
    if min(abs(low - limit), abs(high - limit)) > 1e-4:  # the rows are kept in float32
        assert found.fate == ("kept" if low > limit else "uncorrelated" if high < limit else "undecided")
    assert found.to == 7


def test_a_constant_and_few_images_keep_nothing() -> None:
    h = planted(60)
    constant = h.copy()
    constant[:, 7] = 14
    assert fates_of(constant, h)[7].fate in ("uncorrelated", "undecided")
    assert fates_of(planted(15), planted(15))[7].fate == "undecided"
    assert fates_of(planted(16), planted(16))[7].fate == "kept"
