"""Index a graph for walks back to the image: which inputs of a node carry the image, and by which ops. Pure."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, shape_inference
from onnx.helper import make_tensor_value_info
from onnx.numpy_helper import to_array

from .nodes import ByName, Names, bodies, einsum_of, input_at, inputs_of, nested_nodes, op_set, subgraphs

Sizes = tuple[int, ...]
Shape = tuple[int | None, ...]
"""sizes of a tensor, None for one that is left open"""


LINEAR = op_set(
    "Gemm MatMul Conv Einsum MatMulInteger ConvInteger QLinearMatMul QLinearConv QGemm FusedMatMul FusedGemm "
    "FusedConv NhwcConv NhwcFusedConv MatMulNBits MatMulBnb4 MatMulIntegerToFloat DynamicQuantizeMatMul"
)
WEIGHT_AT = {"QLinearMatMul": 3, "QLinearConv": 3, "QGemm": 3}
"""position of the weight among the inputs of a linear layer, else 1"""
WEIGHT_ZERO_AT = {"MatMulInteger": 3, "ConvInteger": 3, "DynamicQuantizeMatMul": 3}
WEIGHT_ZERO_AT |= {"QLinearMatMul": 5, "QLinearConv": 5, "QGemm": 5, "MatMulIntegerToFloat": 5}
"""position of the weight's zero point in the layers that take their weight quantised and add integer products"""
POOL = op_set(
    "GlobalAveragePool AveragePool GlobalMaxPool MaxPool GlobalLpPool LpPool ReduceMean ReduceMax ReduceSum "
    "QLinearGlobalAveragePool QLinearAveragePool QLinearReduceMean"
)
RESHAPE = op_set(
    "Identity Reshape Flatten Squeeze Unsqueeze Cast CastLike Dropout Gather Slice Transpose Expand "
    "LpNormalization QuantizeLinear DequantizeLinear DynamicQuantizeLinear"
)
AFFINE = op_set("Add Sub Mul Div QLinearAdd QLinearMul")
COMPARISON = op_set("Greater GreaterOrEqual Less LessOrEqual")
REDUCE = op_set("ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp")
ELEMENTWISE = (
    AFFINE
    | COMPARISON
    | op_set("Sigmoid HardSigmoid Erf Tanh Softplus Clip Pow Exp Neg Min Max Relu Cast Sqrt Abs Reciprocal Not Sign")
)
OF_A_STATISTIC = AFFINE | op_set(
    "Expand Clip Max Min Sqrt Pow Cast Unsqueeze Squeeze Reshape Identity Reciprocal Exp "
    "QuantizeLinear DequantizeLinear"
)
# the other inputs of these are shapes, bounds, scales
FIRST_INPUT_ONLY = (RESHAPE | POOL | REDUCE | op_set("Clip Pad Resize Tile TopK")) - {"Gather"}
SPECIAL_INPUTS = FIRST_INPUT_ONLY | {"Gather", "Div", "Sub", "Mul"}  # `_carriers`
BITS: dict[int, int] = {TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16}
BITS |= {TensorProto.UINT16: 16, TensorProto.INT4: 4, TensorProto.UINT4: 4}
# floats of 4 and 8 bits, all signed (E8M0 is not, and only scales blocks); name of the precision by type
SMALL_FLOATS: dict[int, str] = {
    kind: f"fp{name[5]}" for name, kind in TensorProto.DataType.items() if re.match(r"FLOAT[48]E[2-5]M", name)
}
QUANTISED = BITS.keys() | SMALL_FLOATS.keys()
# outputs that hold the sum that a fused norm reads, by position: a residual stream goes on from there
SUM_AT = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "SkipGroupNorm": 1}
FLOATS = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16))
UNSIGNED = frozenset((TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT4))


class ElementwiseTree:
    """A forest of tensors, in which the parent of each is the nearest one that it is an elementwise function of."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._depth: dict[str, int] = {}  # a root is not in it: 0

    def add(self, tensor: str, parent: str) -> None:
        """Add `tensor`, which is not in the forest yet, below `parent`."""
        self._parent[tensor] = parent
        self._depth[tensor] = self._depth.get(parent, 0) + 1

    def common(self, tensors: Names) -> str | None:
        """Return the nearest tensor that all are functions of, such as x for x·sigmoid(x): None if there is none."""
        nearest, *others = tensors
        for other in others:
            end = other
            while nearest != end:
                if self._depth.get(nearest, 0) < self._depth.get(end, 0):
                    nearest, end = end, nearest
                if nearest not in self._parent:
                    return None
                nearest = self._parent[nearest]
        return nearest

    def parent(self, tensor: str) -> str | None:
        """Return the parent of `tensor`: None if there is none."""
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
    ops: ByName
    """of each tensor that depends on the image: the op that makes it; Add for the sum that a fused norm hands on"""
    data: Mapping[str, Names]
    """of each of them: the inputs of its node that carry the image, without shapes, scales and the statistics that a
    norm divides by"""
    statistics: ByName
    """tensors that are a statistic of each image (mean, norm, variance): the Reduce… op"""
    elementwise: ElementwiseTree
    """of each tensor: the nearest one that it is an elementwise function of"""

    def shape_of(self, tensor: str) -> Shape | None:
        """Return the shape of a tensor, a constant's or an inferred one: None where it is not known."""
        return self.constants.get(tensor, self.shapes.get(tensor))


