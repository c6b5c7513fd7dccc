"""Find the last linear layer before an output. The walk goes through what may follow a classifier's head. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from onnx import NodeProto

from .layers import AFFINE, BITS, LINEAR, POOL, RESHAPE, SCALING, WEIGHT_AT, Layers

AFTER_HEAD = RESHAPE | POOL | AFFINE | {"Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "TopK", "Relu", "Clip", "Exp",
                                        "Log", "Sum", "Mean", "Concat", "LabelEncoder", "ArrayFeatureExtractor",
                                        "ZipMap"}  # fmt: skip
GATE = "gate"  # is written among crossed ops for an activation made of several, such as x·sigmoid(x)
SCALE = "scale"  # is written among crossed ops for a factor that all outputs share: the temperature of cosine scores
UNIT = (
    "LpNormalization"  # is written among crossed ops for a division by a norm of what is divided, however it is written
)
COSINE = "cosine"  # is written among crossed ops for a division by the norm of another tensor
QUANTISERS = frozenset(("QuantizeLinear", "DynamicQuantizeLinear"))
L2_STATISTICS = frozenset(("ReduceL2", "ReduceSumSquare", "ReduceSum"))  # what a vector of length 1 was divided by
_BIAS_AT = {"Gemm": 2, "Conv": 2, "FusedGemm": 2, "FusedConv": 2, "NhwcConv": 2, "NhwcFusedConv": 2}
_BIAS_AT |= {"QGemm": 6, "QLinearConv": 8, "MatMulNBits": 5, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}


@dataclass(frozen=True)
class Head:
    """The last linear layer before an output."""

    op: str
    tensor: str
    """its data input, on the float side of a quantisation where there is one"""
    weight_shape: tuple[int, ...]
    classes: int | None
    """width of its output"""
    has_bias: bool
    """whether a bias is added that is not all zeros"""
    writes_bias: bool
    """whether a bias is added, be it of zeros"""
    crossed: frozenset[str]
    """ops between the layer and the output"""
    cosine: bool = False
    """whether it reads a vector that is divided by its L2 norm, before or behind it: its outputs are cosines"""
    dequantize: tuple[str, ...] = ()
    """scale and zero point, where the data input has no float side"""


@dataclass(frozen=True)
class Join:
    """A node that joins branches and ends a walk."""

    op: str
    branches: tuple[str, ...]


class _Tail(NamedTuple):
    """The nodes between a tensor and its linear layer. A join may end it instead."""

    start: str
    """the tensor that the layer or the join makes"""
    crossed: frozenset[str]
    has_bias: bool
    writes_bias: bool


class _Known(NamedTuple):
    """The results of earlier walks over a graph. Each tensor is walked over once, however many branches lead to it."""

    tails: dict[str, _Tail | None]
    float_sides: dict[str, str]
    """the float tensor that a quantised one was made of; "" for none"""
    unit_length: dict[str, str]
    """the tensor that was divided by its L2 norm, behind reshapes, casts and factors; "" for none"""
    roots: dict[str, str]
    """what a linear layer gave, of which a tensor is a function or a statistic"""


def find_head(layers: Layers, output: str) -> Head | Join | None:
    """Walk back from `output` to the last linear layer.

    That is softmax, reshapes, pooling, biases, factors and casts. None if anything else is met first: then no linear
    layer ends this output. A join of heads that all read one tensor (an average of two) counts as the first of them.
    """
    tail = _tail(layers, output)
    if tail is None:
        return None
    node, names = layers.producers[tail.start], layers.data[tail.start]
    if node.op_type in LINEAR:
        return _head(layers, node, names[0], tail)
    tails = [_tail(layers, name) for name in names]
    if node.op_type != "Concat" and all(each and layers.producers[each.start].op_type in LINEAR for each in tails):
        heads = [find_head(layers, name) for name in names]
        if len({head.tensor for head in heads if isinstance(head, Head)}) == 1:
            return heads[0]
    return Join(node.op_type, names)


@lru_cache(maxsize=1)
def _known(layers: Layers) -> _Known:
    return _Known({}, {}, {}, {})


def _tail(layers: Layers, tensor: str) -> _Tail | None:
    known, path = _known(layers).tails, []
    while tensor not in known:
        op, names = layers.ops.get(tensor, ""), layers.data.get(tensor, ())
        ends_here = op in LINEAR and len(names) == 1
        is_look_up = op == "Gather" and layers.producers[tensor].input[0] not in layers.image_tensors
        goes_on = op in AFTER_HEAD and names and not is_look_up  # the image picks nothing from a table
        source = layers.elementwise.parent(tensor) if len(names) > 1 else None if ends_here or not names else names[0]
        if ends_here or not goes_on or source is None:
            known[tensor] = _Tail(tensor, frozenset(), False, False) if ends_here or goes_on else None
            break
        path.append((tensor, source))
        tensor = source
    tail = known[tensor]
    for crossed, source in reversed(path):
        tail = known[crossed] = None if tail is None else _extend(layers, tail, crossed, source)
    return tail


def _extend(layers: Layers, inner: _Tail, tensor: str, source: str) -> _Tail:
    """Put the node that makes `tensor` behind a tail."""
    op, several = layers.ops[tensor], len(layers.data[tensor]) > 1
    more = {op, GATE} if several else {op}
    if not several and op in SCALING:
        by = [name for name in layers.producers[tensor].input if name in layers.statistics and name != source]
        if by:
            more.add(UNIT if {_root(layers, name) for name in by} == {_root(layers, source)} else COSINE)
        elif _scales(layers, layers.producers[tensor], inner):
            more.add(SCALE)
    if op == "Sub" and any(layers.statistics.get(name) == "ReduceLogSumExp" for name in layers.producers[tensor].input):
        more.add("LogSoftmax")
    added = not several and op in ("Add", "QLinearAdd")
    not_zero = added and not layers.zeros & set(layers.producers[tensor].input)
    return _Tail(inner.start, inner.crossed | more, inner.has_bias or not_zero, inner.writes_bias or added)


def _float_side(layers: Layers, tensor: str) -> str:
    """Return the float tensor that was quantised to `tensor`. "" if there is none."""

    def step(name: str) -> tuple[str, str]:
        quantised = layers.types.get(name) in BITS or layers.types.get(name) is None
        if not quantised or layers.ops.get(name) not in RESHAPE:
            return "", ""
        source = layers.producers[name].input[0]
        return (source, "") if layers.ops[name] in QUANTISERS else ("", source)

    return _follow(_known(layers).float_sides, tensor, step)


def _unit_length(layers: Layers, tensor: str) -> str:
    """Return the tensor that was divided by its L2 norm.

    Reshapes, casts and factors are looked through; "" if there is none.
    """

    def step(name: str) -> tuple[str, str]:
        op, names = layers.ops.get(name, ""), layers.data.get(name, ())
        read = layers.producers[name].input if op in SCALING else ()
        if op == "LpNormalization" or any(layers.statistics.get(other, "") in L2_STATISTICS for other in read):
            return name, ""
        return "", names[0] if (op in RESHAPE or op in AFFINE) and len(names) == 1 else ""

    return _follow(_known(layers).unit_length, tensor, step)


def _root(layers: Layers, tensor: str) -> str:
    """Return the nearest tensor of a linear layer or join."""

    def step(name: str) -> tuple[str, str]:
        names = set(layers.data.get(name, ()))
        linear = layers.ops.get(name) in LINEAR and name not in layers.statistics
        source = layers.elementwise.parent(name) if linear or len(names) != 1 else min(names)
        return ("", source) if source else (name, "")

    return _follow(_known(layers).roots, tensor, step)


def _follow(known: dict[str, str], tensor: str, step: Callable[[str], tuple[str, str]]) -> str:
    """Walk from tensor to tensor until one has a result. All on the way get that result.

    step: gives a tensor's (result, next tensor), "" for none.
    """
    path = []
    result = ""
    while tensor and tensor not in known:
        path.append(tensor)
        result, tensor = step(tensor)
    result = known.get(tensor, result)
    known.update(dict.fromkeys(path, result))
    return result


def _scales(layers: Layers, node: NodeProto, inner: _Tail) -> bool:
    """Whether a node multiplies all features by one factor. The factor does not depend on the image."""
    if layers.producers[inner.start].op_type in ("MatMulInteger", "ConvInteger") and inner.crossed <= {"Cast"}:
        return False  # the scale of what was quantised
    others = node.input[::3][:2] if node.op_type == "QLinearMul" else node.input
    factors = [name for name in others if name not in layers.image_tensors]
    shapes = [layers.constants.get(name, layers.shapes.get(name)) for name in factors]
    return any(shape is not None and all(size == 1 for size in shape) for shape in shapes)


def _head(layers: Layers, node: NodeProto, data: str, tail: _Tail) -> Head:
    at = WEIGHT_AT.get(node.op_type, 1)
    others = [name for name in node.input[at : at + 1] if name != data] or [node.input[0]]
    inferred = layers.constants.get(others[0]) or layers.shapes.get(others[0], ())
    weight_shape = tuple(size or 0 for size in inferred)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    classes: int | None = None
    if "Conv" in node.op_type:
        classes = weight_shape[0] if weight_shape else None
    elif "N" in attributes:
        classes = attributes["N"].i  # MatMulNBits and MatMulBnb4 pack their weight
    elif weight_shape and node.op_type != "Einsum":
        classes = weight_shape[0 if "transB" in attributes and attributes["transB"].i else -1]
    bias_at = _BIAS_AT.get(node.op_type)
    bias = node.input[bias_at] if bias_at is not None and len(node.input) > bias_at else ""
    tensor = _float_side(layers, data) or data
    quantised = node.op_type in ("QLinearMatMul", "QLinearConv", "QGemm") and tensor == data
    scales = tuple(node.input[1:3]) if quantised else ()
    crossed = tail.crossed
    if "alpha" in attributes and not math.isclose(attributes["alpha"].f, 1):
        crossed |= {SCALE}
    on_vectors = "Conv" not in node.op_type or all(size == 1 for size in layers.shapes.get(data, (0, 0, 0))[2:])
    cosine = on_vectors and (COSINE in crossed or bool(_unit_length(layers, data)))
    has_bias, writes_bias = tail.has_bias or bias not in {"", *layers.zeros}, tail.writes_bias or bool(bias)
    return Head(node.op_type, tensor, weight_shape, classes, has_bias, writes_bias, crossed, cosine, scales)
