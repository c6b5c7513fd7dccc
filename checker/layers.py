"""Walks on an ONNX graph, pure: what carries the image, the last linear layer, what ends a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx

from robustcheck_onnx.checker.zero_points import BITS, at_an_end, cuts_off


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
CLASS_END = _ops("Softmax LogSoftmax Sigmoid ArgMax TopK QLinearSoftmax QLinearSigmoid")
REDUCE = _ops("ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp")
ELEMENTWISE = AFFINE | _ops(
    "Sigmoid HardSigmoid Erf Tanh Softplus Clip Pow Exp Neg Min Max Relu Cast Sqrt Abs Reciprocal"
)
OF_A_STATISTIC = AFFINE | _ops("Expand Clip Max Min Sqrt Pow Cast Unsqueeze Squeeze Reshape Identity Reciprocal Exp")
# the other inputs of these are shapes, bounds, scales
FIRST_INPUT_ONLY = (RESHAPE | POOL | REDUCE | _ops("Clip Pad Resize Tile TopK")) - {"Gather"}
GATES = frozenset(f"activation:{op}" for op in ("Sigmoid", "HardSigmoid", "Clip", "Softmax"))  # of squeeze-and-excite
COMPARISON = _ops("Greater GreaterOrEqual Less LessOrEqual")
GATE = "gate"  # stands among crossed ops for an activation made of several, such as x·sigmoid(x)
CONCAT_DEPTH = 2  # nested concatenations that are looked through
FORK_DEPTH = 12  # nested activations that are looked through; real ones nest twice (tanh GELU)


@dataclass(frozen=True)
class Layers:
    """A graph ready for walking."""

    producers: Mapping[str, onnx.NodeProto]
    image_tensors: frozenset[str]
    """tensors whose values depend on the image (not merely on its shape)"""
    shapes: Mapping[str, tuple[int | None, ...]]
    types: Mapping[str, int]
    """onnx.TensorProto element types"""
    constants: Mapping[str, tuple[int, ...]]
    """initializers and constants: shape"""
    zero_points: Mapping[str, bool] = field(default_factory=dict)
    """small constants of a quantised type: whether they are the lowest or the highest value of it, all of them"""


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
class Fork:
    """A node where the walk back has several branches."""

    op: str
    branches: tuple[str, ...]


def build_layers(graph: onnx.GraphProto, image: str, weights: Mapping[str, tuple[int, ...]]) -> Layers:
    """Index `graph` for walks back to the input `image`.

    `graph` carries inferred shapes; `weights` are the shapes of all initializers, those included that were
    taken out of `graph`.
    """
    producers: dict[str, onnx.NodeProto] = {}
    constants = dict(weights)
    zero_points = {weight.name: at_an_end(weight) for weight in graph.initializer if weight.data_type in BITS}
    reached = {image}
    for node in graph.node:
        producers.update((name, node) for name in node.output if name)
        if node.op_type == "Constant":
            for attribute in node.attribute:
                constants[node.output[0]] = tuple(attribute.t.dims) if attribute.name == "value" else (1,)
                if attribute.name == "value" and attribute.t.data_type in BITS:
                    zero_points[node.output[0]] = at_an_end(attribute.t)
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


def data_inputs(layers: Layers, node: onnx.NodeProto) -> tuple[str, ...]:
    """Inputs that carry the image, without shapes, scales and statistics that a norm divides by."""
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
    """The Reduce… op when `tensor` is a statistic of each image (mean, norm, variance), else None."""
    for node in _back(layers, tensor):
        if node.op_type in REDUCE:
            return node.op_type
        inputs = [name for name in node_inputs(node) if name in layers.image_tensors]
        if node.op_type not in OF_A_STATISTIC or len(inputs) != 1:
            return None
    return None


def find_head(layers: Layers, output: str) -> Head | Fork | None:
    """Walk back from `output` to the last linear layer.

    Follows data inputs through what may stand after a head (softmax, reshapes, pooling, biases, casts). None
    when anything else is met first: then no linear layer ends this output.
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
                return Fork(node.op_type, names)
            crossed.append(GATE)
            names = (common,)
        if node.op_type in ("Add", "QLinearAdd") and len(names) == 1:
            has_bias = True
        if node.op_type == "Gather" and node.input[0] not in layers.image_tensors:
            return None  # a table looked up by index
        crossed.append(node.op_type)
        tensor = names[0]
    return None


