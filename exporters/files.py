"""Export an ONNX file: write its fp16 or int8 form, or give it its contract. Needs no torch and no model library."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import CallError, ExportError, MissingError, Tell, contract, first_line, ignore_progress, quoted, type_and_text
from .contract import Arrays, ModelSource, Photos
from .delivery import Drawn, ExportRecord, check_call, data_of, deliver, has_big_weights
from .digests import graph_digest
from .photos import PARITY_PHOTOS, quantisation_plan, stacked
from .plain import ReadPlain, command_of, described, precision_of
from .preprocessing import Array, Fields, checked_preprocessing, preprocess
from .proof import Original, run_file
from .quantisation import halve, quantised

if TYPE_CHECKING:
    import onnx


def quantise_file(
    path: Path,
    out: Path,
    *,
    precision: str,
    photos: Photos,
    calibration: Photos,
    matched_to: str | None = None,
    restates: bool = False,
    read_plain: ReadPlain | None = None,
    form: str | None = None,
    tell: Tell = ignore_progress,
) -> ExportRecord:
    """Write the fp16 or int8 form of an fp32 file, or give a file without a contract its contract.

    Parity is measured against the file, run photo by photo on ONNX Runtime's CPU provider.

    Args:
        path: the file. out: another one, ends in .onnx.
        precision: fp16, int8-dynamic or int8-qdq; fp32 for the contract alone.
        photos: at least 5 image files for parity; for int8-qdq at least 32, see `quantisation_plan`.
        calibration: image files for int8-qdq.
        form: of int8-qdq; None for the smallest that keeps the vectors.
        tell: as for `run.run`.
        matched_to: as for `run.run`; only where the file's contract does not say otherwise.
        restates: whether the call states a preprocessing, which a file with a contract has already.
        read_plain: reads what the contract of a file without one must hold; None refuses such a file.

    Raises:
        ExportError: 2 for the call, 3 when the file can't be read or no faithful file can be made, 4 for the disk.
            Nothing is left.
    """
    check_call(out, precision, photos)
    plan = quantisation_plan(precision, form, calibration, photos)
    tell(f"opening {path.name}")
    proto = parsed(path)
    if any(prop.key == contract.METADATA_KEY for prop in proto.metadata_props):
        _check_preprocess(path, out, precision, restates=restates)
        content = contract_of(proto, path)
        _require_unchanged(proto, path, content)
        _check_precision(path, out, precision)
        proto = inlined(proto)
    else:
        proto = inlined(proto)
        content = _described(proto, path, read_plain)
    if matched_to is not None:
        already = content["source"].get("matched_to")
        if already not in (None, matched_to):
            raise CallError(
                f"--matched-to is {matched_to}; the contract in {path} says {already}",
                "leave out --matched-to, or export the model again from its own library",
            )
        content["source"]["matched_to"] = matched_to
    check_target(path, out, proto)
    if precision == "fp32":
        plan = plan._replace(precision=content["precision"])  # the file's own
    else:
        _check_fp32(path, proto, content["precision"])
    is_copied = plan.precision == content["precision"]
    transform = partial(preprocess, checked_preprocessing(content["preprocessing"], str(path)))
    images = stacked(photos[:PARITY_PHOTOS], transform, str(path))
    outputs = outputs_in(proto, path, content)
    tell("running the original on the photos")
    original = Original(images, outputs_of(path, proto, images, outputs))

    def draw(draft: Path) -> Drawn:
        copied_to(draft, path, proto)
        if is_copied:
            return Drawn(parsed(draft))
        tell("quantising")
        if precision == "fp16":
            return Drawn(halve(draft, name=str(path)))
        return quantised(draft, plan, transform, original, name=str(path), tell=tell)

    content["versions"] |= contract.versions()
    return deliver(out, draw, content, original, plan, tell)


def _require_unchanged(proto: onnx.ModelProto, path: Path, content: Fields) -> None:
    """Refuse a graph or weights that changed after the export, which the new file's contract would hide."""
    stated = content.get("graph_digest")
    if stated is None:
        return
    try:
        digest = graph_digest(proto, path.parent)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{path}: weights are unreadable ({error})", f"ls -l {quoted(path.parent)}") from error
    if digest != stated:
        raise ExportError(
            f"{path}: graph or weights are not those that its contract was written for; changed after the export",
            command_of(path, path.with_suffix(".contract.onnx"), "--original", "OLD.onnx"),
        )


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without functions."""
    from onnx import inliner

    return inliner.inline_local_functions(proto) if proto.functions else proto


def _check_preprocess(path: Path, out: Path, precision: str, *, restates: bool) -> None:
    """Refuse to state the preprocessing of a file with a contract."""
    if restates:
        raise CallError(
            f"{path}: --preprocess is given, and the file has a contract, which states its preprocessing already",
            f"robustcheck {quoted(path)}" if precision == "fp32" else command_of(path, out, "--precision", precision),
        )


def _check_precision(path: Path, out: Path, precision: str) -> None:
    """Refuse to write a file with a contract as it is."""
    if precision == "fp32":
        raise CallError(
            f"--precision is fp32; an ONNX file with a contract is made smaller: {', '.join(contract.PRECISIONS[1:])}",
            command_of(path, out, "--precision", contract.INT8[-1]),
        )


def _described(proto: onnx.ModelProto, path: Path, read_plain: ReadPlain | None) -> Fields:
    """Return the contract for a file without one."""
    if read_plain is None:
        raise ExportError(
            f"{path}: contract is missing; it must state how photos become the input",
            f"robustcheck export onnx {quoted(path)} --preprocess clip -o {quoted(path.with_suffix('.contract.onnx'))}",
        )
    return described(proto, path, read_plain(path))


def parsed(path: Path) -> onnx.ModelProto:
    """Read a file without its external weights. Raises ExportError for what is not an ONNX model."""
    import onnx

    hint = f"robustcheck inspect {quoted(path)}"
    if not path.is_file():
        raise CallError(
            f"{path}: ONNX file is missing; the source onnx quantises an existing file", f"ls -l {quoted(path.parent)}"
        )
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise MissingError(f"{path}: ONNX file is unreadable ({error.strerror or error})", f"ls -l {path}") from error
    except Exception as error:  # protobuf's DecodeError is one of several
        raise ExportError(f"{path}: file is not an ONNX model ({first_line(error)})", hint) from error
    if not proto.graph.input or not proto.graph.output:
        raise ExportError(f"{path}: graph has no input or no output; it must have both", hint)
    return proto


def contract_of(proto: onnx.ModelProto, path: Path) -> Fields:
    """Return the contract in a file, which must be whole."""
    hint = f"robustcheck inspect {quoted(path)}"
    texts = [prop.value for prop in proto.metadata_props if prop.key == contract.METADATA_KEY]
    try:
        content: Fields = json.loads(texts[-1])
        stated = content["schema_version"]
        is_version = type(stated) is int and stated == contract.SCHEMA_VERSION
        complete = is_version and "representation" in content["tensors"]
        ModelSource(**content["source"])
        for key, kind in (("preprocessing", dict), ("versions", dict), ("precision", str)):
            complete &= isinstance(content[key], kind)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ExportError(f"{path}: contract is damaged ({type_and_text(error)})", hint) from error
    if not complete:
        raise ExportError(f"{path}: contract does not match schema {contract.SCHEMA_VERSION}", hint)
    return content


def _external(proto: onnx.ModelProto) -> set[str]:
    """Return the names of the files with external weights."""
    entries = (entry for weight in proto.graph.initializer if weight.data_location for entry in weight.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def check_target(path: Path, out: Path, proto: onnx.ModelProto) -> None:
    """Refuse to write over the file or its weights."""
    read = [path, *(path.parent / location for location in _external(proto))]
    for written in (out, data_of(out)):
        if any(_is_same_file(written, each) for each in read):
            raise CallError(
                f"{out}: target is the file that is read, or its weights; it must be another file",
                f"-o {quoted(path.with_name(path.stem + '-new.onnx'))}",
            )


def _is_same_file(a: Path, b: Path) -> bool:
    if a.exists() and b.exists():
        return a.samefile(b)
    return a.resolve() == b.resolve()


def _check_fp32(path: Path, proto: onnx.ModelProto, precision: str) -> None:
    shown = precision_of(proto)
    if shown != "fp32":
        precision = shown
    if precision != "fp32":
        raise CallError(
            f"{path}: precision is {precision}; fp16 and int8 are made from an fp32 file",
            "export the model again with --precision fp32, and quantise that file",
        )


def outputs_in(proto: onnx.ModelProto, path: Path, content: Fields) -> list[str]:
    """Return the outputs that a contract names, in the order of the graph, which must have all of them."""
    there = [output.name for output in proto.graph.output]
    absent = [output for output in content["tensors"] if output not in there]
    if absent:
        raise ExportError(
            f"{path}: contract names the output {absent[0]}, which the graph does not have ({', '.join(there)})",
            f"robustcheck inspect {quoted(path)}",
        )
    return sorted(content["tensors"], key=there.index)


def outputs_of(path: Path, proto: onnx.ModelProto, images: Array, outputs: list[str], **options: Any) -> Arrays:
    """Run the graph of a file, which may have an output that the file lacks, photo by photo.

    options: of the session.
    """
    runs, _ = run_file(
        path,
        outputs,
        [image[None] for image in images],
        f"{path}: ONNX Runtime could not run it",
        f"robustcheck inspect {quoted(path)}",
        graph=proto.SerializeToString(),
        **options,
    )
    arrays = {}
    for name, rows in zip(outputs, zip(*runs, strict=True), strict=True):
        array = np.concatenate(rows)
        if array.ndim != 2 or not np.isfinite(array).all():
            raise ExportError(
                f"{path}: output {name} is not finite, or not an array (image, feature)", "check the weights"
            )
        arrays[name] = array
    return arrays


def copied_to(draft: Path, path: Path, proto: onnx.ModelProto) -> None:
    """Write the graph to `draft`, and its weights next to it where they are too big."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    if _external(proto):
        load_external_data_for_model(proto, str(path.parent))  # refuses a path that leaves the folder
    size = sum(len(weight.raw_data) for weight in proto.graph.initializer)
    onnx.save(proto, draft, save_as_external_data=has_big_weights(size), location=data_of(draft).name)
