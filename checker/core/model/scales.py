"""Find quantisers that take their scale over the batch, and hold their scales fixed.

onnx ≥ 1.21 and ONNX Runtime write these two; others, such as DynamicQuantizeLSTM, are in no vision encoder.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_node, make_tensor_value_info
from onnx.numpy_helper import from_array

from ...arrays import GenericArray
from .nodes import nested_nodes, replace_all

QUANTISER = "DynamicQuantizeLinear"
MATMUL = "DynamicQuantizeMatMul"
DYNAMIC = frozenset((QUANTISER, MATMUL))


def scales_over_batch(model: ModelProto) -> bool:
    """Return whether a quantiser scales over the batch, or over what a graph inside a node has of it."""
    return any(node.op_type in DYNAMIC for node in nested_nodes(model.graph.node))


def can_fix_scales(model: ModelProto) -> bool:
    """Return whether quantisers scale over the batch, and all are in the main graph, where `with_scales` finds them."""
    n = sum(node.op_type in DYNAMIC for node in model.graph.node)
    return 0 < n == sum(node.op_type in DYNAMIC for node in nested_nodes(model.graph.node))


def with_scales(graph: bytes) -> tuple[ModelProto, list[str]]:
    """Make the scales and zero points of dynamic quantisers into outputs, and return their names.

    A DynamicQuantizeMatMul becomes the quantiser and the integer product that it is short for.
    """
    model = ModelProto.FromString(graph)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += _apart(node) if node.op_type == MATMUL else [node]
    replace_all(model.graph.node, nodes)
    there = {output.name for output in model.graph.output}
    names = []
    for node in nodes:
        if node.op_type == QUANTISER:
            for name, kind in zip(node.output[1:], (TensorProto.FLOAT, TensorProto.UINT8), strict=False):
                names.append(name)
                if name not in there:
                    model.graph.output.append(make_tensor_value_info(name, kind, []))
    return model, names


def with_fixed_scales(model: ModelProto, names: Sequence[str], values: Sequence[GenericArray]) -> bytes:
    """Write the model of `with_scales`, changed in place, with constant scales and zero points."""
    constants = dict(zip(names, values, strict=True))
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != QUANTISER:
            nodes.append(node)
            continue
        quantised, *scaling = node.output
        for name in scaling:
            value = from_array(np.asarray(constants[name]), name)
            nodes.append(make_node("Constant", [], [name], value=value))
        nodes.append(make_node("QuantizeLinear", [node.input[0], *scaling], [quantised]))
    replace_all(model.graph.node, nodes)
    return bytes(model.SerializeToString())


def _apart(node: NodeProto) -> Iterator[NodeProto]:
    """Yield the nodes that replace a DynamicQuantizeMatMul. Its inputs are A, B, B's scale[, B's zero point, bias]."""
    a, b, b_scale, b_zero, bias = [*node.input, "", ""][:5]
    name = f"{node.output[0]}_apart"
    parts = ("a", "scale", "zero", "integers", "floats", "scales", "product")
    quantised, scale, zero, integers, floats, scales, product = (f"{name}_{part}" for part in parts)
    yield make_node(QUANTISER, [a], [quantised, scale, zero])
    yield make_node("MatMulInteger", [quantised, b, zero, b_zero], [integers])
    yield make_node("Cast", [integers], [floats], to=TensorProto.FLOAT)
    yield make_node("Mul", [scale, b_scale], [scales])
    if bias:
        yield make_node("Mul", [floats, scales], [product])
        yield make_node("Add", [product, bias], node.output)
    else:
        yield make_node("Mul", [floats, scales], node.output)
