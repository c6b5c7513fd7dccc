"""Forms by how the file was exported (exporter, opset, batch, size, image input), and by the depth of the trunk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import onnx
import onnx.version_converter
import torch
from onnx import TensorProto, helper
from torch import Tensor

from robustcheck_onnx.checker.core.model.refusals import supported_versions

from .encoder import PREPROCESSING, SIZE_PX, planted_encoder
from .form import IMAGE, REFUSES, Form, changed, encoder, exported

OLDEST = 11
LEGACY = range(OLDEST, 21)  # torch's legacy exporter ends at 20
DYNAMO = (18, 19, 20, 21, 22, 23, 24)
PIXELS = PREPROCESSING.model_copy(update={"rescale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
ANY_SIZE = {0: "batch", 2: "height", 3: "width"}


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    yield Form("plain", "torch's legacy exporter, opset 18, fp32, any batch", exported())
    for opset in LEGACY:
        yield Form(f"legacy, opset {opset}", "torch.onnx.export(dynamo=False)", exported(opset=opset))
    for opset in DYNAMO:
        yield Form(f"dynamo, opset {opset}", "torch.onnx.export(dynamo=True)", exported(opset=opset, dynamo=True))
    newest = supported_versions()[0] or max(DYNAMO)
    for opset in range(OLDEST + 1, newest + 1):
        yield Form(
            f"converted from opset {OLDEST} to {opset}",
            "onnx.version_converter",
            changed(partial(_converted, opset=opset), OLDEST),
        )
    yield from _exporters()
    yield from _batches_and_sizes()
    yield from _inputs()
    yield from _trunks()


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    converted: onnx.ModelProto = onnx.version_converter.convert_version(model, opset)
    return converted


def _exporters() -> Iterator[Form]:
    yield Form("legacy, no constant folding", "do_constant_folding=False", exported(do_constant_folding=False))
    yield Form(
        "legacy, weights as inputs too", "keep_initializers_as_inputs=True", exported(keep_initializers_as_inputs=True)
    )
    yield Form("dynamo, not optimised", "optimize=False", exported(dynamo=True, optimize=False))
    yield Form(
        "dynamo, external data",
        "as dynamo writes it by itself: model.onnx.data",
        exported(dynamo=True, external_data=True),
    )
    yield Form("dynamo, batch fixed to 2", "no dynamic_shapes", exported(dynamo=True, axes=None))


def _batches_and_sizes() -> Iterator[Form]:
    for batch in (1, 2, 8):
        image = torch.zeros(batch, 3, SIZE_PX, SIZE_PX)
        yield Form(f"batch {batch} alone", "no dynamic_axes", exported(axes=None, image=image))
    yield Form("any height and width", "positions interpolated", exported(of=_moving, axes=ANY_SIZE))
    yield Form(
        "any height and width, dynamo", "positions interpolated", exported(of=_moving, axes=ANY_SIZE, dynamo=True)
    )
    yield Form(
        "batch 1, any height and width",
        "positions interpolated",
        exported(of=_moving, axes={2: "height", 3: "width"}, image=torch.zeros(1, 3, SIZE_PX, SIZE_PX)),
    )
    yield Form("all four axes open", "also the channels", exported(of=_moving, axes={**ANY_SIZE, 1: "channels"}))
    yield Form("sizes of -1", "dim_value −1 for the batch", changed(_minus_one))
    yield Form(
        "sizes of 0",
        "dim_value 0 for the batch",
        changed(_zero),
        ("exit 3",),
        "ONNX Runtime takes the 0 at its word",
        says=REFUSES,
    )


def _moving() -> torch.nn.Module:
    return encoder(moves=True)


def _minus_one(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1


def _zero(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 0


def _inputs() -> Iterator[Form]:
    nhwc = torch.zeros(2, SIZE_PX, SIZE_PX, 3)
    nchw_bytes, nhwc_bytes = torch.zeros(2, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8), nhwc.to(torch.uint8)

    def scaled(x: Tensor) -> Tensor:
        return (x.float() / 255 - 0.5) / 0.5

    def front(x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    own: dict[str, Any] = {"preprocessing": PIXELS}
    yield Form("NHWC", "a Transpose first", exported(front, image=nhwc))
    yield Form(
        "NHWC, any size",
        "a Transpose first, all axes open",
        exported(front, of=_moving, image=nhwc, axes={0: "n", 1: "h", 2: "w", 3: "c"}),
    )
    yield Form("uint8", "Cast, Div, Sub, Div in the graph", exported(scaled, image=nchw_bytes), **own)
    yield Form(
        "uint8, NHWC", "the same behind a Transpose", exported(lambda x: scaled(front(x)), image=nhwc_bytes), **own
    )
    yield Form(
        "uint8, NHWC, scaled first",
        "the same before the Transpose",
        exported(lambda x: front(scaled(x)), image=nhwc_bytes),
        **own,
    )
    yield Form("0 to 255, float", "Div, Sub, Div in the graph", exported(scaled), **own)
    yield Form(
        "0 to 255, float, one Mul and one Add",
        "the normalisation folded",
        exported(lambda x: x * (2 / 255) + -1.0),
        **own,
    )
    yield Form(
        "0 to 1, float",
        "Sub and Div by channel in the graph",
        exported(lambda x: (x - torch.full((1, 3, 1, 1), 0.5)) / torch.full((1, 3, 1, 1), 0.5)),
        preprocessing=PREPROCESSING.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    )
    yield Form(
        "BGR",
        "channels turned in the graph",
        exported(lambda x: x[:, [2, 1, 0]]),
        preprocessing=PREPROCESSING.model_copy(update={"color_order": "BGR"}),
    )
    grey = torch.zeros(2, 1, SIZE_PX, SIZE_PX)
    yield Form("grey", "one channel", exported(of=lambda: encoder(1), image=grey))
    yield Form("float16 input", "Cast first", exported(lambda x: x.float(), image=torch.zeros(2, 3, 64, 64).half()))
    yield Form("float64 input", "Cast first", exported(lambda x: x.float(), image=torch.zeros(2, 3, 64, 64).double()))
    yield Form("bfloat16 input", "Cast first", changed(_bfloat16_input))
    yield Form(
        "the image of rank unknown",
        "the input's shape is left out",
        changed(_no_shape),
        ("PASS", "exit 3"),
        "nothing says that the input is an image",
        says="image input",
    )
    yield Form("input called 'input.1'", "as torch names it", exported(image_name="input.1"))


def _bfloat16_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == IMAGE:
                node.input[index] = "image_float"
    model.graph.node.insert(0, helper.make_node("Cast", [IMAGE], ["image_float"], to=TensorProto.FLOAT))


def _no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _trunks() -> Iterator[Form]:
    for blocks, gated in ((12, True), (24, True), (48, False)):
        name = f"{blocks} blocks{' with SwiGLU' if gated else ''}"
        deep = exported(of=partial(planted_encoder, blocks=blocks, gated=gated))
        yield Form(name, "as EVA-02 and DINOv2-g have" if gated else "deep", deep)
