"""Classify one layer: whether it is a linear layer, a norm, an activation or pooling, or changes no end.

A constant factor or offset that all features share changes no end, nor does a reshape, a cast or a bias.
"""

from collections.abc import Mapping
from itertools import takewhile

from onnx import NodeProto, TensorProto

from ....thresholds.ends import End
from ..evidence import WRITTEN_ZERO_AT
from .layers import AFFINE, LINEAR, POOL, RESHAPE, UNSIGNED, Layers, Shape
from .nodes import input_at, integer, op_set, text_of

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
FUSED = op_set("FusedConv FusedGemm NhwcFusedConv")  # linear layers that may have an activation in them
# usual name of an activation that several ops compose, by the one that makes its gate; the first that is there counts
COMPOSED = {"Sigmoid": "SiLU", "HardSigmoid": "HardSwish", "Erf": "Gelu", "Softplus": "Mish", "Tanh": "Gelu"}
COMPOSED |= {"Clip": "HardSwish", "Relu": "HardSwish"}

LOOK_THROUGH = End("look_through")  # of a layer that changes no end: what it reads decides
AFTER_LINEAR = End("linear")
AFTER_NORM = End("normalisation")
AFTER_POOL = End("pool")
SHIFT = End("other", "shift")  # one number an image, times a fixed vector: a bias of that size


def layer_end(layers: Layers, tensor: str, before: Mapping[str, End]) -> End:
    """Return the end that the layer which makes `tensor` is by itself, or LOOK_THROUGH.

    before: the same for each tensor of the image that the layer reads.
    """
    node = layers.producers[tensor]
    op = layers.ops[tensor]
    data = layers.data[tensor]
    if op in WRITTEN_ZERO_AT and data and _writes_one_sign(layers, node):
        # the image itself has no negative pixels; an activation that still comes before it is the end, by its own name
        is_of_image = data[0] not in before
        if op == "QuantizeLinear" and (is_of_image or before[data[0]].kind == "activation"):
            return LOOK_THROUGH
        return End("activation", op)
    if op == "Gather" and node.input[0] not in layers.image_tensors:
        # a table of vectors gives one of them; a table of numbers is a function of each feature, be it a ReLU
        table = layers.shape_of(node.input[0]) or ()
        return End("other" if n_longer(table) > 1 else "activation", op)
    if op in RESHAPE:
        return AFTER_NORM if op == "DequantizeLinear" and _rescales(layers, node) else LOOK_THROUGH
    if op in NORMALISATION:
        return AFTER_NORM
    if op in FUSED and (fused := text_of(node, "activation")):
        return End("activation", fused)
    if op in LINEAR and len(data) == 1:
        return AFTER_LINEAR
    if op in ACTIVATION:
        return End("activation", op)
    if op in POOL:
        return AFTER_POOL
    if op in AFFINE:
        return _affine_end(layers, tensor, node)
    is_with_constants = op == "Concat" and len(data) == 1
    return LOOK_THROUGH if is_with_constants else End("other", op)


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


def _rescales(layers: Layers, node: NodeProto) -> bool:
    """Return whether a dequantiser may have its own scale per feature, other than that of what was quantised before."""
    scale = layers.shape_of(node.input[1])
    if scale is not None and not n_longer(scale):
        return False
    maker = layers.producers.get(node.input[0])
    while maker is not None and maker.op_type in RESHAPE - {"QuantizeLinear"}:
        maker = layers.producers.get(maker.input[0])
    return maker is not None and node.input[1] not in maker.input


def _affine_end(layers: Layers, tensor: str, node: NodeProto) -> End:
    """Return the end that a sum, difference, product or quotient is."""
    op = node.op_type
    data = layers.data[tensor]
    if len(data) > 1:
        return _composed_activation(layers, tensor) or End("other", op)
    if op not in SCALING:
        return LOOK_THROUGH
    if op == "Div" and node.input[0] != data[0]:
        return End("other", op)  # c/x is not a factor
    return _factor_end(layers, node, data[0])


def _factor_end(layers: Layers, node: NodeProto, data: str) -> End:
    """Return the end that a product with constants or statistics of the image is, or a quotient by them."""
    shape = layers.shapes.get(data)
    statistics = {layers.statistics[name] for name in node.input if name != data and name in layers.statistics}
    if statistics:
        # (x − mean)/sd, or x/rms; over positions, each feature by its own norm
        is_norm = "ReduceMean" in statistics or n_longer((shape or ())[1:]) > 1
        return AFTER_NORM if is_norm else LOOK_THROUGH
    if _is_integer_product(layers, data) or all(are_one_factor(layers, node)):
        return LOOK_THROUGH
    if node.op_type == "Mul" and data in layers.statistics and shape is not None and not n_longer(shape[1:]):
        return SHIFT
    return AFTER_NORM  # one factor a feature, for all that is known: the scale of a norm, folded or decomposed


def _is_integer_product(layers: Layers, tensor: str) -> bool:
    """Return whether a tensor is a sum of integer products, cast to floats: a factor is the scale of its weights."""
    if maker_of(layers, tensor) != "Cast":
        return False
    return maker_of(layers, layers.producers[tensor].input[0]) in INTEGER_PRODUCTS


def _composed_activation(layers: Layers, tensor: str) -> End | None:
    """Return the activation that several ops compose, such as x·sigmoid(x): None where they read no common tensor."""
    common = layers.elementwise.parent(tensor)
    if common is None:
        return None
    gates: set[str] = set()
    for name in layers.data[tensor]:
        between = takewhile(common.__ne__, layers.elementwise.above(name))
        gates.update(maker_of(layers, ancestor) for ancestor in between)
    usual = [name for gate, name in COMPOSED.items() if gate in gates]
    return End("activation", next(iter(usual), "Product"))


def maker_of(layers: Layers, tensor: str) -> str:
    """Return the op that makes `tensor`: "" for an input or a constant."""
    node = layers.producers.get(tensor)
    return "" if node is None else node.op_type


def are_one_factor(layers: Layers, node: NodeProto) -> list[bool]:
    """Return whether each factor of a product, but for those of the image, is one for all features."""
    factors = node.input[::3][:2] if node.op_type == "QLinearMul" else node.input
    shapes = [layers.shape_of(name) for name in factors if name not in layers.image_tensors]
    return [shape is not None and not n_longer(shape) for shape in shapes]


def n_longer(shape: Shape) -> int:
    """Count the axes that are not of length 1."""
    return sum(size != 1 for size in shape)
