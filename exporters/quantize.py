"""Makes an fp32 ONNX file smaller with ONNX Runtime: fp16, int8 dynamically, or int8 with Quantize/Dequantize pairs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import parity, preprocess
from .errors import USAGE, ExportError, first_line
from .messages import Messages

if TYPE_CHECKING:
    import onnx

Transform = Callable[[Image.Image], NDArray[np.float32]]  # PIL image → (channel, height, width)

CALIBRATION_PHOTOS = 128  # used at most; more hardly widen a range
FEWEST_CALIBRATION_PHOTOS = 16  # ranges of fewer photos cut off what the next ones have
QUANTISING_NODES = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_INFERRED_KEY = "onnx.infer"  # ONNX Runtime's mark in metadata_props


def calibration_photos(precision: str, given: Sequence[Path], parity_photos: Sequence[Path]) -> list[Path]:
    """The photos that ranges are taken from: at most CALIBRATION_PHOTOS, none of those that parity is measured on.

    Args:
        precision: one of contract.PRECISIONS; only int8-qdq is calibrated.
        given: image files; empty for every other precision.
        parity_photos: of them the first parity.PHOTOS are used there.

    Raises:
        ExportError: photos for a precision without calibration, or too few of them (exit 2).
    """
    if precision != "int8-qdq":
        if given:
            raise ExportError(
                f"number of calibration photos is {len(given)}; only int8-qdq uses them, and the precision is "
                f"{precision}",
                "--precision int8-qdq",
                exit_code=USAGE,
            )
        return []
    taken = {Path(photo).resolve() for photo in parity_photos[: parity.PHOTOS]}
    left = [photo for photo in given if Path(photo).resolve() not in taken]
    if len(left) < FEWEST_CALIBRATION_PHOTOS:
        raise ExportError(
            f"number of calibration photos is {len(left)} beside the {len(taken)} of the parity check; "
            f"int8-qdq needs at least {FEWEST_CALIBRATION_PHOTOS}",
            "--calibration-images FOLDER",
            exit_code=USAGE,
        )
    return left[:CALIBRATION_PHOTOS]


def quantise(
    draft: Path, precision: str, photos: Sequence[Path], transform: Transform, *, name: str, messages: Messages
) -> onnx.ModelProto:
    """Replace an fp32 file, alone with its weights in a folder of its own, by its int8 form; return the graph.

    int8-dynamic: int8 weights, one scale a tensor; activations are scaled in every run, over the whole batch. Depthwise
    convolutions and those on the image stay float: with one scale for all their channels they lose most (measured on
    EfficientNet-Lite0: cosine 0.78 with them, 0.976 without).
    int8-qdq: int8 weights, one scale a channel; activations are scaled by the smallest and largest value over `photos`.
    No percentile is cut off: what lies far out is what this project looks for.
    The outputs keep their names and stay float32. Weights beside the file stay beside it.

    Args:
        draft: the fp32 file. photos: for int8-qdq. transform: how a photo becomes the input.
        name: of the model, for messages. messages: where the quantiser's words go; the caller holds `quiet()`.

    Raises:
        ExportError: a photo is unreadable (exit 2); the quantiser refuses the graph, or finds no layer that it can
            quantise (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    beside = draft.with_name(draft.name + ".data")
    proto = onnx.load(draft, load_external_data=False)
    # the exporter's shapes say more than the quantiser can infer, and it takes the difference for a conflict
    del proto.graph.value_info[:]
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"node_{index}"
    draft.write_bytes(proto.SerializeToString())
    quantised = draft.parent / "int8" / draft.name
    quantised.parent.mkdir()
    options: dict[str, Any] = {"weight_type": QuantType.QInt8, "use_external_data_format": beside.exists()}
    try:
        if precision == "int8-dynamic":
            quantize_dynamic(draft, quantised, nodes_to_exclude=_delicate(proto), **options)
        else:
            quantize_static(
                draft,
                quantised,
                _reader(photos, transform, proto.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                per_channel=True,
                **options,
            )
    except (ExportError, MemoryError, OSError):
        raise
    except Exception as error:  # the quantiser raises whatever its parts raise; all of it means the same
        raise ExportError(
            f"{name}: ONNX Runtime could not quantise it to {precision} ({first_line(error)}){messages.quoted()}",
            "--precision fp16, or another opset: onnx.version_converter",
        ) from error
    result = onnx.load(quantised, load_external_data=False)
    if not any(node.op_type in QUANTISING_NODES for node in result.graph.node):
        raise ExportError(
            f"{name}: number of layers that ONNX Runtime can quantise is 0; {precision} would be the fp32 model",
            "--precision fp16",
        )
    properties = [(prop.key, prop.value) for prop in result.metadata_props if prop.key != _INFERRED_KEY]
    del result.metadata_props[:]
    for key, value in properties:
        result.metadata_props.add(key=key, value=value)
    beside.unlink(missing_ok=True)
    quantised.replace(draft)
    if (weights := quantised.with_name(beside.name)).exists():
        weights.replace(beside)
    draft.write_bytes(result.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(draft))
    return result


def halve(draft: Path, *, name: str) -> onnx.ModelProto:
    """Replace an fp32 file, alone with its weights in a folder of its own, by its fp16 form; return the graph.

    Weights and arithmetic are float16; inputs, outputs and operators that ONNX Runtime's converter leaves alone stay
    float32. Weights beside the file stay beside it.

    Args:
        draft: the fp32 file. name: of the model, for messages.

    Raises:
        ExportError: the converter refuses the graph (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    beside = draft.with_name(draft.name + ".data")
    try:
        converted = OnnxModel(onnx.load(draft))
        converted.convert_float_to_float16(use_symbolic_shape_infer=False, keep_io_types=True)
        converted.topological_sort()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converter raises whatever its parts raise; all of it means the same
        raise ExportError(
            f"{name}: ONNX Runtime could not convert it to fp16 ({first_line(error)})",
            "--precision int8-qdq, or export the model again from its own library",
        ) from error
    big = beside.exists()
    beside.unlink(missing_ok=True)
    onnx.save(converted.model, draft, save_as_external_data=big, location=beside.name)
    onnx.checker.check_model(str(draft))
    return onnx.load(draft, load_external_data=False)


def _delicate(proto: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that one scale for all channels would ruin: grouped ones, and those on the image."""
    images = {value.name for value in proto.graph.input}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv"
        and (node.input[0] in images or any(a.name == "group" and a.i > 1 for a in node.attribute))
    ]


def _reader(photos: Sequence[Path], transform: Transform, input_name: str) -> Any:
    """The photos one by one, as ONNX Runtime's calibration asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    def feeds() -> Iterator[dict[str, NDArray[np.float32]]]:
        for path in photos:
            why, hint = "ranges are taken from real photos", f"ls -l {shlex.quote(str(path))}"
            image = preprocess.open_photo(path, "calibration photo", why, hint)
            yield {input_name: np.ascontiguousarray(transform(image)[None], dtype=np.float32)}

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # no type information is shipped
        def __init__(self) -> None:
            self.feeds = feeds()

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.feeds, None)

    return Reader()
