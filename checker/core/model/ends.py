"""Classify what a tensor ends in: a linear layer, a norm, an activation and others."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from onnx import NodeProto, TensorProto

from ....thresholds.ends import End
from ..evidence import WRITTEN_ZERO_AT
from .layers import AFFINE, COMPARISON, LINEAR, POOL, RESHAPE, SUM_AT, UNSIGNED, Layers, Shape
from .nodes import HOLDERS, Names, input_at, integer, nested_nodes, op_set, text_of

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
INTEGER_PRODUCTS = op_set("MatMulInteger ConvInteger")


SUMS = frozenset(("Add", "Sum", "Mean", "QLinearAdd"))  # a residual stream, an average of views
JOINS = SUMS | {"Sub", "Concat", "QLinearConcat"}
RECTIFIED_JOINS = (JOINS - {"Sub"}) | SUM_AT.keys()  # of branches that are never negative, neither are these
FUSED = frozenset(("FusedConv", "FusedGemm", "NhwcFusedConv"))  # linear layers that may have an activation in them
AFTER_LINEAR = End("linear")
AFTER_NORM = End("normalisation")
AFTER_POOL = End("pool")
INPUT = End("other", "input")
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
UNDER_POOL = ("activation", "normalisation", "linear_of")  # kinds of end that pooling leaves


class _Facts(NamedTuple):
    """The known facts of every image tensor."""

    ends: dict[str, End]
    rectified: dict[str, str]
    embeddings: dict[str, End]


def ends_in(layers: Layers, tensor: str) -> End:
    """Find the layer that makes `tensor`.

    Reshapes, casts, quantisation, CLS selection, L2 normalisation, biases and scalar factors are looked through, and so
    is pooling with an activation or a normalisation under it. A sum, mean or concatenation ends as its branches do: one
    that ends in an activation, a normalisation or pooling is enough.
    """
    return _facts(layers).ends.get(tensor, INPUT)


def embedding_under(layers: Layers, tensor: str) -> End | None:
    """Return the end of the embedding below `tensor` that differs from it only in scale, mean, or picked entries.

    Pooling, factors and a batch norm change no more than that, and neither does whatever else reads that tensor alone;
    an activation and a layer norm do. None where no linear layer, and no sum of some, lies under the tensor so.
    """
    return _facts(layers).embeddings.get(tensor)


@lru_cache(maxsize=1)
def _facts(layers: Layers) -> _Facts:
    """Compute the facts of every tensor in one pass, from those of the tensors that its node reads."""
    facts = _Facts({}, {}, {})
    for tensor, names in layers.data.items():
        op = layers.ops[tensor]
        own = _end_of(layers, layers.producers[tensor], tensor)
        source = _rectified(layers, tensor, own, facts)
        under = [facts.ends.get(name, INPUT) for name in names]
        end = _end(op, own, under, source)
        if source:
            facts.rectified[tensor] = source
            if end in LINEAR_ENDS:
                end = End("linear_of", source)
        if own == end == AFTER_LINEAR and facts.embeddings.get(names[0]) in (AFTER_LINEAR, SECOND):
            end = SECOND
        facts.ends[tensor] = end
        embedding = _embedding(layers, tensor, own, facts)
        if embedding is not None:
            facts.embeddings[tensor] = embedding
    return facts


def _end(op: str, own: End | None, under: Sequence[End], source: str) -> End:
    """Return the end of a tensor. `own` is the end of its node, `under` are those of its data inputs.

    source: the activation that the tensor is an affine function of; "" for none.
    """
    if op in JOINS and len(under) > 1 and (own is None or own.kind == "other"):
        of_activation = any(end.kind == "linear_of" for end in under)
        return SUM if source and op in SUMS and of_activation else _end_of_join(op, under)
    if op in WRITTEN_ZERO_AT and under[:1] == [SHIFT]:
        return SHIFT
    if own is None or (op == "Concat" and own.kind == "other"):
        return under[0] if len(under) == 1 else own or INPUT
    if own.kind == "pool" and len(under) == 1 and (under[0].kind in UNDER_POOL or under[0] == INPUT):
        return under[0]
    return own


def _embedding(layers: Layers, tensor: str, own: End | None, facts: _Facts) -> End | None:
    """Return the embedding that a node's output is or still is: None if there is not one."""
    if facts.ends[tensor] in EMBEDDINGS:
        return facts.ends[tensor]
    names = layers.data[tensor]
    of_statistic = layers.statistics.keys() & layers.producers[tensor].input
    is_layer_norm = own == AFTER_NORM and layers.ops.get(names[0]) == "Sub" and of_statistic
    if (own or INPUT).kind == "activation" or is_layer_norm or layers.ops[tensor] in LAYER_NORMS:
        return None
    features = [name for name in names if {*layers.shapes.get(name, ())[1:]} != {1}]  # not one number an image
    return facts.embeddings.get(features[0]) if len(features) == 1 else None


