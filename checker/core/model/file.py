"""Read an ONNX file: the model, and the places of its weights.

Weights in external files are located and checked, but ONNX Runtime reads them. The graph for ONNX Runtime is written
when a session is made, so that an open model is in memory once.
"""

from __future__ import annotations

import copy
import hashlib
import mmap
import os
import re
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import set_external_data

from ...errors import CannotAssessError, UsageError
from ...paths import existing_parent, nearest_path
from ...text import frozen, quoted, sha256_of
from ..model_size import max_model_bytes
from .nodes import check_dimensions, check_well_formed
from .watched import ExternalFile, OpenFolder, aged_status, read_file, stamp_of, stamps_writes
from .weights import (
    LFS_MARK,
    Bytes,
    Places,
    Weights,
    about,
    check_external,
    check_inline,
    damaged,
    locate_weights,
    locations_of,
    parse_stripped,
    tensors_of,
)

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


@frozen
class OnnxFile:
    """A parsed model file. `proto` holds neither weights of external files nor large ones."""

    path: Path
    proto: ModelProto
    weights: Weights
    """the file's content, and where in it, or in other files, the values of weights lie that `proto` does not hold"""
    external: tuple[ExternalFile, ...]
    """the files of weights, each with its digest"""
    mapped: ExternalFile | None
    """the file, where its content is mapped: whether it changed must be looked at (`refuse_changed`)"""
    file_digest: str
    """sha256:… of the model file alone, as `sha256sum` prints it"""
    beginning: str
    """digest of all bytes before the metadata; empty where the file does not end with all of them"""

    @property
    def digest(self) -> str:
        """Return sha256:… of the model: `file_digest` without external data, else one over all digests."""
        if not self.external:
            return self.file_digest
        lines = [self.file_digest]
        lines += [f"{part.location} {part.digest}" for part in self.external]
        return sha256_of("\n".join(lines).encode())

    @property
    def external_digests(self) -> dict[str, str]:
        """Return the digest of each file of weights, by its name."""
        return {part.location: part.digest for part in self.external}

    @property
    def size_bytes(self) -> int:
        """Return the size of the model file and the files of weights together."""
        return len(self.weights.content) + sum(part.size_bytes for part in self.external)

    @property
    def watched(self) -> tuple[ExternalFile, ...]:
        """Return the files that must not change any more: those of weights, and the model's own where it is mapped."""
        return self.external if self.mapped is None else (*self.external, self.mapped)


@frozen
class Graph:
    """A model's original graph and what is added to it."""

    file: OnnxFile
    proto: ModelProto
    """without the large weights that `file.weights` holds; ends where the author's graph does"""
    rewritten: bool
    """whether `proto` says anything else than the file's content"""
    addition: GraphProto
    """nodes and outputs; empty where nothing is added"""

    def own(self) -> bytes:
        """Write the graph without the addition: the file's own bytes, unless something in them was rewritten.

        Raises:
            CannotAssessError: rewritten, it is over protobuf's 2 GiB.
        """
        if not self.rewritten:
            return self.file.weights.content[:]
        try:
            return bytes(restore(self.proto, self.file.weights).SerializeToString())
        except EncodeError as error:
            raise _too_large(self.file) from error

    def with_addition(self) -> bytes:
        """Write the graph with the addition. The weights of a file that was not rewritten are not written again.

        Protobuf merges messages that stand one behind the other: it appends repeated fields (nodes, outputs).

        Raises:
            CannotAssessError: it is over protobuf's 2 GiB.
        """
        own = self.own()
        if not self.addition.ByteSize():
            return own
        merged = own + bytes(ModelProto(graph=self.addition).SerializeToString())
        if len(merged) > PROTOBUF_LIMIT_BYTES:
            raise _too_large(self.file)
        return merged

    def mapped(self, *, with_addition: bool) -> bytes | None:
        """Write the graph with weights named by their places. ONNX Runtime then maps them from the model's file.

        None where the file is not mapped itself, or other files hold weights, too.
        """
        if self.file.mapped is None or self.file.external or not self.file.weights.places:
            return None
        proto = self.stripped() if with_addition else self.proto
        pointing = by_place(proto, self.file.mapped.location, self.file.weights.places)
        return bytes(pointing.SerializeToString())

    def stripped(self) -> ModelProto:
        """Copy the graph and the addition without large weights. The copy is for walks and changes."""
        stripped = copy.deepcopy(self.proto)
        stripped.MergeFrom(ModelProto(graph=self.addition))
        return stripped

    def changed(self, proto: ModelProto) -> Self:
        """Replace the graph and its addition by another that was made of `stripped`."""
        return replace(self, proto=proto, rewritten=True, addition=GraphProto())


