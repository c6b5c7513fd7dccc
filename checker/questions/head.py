"""Read a classifier's head as numbers, W and b of the last linear layer, from the model or a file.

The part of the graph between the input of the layer and the scores becomes a graph of its own. It takes float32,
whatever the layer takes, and ends before a softmax: it computes W·h + b, so a run on unit vectors reads W, however the
weights are stored. Only what rounds the scores to integers with fixed scales is replaced by its float equal.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import get_attribute_value, make_node, make_tensor_value_info

from ..arrays import NOT_READABLE, Array, GenericArray, float64
from ..core.model.file import Graph
from ..core.model.layers import FLOATS, LINEAR, RESHAPE, Layers, Shape, Sizes, build_layers, with_shapes
from ..core.model.nodes import inputs_of, needed_nodes, text_of
from ..core.model.open import ModelFile
from ..core.runtime.devices import RUN_ERRORS, cpu_threads
from ..core.runtime.session import open_session, relative_difference, translate
from ..errors import CannotAssessError, EnvironmentFaultError, UsageError, install_hint, unfit
from ..text import frozen

INPUT = "robustcheck_head_input"
OUTPUT = "robustcheck_head_output"  # no model has tensors of these names
MATRIX = "--head FILE.npy, a matrix (class, feature)"
AFTER = (RESHAPE - {"DynamicQuantizeLinear", "LpNormalization"}) | frozenset(
    ("Add", "Sub", "Mul", "Div", "QLinearAdd", "GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum")
)
"""What may follow a linear layer and leaves W·h + b what it is: a linear function of h, but for rounding."""
PROBABILITIES = frozenset(("Softmax", "LogSoftmax", "Sigmoid", "QLinearSoftmax", "QLinearSigmoid"))
FIXED_SCALES = frozenset(("QLinearMatMul", "QLinearConv", "QGemm"))


@frozen
class HeadPart:
    """The part of a graph that computes scores: its input is `INPUT`, its output `OUTPUT`, float32."""

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
    """whether nothing but a softmax or a sigmoid is between these scores and the class output"""


def head_part(opened: ModelFile) -> HeadPart:
    """Cut the head out of a model, from the input of the last linear layer to the scores before a softmax.

    Raises:
        CannotAssessError: the model has no class scores that one linear layer gives, or they need more of the image
            than the layer's input.
    """
    where = str(opened.path)
    head = opened.head
    if head is None or opened.class_output is None:
        raise CannotAssessError(
            f"{where}: head is missing; the file has no class scores that one linear layer gives",
            f"{MATRIX}; or robustcheck export … --zero-shot CLASSES.txt",
        )
    proto = opened.graph.stripped()
    layers = build_layers(with_shapes(proto), opened.image_input.name, proto.graph.initializer)
    path = _path(layers, opened.class_output, where)
    layer = layers.producers[path[0]]
    in_integers = layer.op_type in FIXED_SCALES
    start = layers.data[path[0]][0]
    if layers.types.get(start, TensorProto.FLOAT) not in FLOATS and not in_integers:
        start = head.tensor  # a dynamic quantiser is between
    n_linear = _n_linear(layers, path)
    ops_after = [layers.ops[name] for name in path[n_linear:]]
    is_bent = text_of(layer, "activation")  # FusedGemm, …
    gives_probabilities = not is_bent and _is_probability(ops_after)
    path = path[:n_linear]
    scores = path[-1]
    graph = GraphProto(name="head")
    if not in_integers:
        kind = layers.types.get(start, TensorProto.FLOAT)
        graph.node.append(make_node("Cast", [INPUT], [start], to=kind))
    nodes, needed = needed_nodes(proto.graph.node, [scores], without=start)
    if opened.image_input.name in needed:
        message = f"{where}: scores {scores!r} need more of the image than {start!r}; a head reads one tensor"
        raise CannotAssessError(message, MATRIX)
    for node in nodes:
        is_on_path = not set(path).isdisjoint(node.output)
        graph.node.extend(_float_equal(node, layers) if is_on_path else [node])
    graph.node.append(make_node("Cast", [scores], [OUTPUT], to=TensorProto.FLOAT))
    read = {name for node in graph.node for name in inputs_of(node)}
    graph.initializer.extend(weight for weight in proto.graph.initializer if weight.name in read)
    n_features = math.prod(head.weight_shape) // (head.classes or 1)
    shape, axis = _input_shape(layer, layers.shapes.get(start) or (), n_features)
    graph.input.append(make_tensor_value_info(INPUT, TensorProto.FLOAT, ["images", *shape]))
    graph.output.append(ValueInfoProto(name=OUTPUT))
    part = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=graph)
    return HeadPart(opened.graph.changed(part), shape, axis, layer.op_type, scores, gives_probabilities)


def _path(layers: Layers, output: str, where: str) -> list[str]:
    """List the tensors from the layer's own output to the class output."""
    path = [output]
    while layers.ops.get(path[-1]) not in LINEAR or len(layers.data[path[-1]]) != 1:
        names = layers.data.get(path[-1], ())
        source = names[0] if len(names) == 1 else layers.elementwise.parent(path[-1])
        if source is None:
            message = f"{where}: class output {output!r} is given by several layers; the weights of one are needed"
            raise CannotAssessError(message, MATRIX)
        path.append(source)
    return path[::-1]


