"""Find the last linear layer before an output."""

import math
from functools import lru_cache
from typing import NamedTuple

from onnx import AttributeProto, NodeProto

from .layer_end import INTEGER_PRODUCTS, SCALING, are_one_factor, n_longer
from .layers import AFFINE, BITS, LINEAR, POOL, RESHAPE, WEIGHT_AT, Layers
from .nodes import ByName, Names, attribute_of, input_at, integer, op_set

AFTER_SCORES = op_set(
    "Softmax LogSoftmax Sigmoid ArgMax TopK Relu Clip Exp Log Sum Mean Concat LabelEncoder ArrayFeatureExtractor ZipMap"
)
AFTER_HEAD = RESHAPE | POOL | AFFINE | AFTER_SCORES
QUANTISERS = op_set("QuantizeLinear DynamicQuantizeLinear")
L2_STATISTICS = op_set("ReduceL2 ReduceSumSquare ReduceSum")  # what a vector of length 1 was divided by
_BIAS_AT = {"Gemm": 2, "Conv": 2, "FusedGemm": 2, "FusedConv": 2, "NhwcConv": 2, "NhwcFusedConv": 2}
_BIAS_AT |= {"QGemm": 6, "QLinearConv": 8, "MatMulNBits": 5, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}


class Tail(NamedTuple):
    """A linear layer, or a node that joins branches, and what follows it up to some tensor."""

    start: str
    """the tensor that the layer or the join makes"""
    ops: frozenset[str] = frozenset()
    """the operators that follow, and LogSoftmax where several compose it"""
    is_gated: bool = False
    """whether an activation of several operators follows, such as x·sigmoid(x)"""
    is_scaled: bool = False
    """whether it has or is followed by a factor that all outputs share: the temperature of cosine scores"""
    is_unit: bool = False
    """whether what it gives is divided by its own norm"""
    is_cosine: bool = False
    """whether what it gives is divided by the norm of another tensor"""
    has_bias: bool = False
    """whether a bias is added that is not all zeros"""
    writes_bias: bool = False
    """whether a bias is added, be it of zeros"""

    @property
    def is_activated(self) -> bool:
        """Return whether an activation follows through which no class scores go."""
        return self.is_gated or not self.ops.isdisjoint(("Relu", "Clip"))


class Head(NamedTuple):
    """The last linear layer before an output."""

    op: str
    tensor: str
    """its data input, on the float side of a quantisation where there is one"""
    weight_shape: tuple[int, ...]
    classes: int | None
    """width of its output"""
    tail: Tail
    """what follows the layer, up to the output"""
    is_cosine: bool = False
    """whether it reads a vector that is divided by its L2 norm, before or behind it: its outputs are cosines"""
    dequantize: Names = ()
    """scale and zero point, where the data input has no float side"""


class Join(NamedTuple):
    """A node that joins branches and ends a walk."""

    op: str
    branches: Names


class _HeadFacts(NamedTuple):
    """The facts of every tensor that depends on the image."""

    roots: dict[str, str]
    """what a linear layer gave, of which it is a function or a statistic"""
    float_sides: dict[str, str]
    """the float tensor of which it was made by quantisation; "" for none"""
    unit_vectors: set[str]
    """those that were divided by an L2 norm, with nothing but reshapes, casts and factors after that"""
    tails: dict[str, Tail | None]
    """the tail that it ends; None where it ends in neither a linear layer nor a join"""


def find_head(layers: Layers, output: str) -> Head | Join | None:
    """Walk back from `output` to the last linear layer, through softmax, reshapes, pooling, biases, factors and casts.

    None if anything else is met first: then no linear layer ends this output. A join of heads that all read one tensor
    (an average of two) counts as the first of them.
    """
    tails = _facts(layers).tails
    tail = tails.get(output)
    if tail is None:
        return None
    node = layers.producers[tail.start]
    if node.op_type in LINEAR:
        return _head(layers, node, tail)
    names = layers.data[tail.start]
    branches = [tails.get(name) for name in names]
    if node.op_type != "Concat" and all(t and layers.producers[t.start].op_type in LINEAR for t in branches):
        heads = [find_head(layers, name) for name in names]
        if len({head.tensor for head in heads if isinstance(head, Head)}) == 1:
            return heads[0]
    return Join(node.op_type, names)


@lru_cache(maxsize=1)
def _facts(layers: Layers) -> _HeadFacts:
    """Compute the facts of every tensor, after those of the tensors that its node reads."""
    facts = _HeadFacts({}, {}, set(), {})
    for tensor in layers.data:
        facts.roots[tensor] = _root_of(layers, tensor, facts)
        facts.float_sides[tensor] = _float_side_of(layers, tensor, facts)
        if _is_unit_vector(layers, tensor, facts):
            facts.unit_vectors.add(tensor)
        facts.tails[tensor] = _tail_of(layers, tensor, facts)
    return facts


def _root_of(layers: Layers, tensor: str, facts: _HeadFacts) -> str:
    """Return what the last linear layer gave, of which a tensor is a function of one input or a statistic."""
    data = layers.data[tensor]
    is_new = layers.ops[tensor] in LINEAR and tensor not in layers.statistics
    parent = layers.elementwise.parent(tensor)
    if len(set(data)) == 1 and not is_new:
        parent = data[0]
    return tensor if parent is None else facts.roots.get(parent, parent)


