"""Find the last linear layer before an output."""

import math
from functools import lru_cache
from typing import NamedTuple

from onnx import NodeProto

from .ends import INTEGER_PRODUCTS, SCALING, WEIGHT_AT, _are_one_factor
from .layers import AFFINE, BITS, LINEAR, POOL, RESHAPE, Layers
from .nodes import Names, input_at

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


class Head(NamedTuple):
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
    dequantize: Names = ()
    """scale and zero point, where the data input has no float side"""


class Join(NamedTuple):
    """A node that joins branches and ends a walk."""

    op: str
    branches: Names


class _Tail(NamedTuple):
    """The nodes between a tensor and its linear layer. A join may end it instead."""

    start: str
    """the tensor that the layer or the join makes"""
    crossed: frozenset[str]
    has_bias: bool
    writes_bias: bool


class _HeadFacts(NamedTuple):
    """The known facts of every image tensor."""

    tails: dict[str, _Tail]
    """of those that a linear layer or a join ends"""
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
    all_tails = _head_facts(layers).tails
    tail = all_tails.get(output)
    if tail is None:
        return None
    node, names = layers.producers[tail.start], layers.data[tail.start]
    if node.op_type in LINEAR:
        return _head(layers, node, names[0], tail)
    tails = [all_tails.get(name) for name in names]
    if node.op_type != "Concat" and all(t and layers.producers[t.start].op_type in LINEAR for t in tails):
        heads = [find_head(layers, name) for name in names]
        if len({head.tensor for head in heads if isinstance(head, Head)}) == 1:
            return heads[0]
    return Join(node.op_type, names)


@lru_cache(maxsize=1)
def _head_facts(layers: Layers) -> _HeadFacts:
    """Compute the facts of every tensor in one pass. They follow from those of the tensors that its node reads."""
    facts = tails, float_sides, unit_length, roots = _HeadFacts({}, {}, {}, {})
    for tensor, names in layers.data.items():
        op, inputs = layers.ops[tensor], layers.producers[tensor].input
        first, parent, is_one = inputs[0] if inputs else "", layers.elementwise.parent(tensor), len(names) == 1
        is_linear = op in LINEAR and tensor not in layers.statistics
        source = parent if is_linear or len(set(names)) != 1 else names[0]
        roots[tensor] = roots.get(source, source) if source else tensor
        if layers.types.get(tensor) in (None, *BITS) and op in RESHAPE:
            float_sides[tensor] = first if op in QUANTISERS else float_sides.get(first, "")
        read = inputs if op in SCALING else ()
        if op == "LpNormalization" or any(layers.statistics.get(name, "") in L2_STATISTICS for name in read):
            unit_length[tensor] = tensor
        elif is_one and (op in RESHAPE or op in AFFINE):
            unit_length[tensor] = unit_length.get(names[0], "")
        ends_here, is_look_up = op in LINEAR and is_one, op == "Gather" and first not in layers.image_tensors
        goes_on = op in AFTER_HEAD and names and not is_look_up  # the image picks nothing from a table
        before = parent if len(names) > 1 else names[0] if names else None
        if goes_on and not ends_here and before is not None:
            if before in tails:
                tails[tensor] = _extend(layers, facts, tensor, before)
        elif ends_here or goes_on:
            tails[tensor] = _Tail(tensor, frozenset(), False, False)
    return facts


def _extend(layers: Layers, facts: _HeadFacts, tensor: str, source: str) -> _Tail:
    """Put the node that makes `tensor` behind the tail of `source`."""
    inner, roots, node = facts.tails[source], facts.roots, layers.producers[tensor]
    op, several = layers.ops[tensor], len(layers.data[tensor]) > 1
    more = {op, GATE} if several else {op}
    if not several and op in SCALING:
        by = [name for name in node.input if name in layers.statistics and name != source]
        is_integer = layers.producers[inner.start].op_type in INTEGER_PRODUCTS
        if by:
            more.add(UNIT if {roots.get(name, name) for name in by} == {roots.get(source, source)} else COSINE)
        elif any(_are_one_factor(layers, node)) and not (is_integer and inner.crossed <= {"Cast"}):
            more.add(SCALE)  # not that of what was quantised
    if op == "Sub" and any(layers.statistics.get(name) == "ReduceLogSumExp" for name in node.input):
        more.add("LogSoftmax")
    added = not several and op in ("Add", "QLinearAdd")
    not_zero = added and not layers.zeros & {*node.input}
    return _Tail(inner.start, inner.crossed | more, inner.has_bias or not_zero, inner.writes_bias or added)


def _head(layers: Layers, node: NodeProto, data: str, tail: _Tail) -> Head:
    op, attributes = node.op_type, {attribute.name: attribute for attribute in node.attribute}
    at, bias_at = WEIGHT_AT.get(op, 1), _BIAS_AT.get(op, len(node.input))
    weight = "".join(name for name in node.input[at : at + 1] if name != data) or node.input[0]
    weight_shape = tuple(size or 0 for size in layers.shape_of(weight) or ())
    rows_first = "Conv" in op or ("transB" in attributes and attributes["transB"].i)
    classes: int | None = None
    if "N" in attributes:
        classes = attributes["N"].i  # MatMulNBits and MatMulBnb4 pack their weight
    elif weight_shape and op != "Einsum":
        classes = weight_shape[0 if rows_first else -1]
    bias = input_at(node, bias_at)
    tensor = _head_facts(layers).float_sides.get(data) or data
    scales = tuple(node.input[1:3]) if op in WEIGHT_AT and tensor == data else ()
    crossed = tail.crossed
    if "alpha" in attributes and not math.isclose(attributes["alpha"].f, 1):
        crossed |= {SCALE}
    on_vectors = "Conv" not in op or all(size == 1 for size in layers.shapes.get(data, (0, 0, 0))[2:])
    cosine = on_vectors and (COSINE in crossed or bool(_head_facts(layers).unit_length.get(data)))
    has_bias, writes_bias = tail.has_bias or bias not in {"", *layers.zeros}, tail.writes_bias or bool(bias)
    return Head(op, tensor, weight_shape, classes, has_bias, writes_bias, crossed, cosine, scales)
