"""Index an ONNX graph for walks back to the image.

The index knows which inputs carry the image, and by which ops. The last linear layer before an output is found on it;
the walk goes through what may follow a classifier's head. Pure.

Constants that the graph computes and that are far larger than what the file holds are refused: ONNX Runtime computes
them while it opens a session, and no signal reaches it there.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.numpy_helper import to_array

from robustcheck_onnx.checker.errors import CannotAssessError

Names = tuple[str, ...]
Sizes = tuple[int, ...]
Shape = tuple[int | None, ...]
"""sizes of a tensor, None for one that is left open"""


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


LINEAR = _ops(
    "Gemm MatMul Conv Einsum MatMulInteger ConvInteger QLinearMatMul QLinearConv QGemm FusedMatMul FusedGemm "
    "FusedConv NhwcConv NhwcFusedConv MatMulNBits MatMulBnb4 MatMulIntegerToFloat DynamicQuantizeMatMul"
)
NORMALISATION = _ops(
    "LayerNormalization SkipLayerNormalization SimplifiedLayerNormalization SkipSimplifiedLayerNormalization "
    "RMSNormalization BatchNormalization GroupNormalization GroupNorm SkipGroupNorm InstanceNormalization "
    "MeanVarianceNormalization"
)
ACTIVATION = _ops(
    "Relu LeakyRelu PRelu Clip Sigmoid HardSigmoid HardSwish Elu Selu Celu Gelu FastGelu QuickGelu BiasGelu "
    "Softplus Softsign Tanh Mish Swish ThresholdedRelu Softmax LogSoftmax QLinearSoftmax QLinearSigmoid "
    "QLinearLeakyRelu Abs Exp"
)
POOL = _ops(
    "GlobalAveragePool AveragePool GlobalMaxPool MaxPool GlobalLpPool LpPool ReduceMean ReduceMax ReduceSum "
    "QLinearGlobalAveragePool QLinearAveragePool QLinearReduceMean"
)
RESHAPE = _ops(
    "Identity Reshape Flatten Squeeze Unsqueeze Cast CastLike Dropout Gather Slice Transpose Expand "
    "LpNormalization QuantizeLinear DequantizeLinear DynamicQuantizeLinear"
)
AFFINE = _ops("Add Sub Mul Div QLinearAdd QLinearMul")
SCALING = _ops("Mul Div QLinearMul")
COMPARISON = _ops("Greater GreaterOrEqual Less LessOrEqual")
REDUCE = _ops("ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp")
ELEMENTWISE = (
    AFFINE
    | COMPARISON
    | _ops("Sigmoid HardSigmoid Erf Tanh Softplus Clip Pow Exp Neg Min Max Relu Cast Sqrt Abs Reciprocal Not Sign")
)
OF_A_STATISTIC = AFFINE | _ops(
    "Expand Clip Max Min Sqrt Pow Cast Unsqueeze Squeeze Reshape Identity Reciprocal Exp "
    "QuantizeLinear DequantizeLinear"
)
# the other inputs of these are shapes, bounds, scales
FIRST_INPUT_ONLY = (RESHAPE | POOL | REDUCE | _ops("Clip Pad Resize Tile TopK")) - {"Gather"}
SPECIAL_INPUTS = FIRST_INPUT_ONLY | {"Gather", "Div", "Sub", "Mul"}  # `_carriers`
WEIGHT_AT = {"QLinearMatMul": 3, "QLinearConv": 3, "QGemm": 3}  # position of the weight among the inputs, else 1
BITS: dict[int, int] = {TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16}
BITS |= {TensorProto.UINT16: 16, TensorProto.INT4: 4, TensorProto.UINT4: 4}
# floats of 4 and 8 bits, all signed (E8M0 is not, and only scales blocks); name of the precision by type
SMALL_FLOATS: dict[int, str] = {
    kind: f"fp{name[5]}" for name, kind in TensorProto.DataType.items() if re.match(r"FLOAT[48]E[2-5]M", name)
}
# operators of ONNX and ONNX Runtime that hold graphs; to look for graphs in every node takes longer than all the rest
HOLDERS = _ops("If Loop Scan SequenceMap FlexAttention BeamSearch GreedySearch Sampling WhisperBeamSearch")
# outputs that hold the sum that a fused norm reads, by position: a residual stream goes on from there
SUM_AT = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "SkipGroupNorm": 1}
FLOATS = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16))
INTEGER_PRODUCTS = _ops("MatMulInteger ConvInteger")
UNSIGNED: frozenset[int] = frozenset((TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT4))


class ElementwiseTree:
    """A forest of tensors by elementwise functions.

    The parent of each is the nearest tensor that it is such a function of.
    """

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._depth: dict[str, int] = {}  # a root is not in it: 0

    def add(self, tensor: str, parent: str) -> None:
        """Add `tensor` below `parent`. It must not be in the forest yet."""
        self._parent[tensor], self._depth[tensor] = parent, self._depth.get(parent, 0) + 1

    def common(self, tensors: Names) -> str | None:
        """Return the nearest tensor that all are functions of: x for x·sigmoid(x). None if there is none."""
        nearest, *others = tensors
        for other in others:
            a, b = nearest, other
            while a != b:
                if self._depth.get(a, 0) < self._depth.get(b, 0):
                    a, b = b, a
                if a not in self._parent:
                    return None
                a = self._parent[a]
            nearest = a
        return nearest

    def parent(self, tensor: str) -> str | None:
        """Return the parent of `tensor`. None if there is none."""
        return self._parent.get(tensor)

    def above(self, tensor: str) -> Iterator[str]:
        """Yield `tensor` and its ancestors, the nearest first."""
        yield tensor
        while (parent := self._parent.get(tensor)) is not None:
            yield parent
            tensor = parent


@dataclass(frozen=True, eq=False)
class Layers:
    """A graph, indexed for walks to the image. `build_layers` makes it in one pass.

    Every fact of a tensor follows from those of the tensors that its node reads, so a walk never branches twice.
    """

    producers: Mapping[str, NodeProto]
    image_tensors: frozenset[str]
    """tensors whose values depend on the image (not merely on its shape)"""
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]
    """onnx.TensorProto element types"""
    constants: Mapping[str, Sizes]
    """initializers and constants: shape"""
    zero_points: Mapping[str, bool]
    """constants of a quantised type: whether `is_extreme` holds for each"""
    zeros: AbstractSet[str]
    """constants that hold zeros alone: a bias of zeros is none (loaders of CLIP's projection write one)"""
    ops: Mapping[str, str]
    """of each tensor that depends on the image: the op that makes it; Add for the sum that a fused norm hands on"""
    data: Mapping[str, Names]
    """of each of them: the inputs of its node that carry the image, without shapes, scales and the statistics that a
    norm divides by"""
    statistics: Mapping[str, str]
    """tensors that are a statistic of each image (mean, norm, variance): the Reduce… op"""
    elementwise: ElementwiseTree
    """of each tensor: the nearest one that it is an elementwise function of"""

    def shape_of(self, tensor: str) -> Shape | None:
        """Return the shape of a tensor. It is a constant's, or inferred; None where it is not known."""
        return self.constants.get(tensor, self.shapes.get(tensor))


def build_layers(
    graph: GraphProto,
    image: str,
    weights: Mapping[str, Sizes],
    *,
    zeros: AbstractSet[str] = frozenset(),
) -> Layers:
    """Index `graph` for walks back to `image`. One pass over its nodes.

    Args:
        graph: with inferred shapes, its nodes in order (each behind those whose outputs it reads).
        image: name of the input.
        weights: shapes of all initializers, those included that were taken out of `graph`.
        zeros: names of the vectors among them that hold zeros alone.
    """
    producers: dict[str, NodeProto] = {}
    constants = dict(weights)
    zero_points = {weight.name: is_extreme(weight) for weight in graph.initializer if is_quantised(weight.data_type)}
    reached = {image}
    ops: dict[str, str] = {}
    data: dict[str, Names] = {}
    statistics: dict[str, str] = {}
    elementwise = ElementwiseTree()
    for node in graph.node:
        op, outputs = node.op_type, [name for name in node.output if name]
        producers |= dict.fromkeys(outputs, node)
        if op == "Constant" and outputs:
            for attribute in node.attribute:
                constants[node.output[0]] = _constant_shape(attribute)
                if attribute.name == "value" and is_quantised(attribute.t.data_type):
                    zero_points[node.output[0]] = is_extreme(attribute.t)
        of_image = tuple(name for name in node_inputs(node) if name in reached)
        if not of_image or not outputs or op in ("Shape", "Size"):
            continue
        # the other outputs of a dynamic quantiser are its scale and zero point
        outputs = outputs[:1] if op == "DynamicQuantizeLinear" else outputs
        reached.update(outputs)
        carriers = _carriers(node, op, of_image, reached, statistics) if op in SPECIAL_INPUTS else of_image
        ops |= dict.fromkeys(outputs, op)
        data |= dict.fromkeys(outputs, carriers)
        if op in SUM_AT and len(node.output) > SUM_AT[op]:
            ops[node.output[SUM_AT[op]]] = "Add"
        passes_on = op in OF_A_STATISTIC and len(of_image) == len(carriers) == 1
        if op in REDUCE or (passes_on and carriers[0] in statistics):
            statistics |= dict.fromkeys(outputs, op if op in REDUCE else statistics[carriers[0]])
        elif op == "Einsum" and len(node.input) == 2 and node.input[0] == node.input[1]:
            terms, result = einsum_of(node)
            if len({*terms}) == 1 and len(result) < len(terms[0]):  # of squares, as `bi,bi->b`
                statistics[outputs[0]] = "ReduceSumSquare"
        if op in ELEMENTWISE and carriers and (source := elementwise.common(carriers)) is not None:
            elementwise.add(outputs[0], source)
    shapes: dict[str, Shape] = {}
    types: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return Layers(
        producers, frozenset(reached), shapes, types, constants, zero_points, zeros, ops, data, statistics, elementwise
    )


def _constant_shape(attribute: AttributeProto) -> tuple[int, ...]:
    """Return the shape of a Constant's output. It follows from the attribute: a tensor, a list, or one number."""
    if attribute.name == "value":
        return tuple(attribute.t.dims)
    if attribute.name == "sparse_value":
        return tuple(attribute.sparse_tensor.dims)
    n = len(attribute.floats or attribute.ints or attribute.strings)
    return (n,) if attribute.name in ("value_floats", "value_ints", "value_strings") else ()


def _carriers(
    node: NodeProto, op: str, of_image: Names, reached: AbstractSet[str], statistics: Mapping[str, str]
) -> Names:
    """Return the inputs of a node that carry the image. They are some of those that depend on it."""
    if op in FIRST_INPUT_ONLY:
        return tuple(name for name in node.input[:1] if name in reached)
    if op == "Gather" and node.input[0] in of_image:
        return (node.input[0],)
    if op in ("Div", "Sub", "Mul") and len(of_image) > 1:
        return tuple(name for name in of_image if name not in statistics) or of_image[:1]
    return of_image


def is_quantised(kind: int) -> bool:
    """Whether quantised values are of this element type."""
    return kind in BITS or kind in SMALL_FLOATS


def is_extreme(zero_point: TensorProto) -> bool:
    """Whether all values are the type's lowest, or its highest. True for values in an external file.

    `zero_point` is of a quantised type; of a float only 0 is not extreme, the one value that ONNX allows.
    """
    if zero_point.data_location == TensorProto.EXTERNAL:
        return True
    if zero_point.data_type in SMALL_FLOATS:
        return bool(to_array(zero_point).astype(np.float32).any())
    values = {int(value) for value in to_array(zero_point).ravel()}
    bits = BITS[zero_point.data_type]
    unsigned = zero_point.data_type in UNSIGNED
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return values in ({low}, {high})


def integer(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node. `default` where it has none of this name."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def integers(node: NodeProto, name: str) -> list[int] | None:
    """Return an attribute of a node that is a list of integers. None where it has none of this name."""
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), None)


