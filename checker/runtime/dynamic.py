"""Quantisers that take their scale over the whole batch: found in a graph, and held fixed to see what else mixes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.arrays import GenericArray

# onnx ≥ 1.21 and ONNX Runtime write these; others, such as DynamicQuantizeLSTM, are in no vision encoder
LINEAR, MATMUL = "DynamicQuantizeLinear", "DynamicQuantizeMatMul"


def scales_over_batch(model: onnx.ModelProto) -> bool:
    """Whether a model has a quantiser that takes its scale over the whole batch; subgraphs do not count."""
    return any(node.op_type in (LINEAR, MATMUL) for node in model.graph.node)


def with_scales(graph: bytes) -> tuple[onnx.ModelProto, list[str]]:
    """Give a model in which each dynamic quantiser stands alone, its scale and zero point outputs; and their names.

    A DynamicQuantizeMatMul becomes the quantiser and the integer product that it is short for.
    """
    model = onnx.ModelProto.FromString(graph)
    nodes = [part for node in model.graph.node for part in (_apart(node) if node.op_type == MATMUL else [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    names = [name for node in nodes if node.op_type == LINEAR for name in node.output[1:]]
    there = {output.name for output in model.graph.output}
    kinds = (TensorProto.FLOAT, TensorProto.UINT8)
    for index, name in enumerate(names):
        if name not in there:
            model.graph.output.append(helper.make_tensor_value_info(name, kinds[index % 2], []))
    return model, names


def with_fixed_scales(model: onnx.ModelProto, names: Sequence[str], values: Sequence[GenericArray]) -> bytes:
    """Write the model of `with_scales` with constants for its scales and zero points: no scale depends on the batch."""
    constants = dict(zip(names, values, strict=True))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != LINEAR:
            nodes.append(node)
            continue
        quantised, scale, zero_point = node.output
        for name in (scale, zero_point):
            tensor = numpy_helper.from_array(np.asarray(constants[name]), name)
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        nodes.append(helper.make_node("QuantizeLinear", [node.input[0], scale, zero_point], [quantised]))
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.node[:]
    fixed.graph.node.extend(nodes)
    content: bytes = fixed.SerializeToString()
    return content


def _apart(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that a DynamicQuantizeMatMul (A, B, B's scale[, B's zero point, bias]) is short for."""
    a, b, b_scale, b_zero, bias = [*node.input, "", ""][:5]
    name = f"{node.output[0]}_apart"
    quantised, scale, zero = (f"{name}_{part}" for part in ("a", "scale", "zero"))
    yield helper.make_node(LINEAR, [a], [quantised, scale, zero])
    yield helper.make_node("MatMulInteger", [quantised, b, zero, b_zero], [f"{name}_integers"])
    yield helper.make_node("Cast", [f"{name}_integers"], [f"{name}_floats"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [scale, b_scale], [f"{name}_scales"])
    product = node.output[0] if not bias else f"{name}_product"
    yield helper.make_node("Mul", [f"{name}_floats", f"{name}_scales"], [product])
    if bias:
        yield helper.make_node("Add", [product, bias], [node.output[0]])
