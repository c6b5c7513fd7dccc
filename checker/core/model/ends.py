"""Classify the end of a tensor, and find an output's head.

Ends are a linear layer, a norm, an activation and others. The walk to the last linear layer before an output goes
through what may follow a classifier's head.

A last linear layer that only turns the coordinates (PCA, truncated SVD, a rotation) is recognised: it was not learned.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ....thresholds.ends import End
from ...arrays import Array, GenericArray
from ...text import frozen
from ..evidence import WRITTEN_ZERO_AT
from .layers import (
    AFFINE,
    BITS,
    COMPARISON,
    HOLDERS,
    LINEAR,
    POOL,
    RESHAPE,
    SUM_AT,
    UNSIGNED,
    Layers,
    Names,
    einsum_of,
    input_at,
    integer,
    needed_nodes,
    nested_nodes,
    op_set,
    text_of,
)
from .weights import Weights, values_of

NORMALISATION = op_set(
    "LayerNormalization SkipLayerNormalization SimplifiedLayerNormalization SkipSimplifiedLayerNormalization "
    "RMSNormalization BatchNormalization GroupNormalization GroupNorm SkipGroupNorm InstanceNormalization "
    "MeanVarianceNormalization"
)
ACTIVATION = op_set(
    "Relu LeakyRelu PRelu Clip Sigmoid HardSigmoid HardSwish Elu Selu Celu Gelu FastGelu QuickGelu BiasGelu "
    "Softplus Softsign Tanh Mish Swish ThresholdedRelu Softmax LogSoftmax QLinearSoftmax QLinearSigmoid "
    "QLinearLeakyRelu Abs Exp"
)
SCALING = op_set("Mul Div QLinearMul")
WEIGHT_AT = {"QLinearMatMul": 3, "QLinearConv": 3, "QGemm": 3}  # position of the weight among the inputs, else 1
INTEGER_PRODUCTS = op_set("MatMulInteger ConvInteger")


SUMS = frozenset(("Add", "Sum", "Mean", "QLinearAdd"))  # a residual stream, an average of views
JOINS = SUMS | {"Sub", "Concat", "QLinearConcat"}
RECTIFIED_JOINS = (JOINS - {"Sub"}) | SUM_AT.keys()  # of branches that are never negative, neither are these
FUSED = frozenset(("FusedConv", "FusedGemm", "NhwcFusedConv"))  # linear layers that may have an activation in them
AFTER_LINEAR, AFTER_NORM, AFTER_POOL, INPUT = End("linear"), End("normalisation"), End("pool"), End("other", "input")
SUM = End("other", "Add")  # of branches that all end in linear layers
SHIFT = End("other", "shift")  # one number an image, times a fixed vector: a bias of that size
STREAM = End("residual")  # a sum of such sums, as layers add to until a norm ends it
SECOND = End("second_linear")  # of what another linear layer gave, as scores of an embedding are
LINEAR_ENDS = frozenset((AFTER_LINEAR, SUM))
LAYER_NORMS = NORMALISATION - {"BatchNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
EMBEDDINGS = LINEAR_ENDS | {SECOND}
GATES = frozenset(End("activation", op) for op in ("Sigmoid", "HardSigmoid", "Clip", "Softmax"))  # squeeze-and-excite
# usual name of an activation that several ops compose, by the one that makes its gate
COMPOSED = {"Sigmoid": "SiLU", "HardSigmoid": "HardSwish", "Erf": "Gelu", "Softplus": "Mish", "Tanh": "Gelu"}
# what is never negative, or may be: max(x, 0), norms, powers
ONE_SIGN = frozenset(("Max", "Min", "Sqrt", "Pow", "ReduceL1", "ReduceL2", "ReduceSumSquare", "LpPool", "GlobalLpPool"))
JOIN_DEPTH = 2  # nested joins whose last linear layers count


class _Facts(NamedTuple):
    """The known facts of every image tensor."""

    ends: dict[str, End]
    rectified: dict[str, str]
    embeddings: dict[str, End]


def ends_in(layers: Layers, tensor: str) -> End:
    """Find the layer that makes `tensor`.

    Looks through reshapes, casts, quantisation, CLS selection, L2 normalisation, biases and scalar factors; and
    through pooling, when an activation or a normalisation lies under it. A sum, mean or concatenation ends as its
    branches do: one that ends in an activation, a normalisation or pooling is enough.
    """
    return _facts(layers).ends.get(tensor, INPUT)


def embedding_under(layers: Layers, tensor: str) -> End | None:
    """Return the end of the embedding below `tensor`. The two differ only in scale, mean, or picked entries.

    Pooling, factors and a batch norm change no more than that, and neither does whatever else reads that tensor alone;
    an activation and a layer norm do. None where no linear layer, and no sum of some, lies under the tensor so.
    """
    return _facts(layers).embeddings.get(tensor)


@lru_cache(maxsize=1)
def _facts(layers: Layers) -> _Facts:
    """Compute the facts of every tensor in one pass. They follow from those of the tensors that its node reads."""
    facts = _Facts({}, {}, {})
    for tensor, names in layers.data.items():
        op, own = layers.ops[tensor], _end_of(layers, layers.producers[tensor], tensor)
        source = _rectified(layers, tensor, op, names, own, facts)
        end = _end(op, own, [facts.ends.get(name, INPUT) for name in names], source)
        if source:
            facts.rectified[tensor] = source
            end = End("linear_of", source) if end in LINEAR_ENDS else end
        if own == end == AFTER_LINEAR and facts.embeddings.get(names[0]) in (AFTER_LINEAR, SECOND):
            end = SECOND
        facts.ends[tensor] = end
        embedding = end if end in EMBEDDINGS else _embedding(layers, tensor, own, names, facts)
        if embedding is not None:
            facts.embeddings[tensor] = embedding
    return facts


def _end(op: str, own: End | None, under: Sequence[End], source: str) -> End:
    """Return the end of a tensor. `own` is the end of its node, `under` are those of its data inputs.

    source: the activation that the tensor is an affine function of; "" for none.
    """
    if op in JOINS and len(under) > 1 and (own is None or own.kind == "other"):
        linear = source and op in SUMS and any(end.kind == "linear_of" for end in under)
        return SUM if linear else _end_of_join(op, under)
    if op in WRITTEN_ZERO_AT and under[:1] == [SHIFT]:
        return SHIFT
    if own is None or (op == "Concat" and own.kind == "other"):
        return under[0] if len(under) == 1 else own or INPUT
    if own.kind == "pool" and len(under) == 1:
        return under[0] if under[0].kind in ("activation", "normalisation", "linear_of") or under[0] == INPUT else own
    return own


def _embedding(layers: Layers, tensor: str, own: End | None, names: Names, facts: _Facts) -> End | None:
    """Return the embedding that a node's output still is. None if there is not one."""
    op, of_statistic = layers.ops[tensor], layers.statistics.keys() & layers.producers[tensor].input
    is_layer_norm = own == AFTER_NORM and layers.ops.get(names[0]) == "Sub" and of_statistic
    if (own or INPUT).kind == "activation" or is_layer_norm or op in LAYER_NORMS:
        return None
    features = [name for name in names if {*layers.shapes.get(name, ())[1:]} != {1}]  # not one number an image
    return facts.embeddings.get(features[0]) if len(features) == 1 else None


