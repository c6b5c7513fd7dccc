"""Append nodes to a graph that compute statistics of its tensors, a few numbers per image.

All numbers of an image are one row of one output. Values are cast to float32 first (float64 stays float64) and
centred before they are squared: float16 overflows, and raw moments lose their digits to an offset.

The nodes are written in ONNX's own text. A name in it that no node makes is a constant, or the measured `tensor`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from string import Template
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from ...text import Fields
from .taps import MIN_RELATIVE_VARIANCE, OUTLIER_SD, Shape, Tap

PREFIX = "robustcheck.scan"
OUTPUT = f"{PREFIX}.rows"
MIN_OPSET = 11  # GatherElements; TopK of either end
AXES_ARE_INPUTS = {"ReduceSum": 13}  # opset from which a reduction takes its axes as an input; 18 of all others
END = np.iinfo(np.int64).max  # of an axis

VALUES = "values = Cast <to = $kind> (tensor)"
TURNED = "cast = Cast <to = $kind> (tensor) values = Transpose <perm = $perm> (cast)"
PERMUTATIONS = {"tokens_first": "[1, 0, 2]", "map_last": "[0, 3, 1, 2]"}

OF_TOKENS = """
    mean = ReduceMean <axes = [1], keepdims = 0> (values)
    largest = ReduceMax <axes = [1], keepdims = 0> ($size)
"""
OF_MAP = """
    columns = Reshape ($picked, flat_map)
    rows = Transpose <perm = [0, 2, 1]> (columns)
    cells = Reshape ($pooled, flat_map)
    average = GlobalAveragePool (values)
    mean = Reshape (average, flat)
    largest = ReduceMax <axes = [2], keepdims = 0> (cells)
"""
POOLS = """
    picked = MaxPool <kernel_shape = [1, 1], strides = $strides> (values)
    pooled = MaxPool <kernel_shape = $strides, strides = $strides, ceil_mode = 1> ($magnitude)
"""

STATISTICS = """
    row_mean = ReduceMean <axes = [2]> ($rows)
    centred = Sub ($rows, row_mean)
    squares = Mul (centred, centred)
    variance = ReduceMean <axes = [2]> (squares)
    mean_squared = Mul (row_mean, row_mean)
    rounding = Mul (mean_squared, least_relative)
    has_spread = Greater (variance, rounding)
    reciprocal = Reciprocal (variance)
    inverse = Where (has_spread, reciprocal, zero)
    row_z2 = Mul (squares, inverse)
    row_z4 = Mul (row_z2, row_z2)
    is_beyond = Greater (row_z2, outlier)
    each_beyond = Cast <to = $kind> (is_beyond)
    kurtosis = ReduceMean <axes = [2], keepdims = 0> (row_z4)
    token_z2 = ReduceMax <axes = [2], keepdims = 0> (row_z2)
    feature_z2 = ReduceMax <axes = [1], keepdims = 0> (row_z2)
    z2 = ReduceSum <axes = [1], keepdims = 0> (row_z2)
    z4 = ReduceSum <axes = [1], keepdims = 0> (row_z4)
    beyond = ReduceSum <axes = [1], keepdims = 0> (each_beyond)

    value, chosen = TopK <axis = 1> ($largest, n_largest)
    value_feature = Cast <to = $kind> (chosen)

    most = ReduceMax <axes = [2], keepdims = 0> ($few)
    upper, upper_at = TopK <axis = 2, sorted = 0> ($few, upper_half)
"""
"""standardised over the features of each row, (image, row, feature); the features with the largest |h|"""
MEDIAN_OF_ODD = "median = ReduceMin <axes = [2], keepdims = 0> (upper)"
MEDIAN_OF_EVEN = """
    middle, middle_at = TopK <axis = 2, largest = 0, sorted = 0> (upper, two)
    median = ReduceMean <axes = [2], keepdims = 0> (middle)
"""
PLACES = """
    placed = Reshape (chosen, chosen_places)
    wide = Expand (placed, all_cells)
    in_cells = GatherElements <axis = $features> ($size, wide)
    place = ArgMax <axis = $cells, keepdims = 0> (in_cells)
    value_token = Cast <to = $kind> (place)