def build_layers(graph: GraphProto, image: str, weights: Iterable[TensorProto]) -> Layers:
    """Index `graph` for walks back to `image`, in one pass over its nodes.

    Args:
        graph: with inferred shapes, its nodes in order (each behind those whose outputs it reads).
        image: name of the input.
        weights: all initializers, those included that were taken out of `graph`, with the values of small vectors:
            a bias of zeros is none.
    """
    producers: dict[str, NodeProto] = {}
    constants: dict[str, Sizes] = {}
    zeros: set[str] = set()
    for weight in weights:
        constants[weight.name] = tuple(weight.dims)
        if _is_zero_vector(weight):
            zeros.add(weight.name)
    zero_points = {weight.name: is_extreme(weight) for weight in graph.initializer if weight.data_type in QUANTISED}
    reached = {image}
    ops: dict[str, str] = {}
    data: dict[str, Names] = {}
    statistics: dict[str, str] = {}
    elementwise = ElementwiseTree()
    for node in graph.node:
        op = node.op_type
        outputs = [name for name in node.output if name]
        producers |= dict.fromkeys(outputs, node)
        if op == "Constant" and outputs:
            for attribute in node.attribute:
                constants[node.output[0]] = _constant_shape(attribute)
                if attribute.name == "value" and attribute.t.data_type in QUANTISED:
                    zero_points[node.output[0]] = is_extreme(attribute.t)
        of_image = tuple(name for name in inputs_of(node) if name in reached)
        if not of_image or not outputs or op in ("Shape", "Size"):
            continue
        if op == "DynamicQuantizeLinear":
            outputs = outputs[:1]  # the others are its scale and zero point
        reached.update(outputs)
        carriers = of_image
        if op in SPECIAL_INPUTS:
            carriers = _carriers(node, of_image, statistics)
        ops |= dict.fromkeys(outputs, op)
        data |= dict.fromkeys(outputs, carriers)
        if op in SUM_AT and len(node.output) > SUM_AT[op]:
            ops[node.output[SUM_AT[op]]] = "Add"
        if statistic := _statistic_of(node, of_image, carriers, statistics):
            statistics |= dict.fromkeys(outputs, statistic)
        if op in ELEMENTWISE and carriers and (source := elementwise.common(carriers)) is not None:
            elementwise.add(outputs[0], source)
    shapes, types = _types(graph)
    image_tensors = frozenset(reached)
    return Layers(
        producers, image_tensors, shapes, types, constants, zero_points, zeros, ops, data, statistics, elementwise
    )


def _types(graph: GraphProto) -> tuple[dict[str, Shape], dict[str, int]]:
    """Return the shapes and element types that a graph states."""
    shapes: dict[str, Shape] = {}
    types: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return shapes, types


VECTOR = 4096  # values of a vector that are looked at; a representation is hardly wider; `parse_stripped` keeps them


def _is_zero_vector(weight: TensorProto) -> bool:
    """Return whether a vector holds zeros alone. One in an external file, or longer than a bias, does not count."""
    if len(weight.dims) != 1 or weight.data_type not in FLOATS or weight.data_location == TensorProto.EXTERNAL:
        return False
    return 0 < weight.dims[0] <= VECTOR and not to_array(weight).any()


def _constant_shape(attribute: AttributeProto) -> Sizes:
    """Return the shape of a Constant's output, by its attribute: a tensor, a list, or one number."""
    if attribute.name == "value":
        return tuple(attribute.t.dims)
    if attribute.name == "sparse_value":
        return tuple(attribute.sparse_tensor.dims)
    if attribute.name in ("value_floats", "value_ints", "value_strings"):
        return (len(attribute.floats or attribute.ints or attribute.strings),)
    return ()


