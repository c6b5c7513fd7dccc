"""The part of a graph between the input of its last linear layer and the class scores, as a graph of its own. Pure.

It takes float32, whatever the layer takes, and ends before a softmax: what it computes is W·h + b, so that a run on
unit vectors reads W off, however the weights are held. Only what rounds the scores to integers with fixed scales is put
down as its float equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from robustcheck_onnx.checker.errors import CannotAssessError

from .graph import Graph
from .layers import LINEAR, RESHAPE, Layers, build_layers, needed_nodes, node_inputs, text_of
from .open import ModelFile, with_shapes
from .representation import FLOATS

INPUT, OUTPUT = "robustcheck_head_input", "robustcheck_head_output"  # no model has tensors of these names
AFTER = (RESHAPE - {"DynamicQuantizeLinear", "LpNormalization"}) | frozenset(
    ("Add", "Sub", "Mul", "Div", "QLinearAdd", "GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum")
)
"""What may stand behind a linear layer and leaves W·h + b what it is: a linear function of h, but for rounding."""
PROBABILITIES = frozenset(("Softmax", "LogSoftmax", "Sigmoid", "QLinearSoftmax", "QLinearSigmoid"))
FIXED_SCALES = frozenset(("QLinearMatMul", "QLinearConv", "QGemm"))


@dataclass(frozen=True)
class HeadPart:
    """The part of a graph that turns a head's input into scores; its input is `INPUT`, its output `OUTPUT`, float32."""

    graph: Graph
    shape: tuple[int, ...]
    """of the input without the image axis; 1 where a size is open"""
    feature_axis: int
    """of the input, the image axis counted"""
    op: str
    """the linear layer's"""
    scores: str
    """the tensor whose values the part gives, as the model names it"""
    gives_probabilities: bool
    """whether nothing but a softmax or a sigmoid stands between these scores and the class output"""


def head_part(opened: ModelFile) -> HeadPart:
    """Cut the head out of a model: from the input of the last linear layer to the scores before a softmax.

    Raises:
        CannotAssessError: the model has no class scores that one linear layer gives, or they need more of the image
            than the layer's input.
    """
    where = str(opened.path)
    head = opened.head
    if head is None or opened.class_output is None:
        raise CannotAssessError(
            f"{where}: head is missing; the file has no class scores that one linear layer gives",
            "--head FILE.npy, a matrix (class, feature); or robustcheck export … --zero-shot CLASSES.txt",
        )
    proto = opened.graph.light()
    weights = {weight.name: tuple(weight.dims) for weight in proto.graph.initializer}
    layers = build_layers(with_shapes(proto), opened.image_input.name, weights)
    path = _path(layers, opened.class_output, where)
    layer = layers.producers[path[0]]
    in_integers = layer.op_type in FIXED_SCALES
    start = layers.data[path[0]][0]
    if layers.types.get(start, TensorProto.FLOAT) not in FLOATS and not in_integers:
        start = head.tensor  # a dynamic quantiser stands between
    end = _linear_end(layers, path)
    is_bent = text_of(layer, "activation")  # FusedGemm, …
    gives_probabilities = not is_bent and _is_probability([layers.ops[name] for name in path[end + 1 :]])
    path = path[: end + 1]
    graph = onnx.GraphProto(name="head")
    if not in_integers:
        kind = layers.types.get(start, TensorProto.FLOAT)
        graph.node.append(helper.make_node("Cast", [INPUT], [start], to=kind))
    nodes, needed = needed_nodes(proto.graph.node, path[-1], without=start)
    if opened.image_input.name in needed:
        raise CannotAssessError(
            f"{where}: scores {path[-1]!r} need more of the image than {start!r}; a head reads one tensor",
            "--head FILE.npy, a matrix (class, feature)",
        )
    for node in nodes:
        is_on_path = not set(path).isdisjoint(node.output)
        graph.node.extend(_float_equal(node, layers) if is_on_path else [node])
    graph.node.append(helper.make_node("Cast", [path[-1]], [OUTPUT], to=TensorProto.FLOAT))
    read = {name for node in graph.node for name in node_inputs(node)}
    graph.initializer.extend(weight for weight in proto.graph.initializer if weight.name in read)
    shape, axis = _input_shape(layer, layers.shapes.get(start), math.prod(head.weight_shape) // (head.classes or 1))
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["images", *shape]))
    graph.output.append(onnx.ValueInfoProto(name=OUTPUT))
    part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=graph)
    return HeadPart(opened.graph.changed(part), shape, axis, layer.op_type, path[-1], gives_probabilities)