"""
NO_PLACES = "value_token = Mul (value_feature, zero)"
OF_CLASS = """
    first_beyond = Slice (is_beyond, start, one, one, one)
    of_class = Reshape (first_beyond, flat)
    class_beyond = Cast <to = $kind> (of_class)
"""
SHAPES = """
    numbers = Concat <axis = 0> ($numbers)
    image_shape = Shape (image)
    n_images = Slice (image_shape, start, one, start, one)
    target = Concat <axis = 0> (n_images, one)
    as_floats = Cast <to = $kind> (numbers)
    row = Reshape (as_floats, one_row)
    rows = Expand (row, target)
"""


def add_scan(proto: onnx.ModelProto, taps: Sequence[Tap], double: bool, opset: int) -> None:
    """Append the nodes that measure `taps`, with one output, OUTPUT: (image, number), float32 or float64.

    A row holds the pieces of each tap's `fields`, tap after tap. double: whether the model computes in float64.
    """
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    # Each tap's row is joined to those before: this chain makes ONNX Runtime measure a tensor as soon as it is there.
    # One Concat of all makes it run the whole model first and keep every tensor (ResNet-50, 32 images: +1.2 GB).
    joined = ""
    for index, tap in enumerate(taps):
        graph = _Graph(proto, f"{PREFIX}.{index}", kind, opset)
        graph.append(*_program(tap, kind), {"tensor": tap.tensor})
        if joined:
            graph.append("joined = Concat <axis = 1> (before, row)", {}, {}, {"before": joined})
        joined = graph.named("joined" if joined else "row")
    _Graph(proto, PREFIX, kind, opset).append("rows = Identity (joined)", {}, {}, {"joined": joined})
    width = sum(tap.n_numbers for tap in taps)
    rows = helper.make_tensor_value_info(OUTPUT, kind, ["batch", width])
    proto.graph.output.append(rows)


def add_shapes(proto: onnx.ModelProto, tensors: Sequence[str], image: str, opset: int) -> None:
    """Append one output with the shapes of `tensors`, OUTPUT: (image, number), each row the same.

    A row holds the number of axes of each tensor, then the axes of all. image: the input.
    """
    of_graph = {"image": image}
    nodes = []
    n_axes = []
    shapes = []
    for i, tensor in enumerate(tensors):
        of_graph[f"tensor{i}"] = tensor
        nodes.append(f"shape{i} = Shape (tensor{i}) n_axes{i} = Shape (shape{i})")
        n_axes.append(f"n_axes{i}")
        shapes.append(f"shape{i}")
    numbers = ", ".join(n_axes + shapes)
    constants = {"start": [0], "one": [1], "one_row": [1, -1]}
    graph = _Graph(proto, PREFIX, TensorProto.FLOAT, opset)
    graph.append(" ".join([*nodes, SHAPES]), {"numbers": numbers}, constants, of_graph)
    rows = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", None])
    proto.graph.output.append(rows)


def read_shapes(row: Iterable[float], tensors: Sequence[str]) -> dict[str, Shape]:
    """Return the shapes in a row of `add_shapes`, by tensor."""
    numbers = map(int, row)
    n_axes = list(islice(numbers, len(tensors)))
    shapes = {}
    for name, n in zip(tensors, n_axes, strict=True):
        shapes[name] = tuple(islice(numbers, n))
    return shapes


def _program(tap: Tap, kind: int) -> tuple[str, Fields, Fields]:
    """Write the nodes of one tap; the pieces of its row have the names of `Tap.fields`.

    Returns the text, and what its placeholders and constants are.

    Feature maps are read by pooling, which ONNX Runtime does in the blocked layout of its convolutions: a map never
    has to be turned round as a whole.
    """
    n_features = tap.features
    n_rows = tap.n_measured
    magnitude = "values" if tap.rectified else "magnitude"
    words: Fields = {"magnitude": magnitude, "size": magnitude, "rows": "rows", "largest": "largest"}
    words |= {"perm": PERMUTATIONS.get(tap.form), "features": 1, "cells": 2}
    constants: Fields = {
        "zero": 0.0,
        "least_relative": MIN_RELATIVE_VARIANCE[kind],
        "outlier": OUTLIER_SD**2,
        "flat": [-1, n_features],
        "flat_map": [-1, n_features, n_rows],
        "one_row": [-1, 1, n_features],
        "all_cells": [1, 1, n_rows],
        "chosen_places": [0, -1, 1],
        "n_largest": [tap.fields["value"]],
        "upper_half": [n_features // 2 + 1],
        "two": [2],
        "start": [0],
        "one": [1],
        "end": [END],
        "step": [tap.median_step],
    }
    parts = [TURNED if tap.form in PERMUTATIONS else VALUES]
    if not tap.rectified:
        parts.append("magnitude = Abs (values)")
    highest = "values"
    if tap.form == "vector":
        parts.append("rows = Reshape (values, one_row)")
        words["largest"] = magnitude
    elif tap.form.startswith("tokens"):
        parts.append(OF_TOKENS)
        words |= {"rows": "values", "features": 2, "cells": 1}
        constants |= {"all_cells": [1, n_rows, 1], "chosen_places": [0, 1, -1]}
        if not tap.rectified:
            highest = "highest_of"
            parts.append("highest_of = ReduceMax <axes = [1], keepdims = 0> (values)")
    else:
        words |= {"size": "cells", "picked": "values", "pooled": magnitude}
        if max(tap.strides) > 1:
            # rounding up keeps the cell at the edge; a window of one position has none, and would get one too many
            words |= {"picked": "picked", "pooled": "pooled", "strides": list(tap.strides)}
            parts.append(POOLS)
        parts.append(OF_MAP)
        if not tap.rectified:
            highest = "highest_of"
            parts.append("maximum = GlobalMaxPool (values) highest_of = Reshape (maximum, flat)")
    # medians, over few rows
    few = words["rows"]
    if tap.median_step > 1:
        parts.append(f"some = Slice ({few}, start, end, one, step)")
        few = "some"
    if not tap.rectified:
        parts.append(f"few = Abs ({few})")
        few = "few"
    words["few"] = few
    parts.append(STATISTICS)
    parts.append(MEDIAN_OF_ODD if n_features % 2 else MEDIAN_OF_EVEN)
    parts.append(PLACES if tap.positions else NO_PLACES)
    if tap.class_token:
        parts.append(OF_CLASS)
    if not tap.rectified:
        parts.append(f"highest = GatherElements <axis = 1> ({highest}, chosen)")
    parts.append(f"row = Concat <axis = 1> ({', '.join(tap.fields)})")
    return " ".join(parts), words, constants


class _Graph(NamedTuple):
    """A graph to which nodes are appended under one prefix."""

    proto: onnx.ModelProto
    prefix: str
    kind: int
    """element type of the statistics"""
    opset: int

    def named(self, name: str) -> str:
        """Return the name in the graph of what the text calls `name`."""
        return f"{self.prefix}.{name}"

    def append(self, text: str, words: Fields, constants: Fields, tensors: Mapping[str, str]) -> None:
        """Append nodes.

        Args:
            text: the nodes, in ONNX's text.
            words: what its placeholders are.
            constants: by their names in the text: integers, or a number of the statistics' type.
            tensors: by their names in the text, tensors of the graph.
        """
        text = Template(text).substitute(words, kind=self.kind)
        nodes = parser.parse_graph(f"nodes () => () {{ {text} }}").node
        for node in nodes:
            if node.op_type.startswith("Reduce") and self.opset >= AXES_ARE_INPUTS.get(node.op_type, 18):
                (axes,) = (attribute for attribute in node.attribute if attribute.name == "axes")
                node.attribute.remove(axes)
                node.input.append(f"axis{axes.ints[0]}")
        read = {name for node in nodes for name in node.input}
        for name, value in ({"axis1": [1], "axis2": [2]} | dict(constants)).items():
            if name in read:
                numbers = np.float64 if self.kind == TensorProto.DOUBLE else np.float32
                dtype = np.int64 if isinstance(value, list) else numbers
                constant = numpy_helper.from_array(np.asarray(value, dtype), self.named(name))
                self.proto.graph.initializer.append(constant)
        for node in nodes:
            node.name = self.named(node.output[0])
            node.input[:] = [tensors.get(name, self.named(name)) for name in node.input]
            node.output[:] = map(self.named, node.output)
        self.proto.graph.node.extend(nodes)
