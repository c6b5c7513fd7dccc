"""An ONNX file on disk: its bytes become a protobuf.

Weights in external files are found and checked, but not loaded: ONNX Runtime reads them."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.limits import max_model_bytes
from robustcheck_onnx.checker.storage.places import local_path, nearest_path
from robustcheck_onnx.checker.text import quoted, sha256_of

from .external import (
    LFS_MARK,
    Weights,
    all_tensors,
    check_inline,
    check_length,
    external_tensors,
    locate_weights,
    location_of,
    use_resolved_names,
)
from .held import ExternalFile, Held, aged_status, read_file, settle, stamps_writes
from .light import Bytes, Places, drop_pages, parse_light
from .well_formed import check_dimensions, check_well_formed

MAPPED_BYTES = 1 << 24  # 16 MiB; a smaller file is copied, and may change while it runs
PROTOBUF_LIMIT_BYTES = (1 << 31) - 1  # protobuf's own limit of one message
EXPORT = "export the model with its weights: robustcheck export --help"
OTHER_FORMATS = (  # (offset, mark, what it is, what to do): files that people hand over instead of ONNX
    (0, b"PK\x03\x04", "a zip archive (PyTorch checkpoints and .npz files are)", EXPORT),
    (0, b"\x80", "a Python pickle (old PyTorch checkpoints are)", EXPORT),
    (
        0,
        b"\x89HDF",
        "an HDF5 file (Keras checkpoints are)",
        "python -m tf2onnx.convert --keras {file} --output model.onnx",
    ),
    (0, b"ftrt", "a TensorRT engine", "name the ONNX file that the engine was built from"),
    (4, b"TFL3", "a TensorFlow Lite model", "python -m tf2onnx.convert --tflite {file} --output model.onnx"),
    (4, b"ORTM", "a model in ONNX Runtime's ORT format", "name the ONNX file that it was converted from"),
    (4, b"\0\0\0\0{", "a safetensors file", EXPORT),
    (0, b"\x89PNG", "an image", "robustcheck model.onnx --images {file}"),
    (0, b"\xff\xd8\xff", "an image", "robustcheck model.onnx --images {file}"),
)
UNPACK = {  # by the end of the name, the longest first
    (".tar.gz", ".tgz", ".tar"): "mkdir -p model && tar xf {file} -C model && robustcheck model",
    (".gz",): "gunzip --keep {file}",
    (".zip",): "mkdir -p model && unzip {file} -d model && robustcheck model",
}
REPOSITORY = re.compile(r"(?:hf:|(?:https?:/)?huggingface\.co/)?([\w-][\w.-]*/[\w-][\w.-]*)")


@dataclass(frozen=True)
class Content:
    """A model file's bytes, as they were read once."""

    path: Path
    content: Bytes
    digest: str
    """sha256:…, as `sha256sum` prints it"""
    mapped: ExternalFile | None = None
    """the file, where `content` is mapped: whether it changed must be looked at (`refuse_changed`)"""


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model file; `proto` holds neither weights of external files nor large ones."""

    path: Path
    content: Bytes
    """the model file alone"""
    proto: onnx.ModelProto
    size_bytes: int
    """of the model file alone"""
    model_digest: str
    """sha256:… of the model file alone, as `sha256sum` prints it"""
    external: tuple[ExternalFile, ...]
    weights: Weights
    """where the values of weights lie that `proto` does not hold"""
    mapped: ExternalFile | None = None
    """of `Content`"""

    @property
    def external_folder(self) -> Path | None:
        """What ONNX Runtime must look in, a name of the folder beside the model; None without external data."""
        return self.weights.folder


def read_content(path: str | Path) -> Content:
    """Read and digest a model file, whatever it holds.

    Raises:
        UsageError: no such file, a folder, or a URL.
        CannotAssessError: unreadable or empty.
    """
    path = local_path(path, "model")
    content, status = _read_bytes(path)
    digest = sha256_of(content)
    drop_pages(content)
    is_mapped = isinstance(content, mmap.mmap)
    return Content(path, content, digest, ExternalFile.of_model(path.resolve(), status, digest) if is_mapped else None)


def read_onnx(path: str | Path) -> OnnxFile:
    """Parse an ONNX file and check that all its weights are there, without loading external ones.

    Raises:
        UsageError: no such file, or a folder.
        CannotAssessError: unreadable, empty, text, a Git LFS pointer, another format, truncated, without
            nodes; weights with fewer or more values than their shape needs; external data missing, truncated,
            or outside the model's folder.
    """
    read = read_content(path)
    path, content = read.path, read.content
    proto, places = _parse(path, content)
    if not proto.graph.node:
        raise CannotAssessError(f"{path}: graph has 0 nodes; a model needs some", "export or download the model again")
    check_well_formed(str(path), proto)
    every = all_tensors(proto)
    tensors = external_tensors(every)
    for index, tensor in enumerate(every):
        check_dimensions(str(path), f"weight '{tensor.name!s:.80}'", len(tensor.dims))
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            check_inline(path, tensor, places if index < len(proto.graph.initializer) else {})
    folder, targets = locate_weights(path, sorted({location_of(path, tensor) for tensor in tensors}))
    _check_size(path, len(content) + sum(target.stat().st_size for target in targets.values()))
    for tensor in tensors:
        check_length(path, tensor, targets[location_of(path, tensor)])
    held = None
    external: tuple[ExternalFile, ...] = ()
    if folder is not None:
        held = Held(folder)
        external = tuple(read_file(location, target, folder, held) for location, target in targets.items())
        use_resolved_names(folder, targets, tensors)
    elif read.mapped is not None and places:
        held = Held(read.mapped.path.parent)
    weights = Weights(held, content, places)
    return OnnxFile(path, content, proto, len(content), read.digest, external, weights, read.mapped)


def external_locations(path: Path) -> tuple[onnx.ModelProto, list[str]]:
    """Parse a model without its weights, and list the files of weights that it names, whether they are there or not.

    Raises as `read_onnx`; of the files of weights, only their names are looked at.
    """
    proto, _ = _parse(path, _read_bytes(path)[0])
    return proto, sorted({location_of(path, tensor) for tensor in external_tensors(all_tensors(proto))})


def may_be_model(path: Path) -> bool:
    """Whether a file starts as a model does, with the field of the IR version; a large list or archive does not."""
    with path.open("rb") as file:
        return file.read(1) == b"\x08"


def missing(path: Path) -> UsageError:
    """Return the error of a model that is not there, with the nearest name or address."""
    near, repository = nearest_path(path), REPOSITORY.fullmatch(str(path))
    if near is None and repository and not path.parent.exists() and path.suffix.lower() != ".onnx":
        return UsageError(f"{path}: no such file", f"Did you mean hf://{repository[1]}?")
    return UsageError(f"{path}: no such file", f"Did you mean {near}?" if near else f"ls {quoted(path.parent)}")


def _check_size(path: Path, size_bytes: int) -> None:
    """Refuse a model that is larger than the caller allows, before it is read."""
    limit_bytes = max_model_bytes()
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise CannotAssessError(
            f"{path}: model with its external data is {size_bytes:,} bytes; --max-model-size is {limit_bytes:,}",
            f"--max-model-size {size_bytes}",
        )


def _read_bytes(path: Path) -> tuple[Bytes, os.stat_result]:
    """Read or map a file; and its status when that began."""
    try:
        status = path.stat()
        size_bytes = status.st_size
        if path.is_dir():
            there = [*sorted(path.glob("*.onnx")), *sorted(path.glob("onnx/*.onnx"))]
            raise UsageError(
                f"{path}: model is a folder; one .onnx file is needed",
                f"robustcheck {quoted(there[0])}" if there else f"--images {quoted(path)}, if it holds photos",
            )
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, /dev/zero never end
            raise UsageError(f"{path}: model is a device or pipe; a regular file is needed", f"ls -lL {quoted(path)}")
        _check_size(path, size_bytes)
        if size_bytes > PROTOBUF_LIMIT_BYTES:
            raise CannotAssessError(
                f"{path}: model file is {size_bytes} bytes; protobuf ends at {PROTOBUF_LIMIT_BYTES}",
                "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
            )
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size >= MAPPED_BYTES:
                status = aged_status(file.fileno())
            content = _mapped(file, status) or file.read()
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise CannotAssessError(
            f"{path}: model file is not readable ({error.strerror}); it must be a readable file",
            f"ls -l {quoted(path)}",
        ) from error
    if not content:
        raise CannotAssessError(
            f"{path}: model file is empty (0 bytes); an ONNX protobuf is needed",
            "download or export it again",
        )
    return content, status


def _mapped(file: BinaryIO, status: os.stat_result) -> mmap.mmap | None:
    """Map the content of a large file; None for a small one, and where a write to it might not be seen.

    status: of the open file, taken before.
    """
    if status.st_size < MAPPED_BYTES or not stamps_writes(status):
        return None
    with contextlib.suppress(OSError, ValueError):
        settle(file)
        return mmap.mmap(file.fileno(), status.st_size, access=mmap.ACCESS_READ)
    return None


def _parse(path: Path, content: Bytes) -> tuple[onnx.ModelProto, Places]:
    if content[: len(LFS_MARK)] == LFS_MARK:
        raise CannotAssessError(
            f"{path}: model file is a Git LFS pointer; the model itself was not downloaded",
            f"git lfs pull --include {quoted(path.name)}",
        )
    for ends, hint in UNPACK.items():
        if path.name.lower().endswith(ends):
            raise CannotAssessError(f"{path}: file is packed; an ONNX file is needed", hint.format(file=quoted(path)))
    for offset, mark, what, hint in OTHER_FORMATS:
        if content[offset : offset + len(mark)] == mark:
            raise CannotAssessError(
                f"{path}: model file is {what}; an ONNX protobuf is needed", hint.format(file=quoted(path))
            )
    if _is_text(content[:1024]):
        raise CannotAssessError(
            f"{path}: model file is text; an ONNX protobuf is needed", f"head -c 200 {quoted(path)}"
        )
    try:
        proto, places = parse_light(content)
    except DecodeError as error:
        raise CannotAssessError(
            f"{path}: model file is no complete ONNX protobuf ({len(content)} bytes); truncated or damaged",
            "download or export it again",
        ) from error
    if not proto.opset_import:
        raise CannotAssessError(
            f"{path}: opset_import is missing; the file is truncated or no ONNX model",
            "download or export it again",
        )
    return proto, places


def _is_text(start: bytes) -> bool:
    """Whether a file starts as text; an ONNX protobuf starts with a control byte (0x08: field of the IR version)."""
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in start):
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(start)  # only a character cut in two by our own limit
    return True