def _path(layers: Layers, output: str, where: str) -> list[str]:
    """List the tensors from the layer's own output to the class output."""
    path = [output]
    while layers.ops.get(path[-1]) not in LINEAR or len(layers.data[path[-1]]) != 1:
        names = layers.data.get(path[-1], ())
        source = layers.elementwise.parent(path[-1]) if len(names) > 1 else names[0] if names else None
        if source is None:
            raise CannotAssessError(
                f"{where}: class output {output!r} is given by several layers; the weights of one are needed",
                "--head FILE.npy, a matrix (class, feature)",
            )
        path.append(source)
    return path[::-1]


def _linear_end(layers: Layers, path: Sequence[str]) -> int:
    """Find the last tensor of the path up to which all are linear functions of the layer's input."""
    for index, name in enumerate(path[1:]):
        of_image = [each for each in layers.producers[name].input if each in layers.image_tensors]
        if layers.ops[name] not in AFTER or len(of_image) != 1:
            return index
    return len(path) - 1


def _is_probability(ops: Sequence[str]) -> bool:
    """Whether operators behind the scores are a softmax or a sigmoid, the former perhaps as exp(x - max) / sum."""
    ops = [op for op in ops if op not in RESHAPE - {"LpNormalization"}]
    return (len(ops) == 1 and ops[0] in PROBABILITIES) or ops in (["Sub", "Exp", "Div"], ["Exp", "Div"])


def _float_equal(node: onnx.NodeProto, layers: Layers) -> list[onnx.NodeProto]:
    """Put down an operator that makes integers with fixed scales, or reads them, as the same on floats."""
    op, names, output = node.op_type, list(node.input), node.output[0]
    attributes = {
        attribute.name: helper.get_attribute_value(attribute)
        for attribute in node.attribute
        if not attribute.ref_attr_name
    }
    weight, bias, scale = (f"{output}_{part}_as_float" for part in ("weight", "bias", "bias_scale"))
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return [helper.make_node("Identity", [names[0]], [output])]
    if op == "QLinearAdd":
        data = names[0] if names[0] in layers.image_tensors else names[3]
        other = names[3:6] if data == names[0] else names[:3]
        return [
            helper.make_node("DequantizeLinear", other, [bias], axis=0),
            helper.make_node("Add", [data, bias], [output]),
        ]
    if op not in FIXED_SCALES:
        return [node]
    by_class = 0 if op == "QLinearConv" or attributes.get("transB") else 1  # axis of the weight that has the classes
    nodes = [helper.make_node("DequantizeLinear", names[3:6], [weight], axis=by_class)]
    inputs = [INPUT, weight]
    place = 6 if op == "QGemm" else 8
    if op != "QLinearMatMul" and len(names) > place and names[place]:
        nodes.append(helper.make_node("Mul", [names[1], names[4]], [scale]))
        nodes.append(helper.make_node("DequantizeLinear", [names[place], scale], [bias], axis=0))
        inputs.append(bias)
    equal = {"QLinearMatMul": "MatMul", "QLinearConv": "Conv", "QGemm": "Gemm"}[op]
    return [*nodes, helper.make_node(equal, inputs, [output], **attributes)]


def _input_shape(
    layer: onnx.NodeProto, shape: tuple[int | None, ...] | None, n_features: int
) -> tuple[tuple[int, ...], int]:
    """Give the shape of the layer's input without the image axis, and which axis has the features."""
    is_map = "Conv" in layer.op_type
    sizes = [size or 1 for size in shape[1:]] if shape and len(shape) > 1 else [1, 1, 1] if is_map else [1]
    place = 0 if is_map else len(sizes) - 1
    if not shape or not shape[place + 1]:
        sizes[place] = n_features
    return tuple(sizes), place + 1
