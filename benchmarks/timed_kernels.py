"""The kernels of a check, each next to what one would use instead (pytest-benchmark).

`pytest benchmarks/timed_kernels.py`. Not kernels.py: transformers would take that for a package of this name.

Groups: a batch's activation kurtosis against SciPy (ours with all other sums), merge of two states, decoding and
resizing a photo. Each test also asserts what it times; nothing is asserted about time.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from robustcheck_onnx.checker.core.images import keypoints, preprocess, sanity
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.statistics import state

FEATURES = (512, 2048)
PHOTO = sorted((Path(__file__).parent.parent / "checker" / "photos").glob("*.jpg"))[0]


def rows(features: int, images: int = 32) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(image, feature) float32 with one outlier feature."""
    values = np.random.default_rng(0).normal(size=(images, features)).astype(np.float32)
    values[:, 7] += 20
    return values


def photo_of_imagenets_size() -> bytes:
    """A JPEG of 500 × 375 px, quality 90."""
    buffer = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize((500, 375)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.benchmark(group="activation kurtosis, 32 images; ours with all other sums")
def test_kurtosis(benchmark: Any, features: int) -> None:
    h, keys, sums = rows(features), list(range(32)), state.State(features)
    ours = benchmark(state.update, sums, h, keys).kurtosis
    assert sums.n >= 32
    np.testing.assert_allclose(ours, scipy.stats.kurtosis(h.astype(np.float64), axis=1, fisher=False), rtol=1e-9)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.benchmark(group="activation kurtosis, 32 images; ours with all other sums")
def test_kurtosis_by_scipy(benchmark: Any, features: int) -> None:
    h = rows(features)
    assert len(benchmark(scipy.stats.kurtosis, h.astype(np.float64), axis=1, fisher=False)) == len(h)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.benchmark(group="sums")
def test_merge(benchmark: Any, features: int) -> None:
    one, other = state.State(features), state.State(features)
    state.update(one, rows(features), list(range(32)))
    state.update(other, rows(features), list(range(32)))
    assert benchmark(state.merge, one, other).n == 64


@pytest.mark.benchmark(group="one photo")
def test_decode(benchmark: Any) -> None:
    image, _ = benchmark(preprocess.decode, photo_of_imagenets_size(), "a.jpg")
    assert image.size == (500, 375)


@pytest.mark.benchmark(group="one photo")
def test_resize_crop_and_scale(benchmark: Any) -> None:
    image, _ = preprocess.decode(photo_of_imagenets_size(), "a.jpg")
    assert benchmark(preprocess.apply, CLIP, image).shape == (224, 224, 3)


@pytest.mark.benchmark(group="one photo")
def test_describe(benchmark: Any) -> None:
    image, _ = preprocess.decode(photo_of_imagenets_size(), "a.jpg")
    assert benchmark(sanity.describe, image).grey_sd > 0


@pytest.mark.benchmark(group="one photo")
def test_keypoints(benchmark: Any) -> None:
    image, _ = preprocess.decode(photo_of_imagenets_size(), "a.jpg")
    assert benchmark(keypoints.find_keypoints, image)
