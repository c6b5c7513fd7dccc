"""Tell a last linear layer that only turns the coordinates (PCA, truncated SVD, a rotation): nothing learned does."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from robustcheck_onnx.checker.arrays import Array, GenericArray

from .ends import last_linears
from .external import Weights, values_of
from .layers import WEIGHT_AT, Layers, integer, needed_nodes, text_of

# RMS cosine of two features, in units of 1/√n (random vectors of length n have 1): a rotation has 0, rounded to 4 bits
# 0.28; the layers of EfficientNet-Lite0 have 0.70 or more (measured)
ORTHOGONAL = 0.4
COLUMNS = 256  # features that are compared, pair by pair
# position of the weight's zero point in the layers that take their weight quantised
ZERO_POINT_AT = {"MatMulInteger": 3, "ConvInteger": 3, "DynamicQuantizeMatMul": 3}
ZERO_POINT_AT |= {"QLinearMatMul": 5, "QLinearConv": 5, "QGemm": 5, "MatMulIntegerToFloat": 5}


def is_change_of_basis(proto: onnx.ModelProto, layers: Layers, tensor: str, folder: Weights) -> bool | None:
    """Whether a linear layer that ends `tensor` has features orthogonal to each other.

    Such a layer puts the mean direction of any representation on one axis, where it reads as a persistent outlier
    feature that the encoder does not have. Of several linear layers with nothing between them, and of those whose
    outputs are joined or added, one is enough.

    Args:
        proto: the graph with its initializers. layers: the same graph for walking. tensor: the representation.
        folder: where weights lie (`OnnxFile.weights`); only these layers' are read.

    Returns:
        None where a weight could not be read (it is computed from the image, or is no matrix) and no other one is.
    """
    weights = [_weight(proto, layers, node, folder) for node in last_linears(layers, tensor)]
    if any(weight is not None and mutually_orthogonal(weight) for weight in weights):
        return True
    return None if any(weight is None for weight in weights) else False


def mutually_orthogonal(weight: Array) -> bool:
    """Whether the rows, or the columns, of a matrix are orthogonal to each other, far more so than random ones.

    RMS over pairs of the cosine, times √n for vectors of length n: 0 for a rotation, 1 for random vectors. Below
    `ORTHOGONAL` they count as orthogonal: rounding to 4 bits leaves a rotation there.

    Args:
        weight: (input, feature) or (feature, input). Of either side the first `COLUMNS` are compared.

    Returns:
        False for a matrix with fewer than two vectors on either side; those of zeros or not finite are left out.
    """
    for vectors in (weight, weight.T):
        norms = np.linalg.norm(vectors, axis=1)
        part = (vectors[(norms > 0) & np.isfinite(norms)])[:COLUMNS]
        if len(part) < 2:
            continue
        part = part / np.linalg.norm(part, axis=1, keepdims=True)
        cosines = (part @ part.T)[np.triu_indices(len(part), 1)]
        if np.sqrt(np.mean(cosines**2) * part.shape[1]) < ORTHOGONAL:
            return True
    return False


def _weight(proto: onnx.ModelProto, layers: Layers, node: onnx.NodeProto, folder: Weights) -> Array | None:
    """Read a layer's weight as (rows, columns); of a quantised one without the scale, which turns no feature.

    None of one that can't be read, or is several matrices, each for features of its own: to a factor for each feature.
    """
    at = WEIGHT_AT.get(node.op_type, 1)
    names = [name for name in (*node.input[at : at + 1], *node.input[:1]) if name not in layers.image_tensors]
    if not names:
        return None
    if node.op_type in ("MatMulNBits", "MatMulBnb4"):
        values = _unpacked(proto, layers, node, folder)
    else:
        values = constant(proto, layers, names[0], folder)
    groups = integer(node, "group", 1)
    if values is not None and values.ndim == 4 and "Conv" in node.op_type and groups == 1:
        values = values.reshape(len(values), -1)  # (feature, channel, row, column): linear in what the kernel covers
    if values is None or values.dtype.kind in "OSU":  # text is no weight
        return None
    if groups != 1 or _keeps_axis(node) or ("Conv" not in node.op_type and math.prod(values.shape[:-2]) != 1):
        return None
    squeezed = np.squeeze(values).astype(np.float64)
    if squeezed.ndim != 2:
        return None
    zero_at = ZERO_POINT_AT.get(node.op_type, len(node.input))
    name = node.input[zero_at] if zero_at < len(node.input) else ""
    zero = constant(proto, layers, name, folder) if name else None
    if zero is None:
        return squeezed
    by_row = zero.size > 1 and zero.size == len(squeezed) and zero.size != squeezed.shape[1]
    points = zero.astype(np.float64).ravel()
    return squeezed - (points[:, None] if by_row or "Conv" in node.op_type else points)


def _keeps_axis(node: onnx.NodeProto) -> bool:
    """Whether an Einsum leaves an axis of its weight that the other input has, too, as `bi,ij->bi` does."""
    if node.op_type != "Einsum":
        return False
    terms, _, result = text_of(node, "equation").replace(" ", "").partition("->")
    return bool(set.intersection(*map(set, terms.replace(".", "").split(",")), set(result)))


def constant(proto: onnx.ModelProto, layers: Layers, name: str, folder: Weights) -> GenericArray | None:
    """Read a tensor that does not depend on the image: an initializer, or what the graph computes from some."""
    plain = next((tensor for tensor in proto.graph.initializer if tensor.name == name), None)
    maker = layers.producers.get(name)
    if plain is None and maker is not None and maker.op_type == "Constant":
        plain = next((attribute.t for attribute in maker.attribute if attribute.name == "value"), None)
    return _computed(proto, layers, name, (), folder) if plain is None else values_of(plain, folder)


def _unpacked(proto: onnx.ModelProto, layers: Layers, node: onnx.NodeProto, folder: Weights) -> GenericArray | None:
    """Unpack a weight of 4 or 8 bits: what the layer gives for each unit vector."""
    scales = constant(proto, layers, node.input[2], folder)
    size = integer(node, "K", 0)
    if scales is None or size < 1:
        return None
    probe = onnx.NodeProto()
    probe.CopyFrom(node)
    probe.input[0], probe.output[0] = "unit_vectors", "unpacked"
    unit = helper.make_node(
        "Constant", [], ["unit_vectors"], value=numpy_helper.from_array(np.eye(size, dtype=scales.dtype))
    )
    return _computed(proto, layers, "unpacked", (unit, probe), folder)


def _computed(
    proto: onnx.ModelProto, layers: Layers, name: str, more: tuple[onnx.NodeProto, ...], folder: Weights
) -> GenericArray | None:
    """Compute `name` from constants with ONNX Runtime, by the graph's nodes and `more` behind them."""
    nodes, needed = needed_nodes([*proto.graph.node, *more], name)
    if not needed.isdisjoint(layers.image_tensors):
        return None
    graph = onnx.GraphProto(name="weight", node=nodes, output=[onnx.ValueInfoProto(name=name)])
    if not graph.node:  # a sparse initializer, or nothing of this name
        graph.output[0].name = "weight"
        graph.node.append(helper.make_node("Identity", [name], ["weight"]))
    for tensor in proto.graph.initializer:
        if tensor.name in needed:
            graph.initializer.append(numpy_helper.from_array(values_of(tensor, folder), tensor.name))
    graph.sparse_initializer.extend(t for t in proto.graph.sparse_initializer if t.values.name in needed)
    content = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, graph=graph)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # ORT's "fatal": what it can't compute is said by the exception
    try:
        session = ort.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {})[0])
    except (ort_state.Fail, ort_state.InvalidGraph, ort_state.InvalidArgument, ort_state.NotImplemented,
            ort_state.RuntimeException):  # fmt: skip
        return None
