"""Choose how a tensor is pooled to one representation per image, and pool it."""

import math
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import CannotAssessError, UsageError
from ...text import quoted
from .layer_end import n_longer
from .layers import ELEMENTWISE, LINEAR, POOL, Layers, Shape, Sizes, show_shape
from .nodes import integer, integers, op_set

POOLS = {
    "none": ("none",),
    "cls": ("token_cls",),
    "mean": ("spatial_mean", "token_mean"),
    "token_cls": ("token_cls",),
    "token_mean": ("token_mean",),
    "spatial_mean": ("spatial_mean",),
}
"""by what a user types, the pools that it can mean"""
KEEPS_AXES = ELEMENTWISE | op_set("Concat HardSwish Gelu LeakyRelu Dropout Identity")
FEATURE_AXIS_AFTER: dict[Sizes, int] = {(0, 3, 1, 2): 1, (0, 2, 3, 1): -1}  # of a Transpose with this order of axes
RANKS = {"none": 2, "spatial_mean": 4, "token_cls": 3, "token_mean": 3}  # axes of the tensor before pooling


class Pooling(NamedTuple):
    """How a tensor becomes (image, feature)."""

    pool: str
    why: str
    feature_axis: int = -1
    assumed: bool = False


def choose_pool(
    layers: Layers, tensor: str, shape: Shape | None, crossed: AbstractSet[str] = frozenset(), *, where: str = ""
) -> Pooling:
    """Choose the pooling that a tensor needs: a mean over space or tokens, the class token, or none.

    `crossed` are the ops between a linear head and the output: they show what the model itself does; `where` names the
    file in messages.

    Raises:
        CannotAssessError: the tensor has 1 axis, or more than 4.
    """
    if shape is None or is_vector(shape):
        on_axis_1 = shape is not None and len(shape) > 2 and shape[1] != 1
        return Pooling("none", "", 1 if on_axis_1 else -1)
    if len(shape) == 4:
        axis = _channel_axis(layers, tensor)
        axis_name = "the last axis" if axis == -1 else "axis 1"
        return Pooling("spatial_mean", f"mean over height and width, features on {axis_name}", axis or 1, axis is None)
    if len(shape) != 3:
        raise CannotAssessError(
            f"{where}: tensor {tensor!r} has shape {show_shape(shape)}; 2 to 4 axes are needed, the image first",
            f"robustcheck inspect {quoted(where)} names other tensors; choose one with --tensor",
        )
    if "ReduceMean" in crossed:
        return Pooling("token_mean", "mean over tokens, as the model's head does")
    if {"Gather", "Slice"} & crossed:
        return Pooling("token_cls", "first token, as the model's head does")
    tokens = shape[1]
    if _has_class_token(layers):
        return Pooling("token_cls", "first of the tokens: the graph puts a learned class token there")
    if tokens is not None and math.isqrt(tokens) ** 2 == tokens:
        return Pooling("token_mean", f"mean over {tokens} tokens: a square grid without class token")
    if tokens is not None and math.isqrt(tokens - 1) ** 2 == tokens - 1:
        return Pooling("token_cls", f"first of {tokens} tokens: one more than a square grid", assumed=True)
    return Pooling("token_mean", "mean over tokens: no class token was found", assumed=True)


def is_vector(shape: Shape) -> bool:
    """Return whether a shape is (image, feature), further axes of length 1 allowed."""
    if len(shape) == 2:
        return True
    return n_longer(shape[1:]) == 1 and None not in shape[1:]


def user_pool(pool: str, shape: Shape | None, tensor: str, where: str) -> str:
    """Return the pool that a user's word names. `where` names the file.

    Raises:
        UsageError: no such pool, or one that does not fit the tensor's axes.
    """
    if pool not in POOLS:
        near = get_close_matches(pool.lower(), POOLS, 1) or ["mean"]
        raise UsageError(f"--pool is {pool!r}; it must be one of {', '.join(POOLS)}", f"--pool {near[0]}")
    choices = POOLS[pool]
    if shape is None:
        return choices[-1]
    for choice in choices:
        if RANKS[choice] == len(shape) or (choice == "none" and is_vector(shape)):
            return choice
    hints = {2: "--pool none", 3: "--pool cls or --pool mean", 4: "--pool mean"}
    raise UsageError(
        f"{where}: --pool is {pool!r}; tensor {tensor!r} of shape {show_shape(shape)} has other axes",
        hints.get(len(shape), "leave out --pool"),
    )


def apply_pool(values: NDArray[Any], pool: str, feature_axis: int) -> NDArray[Any]:
    """Pool to (image, feature), with means in float64 and selections in the dtype of the values.

    `values` is (image, feature), with further axes of length 1 or without, (image, token, feature) or a feature map
    with features on `feature_axis`.

    Raises:
        CannotAssessError: the array has another number of axes than the pool needs.
    """
    if pool == "none" and values.ndim > 2 and is_vector(values.shape):
        return np.ascontiguousarray(values.reshape(len(values), -1))
    if values.ndim != RANKS[pool]:
        raise CannotAssessError(
            f"representation has shape {values.shape}; pool {pool} needs {RANKS[pool]} axes",
            "--pool cls or --pool mean",
        )
    if pool == "token_cls":
        return np.ascontiguousarray(values[:, 0])
    if pool == "token_mean":
        return np.asarray(values.mean(axis=1, dtype=np.float64))
    if pool == "spatial_mean":
        features_last = np.moveaxis(values, feature_axis, -1)
        return np.asarray(features_last.mean(axis=(1, 2), dtype=np.float64))
    return values


def _channel_axis(layers: Layers, tensor: str) -> int | None:
    """Return the feature axis of a 4-D tensor, by the layer that made it: None where that does not show."""
    while (node := layers.producers.get(tensor)) is not None:
        op = node.op_type
        if op in ("MatMul", "Gemm", "LayerNormalization", "SkipLayerNormalization"):
            return -1
        if op in LINEAR or op in POOL or op in ("BatchNormalization", "InstanceNormalization", "GroupNormalization"):
            return 1
        if op == "Transpose":
            return FEATURE_AXIS_AFTER.get(tuple(integers(node, "perm")))
        names = layers.data.get(node.output[0], ())
        if not names or op not in KEEPS_AXES:
            return None
        tensor = names[0]
    return None


def _has_class_token(layers: Layers) -> bool:
    """Return whether a Concat over tokens adds a learned one."""
    for node in layers.producers.values():
        if node.op_type == "Concat" and integer(node, "axis", 0) in (1, -2):
            of_image = [name in layers.image_tensors for name in node.input]
            ranks = {len(layers.shapes[name]) for name in (*node.input, *node.output) if name in layers.shapes}
            if any(of_image) and not of_image[0] and ranks <= {3}:
                return True
    return False
