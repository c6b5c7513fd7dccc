"""Classify the end of a tensor, and find an output's head.

Ends are a linear layer, a norm, an activation and others. The walk to the last linear layer before an output goes
through what may follow a classifier's head.

A last linear layer that only turns the coordinates (PCA, truncated SVD, a rotation) is recognised: it was not learned.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from onnx import NodeProto, TensorProto

from ....thresholds.profile import WRITTEN_ZERO_AT, End
from .layers import AFFINE, COMPARISON, LINEAR, POOL, RESHAPE, SUM_AT, UNSIGNED, Layers
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
