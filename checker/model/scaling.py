"""Find the normalisation at the start of a graph.

It is what the graph does to its image input before the first layer. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from robustcheck_onnx.checker.arrays import Array, Counts
from robustcheck_onnx.checker.evidence import GraphScaling

from .ends import constant
from .image_input import ImageInput
from .layers import Layers, integer, integers, needed_nodes, node_inputs
from .weights import Weights

MOST_VALUES = 4096  # of a small constant that is read: bounds, axes, a depthwise kernel of 31 by 31 px
MOST_PIXELS = 1 << 22  # values of a constant as large as the image: 3 channels of 1,182 by 1,182 px, 32 MB as float64
MOST_AXES = 64  # of a condition; NumPy's own limit
SAME = 1e-5  # relative difference at which values count as the same: float32 keeps 7 digits
KEPT = frozenset(("Identity", "Cast", "CastLike", "Dropout", "Resize", "Upsample"))  # each channel stays as it is
COPIES = frozenset(("Expand", "Identity", "Cast", "CastLike"))
FLOAT_TYPES = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))


@dataclass(frozen=True)
class Scaled:
    """A tensor of scaled image channels. Each channel is factor · (a channel of the image input) + offset."""

    channels: tuple[int, ...]
    """of each of its channels: the input's"""
    factor: Array
    offset: Array
    axis: int | None
    """where its channels are; None where one was picked out of them, and there is no axis left"""
    rank: int
    quantised: bool = False
    """whether it holds whole numbers that stand for these values"""
    ops: tuple[str, ...] = ()

    def mapped(self, op: str, factor: Array | float, offset: Array | float) -> Scaled:
        """This tensor times `factor` plus `offset`, (channel,) each."""
        new = self.factor * factor, self.offset * factor + offset
        return replace(self, factor=new[0], offset=new[1], ops=(*self.ops, *([op] if op else [])))

    def taken(self, op: str, places: Counts, axis: int | None, rank: int) -> Scaled:
        """Some of its channels, in another order perhaps."""
        channels = tuple(self.channels[place] for place in places)
        factor, offset = self.factor[places], self.offset[places]
        return Scaled(channels, factor, offset, axis, rank, self.quantised, (*self.ops, op))


