"""A classifier's head as numbers: W and b read off a model, against the weights that were written into it."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto

from robustcheck_onnx.checker.core.model.open import ModelFile, open_model
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.questions.head import LinearHead, head_from_file, read_head, score_difference
from support import TORN_NPY, Fields, normal, onnx_models, raised
from support.onnx_models import save
from support.onnx_models import written as support_written

CLASSES, FEATURES = 10, 16
W = onnx_models.weight(CLASSES, FEATURES)
B = np.linspace(-3, 3, CLASSES).astype(np.float32)


IMAGES = normal(16, 3, 8, 8, seed=3).astype(np.float32)
PIXELS = IMAGES.transpose(0, 2, 3, 1)
LINEAR = "linear = Gemm(features, w, b, transB=1)"
LAYERS = [
    ("logits = Gemm(features, w, b, transB=1)", {"w": W}),
    ("product = MatMul(features, w); logits = Add(b, product)", {"w": W.T.copy()}),
    ("map = Conv(gap, w, b); logits = Flatten(map)", {"w": W[:, :, None, None]}),
    ("logits = Gemm(features, w, b, alpha=0.5, beta=2.0)", {"w": W.T * 2, "b": B / 2}),
    ("map = Conv(relu, w, b); mean = GlobalAveragePool(map); logits = Flatten(mean)", {"w": W[:, :, None, None]}),
    # a zero-shot head with a temperature; its weights are computed from others
    ("turned = Transpose(w, perm=[1, 0]); cosines = MatMul(features, turned); scaled = Mul(cosines, 4.0)\n"
     "logits = Add(scaled, b)", {"w": W / 4}),
    (f"{LINEAR}; logits = Softmax(linear, axis=-1)", {"w": W}),
    # a softmax of single operators
    (f"{LINEAR}; largest = ReduceMax(linear, [1], keepdims=1); below = Sub(linear, largest); e = Exp(below)\n"
     "sum = ReduceSum(e, [1], keepdims=1); logits = Div(e, sum)", {"w": W}),
]  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Opens a model with these nodes behind its features."""

    def open_(text: str, weights: Fields, classes: int = CLASSES) -> ModelFile:
        model = support_written(text, ("logits", TensorProto.FLOAT, ("batch", classes)), **{"b": B, **weights})
        return open_model(save(model, tmp_path / "m.onnx"))

    return open_


def assert_near(head: LinearHead, weight: Any = W) -> None:
    assert_allclose(head.weight, weight, rtol=1e-5, atol=1e-6)


def represent(model: ModelFile) -> Any:
    return Runner(model, "cpu").run(PIXELS).representation


def apart(model: ModelFile, head: LinearHead | None = None) -> float:
    """How far the scores of `head`, or of the model's own, lie from the model's."""
    output = Runner(model, "cpu").run(PIXELS)
    assert output.class_output is not None
    return score_difference(head or read_head(model), output.representation, output.class_output)


def test_weights_are_those_that_were_written(written: Any) -> None:
    for layer in LAYERS:
        model = written(*layer)
        head = read_head(model)
        assert_near(head)
        assert_allclose(head.bias, B, rtol=1e-6)
        assert apart(model, head) < 1e-5
        assert apart(model, replace(head, weight=-head.weight, bias=-head.bias)) > 0.1


def test_weights_in_half_precision_in_a_large_matrix_and_outside_the_file(tmp_path: Path, written: Any) -> None:
    half = "half = Cast(features, to=FLOAT16); product = MatMul(half, w); logits = Cast(product, to=FLOAT)"
    head = read_head(written(half, {"w": W.T.astype(np.float16)}))
    assert_array_equal(head.weight, W.astype(np.float16))
    assert not head.bias.any()
    wide = normal(3000, FEATURES, seed=1).astype(np.float32)  # more than is parsed at once
    inside = written("logits = MatMul(features, w)", {"w": wide.T.copy()}, classes=3000)
    outside = save(onnx.load(inside.path), tmp_path / "outside.onnx", external=True)
    assert_near(read_head(open_model(outside)), wide)


@pytest.mark.parametrize("kind", ["dynamic", "QDQ", "QOperator"])
def test_quantised_weights_are_those_that_are_stored(tmp_path: Path, written: Any, kind: str) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime.quantization")
    path = tmp_path / "int8.onnx"
    for layer in LAYERS[:3]:
        source = written(*layer).path
        if kind == "dynamic":
            quantization.quantize_dynamic(source, path, op_types_to_quantize=["Gemm", "MatMul"])
        else:
            reader = Mock(get_next=Mock(side_effect=[*({"image": image[None]} for image in IMAGES), None]))
            options = {"quant_format": quantization.QuantFormat[kind], "per_channel": layer is LAYERS[2]}
            quantization.quantize_static(source, path, reader, **options)
        model = open_model(path)
        head, rows = read_head(model), represent(model)
        stays = kind == "dynamic" and layer is LAYERS[2]  # a convolution
        assert (model.precision, rows.dtype) == ("fp32" if stays else "int8", np.float32)
        assert model.representation.rule == "head_input"
        assert Runner(model, "cpu").output_difference(PIXELS) < 1e-4
        truth = represent(open_model(source))
        # int8 steps are about 1/255 of the range of a tensor; two tensors lie on the way
        assert_allclose(rows, truth, atol=0.03 * float(truth.max()))
        step = np.abs(W).max() * 2 / 255  # of 8 bits over the range of a matrix
        assert_allclose(head.weight, W, atol=step)
        assert_allclose(head.bias, B, atol=0.02)
        assert apart(model, head) < 0.05