def input_at(node: NodeProto, at: int) -> str:
    """Return the name of a node's input. "" where it has none at this place."""
    return node.input[at] if at < len(node.input) else ""


def text_of(node: NodeProto, name: str) -> str:
    """Return a text attribute of a node. "" where it has none of this name."""
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), "")


def einsum_of(node: NodeProto) -> tuple[list[str], str]:
    """Return the terms and the result of an Einsum's equation. Both are empty for another node."""
    terms, _, result = text_of(node, "equation").replace(" ", "").partition("->")
    return terms.split(","), result


def needed_nodes(
    nodes: Sequence[NodeProto], wanted: Iterable[str], without: str | None = None
) -> tuple[list[NodeProto], set[str]]:
    """Return the nodes that compute some tensors.

    They are sorted; the names that they read come with them. None of them makes `without`.
    """
    needed, found = {*wanted}, list[NodeProto]()
    for node in reversed(nodes):
        if without not in node.output and not needed.isdisjoint(node.output):
            found.append(node)
            needed.update(node_inputs(node))
    return found[::-1], needed


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs inside a node. These are the branches of If, and the body of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield each node, and then the nodes inside it."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):  # not deep: protobuf parses no message that is nested deeper than 100
            yield from nested_nodes(graph.node)


def bodies(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """Yield the graphs inside nodes, at any depth."""
    for node in nested_nodes(nodes):
        if node.attribute:
            yield from subgraphs(node)


def node_inputs(node: NodeProto) -> list[str]:
    """Return the names that a node reads. Those that its graphs read from outside are among them."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node) if node.op_type in HOLDERS else ():
        within = {name for inner in graph.node for name in inner.output}.union(
            (value.name for value in graph.input), weight_names(graph)
        )
        read = [name for inner in graph.node for name in node_inputs(inner)]
        names += [name for name in (*read, *(value.name for value in graph.output)) if name not in within]
    return names


def weight_names(graph: GraphProto) -> list[str]:
    """Return the names of a graph's initializers."""
    return [tensor.name for tensor in (*graph.initializer, *(each.values for each in graph.sparse_initializer))]


def are_one_factor(layers: Layers, node: NodeProto) -> list[bool]:
    """Return whether each factor of a product is one for all features. Those of the image are left out."""
    factors = node.input[::3][:2] if node.op_type == "QLinearMul" else node.input
    shapes = [layers.shape_of(name) for name in factors if name not in layers.image_tensors]
    return [shape is not None and all(size == 1 for size in shape) for shape in shapes]


def data_inputs(layers: Layers, node: NodeProto) -> Names:
    """Return the inputs of a node that carry the image. This is `Layers.data` of its first output."""
    return layers.data.get(node.output[0], ())


FREE = 1 << 28  # values that a graph may compute from nothing: 1 GiB as float32
TIMES = 16  # and for each value that the file holds: weights are cast, transposed, dequantised …


def computed_constants(proto: ModelProto) -> frozenset[str]:
    """Return what nodes compute without any graph input.

    Graphs inside nodes count, too; the shape of a tensor is such a constant. What a node with a graph inside gives is
    not among them.

    proto: its nodes in order.
    """
    weights = {weight.name for weight in proto.graph.initializer}
    varies = {value.name for value in proto.graph.input if value.name not in weights}
    computed: set[str] = set()
    for node in nested_nodes(proto.graph.node):
        inner = list(subgraphs(node)) if node.attribute else []
        varies.update(value.name for body in inner for value in body.input)
        if inner or (node.op_type not in ("Shape", "Size") and not varies.isdisjoint(node.input)):
            varies.update(node.output)
        elif node.op_type != "Constant":
            computed.update(node.output)
    return frozenset(computed - {""})


def refuse_giants(proto: ModelProto, graph: GraphProto) -> None:
    """Refuse a graph that computes giant constants.

    They hold more than `FREE` values and more than `TIMES` those that the file holds.

    Args:
        proto: the model.
        graph: the same with inferred shapes (`with_shapes`); what has no known shape is not counted.

    Raises:
        CannotAssessError.
    """
    sizes = {
        value.name: math.prod(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*graph.output, *graph.value_info, *(v for body in bodies(graph.node) for v in body.value_info))
        if value.type.tensor_type.HasField("shape")
    }
    held = sum(math.prod(weight.dims) for weight in proto.graph.initializer)
    written = [name for node in graph.node if node.op_type == "Constant" for name in node.output]
    held += sum(sizes.get(name, 0) for name in written)
    made = sum(math.prod(sparse.dims) for sparse in proto.graph.sparse_initializer)
    made += sum(sizes.get(name, 0) for name in computed_constants(proto))
    if made > FREE + TIMES * held:
        raise CannotAssessError(
            f"constants that the graph computes hold {made:,} values, the file {held:,}; at most {FREE:,} and "
            f"{TIMES} times those of the file may be computed",
            "export the model again, with its constants folded",
        )


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
    known = _head_facts(layers).tails
    tail = known.get(output)
    if tail is None:
        return None
    node, names = layers.producers[tail.start], layers.data[tail.start]
    if node.op_type in LINEAR:
        return _head(layers, node, names[0], tail)
    tails = [known.get(name) for name in names]
    if node.op_type != "Concat" and all(each and layers.producers[each.start].op_type in LINEAR for each in tails):
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
        elif any(are_one_factor(layers, node)) and not (is_integer and inner.crossed <= {"Cast"}):
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
