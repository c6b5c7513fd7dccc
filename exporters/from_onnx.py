"""Makes the fp16 or int8 form of a file that was exported as fp32. Needs no torch and no model library."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import contract, parity, preprocess, quantize, write
from .contract import Source
from .digest import graph_digest
from .errors import ENVIRONMENT, USAGE, ExportError
from .messages import quiet, untold

if TYPE_CHECKING:
    import onnx

_QUANTISED = (*quantize.QUANTISING_NODES, "MatMulInteger", "ConvInteger", "QLinearConv")


def quantise_file(
    path: Path,
    out: Path,
    *,
    precision: str,
    photos: Sequence[Path],
    calibration: Sequence[Path],
    matched_to: str | None = None,
    tell: Callable[[str], None] = untold,
) -> write.ExportRecord:
    """Write the fp16 or int8 form of a file that `robustcheck export` wrote as fp32; its contract comes along.

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
        raise ExportError(
            f"--precision is fp32; an ONNX file is made smaller: {', '.join(contract.PRECISIONS[1:])}",
            shlex.join(["robustcheck", "export", "onnx", str(path), "--precision", contract.INT8[-1], "-o", str(out)]),
            exit_code=USAGE,
        )
    chosen = quantize.calibration_photos(precision, calibration, photos)
    tell(f"opening {path.name}")
    proto, read = _opened(path)
    _say_matched(path, read["source"], matched_to)
    _check_target(path, out, proto)
    _check_fp32(path, proto, read)
    fields = contract.checked_preprocessing(read["preprocessing"], str(path))
    prepared = [
        preprocess.apply(fields, preprocess.open_photo(photo, *write.PARITY_PHOTO)) for photo in photos[: parity.PHOTOS]
    ]
    if len(sizes := {image.shape for image in prepared}) > 1:
        raise ExportError(
            f"{path}: preprocessing leaves photos in {len(sizes)} sizes; parity is measured on batches, which need "
            "one size",
            f"robustcheck export onnx {shlex.quote(str(path))} --parity-images FOLDER_OF_PHOTOS_OF_ONE_SIZE",
        )
    images = np.stack(prepared)
    there = [output.name for output in proto.graph.output]
    if absent := [output for output in read["tensors"] if output not in there]:
        raise ExportError(
            f"{path}: contract names the output {absent[0]}, which the graph does not have ({', '.join(there)})",
            f"robustcheck inspect {shlex.quote(str(path))}",
        )
    outputs = sorted(read["tensors"], key=there.index)
    tell("running the original on the photos")
    references = _references(path, proto.graph.input[0].name, images, outputs)
    try:
        with tempfile.TemporaryDirectory(prefix=".robustcheck-export-", dir=out.parent) as folder, quiet() as messages:
            draft = Path(folder) / out.name
            _copied(path, proto, draft)

            def transform(image: Image.Image) -> NDArray[np.float32]:
                return preprocess.apply(fields, image)

            tell("quantising")
            if precision == "fp16":
                model = quantize.halve(draft, name=str(path))
            else:
                model = quantize.quantise(draft, precision, chosen, transform, name=str(path), messages=messages)
            input_name = model.graph.input[0].name
            tell("comparing the file with the original")
            agreed = parity.measure(draft, images, references, precision=precision, input_name=input_name)
            read |= {"precision": precision, "parity": agreed.for_contract()}
            read["versions"] = {**read["versions"], **contract.versions((), libraries=())}
            return write.finish(draft, out, model, read, references, agreed, messages, calibrated_on=len(chosen))
    except OSError as error:
        raise write.disk_error(out, error) from error