def _end_of_join(op: str, under: Sequence[End]) -> End:
    if op in SUMS:
        under = [end for end in under if end != SHIFT] or under  # as a bias does not count
    for kind in ("activation", "normalisation", "pool"):
        if blocking := [end for end in under if end.kind == kind]:
            return blocking[0]
    if op.endswith("Concat"):
        of_activation = [end for end in under if end.kind == "linear_of"]
        alike = under[0] if len(set(under)) == 1 else None
        return alike or (of_activation[0] if of_activation else End("other", "Concat"))
    unknown = [end for end in under if end not in LINEAR_ENDS and end.kind != "linear_of"]
    if unknown:
        return unknown[0]
    return End("other", op) if op not in SUMS else STREAM if SUM in under else SUM


def _rectified(layers: Layers, tensor: str, op: str, names: Names, own: End | None, facts: _Facts) -> str:
    if len(names) == 1 and own is not None and own.kind == "linear":
        return facts.rectified.get(names[0], "")
    under = [facts.rectified.get(name, "") for name in names]
    if own is not None and own.kind == "activation":
        return own.op
    if op in HOLDERS:  # whatever the graphs inside it do with an activation
        inside = {inner.op_type for inner in nested_nodes([layers.producers[tensor]])}
        return min(inside & (ACTIVATION | ONE_SIGN), default="")
    chosen = op == "Where" and _is_comparison(layers, layers.producers[tensor].input[0])
    if op in ONE_SIGN or op in COMPARISON or chosen:
        return (under[0] if len(under) == 1 else "") or op
    if op == "Mul" and len(names) == 2:
        ends = [(facts.ends.get(name, INPUT), source) for name, source in zip(names, under, strict=True)]
        gated = [(end, source) for end, source in ends if end not in GATES]
        if len(gated) == 1:
            return gated[0][1]
        return op if all(end.kind == "activation" for end, _ in gated) else ""  # of two that are never negative
    if len(names) > 1 and op in RECTIFIED_JOINS:
        return max(under) if op.endswith("Concat") or all(under) else ""
    return under[0] if len(names) == 1 and "Attention" not in op else ""


