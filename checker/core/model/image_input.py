"""Find a graph's image input, and how it scales the pixels.

A graph with several inputs is cut down to the outputs that need the image alone. A whole CLIP takes pixel values and
the tokens of texts; its image embedding needs only the pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from ...errors import CannotAssessError, UsageError
from ...text import frozen
from ..evidence import PreprocessingFacts
from .layers import Shape, show_shape
from .nodes import Names, inputs_of, integers, needed_nodes, weights_in

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


def find_image_input(graph: GraphProto, weights: AbstractSet[str]) -> ImageInput:
    """Find the image input of a graph. `keep_image_part` has kept one; it is checked that it takes photos.

    Raises:
        CannotAssessError: no input; a text encoder; no 4-D image input; neither 3 colour channels nor 1; another type.
    """
    inputs = [value for value in graph.input if value.name not in weights]
    listed = ", ".join(describe_input(value) for value in inputs) or "none"
    images = [value for value in inputs if looks_like_image(value)]
    if not images:
        text = ": a text encoder" if any(_takes_tokens(graph, value) for value in inputs) else ""
        start = f"input{'s are' if len(inputs) > 1 else ' is'} {listed}{text}"
        raise CannotAssessError(f"{start}; an image input (batch, 3, height, width) is needed", VISION_ALONE)
    (value,) = images
    shape = _shape(value) or ()
    layout = _layout(graph, value.name, shape)
    channels = shape[1 if layout == "NCHW" else 3]
    if channels not in (1, 3, None):
        raise CannotAssessError(f"input {listed} has {channels} channels; photos have 3, or 1 in grey", VISION_ALONE)
    if _kind(value) not in DTYPES:
        raise CannotAssessError(
            f"input {listed} is of type {TensorProto.DataType.Name(_kind(value)).lower()}; float32, "
            "float16, bfloat16, float64 and uint8 can be fed",
            "export with float32 inputs",
        )
    height, width = (shape[2], shape[3]) if layout == "NCHW" else (shape[1], shape[2])
    if math.prod(size or 1 for size in shape) > MOST_VALUES:
        raise CannotAssessError(
            f"input {listed} holds more than {MOST_VALUES:,} values in one batch; that is too many",
            "export with a dynamic batch axis",
        )
    return ImageInput(value.name, layout, DTYPES[_kind(value)], shape[0], height, width, channels)


def looks_like_image(value: ValueInfoProto) -> bool:
    """Whether an input may take images. It has four axes and no type that holds tokens."""
    return len(_shape(value) or ()) == 4 and _kind(value) not in INTEGERS


def describe_input(value: ValueInfoProto) -> str:
    """Return an input's name, type and shape as text."""
    kind = TensorProto.DataType.Name(_kind(value)).lower() if _kind(value) else "unknown"
    return f"{value.name} {kind} {show_shape(_shape(value))}"


def _takes_tokens(graph: GraphProto, value: ValueInfoProto) -> bool:
    """Whether an input takes tokens of texts.

    They are integers (text, position), by the input's name or looked up in a table.
    """
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
    if shape[1] is not None or shape[3] is not None:
        return "NHWC" if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) else "NCHW"
    # all sizes open: a graph that first moves the last axis to the front takes NHWC; ONNX's own is NCHW
    names = {name}
    for node in graph.node:
        if names & set(node.input):
            if node.op_type == "Transpose":
                return "NHWC" if integers(node, "perm") == [0, 3, 1, 2] else "NCHW"
            if node.op_type in ELEMENTWISE_OPS:
                names.update(node.output)
    return "NCHW"


