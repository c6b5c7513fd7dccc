"""Where the zero of a quantised tensor lies: at an end of the scale it cuts off everything below, as a ReLU does."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, numpy_helper

BITS: dict[int, int] = {TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16}
BITS |= {TensorProto.UINT16: 16, TensorProto.INT4: 4, TensorProto.UINT4: 4}
UNSIGNED: frozenset[int] = frozenset((TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT4))
# position of the zero point of what a layer writes
WRITTEN_ZERO_AT = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7, "QLinearAdd": 7, "QLinearMul": 7}
WRITTEN_ZERO_AT |= {"QGemm": 8, "QLinearGlobalAveragePool": 4, "QLinearAveragePool": 4, "QLinearConcat": 1}


def cuts_off(node: onnx.NodeProto, zero_points: Mapping[str, bool]) -> bool:
    """Whether a layer writes a quantised tensor that holds no negative values, or no positive ones.

    A quantiser takes a ReLU out and writes what comes before it so. A zero point that is not among the constants
    counts, too: it could be one.

    Args:
        node: any layer. zero_points: constants of a quantised type, each with `at_an_end`.
    """
    if node.op_type not in WRITTEN_ZERO_AT:
        return False
    at = WRITTEN_ZERO_AT[node.op_type]
    name = node.input[at] if at < len(node.input) else ""
    if name:
        return zero_points.get(name, True)
    if node.op_type == "QGemm":
        return False  # writes floats then
    kinds = [attribute.i for attribute in node.attribute if attribute.name == "output_dtype" and attribute.i]
    return (kinds[0] if kinds else TensorProto.UINT8) in UNSIGNED  # the zero point is 0


def at_an_end(zero_point: onnx.TensorProto) -> bool:
    """Whether all values of a tensor of a type in `BITS` are the lowest, or all the highest; external ones may be."""
    if zero_point.data_location == TensorProto.EXTERNAL:
        return True
    values = {int(value) for value in numpy_helper.to_array(zero_point).ravel()}
    bits = BITS[zero_point.data_type]
    unsigned = zero_point.data_type in UNSIGNED
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return values in ({low}, {high})
