"""Find a graph's image input, and how it scales the pixels.

A graph with several inputs is cut down to the outputs that need the image alone. A whole CLIP takes pixel values and
the tokens of texts; its image embedding needs only the pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from ...arrays import Array, GenericArray
from ...errors import CannotAssessError, UsageError
from ...text import frozen
from ..evidence import GraphScaling, PreprocessingFacts
from .ends import Constants
from .layers import FLOATS, Names, Shape, input_at, inputs_of, integer, integers, needed_nodes, show_shape, weights_in

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


MOST_READ = 4096  # of a small constant that is read: bounds, axes, a depthwise kernel of 31 by 31 px
MOST_PIXELS = 1 << 22  # values of a constant as large as the image: 3 channels of 1,182 by 1,182 px, 32 MB as float64
MOST_AXES = 64  # of a condition; NumPy's own limit
SAME = 1e-5  # relative difference at which values count as the same: float32 keeps 7 digits
COPIES = frozenset(("Expand", "Identity", "Cast", "CastLike"))


@frozen
class Scaled:
    """A tensor of scaled image channels. Each channel is factor · (a channel of the image input) + offset."""

    maps: Array
    """(3, channel): the input's channel, the factor and the offset of each of its channels"""
    axis: int | None
    """where its channels are; None where one was picked out of them, and there is no axis left"""
    rank: int
    quantised: bool = False
    """whether it holds whole numbers that stand for these values"""
    ops: Names = ()

    @property
    def n(self) -> int:
        """The number of its channels."""
        return len(self.maps[0])

    @property
    def does_nothing(self) -> bool:
        """Whether all values stay. Channels may be turned round, as for BGR."""
        return bool((self.maps[1] == 1).all() and not self.maps[2].any())

    def mapped(self, factor: Array | float, offset: Array | float, *ops: str) -> Scaled:
        """Return this tensor times `factor` plus `offset`, (channel,) each."""
        channels, factors, offsets = self.maps
        maps = np.array([channels, factors * factor, offsets * factor + offset])
        return replace(self, maps=maps, ops=(*self.ops, *ops))

    def selected(self, places: Sequence[int] | GenericArray, op: str) -> Scaled:
        """Return some of its channels, in another order perhaps."""
        return replace(self, maps=self.maps[:, [*places]], ops=(*self.ops, op))

    def like(self, other: Scaled) -> bool:
        """Whether another tensor has the same channels and nearly the same values."""
        (channels, *values), (channels_there, *values_there) = self.maps, other.maps
        same = self.does_nothing == other.does_nothing and np.array_equal(channels, channels_there)
        return same and np.allclose(values, values_there, rtol=SAME, atol=SAME * np.abs(values[0]).max())


