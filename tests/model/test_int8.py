"""Pairs of int8 weights whose products exceed 16 bits: in every form of a quantised layer, and in files of others."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from robustcheck_onnx.checker.core.model.file import read_onnx
from robustcheck_onnx.checker.core.model.int8 import saturating_pairs
from support import Fields
from support.onnx_models import Array, build, graph, save, with_int8_branches, written

PAIRS = [127, 2, 100, -100, 64, 64]
"""|a + b| · 255 is 32895, 0 and 32640, of which the first alone exceeds 32767"""
COLUMN = np.array(PAIRS, np.int8)[:, None]
OTHERS: dict[str, Array] = {"scale": np.array(1, np.float32), "zero": np.array(0, np.uint8)}
OTHERS |= {"signed": np.array(0, np.int8), "wide": np.array(0, np.uint16)}
QDQ = """
    q = QuantizeLinear(image, scale, zero); a = DequantizeLinear(q, scale, zero)
    w = DequantizeLinear(w8, scale, signed)
"""
DYNAMIC = "a, s, z = DynamicQuantizeLinear(image); "


def share(text: str, weight: Array) -> float | None:
    nodes = graph(text.strip())
    domains = ["com.microsoft"] if "com.microsoft" in text else []
    file = read_onnx(save(build(nodes, [nodes[-1][2][0]], OTHERS | {"w8": weight}, domains=domains), "m.onnx"))
    return saturating_pairs(file.proto, file.weights)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "weight"),
    [
        (QDQ + "y = MatMul(a, w)", COLUMN),
        (QDQ + "y = Gemm(a, w, transB=1)", COLUMN.T),
        (QDQ + "y = Conv(a, w)", COLUMN.reshape(1, 3, 1, 2).swapaxes(1, 3)),  # channels of one place are a pair
        (DYNAMIC + "y = MatMulInteger(a, w8, z)", COLUMN),
        ("y = com.microsoft:DynamicQuantizeMatMul(image, w8, scale)", COLUMN),
        ("q = QuantizeLinear(image, scale, zero); y = QLinearConv(q, scale, zero, w8, scale, signed, scale, zero)",
         COLUMN.reshape(1, 6, 1, 1)),
        ("q = QuantizeLinear(image, scale, zero); y = QLinearMatMul(q, scale, zero, w8, scale, signed, scale, zero)",
         np.hstack([COLUMN] * 3)),
    ],
)  # fmt: skip
def test_one_pair_of_three_saturates(text: str, weight: Array) -> None:
    assert share(text, weight) == pytest.approx(1 / 3)


@pytest.mark.usefixtures("here")
def test_weights_without_int8_sums_have_no_pairs() -> None:
    for text, weight in (
        (QDQ.replace("signed", "zero") + "y = MatMul(a, w)", COLUMN.astype(np.uint8)),
        (QDQ + "y = Conv(a, w, group=6)", COLUMN.reshape(6, 1, 1, 1)),
        ("w = DequantizeLinear(w8, scale, signed); y = MatMul(image, w)", COLUMN),
        (QDQ.replace("scale, zero", "scale, wide") + "y = MatMul(a, w)", COLUMN),
        ("q = QuantizeLinear(image, scale, signed); y = MatMulInteger(q, w8, signed)", COLUMN),
        ("y = Relu(image)", COLUMN),
    ):
        assert share(text, weight) is None


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("op", ["MatMulInteger", "ConvInteger"])
@pytest.mark.parametrize("shape", [(), (6,), (0, 6), (1, 6), (1, 0, 1, 1)])
def test_a_weight_of_any_shape_is_read(op: str, shape: tuple[int, ...]) -> None:
    assert share(f"{DYNAMIC}y = {op}(a, w8, z)", np.ones(shape, np.int8)) in (None, 0)


@pytest.mark.parametrize("is_outside", [False, True])
def test_int8_layers_in_graphs_inside_nodes_count(is_outside: bool, opened: Any) -> None:
    file = opened(with_int8_branches(np.vstack([COLUMN] * 32), is_outside=is_outside))
    assert file.precision == "int8"
    assert saturating_pairs(file.graph.proto, file.file.weights) == pytest.approx(1 / 3)


def test_a_file_with_floats_of_8_bits_and_an_int8_layer_is_int8(opened: Any) -> None:
    """ONNX Runtime adds the integers in pairs, whatever other layers hold."""
    text = "f = Flatten(image); q = QuantizeLinear(f, 1.0, z); a = DequantizeLinear(q, 1.0, z)\n"
    integers = "i, s, zero = DynamicQuantizeLinear(a); p = MatMulInteger(i, w8, zero); embedding = Cast(p, to=FLOAT)"
    w8: Fields = {"w8": np.ones((192, 6), np.int8)}
    cases: list[tuple[str, Fields, str]] = [("embedding = MatMul(a, w192x6)", {}, "fp8"), (integers, w8, "int8")]
    for end, weights, precision in cases:
        model = written(text + end, before="", opset=23, z=0, **weights)
        (zero,) = (tensor for tensor in model.graph.initializer if tensor.name == "z")
        zero.CopyFrom(helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0]))
        assert opened(model).precision == precision