def _float_side_of(layers: Layers, tensor: str, facts: _HeadFacts) -> str:
    """Return the float tensor of which a tensor was made by quantisation: "" for none."""
    op = layers.ops[tensor]
    if op not in RESHAPE or layers.types.get(tensor) not in (None, *BITS):
        return ""
    first = layers.producers[tensor].input[0]
    return first if op in QUANTISERS else facts.float_sides.get(first, "")


def _is_unit_vector(layers: Layers, tensor: str, facts: _HeadFacts) -> bool:
    """Return whether a tensor was divided by an L2 norm, with nothing but reshapes, casts and factors after that."""
    op = layers.ops[tensor]
    statistics = [layers.statistics.get(name) for name in layers.producers[tensor].input]
    if op == "LpNormalization" or (op in SCALING and not L2_STATISTICS.isdisjoint(statistics)):
        return True
    data = layers.data[tensor]
    return len(data) == 1 and (op in RESHAPE or op in AFFINE) and data[0] in facts.unit_vectors


def _tail_of(layers: Layers, tensor: str, facts: _HeadFacts) -> Tail | None:
    """Return the tail that `tensor` ends: None where neither a linear layer nor a join comes before it."""
    op = layers.ops[tensor]
    data = layers.data[tensor]
    node = layers.producers[tensor]
    if op in LINEAR and len(data) == 1:
        return _tail_of_layer(layers, tensor)
    is_look_up = op == "Gather" and node.input[0] not in layers.image_tensors  # in a table
    if op not in AFTER_HEAD or not data or is_look_up:
        return None
    before = data[0] if len(data) == 1 else layers.elementwise.parent(tensor)
    if before is None:
        return Tail(tensor)
    tail = facts.tails.get(before)
    if tail is None:
        return None
    if len(data) > 1:
        tail = tail._replace(is_gated=True)
    elif op in SCALING:
        tail = _with_factor(layers, node, before, tail, facts.roots)
    elif op == "LpNormalization":
        tail = tail._replace(is_unit=True)
    elif op in ("Add", "QLinearAdd"):
        is_zero = not layers.zeros.isdisjoint(node.input)
        tail = tail._replace(has_bias=tail.has_bias or not is_zero, writes_bias=True)
    elif op == "Sub" and "ReduceLogSumExp" in map(layers.statistics.get, node.input):
        tail = tail._replace(ops=tail.ops | {"LogSoftmax"})
    return tail._replace(ops=tail.ops | {op})


def _tail_of_layer(layers: Layers, tensor: str) -> Tail:
    """Return the tail that ends right after a linear layer, which may have a factor and a bias itself."""
    node = layers.producers[tensor]
    alpha = attribute_of(node, "alpha", AttributeProto(f=1)).f
    bias = input_at(node, _BIAS_AT.get(node.op_type, len(node.input)))
    has_bias = bias != "" and bias not in layers.zeros
    return Tail(tensor, is_scaled=not math.isclose(alpha, 1), has_bias=has_bias, writes_bias=bias != "")


def _with_factor(layers: Layers, node: NodeProto, before: str, tail: Tail, roots: ByName) -> Tail:
    """Return the tail of `before` with what the node after it, a product or a quotient, shows."""
    normed = {roots.get(name, name) for name in node.input if name in layers.statistics and name != before}
    if normed:  # divided by a norm, or another statistic, of these
        is_own = normed == {roots.get(before, before)}
        return tail._replace(is_unit=True) if is_own else tail._replace(is_cosine=True)
    is_integer = layers.producers[tail.start].op_type in INTEGER_PRODUCTS
    if is_integer and tail.ops <= {"Cast"}:  # the scale of what was quantised
        return tail
    return tail._replace(is_scaled=True) if any(are_one_factor(layers, node)) else tail


def _head(layers: Layers, node: NodeProto, tail: Tail) -> Head:
    """Return the head that a linear layer is with its tail."""
    facts = _facts(layers)
    op = node.op_type
    (data,) = layers.data[tail.start]
    weight = input_at(node, WEIGHT_AT.get(op, 1))
    if weight in ("", data):
        weight = node.input[0]
    weight_shape = tuple(size or 0 for size in layers.shape_of(weight) or ())
    rows_first = "Conv" in op or integer(node, "transB", 0)
    classes = integer(node, "N", 0) or None  # MatMulNBits and MatMulBnb4 pack their weight
    if classes is None and weight_shape and op != "Einsum":
        classes = weight_shape[0 if rows_first else -1]
    on_vectors = "Conv" not in op or not n_longer(layers.shapes.get(data, (0, 0, 0))[2:])
    is_of_unit_vector = data in facts.unit_vectors
    is_cosine = on_vectors and (tail.is_cosine or is_of_unit_vector)
    tensor = facts.float_sides.get(data) or data
    is_quantised = op in WEIGHT_AT and tensor == data
    dequantize = tuple(node.input[1:3]) if is_quantised else ()
    return Head(op, tensor, weight_shape, classes, tail, is_cosine, dequantize)