def restore(proto: ModelProto, weights: Weights) -> ModelProto:
    """Copy a model with its large weights, whose data `parse_stripped` left in the file's content."""
    full = copy.deepcopy(proto)
    for tensor in full.graph.initializer:
        if tensor.name in weights.places:
            tensor.raw_data = weights.content[weights.places[tensor.name]]
    return full


def by_place(proto: ModelProto, file: str, places: Places) -> ModelProto:
    """Copy a model with the large weights that `parse_stripped` left in a file named by their places."""
    pointing = copy.deepcopy(proto)
    for tensor in pointing.graph.initializer:
        if tensor.name in places and not tensor.HasField("raw_data"):
            place = places[tensor.name]
            tensor.raw_data = b""  # it must have some, to be named by place
            set_external_data(tensor, file, place.start, place.stop - place.start)
            tensor.ClearField("raw_data")
    return pointing


def _too_large(file: OnnxFile) -> CannotAssessError:
    return CannotAssessError(
        f"{file.path}: model can't be written with one more output; protobuf ends at 2 GiB",
        "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
    )


def read_onnx(path: Path) -> OnnxFile:
    """Parse an ONNX file and check its weights. External weights must exist and are not loaded.

    Raises:
        UsageError: no such file, or a folder.
        CannotAssessError: unreadable, empty, text, a Git LFS pointer, another format, truncated, without
            nodes; weights with fewer or more values than their shape needs; external data missing, truncated,
            or outside the model's folder.
    """
    with about(path):
        content, status = _read_bytes(path)
        proto, places = _parse(path, content)
        metadata = ModelProto(metadata_props=proto.metadata_props).SerializeToString()
        digest, beginning = digests_of(content, metadata)
        drop_pages(content)
        own = path.resolve()
        mapped = None
        if isinstance(content, mmap.mmap):
            mapped = ExternalFile(own.name, own, {own: stamp_of(status)}, status.st_size, digest)
        if not proto.graph.node:
            raise CannotAssessError("graph has 0 nodes; a model needs some", "export or download the model again")
        check_well_formed(proto)
        every, tensors = tensors_of(proto)
        for index, tensor in enumerate(every):
            check_dimensions(f"weight '{tensor.name!s:.80}'", len(tensor.dims))
            if tensor.data_location != TensorProto.EXTERNAL:
                check_inline(tensor, places if index < len(proto.graph.initializer) else {})
        folder, targets = locate_weights(path, locations_of(path, tensors))
        external_bytes = sum(target.stat().st_size for target in targets.values())
        _check_size(len(content) + external_bytes)
        open_folder = None
        external: list[ExternalFile] = []
        if folder is not None:
            check_external(tensors, folder, targets)
            open_folder = OpenFolder(folder)
            for location, target in targets.items():
                external.append(read_file(location, target, folder, open_folder))
        elif mapped is not None and places:
            open_folder = OpenFolder(own.parent)
        weights = Weights(open_folder, content, places)
        return OnnxFile(path, proto, weights, tuple(external), mapped, digest, beginning)


def external_locations(path: Path) -> tuple[ModelProto, list[str]]:
    """Parse a model without its weights, and list the files of weights that it names, which need not exist.

    Raises as `read_onnx`; of the files of weights, only their names are looked at.
    """
    with about(path):
        content, _ = _read_bytes(path)
        proto, _ = _parse(path, content)
        _, tensors = tensors_of(proto)
        return proto, locations_of(path, tensors)


def digests_of(content: Bytes, tail: bytes) -> tuple[str, str]:
    """Digest a file, and what comes before its tail: "" for a file that does not end with it."""
    view = memoryview(content)
    end = len(content) - len(tail)
    beginning = ""
    digest = hashlib.sha256(view[:end])
    if view[end:] == tail:
        beginning = f"sha256:{digest.hexdigest()}"
    digest.update(view[end:])
    return f"sha256:{digest.hexdigest()}", beginning


