"""A classifier's head as numbers: W and b read off a model, against the weights that were written into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime import LinearHead, Runner, head_from_file, read_head, score_difference
from support import onnx_models

CLASSES, FEATURES = 10, 16
W = onnx_models.weight(CLASSES, FEATURES)
B = np.linspace(-3, 3, CLASSES).astype(np.float32)
SCORES: list[onnx_models.Value] = [("logits", TensorProto.FLOAT, ("batch", CLASSES))]
Nodes = list[onnx_models.Node]


@pytest.fixture
def images() -> Any:
    return np.random.default_rng(3).normal(size=(16, 3, 8, 8)).astype(np.float32)


def gemm() -> tuple[Nodes, dict[str, Any]]:
    return [("Gemm", ["features", "w", "b"], ["logits"], {"transB": 1})], {"w": W, "b": B}


def gemm_with_factors() -> tuple[Nodes, dict[str, Any]]:
    return [("Gemm", ["features", "w", "b"], ["logits"], {"alpha": 0.5, "beta": 2.0})], {"w": W.T * 2, "b": B / 2}


def matmul_and_bias() -> tuple[Nodes, dict[str, Any]]:
    nodes: Nodes = [("MatMul", ["features", "w"], ["product"]), ("Add", ["b", "product"], ["logits"])]
    return nodes, {"w": W.T.copy(), "b": B}


def convolution() -> tuple[Nodes, dict[str, Any]]:
    nodes: Nodes = [("Conv", ["gap", "w", "b"], ["map"]), ("Flatten", ["map"], ["logits"])]
    return nodes, {"w": W[:, :, None, None], "b": B}


def convolution_over_a_map() -> tuple[Nodes, dict[str, Any]]:
    nodes: Nodes = [
        ("Conv", ["relu", "w", "b"], ["map"]),
        ("GlobalAveragePool", ["map"], ["mean"]),
        ("Flatten", ["mean"], ["logits"]),
    ]
    return nodes, {"w": W[:, :, None, None], "b": B}


def scaled_and_transposed() -> tuple[Nodes, dict[str, Any]]:
    """A zero-shot head with a temperature; its weights are computed from others."""
    nodes: Nodes = [
        ("Transpose", ["w"], ["turned"], {"perm": [1, 0]}),
        ("MatMul", ["features", "turned"], ["cosines"]),
        ("Mul", ["cosines", "four"], ["scaled"]),
        ("Add", ["scaled", "b"], ["logits"]),
    ]
    return nodes, {"w": W / 4, "four": np.array(4, np.float32), "b": B}


def softmax() -> tuple[Nodes, dict[str, Any]]:
    nodes: Nodes = [
        ("Gemm", ["features", "w", "b"], ["linear"], {"transB": 1}),
        ("Softmax", ["linear"], ["logits"], {"axis": -1}),
    ]
    return nodes, {"w": W, "b": B}


def half() -> tuple[Nodes, dict[str, Any]]:
    nodes: Nodes = [
        ("Cast", ["features"], ["half"], {"to": TensorProto.FLOAT16}),
        ("MatMul", ["half", "w"], ["product"]),
        ("Cast", ["product"], ["logits"], {"to": TensorProto.FLOAT}),
    ]
    return nodes, {"w": W.T.astype(np.float16)}


def written(path: Path, nodes: Nodes, weights: dict[str, Any]) -> Path:
    first, more = onnx_models.pooled(FEATURES)
    return onnx_models.save(onnx_models.build(first + nodes, SCORES, more | weights), path)


@pytest.mark.parametrize(
    "layer",
    [gemm, gemm_with_factors, matmul_and_bias, convolution, convolution_over_a_map, scaled_and_transposed, softmax],
)
def test_weights_are_those_that_were_written(
    tmp_path: Path, images: Any, layer: Callable[[], tuple[Nodes, dict[str, Any]]]
) -> None:
    opened = open_model(written(tmp_path / "model.onnx", *layer()))
    head = read_head(opened)
    np.testing.assert_allclose(head.weight, W, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head.bias, B, rtol=1e-6)
    output = Runner(opened, "cpu").run(images.transpose(0, 2, 3, 1))
    assert output.class_output is not None
    assert score_difference(head, output.representation, output.class_output) < 1e-5
    assert score_difference(head, output.representation, -output.class_output) > 0.1


def test_weights_in_half_precision_and_outside_the_file(tmp_path: Path) -> None:
    head = read_head(open_model(written(tmp_path / "half.onnx", *half())))
    np.testing.assert_array_equal(head.weight, W.astype(np.float16).astype(np.float64))
    assert not head.bias.any()
    model = onnx.load(written(tmp_path / "inside.onnx", *gemm()))
    outside = onnx_models.save(model, tmp_path / "outside.onnx", external=True)
    np.testing.assert_allclose(read_head(open_model(outside)).weight, W, rtol=1e-5, atol=1e-6)


def test_large_weights_are_read_from_the_file(tmp_path: Path) -> None:
    wide = np.random.default_rng(1).normal(size=(3000, FEATURES)).astype(np.float32)  # more than is parsed at once
    path = written(tmp_path / "wide.onnx", [("MatMul", ["features", "w"], ["logits"])], {"w": wide.T.copy()})
    np.testing.assert_allclose(read_head(open_model(path)).weight, wide, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["dynamic", "qdq", "operators"])
@pytest.mark.parametrize("layer", [gemm, convolution, matmul_and_bias])
def test_quantised_weights_are_those_that_are_stored(
    tmp_path: Path, images: Any, kind: str, layer: Callable[[], tuple[Nodes, dict[str, Any]]]
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime.quantization")
    source, path = written(tmp_path / "float.onnx", *layer()), tmp_path / "int8.onnx"
    if kind == "dynamic":
        quantization.quantize_dynamic(source, path, op_types_to_quantize=["Gemm", "MatMul"])
    else:
        reader = type("Reader", (), {"feeds": iter([{"image": image[None]} for image in images])})()
        reader.get_next = lambda: next(reader.feeds, None)
        form = {"qdq": quantization.QuantFormat.QDQ, "operators": quantization.QuantFormat.QOperator}[kind]
        quantization.quantize_static(source, path, reader, quant_format=form, per_channel=layer is convolution)
    opened = open_model(path)
    head = read_head(opened)
    step = np.abs(W).max() * 2 / 255  # of 8 bits over the range of a matrix
    np.testing.assert_allclose(head.weight, W, atol=step)
    np.testing.assert_allclose(head.bias, B, atol=0.02)
    assert not np.array_equal(head.weight.astype(np.float32), W) or kind == "dynamic"
    output = Runner(opened, "cpu").run(images.transpose(0, 2, 3, 1))
    assert output.class_output is not None
    assert score_difference(head, output.representation, output.class_output) < 0.05


def test_a_fixed_batch(tmp_path: Path) -> None:
    nodes, weights = onnx_models.pooled(FEATURES)
    nodes.append(("Gemm", ["features", "w", "b"], ["flat"], {"transB": 1}))
    nodes.append(("Reshape", ["flat", "shape"], ["logits"]))
    weights |= {"w": W, "b": B, "shape": np.array([4, CLASSES])}
    inputs = [("image", TensorProto.FLOAT, (4, 3, 8, 8))]
    model = onnx_models.build(nodes, [("logits", TensorProto.FLOAT, (4, CLASSES))], weights, inputs=inputs)
    head = read_head(open_model(onnx_models.save(model, tmp_path / "fixed.onnx")))
    np.testing.assert_allclose(head.weight, W, rtol=1e-5, atol=1e-6)


def test_scores_that_are_no_linear_function_are_not_reproduced(tmp_path: Path, images: Any) -> None:
    nodes: Nodes = [("Gemm", ["features", "w", "b"], ["linear"], {"transB": 1}), ("Relu", ["linear"], ["logits"])]
    opened = open_model(written(tmp_path / "relu.onnx", nodes, {"w": W, "b": B}))
    output = Runner(opened, "cpu").run(images.transpose(0, 2, 3, 1))
    assert output.class_output is not None
    assert score_difference(read_head(opened), output.representation, output.class_output) > 0.01


@pytest.mark.parametrize("shut_out", [-1e5, -1e9, -1e20])
def test_a_class_that_a_bias_shuts_out_hides_nothing(tmp_path: Path, images: Any, shut_out: float) -> None:
    """Its own weights are read, too, and those of the other classes must be right."""
    nodes, weights = gemm()
    bias = np.where(np.arange(CLASSES) == 4, np.float32(shut_out), B)
    opened = open_model(written(tmp_path / "shut.onnx", nodes, weights | {"b": bias}))
    head = read_head(opened)
    np.testing.assert_allclose(head.weight, W, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(head.bias, bias)
    output = Runner(opened, "cpu").run(images.transpose(0, 2, 3, 1))
    assert output.class_output is not None
    assert score_difference(head, output.representation, output.class_output) < 1e-5
    other = LinearHead(head.weight[::-1], head.bias, "")
    assert score_difference(other, output.representation, output.class_output) > 0.1


def test_a_bias_is_no_excuse_for_other_scores(tmp_path: Path, images: Any) -> None:
    """An activation inside the head's own operator, and one class with a bias that dwarfs all scores."""
    attributes = {"transB": 1, "activation": "LeakyRelu", "activation_alpha": 0.1}
    nodes: Nodes = [("com.microsoft:FusedGemm", ["features", "w", "b"], ["logits"], attributes)]
    first, more = onnx_models.pooled(FEATURES)
    bias = np.where(np.arange(CLASSES) == 4, np.float32(-1e9), B)
    model = onnx_models.build(first + nodes, SCORES, more | {"w": W, "b": bias}, domains=["com.microsoft"])
    opened = open_model(onnx_models.save(model, tmp_path / "leaky.onnx"))
    output = Runner(opened, "cpu").run(images.transpose(0, 2, 3, 1))
    assert output.class_output is not None
    assert score_difference(read_head(opened), output.representation, output.class_output) > 0.1


