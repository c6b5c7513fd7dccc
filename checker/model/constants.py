"""Refuse constants that a graph computes, where they are far larger than what the file holds.

ONNX Runtime computes them while it opens a session, and no signal that Python answers reaches it there.
"""

from __future__ import annotations

import math

import onnx

from robustcheck_onnx.checker.errors import CannotAssessError

from .layers import bodies, nested_nodes, subgraphs

FREE = 1 << 28  # values that a graph may compute from nothing: 1 GiB as float32
TIMES = 16  # and for each value that the file holds: weights are cast, transposed, dequantised …


def computed_constants(proto: onnx.ModelProto) -> frozenset[str]:
    """Name what nodes compute and no input of the graph moves, in the graphs inside nodes too; the shape of a tensor is
    such a constant, too. What a node with a graph inside gives is not among them.

    proto: its nodes in order.
    """
    weights = {weight.name for weight in proto.graph.initializer}
    varies = {value.name for value in proto.graph.input if value.name not in weights}
    computed: set[str] = set()
    for node in nested_nodes(proto.graph.node):
        inner = list(subgraphs(node)) if node.attribute else []
        varies.update(value.name for body in inner for value in body.input)
        if inner or (node.op_type not in ("Shape", "Size") and not varies.isdisjoint(node.input)):
            varies.update(node.output)
        elif node.op_type != "Constant":
            computed.update(node.output)
    return frozenset(computed - {""})


def refuse_giants(proto: onnx.ModelProto, graph: onnx.GraphProto, where: str) -> None:
    """Refuse a graph whose computed constants hold more than `FREE` values and `TIMES` those that the file holds.

    Args:
        proto: the model.
        graph: the same with inferred shapes (`with_shapes`); what has no known shape is not counted.
        where: the file, named in errors.

    Raises:
        CannotAssessError.
    """
    sizes = {
        value.name: math.prod(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*graph.output, *graph.value_info, *(v for body in bodies(graph.node) for v in body.value_info))
        if value.type.tensor_type.HasField("shape")
    }
    held = sum(math.prod(weight.dims) for weight in proto.graph.initializer)
    written = [name for node in graph.node if node.op_type == "Constant" for name in node.output]
    held += sum(sizes.get(name, 0) for name in written)
    made = sum(math.prod(sparse.dims) for sparse in proto.graph.sparse_initializer)
    made += sum(sizes.get(name, 0) for name in computed_constants(proto))
    if made > FREE + TIMES * held:
        raise CannotAssessError(
            f"{where}: constants that the graph computes hold {made:,} values, the file {held:,}; at most {FREE:,} and "
            f"{TIMES} times those of the file may be computed",
            "export the model again, with its constants folded",
        )