def _opened(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph without its external weights, and its contract."""
    import onnx
    from onnx import inliner

    if not path.is_file():
        raise ExportError(
            f"{path}: ONNX file is missing; the source onnx quantises an existing file",
            f"ls -l {shlex.quote(str(path.parent))}",
            exit_code=USAGE,
        )
    hint = f"robustcheck inspect {shlex.quote(str(path))}"
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ExportError(
            f"{path}: ONNX file is unreadable ({error.strerror or error})", f"ls -l {path}", exit_code=ENVIRONMENT
        ) from error
    except Exception as error:  # protobuf's DecodeError is one of several
        raise ExportError(f"{path}: file is no ONNX model ({str(error).splitlines()[0]})", hint) from error
    if not proto.graph.input or not proto.graph.output:
        raise ExportError(f"{path}: graph has no input or no output; it must have both", hint)
    texts = [prop.value for prop in proto.metadata_props if prop.key == contract.METADATA_KEY]
    if not texts:
        raise ExportError(
            f"{path}: contract is missing; to quantise it, robustcheck must know how photos become its input",
            'export it with `robustcheck export`, or write the contract as the page "The ONNX contract" says',
        )
    try:
        read = json.loads(texts[-1])
        stated = read["schema_version"]
        complete = type(stated) is int and stated == contract.SCHEMA_VERSION and "representation" in read["tensors"]
        Source(**read["source"])
        preprocessing, versions, precision = read["preprocessing"], read["versions"], read["precision"]
        complete &= isinstance(preprocessing, dict) and isinstance(versions, dict) and isinstance(precision, str)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ExportError(f"{path}: contract is damaged ({type(error).__name__}: {error})", hint) from error
    if not complete:
        raise ExportError(f"{path}: contract breaks schema {contract.SCHEMA_VERSION}", hint)
    _check_unchanged(path, proto, read.get("graph_digest"))
    return inliner.inline_local_functions(proto) if proto.functions else proto, read


def _check_unchanged(path: Path, proto: onnx.ModelProto, said: str | None) -> None:
    """Refuse what the contract was not written for: the new file's contract would hide the change."""
    if said is None:
        return
    try:
        found = graph_digest(proto, path.parent)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(
            f"{path}: weights are unreadable ({error})", f"ls -l {shlex.quote(str(path.parent))}"
        ) from error
    if found != said:
        raise ExportError(
            f"{path}: graph or weights are not those that its contract was written for; changed after the export",
            "export the model again, or write a new contract (the page 'The ONNX contract' says how)",
        )


def _say_matched(path: Path, source: dict[str, Any], matched_to: str | None) -> None:
    """Write into the contract what it does not say yet."""
    already = source.get("matched_to")
    if matched_to is not None and already not in (None, matched_to):
        raise ExportError(
            f"--matched-to is {matched_to}; the contract in {path} says {already}",
            "leave out --matched-to, or export the model again from its own library",
            exit_code=USAGE,
        )
    if matched_to is not None:
        source["matched_to"] = matched_to


def _external(proto: onnx.ModelProto) -> set[str]:
    import onnx

    outside = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    return {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}


def _check_target(path: Path, out: Path, proto: onnx.ModelProto) -> None:
    """Refuse to write over the file that is read, or over its weights."""
    read = {path.resolve(), *((path.parent / location).resolve() for location in _external(proto))}
    for written in (out, out.with_name(out.name + ".data")):
        there = written.exists() and any(each.exists() and written.samefile(each) for each in read)
        if there or written.resolve() in read:
            raise ExportError(
                f"{out}: target is the file that is quantised, or its weights; it must be another file",
                f"-o {shlex.quote(str(path.with_name(path.stem + '-int8.onnx')))}",
                exit_code=USAGE,
            )


def _check_fp32(path: Path, proto: onnx.ModelProto, read: dict[str, Any]) -> None:
    import onnx

    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    precision = read["precision"]
    if any(node.op_type in _QUANTISED for node in proto.graph.node):
        precision = precision if precision in contract.INT8 else "int8"
    elif any(weight.data_type in halves for weight in proto.graph.initializer):
        precision = "fp16"
    if precision != "fp32":
        raise ExportError(
            f"{path}: precision is {precision}; fp16 and int8 are made from an fp32 file",
            "export the model again with --precision fp32, and quantise that file",
            exit_code=USAGE,
        )


def _references(
    path: Path, input_name: str, images: NDArray[np.float32], outputs: list[str]
) -> dict[str, NDArray[np.float32]]:
    """What the fp32 file says of each photo, one at a time."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what it can't do is told by the exception
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        runs = [session.run(outputs, {input_name: image[None]}) for image in images]
    except MemoryError:
        raise
    except Exception as error:  # its exception types are private; all of them mean the same here
        raise ExportError(
            f"{path}: ONNX Runtime could not run it ({str(error).splitlines()[0]})",
            f"robustcheck inspect {shlex.quote(str(path))}",
        ) from error
    rows = {name: np.concatenate(values) for name, values in zip(outputs, zip(*runs, strict=True), strict=True)}
    for name, values in rows.items():
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ExportError(
                f"{path}: output {name} is not finite, or not an array (image, feature)", "check the weights"
            )
    return rows


def _copied(path: Path, proto: onnx.ModelProto, draft: Path) -> None:
    """Write the graph with its weights to `draft`, beside it in one file where they are too big."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    if _external(proto):
        load_external_data_for_model(proto, str(path.parent))  # refuses a path that leaves the folder
    big = sum(len(weight.raw_data) for weight in proto.graph.initializer) > write.INLINE_LIMIT_BYTES
    onnx.save(proto, draft, save_as_external_data=big, location=draft.name + ".data")