def ends_in(layers: Layers, tensor: str, depth: int = 0) -> str:
    """What produces `tensor`: linear, linear_of:Op (an affine function of that activation), normalisation,
    activation:Op, pool or other:Op.

    Looks through reshapes, casts, quantisation, CLS selection, L2 normalisation, biases and scalar factors;
    through a concatenation of parts that end alike; and through pooling, when an activation or a normalisation
    lies under it.
    """
    pooled = False
    for node in _back(layers, tensor):
        end = _end(layers, node)
        if end == "other:Concat" and depth < CONCAT_DEPTH:
            ends = {ends_in(layers, name, depth + 1) for name in data_inputs(layers, node)}
            end = ends.pop() if len(ends) == 1 else end
        if end == "pool":
            pooled = True
        elif end:
            if end in ("linear", "other:Add") and (source := rectified_under(layers, tensor)):
                return f"linear_of:{source}"
            return "pool" if pooled and not end.startswith(("activation", "normalisation")) else end
    return "other:input"


def rectified_under(layers: Layers, tensor: str, seen: dict[str, str] | None = None) -> str:
    """The activation that `tensor` is an affine function of, by its op; "" if there is none.

    Follows linear layers, norms, pooling, gates, and whatever else has one data input. A concatenation counts if one
    part does, a sum of branches (a residual stream) only if all do. Attention, where two image tensors are
    multiplied, ends it.
    """
    seen = {} if seen is None else seen  # branches of a residual stream meet again: each sum is walked once
    for node in _back(layers, tensor):
        op, names, end = node.op_type, data_inputs(layers, node), _end(layers, node)
        if end.startswith("activation:"):
            return end.removeprefix("activation:")
        if op in ("Max", "Min") or (op == "Where" and _op(layers, node.input[0]) in COMPARISON):
            return op  # max(x, 0), or x where it is positive
        gated = (
            [name for name in names if ends_in(layers, name) not in GATES] if op == "Mul" and len(names) == 2 else []
        )
        if len(gated) == 1:
            return rectified_under(layers, gated[0], seen)
        if not gated and op == "Mul" and len(names) == 2:
            return op  # of two that are never negative
        if len(names) > 1 and op in ("Add", "Concat"):
            name = node.output[0]
            if name not in seen:
                seen[name] = ""
                under = [rectified_under(layers, branch, seen) for branch in names]
                seen[name] = max(under) if op == "Concat" or all(under) else ""
            return seen[name]
        if len(names) != 1 or "Attention" in op:
            return ""
    return ""


def last_linears(layers: Layers, tensor: str, depth: int = 0) -> Iterator[onnx.NodeProto]:
    """The linear layers that end `tensor`: with nothing between them but what `ends_in` looks through, and those of
    every branch that a concatenation or a sum joins, nested `CONCAT_DEPTH` times at most."""
    for node in _back(layers, tensor):
        names = data_inputs(layers, node)
        if len(names) > 1 and node.op_type in ("Add", "Concat"):
            for name in names if depth < CONCAT_DEPTH else ():
                yield from last_linears(layers, name, depth + 1)
            return
        end = _end(layers, node)
        if end == "linear":
            yield node
        elif end:
            return


def float_side(layers: Layers, tensor: str) -> str:
    """The float tensor that `tensor` was quantised from, or `tensor` itself."""
    start = tensor
    while layers.types.get(tensor) in BITS or layers.types.get(tensor) is None:
        node = layers.producers.get(tensor)
        if node is None or node.op_type not in RESHAPE:
            return start
        tensor = node.input[0]
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
            return tensor
    return start


def common_source(layers: Layers, tensors: tuple[str, ...], depth: int = 0) -> str | None:
    """The tensor that all `tensors` are elementwise functions of (x for x·sigmoid(x)), if there is one."""
    if depth > FORK_DEPTH:
        return None
    chains = [_chain(layers, tensor, depth + 1) for tensor in tensors]
    return next((name for name in chains[0] if all(name in chain for chain in chains[1:])), None)