@dataclass(frozen=True)
class Step:
    """One node between the image and the first layer."""

    proto: onnx.ModelProto
    layers: Layers
    weights: Weights
    known: Mapping[str, Scaled]

    def of(self, node: onnx.NodeProto) -> dict[str, Scaled]:
        """Return the node's outputs as scaled channels. Empty for a node that does more than scale channels."""
        if node.op_type == "Split":
            return self._split(node)
        made = self._first(node)
        return {} if made is None else {node.output[0]: made}

    def _first(self, node: onnx.NodeProto) -> Scaled | None:
        op = node.op_type
        if op == "Concat":
            return self._joined(node)
        if op == "Where":
            return self._chosen(node)
        data = [name for name in node.input if name in self.known]
        others = [self._source(name) for name in node.input if name not in data]
        if len(data) != 1 or any(name in self.layers.image_tensors for name in others):
            return None  # the other operand depends on the image too
        x = self.known[data[0]]
        if op in ("Add", "Sum"):
            return self._summed(node, x, others)
        if op in ("Sub", "Mul", "Div"):
            return self._arithmetic(node, x, constant_first=node.input[0] != data[0])
        if node.input[0] != data[0]:
            return None
        if op in KEPT:
            return x
        if op == "Neg":
            return x.mapped(op, -1.0, 0.0)
        if op == "QuantizeLinear":
            return replace(x, quantised=True)
        if op == "DequantizeLinear":
            return self._dequantised(node, x)
        if op == "BatchNormalization":
            return self._batch_norm(node, x)
        if op == "Conv":
            return self._one_tap(node, x)
        if op == "Expand":
            return self._expanded(node, x)
        if op == "Pad":
            return self._padded(node, x)
        if op in ("Transpose", "Unsqueeze", "Squeeze", "Reshape"):
            return self._moved(node, x)
        if op in ("Gather", "Slice"):
            return self._picked(node, x)
        return None

    def _source(self, name: str) -> str:
        """Return the constant from which `name` was copied. It was repeated or converted, to whatever shape or type."""
        while (maker := self.layers.producers.get(name)) is not None and maker.op_type in COPIES:
            if maker.op_type != "Expand" and self.layers.types.get(name) not in FLOAT_TYPES:
                return name  # whole numbers are other values
            name = maker.input[0]
        return name

    def _values(self, name: str, most: int = MOST_VALUES) -> Array | None:
        """Return a constant of at most `most` finite numbers. None for anything else."""
        shape = self.layers.constants.get(name, self.layers.shapes.get(name))
        if name in self.layers.image_tensors or shape is None or None in shape:
            return None
        if int(np.prod([size or 0 for size in shape])) > most:
            return None
        values = constant(self.proto, self.layers, name, self.weights)
        if values is None or values.dtype.kind in "OSU" or not np.isfinite(values.astype(np.float64)).all():
            return None
        return values.astype(np.float64)

    def _per_channel(self, name: str, x: Scaled) -> Array | None:
        """Return a constant's values per channel, (channel,).

        It holds one value, or one per channel along `x`'s axis of channels.

        It may be as large as the image, with the same value at every pixel of a channel.
        """
        n, values = len(x.channels), self._values(self._source(name), MOST_PIXELS)
        if values is None or not values.size:
            return None
        if values.size == 1:
            return np.full(n, values.ravel()[0])
        along = -1 if x.axis is None else x.axis - (x.rank - values.ndim)
        if values.ndim > x.rank or (along >= 0 and values.shape[along] not in (1, n)):
            return None
        rows = np.moveaxis(values, along, 0).reshape(values.shape[along], -1) if along >= 0 else values.reshape(1, -1)
        first = rows[:, :1]
        if not np.abs(rows - first).max() <= SAME * np.abs(first).max():
            return None
        return np.broadcast_to(first.ravel(), (n,)).copy()

    def _arithmetic(self, node: onnx.NodeProto, x: Scaled, *, constant_first: bool) -> Scaled | None:
        value = self._per_channel(node.input[0 if constant_first else 1], x)
        if value is None:
            return None
        op = node.op_type
        if op == "Mul":
            return x.mapped(op, value, 0.0)
        if op == "Sub":
            return x.mapped(op, -1.0, value) if constant_first else x.mapped(op, 1.0, -value)
        return None if constant_first or not value.all() else x.mapped(op, 1 / value, 0.0)

    def _dequantised(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        if x.quantised:  # the other half of a pair: the values themselves, but for rounding
            return replace(x, quantised=False)
        scale = self._per_channel(node.input[1], x)
        zero = self._per_channel(node.input[2], x) if len(node.input) > 2 else np.zeros(len(x.channels))
        return None if scale is None or zero is None else x.mapped(node.op_type, scale, -scale * zero)

    def _batch_norm(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        parts = [self._values(name) for name in node.input[1:5]]
        if (
            x.axis != 1
            or integer(node, "training_mode", 0)
            or any(part is None or part.shape != (len(x.channels),) for part in parts)
        ):
            return None
        gain, bias, mean, variance = (part for part in parts if part is not None)
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)  # ONNX's default
        factor = gain / np.sqrt(variance + epsilon)
        return x.mapped(node.op_type, factor, bias - mean * factor)

    def _summed(self, node: onnx.NodeProto, x: Scaled, others: list[str]) -> Scaled | None:
        offset = np.zeros(len(x.channels))
        for name in others:
            value = self._per_channel(name, x)
            if value is None:
                return None
            offset = offset + value
        return x.mapped(node.op_type, 1.0, offset)

    def _chosen(self, node: onnx.NodeProto) -> Scaled | None:
        """Return what a Where with a constant condition takes."""
        condition = self._per_channel(node.input[0], Scaled((0,), np.ones(1), np.zeros(1), None, MOST_AXES))
        return None if condition is None else self.known.get(node.input[1 if condition[0] else 2])

    def _expanded(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        """Follow an Expand that keeps the axes. One grey channel may become several."""
        length = self.layers.constants.get(node.input[1], self.layers.shapes.get(node.input[1]))
        if x.axis is None or length is None or len(length) != 1 or length[0] is None or length[0] > x.rank:
            return None
        if len(x.channels) > 1:
            return x
        after = self.layers.shapes.get(node.output[0])
        size = after[x.axis] if after and len(after) == x.rank else None
        return None if size is None else x.taken("Expand", np.zeros(size, np.int64), x.axis, x.rank)

    def _padded(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Pad that adds no channels. The pixels stay what they are."""
        given = integers(node, "pads")  # before opset 11
        pads = np.array(given) if given is not None else self._values(node.input[1]) if len(node.input) > 1 else None
        named = len(node.input) > 3 and node.input[3]
        axes = self._values(node.input[3]) if named else np.arange(x.rank)
        if x.axis is None or pads is None or axes is None or pads.size != 2 * axes.size:
            return None
        of_channels = axes.ravel().astype(np.int64) % x.rank == x.axis
        return None if pads.reshape(2, -1)[:, of_channels].any() else x

    def _one_tap(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        """Follow a convolution that scales single pixels.

        Each output is one pixel of one input channel times a factor, and there are as many.
        """
        n, weight = len(x.channels), self._values(node.input[1])
        groups = integer(node, "group", 1)
        if x.axis != 1 or x.rank != 4 or weight is None or weight.ndim != 4 or groups not in (1, n):
            return None
        if weight.shape[:2] != (n, n // groups) or not weight.size:
            return None
        bias = self._values(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(n)
        taps = weight.reshape(n, -1)
        large = np.abs(taps) > SAME * np.abs(taps).max()
        if bias is None or bias.size != n or not (np.count_nonzero(large, axis=1) == 1).all():
            return None
        at = np.argmax(large, axis=1)
        places = np.arange(n) if groups == n else at // (weight.shape[2] * weight.shape[3])
        if sorted(places) != list(range(n)):  # a learned layer of one channel alone, say
            return None
        return x.taken(node.op_type, places, x.axis, x.rank).mapped("", taps[np.arange(n), at], bias.ravel())

    def _moved(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        """Follow the channel axis through a change of shape."""
        op = node.op_type
        if op == "Transpose":
            order = integers(node, "perm")
            order = list(reversed(range(x.rank))) if order is None else order
            if sorted(order) != list(range(x.rank)):
                return None
            return replace(x, axis=None if x.axis is None else order.index(x.axis))
        if op == "Reshape":
            return self._reshaped(node, x)
        axes = integers(node, "axes")
        if axes is None:
            values = self._values(node.input[1]) if len(node.input) > 1 and node.input[1] else None
            if values is None:
                return None
            axes = [int(value) for value in values.ravel()]
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

    def _reshaped(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        """Find the channel axis after a Reshape. It has their number, with as many values per channel after it."""
        before, after = self.layers.shapes.get(node.input[0]), self.layers.shapes.get(node.output[0])
        if x.axis is None or before is None or after is None or None in before[x.axis + 1 :]:
            return None
        behind = np.prod([size or 1 for size in before[x.axis + 1 :]])
        for axis, size in enumerate(after):
            rest = after[axis + 1 :]
            if size == len(x.channels) and None not in rest and np.prod([each or 1 for each in rest]) == behind:
                return replace(x, axis=axis, rank=len(after))
        return None

    def _picked(self, node: onnx.NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Gather or Slice of channels. Other axes may be cut in any way."""
        op = node.op_type
        if op == "Gather":
            axis = integer(node, "axis", 0) % x.rank
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
        for start, end, along, step in zip(starts, ends, axes, steps, strict=True):
            if x.axis is not None and int(along) % x.rank == x.axis:
                stop = None if step < 0 and end < -len(places) else int(end)
                places = places[int(start) : stop : int(step)]
        return x.taken(op, places, x.axis, x.rank) if len(places) else None

    def _joined(self, node: onnx.NodeProto) -> Scaled | None:
        """Join channels. Every branch must be scaled channels of the image."""
        parts = [self.known.get(name) for name in node.input]
        some = [part for part in parts if part is not None]
        axis = integer(node, "axis", 1)
        if len(some) < len(parts) or len({(part.rank, part.quantised) for part in some}) != 1:
            return None
        axis %= some[0].rank
        if any(part.axis not in (axis, None) or (part.axis is None and len(part.channels) > 1) for part in some):
            return None
        return Scaled(
            tuple(channel for part in some for channel in part.channels),
            np.concatenate([part.factor for part in some]),
            np.concatenate([part.offset for part in some]),
            axis,
            some[0].rank,
            some[0].quantised,
            (*some[0].ops, node.op_type),
        )

    def _split(self, node: onnx.NodeProto) -> dict[str, Scaled]:
        """Split into one channel per output. No other split is followed."""
        x = self.known.get(node.input[0])
        axis = integer(node, "axis", 0)
        if x is None or axis % x.rank != x.axis or len(node.output) != len(x.channels):
            return {}
        return {
            name: x.taken("Split", np.array([place]), x.axis, x.rank) for place, name in enumerate(node.output) if name
        }


SHAPE_ONLY = frozenset(("Shape", "Size"))


def find_scalings(
    proto: onnx.ModelProto, layers: Layers, image: ImageInput, weights: Weights, tensor: str
) -> tuple[GraphScaling, ...]:
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
        proto: the graph, its nodes in order. layers: the same graph, indexed. image: its input.
        weights: where weights lie that `proto` does not hold.
        tensor: the representation. Nodes that can't reach it say nothing.

    Returns:
        One where all branches scale the image alike; none where they do nothing to the values. Where they differ each
        map once, those that scale first, and the one that does nothing as factor 1 and offset 0. Branches that do not
        hold every channel, that have a factor of zero or values that are not finite are left out.
    """
    n = image.channels or 3
    axis = 1 if image.layout == "NCHW" else 3
    known = {image.name: Scaled(tuple(range(n)), np.ones(n), np.zeros(n), axis, 4)}
    ends = list[Scaled]()
    for node in needed_nodes(proto.graph.node, tensor)[0]:
        read = [name for name in (node_inputs(node) if node.attribute else node.input) if name in known]
        of_type = node.op_type == "CastLike" and node.input[0] not in known
        if not read or of_type or node.op_type in SHAPE_ONLY:
            continue
        with np.errstate(all="ignore"):  # what is not finite in the end is not a scaling
            made = Step(proto, layers, weights, known).of(node)
        known |= made
        if not made:
            ends += [known[name] for name in read]
    if tensor in known:
        ends.append(known[tensor])
    return _distinct([end for end in ends if set(end.channels) == set(range(n))])


def _distinct(ends: list[Scaled]) -> tuple[GraphScaling, ...]:
    found, plain = list[Scaled](), list[Scaled]()
    for end in ends:
        if not np.isfinite([end.factor, end.offset]).all() or not end.factor.all():
            continue
        does_nothing = (end.factor == 1).all() and not end.offset.any()  # channels may be turned round, as for BGR
        if not any(_alike(end, other) for other in (plain if does_nothing else found)):
            (plain if does_nothing else found).append(end)
    return tuple(_record(end) for end in (*found, *plain)) if found else ()


def _alike(a: Scaled, b: Scaled) -> bool:
    near = SAME * np.abs(a.factor).max()
    pairs = ((a.factor, b.factor), (a.offset, b.offset))
    return a.channels == b.channels and all(np.allclose(one, other, rtol=SAME, atol=near) for one, other in pairs)


def _record(end: Scaled) -> GraphScaling:
    return GraphScaling(
        channels=end.channels,
        factor=tuple(float(value) for value in end.factor),
        offset=tuple(float(value) for value in end.offset),
        ops=end.ops,
    )