SATURATED = 3e4 * W  # all probabilities are 0 or 1: only the largest score can be told


@pytest.mark.parametrize(
    ("between", "same"),
    [
        ([("Identity", ["linear"], ["x"])], True),
        ([("ReduceMax", ["linear", "axis"], ["n"], {"keepdims": 1}), ("Sub", ["linear", "n"], ["x"])], False),
        ([("ReduceL2", ["features"], ["n"], {"keepdims": 1}), ("Mul", ["linear", "n"], ["x"])], False),
        ([("ReduceL2", ["linear", "axis"], ["n"], {"keepdims": 1}), ("Div", ["linear", "n"], ["y"]),
          ("Mul", ["y", "c"], ["x"])], False),
    ],
)  # fmt: skip
def test_saturated_probabilities_excuse_nothing(tmp_path: Path, images: Any, between: Nodes, same: bool) -> None:
    nodes: Nodes = [
        ("Gemm", ["features", "w", "b"], ["linear"], {"transB": 1}),
        *between,
        ("Softmax", ["x"], ["logits"], {"axis": -1}),
    ]
    weights = {"w": SATURATED, "b": B, "axis": np.array([1]), "c": np.array(3e4, np.float32)}
    opened = open_model(written(tmp_path / "saturated.onnx", nodes, weights))
    output = Runner(opened, "cpu").run(images.transpose(0, 2, 3, 1))
    assert output.class_output is not None
    assert (score_difference(read_head(opened), output.representation, output.class_output) < 1e-4) == same


