"""Models that take scales over the batch: what is left of their batch dependence once the scales are held fixed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from onnx import TensorProto

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner, scales_over_batch
from support import Fields
from support.onnx_models import encoder, save
from support.written import POOLED, written

FEATURES = 24


@pytest.fixture
def pixels() -> Any:
    """Images whose contrast differs by a factor of 256, so that each would have a scale of its own."""
    rng = default_rng(5)
    contrast = np.array([1, 4, 16, 64, 256], np.float32).reshape(-1, 1, 1, 1) / 256
    return rng.normal(size=(5, 8, 8, 3)).astype(np.float32) * contrast


INTEGERS = {
    "fused": "product = com.microsoft:DynamicQuantizeMatMul(features, q, 0.01, zero, bias)",
    "apart": """
        a, a.scale, a.zero = DynamicQuantizeLinear(features); whole = MatMulInteger(a, q, a.zero, zero)
        float = Cast(whole, to=FLOAT); scale = Mul(a.scale, 0.01); unbiased = Mul(float, scale)
        product = Add(unbiased, bias)
    """,
}
"""ways from "features" to "product", a product with int8 weights whose other factor is quantised in the run"""
WEIGHTS: Fields = {
    "q": default_rng(0).integers(-100, 100, (FEATURES, FEATURES)).astype(np.int8),
    "zero": np.array(3, np.int8),
    "bias": np.linspace(-1, 1, FEATURES).astype(np.float32),
}
GAIN, SHIFT = [1.0] * FEATURES, [0.0] * FEATURES


def runner(path: Path, form: str, end: str = "embedding = Identity(product)", *, batch: int | str = "batch") -> Runner:
    """A quantised encoder, then nodes from "product" to "embedding"."""
    image = ("image", TensorProto.FLOAT, (batch, 3, 8, 8))
    text = POOLED.replace("w16", "w24") + INTEGERS[form] + "\n" + end
    model = written(text, "embedding", before="", inputs=[image], **WEIGHTS)
    return Runner(open_model(save(model, path)), "cpu", batch_size=1)


@pytest.mark.parametrize("form", INTEGERS)
def test_nothing_is_left_of_dynamic_quantisers_alone(tmp_path: Path, pixels: Any, form: str) -> None:
    run = runner(tmp_path / "m.onnx", form)
    before = run.represent(pixels)[0]
    (together,), (fixed,) = run.batch_invariances(pixels), run.fixed_scale_invariances(pixels)
    assert (together or 0) > 0.02
    assert fixed is not None
    assert fixed < 1e-3
    np.testing.assert_array_equal(run.represent(pixels)[0], before)  # the model itself runs on


@pytest.mark.parametrize(
    "end",
    [
        "mean = ReduceMean(product, [0]); embedding = Sub(product, mean)",
        f"embedding, mean, spread = BatchNormalization(product, {GAIN}, {SHIFT}, {SHIFT}, {GAIN}, training_mode=1)",
    ],
)
def test_what_else_mixes_the_batch_is_left(tmp_path: Path, pixels: Any, end: str) -> None:
    (fixed,) = runner(tmp_path / "m.onnx", "apart", end).fixed_scale_invariances(pixels)
    assert (fixed or 0) > 0.3


def test_no_answer_without_dynamic_quantisers_or_with_a_fixed_batch(tmp_path: Path, pixels: Any) -> None:
    plain = Runner(open_model(save(encoder(), tmp_path / "p.onnx")), "cpu")
    assert not scales_over_batch(plain.model.graph.proto)
    assert plain.fixed_scale_invariances(pixels) == (None,)
    assert runner(tmp_path / "m.onnx", "apart", batch=4).fixed_scale_invariances(pixels) == (None,)
