"""Find what a graph does to its image input before the first layer: a normalisation that is baked in. Pure."""

from __future__ import annotations

import numpy as np
import onnx

from robustcheck_onnx.checker.evidence import GraphScaling

from .external import Weights
from .image_input import ImageInput
from .layers import Layers, needed_nodes, node_inputs
from .scaling_steps import SAME, Scaled, Step

SHAPE_ONLY = frozenset(("Shape", "Size"))


def find_scalings(
    proto: onnx.ModelProto, layers: Layers, image: ImageInput, weights: Weights, tensor: str
) -> tuple[GraphScaling, ...]:
    """Find the affine maps, channel by channel, from the image input to what the first layers before `tensor` read.

    Each is composed over everything on its way that acts on each channel alone: constants added, subtracted,
    multiplied, divided, one a channel or one for all, as large as the image too; BatchNormalization; a convolution
    whose outputs are one pixel of one channel each; casts, quantiser pairs, resizes, pads; channels picked, turned
    round and joined. So torchvision's `transform_input` (Gather, Mul, Add, Concat), which turns ImageNet's
    normalisation into 0.5/0.5, is no second normalisation but a part of one map, and whoever judges looks at what
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
        with np.errstate(all="ignore"):  # what is not finite in the end is no scaling
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
