"""The weights of a model: located, digested, watched. They are parsed without a copy.

The protobuf library copies every byte that it parses. Here the fields of the file are walked over first, and the parser
gets all but the raw data of large initializers, whose places in the content are remembered.

`onnx.checker` accepts truncated external data and `onnx.load` refuses hard links, so this module checks locations
and lengths itself.

Files of weights are digested first, and ONNX Runtime reads them some time later, by name. Whoever can rename their
folder in between can have others read, and put the first ones back before anybody looks again: their stamps have not
changed. On Linux an open folder has a name of its own, which leads to it wherever it was moved to; that name is passed
on. Inside the folder no file can be exchanged unseen: renaming one changes its status (`stamp_of`). On other systems
only the stamps are checked.

A large model file is treated the same way: it is mapped, not copied, and ONNX Runtime maps its weights by their places
in it. Linux stamps only the first write through a memory map until that write is on the disk: so a file is brought
there between its stamp and its digest (`fsync`), and whatever is written from then on shows. File systems without a
disk (tmpfs) never stamp such writes; there, and where the file system is unknown, a model file is copied
(`stamps_writes`). Weights in files of their own are not copied, so such a write to them goes unseen there.
"""

import math
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto
from onnx.helper import tensor_dtype_to_field, tensor_dtype_to_np_dtype
from onnx.numpy_helper import from_array, to_array

from ...arrays import GenericArray
from ...errors import CannotAssessError, RobustcheckError
from ...text import frozen, quoted
from .watched import OpenFolder

CHUNK_BYTES = 1 << 22  # read size of weights in other files, 4 MiB


@contextmanager
def about(name: object) -> Iterator[None]:
    """Begin the messages of errors inside with a name. What reads a model raises the bare fact."""
    try:
        yield
    except RobustcheckError as fault:
        fault.message = f"{name}: {fault.message}"
        raise


LARGE_BYTES = 1 << 16  # weights below are parsed as they are: shape inference and the walks read small ones
GRAPH = ModelProto.GRAPH_FIELD_NUMBER
INITIALIZER = GraphProto.INITIALIZER_FIELD_NUMBER
NAME, RAW_DATA = TensorProto.NAME_FIELD_NUMBER, TensorProto.RAW_DATA_FIELD_NUMBER
# protobuf's wire types: what follows a field's key
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5

Bytes = bytes | mmap.mmap
"""a file's content: copied, or mapped into memory"""
Places = Mapping[str, slice]
"""name of an initializer: where its raw data lie in the content of the file"""


class _Field(NamedTuple):
    """A field with a length. It is from `start` (its key) to `end` in the content, its value from `inner` on."""

    number: int
    start: int
    inner: int
    end: int


def parse_stripped(content: Bytes) -> tuple[ModelProto, Places]:
    """Parse a model without its large weights. Their places in `content` come with it.

    Whatever the walk over the fields does not understand is parsed whole, with no places.

    Raises:
        DecodeError: no complete protobuf.
    """
    try:
        stripped, places = _without_large(content)
        return ModelProto.FromString(stripped), places
    except (LookupError, ValueError, DecodeError):
        return ModelProto.FromString(content[:]), {}


def _without_large(content: Bytes) -> tuple[bytes, Places]:
    """Cut the data of large initializers out of a model. Raises LookupError, ValueError for what is not a plain one.

    Protobuf would merge several graphs, and take the last of several names or data.
    """
    (graph,) = (field for field in _fields(content, 0, len(content)) if field.number == GRAPH)
    view, places, parts, at = memoryview(content), dict[str, slice](), list[bytes | memoryview](), graph.inner
    for field in _fields(content, graph.inner, graph.end):
        if field.number != INITIALIZER or field.end - field.inner < LARGE_BYTES:
            continue
        inside = list(_fields(content, field.inner, field.end))
        (name,) = (content[part.inner : part.end].decode() for part in inside if part.number == NAME)
        (raw,) = (part for part in inside if part.number == RAW_DATA)
        if name in places:
            raise ValueError("two initializers of one name")
        if raw.end - raw.inner < LARGE_BYTES:  # the rest of the field is long: a doc string, say
            continue
        places[name] = slice(raw.inner, raw.end)
        rest = view[field.inner : raw.start], view[raw.end : field.end]
        parts += [view[at : field.start], _key(INITIALIZER, sum(map(len, rest))), *rest]
        at = field.end
    if not places:
        return content[:], {}
    parts.append(view[at : graph.end])
    return b"".join([view[: graph.start], _key(GRAPH, sum(map(len, parts))), *parts, view[graph.end :]]), places


