"""Read the tensors of a graph that do not depend on the image.

A last linear layer that only turns the coordinates (PCA, truncated SVD, a rotation) is recognised by its weight: it was
not learned.
"""

import copy
import math

import numpy as np
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ...arrays import Array, GenericArray
from ...text import frozen
from .ends import last_linears
from .layers import WEIGHT_AT, WEIGHT_ZERO_AT, Layers
from .nodes import attribute_of, einsum_of, input_at, integer, needed_nodes
from .weights import Weights, values_of

# RMS cosine of two features, in units of 1/√n (random vectors of length n have 1): a rotation has 0, rounded to 4 bits
# 0.28; the layers of EfficientNet-Lite0 have 0.70 or more (measured)
ORTHOGONAL = 0.4
COLUMNS = 256  # features that are compared, pair by pair


@frozen
class Constants:
    """The tensors of a graph that do not depend on the image."""

    proto: ModelProto
    """the graph with its initializers"""
    layers: Layers
    """the same graph for walking"""
    weights: Weights
    """where weights lie (`OnnxFile.weights`); only those that are asked for are read"""

    def value(self, name: str) -> GenericArray | None:
        """Read an initializer, or a tensor that is computed from some."""
        for tensor in self.proto.graph.initializer:
            if tensor.name == name:
                return values_of(tensor, self.weights)
        maker = self.layers.producers.get(name)
        if maker is not None and maker.op_type == "Constant":
            stated = attribute_of(maker, "value")
            if stated.HasField("t"):
                return values_of(stated.t, self.weights)
        return self._computed(name)

    def weight_of(self, node: NodeProto) -> Array | None:
        """Read a layer's weight as (rows, columns), without the scale of a quantised one, which turns no feature.

        None of one that can't be read, or is several matrices for features of their own, be it one factor per feature.
        """
        at = WEIGHT_AT.get(node.op_type, 1)
        inputs = [*node.input[at : at + 1], *node.input[:1]]
        names = [name for name in inputs if name not in self.layers.image_tensors]
        if not names:
            return None
        values = self._unpacked(node) if node.op_type in ("MatMulNBits", "MatMulBnb4") else self.value(names[0])
        if values is None or values.dtype.kind in "OSU":  # text is not a weight
            return None
        is_conv = "Conv" in node.op_type
        terms, result = einsum_of(node)
        kept_axes = (set(result) - {"."}).intersection(*terms)  # the other input has them, too, as in `bi,ij->bi`
        if kept_axes or integer(node, "group", 1) != 1:
            return None
        if is_conv and values.ndim == 4:  # (feature, channel, row, column): linear in what the kernel covers
            values = values.reshape(len(values), -1)
        squeezed = np.squeeze(values).astype(np.float64)
        if squeezed.ndim != 2 or (not is_conv and math.prod(values.shape[:-2]) != 1):
            return None
        name = input_at(node, WEIGHT_ZERO_AT.get(node.op_type, len(node.input)))
        zero = self.value(name) if name else None
        if zero is None:
            return squeezed
        points = zero.astype(np.float64).ravel()
        rows, columns = squeezed.shape
        if is_conv or (len(points) > 1 and len(points) == rows != columns):  # one per row
            points = points[:, None]
        return squeezed - points

    def _unpacked(self, node: NodeProto) -> GenericArray | None:
        """Unpack a weight of 4 or 8 bits, of which each row is what the layer gives for a unit vector."""
        if len(node.input) < 3:  # ONNX Runtime refuses it
            return None
        scales = self.value(node.input[2])
        size = integer(node, "K", 0)
        if scales is None or size < 1:
            return None
        probe = copy.deepcopy(node)
        probe.input[0] = "unit_vectors"
        probe.output[0] = "unpacked"
        vectors = from_array(np.eye(size, dtype=scales.dtype))
        unit = make_node("Constant", [], ["unit_vectors"], value=vectors)
        return self._computed("unpacked", unit, probe)

    def _computed(self, name: str, *more: NodeProto) -> GenericArray | None:
        """Compute `name` from constants with ONNX Runtime, by the graph's nodes and `more` after them."""
        original = self.proto.graph
        nodes, needed = needed_nodes([*original.node, *more], [name])
        if not needed.isdisjoint(self.layers.image_tensors):
            return None
        graph = GraphProto(name="weight", node=nodes, output=[ValueInfoProto(name=name)])
        if not graph.node:  # a sparse initializer, or nothing of this name
            graph.output[0].name = "weight"
            graph.node.append(make_node("Identity", [name], ["weight"]))
        for tensor in original.initializer:
            if tensor.name in needed:
                values = values_of(tensor, self.weights)
                graph.initializer.append(from_array(values, tensor.name))
        graph.sparse_initializer.extend(part for part in original.sparse_initializer if part.values.name in needed)
        content = ModelProto(ir_version=self.proto.ir_version, opset_import=self.proto.opset_import, graph=graph)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # ORT's "fatal": what it can't compute is said by the exception
        try:
            session = ort.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return np.asarray(session.run(None, {})[0])
        except (ort_state.Fail, ort_state.InvalidGraph, ort_state.InvalidArgument, ort_state.NotImplemented,
                ort_state.RuntimeException):  # fmt: skip
            return None


def is_change_of_basis(constants: Constants, tensor: str) -> bool | None:
    """Return whether the last linear layer only turns coordinates, its features being orthogonal to each other.

    Such a layer puts the mean direction of any representation on one axis, where it reads as a persistent outlier
    feature that the encoder does not have. Of several linear layers with nothing between them, and of those whose
    outputs are joined or added, one is enough.

    Args:
        constants: of the graph. tensor: the representation.

    Returns:
        None where that is unknown: no linear layer was found, or one has a weight that could not be read (it is
        computed from the image, or is not a matrix), and no other one turns coordinates.
    """
    linears = list(last_linears(constants.layers, tensor))
    is_known = bool(linears)
    for node in linears:
        weight = constants.weight_of(node)
        if weight is None:
            is_known = False
        elif mutually_orthogonal(weight):
            return True
    return False if is_known else None


def mutually_orthogonal(weight: Array) -> bool:
    """Return whether the rows or columns of a matrix are orthogonal, far more so than random ones.

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
