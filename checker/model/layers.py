"""Walk an ONNX graph back from a tensor: what carries the image, and which linear layer is the last. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, numpy_helper


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


LINEAR = _ops(
    "Gemm MatMul Conv Einsum MatMulInteger ConvInteger QLinearMatMul QLinearConv QGemm FusedMatMul FusedGemm "
    "FusedConv NhwcConv NhwcFusedConv MatMulNBits MatMulIntegerToFloat DynamicQuantizeMatMul"
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
AFTER_HEAD = RESHAPE | POOL | AFFINE | _ops("Softmax LogSoftmax Sigmoid ArgMax TopK Relu Clip Exp Log")
REDUCE = _ops("ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp")
ELEMENTWISE = AFFINE | _ops(
    "Sigmoid HardSigmoid Erf Tanh Softplus Clip Pow Exp Neg Min Max Relu Cast Sqrt Abs Reciprocal"
)
OF_A_STATISTIC = AFFINE | _ops("Expand Clip Max Min Sqrt Pow Cast Unsqueeze Squeeze Reshape Identity Reciprocal Exp")
# the other inputs of these are shapes, bounds, scales
FIRST_INPUT_ONLY = (RESHAPE | POOL | REDUCE | _ops("Clip Pad Resize Tile TopK")) - {"Gather"}
GATE = "gate"  # stands among crossed ops for an activation made of several, such as x·sigmoid(x)
ACTIVATION_DEPTH = 12  # nested activations that are looked through; real ones nest twice (tanh GELU)
WEIGHT_AT = {"QLinearMatMul": 3, "QLinearConv": 3, "QGemm": 3}  # position of the weight among the inputs, else 1
_BIAS_AT = {"Gemm": 2, "Conv": 2, "FusedGemm": 2, "FusedConv": 2, "NhwcConv": 2, "NhwcFusedConv": 2}
_BIAS_AT |= {"QGemm": 6, "QLinearConv": 8, "MatMulNBits": 5, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}
BITS: dict[int, int] = {TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16}
BITS |= {TensorProto.UINT16: 16, TensorProto.INT4: 4, TensorProto.UINT4: 4}
UNSIGNED: frozenset[int] = frozenset((TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT4))


@dataclass(frozen=True)
class Layers:
    """A graph, indexed for walks from a tensor back to the image."""

    producers: Mapping[str, onnx.NodeProto]
    image_tensors: frozenset[str]
    """tensors whose values depend on the image (not merely on its shape)"""
    shapes: Mapping[str, tuple[int | None, ...]]
    types: Mapping[str, int]
    """onnx.TensorProto element types"""
    constants: Mapping[str, tuple[int, ...]]
    """initializers and constants: shape"""
    zero_points: Mapping[str, bool] = field(default_factory=dict)
    """constants of a quantised type: whether `is_extreme` holds for each"""


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
    crossed: tuple[str, ...]
    """ops between the layer and the output, from the output back"""
    dequantize: tuple[str, ...] = ()
    """scale and zero point, where the data input has no float side"""


@dataclass(frozen=True)
class Join:
    """A node that joins several branches: the walk back can't go on in one of them."""

    op: str
    branches: tuple[str, ...]


def build_layers(graph: onnx.GraphProto, image: str, weights: Mapping[str, tuple[int, ...]]) -> Layers:
    """Index `graph` for walks back to the input `image`.

    `graph` carries inferred shapes; `weights` are the shapes of all initializers, those included that were
    taken out of `graph`.
    """
    producers: dict[str, onnx.NodeProto] = {}
    constants = dict(weights)
    zero_points = {weight.name: is_extreme(weight) for weight in graph.initializer if weight.data_type in BITS}
    reached = {image}
    for node in graph.node:
        producers.update((name, node) for name in node.output if name)
        if node.op_type == "Constant":
            for attribute in node.attribute:
                constants[node.output[0]] = tuple(attribute.t.dims) if attribute.name == "value" else (1,)
                if attribute.name == "value" and attribute.t.data_type in BITS:
                    zero_points[node.output[0]] = is_extreme(attribute.t)
        outputs = node.output
        if node.op_type in ("Shape", "Size"):
            continue
        if node.op_type == "DynamicQuantizeLinear":
            outputs = outputs[:1]  # the others are scale and zero point
        if any(name in reached for name in node_inputs(node)):
            reached.update(name for name in outputs if name)
    shapes: dict[str, tuple[int | None, ...]] = {}
    types: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return Layers(producers, frozenset(reached), shapes, types, constants, zero_points)


def is_extreme(zero_point: onnx.TensorProto) -> bool:
    """Whether all values are the lowest of their type, or all the highest; True for values in an external file.

    `zero_point` is of a type in `BITS`.
    """
    if zero_point.data_location == TensorProto.EXTERNAL:
        return True
    values = {int(value) for value in numpy_helper.to_array(zero_point).ravel()}
    bits = BITS[zero_point.data_type]
    unsigned = zero_point.data_type in UNSIGNED
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return values in ({low}, {high})


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a node: the branches of If, the body of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield each node, followed by those of the graphs inside it."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from nested_nodes(graph.node)


