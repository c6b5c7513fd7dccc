"""Find a graph's image input.

A graph with several inputs is cut down to the outputs that need the image alone: a whole CLIP takes pixel values and
the tokens of texts, but its image embedding needs only the pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from ...errors import CannotAssessError, UsageError
from ...text import frozen
from ..evidence import PreprocessingFacts
from .layers import Shape, name_of_type, show_shape
from .nodes import Names, inputs_of, integers, needed_nodes, replace_all, weights_in

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.UINT8: "uint8",
    TensorProto.BFLOAT16: "bfloat16",
}
INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.STRING)
VISION_ALONE = "export the vision encoder alone: robustcheck export --help"
TOKEN_NAME = re.compile(r"(^|[^a-z])(input_ids|token_ids|tokens)([^a-z]|$)", re.I)
MOST_VALUES = 2**28  # of one fixed batch: 1 GiB in float32, 1,783 photos of 224 px
RESHAPING_OPS = frozenset(("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"))
ELEMENTWISE_OPS = frozenset(("Cast", "Sub", "Mul", "Div", "Add", "Identity", "DequantizeLinear", "QuantizeLinear"))
COLOURS = (1, 3, 4)  # channels that an image may have
SHOWN = 4  # outputs that a message names


@frozen
class ImageInput:
    """The input of the graph that takes the pixels."""

    name: str
    layout: str
    """NCHW or NHWC"""
    dtype: str
    """float32, float16, float64, bfloat16 or uint8"""
    batch: int | None
    """None: any number of images"""
    height: int | None
    width: int | None
    channels: int | None
    """3; 1 for grey; None where the file leaves it open"""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width (px). None where the file leaves one open."""
        return None if self.height is None or self.width is None else (self.height, self.width)


def find_image_input(graph: GraphProto) -> ImageInput:
    """Find the one image input that `keep_image_part` has kept, and check that it takes photos.

    Raises:
        CannotAssessError: no input; a text encoder; no 4-D image input; neither 3 colour channels nor 1; another type.
    """
    weights = weights_in(graph)
    inputs = [value for value in graph.input if value.name not in weights]
    listed = ", ".join(describe_input(value) for value in inputs) or "none"
    images = [value for value in inputs if looks_like_image(value)]
    if not images:
        are = "s are" if len(inputs) > 1 else " is"
        text = ": a text encoder" if any(_takes_tokens(graph, value) for value in inputs) else ""
        message = f"input{are} {listed}{text}; an image input (batch, 3, height, width) is needed"
        raise CannotAssessError(message, VISION_ALONE)
    (value,) = images
    kind = _kind(value)
    shape = _shape(value) or ()
    layout = _layout(graph, value.name, shape)
    batch, channels, height, width = shape
    if layout == "NHWC":
        batch, height, width, channels = shape
    if channels not in (1, 3, None):
        raise CannotAssessError(f"input {listed} has {channels} channels; photos have 3, or 1 in grey", VISION_ALONE)
    if kind not in DTYPES:
        raise CannotAssessError(
            f"input {listed} is of type {name_of_type(kind)}; float32, float16, bfloat16, float64 and uint8 can be fed",
            "export with float32 inputs",
        )
    if math.prod(size or 1 for size in shape) > MOST_VALUES:
        raise CannotAssessError(
            f"input {listed} holds more than {MOST_VALUES:,} values in one batch; that is too many",
            "export with a dynamic batch axis",
        )
    return ImageInput(value.name, layout, DTYPES[kind], batch, height, width, channels)


def looks_like_image(value: ValueInfoProto) -> bool:
    """Return whether an input may take images: it has four axes and a type that holds no tokens."""
    return len(_shape(value) or ()) == 4 and _kind(value) not in INTEGERS


def describe_input(value: ValueInfoProto) -> str:
    """Return an input's name, type and shape as text."""
    return f"{value.name} {name_of_type(_kind(value))} {show_shape(_shape(value))}"


def _takes_tokens(graph: GraphProto, value: ValueInfoProto) -> bool:
    """Return whether an input takes the tokens of texts: integers (text, position), by its name or what reads it."""
    if _kind(value) not in INTEGERS or len(_shape(value) or ()) != 2:
        return False
    names = {value.name}
    for node in graph.node:
        if node.op_type == "Gather" and names.intersection(node.input[1:2]):
            return True
        if node.op_type in RESHAPING_OPS and names.intersection(node.input[:1]):
            names.update(node.output)
    return TOKEN_NAME.search(value.name) is not None