def _carriers(node: NodeProto, of_image: Names, statistics: ByName) -> Names:
    """Return the inputs of a node that carry the image, out of those that depend on it."""
    first = input_at(node, 0)
    if node.op_type in FIRST_INPUT_ONLY:
        return (first,) if first in of_image else ()
    if node.op_type == "Gather" and first in of_image:
        return (first,)
    if node.op_type in ("Div", "Sub", "Mul") and len(of_image) > 1:
        return tuple(name for name in of_image if name not in statistics) or of_image[:1]
    return of_image


def _statistic_of(node: NodeProto, of_image: Names, carriers: Names, statistics: ByName) -> str:
    """Return the op of the statistic that a node computes or passes on: "" for none."""
    op = node.op_type
    if op in REDUCE:
        return op
    if op in OF_A_STATISTIC and len(of_image) == len(carriers) == 1:
        return statistics.get(carriers[0], "")
    if op == "Einsum" and len(node.input) == 2 and node.input[0] == node.input[1]:
        terms, result = einsum_of(node)
        if len({*terms}) == 1 and len(result) < len(terms[0]):  # of squares, as `bi,bi->b`
            return "ReduceSumSquare"
    return ""


def name_of_type(kind: int | None) -> str:
    """Return the name of a tensor's element type: "unknown" where the graph leaves it open."""
    return TensorProto.DataType.Name(kind).lower() if kind else "unknown"


def show_shape(shape: Shape | None) -> str:
    """Write a shape as text, unknown sizes as "?"."""
    if shape is None:
        return "unknown"
    sizes = ["?" if n is None else str(n) for n in shape]
    return f"({', '.join(sizes)})"


def is_extreme(zero_point: TensorProto) -> bool:
    """Return whether all values are the type's lowest or highest, or in an external file.

    `zero_point` is of a quantised type; of a float only 0 is not extreme, the one value that ONNX allows.
    """
    if zero_point.data_location == TensorProto.EXTERNAL:
        return True
    if zero_point.data_type in SMALL_FLOATS:
        return bool(to_array(zero_point).astype(np.float32).any())
    bits = BITS[zero_point.data_type]
    low = 0 if zero_point.data_type in UNSIGNED else -(2 ** (bits - 1))
    values = {int(value) for value in to_array(zero_point).ravel()}
    return values in ({low}, {low + 2**bits - 1})


SMALL_ELEMENTS = 1024  # initializers up to this size stay in for shape inference: they may be shapes


def with_shapes(proto: ModelProto) -> GraphProto:
    """Infer the shapes of a graph, with large weights as inputs meanwhile, so that no weight is copied."""
    model = ModelProto(ir_version=max(proto.ir_version, 4), opset_import=proto.opset_import)
    graph = model.graph
    graph.name = "shapes"
    graph.node.extend(proto.graph.node)
    computed = computed_constants(proto)  # inference believes what a file says of a shape: not of these
    graph.output.extend(value for value in proto.graph.output if value.name not in computed)
    graph.value_info.extend(value for value in proto.graph.value_info if value.name not in computed)
    for body in bodies(graph.node):
        del body.value_info[:]
    weights = {weight.name for weight in proto.graph.initializer}
    graph.input.extend(value for value in proto.graph.input if value.name not in weights)
    for weight in proto.graph.initializer:
        if weight.data_location != TensorProto.EXTERNAL and math.prod(weight.dims) <= SMALL_ELEMENTS:
            graph.initializer.append(weight)
        else:
            graph.input.append(make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    for _ in range(2):
        try:
            return shape_inference.infer_shapes(model, data_prop=True).graph
        except shape_inference.InferenceError:  # a contradiction in what the file says of shapes: without these
            del graph.value_info[:]
            for value in graph.output:
                value.ClearField("type")
    return graph  # ONNX Runtime decides, and walks on the graph do without shapes


def computed_constants(proto: ModelProto) -> frozenset[str]:
    """Return what nodes, those inside nodes included, compute without any graph input.

    The shape of a tensor is such a constant, but not what a node with a graph inside gives.

    proto: its nodes in order.
    """
    varies = {value.name for value in proto.graph.input}
    varies -= {weight.name for weight in proto.graph.initializer}
    computed: set[str] = set()
    for node in nested_nodes(proto.graph.node):
        inner = list(subgraphs(node)) if node.attribute else []
        for body in inner:
            varies.update(value.name for value in body.input)
        if inner or (node.op_type not in ("Shape", "Size") and not varies.isdisjoint(node.input)):
            varies.update(node.output)
        elif node.op_type != "Constant":
            computed.update(node.output)
    return frozenset(computed - {""})