WEIGHT_AT = {"QLinearMatMul": 3, "QLinearConv": 3, "QGemm": 3}  # position of the weight, else 1
_BIAS_AT = {"Gemm": 2, "Conv": 2, "FusedGemm": 2, "FusedConv": 2, "NhwcConv": 2, "NhwcFusedConv": 2}
_BIAS_AT |= {
    "QGemm": 6,
    "QLinearConv": 8,
    "MatMulNBits": 5,
    "DynamicQuantizeMatMul": 4,
    "MatMulIntegerToFloat": 6,
}


def node_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node reads, those read inside its subgraphs (If, Loop, Scan) included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g,) if attribute.HasField("g") else tuple(attribute.graphs):
            for inner in graph.node:
                yield from node_inputs(inner)


def _back(layers: Layers, tensor: str) -> Iterator[onnx.NodeProto]:
    """Nodes on the way back from `tensor` for as long as there is one data input."""
    while (node := layers.producers.get(tensor)) is not None:
        yield node
        names = data_inputs(layers, node)
        if len(names) != 1:
            return
        tensor = names[0]


def _chain(layers: Layers, tensor: str, depth: int) -> list[str]:
    chain = [tensor]
    while (node := layers.producers.get(tensor)) is not None and node.op_type in ELEMENTWISE:
        names = data_inputs(layers, node)
        source = names[0] if len(names) == 1 else common_source(layers, names, depth) if names else None
        if source is None:
            break
        tensor = source
        chain.append(tensor)
    return chain


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


def _op(layers: Layers, tensor: str) -> str:
    """What produces `tensor`; "" for an input or a constant."""
    return "" if (node := layers.producers.get(tensor)) is None else node.op_type


def _end(layers: Layers, node: onnx.NodeProto) -> str:
    """What `node` is as an end, "" to look through it."""
    op, names = node.op_type, data_inputs(layers, node)
    if names and cuts_off(node, layers.zero_points):
        # the image itself has no negative pixels; an activation that still stands before it says what it is itself
        maker = layers.producers.get(node.input[0])
        said = maker is None or _end(layers, maker).startswith("activation")
        return "" if op == "QuantizeLinear" and said else f"activation:{op}"
    if op == "Gather" and node.input[0] not in layers.image_tensors:
        return "other:Gather"
    if op in RESHAPE:
        return ""
    if op in NORMALISATION:
        return "normalisation"
    if op in LINEAR:
        fused = [attribute.s.decode() for attribute in node.attribute if attribute.name == "activation"]
        return f"activation:{fused[0]}" if fused and fused[0] else "linear" if len(names) == 1 else f"other:{op}"
    if op in ACTIVATION:
        return f"activation:{op}"
    if op in POOL:
        return "pool"
    if op in AFFINE:
        return _affine_end(layers, node, names)
    return f"other:{op}"


def _affine_end(layers: Layers, node: onnx.NodeProto, names: tuple[str, ...]) -> str:
    op = node.op_type
    if len(names) > 1:
        return f"activation:{_gate(layers, names)}" if common_source(layers, names) else f"other:{op}"
    statistics = [statistic_op(layers, name) for name in node.input if name not in names]
    if "ReduceMean" in statistics and op in ("Div", "Mul"):
        return "normalisation"  # (x − mean)/sd, or x/rms
    if "Mul" in op and any(math.prod(layers.constants.get(name, ())) > 1 for name in node.input):
        return "normalisation"  # one factor a feature: the scale of a norm, folded or decomposed
    return ""


def _gate(layers: Layers, names: tuple[str, ...]) -> str:
    """The usual name of a decomposed activation, by the op that makes its gate."""
    ops = {node.op_type for name in names for tensor in _chain(layers, name, 0)[:-1]
           if (node := layers.producers.get(tensor)) is not None}  # fmt: skip
    usual = {"Sigmoid": "SiLU", "HardSigmoid": "HardSwish", "Erf": "Gelu", "Softplus": "Mish", "Tanh": "Gelu"}
    return next((usual[op] for op in usual if op in ops), "HardSwish" if ops & {"Clip", "Relu"} else "Product")
