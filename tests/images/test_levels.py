"""Sums of pixels: mean and SD of each channel are NumPy's, and exact in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from robustcheck_onnx.checker.images.levels import LONGEST, LevelSums, level_sums


def assert_numpys(found: LevelSums, pixels: NDArray[Any]) -> None:
    values = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
    np.testing.assert_allclose(found.sums, values.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.squares, (values**2).sum(axis=0), rtol=1e-12)
    assert found.mean == pytest.approx(values.mean(axis=0))
    assert found.sd == pytest.approx(values.std(axis=0), abs=1e-5)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))))
def test_mean_and_sd_are_numpys(pixels: NDArray[Any]) -> None:
    assert_numpys(level_sums(pixels), pixels)


def test_no_sum_overflows() -> None:
    white = np.full((600, 600, 3), 255, np.uint8)
    assert white.size // 3 > LONGEST
    found = level_sums(white)
    assert (found.n_values, found.sums, found.squares) == (360_000, (91_800_000,) * 3, (23_409_000_000,) * 3)
    assert (found.mean, found.sd) == ((255.0,) * 3, (0.0,) * 3)


def test_images_add_up_in_any_order() -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (edge, 8, 3), dtype=np.uint8) for edge in (4, 8, 16)]
    one, two, three = map(level_sums, photos)
    assert one + (two + three) == (three + one) + two
    assert LevelSums() + one == one + LevelSums() == one
    assert_numpys(one + two + three, np.concatenate(photos))
    assert (LevelSums().mean, LevelSums().sd) == ((), ())
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        _ = one + level_sums(photos[0][..., :1])


def test_float_values_are_summed_up_as_they_are() -> None:
    values = np.random.default_rng(0).normal(-2, 5, (20, 30, 3)).astype(np.float32)
    assert_numpys(level_sums(values), values)
    assert not np.isfinite(level_sums(np.full((2, 2, 3), 1e200)).squares).any()
