"""What a representation ends in (a linear layer, a norm, an activation), and whether it is rectified. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from robustcheck_onnx.checker.evidence import WRITTEN_ZERO_AT
from robustcheck_onnx.thresholds.ends import End

from .layers import (
    ACTIVATION,
    AFFINE,
    LINEAR,
    NORMALISATION,
    POOL,
    RESHAPE,
    UNSIGNED,
    Layers,
    common_source,
    data_inputs,
    elementwise_chain,
    statistic_op,
    walk_back,
)

LINEAR_ENDS = frozenset((End("linear"), End("other", "Add")))  # a linear layer, or a sum of branches (a residual)
GATES = frozenset(End("activation", op) for op in ("Sigmoid", "HardSigmoid", "Clip", "Softmax"))  # squeeze-and-excite
COMPARISON = frozenset(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
CONCAT_DEPTH = 2  # nested concatenations that are looked through


def ends_in(layers: Layers, tensor: str, depth: int = 0) -> End:
    """Find the layer that makes `tensor`.

    Looks through reshapes, casts, quantisation, CLS selection, L2 normalisation, biases and scalar factors;
    through a concatenation of parts that end alike; and through pooling, when an activation or a normalisation
    lies under it.
    """
    pooled = False
    for node in walk_back(layers, tensor):
        end = _end_of(layers, node)
        if end == End("other", "Concat") and depth < CONCAT_DEPTH:
            ends = {ends_in(layers, name, depth + 1) for name in data_inputs(layers, node)}
            end = ends.pop() if len(ends) == 1 else end
        if end is None:
            continue
        if end.kind == "pool":
            pooled = True
        elif end in LINEAR_ENDS and (source := rectified_under(layers, tensor)):
            return End("linear_of", source)
        else:
            return End("pool") if pooled and end.kind not in ("activation", "normalisation") else end
    return End("other", "input")


def rectified_under(layers: Layers, tensor: str, seen: dict[str, str] | None = None) -> str:
    """Name the activation that `tensor` is an affine function of, by its op; "" if there is none.

    Follows linear layers, norms, pooling, gates, and whatever else has one data input. A concatenation counts if one
    part does, a sum of branches (a residual stream) only if all do. Attention, where two image tensors are
    multiplied, ends it.
    """
    seen = {} if seen is None else seen  # branches of a residual stream meet again: each sum is walked once
    for node in walk_back(layers, tensor):
        op, names, end = node.op_type, data_inputs(layers, node), _end_of(layers, node)
        if end is not None and end.kind == "activation":
            return end.op
        if op in ("Max", "Min") or (op == "Where" and _maker(layers, node.input[0]) in COMPARISON):
            return op  # max(x, 0), or x where it is positive
        if op == "Mul" and len(names) == 2:
            gated = [name for name in names if ends_in(layers, name) not in GATES]
            if len(gated) == 1:
                return rectified_under(layers, gated[0], seen)
            if not gated:
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
    """Yield the linear layers that end `tensor`, with nothing between them but what `ends_in` looks through.

    Those of every branch that a concatenation or a sum joins count, nested `CONCAT_DEPTH` times at most.
    """
    for node in walk_back(layers, tensor):
        names = data_inputs(layers, node)
        if len(names) > 1 and node.op_type in ("Add", "Concat"):
            for name in names if depth < CONCAT_DEPTH else ():
                yield from last_linears(layers, name, depth + 1)
            return
        end = _end_of(layers, node)
        if end == End("linear"):
            yield node
        elif end is not None:
            return


def writes_one_sign(node: onnx.NodeProto, zero_points: Mapping[str, bool]) -> bool:
    """Whether a layer writes a quantised tensor that holds no negative values, or no positive ones.

    A quantiser takes a ReLU out and writes what comes before it so. A zero point that is not among the constants
    counts, too: it could be one.

    Args:
        node: any layer. zero_points: constants of a quantised type, each with `is_extreme`.
    """
    if node.op_type not in WRITTEN_ZERO_AT:
        return False
    at = WRITTEN_ZERO_AT[node.op_type]
    name = node.input[at] if at < len(node.input) else ""
    if name:
        return zero_points.get(name, True)
    if node.op_type == "QGemm":
        return False  # writes floats then
    types = [attribute.i for attribute in node.attribute if attribute.name == "output_dtype" and attribute.i]
    return (types[0] if types else TensorProto.UINT8) in UNSIGNED  # the zero point is 0


def _maker(layers: Layers, tensor: str) -> str:
    """Name the op that makes `tensor`; "" for an input or a constant."""
    return "" if (node := layers.producers.get(tensor)) is None else node.op_type


def _end_of(layers: Layers, node: onnx.NodeProto) -> End | None:
    """Say what `node` is as an end; None to look through it."""
    op, names = node.op_type, data_inputs(layers, node)
    if names and writes_one_sign(node, layers.zero_points):
        maker = layers.producers.get(node.input[0])
        before = None if maker is None else _end_of(layers, maker)
        # the image itself has no negative pixels; an activation that still stands before it is the end, by its own name
        look_through = maker is None or (before is not None and before.kind == "activation")
        return None if op == "QuantizeLinear" and look_through else End("activation", op)
    if op == "Gather" and node.input[0] not in layers.image_tensors:
        return End("other", op)
    if op in RESHAPE:
        return None
    if op in NORMALISATION:
        return End("normalisation")
    if op in LINEAR:
        fused = [attribute.s.decode() for attribute in node.attribute if attribute.name == "activation"]
        if fused and fused[0]:
            return End("activation", fused[0])
        return End("linear") if len(names) == 1 else End("other", op)
    if op in ACTIVATION:
        return End("activation", op)
    if op in POOL:
        return End("pool")
    if op in AFFINE:
        return _affine_end(layers, node, names)
    return End("other", op)


def _affine_end(layers: Layers, node: onnx.NodeProto, names: tuple[str, ...]) -> End | None:
    op = node.op_type
    if len(names) > 1:
        return End("activation", _activation_name(layers, names)) if common_source(layers, names) else End("other", op)
    statistics = [statistic_op(layers, name) for name in node.input if name not in names]
    if "ReduceMean" in statistics and op in ("Div", "Mul"):
        return End("normalisation")  # (x − mean)/sd, or x/rms
    if "Mul" in op and any(math.prod(layers.constants.get(name, ())) > 1 for name in node.input):
        return End("normalisation")  # one factor a feature: the scale of a norm, folded or decomposed
    return None


def _activation_name(layers: Layers, names: tuple[str, ...]) -> str:
    """Give the usual name of an activation that is made of several ops, by the op that makes its gate."""
    ops = {_maker(layers, tensor) for name in names for tensor in elementwise_chain(layers, name, 0)[:-1]}
    usual = {"Sigmoid": "SiLU", "HardSigmoid": "HardSwish", "Erf": "Gelu", "Softplus": "Mish", "Tanh": "Gelu"}
    return next((usual[op] for op in usual if op in ops), "HardSwish" if ops & {"Clip", "Relu"} else "Product")
