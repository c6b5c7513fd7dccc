"""The statistics where rounding, scales and closed forms decide; all of them by another code are in test_page.py."""

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from robustcheck_onnx.checker.statistics import definitions
from robustcheck_onnx.checker.statistics.definitions import SAME, effective_rank, relative_variance, unit_rows
from robustcheck_onnx.checker.statistics.state import State, update
from support import normal, raised


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def per_image(h: np.ndarray) -> np.ndarray:
    """Each image's activation kurtosis, as a check adds it up."""
    return update(State(h.shape[1]), h, np.arange(len(h))).kurtosis


def test_one_hot_reaches_the_largest_value() -> None:
    for d in [4, 512, 2048]:
        one_hot = np.zeros((1, d))
        one_hot[0, d // 2] = 5.0
        # closed form: p = 1/d, (1 − 3p + 3p²) / (p(1 − p)) = d²/(d − 1) − 3
        assert_allclose(per_image(one_hot), [d**2 / (d - 1) - 3], rtol=1e-10)


def test_neither_an_offset_of_1000_in_float32_nor_outliers_of_float16_harm(rng: np.random.Generator) -> None:
    base = rng.normal(size=(5, 512)).astype(np.float32)
    shifted = (base.astype(np.float64) + 1000).astype(np.float32)
    assert_allclose(per_image(shifted), per_image(base), rtol=1e-3)
    h = rng.normal(size=(4, 768)).astype(np.float16)
    h[:, 5] = 60, 600, 6000, 60000
    for rows, rtol in ((shifted, 1e-9), (h, 1e-12)):
        want = scipy.stats.kurtosis(rows.astype(np.float64), axis=1, fisher=False)
        assert_allclose(per_image(rows), want, rtol=rtol)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_extreme_scales_do_not_under_or_overflow(rng: np.random.Generator, scale: float) -> None:
    h = rng.normal(size=(3, 50))
    assert_allclose(definitions.standardise(h * scale), definitions.standardise(h), rtol=1e-9)


def test_unusable_rows_are_told_apart() -> None:
    h = np.ones((6, 4))
    h[1] = [1, 2, 3, 4]
    h[2, 0] = np.nan
    h[3, 0] = np.inf
    h[4] = 0.0
    h[5] = [1e200, -1e200, 0, 0]
    rows = definitions.usable_rows(h)
    assert rows.usable.tolist() == [False, True, False, False, False, True]
    assert rows.nonfinite.tolist() == [False, False, True, True, False, False]
    assert rows.constant.tolist() == [True, False, False, False, True, False]


def test_an_unusable_row_is_an_error_not_a_number() -> None:
    for bad in [[1.0, 1.0, 1.0], [1.0, np.nan, 2.0]]:
        raised(ValueError, "constant or not finite", definitions.standardise, [bad])


def test_max_median_ratio() -> None:
    assert_array_equal(definitions.max_median_ratio([[1.0, -2.0, 30.0], [0.0, 0.0, 1.0]]), [15.0, np.inf])


def test_shares_of_several_groups_add_to_one_each_and_ties_go_to_the_smaller_index() -> None:
    shares = definitions.shares_of_kurtosis(np.array([[1, 3, 4], [6, 2, 2]], dtype=np.float32))
    assert_array_equal(shares, [[0.125, 0.375, 0.5], [0.6, 0.2, 0.2]])
    assert shares.dtype == np.float64
    ties = np.zeros(64)
    ties[[40, 9, 50]] = 2.0
    ties[3] = 5.0
    assert_array_equal(definitions.top_features(ties), [3, 9, 40])


def test_scales_of_images_and_rotations_change_nothing() -> None:
    rng = np.random.default_rng(2)
    h = rng.normal(0.5, 1, size=(50, 32))
    for changed in (h * rng.lognormal(0, 3, (50, 1)), h @ scipy.stats.ortho_group.rvs(32, random_state=3), h * 1e200):
        assert effective_rank(changed) == pytest.approx(effective_rank(h), rel=1e-9)
        assert relative_variance(changed) == pytest.approx(relative_variance(h), rel=1e-9)


def test_float16_near_its_end_does_not_overflow() -> None:
    h = normal(10, 300, seed=4) * 1e4
    assert relative_variance(h.astype(np.float16)) == pytest.approx(relative_variance(h), rel=1e-3)


def test_nothing_varies() -> None:
    for h in [
        np.zeros((0, 5)),
        np.ones((1, 5)),
        np.outer(np.arange(1.0, 51.0), [1.0, 2.0, -0.3]),
        np.tile(normal(64, seed=5).astype(np.float32), (50, 1)),
    ]:
        assert (effective_rank(h), relative_variance(h)) == (0.0, 0.0)


def test_what_float32_rounding_leaves_is_below_the_limit() -> None:
    h = np.tile(normal(512, seed=6), (50, 1)) * np.linspace(1, 3, 50)[:, None]
    rounded = unit_rows(h).astype(np.float32)
    noise = np.nextafter(rounded, np.float32(1), dtype=np.float32)
    assert relative_variance(np.vstack([rounded, noise])) < SAME