def drop_pages(content: Bytes) -> None:
    """Free the memory that a mapped file has filled: what is read again comes from the file again."""
    if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)


def missing(path: Path) -> UsageError:
    """Return the error for a model that does not exist, with the nearest name or address as its hint."""
    near = nearest_path(path)
    if near is not None:
        return UsageError("no such file", f"Did you mean {near}?")
    repository = REPOSITORY.fullmatch(str(path))
    if repository and not path.parent.exists() and path.suffix.lower() != ".onnx":
        return UsageError("no such file", f"Did you mean hf://{repository[1]}?")
    return UsageError("no such file", f"ls {quoted(existing_parent(path))}")


def _check_size(size_bytes: int) -> None:
    """Refuse a model that is larger than allowed, before it is read."""
    limit_bytes = max_model_bytes()
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise CannotAssessError(
            f"model with its external data is {size_bytes:,} bytes; --max-model-size is {limit_bytes:,}",
            f"--max-model-size {size_bytes}",
        )


def _read_bytes(path: Path) -> tuple[Bytes, os.stat_result]:
    """Read or map a file, and return its first status."""
    try:
        status = path.stat()
        size_bytes = status.st_size
        if path.is_dir():
            there = [*sorted(path.glob("*.onnx")), *sorted(path.glob("onnx/*.onnx"))]
            hint = f"robustcheck {quoted(there[0])}" if there else f"--images {quoted(path)}, if it holds photos"
            raise UsageError("model is a folder; one .onnx file is needed", hint)
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait forever, /dev/zero never end
            raise UsageError("model is a device or pipe; a regular file is needed", f"ls -lL {quoted(path)}")
        _check_size(size_bytes)
        if size_bytes > PROTOBUF_LIMIT_BYTES:
            raise CannotAssessError(
                f"model file is {size_bytes} bytes; protobuf ends at {PROTOBUF_LIMIT_BYTES}",
                "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
            )
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content: Bytes = b""
            if status.st_size >= MAPPED_BYTES:
                status = aged_status(file.fileno(), "model file")
                if stamps_writes(status):
                    with suppress(OSError, ValueError):
                        os.fsync(file.fileno())
                        content = mmap.mmap(file.fileno(), status.st_size, access=mmap.ACCESS_READ)
            content = content or file.read()
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise CannotAssessError(
            f"model file is not readable ({error.strerror}); it must be a readable file", f"ls -l {quoted(path)}"
        ) from error
    if not content:
        raise damaged("model file is empty (0 bytes); an ONNX protobuf is needed")
    return content, status


def _parse(path: Path, content: Bytes) -> tuple[ModelProto, Places]:
    if content[: len(LFS_MARK)] == LFS_MARK:
        raise CannotAssessError(
            "model file is a Git LFS pointer; the model itself was not downloaded",
            f"git lfs pull --include {quoted(path.name)}",
        )
    name = quoted(path)
    for ends, hint in UNPACK.items():
        if path.name.lower().endswith(ends):
            raise CannotAssessError("file is packed; an ONNX file is needed", hint.format(file=name))
    for offset, mark, kind, hint in OTHER_FORMATS:
        if content[offset : offset + len(mark)] == mark:
            raise CannotAssessError(f"model file is {kind}; an ONNX protobuf is needed", hint.format(file=name))
    if _is_text(content[:1024]):
        raise CannotAssessError("model file is text; an ONNX protobuf is needed", f"head -c 200 {name}")
    try:
        proto, places = parse_stripped(content)
    except DecodeError as error:
        message = f"model file is not a complete ONNX protobuf ({len(content)} bytes); truncated or damaged"
        raise damaged(message) from error
    if not proto.opset_import:
        raise damaged("opset_import is missing; the file is truncated or no ONNX model")
    return proto, places


def _is_text(start: bytes) -> bool:
    """Return whether a file starts as text, not with a control byte as ONNX does (0x08: field of the IR version)."""
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in start):
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(start)  # only a character cut in two by our own limit
    return True
