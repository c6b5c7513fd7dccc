"""An ONNX file on disk: bytes → protobuf without its weights, external data located, measured and digested.

Weights in external files are not loaded here (but for one that `values_of` is asked for): ONNX Runtime reads
them. `onnx.checker` calls truncated external data fine and `onnx.load` refuses hard links, so locations and lengths
are checked in this module.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from robustcheck_onnx.checker import remote
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.weights import ExternalFile, stamp

LFS_MARK = b"version https://git-lfs.github.com/spec/"  # first line of a Git LFS pointer file
CHUNK_BYTES = 1 << 22  # read size for digests, 4 MiB
PROTOBUF_LIMIT_BYTES = (1 << 31) - 1  # protobuf's own limit of one message
FORMATS = (  # (offset, mark, what it is): files that people hand over instead of ONNX
    (0, b"PK\x03\x04", "a zip archive (PyTorch checkpoints and .npz files are)"),
    (0, b"\x80", "a Python pickle (old PyTorch checkpoints are)"),
    (0, b"\x89HDF", "an HDF5 file (Keras checkpoints are)"),
    (0, b"ftrt", "a TensorRT engine"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's ORT format"),
    (4, b"\0\0\0\0{", "a safetensors file"),
)


@dataclass(frozen=True)
class Content:
    """A model file's bytes, as they were read once."""

    path: Path
    content: bytes
    digest: str
    """sha256:…, as `sha256sum` prints it"""


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model file; `proto` holds no weights of external files."""

    path: Path
    content: bytes
    """the model file alone"""
    proto: onnx.ModelProto
    size_bytes: int
    """of the model file alone"""
    model_digest: str
    """sha256:… of the model file alone, as `sha256sum` prints it"""
    external: tuple[ExternalFile, ...]
    external_folder: Path | None
    """the folder that ONNX Runtime must look in; None without external data"""


def read_content(path: str | Path) -> Content:
    """Read and digest a model file, whatever it holds.

    Raises:
        UsageError: no such file, or a folder.
        CannotAssessError: unreadable or empty.
    """
    path = Path(path)
    content = _read_bytes(path)
    return Content(path, content, "sha256:" + hashlib.sha256(content).hexdigest())


def read_onnx(path: str | Path, read: Content | None = None) -> OnnxFile:
    """Parse an ONNX file and check that all its weights are there, without loading external ones.

    Args:
        path: the file.
        read: its content, where that was read already.

    Raises:
        UsageError: no such file, or a folder.
        CannotAssessError: unreadable, empty, text, a Git LFS pointer, another format, truncated, without
            nodes; external data missing, truncated, or outside the model's folder.
    """
    read = read or read_content(path)
    path, content = read.path, read.content
    proto = _parse(path, content)
    if not proto.graph.node:
        raise CannotAssessError(f"{path}: graph has 0 nodes; a model needs some", "export or download the model again")
    words = [value.name for value in (*proto.graph.input, *proto.graph.output)]
    words += [word for node in proto.graph.node for word in (node.op_type, node.domain, *node.output)]
    for word in words:
        if not isinstance(word, str):  # protobuf gives bytes where a name is no UTF-8
            raise CannotAssessError(
                f"{path}: name in the graph is {word!r}; names must be UTF-8 text", "download or export it again"
            )
    tensors = [tensor for tensor in _tensors(proto) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    folder, targets = locate(path, sorted({_location(path, tensor) for tensor in tensors}))
    for tensor in tensors:
        _check_length(path, tensor, targets[_location(path, tensor)])
    external = tuple(
        # the stamp first: whatever is written after it shows
        ExternalFile(location, target, stamp(target), target.stat().st_size, file_digest(target))
        for location, target in targets.items()
    )
    if folder is not None:
        _point_at(folder, targets, tensors)
    return OnnxFile(path, content, proto, len(content), read.digest, external, folder)


def external_locations(path: Path) -> tuple[onnx.ModelProto, list[str]]:
    """A model without its weights, and the files of weights that it names, whether they are there or not.

    Raises as `read_onnx`, but for what is wrong with files of weights beside their place outside the model's folder.
    """
    proto = _parse(path, _read_bytes(path))
    named = {_location(path, t) for t in _tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL}
    return proto, sorted(named)


def may_be_model(path: Path) -> bool:
    """Whether a file starts as a model does, with the field of the IR version; a large list or archive does not."""
    with path.open("rb") as file:
        return file.read(1) == b"\x08"


def values_of(tensor: onnx.TensorProto, folder: Path | None) -> NDArray[np.generic]:
    """One weight's values; of an external file only this weight's bytes are read.

    Args:
        tensor: a weight of a file that `read_onnx` has checked.
        folder: `OnnxFile.external_folder`.
    """
    if tensor.data_location != onnx.TensorProto.EXTERNAL or folder is None:
        return np.asarray(numpy_helper.to_array(tensor))
    entries = _entries(tensor)
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset") or 0))
        item_bytes = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        content = file.read(int(entries.get("length") or math.prod(tensor.dims) * item_bytes))
    inline = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=content)
    return np.asarray(numpy_helper.to_array(inline))


def file_digest(path: Path) -> str:
    """sha256:… of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return "sha256:" + digest.hexdigest()


