"""Sums of pixels: mean and SD of each channel are NumPy's, and exact in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustcheck_onnx.checker.images.levels import LONGEST, LevelSums, level_sums


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))))
def test_mean_and_sd_are_numpys(pixels: np.ndarray) -> None:
    found = level_sums(pixels)
    values = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
    assert found.sums == tuple(values.sum(axis=0))
    assert found.squares == tuple((values**2).sum(axis=0))
    assert found.mean == pytest.approx(values.mean(axis=0))
    assert found.sd == pytest.approx(values.std(axis=0), abs=1e-5)


def test_no_sum_overflows() -> None:
    white = np.full((600, 600, 3), 255, np.uint8)
    assert white.size // 3 > LONGEST
    found = level_sums(white)
    assert (found.n_values, found.sums, found.squares) == (360_000, (91_800_000,) * 3, (23_409_000_000,) * 3)
    assert (found.mean, found.sd) == ((255.0,) * 3, (0.0,) * 3)
    every = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 300, 3))
    assert level_sums(every[:, ::-1]).mean == (127.5,) * 3


def test_images_add_up_in_any_order() -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (edge, 8, 3), dtype=np.uint8) for edge in (4, 8, 16)]
    one, two, three = map(level_sums, photos)
    assert one + (two + three) == (three + one) + two
    assert LevelSums() + one == one + LevelSums() == one
    together = np.concatenate(photos).reshape(-1, 3)
    assert (one + two + three).mean == pytest.approx(together.mean(axis=0))
    assert (one + two + three).sd == pytest.approx(together.std(axis=0))
    assert (LevelSums().mean, LevelSums().sd) == ((), ())
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        _ = one + level_sums(photos[0][..., :1])


def test_float_values_are_summed_up_as_they_are() -> None:
    values = np.random.default_rng(0).normal(-2, 5, (20, 30, 3)).astype(np.float32)
    found = level_sums(values)
    assert found.mean == pytest.approx(values.reshape(-1, 3).mean(axis=0, dtype=np.float64))
    assert found.sd == pytest.approx(values.reshape(-1, 3).std(axis=0, dtype=np.float64))
    assert not np.isfinite(level_sums(np.full((2, 2, 3), 1e200)).squares).any()