def test_a_softmax_of_single_operators(tmp_path: Path, images: Any) -> None:
    nodes: Nodes = [
        ("Gemm", ["features", "w", "b"], ["linear"], {"transB": 1}),
        ("ReduceMax", ["linear", "axis"], ["largest"], {"keepdims": 1}),
        ("Sub", ["linear", "largest"], ["below"]),
        ("Exp", ["below"], ["e"]),
        ("ReduceSum", ["e", "axis"], ["sum"], {"keepdims": 1}),
        ("Div", ["e", "sum"], ["logits"]),
    ]
    opened = open_model(written(tmp_path / "soft.onnx", nodes, {"w": W, "b": B, "axis": np.array([1])}))
    output = Runner(opened, "cpu").run(images.transpose(0, 2, 3, 1))
    assert output.class_output is not None
    assert score_difference(read_head(opened), output.representation, output.class_output) < 1e-5


def test_an_image_without_a_representation_is_compared_with_the_others() -> None:
    head = LinearHead(W.astype(np.float64), B.astype(np.float64), "")
    h = np.random.default_rng(0).normal(size=(5, FEATURES))
    h[2] = 0
    assert score_difference(head, h, head.scores(h) + 1e-6) == pytest.approx(1e-6 / np.sqrt(((h @ W.T) ** 2).mean()))