def _end_of_join(op: str, under: Sequence[End]) -> End:
    if op in SUMS:
        under = [end for end in under if end != SHIFT] or under  # as a bias does not count
    of_kind = {end.kind: end for end in reversed(under)}  # the first of each kind
    for kind in ("activation", "normalisation", "pool"):
        if kind in of_kind:
            return of_kind[kind]
    if op.endswith("Concat"):
        return under[0] if len(set(under)) == 1 else of_kind.get("linear_of", End("other", "Concat"))
    for end in under:
        if end not in LINEAR_ENDS and end.kind != "linear_of":
            return end
    if op not in SUMS:
        return End("other", op)
    return STREAM if SUM in under else SUM


def _rectified(layers: Layers, tensor: str, own: End | None, facts: _Facts) -> str:
    """Return the activation that a tensor is an affine function of: "" for none."""
    op = layers.ops[tensor]
    names = layers.data[tensor]
    under = [facts.rectified.get(name, "") for name in names]
    if len(names) == 1 and own is not None and own.kind == "linear":
        return under[0]
    if own is not None and own.kind == "activation":
        return own.op
    if op in HOLDERS:  # whatever the graphs inside it do with an activation
        inside = {inner.op_type for inner in nested_nodes([layers.producers[tensor]])}
        return min(inside & (ACTIVATION | ONE_SIGN), default="")
    is_chosen = op == "Where" and _is_comparison(layers, layers.producers[tensor].input[0])
    if op in ONE_SIGN or op in COMPARISON or is_chosen:
        return under[0] or op if len(under) == 1 else op
    if op == "Mul" and len(names) == 2:
        gated = [name for name in names if facts.ends.get(name, INPUT) not in GATES]
        if len(gated) == 1:
            return facts.rectified.get(gated[0], "")
        never_negative = all(facts.ends.get(name, INPUT).kind == "activation" for name in gated)
        return op if never_negative else ""
    if len(names) > 1 and op in RECTIFIED_JOINS:
        return max(under) if op.endswith("Concat") or all(under) else ""
    return under[0] if len(names) == 1 and "Attention" not in op else ""


def last_linears(layers: Layers, tensor: str) -> Iterator[NodeProto]:
    """Yield the linear layers that end `tensor`, with only what `ends_in` looks through between them and it.

    Those of every branch that a concatenation, a sum or a difference joins count, however deep joins are nested.
    """
    seen: set[str] = set()
    left = [tensor]
    while left:
        name = left.pop()
        node = layers.producers.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        names = layers.data.get(name, ())
        end = _end_of(layers, node, name)
        if end == AFTER_LINEAR:
            yield node
        is_passed = len(names) == 1 and end in (None, AFTER_LINEAR)
        if is_passed or layers.ops.get(name) in JOINS:
            left += names


def _writes_one_sign(layers: Layers, node: NodeProto) -> bool:
    """Return whether a layer's quantised output holds one sign only.

    A quantiser that takes a ReLU out writes what comes before it so. A zero point that is not among the constants
    counts, too, since it could be such a one.
    """
    if name := input_at(node, WRITTEN_ZERO_AT[node.op_type]):
        return layers.zero_points.get(name, True)
    if node.op_type == "QGemm":  # it writes floats then
        return False
    return (integer(node, "output_dtype", 0) or TensorProto.UINT8) in UNSIGNED  # the zero point is 0


def _is_comparison(layers: Layers, condition: str) -> bool:
    """Return whether a condition is a comparison, possibly negated or cast."""
    while _maker(layers, condition) in ("Not", "Cast"):
        condition = layers.producers[condition].input[0]
    return _maker(layers, condition) in COMPARISON


