"""Find what a graph does to its image input before the first layer: a normalisation that is baked in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from robustcheck_onnx.checker.evidence import GraphScaling

from .basis import constant
from .external import Weights
from .image_input import ImageInput
from .layers import Layers, node_inputs

Floats = NDArray[np.float64]
MOST_VALUES = 64  # of a constant that is read: three channels, and the starts, ends and axes of a slice
SAME = 1e-5  # relative difference at which two branches count as scaled alike: float32 keeps 7 digits
KEPT = frozenset(("Identity", "Cast", "CastLike", "Dropout", "Resize", "Upsample"))  # each channel stays as it is
SHAPE_ONLY = frozenset(("Shape", "Size"))


@dataclass(frozen=True)
class _Scaled:
    """A tensor of which each channel is factor · (a channel of the image input) + offset."""

    channels: tuple[int, ...]
    """of each of its channels: the input's"""
    factor: Floats
    offset: Floats
    axis: int | None
    """where its channels are; None where one was picked out of them, and there is no axis left"""
    rank: int
    quantised: bool = False
    """whether it holds whole numbers that stand for these values"""
    ops: tuple[str, ...] = ()

    def mapped(self, op: str, factor: Floats, offset: Floats) -> _Scaled:
        """This tensor times `factor` plus `offset`, (channel,) each."""
        new = self.factor * factor, self.offset * factor + offset
        return replace(self, factor=new[0], offset=new[1], ops=(*self.ops, *([op] if op else [])))

    def taken(self, op: str, places: NDArray[np.int64], axis: int | None, rank: int) -> _Scaled:
        """Some of its channels, in another order perhaps."""
        channels = tuple(self.channels[place] for place in places)
        factor, offset = self.factor[places], self.offset[places]
        return _Scaled(channels, factor, offset, axis, rank, self.quantised, (*self.ops, op))


def find_scaling(proto: onnx.ModelProto, layers: Layers, image: ImageInput, weights: Weights) -> GraphScaling | None:
    """Find the affine map, channel by channel, from the image input to what enters the graph's first layer.

    It is composed over everything between them that acts on each channel alone: constants added, subtracted,
    multiplied, divided, one a channel or one for all; BatchNormalization; a 1×1 convolution that mixes no channels;
    casts, quantiser pairs, resizes; channels picked, turned round and joined. So torchvision's `transform_input`
    (Gather, Mul, Add, Concat), which turns ImageNet's normalisation into 0.5/0.5, is no second normalisation but a
    part of one map, and whoever judges looks at what comes out. The first layer is whatever else reads the result: a
    convolution of many outputs is never taken for a normalisation, whatever its weights are.

    Args:
        proto: the graph, its nodes in order. layers: the same graph, indexed. image: its input.
        weights: where weights lie that `proto` does not hold.

    Returns:
        None where the graph does nothing to the values, and where it can't be told: branches that scale the image
        in different ways, a factor of zero, values that are not finite.
    """
    n = image.channels or 3
    axis = 1 if image.layout == "NCHW" else 3
    plain = _Scaled(tuple(range(n)), np.ones(n), np.zeros(n), axis, 4)
    known, ends = {image.name: plain}, list[_Scaled]()
    for node in proto.graph.node:
        read = [name for name in (node_inputs(node) if node.attribute else node.input) if name in known]
        if not read or node.op_type in SHAPE_ONLY:
            continue
        with np.errstate(all="ignore"):  # what is not finite in the end is no scaling
            made = _Step(proto, layers, weights, known).of(node)
        known |= made
        if not made:
            ends += [known[name] for name in read]
    ends += [known[output.name] for output in proto.graph.output if output.name in known]
    return _agreed(ends)


def _agreed(ends: list[_Scaled]) -> GraphScaling | None:
    first = ends[0] if ends else None
    if first is None or any(end.channels != first.channels for end in ends):
        return None
    values = np.array([[end.factor, end.offset] for end in ends])
    if not np.isfinite(values).all() or (values[:, 0] == 0).any():
        return None
    if not np.allclose(values, values[0], rtol=SAME, atol=SAME * np.abs(values[0, 0]).max()):
        return None
    plain = np.array_equal(values[0, 0], np.ones(len(first.channels))) and not values[0, 1].any()
    if plain:  # channels may be turned round, as for BGR: no scaling
        return None
    return GraphScaling(
        channels=first.channels,
        factor=tuple(float(value) for value in first.factor),
        offset=tuple(float(value) for value in first.offset),
        ops=first.ops,
    )