@pytest.mark.parametrize("end", ["linear", "sigmoid"])
def test_one_score_is_no_head(tmp_path: Path, end: str) -> None:
    nodes: Nodes = [("Gemm", ["features", "w", "b"], ["one" if end == "sigmoid" else "logits"], {"transB": 1})]
    if end == "sigmoid":
        nodes.append(("Sigmoid", ["one"], ["logits"]))
    first, more = onnx_models.pooled(FEATURES)
    model = onnx_models.build(
        first + nodes, [("logits", TensorProto.FLOAT, ("batch", 1))], more | {"w": W[:1], "b": B[:1]}
    )
    with pytest.raises(CannotAssessError, match="number of scores of the head is 1"):
        read_head(open_model(onnx_models.save(model, tmp_path / "one.onnx")))


def test_an_encoder_has_no_head_and_weights_must_be_finite(tmp_path: Path) -> None:
    encoder = onnx_models.save(onnx_models.encoder(), tmp_path / "encoder.onnx")
    with pytest.raises(CannotAssessError, match="head is missing"):
        read_head(open_model(encoder))
    broken = W.copy()
    broken[3, 4] = np.nan
    nodes, weights = gemm()
    with pytest.raises(CannotAssessError, match="not all finite"):
        read_head(open_model(written(tmp_path / "nan.onnx", nodes, weights | {"w": broken})))


def test_scores_of_two_layers_are_no_head(tmp_path: Path) -> None:
    nodes: Nodes = [
        ("Gemm", ["features", "w", "b"], ["one"], {"transB": 1}),
        ("Gemm", ["features", "v", "b"], ["other"], {"transB": 1}),
        ("Add", ["one", "other"], ["logits"]),
    ]
    with pytest.raises((CannotAssessError, UsageError)):
        read_head(open_model(written(tmp_path / "two.onnx", nodes, {"w": W, "v": W[::-1].copy(), "b": B})))


def test_a_head_of_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "head.npy", W)
    head = head_from_file(tmp_path / "head.npy", FEATURES)
    np.testing.assert_array_equal(head.weight, W)
    assert not head.bias.any()
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    safetensors.save_file({"weight": W, "bias": B}, tmp_path / "head.safetensors")
    head = head_from_file(tmp_path / "head.safetensors", FEATURES)
    np.testing.assert_array_equal(head.bias, B)
    h = np.random.default_rng(0).normal(size=(5, FEATURES))
    np.testing.assert_allclose(head.scores(h), h @ W.T.astype(np.float64) + B, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.npy", None, "no such file"),
        ("head.txt", W, "must be .npy or .safetensors"),
        ("text.npy", b"no array", "not readable"),
        ("empty.npy", b"", "not readable"),
        ("objects.npy", np.array([{}], dtype=object), "not readable"),
        ("vector.npy", W[0], "2 axes of floats"),
        ("whole.npy", np.ones((3, FEATURES), np.int64), "2 axes of floats"),
        ("narrow.npy", W[:, :7], r"\(class, 16\)"),
        ("one.npy", W[:1], "two or more classes"),
        ("nan.npy", np.full_like(W, np.nan), "not finite"),
        ("damaged.safetensors", b"\x08\0\0\0\0\0\0\0{}{}{}{}", "not readable"),
        ("other.safetensors", {"kernel": W}, "one must be named weight"),
        ("bias.safetensors", {"weight": W, "bias": B[:3]}, r"bias \(3,\)"),
    ],
)
def test_a_file_that_is_no_head(tmp_path: Path, name: str, content: Any, said: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        pytest.importorskip("safetensors.numpy", reason="needs safetensors").save_file(content, path)
    elif content is not None:
        with path.open("wb") as file:
            np.save(file, content)
    with pytest.raises(UsageError, match=said):
        head_from_file(path, FEATURES)