def _n_linear(layers: Layers, path: Sequence[str]) -> int:
    """Count the tensors from the start of the path that are linear functions of the layer's input."""
    for index, name in enumerate(path):
        of_image = [tensor for tensor in layers.producers[name].input if tensor in layers.image_tensors]
        if index and (layers.ops[name] not in AFTER or len(of_image) != 1):
            return index
    return len(path)


def _is_probability(ops: Sequence[str]) -> bool:
    """Return whether the operators after scores are a softmax, perhaps as exp(x - max) / sum, or a sigmoid."""
    ops = [op for op in ops if op not in RESHAPE - {"LpNormalization"}]
    if len(ops) == 1:
        return ops[0] in PROBABILITIES
    return ops in (["Sub", "Exp", "Div"], ["Exp", "Div"])


def _float_equal(node: NodeProto, layers: Layers) -> list[NodeProto]:
    """Return the same computation on floats as a node that writes or reads integers with fixed scales."""
    op = node.op_type
    names = list(node.input)
    output = node.output[0]
    attributes = {
        attribute.name: get_attribute_value(attribute) for attribute in node.attribute if not attribute.ref_attr_name
    }
    weight, bias, scale = (f"{output}_{part}_as_float" for part in ("weight", "bias", "bias_scale"))
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return [make_node("Identity", [names[0]], [output])]
    if op == "QLinearAdd":
        data = names[0]
        other = names[3:6]
        if data not in layers.image_tensors:
            data = names[3]
            other = names[:3]
        as_float = make_node("DequantizeLinear", other, [bias], axis=0)
        return [as_float, make_node("Add", [data, bias], [output])]
    if op not in FIXED_SCALES:
        return [node]
    by_class = 0 if op == "QLinearConv" or attributes.get("transB") else 1  # axis of the weight that has the classes
    nodes = [make_node("DequantizeLinear", names[3:6], [weight], axis=by_class)]
    inputs = [INPUT, weight]
    place = 6 if op == "QGemm" else 8
    if op != "QLinearMatMul" and len(names) > place and names[place]:
        nodes.append(make_node("Mul", [names[1], names[4]], [scale]))
        nodes.append(make_node("DequantizeLinear", [names[place], scale], [bias], axis=0))
        inputs.append(bias)
    equal = {"QLinearMatMul": "MatMul", "QLinearConv": "Conv", "QGemm": "Gemm"}[op]
    return [*nodes, make_node(equal, inputs, [output], **attributes)]


def _input_shape(layer: NodeProto, shape: Shape, n_features: int) -> tuple[Sizes, int]:
    """Return the input's shape without the image axis, and its feature axis."""
    is_map = "Conv" in layer.op_type
    known = shape[1:]
    if not known:
        known = (None, None, None) if is_map else (None,)
    place = 0 if is_map else len(known) - 1
    sizes = [size or 1 for size in known]
    sizes[place] = known[place] or n_features
    return tuple(sizes), place + 1