def last_linears(layers: Layers, tensor: str) -> Iterator[NodeProto]:
    """Yield the linear layers that end `tensor`. Between them and it is only what `ends_in` looks through.

    Those of every branch that a concatenation or a sum joins count, nested `JOIN_DEPTH` times at most.
    """
    seen: set[str] = set()
    level = [tensor]
    for _ in range(JOIN_DEPTH + 1):
        branches: list[str] = []
        for start in level:
            name = start
            while name not in seen and (node := layers.producers.get(name)) is not None:
                seen.add(name)
                names, op, end = layers.data.get(name, ()), layers.ops.get(name, ""), _end_of(layers, node, name)
                if end == AFTER_LINEAR:
                    yield node
                if len(names) > 1 and op in JOINS:
                    branches += names
                if len(names) != 1 or not (end is None or end == AFTER_LINEAR or op in JOINS):
                    break
                name = names[0]
        level = branches


def _writes_one_sign(layers: Layers, node: NodeProto) -> bool:
    """Whether a layer's quantised output holds one sign only.

    A quantiser takes a ReLU out and writes what comes before it so. A zero point that is not among the constants
    counts, too: it could be one.
    """
    if name := input_at(node, WRITTEN_ZERO_AT[node.op_type]):
        return layers.zero_points.get(name, True)
    # QGemm writes floats then; else the zero point is 0
    return node.op_type != "QGemm" and (integer(node, "output_dtype", 0) or TensorProto.UINT8) in UNSIGNED


def _is_comparison(layers: Layers, condition: str) -> bool:
    """Whether a condition is a comparison, possibly negated or cast."""
    while _maker(layers, condition) in ("Not", "Cast"):
        condition = layers.producers[condition].input[0]
    return _maker(layers, condition) in COMPARISON


def _maker(layers: Layers, tensor: str) -> str:
    """Return the op that makes `tensor`. "" for an input or a constant."""
    return "" if (node := layers.producers.get(tensor)) is None else node.op_type


def _end_of(layers: Layers, node: NodeProto, tensor: str) -> End | None:
    """Return the end that `node` is for one output. None to look through it."""
    op, names = layers.ops.get(tensor, node.op_type), layers.data.get(tensor, ())
    if op in WRITTEN_ZERO_AT and names and _writes_one_sign(layers, node):
        maker = layers.producers.get(node.input[0])
        before = None if maker is None else _end_of(layers, maker, node.input[0])
        # the image itself has no negative pixels; an activation that still comes before it is the end, by its own name
        look_through = maker is None or (before is not None and before.kind == "activation")
        return None if op == "QuantizeLinear" and look_through else End("activation", op)
    if op == "Gather" and node.input[0] not in layers.image_tensors:
        # a table of vectors gives one of them; a table of numbers is a function of each feature, be it a ReLU
        table = layers.shape_of(node.input[0]) or ()
        return End("other" if sum(size != 1 for size in table) > 1 else "activation", op)
    if op in RESHAPE:
        return AFTER_NORM if op == "DequantizeLinear" and _rescales(layers, node) else None
    if op in NORMALISATION:
        return AFTER_NORM
    if op in LINEAR:
        if op in FUSED and (fused := text_of(node, "activation")):
            return End("activation", fused)
        return AFTER_LINEAR if len(names) == 1 else End("other", op)
    if op in ACTIVATION:
        return End("activation", op)
    if op in POOL:
        return AFTER_POOL
    if op in AFFINE:
        return _affine_end(layers, node, tensor, names)
    return End("other", op)


def _rescales(layers: Layers, node: NodeProto) -> bool:
    """Whether a dequantiser has its own scale per feature. The scales of what was quantised before it do not count."""
    if all(size == 1 for size in layers.shape_of(node.input[1]) or ()):
        return False
    maker = layers.producers.get(node.input[0])
    while maker is not None and maker.op_type in RESHAPE - {"QuantizeLinear"}:
        maker = layers.producers.get(maker.input[0])
    return maker is not None and node.input[1] not in maker.input