def node_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those read inside its subgraphs included."""
    for inner in nested_nodes([node]):
        yield from (name for name in inner.input if name)


def data_inputs(layers: Layers, node: onnx.NodeProto) -> tuple[str, ...]:
    """Name the inputs that carry the image, without shapes, scales and statistics that a norm divides by."""
    if node.op_type in FIRST_INPUT_ONLY:
        return tuple(name for name in node.input[:1] if name in layers.image_tensors)
    names = tuple(name for name in node_inputs(node) if name in layers.image_tensors)
    if node.op_type == "Gather" and node.input[0] in names:
        return (node.input[0],)
    if node.op_type in ("Div", "Sub", "Mul") and len(names) > 1:
        plain = tuple(name for name in names if statistic_op(layers, name) is None)
        return plain or names[:1]
    return names


def statistic_op(layers: Layers, tensor: str) -> str | None:
    """Name the Reduce… op if `tensor` is a statistic of each image (mean, norm, variance); None if it is none."""
    for node in walk_back(layers, tensor):
        if node.op_type in REDUCE:
            return node.op_type
        inputs = [name for name in node_inputs(node) if name in layers.image_tensors]
        if node.op_type not in OF_A_STATISTIC or len(inputs) != 1:
            return None
    return None


def walk_back(layers: Layers, tensor: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes on the way back from `tensor` for as long as there is one data input."""
    while (node := layers.producers.get(tensor)) is not None:
        yield node
        names = data_inputs(layers, node)
        if len(names) != 1:
            return
        tensor = names[0]


def elementwise_chain(layers: Layers, tensor: str, depth: int) -> list[str]:
    """List `tensor` and, going back, every tensor that it is an elementwise function of."""
    chain = [tensor]
    while (node := layers.producers.get(tensor)) is not None and node.op_type in ELEMENTWISE:
        names = data_inputs(layers, node)
        source = names[0] if len(names) == 1 else common_source(layers, names, depth) if names else None
        if source is None:
            break
        tensor = source
        chain.append(tensor)
    return chain


def common_source(layers: Layers, tensors: tuple[str, ...], depth: int = 0) -> str | None:
    """Find the tensor that all `tensors` are elementwise functions of: x for x·sigmoid(x). None if there is none."""
    if depth > ACTIVATION_DEPTH:
        return None
    chains = [elementwise_chain(layers, tensor, depth + 1) for tensor in tensors]
    return next((name for name in chains[0] if all(name in chain for chain in chains[1:])), None)


def find_head(layers: Layers, output: str) -> Head | Join | None:
    """Walk back from `output` to the last linear layer, through what may stand after a head.

    That is softmax, reshapes, pooling, biases and casts. None if anything else is met first: then no linear layer
    ends this output.
    """
    crossed: list[str] = []
    has_bias = False
    tensor = output
    while (node := layers.producers.get(tensor)) is not None:
        names = data_inputs(layers, node)
        if node.op_type in LINEAR:
            return _head(layers, node, names, has_bias, tuple(crossed)) if len(names) == 1 else None
        if node.op_type not in AFTER_HEAD or not names:
            return None
        if len(names) > 1:
            common = common_source(layers, names)
            if common is None:
                return Join(node.op_type, names)
            crossed.append(GATE)
            names = (common,)
        if node.op_type in ("Add", "QLinearAdd") and len(names) == 1:
            has_bias = True
        if node.op_type == "Gather" and node.input[0] not in layers.image_tensors:
            return None  # a table looked up by index
        crossed.append(node.op_type)
        tensor = names[0]
    return None


def _head(
    layers: Layers, node: onnx.NodeProto, names: tuple[str, ...], has_bias: bool, crossed: tuple[str, ...]
) -> Head:
    at = WEIGHT_AT.get(node.op_type, 1)
    others = [name for name in node.input[at : at + 1] if name != names[0]] or [node.input[0]]
    inferred = layers.constants.get(others[0]) or layers.shapes.get(others[0], ())
    weight_shape = tuple(size or 0 for size in inferred)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    classes: int | None = None
    if "Conv" in node.op_type:
        classes = weight_shape[0] if weight_shape else None
    elif "N" in attributes:
        classes = attributes["N"].i  # MatMulNBits packs its weight
    elif weight_shape and node.op_type != "Einsum":
        classes = weight_shape[0 if "transB" in attributes and attributes["transB"].i else -1]
    bias_at = _BIAS_AT.get(node.op_type)
    own_bias = bias_at is not None and len(node.input) > bias_at and bool(node.input[bias_at])
    tensor = float_side(layers, names[0])
    quantised = node.op_type in ("QLinearMatMul", "QLinearConv", "QGemm") and tensor == names[0]
    scales = tuple(node.input[1:3]) if quantised else ()
    return Head(node.op_type, tensor, weight_shape, classes, has_bias or own_bias, crossed, scales)


def float_side(layers: Layers, tensor: str) -> str:
    """Find the float tensor that `tensor` was quantised from; `tensor` itself if there is none."""
    start = tensor
    while layers.types.get(tensor) in BITS or layers.types.get(tensor) is None:
        node = layers.producers.get(tensor)
        if node is None or node.op_type not in RESHAPE:
            return start
        tensor = node.input[0]
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
            return tensor
    return start