def _fields(content: Bytes, at: int, end: int) -> Iterator[_Field]:
    """Yield the fields of a message that have a length. LookupError or ValueError where one is cut off."""
    while at < end:
        start = at
        key, at = _varint(content, at)
        kind = key & 7
        if kind == LENGTH:
            size, inner = _varint(content, at)
            at = inner + size
            if at <= end:
                yield _Field(key >> 3, start, inner, at)
        elif kind == VARINT:
            _, at = _varint(content, at)
        else:  # a KeyError for a wire type that ONNX does not use
            at += {EIGHT_BYTES: 8, FOUR_BYTES: 4}[kind]
        if at > end:
            raise ValueError("a field ends behind its message")


def _varint(content: Bytes, at: int) -> tuple[int, int]:
    """Read a number of protobuf, and the position after it. It has seven bits per byte, the lowest first."""
    value = shift = 0
    while shift < 70:  # ten bytes hold 64 bits; longer ones are refused by protobuf, too
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number is longer than ten bytes")


def _key(number: int, size: int) -> bytes:
    """Write the key of a field with a length."""
    out, value = bytearray((number << 3 | LENGTH,)), size
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


LFS_MARK = b"version https://git-lfs.github.com/spec/"  # first line of a Git LFS pointer file
AGAIN = "download or export it again"
PACKED_BITS = {  # types of which a byte holds several values: INT4, FLOAT4E2M1, …
    number: int(match[1])
    for name, number in TensorProto.DataType.items()
    if (match := re.fullmatch(r"U?(?:INT|FLOAT)([1-7])(?:E.*)?", name))
}


@frozen
class Weights:
    """The places of weights that a parsed model lacks."""

    open_folder: OpenFolder | None
    """the folder of external files; None without external data"""
    content: Bytes
    """of the model's own file"""
    places: Places
    """of large weights in `content`"""

    @property
    def folder(self) -> Path | None:
        """The folder of external files, which no renaming changes. It is a name for it (`OpenFolder`)."""
        return None if self.open_folder is None else self.open_folder.path


def tensors_of(proto: ModelProto) -> tuple[list[TensorProto], list[TensorProto]]:
    """Return a model's tensors that have values, and those in other files.

    Of all the main graph's initializers come first; functions are included.
    """
    tensors = list(_graph_tensors(proto.graph))
    for function in proto.functions:
        for attributes in (function.attribute_proto, *(node.attribute for node in function.node)):
            tensors += _attribute_tensors(attributes)
    return tensors, [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]


def locations_of(path: Path, tensors: Iterable[TensorProto]) -> list[str]:
    """Return the names of the files that hold tensors, sorted. Raises as `_location_of`."""
    return sorted({_location_of(path, tensor) for tensor in tensors})


def _location_of(path: Path, tensor: TensorProto) -> str:
    """Return the file name that a tensor's values have. It is written as the model has it.

    Raises:
        CannotAssessError: there is none, or it lies outside the model's folder; an entry is there twice or is not text.
    """
    words = [word for entry in tensor.external_data for word in (entry.key, entry.value)]
    odd = next((word for word in words if not isinstance(word, str)), None)  # protobuf gives bytes for no UTF-8
    if odd is not None:
        raise _odd_place(tensor, f"says {odd!r:.80}; it must be UTF-8 text")
    if len(words) != 2 * len(entries_of(tensor)):  # readers differ in the one that they take
        raise _odd_place(tensor, "has an entry twice; each must be there once")
    location = entries_of(tensor).get("location", "")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if not location:
        raise _odd_place(tensor, "has no location; the model is damaged")
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        raise _outside_folder(path, location)
    return location