def _affine_end(layers: Layers, node: NodeProto, tensor: str, names: Names) -> End | None:
    op = node.op_type
    if len(names) > 1:
        tree, source = layers.elementwise, layers.elementwise.parent(tensor)
        if source is None:
            return End("other", op)
        above = (ancestor for name in names for ancestor in takewhile(source.__ne__, tree.above(name)))
        gates = {_maker(layers, ancestor) for ancestor in above}
        composed = "HardSwish" if gates & {"Clip", "Relu"} else "Product"
        return End("activation", next((usual for gate, usual in COMPOSED.items() if gate in gates), composed))
    if op not in SCALING:
        return None
    if op == "Div" and node.input[0] not in names:
        return End("other", op)  # c/x is not a factor
    if by := {layers.statistics[name] for name in node.input if name not in names and name in layers.statistics}:
        sizes = layers.shapes.get(names[0], ())[1:]
        # (x − mean)/sd, or x/rms; over positions, each feature by its own norm
        return AFTER_NORM if "ReduceMean" in by or sum(size != 1 for size in sizes) > 1 else None
    if _maker(layers, names[0]) == "Cast" and _maker(layers, layers.producers[names[0]].input[0]) in INTEGER_PRODUCTS:
        return None  # the scale of what was quantised, one a feature or one for all
    if not all(_are_one_factor(layers, node)):
        one_number = all(size == 1 for size in layers.shapes.get(names[0], (None, None))[1:])
        if op == "Mul" and names[0] in layers.statistics and one_number:
            return SHIFT
        return AFTER_NORM  # one factor a feature, for all that is known: the scale of a norm, folded or decomposed
    return None


def _are_one_factor(layers: Layers, node: NodeProto) -> list[bool]:
    """Return whether each factor of a product is one for all features. Those of the image are left out."""
    factors = node.input[::3][:2] if node.op_type == "QLinearMul" else node.input
    shapes = [layers.shape_of(name) for name in factors if name not in layers.image_tensors]
    return [shape is not None and all(size == 1 for size in shape) for shape in shapes]


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


# RMS cosine of two features, in units of 1/√n (random vectors of length n have 1): a rotation has 0, rounded to 4 bits
# 0.28; the layers of EfficientNet-Lite0 have 0.70 or more (measured)
ORTHOGONAL = 0.4
COLUMNS = 256  # features that are compared, pair by pair
# position of the weight's zero point in the layers that take their weight quantised
ZERO_POINT_AT = {"MatMulInteger": 3, "ConvInteger": 3, "DynamicQuantizeMatMul": 3}
ZERO_POINT_AT |= {"QLinearMatMul": 5, "QLinearConv": 5, "QGemm": 5, "MatMulIntegerToFloat": 5}