def fed_as(facts: PreprocessingFacts, image: ImageInput, where: Path) -> PreprocessingFacts:
    """Adapt a preprocessing to the model's channels. One channel gets photos in grey.

    Mean and standard deviation of grey are one value, or three equal ones. Three different ones belong to colours:
    their means are taken where the preprocessing was assumed anyway, which is never a PASS, and they are refused where
    somebody gave them.

    Raises:
        UsageError: three different values; grey for a model that takes three channels.
    """
    preprocessing = facts.preprocessing
    if image.channels != 1:
        if preprocessing.color_order == "grey":
            raise UsageError(
                f"{where}: color_order is grey; the model takes {image.channels or 3} channels", "color_order RGB"
            )
        return facts
    values = {"mean": preprocessing.mean, "std": preprocessing.std}
    different = {name: triple for name, triple in values.items() if len(set(triple)) > 1}
    if different and facts.source != "assumed":
        name, triple = next(iter(different.items()))
        raise UsageError(
            f"{where}: {name} is {', '.join(f'{value:g}' for value in triple)}; the model takes one grey channel, "
            "so it must be one value",
            '--preprocess FILE with, for example, "mean": [0.5], "std": [0.5]',
        )
    changes: dict[str, object] = {name: (sum(triple) / 3,) * 3 for name, triple in different.items()}
    changes["color_order"] = "grey"
    shown = {name: f"{sum(triple) / 3:.8g}" for name, triple in values.items()} | {"color_order": "grey"}
    origins = dict.fromkeys(different, "assumed: mean of the colours' values") | {"color_order": "model input"}
    fields = tuple((name, shown.get(name, value), origins.get(name, origin)) for name, value, origin in facts.fields)
    return facts.model_copy(update={"preprocessing": preprocessing.model_copy(update=changes), "fields": fields})


SHOWN = 4  # outputs that a message names


def keep_image_part(proto: ModelProto) -> Names:
    """Remove what image-only outputs do not need, in place. Returns the names of what was left out.

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
    own_outputs = {image: names for image in images if (names := [name for name, of in needs.items() if of == {image}])}
    if len(own_outputs) != 1:
        raise _unclear(inputs, needs, own_outputs)
    ((image, outputs),) = own_outputs.items()
    left_out = [f"input {value.name}" for value in inputs if value.name != image]
    left_out += [f"output {name}" for name in needs if name not in outputs]
    _keep(graph, outputs, {value.name for value in inputs} - {image})
    return tuple(left_out)


def _needs(graph: GraphProto, inputs: Sequence[str]) -> dict[str, set[str]]:
    """Return the inputs that each output needs. The graph is sorted; an input needed only for its shape counts."""
    bits = {name: 1 << index for index, name in enumerate(inputs)}  # of each tensor, the set of its inputs as bits
    for node in graph.node:
        needed = 0
        for name in inputs_of(node):
            needed |= bits.get(name, 0)
        if needed:
            bits.update(dict.fromkeys(node.output, needed))
    return {
        value.name: {name for index, name in enumerate(inputs) if bits.get(value.name, 0) >> index & 1}
        for value in graph.output
    }


def _keep(graph: GraphProto, outputs: Collection[str], without: AbstractSet[str]) -> None:
    """Keep what `outputs` need of a sorted graph. The inputs `without` go; the outputs do not need them."""
    nodes, needed = needed_nodes(graph.node, outputs)
    needed |= {name for node in nodes for name in node.output}
    remaining = {
        "node": nodes,
        "input": [value for value in graph.input if value.name not in without and value.name in needed],
        "output": [value for value in graph.output if value.name in outputs],
        "initializer": [tensor for tensor in graph.initializer if tensor.name in needed],
        "sparse_initializer": [tensor for tensor in graph.sparse_initializer if tensor.values.name in needed],
        "value_info": [value for value in graph.value_info if value.name in needed],
        "quantization_annotation": [note for note in graph.quantization_annotation if note.tensor_name in needed],
    }
    for field, entries in remaining.items():
        graph.ClearField(field)
        getattr(graph, field).extend(entries)


def _unclear(
    inputs: Sequence[ValueInfoProto], needs: dict[str, set[str]], own_outputs: dict[str, list[str]]
) -> CannotAssessError:
    listed = ", ".join(describe_input(value) for value in inputs)
    if own_outputs:
        pairs = [f"{names[0]} needs {image} alone" for image, names in own_outputs.items()]
        rule = "it must be clear which of them takes the photos"
    else:
        pairs = [f"{name} needs {', '.join(sorted(used)) or 'none'}" for name, used in [*needs.items()][:SHOWN]]
        pairs += [f"… ({len(needs)} outputs)"] if len(needs) > SHOWN else []
        rule = "an output must need the image input alone"
    return CannotAssessError("; ".join([f"inputs are {listed}", *pairs, rule]), VISION_ALONE)