LENGTH = 256.0  # of the vectors that are run, or so many times max |b|: W·h loses no digit to b; a power of 2 is exact
LONGEST = 2.0**96  # W of 1e9 is still finite
ROWS = 256  # vectors of a run


@frozen
class LinearHead:
    """A linear head: scores are W·h + b."""

    weight: Array
    """(class, feature) float64, finite"""
    bias: Array
    """(class,) float64, zeros where there is none"""
    source: str
    """where it comes from, in words"""
    gives_probabilities: bool = False
    """whether the model's class output is a softmax or a sigmoid of the scores, by its graph"""

    def scores(self, representations: npt.ArrayLike) -> Array:
        """Compute (image, class) float64 of (image, feature)."""
        return float64(representations) @ self.weight.T + self.bias


def read_head(opened: ModelFile) -> LinearHead:
    """Read the head of a model by running it on vectors: W·(c·eⱼ) + b for each feature j, and b for the zero vector.

    The weights may be held in any way; what is read is what ONNX Runtime computes with, to float32's (float16's)
    precision. It acts on the tensor `opened.head.tensor`; factors and biases behind the layer are in W and b. c grows
    with the largest bias: next to a bias of -1e9, which shuts a class out, W·(256·eⱼ) would be rounded away.

    Raises:
        CannotAssessError: as `head_part`; ONNX Runtime can't run that part; a weight is not finite; one class.
        EnvironmentFaultError: memory ran out.
    """
    part = head_part(opened)
    session, _ = open_session(part.graph.own(), opened, "cpu", threads=cpu_threads())
    n_features = part.shape[part.feature_axis - 1]
    rows = opened.image_input.batch or ROWS

    def run(first: int, length: float) -> Array:
        """Run the head on length·eⱼ for `rows` features j from `first` on, and on zero vectors beyond the last."""
        vectors = length * np.eye(rows, n_features, k=first, dtype=np.float32)
        sizes = [1] * len(part.shape)
        sizes[part.feature_axis - 1] = n_features
        aligned = vectors.reshape(rows, *sizes)
        values = np.ascontiguousarray(np.broadcast_to(aligned, (rows, *part.shape)))
        try:
            (scores,) = session.run(None, {INPUT: values})
        except RUN_ERRORS as error:
            raise translate(error, opened) from error
        return float64(scores).reshape(rows, -1)

    def read(length: float) -> Array:
        weight = np.empty((len(bias), n_features))
        for first in range(0, n_features, rows):
            columns = weight[:, first : first + rows]
            scores = run(first, length)[: columns.shape[1]]
            columns[:] = ((scores - bias) / length).T
        return weight

    bias = run(n_features, LENGTH)[0]
    if len(bias) < 2:
        raise unfit(opened.path, "number of scores of the head is 1; a prediction needs at least two classes")
    largest = float(np.abs(bias[np.isfinite(bias)]).max(initial=1.0))
    power = math.ceil(math.log2(largest))
    weight = read(min(LENGTH * 2.0**power, LONGEST))
    if not np.isfinite(weight).all():  # too long for float16
        weight = read(LENGTH)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise unfit(opened.path, "weights of the head are not all finite; a head is a matrix of numbers")
    source = f"{part.op} that gives {part.scores} in {opened.path.name}"
    return LinearHead(weight, bias, source, part.gives_probabilities)


