"""What a representation ends in (a linear layer, a norm, an activation), and whether it is rectified; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from robustcheck_onnx.checker.evidence import WRITTEN_ZERO_AT

from .layers import (
    ACTIVATION,
    AFFINE,
    COMPARISON,
    CONCAT_DEPTH,
    GATES,
    LINEAR,
    NORMALISATION,
    POOL,
    RESHAPE,
    UNSIGNED,
    Layers,
    _back,
    _chain,
    common_source,
    data_inputs,
    statistic_op,
)


def ends_in(layers: Layers, tensor: str, depth: int = 0) -> str:
    """What produces `tensor`: linear, linear_of:Op (an affine function of that activation), normalisation,
    activation:Op, pool or other:Op.

    Looks through reshapes, casts, quantisation, CLS selection, L2 normalisation, biases and scalar factors;
    through a concatenation of parts that end alike; and through pooling, when an activation or a normalisation
    lies under it.
    """
    pooled = False
    for node in _back(layers, tensor):
        end = _end(layers, node)
        if end == "other:Concat" and depth < CONCAT_DEPTH:
            ends = {ends_in(layers, name, depth + 1) for name in data_inputs(layers, node)}
            end = ends.pop() if len(ends) == 1 else end
        if end == "pool":
            pooled = True
        elif end:
            if end in ("linear", "other:Add") and (source := rectified_under(layers, tensor)):
                return f"linear_of:{source}"
            return "pool" if pooled and not end.startswith(("activation", "normalisation")) else end
    return "other:input"


def rectified_under(layers: Layers, tensor: str, seen: dict[str, str] | None = None) -> str:
    """The activation that `tensor` is an affine function of, by its op; "" if there is none.

    Follows linear layers, norms, pooling, gates, and whatever else has one data input. A concatenation counts if one
    part does, a sum of branches (a residual stream) only if all do. Attention, where two image tensors are
    multiplied, ends it.
    """
    seen = {} if seen is None else seen  # branches of a residual stream meet again: each sum is walked once
    for node in _back(layers, tensor):
        op, names, end = node.op_type, data_inputs(layers, node), _end(layers, node)
        if end.startswith("activation:"):
            return end.removeprefix("activation:")
        if op in ("Max", "Min") or (op == "Where" and _op(layers, node.input[0]) in COMPARISON):
            return op  # max(x, 0), or x where it is positive
        gated = (
            [name for name in names if ends_in(layers, name) not in GATES] if op == "Mul" and len(names) == 2 else []
        )
        if len(gated) == 1:
            return rectified_under(layers, gated[0], seen)
        if not gated and op == "Mul" and len(names) == 2:
            return op  # of two that are never negative
        if len(names) > 1 and op in ("Add", "Concat"):
            name = node.output[0]
            if name not in seen:
                seen[name] = ""
                under = [rectified_under(layers, branch, seen) for branch in names]
                seen[name] = max(under) if op == "Concat" or all(under) else ""
            return seen[name]
        if len(names) != 1 or "Attention" in op:
            return ""
    return ""


def last_linears(layers: Layers, tensor: str, depth: int = 0) -> Iterator[onnx.NodeProto]:
    """The linear layers that end `tensor`: with nothing between them but what `ends_in` looks through, and those of
    every branch that a concatenation or a sum joins, nested `CONCAT_DEPTH` times at most."""
    for node in _back(layers, tensor):
        names = data_inputs(layers, node)
        if len(names) > 1 and node.op_type in ("Add", "Concat"):
            for name in names if depth < CONCAT_DEPTH else ():
                yield from last_linears(layers, name, depth + 1)
            return
        end = _end(layers, node)
        if end == "linear":
            yield node
        elif end:
            return


def _op(layers: Layers, tensor: str) -> str:
    """What produces `tensor`; "" for an input or a constant."""
    return "" if (node := layers.producers.get(tensor)) is None else node.op_type


def _end(layers: Layers, node: onnx.NodeProto) -> str:
    """What `node` is as an end, "" to look through it."""
    op, names = node.op_type, data_inputs(layers, node)
    if names and cuts_off(node, layers.zero_points):
        # the image itself has no negative pixels; an activation that still stands before it says what it is itself
        maker = layers.producers.get(node.input[0])
        said = maker is None or _end(layers, maker).startswith("activation")
        return "" if op == "QuantizeLinear" and said else f"activation:{op}"
    if op == "Gather" and node.input[0] not in layers.image_tensors:
        return "other:Gather"
    if op in RESHAPE:
        return ""
    if op in NORMALISATION:
        return "normalisation"
    if op in LINEAR:
        fused = [attribute.s.decode() for attribute in node.attribute if attribute.name == "activation"]
        return f"activation:{fused[0]}" if fused and fused[0] else "linear" if len(names) == 1 else f"other:{op}"
    if op in ACTIVATION:
        return f"activation:{op}"
    if op in POOL:
        return "pool"
    if op in AFFINE:
        return _affine_end(layers, node, names)
    return f"other:{op}"


def _affine_end(layers: Layers, node: onnx.NodeProto, names: tuple[str, ...]) -> str:
    op = node.op_type
    if len(names) > 1:
        return f"activation:{_gate(layers, names)}" if common_source(layers, names) else f"other:{op}"
    statistics = [statistic_op(layers, name) for name in node.input if name not in names]
    if "ReduceMean" in statistics and op in ("Div", "Mul"):
        return "normalisation"  # (x − mean)/sd, or x/rms
    if "Mul" in op and any(math.prod(layers.constants.get(name, ())) > 1 for name in node.input):
        return "normalisation"  # one factor a feature: the scale of a norm, folded or decomposed
    return ""


def _gate(layers: Layers, names: tuple[str, ...]) -> str:
    """The usual name of a decomposed activation, by the op that makes its gate."""
    ops = {node.op_type for name in names for tensor in _chain(layers, name, 0)[:-1]
           if (node := layers.producers.get(tensor)) is not None}  # fmt: skip
    usual = {"Sigmoid": "SiLU", "HardSigmoid": "HardSwish", "Erf": "Gelu", "Softplus": "Mish", "Tanh": "Gelu"}
    return next((usual[op] for op in usual if op in ops), "HardSwish" if ops & {"Clip", "Relu"} else "Product")


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