def _kind(value: ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type


def _shape(value: ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    # some exporters write -1 or 0 for "any"
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)


def _layout(graph: GraphProto, name: str, shape: Shape) -> str:
    is_nhwc = shape[3] in COLOURS and shape[1] not in COLOURS
    if shape[1] is None and shape[3] is None:
        # a graph that first moves the last axis to the front takes NHWC; ONNX's own is NCHW
        is_nhwc = _first_transpose(graph, name) == [0, 3, 1, 2]
    return "NHWC" if is_nhwc else "NCHW"


def _first_transpose(graph: GraphProto, name: str) -> list[int]:
    """Return the order of axes of the first Transpose of a tensor, which elementwise functions may precede."""
    names = {name}
    for node in graph.node:
        if names.isdisjoint(node.input):
            continue
        if node.op_type == "Transpose":
            return integers(node, "perm")
        if node.op_type in ELEMENTWISE_OPS:
            names.update(node.output)
    return []


def fed_as(facts: PreprocessingFacts, image: ImageInput, where: Path) -> PreprocessingFacts:
    """Adapt a preprocessing to the model's channels, where one channel gets photos in grey.

    Mean and standard deviation of grey are one value, or three equal ones. Three different ones belong to colours:
    their means are taken where the preprocessing was assumed anyway, which is never a PASS, and they are refused where
    somebody gave them.

    Raises:
        UsageError: three different values; grey for a model that takes three channels.
    """
    preprocessing = facts.preprocessing
    if image.channels != 1:
        if preprocessing.color_order == "grey":
            message = f"{where}: color_order is grey; the model takes {image.channels or 3} channels"
            raise UsageError(message, "color_order RGB")
        return facts
    changes: dict[str, object] = {"color_order": "grey"}
    shown = {"color_order": "grey"}
    origins = {"color_order": "model input"}
    for name in ("mean", "std"):
        triple = getattr(preprocessing, name)
        mean = sum(triple) / 3
        shown[name] = f"{mean:.8g}"
        if len(set(triple)) == 1:
            continue
        if facts.source != "assumed":
            listed = ", ".join(f"{value:g}" for value in triple)
            raise UsageError(
                f"{where}: {name} is {listed}; the model takes one grey channel, so it must be one value",
                '--preprocess FILE with, for example, "mean": [0.5], "std": [0.5]',
            )
        changes[name] = (mean,) * 3
        origins[name] = "assumed: mean of the colours' values"
    fields = tuple((name, shown.get(name, value), origins.get(name, origin)) for name, value, origin in facts.fields)
    grey = preprocessing.model_copy(update=changes)
    return facts.model_copy(update={"preprocessing": grey, "fields": fields})


def keep_image_part(proto: ModelProto) -> Names:
    """Remove what image-only outputs do not need, in place, and return the names of what was left out.

    Weights that a file lists as inputs (they are defaults) are not inputs here. A graph with one input, or without an
    image input, stays as it is.

    Args:
        proto: its nodes are sorted and its functions opened up.

    Returns:
        The inputs, then the outputs that were left out, each as "input NAME" or "output NAME".

    Raises:
        CannotAssessError: several inputs, and no output needs the image alone, or each of several images has some.
    """
    graph = proto.graph
    weights = weights_in(graph)
    inputs = [value for value in graph.input if value.name not in weights]
    images = [value.name for value in inputs if looks_like_image(value)]
    if len(inputs) < 2 or not images:
        return ()
    needs = _needs(graph, [value.name for value in inputs])
    own_outputs: dict[str, list[str]] = {}
    for image in images:
        outputs = [name for name, needed in needs.items() if needed == {image}]
        if outputs:
            own_outputs[image] = outputs
    if len(own_outputs) != 1:
        raise _unclear(inputs, needs, own_outputs)
    ((image, outputs),) = own_outputs.items()
    left_out = [f"input {value.name}" for value in inputs if value.name != image]
    left_out += [f"output {name}" for name in needs if name not in outputs]
    _keep(graph, outputs)
    return tuple(left_out)


def _needs(graph: GraphProto, inputs: Sequence[str]) -> dict[str, set[str]]:
    """Return the inputs that each output of a sorted graph needs, be it only for their shape."""
    bit_of = {name: 1 << index for index, name in enumerate(inputs)}
    bits = dict(bit_of)  # of each tensor, the set of its inputs
    for node in graph.node:
        needed = 0
        for name in inputs_of(node):
            needed |= bits.get(name, 0)
        if needed:
            bits.update(dict.fromkeys(node.output, needed))
    needs = {}
    for value in graph.output:
        needed = bits.get(value.name, 0)
        needs[value.name] = {name for name, bit in bit_of.items() if needed & bit}
    return needs


def _keep(graph: GraphProto, outputs: Collection[str]) -> None:
    """Keep what these outputs need of a sorted graph."""
    nodes, needed = needed_nodes(graph.node, outputs)
    for node in nodes:
        needed.update(node.output)
    replace_all(graph.node, nodes)
    replace_all(graph.output, [value for value in graph.output if value.name in outputs])
    replace_all(graph.sparse_initializer, [part for part in graph.sparse_initializer if part.values.name in needed])
    annotations = graph.quantization_annotation
    replace_all(annotations, [annotation for annotation in annotations if annotation.tensor_name in needed])
    for named in (graph.input, graph.initializer, graph.value_info):
        replace_all(named, [part for part in named if part.name in needed])


def _unclear(
    inputs: Sequence[ValueInfoProto], needs: dict[str, set[str]], own_outputs: dict[str, list[str]]
) -> CannotAssessError:
    parts = [f"inputs are {', '.join(describe_input(value) for value in inputs)}"]
    if own_outputs:
        parts += [f"{names[0]} needs {image} alone" for image, names in own_outputs.items()]
        parts.append("it must be clear which of them takes the photos")
    else:
        parts += [f"{name} needs {', '.join(sorted(used)) or 'none'}" for name, used in [*needs.items()][:SHOWN]]
        if len(needs) > SHOWN:
            parts.append(f"… ({len(needs)} outputs)")
        parts.append("an output must need the image input alone")
    return CannotAssessError("; ".join(parts), VISION_ALONE)