@frozen
class Steps(Constants):
    """The nodes between the image and the first layer.

    A rule returns the scaled channels that a node makes. It returns None, or NumPy and the look-ups in it raise, for
    one that does more than scale channels, or that no runtime takes.
    """

    scaled: dict[str, Scaled]

    def outputs(self, node: NodeProto) -> dict[str, Scaled]:
        """Return the node's outputs as scaled channels. Empty for a node that does more than scale channels."""
        op = node.op_type
        try:
            if op == "Split":
                return self._split(node)
            if op == "Concat":
                result = self._joined(node)
            elif op == "Where":
                (condition,) = self._per_channel(node.input[0], Scaled(np.zeros((3, 1)), None, MOST_AXES))
                result = self.scaled.get(node.input[1 if condition else 2])
            else:
                (data,) = (name for name in node.input if name in self.scaled)
                others = {self._source(name) for name in node.input if name != data}
                followed = op in (RULES if data == node.input[0] else EITHER_FIRST)
                if not followed or not others.isdisjoint(self.layers.image_tensors):
                    return {}
                result = RULES[op](self, node, self.scaled[data])
        except (ValueError, LookupError, ZeroDivisionError):
            return {}
        return {} if result is None else {node.output[0]: result}

    def _source(self, name: str) -> str:
        """Return the constant from which `name` was copied. It was repeated or converted, to whatever shape or type."""
        while (maker := self.layers.producers.get(name)) is not None and maker.op_type in COPIES:
            if maker.op_type != "Expand" and self.layers.types.get(name) not in FLOATS:
                return name  # whole numbers are other values
            name = maker.input[0]
        return name

    def _values(self, name: str, most: int = MOST_READ) -> Array:
        """Read a constant of at most `most` finite numbers. Raises ValueError for anything else."""
        shape = self.layers.shape_of(name)
        is_constant = name not in self.layers.image_tensors and shape is not None and None not in shape
        values = self.value(name) if is_constant and math.prod(size or 0 for size in shape or ()) <= most else None
        if values is None or values.dtype.kind in "OSU" or not np.isfinite(values.astype(np.float64)).all():
            raise ValueError(name)
        return values.astype(np.float64)

    def _integers(self, node: NodeProto, at: int, absent: Sequence[int] | None = None) -> Sequence[int]:
        """Read a constant input as whole numbers. `absent` stands for one that is left out."""
        if absent is not None and not input_at(node, at):
            return absent
        return [int(value) for value in self._values(node.input[at]).ravel()]

    def _per_channel(self, name: str, x: Scaled) -> Array:
        """Return a constant's values per channel, (channel,).

        It holds one value, or one per channel along `x`'s axis of channels.

        It may be as large as the image, with the same value at every pixel of a channel.
        """
        values = self._values(self._source(name), MOST_PIXELS)
        axis = -1 if x.axis is None else x.axis - (x.rank - values.ndim)
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) if axis >= 0 else values.reshape(1, -1)
        first = rows[:, :1]
        if (values.ndim > x.rank and values.size > 1) or not np.abs(rows - first).max() <= SAME * np.abs(first).max():
            raise ValueError(name)
        return np.broadcast_to(first.ravel(), (x.n,))

    def computed(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow arithmetic with constants."""
        op, constant_first = node.op_type, node.input[0] not in self.scaled
        constants = [self._per_channel(name, x) for name in node.input if name not in self.scaled]
        if op in ("Add", "Sum"):
            return x.mapped(1.0, sum(constants, np.zeros(1)), op)
        (value,) = constants
        if op == "Sub":
            return x.mapped(-1.0, value, op) if constant_first else x.mapped(1.0, -value, op)
        if op == "Mul":
            return x.mapped(value, 0.0, op)
        return None if constant_first or not value.all() else x.mapped(1 / value, 0.0, op)

    def dequantised(self, node: NodeProto, x: Scaled) -> Scaled:
        """Follow a dequantiser. It is the other half of a pair, or scales bytes."""
        if x.quantised:  # the values themselves, but for rounding
            return replace(x, quantised=False)
        scale, *zero = (self._per_channel(name, x) for name in node.input[1:3])
        return x.mapped(scale, -scale * zero[0] if zero else 0.0, node.op_type)

    def batch_norm(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a BatchNormalization of channels."""
        parts = np.array([self._values(name) for name in node.input[1:5]])
        if x.axis != 1 or integer(node, "training_mode", 0) or parts.shape != (4, x.n):
            return None
        gain, bias, mean, variance = parts
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)  # ONNX's default
        factor = gain / np.sqrt(variance + epsilon)
        return x.mapped(factor, bias - mean * factor, node.op_type)

    def expanded(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow an Expand that keeps the axes. One grey channel may become several."""
        (length,) = self.layers.shape_of(node.input[1]) or ()
        if x.axis is None or length is None or length > x.rank:
            return None
        if x.n > 1:
            return x
        after = self.layers.shapes[node.output[0]]
        size = after[x.axis] if len(after) == x.rank else None
        return None if size is None else x.selected([0] * size, "Expand")

    def padded(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Pad that adds no channels. The pixels stay what they are."""
        axes = self._integers(node, 3, range(x.rank))
        pads = integers(node, "pads") or self._integers(node, 1)  # an attribute before opset 11
        longer = {
            axis % x.rank for axis, added in zip(axes, np.reshape(pads, (2, len(axes))).T, strict=True) if added.any()
        }
        return None if x.axis is None or x.axis in longer else x

    def one_tap(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a convolution that scales single pixels.

        Each output is one pixel of one input channel times a factor, and there are as many.
        """
        weight, groups = self._values(node.input[1]), integer(node, "group", 1)
        if (x.axis, x.rank, weight.ndim) != (1, 4, 4) or weight.shape[:2] != (x.n, x.n // groups):
            return None
        bias = self._values(node.input[2]).ravel() if input_at(node, 2) else np.zeros(x.n)
        taps = weight.reshape(x.n, -1)
        large = np.abs(taps) > SAME * np.abs(taps).max()
        at = np.argmax(large, axis=1)
        places = range(x.n) if groups == x.n else at // math.prod(weight.shape[2:])
        is_learned = groups not in (1, x.n) or sorted(places) != [*range(x.n)]  # a layer of one channel alone, say
        if is_learned or bias.shape != (x.n,) or not (np.count_nonzero(large, axis=1) == 1).all():
            return None
        return x.selected(places, node.op_type).mapped(taps[np.arange(x.n), at], bias)

    def moved(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow the channel axis through a Transpose, Unsqueeze or Squeeze."""
        marked = np.zeros([2 if axis == x.axis else 1 for axis in range(x.rank)])  # only its channels' axis is longer
        if node.op_type == "Transpose":
            marked = marked.transpose(integers(node, "perm"))
        else:
            axes = tuple(integers(node, "axes") or self._integers(node, 1))
            marked = np.expand_dims(marked, axes) if node.op_type == "Unsqueeze" else marked.sum(axis=axes)
        axis = marked.shape.index(2) if 2 in marked.shape else None
        return replace(x, axis=axis, rank=marked.ndim) if marked.ndim else None

    def reshaped(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Find the channel axis after a Reshape. It has their number, with as many values per channel after it."""
        before, after = (self.layers.shapes[name] for name in (node.input[0], node.output[0]))
        if x.axis is None or None in before[x.axis + 1 :]:
            return None
        for axis, size in enumerate(after):
            rests = before[x.axis + 1 :], after[axis + 1 :]
            pixels, pixels_after = (math.prod(size or 1 for size in rest) for rest in rests)
            if size == x.n and None not in rests[1] and pixels == pixels_after:
                return replace(x, axis=axis, rank=len(after))
        return None

    def picked(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Gather of channels."""
        indices = self._values(node.input[1]).astype(np.int64)
        if integer(node, "axis", 0) % x.rank != x.axis or indices.ndim > 1:
            return None
        result = x.selected(indices.ravel() % x.n, node.op_type)
        return result if indices.ndim else replace(result, axis=None, rank=x.rank - 1)

    def sliced(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Slice of channels. Other axes may be cut in any way."""
        starts, ends = self._integers(node, 1), self._integers(node, 2)  # attributes before opset 10
        axes, steps = self._integers(node, 3, range(len(starts))), self._integers(node, 4, [1] * len(starts))
        places = range(x.n)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if axis % x.rank == x.axis:
                places = places[start : None if step < 0 and end < -len(places) else end : step]
        return x.selected(places, node.op_type) if places else None

    def _joined(self, node: NodeProto) -> Scaled | None:
        """Join channels. Every branch must be scaled channels of the image."""
        parts = [self.scaled[name] for name in node.input]
        ((rank, _),) = {(part.rank, part.quantised) for part in parts}
        axis = integer(node, "axis", 1) % rank
        if any(part.axis not in (axis, None) or (part.axis is None and part.n > 1) for part in parts):
            return None
        maps = np.concatenate([part.maps for part in parts], axis=1)
        return replace(parts[0], maps=maps, axis=axis, ops=(*parts[0].ops, node.op_type))

    def _split(self, node: NodeProto) -> dict[str, Scaled]:
        """Split into one channel per output. No other split is followed."""
        x = self.scaled[node.input[0]]
        if integer(node, "axis", 0) % x.rank != x.axis or len(node.output) != x.n:
            return {}
        return {name: x.selected([place], "Split") for place, name in enumerate(node.output) if name}


EITHER_FIRST = frozenset(("Add", "Sum", "Sub", "Mul", "Div"))  # the constant may be the first input
RULES: dict[str, Callable[[Steps, NodeProto, Scaled], Scaled | None]] = {
    **dict.fromkeys(EITHER_FIRST, Steps.computed),
    **dict.fromkeys(("Identity", "Cast", "CastLike", "Dropout", "Resize", "Upsample"), lambda steps, node, x: x),
    **dict.fromkeys(("Transpose", "Unsqueeze", "Squeeze"), Steps.moved),
    "Neg": lambda steps, node, x: x.mapped(-1.0, 0.0, "Neg"),
    "QuantizeLinear": lambda steps, node, x: replace(x, quantised=True),
    "DequantizeLinear": Steps.dequantised,
    "BatchNormalization": Steps.batch_norm,
    "Conv": Steps.one_tap,
    "Expand": Steps.expanded,
    "Pad": Steps.padded,
    "Reshape": Steps.reshaped,
    "Gather": Steps.picked,
    "Slice": Steps.sliced,
}


def find_scalings(constants: Constants, image: ImageInput, tensor: str) -> tuple[GraphScaling, ...]:
    """Find the affine map of each image channel.

    It leads from the image input to what the first layers before `tensor` read.

    Each is composed over everything on its way that acts on each channel alone: constants added, subtracted,
    multiplied, divided, one a channel or one for all, as large as the image too; BatchNormalization; a convolution
    whose outputs are one pixel of one channel each; casts, quantiser pairs, resizes, pads; channels picked, turned
    round and joined. So torchvision's `transform_input` (Gather, Mul, Add, Concat), which turns ImageNet's
    normalisation into 0.5/0.5, is not a second normalisation but a part of one map, and whoever judges looks at what
    comes out. A first layer is whatever else reads the result: a convolution of many outputs is never taken for a
    normalisation, whatever its weights are.

    Args:
        constants: of the graph, its nodes in order. image: its input.
        tensor: the representation. Nodes that can't reach it say nothing.

    Returns:
        One where all branches scale the image alike; none where they do nothing to the values. Where they differ each
        map once, those that scale first, and the one that does nothing as factor 1 and offset 0. Branches that do not
        hold every channel, that have a factor of zero or values that are not finite are left out.
    """
    n = image.channels or 3
    maps = np.array([np.arange(n), np.ones(n), np.zeros(n)])
    scaled, ends = {image.name: Scaled(maps, 1 if image.layout == "NCHW" else 3, 4)}, list[Scaled]()
    steps = Steps(constants.proto, constants.layers, constants.weights, scaled)
    for node in needed_nodes(constants.proto.graph.node, [tensor])[0]:
        read = [scaled[name] for name in inputs_of(node) if name in scaled]
        of_type = node.op_type == "CastLike" and node.input[0] not in scaled
        if read and not of_type and node.op_type not in ("Shape", "Size"):
            with np.errstate(all="ignore"):  # what is not finite in the end is not a scaling
                outputs = steps.outputs(node)
            scaled |= outputs
            ends += [] if outputs else read
    if tensor in scaled:
        ends.append(scaled[tensor])
    distinct = list[Scaled]()
    for end in sorted(ends, key=lambda end: end.does_nothing):
        is_usable = {*end.maps[0]} == {*range(n)} and np.isfinite(end.maps).all() and end.maps[1].all()
        if is_usable and not any(end.like(other) for other in distinct):
            distinct.append(end)
    if not distinct or distinct[0].does_nothing:
        return ()
    return tuple(
        GraphScaling(channels=tuple(map(int, channels)), factor=tuple(factor), offset=tuple(offset), ops=end.ops)
        for end in distinct
        for channels, factor, offset in [end.maps.tolist()]
    )