def _odd_place(tensor: TensorProto, problem: str, hint: str = AGAIN) -> CannotAssessError:
    return CannotAssessError(f"external data of tensor {tensor.name!r:.80} {problem}", hint)


def locate_weights(path: Path, locations: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """Return the folder for ONNX Runtime, and the files. Each location has its resolved file below the folder.

    Raises:
        CannotAssessError: a file is missing, or lies outside the model's folder.
    """
    if not locations:
        return None, {}
    # a model reached through a link (current.onnx -> store/v3.onnx) keeps its weights next to the target
    folders = [path.parent, path.resolve().parent]
    folder = next((f for f in folders if all(_is_file(f / name) for name in locations)), folders[0])
    for name in locations:
        if not _is_file(folder / name):
            raise CannotAssessError(
                f"weights file {name:.1000} is missing; the model keeps its weights in it",
                f"copy {name:.1000} next to the model: {folder / name!s:.1000}",
            )
    folder = folder.resolve()
    targets = {name: (folder / name).resolve() for name in locations}
    if all(target.is_relative_to(folder) for target in targets.values()):
        return folder, targets
    # of a Hugging Face cache: there <repo>/snapshots/<revision>/… links to <repo>/blobs/…
    above = (part.parent for part in (folder, *folder.parents) if part.parent.name == "snapshots")
    blobs = next((snapshots.with_name("blobs") for snapshots in above), None)
    for name, target in targets.items():
        if blobs is None or target.parent != blobs:
            raise _outside_folder(path, name)
    return blobs, targets


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than any can be
        return False


def check_external(tensors: Iterable[TensorProto], folder: Path | None, targets: Mapping[str, Path]) -> None:
    """Refuse tensors of wrong length, and resolve the others' file names.

    Their values must lie whole in the files of `locate_weights`, and be as many as their shapes need. By these names
    ONNX Runtime meets neither symlinks nor names of another folder.

    Raises:
        CannotAssessError.
    """
    for tensor in tensors:
        _check_length(tensor, targets[entries_of(tensor)["location"]])
        for entry in tensor.external_data:
            if entry.key == "location" and folder is not None:
                entry.value = targets[entry.value].relative_to(folder).as_posix()


def _check_length(tensor: TensorProto, target: Path) -> None:
    entries, name = entries_of(tensor), entries_of(tensor)["location"]
    try:
        offset = int(entries.get("offset") or 0)
        needed = needed_bytes(tensor)
        length = int(entries.get("length") or needed)
    except (ValueError, KeyError) as error:
        problem = f"is described by {entries!s:.200}; offset, length and type must be known"
        raise _odd_place(tensor, problem, "export the model again") from error
    if offset < 0 or any(size < 0 for size in tensor.dims) or length != needed:
        problem = f"is {length} bytes at {offset} in {name:.200}; its shape {list(tensor.dims)} needs {needed}"
        raise _odd_place(tensor, problem, "export the model again")
    size_bytes = target.stat().st_size
    if offset + length > size_bytes:
        with target.open("rb") as file:
            pointer = file.read(len(LFS_MARK)) == LFS_MARK
        raise CannotAssessError(
            f"weights file {name} is {size_bytes} bytes; tensor {tensor.name!r} ends at byte "
            f"{offset + length}, so it is {'a Git LFS pointer' if pointer else 'truncated'}",
            f"git lfs pull --include {quoted(name)}" if pointer else f"copy or download {name} again",
        )


def damaged(message: str) -> CannotAssessError:
    """Return the error for a damaged file."""
    return CannotAssessError(message, AGAIN)


def check_inline(tensor: TensorProto, places: Places) -> None:
    """Refuse an inline tensor of the wrong length. It must have as many values as its shape needs.

    Args:
        tensor: its values are not in another file.
        places: of the large weights, which the tensor does not hold itself; none unless it is of the main graph.

    Raises:
        CannotAssessError.
    """
    try:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        field = tensor_dtype_to_field(tensor.data_type)
        needed, unit = needed_bytes(tensor), "bytes"
    except (ValueError, KeyError, TypeError) as error:
        message = f"type of weight {tensor.name!r} is number {tensor.data_type}; ONNX has no such type"
        raise damaged(message) from error
    count = len(getattr(tensor, field))
    if count and (tensor.HasField("raw_data") or tensor.name in places):
        raise damaged(f"weight {tensor.name!r} has values in raw_data and in {field}; they must be in one place")
    if tensor.HasField("raw_data"):
        length = len(tensor.raw_data)
    elif tensor.name in places:
        length = places[tensor.name].stop - places[tensor.name].start
    else:  # one number in a field of its own type for each value, two for a complex one, or for each packed byte
        length, unit = count, "values"
        values = math.prod(tensor.dims) * (2 if kind.startswith("complex") else 1)
        needed = needed if tensor.data_type in PACKED_BITS and length == needed else values
    if length != needed or any(size < 0 for size in tensor.dims):
        raise damaged(
            f"weight {tensor.name!r} has {length} {unit}; its shape {list(tensor.dims)} and type {kind} need {needed}"
        )
    if tensor.HasField("segment"):
        raise damaged(f"weight {tensor.name!r} is in segments; it must be whole")


def values_of(tensor: TensorProto, weights: Weights) -> GenericArray:
    """Read the values of one weight. Only this weight's bytes are read, of an external file or the model's.

    Args:
        tensor: an initializer of a file that `read_onnx` has checked.
        weights: `OnnxFile.weights`.
    """
    if tensor.data_type == TensorProto.STRING:  # of any bytes: ONNX's own reader wants UTF-8
        return np.array(list(tensor.string_data), dtype=object).reshape(tuple(tensor.dims))
    if not _is_elsewhere(tensor, weights):
        return np.asarray(to_array(tensor))
    inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=b"".join(pieces_of(tensor, weights)))
    return np.asarray(to_array(inline))


