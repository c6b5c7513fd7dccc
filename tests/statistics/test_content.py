"""Effective rank and relative variance: scales, rounding, nothing that varies (their values: test_page.py)."""

import numpy as np
import pytest
import scipy.stats

from robustcheck_onnx.checker.statistics.definitions import SAME, effective_rank, relative_variance, unit_rows
from support import normal


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
        np.tile([1.0, -2.0, 3.0], (50, 1)),
        np.outer(np.arange(1.0, 51.0), [1.0, 2.0, -0.3]),
        np.tile(normal(64, seed=5).astype(np.float32), (50, 1)),
    ]:
        assert (effective_rank(h), relative_variance(h)) == (0.0, 0.0)


def test_what_float32_rounding_leaves_is_below_the_limit() -> None:
    h = np.tile(normal(512, seed=6), (50, 1)) * np.linspace(1, 3, 50)[:, None]
    rounded = unit_rows(h).astype(np.float32)
    noise = np.nextafter(rounded, np.float32(1), dtype=np.float32)
    assert relative_variance(np.vstack([rounded, noise])) < SAME
