"""Make the fp16 or int8 form of an fp32 file. ONNX Runtime does it. Needs no torch and no model library."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from . import contract, write
from .contract import Array, Fields, Photos, Source, graph_digest
from .errors import CallError, ExportError, MissingError, Tell, first_line, ignore_progress, quiet, quoted

if TYPE_CHECKING:
    import onnx

Transform = Callable[[Image.Image], Array]  # PIL image → (channel, height, width)

CALIBRATION_PHOTOS = 128  # used at most; more hardly widen a range
FEWEST_CALIBRATION_PHOTOS = 16  # ranges of fewer photos cut off what the next ones have
_QUANTISING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_QUANTISED = _QUANTISING | {"MatMulInteger", "ConvInteger", "QLinearConv"}
_INFERRED_KEY = "onnx.infer"  # ONNX Runtime's mark in metadata_props


def quantise_file(
    path: Path,
    out: Path,
    *,
    precision: str,
    photos: Photos,
    calibration: Photos,
    matched_to: str | None = None,
    tell: Tell = ignore_progress,
) -> write.ExportRecord:
    """Write the fp16 or int8 form of a file. It is an fp32 file with its contract.

    Parity is measured against the fp32 file, run photo by photo on ONNX Runtime's CPU provider.

    Args:
        path: the fp32 file. out: another one, ends in .onnx.
        precision: fp16, int8-dynamic or int8-qdq.
        photos: at least 5 image files for parity. calibration: image files for int8-qdq.
        tell: as for `run.run`.
        matched_to: as for `run.run`; only where the file's contract does not say otherwise.

    Raises:
        ExportError: 2 for the call, 3 when the file can't be read or no faithful file can be made, 4 for the disk.
            Nothing is left.
    """
    write.check_call(out, precision, photos)
    if precision == "fp32":
        raise CallError(
            f"--precision is fp32; an ONNX file is made smaller: {', '.join(contract.PRECISIONS[1:])}",
            shlex.join(["robustcheck", "export", "onnx", str(path), "--precision", contract.INT8[-1], "-o", str(out)]),
        )
    chosen = calibration_photos(precision, calibration, photos)
    tell(f"opening {path.name}")
    proto, content = _opened(path)
    if matched_to is not None:
        already = content["source"].get("matched_to")
        if already not in (None, matched_to):
            raise CallError(
                f"--matched-to is {matched_to}; the contract in {path} says {already}",
                "leave out --matched-to, or export the model again from its own library",
            )
        content["source"]["matched_to"] = matched_to
    _check_target(path, out, proto)
    _check_fp32(path, proto, content["precision"])
    fields = contract.checked_preprocessing(content["preprocessing"], str(path))

    def transform(image: Image.Image) -> Array:
        return contract.preprocess(fields, image)

    prepared = [transform(contract.open_photo(photo, *write.PARITY_PHOTO)) for photo in photos[: write.PHOTOS]]
    if len(sizes := {image.shape for image in prepared}) > 1:
        raise ExportError(
            f"{path}: preprocessing leaves photos in {len(sizes)} sizes; parity is measured on batches, which need "
            "one size",
            f"robustcheck export onnx {quoted(path)} --parity-images FOLDER_OF_PHOTOS_OF_ONE_SIZE",
        )
    there = [output.name for output in proto.graph.output]
    if absent := [output for output in content["tensors"] if output not in there]:
        raise ExportError(
            f"{path}: contract names the output {absent[0]}, which the graph does not have ({', '.join(there)})",
            f"robustcheck inspect {quoted(path)}",
        )
    tell("running the original on the photos")
    references = _references(path, proto.graph.input[0].name, prepared, sorted(content["tensors"], key=there.index))

    def draw(draft: Path) -> onnx.ModelProto:
        _copy(path, proto, draft)
        tell("quantising")
        if precision == "fp16":
            return halve(draft, name=str(path))
        return quantise(draft, precision, chosen, transform, name=str(path))

    return write.deliver(
        out,
        draw,
        content | {"versions": content["versions"] | contract.versions()},
        np.stack(prepared),
        references,
        precision=precision,
        calibrated_on=len(chosen),
        tell=tell,
    )


def calibration_photos(precision: str, given: Photos, parity_photos: Photos) -> list[Path]:
    """Return the photos for quantisation ranges. Those of the parity check are left out.

    Args:
        precision: one of contract.PRECISIONS; only int8-qdq is calibrated.
        given: image files; empty for every other precision.
        parity_photos: of them the first write.PHOTOS are used there.

    Raises:
        ExportError: photos for a precision without calibration, or too few of them (exit 2).
    """
    if precision != "int8-qdq":
        if given:
            raise CallError(
                f"number of calibration photos is {len(given)}; only int8-qdq uses them, and the precision is "
                f"{precision}",
                "--precision int8-qdq",
            )
        return []
    taken = {photo.resolve() for photo in parity_photos[: write.PHOTOS]}
    left = [photo for photo in given if photo.resolve() not in taken]
    if len(left) < FEWEST_CALIBRATION_PHOTOS:
        raise CallError(
            f"number of calibration photos is {len(left)} next to the {len(taken)} of the parity check; "
            f"int8-qdq needs at least {FEWEST_CALIBRATION_PHOTOS}",
            "--calibration-images FOLDER",
        )
    return left[:CALIBRATION_PHOTOS]


def quantise(draft: Path, precision: str, photos: Photos, transform: Transform, *, name: str) -> onnx.ModelProto:
    """Replace an fp32 file by its int8 form. It is alone with its weights in a folder; returns the graph.

    int8-dynamic: int8 weights, one scale a tensor; activations are scaled in every run, over the whole batch. Depthwise
    convolutions and those on the image stay float: with one scale for all their channels they lose most (measured on
    EfficientNet-Lite0: cosine 0.78 with them, 0.976 without).
    int8-qdq: int8 weights, one scale a channel; activations are scaled by the smallest and largest value over `photos`.
    No percentile is cut off: what lies far out is what this project looks for.
    The outputs keep their names and stay float32. Weights next to the file stay there.

    Args:
        draft: the fp32 file. photos: for int8-qdq. transform: how a photo becomes the input.
        name: of the model, for messages.

    Raises:
        ExportError: a photo is unreadable (exit 2); the quantiser refuses the graph, or finds no layer that it can
            quantise (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    weights = write.data_of(draft)
    proto = onnx.load(draft, load_external_data=False)
    # the exporter's shapes say more than the quantiser can infer, and it takes the difference for a conflict
    del proto.graph.value_info[:]
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"node_{index}"
    draft.write_bytes(proto.SerializeToString())
    quantised = draft.parent / "int8" / draft.name
    quantised.parent.mkdir()
    options: Fields = {"weight_type": QuantType.QInt8, "use_external_data_format": weights.exists()}
    with quiet() as messages:
        try:
            if precision == "int8-dynamic":
                # convolutions that one scale for all channels would ruin
                images = {value.name for value in proto.graph.input}
                delicate = [
                    node.name
                    for node in proto.graph.node
                    if node.op_type == "Conv"
                    and (node.input[0] in images or any(a.name == "group" and a.i > 1 for a in node.attribute))
                ]
                quantize_dynamic(draft, quantised, nodes_to_exclude=delicate, **options)
            else:
                options |= {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8, "per_channel": True}
                quantize_static(draft, quantised, _reader(photos, transform, proto.graph.input[0].name), **options)
        except (ExportError, MemoryError, OSError):
            raise
        except Exception as error:  # the quantiser raises whatever its parts raise; all of it means the same
            raise ExportError(
                f"{name}: ONNX Runtime could not quantise it to {precision} ({first_line(error)}){messages.quoted()}",
                "--precision fp16, or another opset: onnx.version_converter",
            ) from error
    result = onnx.load(quantised, load_external_data=False)
    if not any(node.op_type in _QUANTISING for node in result.graph.node):
        raise ExportError(
            f"{name}: number of layers that ONNX Runtime can quantise is 0; {precision} would be the fp32 model",
            "--precision fp16",
        )
    contract.keep_metadata(result, _INFERRED_KEY.__ne__)
    weights.unlink(missing_ok=True)
    for file in quantised.parent.iterdir():
        file.replace(draft.with_name(file.name))
    draft.write_bytes(result.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(draft))
    return result


def halve(draft: Path, *, name: str) -> onnx.ModelProto:
    """Replace an fp32 file by its fp16 form. It is alone with its weights in a folder; returns the graph.

    Weights and arithmetic are float16; inputs, outputs and operators that ONNX Runtime's converter leaves alone stay
    float32. Weights next to the file stay there.

    Args:
        draft: the fp32 file. name: of the model, for messages.

    Raises:
        ExportError: the converter refuses the graph (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    weights = write.data_of(draft)
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
    big = weights.exists()
    weights.unlink(missing_ok=True)
    onnx.save(converted.model, draft, save_as_external_data=big, location=weights.name)
    onnx.checker.check_model(str(draft))
    return onnx.load(draft, load_external_data=False)


def _opened(path: Path) -> tuple[onnx.ModelProto, Fields]:
    """Return the graph without its external weights, and its contract."""
    import onnx
    from onnx import inliner

    folder, hint = f"ls -l {quoted(path.parent)}", f"robustcheck inspect {quoted(path)}"
    if not path.is_file():
        raise CallError(f"{path}: ONNX file is missing; the source onnx quantises an existing file", folder)
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise MissingError(f"{path}: ONNX file is unreadable ({error.strerror or error})", f"ls -l {path}") from error
    except Exception as error:  # protobuf's DecodeError is one of several
        raise ExportError(f"{path}: file is not an ONNX model ({first_line(error)})", hint) from error
    if not proto.graph.input or not proto.graph.output:
        raise ExportError(f"{path}: graph has no input or no output; it must have both", hint)
    texts = [prop.value for prop in proto.metadata_props if prop.key == contract.METADATA_KEY]
    if not texts:
        raise ExportError(
            f"{path}: contract is missing; to quantise it, robustcheck must know how photos become its input",
            'export it with `robustcheck export`, or write the contract as the page "Your ONNX file" says',
        )
    try:
        content = json.loads(texts[-1])
        stated = content["schema_version"]
        complete = type(stated) is int and stated == contract.SCHEMA_VERSION and "representation" in content["tensors"]
        Source(**content["source"])
        for key, kind in (("preprocessing", dict), ("versions", dict), ("precision", str)):
            complete &= isinstance(content[key], kind)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ExportError(f"{path}: contract is damaged ({type(error).__name__}: {error})", hint) from error
    if not complete:
        raise ExportError(f"{path}: contract does not match schema {contract.SCHEMA_VERSION}", hint)
    if (stated_digest := content.get("graph_digest")) is not None:
        try:
            digest = graph_digest(proto, path.parent)
        except (OSError, ValueError, KeyError) as error:
            raise ExportError(f"{path}: weights are unreadable ({error})", folder) from error
        if digest != stated_digest:  # the new file's contract would hide the change
            raise ExportError(
                f"{path}: graph or weights are not those that its contract was written for; changed after the export",
                "export the model again, or write a new contract (the page 'Your ONNX file' says how)",
            )
    return inliner.inline_local_functions(proto) if proto.functions else proto, content


def _external(proto: onnx.ModelProto) -> set[str]:
    """Return the names of the files with external weights."""
    entries = (entry for tensor in proto.graph.initializer if tensor.data_location for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _check_target(path: Path, out: Path, proto: onnx.ModelProto) -> None:
    """Refuse to write over the file or its weights."""
    read = [path, *(path.parent / location for location in _external(proto))]
    for written in (out, write.data_of(out)):
        if any(
            written.resolve() == each.resolve() or (written.exists() and each.exists() and written.samefile(each))
            for each in read
        ):
            raise CallError(
                f"{out}: target is the file that is quantised, or its weights; it must be another file",
                f"-o {quoted(path.with_name(path.stem + '-int8.onnx'))}",
            )


def _check_fp32(path: Path, proto: onnx.ModelProto, precision: str) -> None:
    import onnx

    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if any(node.op_type in _QUANTISED for node in proto.graph.node):
        precision = precision if precision in contract.INT8 else "int8"
    elif any(weight.data_type in halves for weight in proto.graph.initializer):
        precision = "fp16"
    if precision != "fp32":
        raise CallError(
            f"{path}: precision is {precision}; fp16 and int8 are made from an fp32 file",
            "export the model again with --precision fp32, and quantise that file",
        )


def _references(path: Path, input_name: str, images: Sequence[Array], outputs: list[str]) -> dict[str, Array]:
    """Run the fp32 file photo by photo."""
    runs = write.run_file(
        path,
        outputs,
        [{input_name: image[None]} for image in images],
        f"{path}: ONNX Runtime could not run it",
        f"robustcheck inspect {quoted(path)}",
    )
    rows = {name: np.concatenate(values) for name, values in zip(outputs, zip(*runs, strict=True), strict=True)}
    for name, values in rows.items():
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ExportError(
                f"{path}: output {name} is not finite, or not an array (image, feature)", "check the weights"
            )
    return rows


def _copy(path: Path, proto: onnx.ModelProto, draft: Path) -> None:
    """Write the graph to `draft`. Its weights lie next to it where they are too big."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    if _external(proto):
        load_external_data_for_model(proto, str(path.parent))  # refuses a path that leaves the folder
    big = sum(len(weight.raw_data) for weight in proto.graph.initializer) > write.INLINE_LIMIT_BYTES
    onnx.save(proto, draft, save_as_external_data=big, location=draft.name + ".data")


def _reader(photos: Photos, transform: Transform, input_name: str) -> Any:
    """Return the photos one by one. ONNX Runtime's calibration asks for them so."""

    def feeds() -> Iterator[dict[str, Array]]:
        for path in photos:
            hint = f"ls -l {quoted(path)}"
            image = contract.open_photo(path, "calibration photo", "ranges are taken from real photos", hint)
            yield {input_name: np.ascontiguousarray(transform(image)[None], dtype=np.float32)}

    left = feeds()
    return SimpleNamespace(get_next=lambda: next(left, None))
