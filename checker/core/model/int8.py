"""Find int8 weights whose sums can saturate, and write them as uint8.

On x86 CPUs with AVX2 and without VNNI, ONNX Runtime adds products of uint8 activations and int8 weights in pairs of 16
bits, which can saturate.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.numpy_helper import from_array

from ...arrays import GenericArray
from .layers import WEIGHT_AT, WEIGHT_ZERO_AT, computed_constants
from .nodes import HOLDERS, attribute_of, bodies, input_at, integer, nested_nodes, op_set, subgraphs
from .weights import Weights, values_of

ZERO_AT = {"QLinearConv": 2, "QLinearMatMul": 2, "QGemm": 2, "ConvInteger": 2, "MatMulInteger": 2}
ZERO_AT |= {"MatMulIntegerToFloat": 4}
"""position of the zero point of a layer's activations, which has their type; DynamicQuantizeMatMul makes uint8"""
FLOAT_LAYERS = op_set("Conv Gemm MatMul")
"""layers that become integer products where DequantizeLinear makes both factors"""
MOST_OF_A_PAIR = 32767 // 255  # the largest |a + b| that the largest activation leaves in 16 bits: 128


def saturating_pairs(proto: ModelProto, weights: Weights) -> float | None:
    """Compute the share of the pairs of int8 weights a, b with |a + b| · 255 > 32767: None where there is no pair.

    A pair is next to each other in the sum of one output: channels of one place of a kernel, or rows of a matrix. A
    convolution with one channel per group has no pairs, since ONNX Runtime adds its products one by one. Layers in
    graphs inside nodes count, too.
    """
    n_pairs = n_saturating = 0
    for node, weight in _int8_layers(proto.graph, {}):
        terms = _terms(node, values_of(weight, weights))
        first = terms[:-1:2].astype(np.int16)
        second = terms[1::2].astype(np.int16)
        is_saturating = np.abs(first + second) > MOST_OF_A_PAIR
        n_pairs += first.size
        n_saturating += int(is_saturating.sum())
    return n_saturating / n_pairs if n_pairs else None


MOVES = op_set("DequantizeLinear QuantizeLinear Transpose Reshape Flatten Squeeze Unsqueeze Identity Cast Expand")
"""operators that hand values on; ONNX Runtime moves them past each other"""
ONE_BY_ONE = op_set("Add Sub Mul Concat LayerNormalization")
"""operators that take their values one by one: no sum of products saturates in them"""


def holds_int8_weights(proto: ModelProto) -> bool:
    """Return whether an int8 weight may be left in a model, so that its sums may saturate.

    Such a weight is an int8 tensor with two axes or more, or what the graph itself quantises from a constant, that
    reaches another operator than those of `ONE_BY_ONE`. In doubt it is one, as in functions and in graphs inside nodes.

    proto: its nodes in order.
    """
    if proto.functions or holds_nested_int8_weights(proto):
        return True
    weights = _int8_weights(proto, MOVES)
    readers = [node for node in proto.graph.node if not weights.isdisjoint(node.input)]
    return any(node.op_type not in MOVES | ONE_BY_ONE for node in readers)


def holds_nested_int8_weights(proto: ModelProto) -> bool:
    """Return whether a graph inside a node has or reads an int8 weight, which neither rewriting nor a mode reaches.

    What such a graph quantises, but to uint8, counts, too: it could be a weight.

    proto: its nodes in order.
    """
    outside = _int8_weights(proto, MOVES - {"DequantizeLinear"})
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for graph in bodies(proto.graph.node):
        own_kinds = kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}
        read = {name for node in graph.node for name in node.input}
        is_quantised = any(_makes_int8(node, own_kinds) for node in graph.node)
        if is_quantised or any(_int8_tensors(graph)) or not outside.isdisjoint(read):
            return True
    return False


def _int8_weights(proto: ModelProto, moves: AbstractSet[str]) -> set[str]:
    """Return the names of the int8 weights of a main graph, and of what operators of `moves` make of them."""
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    constants = {*kinds, *computed_constants(proto)}
    weights = set(_int8_tensors(proto.graph))
    for node in proto.graph.node:
        is_moved = node.op_type in moves and not weights.isdisjoint(node.input)
        if is_moved or (input_at(node, 0) in constants and _makes_int8(node, kinds)):
            weights.update(node.output)
    return weights