def test_a_fixed_batch(tmp_path: Path) -> None:
    text = f"flat = Gemm(features, w, b, transB=1); logits = Reshape(flat, [4,{CLASSES}])"
    model = support_written(text, ("logits", 1, (4, CLASSES)), inputs=[("image", 1, (4, 3, 8, 8))], w=W, b=B)
    assert_near(read_head(open_model(save(model, tmp_path / "fixed.onnx"))))


def test_scores_that_are_no_linear_function_are_not_reproduced(written: Any) -> None:
    """A bias that dwarfs all scores is not an excuse. The operator has an activation, and a class is shut out."""
    leaky = "activation='LeakyRelu', activation_alpha=0.1"
    shut_out = np.where(np.arange(CLASSES) == 4, np.float32(-1e9), B)
    for text, bias in (
        (f"{LINEAR}; logits = Relu(linear)", B),
        (f"logits = com.microsoft:FusedGemm(features, w, b, transB=1, {leaky})", shut_out),
    ):
        assert apart(written(text, {"w": W, "b": bias})) > 0.01


def test_a_class_that_a_bias_shuts_out_hides_nothing(written: Any) -> None:
    """Its own weights are read, too, and those of the other classes must be right."""
    for shut_out in (-1e5, -1e20):
        bias = np.where(np.arange(CLASSES) == 4, np.float32(shut_out), B)
        model = written(LAYERS[0][0], {"w": W, "b": bias})
        head = read_head(model)
        assert apart(model, head) < 1e-5
        assert apart(model, replace(head, weight=head.weight[::-1])) > 0.1


@pytest.mark.parametrize(("between", "same"), {
    "x = Identity(linear)": True,
    "n = ReduceMax(linear, [1], keepdims=1); x = Sub(linear, n)": False,
    "n = ReduceL2(features, keepdims=1); x = Mul(linear, n)": False,
    "n = ReduceL2(linear, [1], keepdims=1); y = Div(linear, n); x = Mul(y, 30000.0)": False,
}.items())  # fmt: skip
def test_saturated_probabilities_excuse_nothing(written: Any, between: str, same: bool) -> None:
    """All probabilities are 0 or 1: only the largest score can be told."""
    weights = {"w": 3e4 * W}
    model = written(f"{LINEAR}; {between}; logits = Softmax(x, axis=-1)", weights)
    assert (apart(model) < 1e-4) == same


def test_an_image_without_a_representation_is_compared_with_the_others() -> None:
    head = LinearHead(W.astype(np.float64), B.astype(np.float64), "")
    h = normal(5, FEATURES)
    h[2] = 0
    assert score_difference(head, h, head.scores(h) + 1e-6) == pytest.approx(1e-6 / np.sqrt(((h @ W.T) ** 2).mean()))


def test_what_is_no_head(written: Any) -> None:
    one = {"w": W[:1], "b": B[:1]}
    for text, weights, said in (
        (LAYERS[0][0], one, "number of scores of the head is 1"),
        (f"{LINEAR}; logits = Sigmoid(linear)", one, "number of scores of the head is 1"),
        (f"{LINEAR}; other = Gemm(features, v, b, transB=1); logits = Add(linear, other)", {"w": W,
         "v": W[::-1].copy()}, "is given by several layers"),
    ):  # fmt: skip
        raised(CannotAssessError, said, read_head, written(text, weights, len(weights["w"])))


def test_a_head_of_a_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    np.save(tmp_path / "head.npy", W)
    safetensors.save_file({"weight": W, "bias": B}, tmp_path / "head.safetensors")
    h = normal(5, FEATURES)
    for name, bias in (("head.npy", 0 * B), ("head.safetensors", B)):
        scores = head_from_file(tmp_path / name, FEATURES).scores(h)
        assert_allclose(scores, h @ W.T.astype(np.float64) + bias, rtol=1e-12)


def test_a_file_that_is_no_head(tmp_path: Path) -> None:
    """More of them are in tests/directions."""
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    for name, content, said in (
        ("missing.npy", None, "no such file"),
        ("objects.npy", np.array([{}], dtype=object), "not readable"),
        ("vector.npy", W[0], "2 axes of floats"),
        ("whole.npy", W.astype(int), "2 axes of floats"),
        ("one.npy", W[:1], "two or more classes"),
        ("torn.npy", TORN_NPY, "not readable"),
        ("archive.npy", b"PK\3\4", "not readable"),
        ("damaged.safetensors", b"\x08\0\0\0\0\0\0\0{}{}{}{}", "not readable"),
        ("other.safetensors", safetensors.save({"kernel": W}), "one must be named weight"),
        ("bias.safetensors", safetensors.save({"weight": W, "bias": B[:3]}), r"bias \(3,\)"),
    ):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            np.save(tmp_path / name, content)
        raised(UsageError, said, head_from_file, tmp_path / name, FEATURES)
