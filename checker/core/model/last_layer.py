"""Find the last linear layer before an output."""

import math
from functools import lru_cache
from typing import NamedTuple

from onnx import AttributeProto, NodeProto

from .layer_end import INTEGER_PRODUCTS, SCALING, are_one_factor, n_longer
from .layers import AFFINE, BITS, LINEAR, POOL, RESHAPE, WEIGHT_AT, Layers
from .nodes import Names, attribute_of, input_at, integer, op_set

AFTER_SCORES = op_set(
    "Softmax LogSoftmax Sigmoid ArgMax TopK Relu Clip Exp Log Sum Mean Concat LabelEncoder ArrayFeatureExtractor ZipMap"
)
AFTER_HEAD = RESHAPE | POOL | AFFINE | AFTER_SCORES
GATE = "gate"  # is written among crossed ops for an activation made of several, such as x·sigmoid(x)
SCALE = "scale"  # is written among crossed ops for a factor that all outputs share: the temperature of cosine scores
UNIT = "LpNormalization"  # is written among crossed ops for any division by a norm of what is divided
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
    """The nodes between a tensor and the linear layer, or the join, that it ends in."""

    start: str
    """the tensor that the layer or the join makes"""
    crossed: frozenset[str] = frozenset()
    has_bias: bool = False
    writes_bias: bool = False


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
    """Walk back from `output` to the last linear layer, through softmax, reshapes, pooling, biases, factors and casts.

    None if anything else is met first: then no linear layer ends this output. A join of heads that all read one tensor
    (an average of two) counts as the first of them.
    """
    tails = _head_facts(layers).tails
    tail = tails.get(output)
    if tail is None:
        return None
    node = layers.producers[tail.start]
    names = layers.data[tail.start]
    if node.op_type in LINEAR:
        return _head(layers, node, names[0], tail)
    branches = [tails.get(name) for name in names]
    if node.op_type != "Concat" and all(t and layers.producers[t.start].op_type in LINEAR for t in branches):
        heads = [find_head(layers, name) for name in names]
        if len({head.tensor for head in heads if isinstance(head, Head)}) == 1:
            return heads[0]
    return Join(node.op_type, names)


@lru_cache(maxsize=1)
def _head_facts(layers: Layers) -> _HeadFacts:
    """Compute the facts of every tensor in one pass, from those of the tensors that its node reads."""
    facts = _HeadFacts({}, {}, {}, {})
    for tensor, names in layers.data.items():
        op = layers.ops[tensor]
        inputs = layers.producers[tensor].input
        first = inputs[0] if inputs else ""
        only = names[0] if len(names) == 1 else None
        parent = layers.elementwise.parent(tensor)
        source = parent
        if len(set(names)) == 1 and (op not in LINEAR or tensor in layers.statistics):
            source = names[0]
        facts.roots[tensor] = facts.roots.get(source, source) if source else tensor
        if op in RESHAPE and layers.types.get(tensor) in (None, *BITS):
            facts.float_sides[tensor] = first if op in QUANTISERS else facts.float_sides.get(first, "")
        by = [layers.statistics.get(name) for name in inputs] if op in SCALING else []
        if op == "LpNormalization" or not L2_STATISTICS.isdisjoint(by):
            facts.unit_length[tensor] = tensor
        elif only is not None and (op in RESHAPE or op in AFFINE):
            facts.unit_length[tensor] = facts.unit_length.get(only, "")
        if op in LINEAR and only is not None:
            facts.tails[tensor] = _Tail(tensor)
        elif op in AFTER_HEAD and names and (op != "Gather" or first in layers.image_tensors):  # no look-up in a table
            before = only or parent
            if before is None:
                facts.tails[tensor] = _Tail(tensor)
            elif before in facts.tails:
                facts.tails[tensor] = _extended(layers, facts, tensor, before)
    return facts


def _extended(layers: Layers, facts: _HeadFacts, tensor: str, source: str) -> _Tail:
    """Return the tail of `source` with the node that makes `tensor` after it."""
    inner = facts.tails[source]
    roots = facts.roots
    node = layers.producers[tensor]
    op = layers.ops[tensor]
    more = {op}
    is_bias = op in ("Add", "QLinearAdd")
    if len(layers.data[tensor]) > 1:
        more.add(GATE)
        is_bias = False
    elif op in SCALING:
        by = {roots.get(name, name) for name in node.input if name in layers.statistics and name != source}
        is_integer = layers.producers[inner.start].op_type in INTEGER_PRODUCTS
        if by:
            more.add(UNIT if by == {roots.get(source, source)} else COSINE)
        elif any(are_one_factor(layers, node)) and not (is_integer and inner.crossed <= {"Cast"}):
            more.add(SCALE)  # not that of what was quantised
    if op == "Sub" and any(layers.statistics.get(name) == "ReduceLogSumExp" for name in node.input):
        more.add("LogSoftmax")
    is_zero = not layers.zeros.isdisjoint(node.input)
    has_bias = inner.has_bias or (is_bias and not is_zero)
    return _Tail(inner.start, inner.crossed | more, has_bias, inner.writes_bias or is_bias)


def _head(layers: Layers, node: NodeProto, data: str, tail: _Tail) -> Head:
    facts = _head_facts(layers)
    op = node.op_type
    weight = input_at(node, WEIGHT_AT.get(op, 1))
    if weight in ("", data):
        weight = node.input[0]
    weight_shape = tuple(size or 0 for size in layers.shape_of(weight) or ())
    rows_first = "Conv" in op or integer(node, "transB", 0)
    classes = integer(node, "N", 0) or None  # MatMulNBits and MatMulBnb4 pack their weight
    if classes is None and weight_shape and op != "Einsum":
        classes = weight_shape[0 if rows_first else -1]
    crossed = tail.crossed
    if not math.isclose(attribute_of(node, "alpha", AttributeProto(f=1)).f, 1):
        crossed |= {SCALE}
    on_vectors = "Conv" not in op or not n_longer(layers.shapes.get(data, (0, 0, 0))[2:])
    bias = input_at(node, _BIAS_AT.get(op, len(node.input)))
    tensor = facts.float_sides.get(data) or data
    return Head(
        op,
        tensor,
        weight_shape,
        classes,
        has_bias=tail.has_bias or (bias != "" and bias not in layers.zeros),
        writes_bias=tail.writes_bias or bias != "",
        crossed=crossed,
        cosine=on_vectors and (COSINE in crossed or bool(facts.unit_length.get(data))),
        dequantize=tuple(node.input[1:3]) if op in WEIGHT_AT and tensor == data else (),
    )