def _int8_tensors(graph: GraphProto) -> Iterator[str]:
    """Yield the names of int8 tensors with two axes or more in a graph, apart from those inside its nodes."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
            yield tensor.name
    for node in graph.node:
        if node.op_type == "Constant":
            value = attribute_of(node, "value").t
            if value.data_type == TensorProto.INT8 and len(value.dims) > 1:
                yield node.output[0]


def _makes_int8(node: NodeProto, kinds: Mapping[str, int]) -> bool:
    """Return whether a node casts to int8, or quantises to another type than uint8, or to one that is not known.

    kinds: types of initializers, by name.
    """
    if node.op_type == "Cast":
        return integer(node, "to", 0) == TensorProto.INT8
    if node.op_type != "QuantizeLinear":
        return False
    zero = input_at(node, 2)
    kind = kinds.get(zero) if zero else integer(node, "output_dtype", 0) or TensorProto.UINT8
    return kind != TensorProto.UINT8


def _int8_layers(
    graph: GraphProto, outside: Mapping[str, TensorProto], *, of_wide_activations: bool = False
) -> Iterator[tuple[NodeProto, TensorProto]]:
    """Yield the layers whose weight is int8, with it, those in graphs inside nodes included.

    ONNX Runtime turns int8 activations of QDQ into uint8, and fuses no layer with a dequantiser of another graph.

    Args:
        graph: whose layers are wanted.
        outside: the weights that a graph inside a node can read from the graphs around it, by name.
        of_wide_activations: those with 16-bit activations, too, whose products are of floats.
    """
    tensors = {**outside, **{tensor.name: tensor for tensor in graph.initializer}}
    makers = {name: node for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    for node in graph.node:
        if node.op_type in HOLDERS:
            for inner in subgraphs(node):
                yield from _int8_layers(inner, tensors, of_wide_activations=of_wide_activations)
        name = ""
        zero = None
        kinds = {TensorProto.UINT8}
        maker = makers.get(input_at(node, 0))
        if node.op_type in FLOAT_LAYERS and maker is not None and input_at(node, 1) in makers:
            name = input_at(makers[input_at(node, 1)], 0)
            zero = tensors.get(input_at(maker, 2))
            kinds = {TensorProto.UINT8, TensorProto.INT8}
            if of_wide_activations:
                kinds |= {TensorProto.UINT16, TensorProto.INT16}
        elif node.op_type in WEIGHT_ZERO_AT:
            name = input_at(node, WEIGHT_AT.get(node.op_type, 1))
            zero = tensors.get(input_at(node, ZERO_AT.get(node.op_type, len(node.input))))
        is_added = zero is None or zero.data_type in kinds
        if is_added and name in tensors and tensors[name].data_type == TensorProto.INT8:
            yield node, tensors[name]


def _terms(node: NodeProto, values: GenericArray) -> GenericArray:
    """Arrange a weight as (term, output), terms in the order of their sum; empty where no two are added."""
    if values.ndim < 2 or values.size == 0:
        return np.zeros((0, 0), np.int8)
    if "Conv" in node.op_type:  # (output, channel, row, column)
        channels_last = np.moveaxis(values, 1, -1)
        terms = channels_last.reshape(len(values), -1).T
        return terms[:0] if values.shape[1] == 1 else terms
    if integer(node, "transB", 0):
        return values.T
    return values.reshape(-1, values.shape[-1])


OFFSET = 128  # between an int8 weight and the same weight as uint8


def with_unsigned_weights(model: ModelProto, weights: Weights) -> ModelProto:
    """Write the int8 weights of layers as uint8, with zero points that are 128 larger.

    Products of two uint8 values are added in 32 bits on every CPU, so that no sum saturates: the model computes what
    the file says. The model is changed in place and returned. A weight that several nodes read stays as it is.

    Args:
        model: the whole graph.
        weights: where its weights are.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {weight.name for _, weight in _int8_layers(model.graph, {}, of_wide_activations=True)}
    uses = Counter(name for node in nested_nodes(model.graph.node) for name in node.input)
    for node in model.graph.node:
        weight_at = WEIGHT_AT.get(node.op_type, 1)
        zero_at = WEIGHT_ZERO_AT.get(node.op_type)
        if node.op_type == "DequantizeLinear":
            weight_at = 0
            zero_at = 2
        if zero_at is None:
            continue
        name = input_at(node, weight_at)
        zero_name = input_at(node, zero_at)
        if name not in names or uses[name] > 1 or (zero_name and zero_name not in tensors):
            continue
        if zero_name:
            zeros = values_of(tensors[zero_name], weights)
        else:
            scale = tensors.get(input_at(node, 1)) if node.op_type == "DequantizeLinear" else None
            zeros = np.zeros(() if scale is None else tuple(scale.dims), np.int8)
        zero_point = _unsigned(f"{name}_unsigned_zero_point", zeros)
        model.graph.initializer.append(zero_point)
        node.input.extend([""] * (zero_at + 1 - len(node.input)))
        node.input[zero_at] = zero_point.name
        node.input[weight_at] = f"{name}_unsigned"
        unsigned = _unsigned(node.input[weight_at], values_of(tensors[name], weights))
        tensors[name].CopyFrom(unsigned)
    return model


def _unsigned(name: str, values: GenericArray) -> TensorProto:
    """Return int8 values as a uint8 tensor."""
    shifted = values.astype(np.int16) + OFFSET
    return from_array(shifted.astype(np.uint8), name)
