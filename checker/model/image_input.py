"""Find the one image input of a graph: its name, layout, type and sizes, or say why there is none."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError

from .pooling import show_shape

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.UINT8: "uint8",
}
INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.STRING)
ELEMENTWISE_OPS = frozenset(("Cast", "Sub", "Mul", "Div", "Add", "Identity", "DequantizeLinear", "QuantizeLinear"))


@dataclass(frozen=True)
class ImageInput:
    """The input of the graph that takes the pixels."""

    name: str
    layout: str
    """NCHW or NHWC"""
    dtype: str
    """float32, float16, float64 or uint8"""
    batch: int | None
    """None: any number of images"""
    height: int | None
    width: int | None
    channels: int | None
    """3, or None where the file leaves it open"""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width (px); None where the file leaves one open."""
        return None if self.height is None or self.width is None else (self.height, self.width)


def find_image_input(graph: onnx.GraphProto, weights: AbstractSet[str], where: str) -> ImageInput:
    """Find the only input that isn't a weight, and check that it takes RGB images.

    Raises:
        UsageError: several inputs.
        CannotAssessError: no input; a text encoder; no 4-D image input; not 3 colour channels; bfloat16.
    """
    inputs = [value for value in graph.input if value.name not in weights]
    listed = ", ".join(_describe(value) for value in inputs) or "none"
    images = [value for value in inputs if len(_shape(value) or ()) == 4 and _kind(value) not in INTEGERS]
    hint = "export the vision encoder alone: robustcheck export --help"
    if not images and any(_kind(value) in INTEGERS for value in inputs):
        raise CannotAssessError(
            f"{where}: input is {listed}: a text encoder; an image input (batch, 3, height, width) is needed",
            hint,
        )
    if not images:
        raise CannotAssessError(f"{where}: input is {listed}; an image input (batch, 3, height, width) is needed", hint)
    if len(inputs) > 1:
        raise UsageError(f"{where}: inputs are {listed}; exactly one image input can be fed", hint)
    (value,) = images
    shape = _shape(value) or ()
    layout = _layout(graph, value.name, shape)
    channels = shape[1 if layout == "NCHW" else 3]
    if channels not in (3, None):
        raise CannotAssessError(f"{where}: input {listed} has {channels} channels; photos have 3", hint)
    if _kind(value) not in DTYPES:
        raise CannotAssessError(
            f"{where}: input {listed} is of type {TensorProto.DataType.Name(_kind(value)).lower()}; float32, "
            "float16, float64 and uint8 can be fed",
            "export with float32 inputs",
        )
    height, width = (shape[2], shape[3]) if layout == "NCHW" else (shape[1], shape[2])
    return ImageInput(value.name, layout, DTYPES[_kind(value)], shape[0], height, width, channels)


def _kind(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    # some exporters write -1 or 0 for "any"
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)


def _describe(value: onnx.ValueInfoProto) -> str:
    kind = TensorProto.DataType.Name(_kind(value)).lower() if _kind(value) else "unknown"
    return f"{value.name} {kind} {show_shape(_shape(value))}"


def _layout(graph: onnx.GraphProto, name: str, shape: tuple[int | None, ...]) -> str:
    if shape[1] is not None or shape[3] is not None:
        return "NHWC" if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) else "NCHW"
    # all sizes open: a graph that first moves the last axis to the front takes NHWC; ONNX's own is NCHW
    names = {name}
    for node in graph.node:
        if names & set(node.input):
            if node.op_type == "Transpose":
                orders = [tuple(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
                return "NHWC" if orders == [(0, 3, 1, 2)] else "NCHW"
            if node.op_type in ELEMENTWISE_OPS:
                names.update(node.output)
    return "NCHW"
