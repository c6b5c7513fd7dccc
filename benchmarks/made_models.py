"""Encoders of CLIP's shapes with random weights, made with onnx and numpy alone: a speed is that of real weights.

`vit` is CLIP's vision transformer, `resnet` a bottleneck ResNet with CLIP's stem and a mean at its end. `torch_vit` is
the same transformer, from the same numbers, as a PyTorch user would run it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
OPSET, IR = 17, 8


@dataclass(frozen=True)
class Shape:
    """Sizes of a vision transformer."""

    width: int
    layers: int
    heads: int
    patch_px: int
    features: int
    image_px: int = 224


TINY = Shape(32, 2, 2, 16, 24, 32)
B32 = Shape(768, 12, 12, 32, 512)
L14 = Shape(1024, 24, 16, 14, 768)
TINY_BLOCKS, RN50_BLOCKS = (1, 1), (3, 4, 6, 3)


class _Graph:
    """Nodes and weights as they come."""

    def __init__(self, dtype: type[np.floating[Any]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.dtype = dtype

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value, dtype=dtype or self.dtype)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def vit_weights(shape: Shape, seed: int = 0) -> dict[str, Array]:
    """Random weights of CLIP's scale, float32."""
    rng = np.random.default_rng(seed)
    w, p = shape.width, shape.patch_px
    tokens = (shape.image_px // p) ** 2 + 1

    def normal(*sizes: int, scale: float) -> Array:
        return rng.standard_normal(sizes, dtype=np.float32) * np.float32(scale)

    out = {
        "patch": normal(w, 3, p, p, scale=0.02),
        "class": normal(1, 1, w, scale=w**-0.5),
        "position": normal(1, tokens, w, scale=w**-0.5),
        "proj": normal(w, shape.features, scale=w**-0.5),
    }
    for layer in range(shape.layers):
        depth = (2 * shape.layers) ** -0.5
        out |= {
            f"{layer}.qkv": normal(w, 3 * w, scale=w**-0.5),
            f"{layer}.out": normal(w, w, scale=w**-0.5 * depth),
            f"{layer}.up": normal(w, 4 * w, scale=(2 * w) ** -0.5),
            f"{layer}.down": normal(4 * w, w, scale=w**-0.5 * depth),
        }
    return out


def vit(path: Path, shape: Shape, *, half: bool = False) -> Path:
    """Write the transformer: (image, 3, px, px) → (image, feature); half: all weights and sums in float16."""
    g = _Graph(np.float16 if half else np.float32)
    weights = vit_weights(shape)
    ones, zeros = g.constant(np.ones(shape.width)), g.constant(np.zeros(shape.width))
    d = shape.width // shape.heads

    def weight(name: str) -> str:
        return g.constant(weights[name])

    def norm(x: str) -> str:
        return g.op("LayerNormalization", x, ones, zeros, epsilon=1e-5, axis=-1)

    x = g.op("Conv", "image", weight("patch"), strides=[shape.patch_px] * 2)
    x = g.op("Reshape", x, g.constant([0, shape.width, -1], np.int64))
    x = g.op("Transpose", x, perm=[0, 2, 1])
    n = g.op("Slice", g.op("Shape", x), g.constant([0], np.int64), g.constant([1], np.int64))
    first = g.op("Expand", weight("class"), g.op("Concat", n, g.constant([1, shape.width], np.int64), axis=0))
    x = norm(g.op("Add", g.op("Concat", first, x, axis=1), weight("position")))
    for layer in range(shape.layers):
        qkv = g.op("MatMul", norm(x), weight(f"{layer}.qkv"))
        qkv = g.op("Reshape", qkv, g.constant([0, 0, 3, shape.heads, d], np.int64))
        qkv = g.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
        q, k, v = (g.op("Gather", qkv, g.constant(i, np.int64), axis=0) for i in range(3))
        scores = g.op("MatMul", g.op("Mul", q, g.constant(d**-0.5)), g.op("Transpose", k, perm=[0, 1, 3, 2]))
        mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", mixed, g.constant([0, 0, shape.width], np.int64))
        x = g.op("Add", x, g.op("MatMul", mixed, weight(f"{layer}.out")))
        up = g.op("MatMul", norm(x), weight(f"{layer}.up"))
        up = g.op("Mul", up, g.op("Sigmoid", g.op("Mul", up, g.constant(1.702))))
        x = g.op("Add", x, g.op("MatMul", up, weight(f"{layer}.down")))
    pooled = norm(g.op("Gather", x, g.constant(0, np.int64), axis=1))
    g.nodes.append(helper.make_node("MatMul", [pooled, weight("proj")], ["representation"]))
    return _write(path, g, shape.image_px, shape.features)


def torch_vit(shape: Shape) -> Callable[[Any], Any]:
    """The same transformer as a function of a torch tensor, with its weights where that tensor is."""
    import torch
    from torch.nn import functional

    weights = {name: torch.from_numpy(value) for name, value in vit_weights(shape).items()}
    held: dict[Any, dict[str, Any]] = {}

    def forward(image: Any) -> Any:
        w = held.setdefault((image.device, image.dtype), {k: v.to(image) for k, v in weights.items()})

        def norm(x: Any) -> Any:
            return functional.layer_norm(x, (shape.width,))

        x = functional.conv2d(image, w["patch"], stride=shape.patch_px).flatten(2).transpose(1, 2)
        x = norm(torch.cat([w["class"].expand(len(x), -1, -1), x], dim=1) + w["position"])
        for layer in range(shape.layers):
            qkv = norm(x) @ w[f"{layer}.qkv"]
            q, k, v = qkv.unflatten(2, (3, shape.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + mixed @ w[f"{layer}.out"]
            up = norm(x) @ w[f"{layer}.up"]
            x = x + (up * torch.sigmoid(1.702 * up)) @ w[f"{layer}.down"]
        return norm(x[:, 0]) @ w["proj"]

    return forward


def resnet(path: Path, blocks: tuple[int, ...], *, width: int = 64, image_px: int = 224, features: int = 1024) -> Path:
    """Write a bottleneck ResNet without a norm (folded, as ONNX Runtime runs it): (image, 3, px, px) → features."""
    g, rng = _Graph(np.float32), np.random.default_rng(0)

    def conv(x: str, n_in: int, n_out: int, size: int, stride: int = 1, *, relu: bool = True) -> str:
        weight = rng.standard_normal((n_out, n_in, size, size)) * (2 / (n_in * size * size)) ** 0.5
        y = g.op("Conv", x, g.constant(weight), g.constant(np.zeros(n_out)), strides=[stride] * 2, pads=[size // 2] * 4)
        return g.op("Relu", y) if relu else y

    x = conv(conv(conv("image", 3, width // 2, 3, 2), width // 2, width // 2, 3), width // 2, width, 3)
    x, n_in = g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), width
    for stage, count in enumerate(blocks):
        inner, n_out = width * 2**stage, 4 * width * 2**stage
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            y = conv(conv(conv(x, n_in, inner, 1), inner, inner, 3, stride), inner, n_out, 1, relu=False)
            side = x if n_in == n_out and stride == 1 else conv(x, n_in, n_out, 1, stride, relu=False)
            x, n_in = g.op("Relu", g.op("Add", y, side)), n_out
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x))
    proj = g.constant(rng.standard_normal((n_in, features)) * n_in**-0.5)
    g.nodes.append(helper.make_node("MatMul", [pooled, proj], ["representation"]))
    return _write(path, g, image_px, features)


def _write(path: Path, g: _Graph, image_px: int, features: int) -> Path:
    kind = TensorProto.FLOAT16 if g.dtype is np.float16 else TensorProto.FLOAT
    graph = helper.make_graph(
        g.nodes,
        "made",
        [helper.make_tensor_value_info("image", kind, ["batch", 3, image_px, image_px])],
        [helper.make_tensor_value_info("representation", kind, ["batch", features])],
        [numpy_helper.from_array(value, name) for name, value in g.weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.save(model, path)
    return path
