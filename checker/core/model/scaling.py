"""Find how a graph scales the pixels of its image input before its first layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from ...arrays import Array
from ...text import frozen
from ..evidence import GraphScaling
from .constants import Constants
from .image_input import ImageInput
from .layers import FLOATS, Shape
from .nodes import Names, input_at, inputs_of, integer, integers, needed_nodes

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
        """Return the number of its channels."""
        return len(self.maps[0])

    @property
    def does_nothing(self) -> bool:
        """Return whether all values stay. Channels may be turned round, as for BGR."""
        _, factors, offsets = self.maps
        return bool((factors == 1).all() and not offsets.any())

    def mapped(self, factor: Array | float, offset: Array | float = 0.0) -> Scaled:
        """Return this tensor times `factor` plus `offset`, (channel,) each."""
        channels, factors, offsets = self.maps
        return replace(self, maps=np.array([channels, factors * factor, offsets * factor + offset]))

    def selected(self, places: Iterable[int]) -> Scaled:
        """Return some of its channels, in another order perhaps."""
        return replace(self, maps=self.maps[:, [*places]])

    def after(self, op: str) -> Scaled:
        """Return the tensor with one more operator that made it."""
        return replace(self, ops=(*self.ops, op))

    def is_like(self, other: Scaled) -> bool:
        """Return whether another tensor has the same channels and nearly the same values."""
        if self.does_nothing != other.does_nothing or not np.array_equal(self.maps[0], other.maps[0]):
            return False
        tolerance = SAME * np.abs(self.maps[1]).max()
        return np.allclose(self.maps, other.maps, rtol=SAME, atol=tolerance)

    def record(self) -> GraphScaling:
        """Return the record of this scaling for the report."""
        channels, factor, offset = self.maps.tolist()
        channels = tuple(int(channel) for channel in channels)
        return GraphScaling(channels=channels, factor=tuple(factor), offset=tuple(offset), ops=self.ops)


@frozen
class Steps(Constants):
    """The nodes between the image and the first layer.

    A rule returns the scaled channels that a node makes. It returns None, or NumPy and the look-ups in it raise, for
    one that does more than scale channels, or that no runtime takes.
    """

    scaled: dict[str, Scaled]

    def outputs(self, node: NodeProto) -> dict[str, Scaled]:
        """Return the node's outputs as scaled channels: none for a node that does more than scale channels."""
        try:
            if node.op_type == "Split":
                return self._split(node)
            result = self._output(node)
        except (ValueError, LookupError, ZeroDivisionError):
            return {}
        return {} if result is None else {node.output[0]: result}

    def _output(self, node: NodeProto) -> Scaled | None:
        op = node.op_type
        if op == "Concat":
            return self._joined(node)
        if op == "Where":
            (condition,) = self._per_channel(node.input[0], Scaled(np.zeros((3, 1)), None, MOST_AXES))
            return self.scaled.get(node.input[1 if condition else 2])
        (data,) = (name for name in node.input if name in self.scaled)
        others = {self._source(name) for name in node.input if name != data}
        if not others.isdisjoint(self.layers.image_tensors):
            return None
        if data != node.input[0] and op not in EITHER_FIRST:
            return None
        x = self.scaled[data]
        result = RULES[op](self, node, x)
        if result is None or result.maps is x.maps:
            return result
        return result.after(op)

    def _source(self, name: str) -> str:
        """Return the constant of which `name` is a copy, repeated or converted to whatever shape or type."""
        while (maker := self.layers.producers.get(name)) is not None and maker.op_type in COPIES:
            if maker.op_type != "Expand" and self.layers.types.get(name) not in FLOATS:
                return name  # whole numbers are other values
            name = maker.input[0]
        return name

    def _values(self, name: str, most: int = MOST_READ) -> Array:
        """Read a constant of at most `most` finite numbers. Raises ValueError for anything else."""
        shape = self.layers.shape_of(name)
        if name in self.layers.image_tensors or shape is None or _n_values(shape, most + 1) > most:
            raise ValueError(name)
        values = self.value(name)
        if values is None or values.dtype.kind in "OSU" or not np.isfinite(values.astype(np.float64)).all():
            raise ValueError(name)
        return values.astype(np.float64)

    def _integers(self, node: NodeProto, at: int, absent: Sequence[int] | None = None) -> Sequence[int]:
        """Read a constant input as whole numbers, or return `absent` where it is left out."""
        if absent is not None and not input_at(node, at):
            return absent
        return [int(value) for value in self._values(node.input[at]).ravel()]

    def _per_channel(self, name: str, x: Scaled) -> Array:
        """Return a constant's values per channel, (channel,).

        The constant holds one value, or one per channel along `x`'s axis of channels. Of one that is as large as the
        image, all pixels of a channel must have the same value.
        """
        values = self._values(self._source(name), MOST_PIXELS)
        if values.ndim > x.rank and values.size > 1:
            raise ValueError(name)
        axis = -1 if x.axis is None else x.axis - (x.rank - values.ndim)
        if axis < 0:  # the constant has no such axis
            values = values[None]
            axis = 0
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        first = rows[:, :1]
        if not np.abs(rows - first).max() <= SAME * np.abs(first).max():
            raise ValueError(name)
        return np.broadcast_to(first.ravel(), (x.n,))

    def computed(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow arithmetic with constants."""
        op = node.op_type
        constant_first = node.input[0] not in self.scaled
        constants = [self._per_channel(name, x) for name in node.input if name not in self.scaled]
        if op in ("Add", "Sum"):
            return x.mapped(1.0, sum(constants, np.zeros(1)))
        (value,) = constants
        if op == "Mul":
            return x.mapped(value)
        if op == "Sub":
            return x.mapped(-1.0, value) if constant_first else x.mapped(1.0, -value)
        return None if constant_first or not value.all() else x.mapped(1 / value)

    def dequantised(self, node: NodeProto, x: Scaled) -> Scaled:
        """Follow a dequantiser, which is the other half of a pair or scales bytes."""
        if x.quantised:  # the values themselves, but for rounding
            return replace(x, quantised=False)
        scale, *zero = (self._per_channel(name, x) for name in node.input[1:3])
        return x.mapped(scale, -scale * zero[0] if zero else 0.0)

    def batch_norm(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a BatchNormalization of channels."""
        parts = np.array([self._values(name) for name in node.input[1:5]])
        if x.axis != 1 or integer(node, "training_mode", 0) or parts.shape != (4, x.n):
            return None
        gain, bias, mean, variance = parts
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)  # ONNX's default
        factor = gain / np.sqrt(variance + epsilon)
        return x.mapped(factor, bias - mean * factor)

    def expanded(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow an Expand that keeps the axes. One grey channel may become several."""
        (length,) = self.layers.shape_of(node.input[1]) or ()
        if x.axis is None or length is None or length > x.rank:
            return None
        if x.n > 1:
            return x
        after = self.layers.shapes[node.output[0]]
        size = after[x.axis] if len(after) == x.rank else None
        return None if size is None else x.selected([0] * size)

    def padded(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Pad that adds no channels: the pixels stay what they are."""
        axes = self._integers(node, 3, range(x.rank))
        pads = integers(node, "pads") or self._integers(node, 1)  # an attribute before opset 11
        is_longer = np.reshape(pads, (2, len(axes))).any(axis=0)
        longer = np.asarray(axes)[is_longer] % x.rank
        return None if x.axis is None or x.axis in longer else x

    def one_tap(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a convolution whose outputs, as many as its inputs, are one pixel of one channel times a factor."""
        weight = self._values(node.input[1])
        groups = integer(node, "group", 1)
        if (x.axis, x.rank, weight.ndim) != (1, 4, 4) or weight.shape[:2] != (x.n, x.n // groups):
            return None
        bias = self._values(node.input[2]).ravel() if input_at(node, 2) else np.zeros(x.n)
        taps = weight.reshape(x.n, -1)
        is_large = np.abs(taps) > SAME * np.abs(taps).max()
        rows, columns = np.nonzero(is_large)
        places = rows if groups == x.n else columns // math.prod(weight.shape[2:])
        every = [*range(x.n)]
        if groups not in (1, x.n) or bias.shape != (x.n,):
            return None
        if [*rows] != every or sorted(places) != every:  # learned: a layer of one channel alone, say
            return None
        return x.selected(places).mapped(taps[is_large], bias)

    def moved(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow the channel axis through a Transpose, Unsqueeze or Squeeze."""
        marked = np.zeros([2 if axis == x.axis else 1 for axis in range(x.rank)])  # only its channels' axis is longer
        if node.op_type == "Transpose":
            marked = marked.transpose(integers(node, "perm") or None)
        else:
            axes = tuple(integers(node, "axes") or self._integers(node, 1))
            marked = np.expand_dims(marked, axes) if node.op_type == "Unsqueeze" else marked.sum(axis=axes)
        axis = marked.shape.index(2) if 2 in marked.shape else None
        return replace(x, axis=axis, rank=marked.ndim) if marked.ndim else None

    def reshaped(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Find the channel axis after a Reshape: as many channels, with as many values per channel after them."""
        before = self.layers.shapes[node.input[0]]
        after = self.layers.shapes[node.output[0]]
        if x.axis is None or None in before[x.axis + 1 :]:
            return None
        pixels = _n_values(before[x.axis + 1 :])
        for axis, size in enumerate(after):
            if size == x.n and _n_values(after[axis + 1 :], -1) == pixels:
                return replace(x, axis=axis, rank=len(after))
        return None

    def picked(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Gather of channels."""
        indices = self._values(node.input[1]).astype(np.int64)
        if integer(node, "axis", 0) % x.rank != x.axis or indices.ndim > 1:
            return None
        result = x.selected(indices.ravel() % x.n)
        return result if indices.ndim else replace(result, axis=None, rank=x.rank - 1)

    def sliced(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Slice of channels. Other axes may be cut in any way."""
        starts = self._integers(node, 1)  # an attribute before opset 10
        ends = self._integers(node, 2)
        axes = self._integers(node, 3, range(len(starts)))
        steps = self._integers(node, 4, [1] * len(starts))
        places = range(x.n)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            goes_past_first = step < 0 and end < -len(places)
            if axis % x.rank == x.axis:
                places = places[start : None if goes_past_first else end : step]
        return x.selected(places) if places else None

    def _joined(self, node: NodeProto) -> Scaled | None:
        """Join channels. Every branch must be scaled channels of the image."""
        parts = [self.scaled[name] for name in node.input]
        ((rank, _),) = {(part.rank, part.quantised) for part in parts}
        axis = integer(node, "axis", 1) % rank
        if any(part.axis not in (axis, None) or (part.axis is None and part.n > 1) for part in parts):
            return None
        maps = np.concatenate([part.maps for part in parts], axis=1)
        return replace(parts[0], maps=maps, axis=axis).after(node.op_type)

    def _split(self, node: NodeProto) -> dict[str, Scaled]:
        """Split into one channel per output. No other split is followed."""
        x = self.scaled[node.input[0]]
        if integer(node, "axis", 0) % x.rank != x.axis or len(node.output) != x.n:
            return {}
        return {name: x.selected([place]).after("Split") for place, name in enumerate(node.output) if name}


def _n_values(shape: Shape, unknown: int = 0) -> int:
    """Return the number of values that a tensor has, `unknown` where a size is open."""
    return unknown if None in shape else math.prod(size or 0 for size in shape)


EITHER_FIRST = frozenset(("Add", "Sum", "Sub", "Mul", "Div"))  # the constant may be the first input
RULES: dict[str, Callable[[Steps, NodeProto, Scaled], Scaled | None]] = {
    **dict.fromkeys(EITHER_FIRST, Steps.computed),
    **dict.fromkeys(("Identity", "Cast", "CastLike", "Dropout", "Resize", "Upsample"), lambda steps, node, x: x),
    **dict.fromkeys(("Transpose", "Unsqueeze", "Squeeze"), Steps.moved),
    "Neg": lambda steps, node, x: x.mapped(-1.0),
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


def find_scalings(constants: Constants, image: ImageInput, tensor: str) -> tuple[GraphScaling, ...] | None:
    """Find the affine maps of the image's channels, from the image input to what the first layers before `tensor` read.

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
        hold every channel, that have a factor of zero or values that are not finite are left out. None where no branch
        is left, so that nothing is known.
    """
    n = image.channels or 3
    maps = np.array([np.arange(n), np.ones(n), np.zeros(n)])
    scaled = {image.name: Scaled(maps, axis=1 if image.layout == "NCHW" else 3, rank=4)}
    ends: list[Scaled] = []
    steps = Steps(constants.proto, constants.layers, constants.weights, scaled)
    for node in needed_nodes(constants.proto.graph.node, [tensor])[0]:
        read = [scaled[name] for name in inputs_of(node) if name in scaled]
        of_type = node.op_type == "CastLike" and node.input[0] not in scaled
        if read and not of_type and node.op_type not in ("Shape", "Size"):
            with np.errstate(all="ignore"):  # what is not finite in the end is not a scaling
                outputs = steps.outputs(node)
            scaled |= outputs
            if not outputs:
                ends += read
    if tensor in scaled:
        ends.append(scaled[tensor])
    distinct: list[Scaled] = []
    for end in sorted(ends, key=lambda end: end.does_nothing):
        channels, factors, _ = end.maps
        is_usable = {*channels} == {*range(n)} and factors.all() and np.isfinite(end.maps).all()
        if is_usable and not any(end.is_like(other) for other in distinct):
            distinct.append(end)
    if not distinct:
        return None
    if distinct[0].does_nothing:
        return ()
    return tuple(end.record() for end in distinct)