def _read_bytes(path: Path) -> bytes:
    remote.refuse(path, "model")
    try:
        status = path.stat()
        size_bytes = status.st_size
        if path.is_dir():
            raise UsageError(
                f"{path}: model is a folder; one .onnx file is needed",
                f"robustcheck {shlex.quote(str(path / 'model.onnx'))}",
            )
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, /dev/zero never end
            raise UsageError(
                f"{path}: model is a device or pipe; a regular file is needed", f"ls -lL {shlex.quote(str(path))}"
            )
        if size_bytes > PROTOBUF_LIMIT_BYTES:
            raise CannotAssessError(
                f"{path}: model file is {size_bytes} bytes; protobuf ends at {PROTOBUF_LIMIT_BYTES}",
                "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: model file is missing; no such file", f"ls {shlex.quote(str(path.parent))}"
        ) from error
    except OSError as error:
        raise CannotAssessError(
            f"{path}: model file is not readable ({error.strerror}); it must be a readable file",
            f"ls -l {shlex.quote(str(path))}",
        ) from error
    if not content:
        raise CannotAssessError(
            f"{path}: model file is empty (0 bytes); an ONNX protobuf is needed",
            "download or export it again",
        )
    return content


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    if content.startswith(LFS_MARK):
        raise CannotAssessError(
            f"{path}: model file is a Git LFS pointer; the model itself was not downloaded",
            f"git lfs pull --include {shlex.quote(path.name)}",
        )
    for offset, mark, what in FORMATS:
        if content[offset : offset + len(mark)] == mark:
            raise CannotAssessError(
                f"{path}: model file is {what}; an ONNX protobuf is needed",
                "export the model first: robustcheck export --help",
            )
    if _is_text(content[:1024]):
        raise CannotAssessError(
            f"{path}: model file is text; an ONNX protobuf is needed", f"head -c 200 {shlex.quote(str(path))}"
        )
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
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
    return proto


def _is_text(start: bytes) -> bool:
    """An ONNX protobuf starts with control bytes (0x08, the field of the IR version); text has none."""
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in start):
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(start)  # only a character cut in two by our own limit
    return True


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: object) -> Iterator[onnx.TensorProto]:
    for node in nodes:  # type: ignore[attr-defined] # a repeated protobuf field has no public type
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _location(path: Path, tensor: onnx.TensorProto) -> str:
    location = _entries(tensor).get("location", "")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if not location:
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r} has no location; the model is damaged",
            "download or export it again",
        )
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        raise _escape(path, location)
    return location


def _escape(path: Path, location: str) -> CannotAssessError:
    return CannotAssessError(
        f"{path}: external data path {location!r} leaves the model's folder; weights must lie beside it",
        f"copy the weights file into {path.parent} and save the model with its plain name",
    )


def locate(path: Path, locations: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """The folder to give to ONNX Runtime and each location's resolved file below it."""
    if not locations:
        return None, {}
    # a model reached through a link (current.onnx -> store/v3.onnx) keeps its weights beside the target
    folders = [path.parent, path.resolve().parent]
    folder = next((f for f in folders if all((f / name).exists() for name in locations)), folders[0])
    for name in locations:
        if not (folder / name).is_file():
            raise CannotAssessError(
                f"{path}: weights file {name} is missing; the model keeps its weights in it",
                f"copy {name} next to the model: {folder / name}",
            )
    folder = folder.resolve()
    targets = {name: (folder / name).resolve() for name in locations}
    if all(target.is_relative_to(folder) for target in targets.values()):
        return folder, targets
    blobs = _hub_blobs(folder)
    for name, target in targets.items():
        if blobs is None or target.parent != blobs:
            raise _escape(path, name)
    return blobs, targets


def _point_at(folder: Path, targets: dict[str, Path], tensors: list[onnx.TensorProto]) -> None:
    """Name resolved files, so that ONNX Runtime meets neither symlinks nor names of another folder."""
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = targets[entry.value].relative_to(folder).as_posix()


def _hub_blobs(folder: Path) -> Path | None:
    """The blobs folder of a Hugging Face cache: <repo>/snapshots/<revision>/… links to <repo>/blobs/…."""
    for part in (folder, *folder.parents):
        if part.parent.name == "snapshots":
            return part.parent.parent / "blobs"
    return None


def _check_length(path: Path, tensor: onnx.TensorProto, target: Path) -> None:
    entries, name = _entries(tensor), _entries(tensor)["location"]
    try:
        offset = int(entries.get("offset") or 0)
        item_bytes = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        needed = math.prod(tensor.dims) * item_bytes
        if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1):
            needed = (math.prod(tensor.dims) + 1) // 2  # two values a byte
        length = int(entries.get("length") or needed)
    except (ValueError, KeyError) as error:
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r} is described by {entries}; "
            "offset, length and type must be known",
            "export the model again",
        ) from error
    if offset < 0 or any(size < 0 for size in tensor.dims) or length != needed:
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r} is {length} bytes at {offset} in {name}; "
            f"its shape {list(tensor.dims)} needs {needed}",
            "export the model again",
        )
    size_bytes = target.stat().st_size
    if offset + length > size_bytes:
        with target.open("rb") as file:
            pointer = file.read(len(LFS_MARK)) == LFS_MARK
        raise CannotAssessError(
            f"{path}: weights file {name} is {size_bytes} bytes; tensor {tensor.name!r} ends at byte "
            f"{offset + length}, so it is {'a Git LFS pointer' if pointer else 'truncated'}",
            f"git lfs pull --include {shlex.quote(name)}" if pointer else f"copy or download {name} again",
        )
