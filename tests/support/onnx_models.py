"""Tiny ONNX graphs made with onnx.helper, for the tests of the model side."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Node = tuple[Any, ...]  # (op, inputs, outputs) or (op, inputs, outputs, attributes)
Value = tuple[str, int, Sequence[int | str | None] | None]
IMAGE = ("image", TensorProto.FLOAT, ("batch", 3, 8, 8))
PIXELS = np.random.default_rng(5).random((3, 8, 8, 3)).astype(np.float32)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def weight(*shape: int) -> Array:
    return rng().normal(size=shape).astype(np.float32)


def graph(text: str) -> list[Node]:
    """Nodes for `build`, from "a, b = Op(x, w, axis=1); …": inputs first, an absent one is empty, then attributes.

    A semicolon or a line's end stands between two nodes; FLOAT and the like are types of tensors.
    """
    return [_node(part.strip()) for part in re.split(r"[;\n]", text) if part.strip()]


def _node(text: str) -> Node:
    outputs, _, call = text.partition(" = ")
    op, _, arguments = call.removesuffix(")").partition("(")
    inputs = []
    attributes = {}
    for argument in re.split(r", (?![^\[]*\])", arguments) if arguments else ():
        name, is_attribute, value = argument.partition("=")
        if is_attribute:
            attributes[name] = TensorProto.DataType.Value(value) if value.isidentifier() else ast.literal_eval(value)
        else:
            inputs.append(name)
    return op, inputs, outputs.split(", "), attributes


def build(
    nodes: Sequence[Node],
    outputs: Sequence[str | Value],
    weights: dict[str, Array] | None = None,
    *,
    inputs: Sequence[Value] = (IMAGE,),
    opset: int = 18,
    domains: Sequence[str] = (),
    ir_version: int = 9,
    props: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A model from (op, inputs, outputs[, attributes]) tuples; "domain:Op" sets an op's domain."""
    protos = []
    for op, node_inputs, node_outputs, *attributes in nodes:
        domain, _, name = op.rpartition(":")
        protos.append(helper.make_node(name, node_inputs, node_outputs, domain=domain, **dict(*attributes)))
    values = [(value, TensorProto.FLOAT, None) if isinstance(value, str) else value for value in outputs]
    graph = helper.make_graph(
        protos,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in values],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    helper.set_model_props(model, props or {})
    return model


def _pooled(last: str, features: int, width: int, weights: dict[str, Array]) -> onnx.ModelProto:
    """image → Conv → Relu → global mean → "features" → `last`, whose output is (batch, width)."""
    nodes = graph(f"""
        conv = Conv(image, conv.weight, kernel_shape=[3, 3]); relu = Relu(conv)
        gap = GlobalAveragePool(relu); features = Flatten(gap); {last}
    """)
    output = (nodes[-1][2][0], TensorProto.FLOAT, ("batch", width))
    return build(nodes, [output], {"conv.weight": weight(features, 3, 3, 3)} | weights)


def classifier(classes: int = 10, *, output: str = "logits", bias: bool = True, features: int = 16) -> onnx.ModelProto:
    """`_pooled` and a Gemm."""
    weights = {"fc.weight": weight(classes, features)} | ({"fc.bias": weight(classes)} if bias else {})
    return _pooled(f"{output} = Gemm(features, {', '.join(weights)}, transB=1)", features, classes, weights)


def encoder(features: int = 16, *, output: str = "embedding") -> onnx.ModelProto:
    """`_pooled` and a bias-free projection."""
    return _pooled(f"{output} = MatMul(features, proj)", 24, features, {"proj": weight(24, features)})


def save(model: onnx.ModelProto, path: str | Path = "m.onnx", *, external: bool = False) -> Path:
    """Write the model; `external` keeps every weight in `<name>.data` beside it."""
    path = Path(path)
    if external:
        onnx.save(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=0)
    else:
        onnx.save(model, path)
    return path