@dataclass(frozen=True)
class _Step:
    """One node on the way from the image to the first layer."""

    proto: onnx.ModelProto
    layers: Layers
    weights: Weights
    known: Mapping[str, _Scaled]

    def of(self, node: onnx.NodeProto) -> dict[str, _Scaled]:
        """What the node's outputs are; empty for a node that does more than scale channels."""
        if node.op_type == "Split":
            return self._split(node)
        made = self._first(node)
        return {} if made is None else {node.output[0]: made}

    def _first(self, node: onnx.NodeProto) -> _Scaled | None:
        op = node.op_type
        if op == "Concat":
            return self._joined(node)
        data = [name for name in node.input if name in self.known]
        if len(data) != 1 or any(name in self.layers.image_tensors for name in node.input if name not in data):
            return None  # the other operand depends on the image too
        x = self.known[data[0]]
        if op in ("Add", "Sub", "Mul", "Div"):
            return self._arithmetic(node, x, constant_first=node.input[0] != data[0])
        if node.input[0] != data[0]:
            return None
        if op in KEPT:
            return x
        if op == "Neg":
            return x.mapped(op, np.array(-1.0), np.array(0.0))
        if op == "QuantizeLinear":
            return replace(x, quantised=True)
        if op == "DequantizeLinear":
            return self._dequantised(node, x)
        if op == "BatchNormalization":
            return self._batch_norm(node, x)
        if op == "Conv":
            return self._pointwise(node, x)
        if op in ("Transpose", "Unsqueeze", "Squeeze", "Reshape"):
            return self._moved(node, x)
        if op in ("Gather", "Slice"):
            return self._picked(node, x)
        return None

    def _values(self, name: str) -> Floats | None:
        """Read a small constant; None for what is none."""
        shape = self.layers.constants.get(name, self.layers.shapes.get(name))
        if name in self.layers.image_tensors or shape is None or None in shape:
            return None
        if int(np.prod([size or 0 for size in shape])) > MOST_VALUES:
            return None
        values = constant(self.proto, self.layers, name, self.weights)
        return None if values is None or values.dtype.kind in "OSU" else values.astype(np.float64)

    def _per_channel(self, name: str, x: _Scaled) -> Floats | None:
        """Read a constant that holds one value, or one a channel along `x`'s axis of channels, as (channel,)."""
        values = self._values(name)
        if values is None or not values.size:
            return None
        if values.size == 1:
            return np.full(len(x.channels), values.ravel()[0])
        if x.axis is None or values.ndim > x.rank or values.size != len(x.channels):
            return None
        along = x.axis - (x.rank - values.ndim)
        return values.ravel() if along >= 0 and values.shape[along] == values.size else None

    def _arithmetic(self, node: onnx.NodeProto, x: _Scaled, *, constant_first: bool) -> _Scaled | None:
        value = self._per_channel(node.input[0 if constant_first else 1], x)
        if value is None:
            return None
        one, none, op = np.array(1.0), np.array(0.0), node.op_type
        if op == "Add":
            return x.mapped(op, one, value)
        if op == "Mul":
            return x.mapped(op, value, none)
        if op == "Sub":
            return x.mapped(op, -one, value) if constant_first else x.mapped(op, one, -value)
        return None if constant_first or not value.all() else x.mapped(op, 1 / value, none)

    def _dequantised(self, node: onnx.NodeProto, x: _Scaled) -> _Scaled | None:
        if x.quantised:  # the other half of a pair: the values themselves, but for rounding
            return replace(x, quantised=False)
        scale = self._per_channel(node.input[1], x)
        zero = self._per_channel(node.input[2], x) if len(node.input) > 2 else np.zeros(len(x.channels))
        return None if scale is None or zero is None else x.mapped(node.op_type, scale, -scale * zero)

    def _batch_norm(self, node: onnx.NodeProto, x: _Scaled) -> _Scaled | None:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        parts = [self._values(name) for name in node.input[1:5]]
        training = "training_mode" in attributes and attributes["training_mode"].i
        if x.axis != 1 or training or any(part is None or part.shape != (len(x.channels),) for part in parts):
            return None
        gain, bias, mean, variance = (part for part in parts if part is not None)
        epsilon = attributes["epsilon"].f if "epsilon" in attributes else 1e-5  # ONNX's default
        factor = gain / np.sqrt(variance + epsilon)
        return x.mapped(node.op_type, factor, bias - mean * factor)

    def _pointwise(self, node: onnx.NodeProto, x: _Scaled) -> _Scaled | None:
        """Read a 1×1 convolution of which each output is one input channel times a factor, and as many as those."""
        n, weight = len(x.channels), self._values(node.input[1])
        attributes = {attribute.name: attribute for attribute in node.attribute}
        groups = attributes["group"].i if "group" in attributes else 1
        if x.axis != 1 or weight is None or groups not in (1, n) or weight.shape != (n, n // groups, 1, 1):
            return None
        if any(
            set(attributes[name].ints) - {plain} for name, plain in (("strides", 1), ("pads", 0)) if name in attributes
        ):
            return None
        matrix = np.diag(weight.ravel()) if groups == n else weight.reshape(n, n)
        bias = self._values(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(n)
        if bias is None or bias.size != n or not (np.count_nonzero(matrix, axis=1) == 1).all():
            return None
        places = np.argmax(matrix != 0, axis=1)
        if sorted(places) != list(range(n)):  # a learned layer of one channel alone, say
            return None
        return x.taken(node.op_type, places, x.axis, x.rank).mapped("", matrix[np.arange(n), places], bias.ravel())

    def _moved(self, node: onnx.NodeProto, x: _Scaled) -> _Scaled | None:
        """Follow the axis of channels through a change of shape."""
        op = node.op_type
        if op == "Transpose":
            orders = [tuple(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
            order = orders[0] if orders else tuple(reversed(range(x.rank)))
            if sorted(order) != list(range(x.rank)):
                return None
            return replace(x, axis=None if x.axis is None else order.index(x.axis))
        if op == "Reshape":
            return self._reshaped(node, x)
        given = [list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"]
        values = self._values(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        axes = given[0] if given else None if values is None else [int(value) for value in values.ravel()]
        if axes is None:
            return None
        rank = x.rank + len(axes) * (1 if op == "Unsqueeze" else -1)
        if rank < 1:
            return None
        at = {axis % (rank if op == "Unsqueeze" else x.rank) for axis in axes}
        if x.axis is None:
            return replace(x, rank=rank)
        if op == "Unsqueeze":
            return replace(x, axis=[axis for axis in range(rank) if axis not in at][x.axis], rank=rank)
        left = [axis for axis in range(x.rank) if axis not in at]
        return replace(x, axis=left.index(x.axis) if x.axis in left else None, rank=rank)

    def _reshaped(self, node: onnx.NodeProto, x: _Scaled) -> _Scaled | None:
        """Find the channels behind a Reshape: an axis of their number, with as many values a channel after it."""
        before, after = self.layers.shapes.get(node.input[0]), self.layers.shapes.get(node.output[0])
        if x.axis is None or before is None or after is None or None in before[x.axis + 1 :]:
            return None
        behind = np.prod([size or 1 for size in before[x.axis + 1 :]])
        for axis, size in enumerate(after):
            rest = after[axis + 1 :]
            if size == len(x.channels) and None not in rest and np.prod([each or 1 for each in rest]) == behind:
                return replace(x, axis=axis, rank=len(after))
        return None

    def _picked(self, node: onnx.NodeProto, x: _Scaled) -> _Scaled | None:
        """Take the channels that a Gather or a Slice picks; other axes may be cut as they like."""
        op = node.op_type
        if op == "Gather":
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0) % x.rank
            indices = self._values(node.input[1])
            if indices is None or axis != x.axis or indices.ndim > 1:
                return None
            places = indices.astype(np.int64).ravel() % len(x.channels)
            return x.taken(op, places, None if indices.ndim == 0 else axis, x.rank - (indices.ndim == 0))
        parts = [self._values(name) if name else None for name in node.input[1:5]]
        unread = [name for name, part in zip(node.input[1:5], parts, strict=True) if name and part is None]
        if len(parts) < 2 or parts[0] is None or parts[1] is None or unread:
            return None  # before opset 10 the bounds are attributes
        starts, ends = parts[0].ravel(), parts[1].ravel()
        axes = parts[2].ravel() if len(parts) > 2 and parts[2] is not None else np.arange(len(starts))
        steps = parts[3].ravel() if len(parts) > 3 and parts[3] is not None else np.ones(len(starts))
        if not len(starts) == len(ends) == len(axes) == len(steps) or not steps.all():
            return None
        places = np.arange(len(x.channels))
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if x.axis is not None and int(axis) % x.rank == x.axis:
                stop = None if step < 0 and end < -len(places) else int(end)
                places = places[int(start) : stop : int(step)]
        return x.taken(op, places, x.axis, x.rank) if len(places) else None

    def _joined(self, node: onnx.NodeProto) -> _Scaled | None:
        """Join channels; every branch must be scaled channels of the image."""
        parts = [self.known.get(name) for name in node.input]
        some = [part for part in parts if part is not None]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if len(some) < len(parts) or len({(part.rank, part.quantised) for part in some}) != 1:
            return None
        axis %= some[0].rank
        if any(part.axis not in (axis, None) or (part.axis is None and len(part.channels) > 1) for part in some):
            return None
        return _Scaled(
            tuple(channel for part in some for channel in part.channels),
            np.concatenate([part.factor for part in some]),
            np.concatenate([part.offset for part in some]),
            axis,
            some[0].rank,
            some[0].quantised,
            (*some[0].ops, node.op_type),
        )

    def _split(self, node: onnx.NodeProto) -> dict[str, _Scaled]:
        """Take the channels apart, one an output; no other split is followed."""
        x = self.known.get(node.input[0])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if x is None or axis % x.rank != x.axis or len(node.output) != len(x.channels):
            return {}
        return {
            name: x.taken("Split", np.array([place]), x.axis, x.rank) for place, name in enumerate(node.output) if name
        }