def head_from_file(path: Path, n_features: int) -> LinearHead:
    """Read a head from a .npy file with one matrix, or a .safetensors file with `weight` and perhaps `bias`.

    Args:
        path: the file. The matrix is (class, feature), of floats; the bias (class,).
        n_features: width of the representation that it acts on.

    Raises:
        UsageError: no such file, another kind of file, no such matrix, another width, values that are not finite.
        EnvironmentFaultError: .safetensors, and the package safetensors is not installed.
    """
    if not path.is_file():
        raise UsageError(f"{path}: head is missing; no such file", MATRIX)
    try:
        if path.suffix == ".npy":
            tensors: dict[str, GenericArray] = {"weight": np.lib.format.open_memmap(path, mode="r")}
        elif path.suffix == ".safetensors":
            tensors = _safetensors(path)
        else:
            raise UsageError(
                f"{path}: head is a {path.suffix or 'nameless'} file; it must be .npy or .safetensors",
                "numpy.save('head.npy', weight)",
            )
    except NOT_READABLE as fault:
        words = " ".join(str(fault).split())
        raise UsageError(f"{path}: head is not readable ({words[:200]})", "--head FILE.npy") from fault
    if "weight" not in tensors:
        names = ", ".join(sorted(tensors)[:12]) or "(none)"
        raise UsageError(
            f"{path}: head has the tensors {names}; one must be named weight",
            "save_file({'weight': weight}, 'head.safetensors')",
        )
    weight = tensors["weight"]
    bias = tensors.get("bias", np.zeros(weight.shape[:1]))
    for name, array, rank in (("weight", weight, 2), ("bias", bias, 1)):
        if array.ndim != rank or not np.issubdtype(array.dtype, np.floating) or not array.size:
            raise UsageError(
                f"{path}: {name} is an array of shape {array.shape} and type {array.dtype}; {rank} axes of floats are "
                "needed, (class, feature) and (class,)",
                "numpy.save('head.npy', weight)",
            )
        if not np.isfinite(array).all():
            raise UsageError(f"{path}: {name} holds values that are not finite; a head is a matrix of numbers", "")
    if weight.shape[1] != n_features or len(weight) != len(bias) or len(weight) < 2:
        shapes = f"{weight.shape} and bias {bias.shape}" if "bias" in tensors else f"{weight.shape}"
        raise UsageError(
            f"{path}: weight has shape {shapes}; (class, {n_features}) with two or more classes is needed: the "
            f"representation has {n_features} features",
            "transpose it, or take the head that belongs to this tensor",
        )
    return LinearHead(weight.astype(np.float64), bias.astype(np.float64), path.name)


def _safetensors(path: Path) -> dict[str, GenericArray]:
    try:
        from safetensors import SafetensorError  # noqa: PLC0415 # an extra
        from safetensors.numpy import load_file  # noqa: PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{path}: package safetensors is missing; it reads .safetensors", install_hint("data")
        ) from fault
    try:
        return dict(load_file(path))
    except SafetensorError as fault:
        raise ValueError(str(fault)) from fault


def score_difference(head: LinearHead, representations: npt.ArrayLike, scores: GenericArray) -> float:
    """Return how far W·h + b is from the model's own scores: 0 where the head reproduces them.

    What the scores are does not matter: W·h + b itself, or its softmax, logarithm of the softmax, or sigmoid. The one
    that comes nearest counts. The difference of probabilities is `relative_difference`. That of scores is relative to
    the root mean square of all W·h, without the bias, so that no large bias hides a wrong W; of a class whose score is
    further below the image's largest one, relative to that distance (float32 keeps no digit of W·h next to a
    bias of -1e9). Probabilities near 0 and 1 tell little of the scores behind them: they count only where the graph
    says that they are a softmax or a sigmoid of W·h + b, `LinearHead.gives_probabilities`.

    Args:
        head: of the model.
        representations: (image, feature), what the head acts on.
        scores: (image, class) of the same images.
    """
    linear = head.scores(representations)
    own = float64(scores)
    if linear.shape != own.shape:
        return float("inf")
    below = linear.max(axis=1, keepdims=True) - linear
    sums = np.exp(-below).sum(axis=1, keepdims=True)
    logarithm = -below - np.log(sums)
    rms = np.sqrt(((linear - head.bias) ** 2).mean())
    scale = np.maximum(rms, below)
    differences = []
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        for form in (linear, logarithm):
            relative = np.abs(own - form) / scale
            differences.append(np.nan_to_num(relative, nan=0.0).max())
        if head.gives_probabilities:
            sigmoid = 1 / (1 + np.exp(-linear))
            differences.append(relative_difference(own, np.exp(logarithm)))
            differences.append(relative_difference(own, sigmoid))
    return float(min(differences))