def _maker(layers: Layers, tensor: str) -> str:
    """Return the op that makes `tensor`: "" for an input or a constant."""
    node = layers.producers.get(tensor)
    return "" if node is None else node.op_type


def _end_of(layers: Layers, node: NodeProto, tensor: str) -> End | None:
    """Return the end that `node` is for one output: None to look through it."""
    op = layers.ops.get(tensor, node.op_type)
    names = layers.data.get(tensor, ())
    if op in WRITTEN_ZERO_AT and names and _writes_one_sign(layers, node):
        # the image itself has no negative pixels; an activation that still comes before it is the end, by its own name
        if op == "QuantizeLinear" and _is_image_or_activation(layers, node.input[0]):
            return None
        return End("activation", op)
    if op == "Gather" and node.input[0] not in layers.image_tensors:
        # a table of vectors gives one of them; a table of numbers is a function of each feature, be it a ReLU
        table = layers.shape_of(node.input[0]) or ()
        return End("other" if n_longer(table) > 1 else "activation", op)
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


def _is_image_or_activation(layers: Layers, tensor: str) -> bool:
    """Return whether `tensor` is an input of the graph, or what an activation makes."""
    maker = layers.producers.get(tensor)
    if maker is None:
        return True
    return (_end_of(layers, maker, tensor) or INPUT).kind == "activation"


def _rescales(layers: Layers, node: NodeProto) -> bool:
    """Return whether a dequantiser has its own scale per feature, other than that of what was quantised before it."""
    if not n_longer(layers.shape_of(node.input[1]) or ()):
        return False
    maker = layers.producers.get(node.input[0])
    while maker is not None and maker.op_type in RESHAPE - {"QuantizeLinear"}:
        maker = layers.producers.get(maker.input[0])
    return maker is not None and node.input[1] not in maker.input


def _affine_end(layers: Layers, node: NodeProto, tensor: str, names: Names) -> End | None:
    op = node.op_type
    if len(names) > 1:
        return _composed(layers, tensor) or End("other", op)
    if op not in SCALING:
        return None
    data = names[0]
    if op == "Div" and node.input[0] != data:
        return End("other", op)  # c/x is not a factor
    if by := {layers.statistics[name] for name in node.input if name != data and name in layers.statistics}:
        # (x − mean)/sd, or x/rms; over positions, each feature by its own norm
        is_norm = "ReduceMean" in by or n_longer(layers.shapes.get(data, ())[1:]) > 1
        return AFTER_NORM if is_norm else None
    if _maker(layers, data) == "Cast" and _maker(layers, layers.producers[data].input[0]) in INTEGER_PRODUCTS:
        return None  # the scale of what was quantised, one a feature or one for all
    if all(are_one_factor(layers, node)):
        return None
    if op == "Mul" and data in layers.statistics and not n_longer(layers.shapes.get(data, (None, None))[1:]):
        return SHIFT
    return AFTER_NORM  # one factor a feature, for all that is known: the scale of a norm, folded or decomposed


def _composed(layers: Layers, tensor: str) -> End | None:
    """Return the activation that several ops compose, such as x·sigmoid(x): None where they read no common tensor."""
    source = layers.elementwise.parent(tensor)
    if source is None:
        return None
    gates: set[str] = set()
    for name in layers.data[tensor]:
        between = takewhile(source.__ne__, layers.elementwise.above(name))
        gates.update(_maker(layers, ancestor) for ancestor in between)
    for gate, usual in COMPOSED.items():
        if gate in gates:
            return End("activation", usual)
    return End("activation", "HardSwish" if gates & {"Clip", "Relu"} else "Product")


def are_one_factor(layers: Layers, node: NodeProto) -> list[bool]:
    """Return whether each factor of a product, but for those of the image, is one for all features."""
    factors = node.input[::3][:2] if node.op_type == "QLinearMul" else node.input
    shapes = [layers.shape_of(name) for name in factors if name not in layers.image_tensors]
    return [shape is not None and not n_longer(shape) for shape in shapes]


def n_longer(shape: Shape) -> int:
    """Count the axes that are not of length 1."""
    return sum(size != 1 for size in shape)