def pieces_of(tensor: TensorProto, weights: Weights) -> Iterator[bytes | memoryview]:
    """Yield the raw little-endian bytes of one weight. Arguments are those of `values_of`."""
    if not _is_elsewhere(tensor, weights):
        if tensor.HasField("raw_data"):
            yield tensor.raw_data
        elif tensor.data_type == TensorProto.STRING:
            for text in tensor.string_data:
                yield len(text).to_bytes(8, "little") + text
        else:  # in a field of their own type
            yield from_array(to_array(tensor)).raw_data
    elif tensor.data_location != TensorProto.EXTERNAL or weights.folder is None:
        yield memoryview(weights.content)[weights.places[tensor.name]]
    else:
        entries, left = entries_of(tensor), needed_bytes(tensor)
        with (weights.folder / entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                yield piece
                left -= len(piece)


def _is_elsewhere(tensor: TensorProto, weights: Weights) -> bool:
    """Whether a weight's values are not in the message itself. They are in another file, or in the model's content."""
    if tensor.data_location == TensorProto.EXTERNAL and weights.folder is not None:
        return True
    field = tensor_dtype_to_field(tensor.data_type)
    return tensor.name in weights.places and not tensor.HasField("raw_data") and not len(getattr(tensor, field))


def needed_bytes(tensor: TensorProto) -> int:
    """Return the bytes that a shape and type need. Raises KeyError, TypeError for an unknown type."""
    bits: int = PACKED_BITS.get(tensor.data_type) or 8 * tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    values: int = math.prod(tensor.dims)
    return (values * bits + 7) // 8


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def entries_of(tensor: TensorProto) -> dict[str, str]:
    """Return location, offset and length of external data."""
    return {entry.key: entry.value for entry in tensor.external_data}


def _outside_folder(path: Path, location: str) -> CannotAssessError:
    return CannotAssessError(
        f"external data path {location!r} leaves the model's folder; weights must lie next to it",
        f"copy the weights file into {path.parent} and save the model with its plain name",
    )
