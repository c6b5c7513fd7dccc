"""Tiny ONNX graphs: nodes as text, constants by their values, what models are made of them."""

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
        protos, "tiny", [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in values],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )  # fmt: skip
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


COLOUR_PX = 4  # edge of the images


def colour_classifier(path: Path, colours: Array, end: str = "Identity") -> Path:
    """Logits = 8 · similarity of an image's mean colour to that of each class; `end` is the last operator."""
    text = f"""
        pool = GlobalAveragePool(image); features = Flatten(pool); scores = Gemm(features, w, b); logits = {end}(scores)
    """
    output = ("logits", TensorProto.FLOAT, ("batch", len(colours)))
    image = ("image", TensorProto.FLOAT, ("batch", 3, COLOUR_PX, COLOUR_PX))
    w, b = (values.astype(np.float32) for values in (16 * colours.T, -8 * (colours**2).sum(axis=1)))
    return save(written(text, output, before="", inputs=[image], w=w, b=b), path)


BRANCH = """{name} () => (float[n, {width}] {name}y) {{
    {name}q, {name}s, {name}z = DynamicQuantizeLinear (features) {name}i = MatMulInteger ({name}q, w8{name}, {name}z)
    {name}f = Cast <to = 1> ({name}i) {name}y = Mul ({name}f, {name}s) }}"""


def with_int8_branches(w8: Array, *, is_outside: bool = False) -> onnx.ModelProto:
    """An encoder of images of 8 by 8 px, whose int8 layer is in both branches of an If.

    w8: (192, feature). is_outside: the weights are in the main graph, and the branches read them from there.
    """
    width = w8.shape[1]
    then_branch, else_branch = (BRANCH.format(name=name, width=width) for name in "ab")
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        branches (float[n, 3, 8, 8] image) => (float[n, {width}] embedding) <bool yes = {{1}}> {{
            features = Flatten (image)
            embedding = If (yes) <then_branch = {then_branch}, else_branch = {else_branch}> }}"""
    )
    for name, branch in zip("ab", model.graph.node[1].attribute, strict=True):
        place = model.graph if is_outside else branch.g
        place.initializer.append(numpy_helper.from_array(w8, f"w8{name}"))
    return model
