"""Find the normalisation at the start of a graph.

It is what the graph does to its image input before the first layer. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from robustcheck_onnx.checker.arrays import Array
from robustcheck_onnx.checker.evidence import GraphScaling

from .ends import Constants
from .image_input import ImageInput
from .layers import integer, integers, needed_nodes, node_inputs

MOST_VALUES = 4096  # of a small constant that is read: bounds, axes, a depthwise kernel of 31 by 31 px
MOST_PIXELS = 1 << 22  # values of a constant as large as the image: 3 channels of 1,182 by 1,182 px, 32 MB as float64
MOST_AXES = 64  # of a condition; NumPy's own limit
SAME = 1e-5  # relative difference at which values count as the same: float32 keeps 7 digits
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

    @property
    def does_nothing(self) -> bool:
        """Whether all values stay. Channels may be turned round, as for BGR."""
        return bool((self.factor == 1).all() and not self.offset.any())

    def mapped(self, factor: Array | float, offset: Array | float, *ops: str) -> Scaled:
        """This tensor times `factor` plus `offset`, (channel,) each."""
        return replace(self, factor=self.factor * factor, offset=self.offset * factor + offset, ops=(*self.ops, *ops))

    def taken(self, places: Sequence[int], op: str) -> Scaled:
        """Some of its channels, in another order perhaps."""
        return replace(
            self,
            channels=tuple(self.channels[place] for place in places),
            factor=self.factor[list(places)],
            offset=self.offset[list(places)],
            ops=(*self.ops, op),
        )

    def along(self, axes: Sequence[bool]) -> Scaled:
        """This tensor with other axes. Each tells whether the channels are there."""
        return replace(self, axis=axes.index(True) if True in axes else None, rank=len(axes))


@dataclass(frozen=True)
class Step(Constants):
    """One node between the image and the first layer."""

    known: Mapping[str, Scaled]

    def of(self, node: NodeProto) -> dict[str, Scaled]:
        """Return the node's outputs as scaled channels. Empty for a node that does more than scale channels."""
        op, x = node.op_type, self.known.get("".join(node.input[:1]))
        if op == "Split":
            return self._split(node, x)
        made = None
        if op == "Concat":
            made = self._joined(node)
        elif op == "Where":
            made = self._chosen(node)
        elif op in (EITHER_FIRST if x is None else RULES):
            data = [name for name in node.input if name in self.known]
            others = {self._source(name) for name in node.input if name not in data}
            if len(data) == 1 and others.isdisjoint(self.layers.image_tensors):
                made = RULES[op](self, node, self.known[data[0]])
        return {} if made is None else {node.output[0]: made}

    def _source(self, name: str) -> str:
        """Return the constant from which `name` was copied. It was repeated or converted, to whatever shape or type."""
        while (maker := self.layers.producers.get(name)) is not None and maker.op_type in COPIES:
            if maker.op_type != "Expand" and self.layers.types.get(name) not in FLOAT_TYPES:
                return name  # whole numbers are other values
            name = maker.input[0]
        return name

    def _values(self, name: str, most: int = MOST_VALUES) -> Array | None:
        """Return a constant of at most `most` finite numbers. None for anything else."""
        shape = self.layers.shape_of(name)
        if name in self.layers.image_tensors or shape is None or None in shape:
            return None
        if int(np.prod([size or 0 for size in shape])) > most:
            return None
        values = self.value(name)
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

    def _integers(self, node: NodeProto, at: int, absent: Sequence[int] | None = None) -> Sequence[int] | None:
        """Return a constant input as whole numbers. `absent` where it is left out, None where it can't be read."""
        if at >= len(node.input) or not node.input[at]:
            return absent
        values = self._values(node.input[at])
        return None if values is None else [int(value) for value in values.ravel()]

    def computed(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow arithmetic with constants."""
        op, constant_first = node.op_type, node.input[0] not in self.known
        parts = [self._per_channel(name, x) for name in node.input if name not in self.known]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if op in ("Add", "Sum"):
            return x.mapped(1.0, sum(known, np.zeros(1)), op)
        if len(known) != 1:
            return None
        (value,) = known
        if op == "Sub":
            return x.mapped(-1.0, value, op) if constant_first else x.mapped(1.0, -value, op)
        if op == "Mul":
            return x.mapped(value, 0.0, op)
        return None if constant_first or not value.all() else x.mapped(1 / value, 0.0, op)

    def dequantised(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a dequantiser. It is the other half of a pair, or scales bytes."""
        if x.quantised:  # the values themselves, but for rounding
            return replace(x, quantised=False)
        scale = self._per_channel(node.input[1], x)
        zero = self._per_channel(node.input[2], x) if len(node.input) > 2 else np.zeros(len(x.channels))
        return None if scale is None or zero is None else x.mapped(scale, -scale * zero, node.op_type)

    def batch_norm(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a BatchNormalization of channels."""
        parts = [part for name in node.input[1:5] if (part := self._values(name)) is not None]
        if x.axis != 1 or integer(node, "training_mode", 0) or [part.shape for part in parts] != [x.factor.shape] * 4:
            return None
        gain, bias, mean, variance = parts
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)  # ONNX's default
        factor = gain / np.sqrt(variance + epsilon)
        return x.mapped(factor, bias - mean * factor, node.op_type)

    def expanded(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow an Expand that keeps the axes. One grey channel may become several."""
        length = self.layers.shape_of(node.input[1])
        if x.axis is None or length is None or len(length) != 1 or length[0] is None or length[0] > x.rank:
            return None
        if len(x.channels) > 1:
            return x
        after = self.layers.shapes.get(node.output[0])
        size = after[x.axis] if after and len(after) == x.rank else None
        return None if size is None else x.taken([0] * size, "Expand")

    def padded(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Pad that adds no channels. The pixels stay what they are."""
        pads = integers(node, "pads") or self._integers(node, 1)  # an attribute before opset 11
        axes = self._integers(node, 3, range(x.rank))
        if x.axis is None or pads is None or axes is None or len(pads) != 2 * len(axes):
            return None
        sides = zip(pads, pads[len(axes) :], axes, strict=False)
        return None if any((before or after) and axis % x.rank == x.axis for before, after, axis in sides) else x

    def one_tap(self, node: NodeProto, x: Scaled) -> Scaled | None:
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
        places = range(n) if groups == n else (at // (weight.shape[2] * weight.shape[3])).tolist()
        if sorted(places) != list(range(n)):  # a learned layer of one channel alone, say
            return None
        return x.taken(places, node.op_type).mapped(taps[np.arange(n), at], bias.ravel())

    def moved(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow the channel axis through a Transpose, Unsqueeze or Squeeze."""
        op, axes = node.op_type, [axis == x.axis for axis in range(x.rank)]
        if op == "Transpose":
            order = integers(node, "perm") or [*range(x.rank)][::-1]
            return x.along([axes[axis] for axis in order]) if sorted(order) == [*range(x.rank)] else None
        given = integers(node, "axes") or self._integers(node, 1)
        if given is None:
            return None
        rank = x.rank + len(given) * (op == "Unsqueeze")
        if rank < 1:
            return None
        changed = sorted({axis % rank for axis in given})
        if op == "Unsqueeze":
            for axis in changed:
                axes.insert(axis, False)
        else:
            axes = [is_channels for axis, is_channels in enumerate(axes) if axis not in changed]
        return x.along(axes) if axes else None

    def reshaped(self, node: NodeProto, x: Scaled) -> Scaled | None:
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

    def picked(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Gather of channels."""
        indices = self._values(node.input[1])
        if indices is None or integer(node, "axis", 0) % x.rank != x.axis or indices.ndim > 1:
            return None
        made = x.taken([int(index) % len(x.channels) for index in indices.ravel()], node.op_type)
        return made if indices.ndim else replace(made, axis=None, rank=x.rank - 1)

    def sliced(self, node: NodeProto, x: Scaled) -> Scaled | None:
        """Follow a Slice of channels. Other axes may be cut in any way."""
        starts, ends = self._integers(node, 1), self._integers(node, 2)
        if starts is None or ends is None:  # before opset 10 the bounds are attributes
            return None
        axes, steps = self._integers(node, 3, range(len(starts))), self._integers(node, 4, [1] * len(starts))
        if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
            return None
        places = range(len(x.channels))
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if axis % x.rank == x.axis:
                places = places[start : None if step < 0 and end < -len(places) else end : step]
        return x.taken(places, node.op_type) if places else None

    def _chosen(self, node: NodeProto) -> Scaled | None:
        """Return what a Where with a constant condition takes."""
        condition = self._per_channel(node.input[0], Scaled((0,), np.ones(1), np.zeros(1), None, MOST_AXES))
        return None if condition is None else self.known.get(node.input[1 if condition[0] else 2])

    def _joined(self, node: NodeProto) -> Scaled | None:
        """Join channels. Every branch must be scaled channels of the image."""
        parts = [self.known[name] for name in node.input if name in self.known]
        if (
            len(parts) < len(node.input)
            or len({(part.rank, part.quantised) for part in parts}) != 1
            or not parts[0].rank
        ):
            return None
        first, axis = parts[0], integer(node, "axis", 1) % parts[0].rank
        if any(part.axis not in (axis, None) or (part.axis is None and len(part.channels) > 1) for part in parts):
            return None
        return replace(
            first,
            channels=tuple(channel for part in parts for channel in part.channels),
            factor=np.concatenate([part.factor for part in parts]),
            offset=np.concatenate([part.offset for part in parts]),
            axis=axis,
            ops=(*first.ops, node.op_type),
        )

    def _split(self, node: NodeProto, x: Scaled | None) -> dict[str, Scaled]:
        """Split into one channel per output. No other split is followed."""
        if x is None or integer(node, "axis", 0) % x.rank != x.axis or len(node.output) != len(x.channels):
            return {}
        return {name: x.taken([place], "Split") for place, name in enumerate(node.output) if name}


EITHER_FIRST = frozenset(("Add", "Sum", "Sub", "Mul", "Div"))  # the constant may be the first input
RULES: dict[str, Callable[[Step, NodeProto, Scaled], Scaled | None]] = {
    **dict.fromkeys(EITHER_FIRST, Step.computed),
    **dict.fromkeys(("Identity", "Cast", "CastLike", "Dropout", "Resize", "Upsample"), lambda step, node, x: x),
    **dict.fromkeys(("Transpose", "Unsqueeze", "Squeeze"), Step.moved),
    "Neg": lambda step, node, x: x.mapped(-1.0, 0.0, "Neg"),
    "QuantizeLinear": lambda step, node, x: replace(x, quantised=True),
    "DequantizeLinear": Step.dequantised,
    "BatchNormalization": Step.batch_norm,
    "Conv": Step.one_tap,
    "Expand": Step.expanded,
    "Pad": Step.padded,
    "Reshape": Step.reshaped,
    "Gather": Step.picked,
    "Slice": Step.sliced,
}


SHAPE_ONLY = frozenset(("Shape", "Size"))


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
    axis = 1 if image.layout == "NCHW" else 3
    known = {image.name: Scaled(tuple(range(n)), np.ones(n), np.zeros(n), axis, 4)}
    ends = list[Scaled]()
    for node in needed_nodes(constants.proto.graph.node, tensor)[0]:
        read = [name for name in (node_inputs(node) if node.attribute else node.input) if name in known]
        of_type = node.op_type == "CastLike" and node.input[0] not in known
        if not read or of_type or node.op_type in SHAPE_ONLY:
            continue
        with np.errstate(all="ignore"):  # what is not finite in the end is not a scaling
            made = Step(constants.proto, constants.layers, constants.weights, known).of(node)
        known |= made
        if not made:
            ends += [known[name] for name in read]
    if tensor in known:
        ends.append(known[tensor])
    return _distinct([end for end in ends if set(end.channels) == set(range(n))])


def _distinct(ends: Sequence[Scaled]) -> tuple[GraphScaling, ...]:
    found = list[Scaled]()
    for end in sorted(ends, key=lambda end: end.does_nothing):
        is_usable = np.isfinite([end.factor, end.offset]).all() and end.factor.all()
        if is_usable and not any(_alike(end, other) for other in found):
            found.append(end)
    if not found or found[0].does_nothing:
        return ()
    return tuple(
        GraphScaling(channels=x.channels, factor=tuple(x.factor.tolist()), offset=tuple(x.offset.tolist()), ops=x.ops)
        for x in found
    )


def _alike(a: Scaled, b: Scaled) -> bool:
    near = SAME * np.abs(a.factor).max()
    pairs = ((a.factor, b.factor), (a.offset, b.offset))
    same = (a.channels, a.does_nothing) == (b.channels, b.does_nothing)
    return same and all(np.allclose(one, other, rtol=SAME, atol=near) for one, other in pairs)