@frozen
class Constants:
    """The tensors of a graph that do not depend on the image."""

    proto: ModelProto
    """the graph with its initializers"""
    layers: Layers
    """the same graph for walking"""
    weights: Weights
    """where weights lie (`OnnxFile.weights`); only those that are asked for are read"""

    def value(self, name: str) -> GenericArray | None:
        """Read a tensor that does not depend on the image. It is an initializer, or computed from some."""
        plain = next((tensor for tensor in self.proto.graph.initializer if tensor.name == name), None)
        maker = self.layers.producers.get(name)
        if plain is None and maker is not None and maker.op_type == "Constant":
            plain = next((attribute.t for attribute in maker.attribute if attribute.name == "value"), None)
        return self._computed(name) if plain is None else values_of(plain, self.weights)

    def weight_of(self, node: NodeProto) -> Array | None:
        """Read a layer's weight as (rows, columns). Of a quantised one the scale is left out, which turns no feature.

        None of one that can't be read, or is several matrices, each for features of its own: to a factor for each
        feature.
        """
        at = WEIGHT_AT.get(node.op_type, 1)
        names = [name for name in (*node.input[at : at + 1], *node.input[:1]) if name not in self.layers.image_tensors]
        if not names:
            return None
        values = self._unpacked(node) if node.op_type in ("MatMulNBits", "MatMulBnb4") else self.value(names[0])
        is_conv, terms = "Conv" in node.op_type, einsum_of(node)
        keeps_axis = (set(terms[1]) - {"."}).intersection(*terms[0])  # the other input has it, too, as in `bi,ij->bi`
        if values is None or values.dtype.kind in "OSU" or integer(node, "group", 1) != 1 or keeps_axis:
            return None  # text is not a weight
        if is_conv and values.ndim == 4:  # (feature, channel, row, column): linear in what the kernel covers
            values = values.reshape(len(values), -1)
        squeezed = np.squeeze(values).astype(np.float64)
        if squeezed.ndim != 2 or (not is_conv and math.prod(values.shape[:-2]) != 1):
            return None
        name = input_at(node, ZERO_POINT_AT.get(node.op_type, len(node.input)))
        zero = self.value(name) if name else None
        if zero is None:
            return squeezed
        by_row = zero.size > 1 and zero.size == len(squeezed) and zero.size != squeezed.shape[1]
        points = zero.astype(np.float64).ravel()
        return squeezed - (points[:, None] if by_row or is_conv else points)

    def _unpacked(self, node: NodeProto) -> GenericArray | None:
        """Unpack a weight of 4 or 8 bits. Each row is what the layer gives for a unit vector."""
        if len(node.input) < 3:  # ONNX Runtime refuses it
            return None
        scales = self.value(node.input[2])
        size = integer(node, "K", 0)
        if scales is None or size < 1:
            return None
        probe = copy.deepcopy(node)
        probe.input[0], probe.output[0] = "unit_vectors", "unpacked"
        unit = make_node("Constant", [], ["unit_vectors"], value=from_array(np.eye(size, dtype=scales.dtype)))
        return self._computed("unpacked", unit, probe)

    def _computed(self, name: str, *more: NodeProto) -> GenericArray | None:
        """Compute `name` from constants with ONNX Runtime. The graph's nodes are used, and `more` after them."""
        nodes, needed = needed_nodes([*self.proto.graph.node, *more], [name])
        if not needed.isdisjoint(self.layers.image_tensors):
            return None
        graph = GraphProto(name="weight", node=nodes, output=[ValueInfoProto(name=name)])
        if not graph.node:  # a sparse initializer, or nothing of this name
            graph.output[0].name = "weight"
            graph.node.append(make_node("Identity", [name], ["weight"]))
        for tensor in self.proto.graph.initializer:
            if tensor.name in needed:
                graph.initializer.append(from_array(values_of(tensor, self.weights), tensor.name))
        graph.sparse_initializer.extend(t for t in self.proto.graph.sparse_initializer if t.values.name in needed)
        content = ModelProto(ir_version=self.proto.ir_version, opset_import=self.proto.opset_import, graph=graph)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # ORT's "fatal": what it can't compute is said by the exception
        try:
            session = ort.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return np.asarray(session.run(None, {})[0])
        except (ort_state.Fail, ort_state.InvalidGraph, ort_state.InvalidArgument, ort_state.NotImplemented,
                ort_state.RuntimeException):  # fmt: skip
            return None


def is_change_of_basis(constants: Constants, tensor: str) -> bool | None:
    """Whether the last linear layer only turns coordinates. Its features are orthogonal to each other.

    Such a layer puts the mean direction of any representation on one axis, where it reads as a persistent outlier
    feature that the encoder does not have. Of several linear layers with nothing between them, and of those whose
    outputs are joined or added, one is enough.

    Args:
        constants: of the graph. tensor: the representation.

    Returns:
        None where a weight could not be read (it is computed from the image, or is not a matrix) and no other one is.
    """
    weights = [constants.weight_of(node) for node in last_linears(constants.layers, tensor)]
    if any(weight is not None and mutually_orthogonal(weight) for weight in weights):
        return True
    return None if any(weight is None for weight in weights) else False


def mutually_orthogonal(weight: Array) -> bool:
    """Whether the rows or columns of a matrix are orthogonal. They must be far more so than random ones.

    RMS over pairs of the cosine, times √n for vectors of length n: 0 for a rotation, 1 for random vectors. Below
    `ORTHOGONAL` they count as orthogonal: rounding to 4 bits leaves a rotation there.

    Args:
        weight: (input, feature) or (feature, input). Of either side the first `COLUMNS` are compared.

    Returns:
        False for a matrix with fewer than two vectors on either side; those of zeros or not finite are left out.
    """
    for vectors in (weight, weight.T):
        norms = np.linalg.norm(vectors, axis=1)
        part = (vectors[(norms > 0) & np.isfinite(norms)])[:COLUMNS]
        if len(part) < 2:
            continue
        part = part / np.linalg.norm(part, axis=1, keepdims=True)
        cosines = (part @ part.T)[np.triu_indices(len(part), 1)]
        if np.sqrt(np.mean(cosines**2) * part.shape[1]) < ORTHOGONAL:
            return True
    return False
