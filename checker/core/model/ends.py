"""Classify what a tensor ends in: a linear layer, a norm, an activation and others.

One pass over the graph gives five facts of each tensor, in this order: the end that its own layer is (`layer_end`), the
activation that the tensor is an affine function of, its end, the embedding under it, and the inputs whose last linear
layers are its own, too. Each fact follows from those of the tensors that the layer reads.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from onnx import NodeProto

from ....thresholds.ends import End
from ..evidence import WRITTEN_ZERO_AT
from .layer_end import (
    ACTIVATION,
    AFTER_LINEAR,
    AFTER_NORM,
    AFTER_POOL,
    LOOK_THROUGH,
    NORMALISATION,
    SHIFT,
    layer_end,
    maker_of,
)
from .layers import COMPARISON, SUM_AT, Layers
from .nodes import HOLDERS, Names, nested_nodes, op_set

SUMS = op_set("Add Sum Mean QLinearAdd")  # a residual stream, an average of views
JOINS = SUMS | op_set("Sub Concat QLinearConcat")
RECTIFIED_JOINS = (JOINS - {"Sub"}) | SUM_AT.keys()  # of branches that are never negative, neither are these
# what is never negative, or may be: max(x, 0), norms, powers
ONE_SIGN = op_set("Max Min Sqrt Pow ReduceL1 ReduceL2 ReduceSumSquare LpPool GlobalLpPool")
LAYER_NORMS = NORMALISATION - {"BatchNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}

INPUT = End("other", "input")
SUM = End("other", "Add")  # of branches that all end in linear layers
STREAM = End("residual")  # a sum of such sums, as layers add to until a norm ends it
SECOND = End("second_linear")  # of what another linear layer gave, as scores of an embedding are
LINEAR_ENDS = frozenset((AFTER_LINEAR, SUM))
EMBEDDINGS = LINEAR_ENDS | {SECOND}
GATES = frozenset(End("activation", op) for op in ("Sigmoid", "HardSigmoid", "Clip", "Softmax"))  # squeeze-and-excite
UNDER_POOL = frozenset(("activation", "normalisation", "linear_of"))  # kinds of end that pooling leaves


class _Facts(NamedTuple):
    """The facts of every tensor that depends on the image."""

    layer_ends: dict[str, End]
    """what `layer_end` gives for it"""
    activations: dict[str, str]
    """the activation that it is an affine function of; "" for none"""
    ends: dict[str, End]
    """what it ends in"""
    embeddings: dict[str, End | None]
    """the end of the embedding under it (`embedding_under`); None for none"""
    passed: dict[str, Names]
    """the inputs of its layer whose last linear layers are its own, too"""


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


def last_linears(layers: Layers, tensor: str) -> Iterator[NodeProto]:
    """Yield the linear layers that end `tensor`, with only what `ends_in` looks through between them and it.

    Those of every branch that a concatenation, a sum or a difference joins count, however deep joins are nested.
    """
    facts = _facts(layers)
    seen: set[str] = set()
    left = [tensor]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        if facts.layer_ends.get(name) == AFTER_LINEAR:
            yield layers.producers[name]
        left += facts.passed.get(name, ())


@lru_cache(maxsize=1)
def _facts(layers: Layers) -> _Facts:
    """Compute the facts of every tensor, after those of the tensors that its layer reads."""
    facts = _Facts({}, {}, {}, {}, {})
    for tensor, data in layers.data.items():
        own = layer_end(layers, tensor, facts.layer_ends)
        facts.layer_ends[tensor] = own
        facts.activations[tensor] = _activation_of(layers, tensor, facts)
        facts.ends[tensor] = _end_of(layers, tensor, facts)
        facts.embeddings[tensor] = _embedding_of(layers, tensor, facts)
        is_passed = layers.ops[tensor] in JOINS or own in (LOOK_THROUGH, AFTER_LINEAR)
        facts.passed[tensor] = data if is_passed else ()
    return facts


def _activation_of(layers: Layers, tensor: str, facts: _Facts) -> str:
    """Return the activation that a tensor is an affine function of: "" for none."""
    op = layers.ops[tensor]
    data = layers.data[tensor]
    own = facts.layer_ends[tensor]
    node = layers.producers[tensor]
    under = [facts.activations.get(name, "") for name in data]
    if own == AFTER_LINEAR:
        return under[0]
    if own.kind == "activation":
        return own.op
    if op in HOLDERS:  # whatever the graphs inside it do with an activation
        inside = {inner.op_type for inner in nested_nodes([node])}
        return min(inside & (ACTIVATION | ONE_SIGN), default="")
    is_chosen = op == "Where" and _is_comparison(layers, node.input[0])
    if op in ONE_SIGN or op in COMPARISON or is_chosen:
        first = under[0] if len(under) == 1 else ""
        return first or op
    if op == "Mul" and len(data) == 2:
        return _activation_of_product(data, facts)
    if len(under) == 1:
        return "" if "Attention" in op else under[0]
    if op.endswith("Concat"):
        return max(under)
    return max(under) if op in RECTIFIED_JOINS and all(under) else ""


def _activation_of_product(data: Names, facts: _Facts) -> str:
    """Return the activation that a product of two tensors of the image is an affine function of: "" for none."""
    others = [name for name in data if facts.ends.get(name) not in GATES]
    if len(others) == 1:
        return facts.activations.get(others[0], "")
    never_negative = all(facts.ends.get(name, INPUT).kind == "activation" for name in others)
    return "Mul" if never_negative else ""


def _is_comparison(layers: Layers, condition: str) -> bool:
    """Return whether a condition is a comparison, possibly negated or cast."""
    while maker_of(layers, condition) in ("Not", "Cast"):
        condition = layers.producers[condition].input[0]
    return maker_of(layers, condition) in COMPARISON


def _end_of(layers: Layers, tensor: str, facts: _Facts) -> End:
    """Return the end of a tensor by the end that its own layer is, its activation and the ends of its inputs."""
    data = layers.data[tensor]
    own = facts.layer_ends[tensor]
    activation = facts.activations[tensor]
    under = [facts.ends.get(name, INPUT) for name in data]
    end = _end_above(layers.ops[tensor], own, under, activation)
    if activation and end in LINEAR_ENDS:
        return End("linear_of", activation)
    if own == end == AFTER_LINEAR and facts.embeddings.get(data[0]) in (AFTER_LINEAR, SECOND):
        return SECOND
    return end


def _end_above(op: str, own: End, under: Sequence[End], activation: str) -> End:
    """Return the end of a tensor, be it affine or not.

    own: the end that its layer is by itself. under: the ends of the layer's inputs. activation: as in `_Facts`.
    """
    is_join = op in JOINS and len(under) > 1
    if is_join and own.kind == "other":
        is_of_activation = activation and any(end.kind == "linear_of" for end in under)
        return SUM if is_of_activation and op in SUMS else _joined_end(op, under)
    if op in WRITTEN_ZERO_AT and under[:1] == [SHIFT]:
        return SHIFT
    if own == LOOK_THROUGH:
        return under[0] if under else INPUT
    if own == AFTER_POOL and under:
        is_left = under[0].kind in UNDER_POOL or under[0] == INPUT
        return under[0] if is_left else own
    return own


def _joined_end(op: str, under: Sequence[End]) -> End:
    """Return the end of a sum, mean, difference or concatenation of branches with some ends."""
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


def _embedding_of(layers: Layers, tensor: str, facts: _Facts) -> End | None:
    """Return the end of the embedding that a tensor is, or still is after its own layer: None for none."""
    if facts.ends[tensor] in EMBEDDINGS:
        return facts.ends[tensor]
    own = facts.layer_ends[tensor]
    data = layers.data[tensor]
    features = [name for name in data if {*layers.shapes.get(name, ())[1:]} != {1}]  # not one number an image
    if len(features) != 1 or own.kind == "activation" or layers.ops[tensor] in LAYER_NORMS:
        return None
    has_statistic = not layers.statistics.keys().isdisjoint(layers.producers[tensor].input)
    if own == AFTER_NORM and has_statistic and layers.ops.get(data[0]) == "Sub":  # a layer norm, decomposed
        return None
    return facts.embeddings.get(features[0])
