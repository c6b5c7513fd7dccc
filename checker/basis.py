"""Whether the last linear layer only turns the coordinates (PCA, truncated SVD, a rotation): nothing learned does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from robustcheck_onnx.checker.layers import WEIGHT_AT, Layers, last_linear
from robustcheck_onnx.checker.onnx_file import values_of

ORTHOGONAL = 0.02  # |cosine|; a trained or random layer of 2,048 inputs has pairs above 0.1, int8 rounding stays below
COLUMNS = 256  # features that are compared, pair by pair


def is_change_of_basis(proto: onnx.ModelProto, layers: Layers, tensor: str, folder: Path | None) -> bool:
    """Whether the weight of the linear layer that ends `tensor` has features orthogonal to each other.

    Such a layer puts the mean direction of any representation on one axis, where it reads as a persistent outlier
    feature that the encoder does not have.

    Args:
        proto: the graph with its initializers. layers: the same graph for walking. tensor: the representation.
        folder: where external weights lie (`OnnxFile.external_folder`); only this layer's is read.

    Returns:
        False too where the weight is computed in the graph and so not known.
    """
    node = last_linear(layers, tensor)
    weight = None if node is None else _weight(proto, layers, node, folder)
    return weight is not None and mutually_orthogonal(weight)


def mutually_orthogonal(weight: NDArray[np.float64]) -> bool:
    """Whether the rows, or the columns, of a matrix are orthogonal to each other (cosine below `ORTHOGONAL`).

    Args:
        weight: (input, feature) or (feature, input). Of either side the first `COLUMNS` are compared.

    Returns:
        False for a matrix with fewer than two vectors on either side, or with zeros for vectors.
    """
    for vectors in (weight, weight.T):
        part = vectors[:COLUMNS]
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        if len(part) < 2 or not (norms > 0).all() or not np.isfinite(norms).all():
            continue
        cosines = np.abs((part / norms) @ (part / norms).T) - np.eye(len(part))
        if cosines.max() < ORTHOGONAL:
            return True
    return False


def _weight(
    proto: onnx.ModelProto, layers: Layers, node: onnx.NodeProto, folder: Path | None
) -> NDArray[np.float64] | None:
    """The layer's weight as (rows, columns), dequantised but for the scale, which turns no vector."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    at = WEIGHT_AT.get(node.op_type, 1)
    names = [name for name in (*node.input[at : at + 1], *node.input[:1]) if name not in layers.image_tensors]
    name = names[0] if names else ""
    zero_point = 0.0
    while name not in tensors:  # a constant that is cast, turned or dequantised first
        maker = layers.producers.get(name)
        if maker is None or name in layers.image_tensors:
            return None
        if maker.op_type == "Constant":
            values = [attribute.t for attribute in maker.attribute if attribute.name == "value"]
            return _matrix(values_of(values[0], None)) if values else None
        if maker.op_type not in ("Cast", "Transpose", "Identity", "DequantizeLinear", "Reshape", "Squeeze"):
            return None
        if maker.op_type == "DequantizeLinear" and len(maker.input) > 2 and maker.input[2] in tensors:
            zero_point = float(np.mean(values_of(tensors[maker.input[2]], folder).astype(np.float64)))
        name = maker.input[0]
    weight = _matrix(values_of(tensors[name], folder))
    return None if weight is None else weight - zero_point


def _matrix(values: NDArray[np.generic]) -> NDArray[np.float64] | None:
    squeezed = np.squeeze(values)
    return squeezed.astype(np.float64) if squeezed.ndim == 2 else None
