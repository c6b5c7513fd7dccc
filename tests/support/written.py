"""ONNX models written as text alone: nodes as `onnx_models.graph` reads them, constants by their values."""

import ast
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from .onnx_models import IMAGE, Array, Node, Value, build, graph, weight

POOLED = """
    conv = Conv(image, w16x3x3x3, kernel_shape=[3, 3]); relu = Relu(conv)
    gap = GlobalAveragePool(relu); features = Flatten(gap)
"""
"""image → (batch, 16) "features", which a ReLU ended"""
SIGNED = POOLED + "mixed = MatMul(features, w16x16); signed = Mul(mixed, features)\n"
"""two tensors of the image multiplied, as attention does: nothing is known of the sign of "signed"."""


def constant(value: Any) -> Array:
    """An array; numbers with a point are float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def constants_of(nodes: Sequence[Node], there: set[str]) -> dict[str, Array]:
    """The constants that nodes read by their values, or as random weights: what is neither there nor written by one."""
    read = {name for node in nodes for name in node[1] if name}
    found = {}
    for name in sorted(read - there - {name for node in nodes for name in node[2]}):
        shape = re.fullmatch(r"w(\d+(?:x\d+)*)", name)
        found[name] = weight(*map(int, shape[1].split("x"))) if shape else constant(ast.literal_eval(name))
    return found


def written(
    text: str,
    *outputs: str | Value,
    before: str = POOLED,
    inputs: Sequence[Value] = (IMAGE,),
    opset: int = 18,
    props: dict[str, str] | None = None,
    **weights: Any,
) -> onnx.ModelProto:
    """A model of the nodes of `before` and `text`; without `outputs` its last tensor is the output.

    An input that is written as a number or a list ("2.0", "[2, 3]") is that constant, one like "w16x512" is a
    random weight of that shape; `weights` are constants with other names.
    """
    nodes = graph(before + "\n" + text)
    given = {name: constant(value) for name, value in weights.items()}
    given |= constants_of(nodes, {*given, *(value[0] for value in inputs)})
    domains = {node[0].rpartition(":")[0] for node in nodes} - {""}
    return build(
        nodes, outputs or nodes[-1][2][-1:], given, inputs=inputs, opset=opset, domains=sorted(domains), props=props
    )
