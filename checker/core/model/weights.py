"""Locate the weights of a model, check their lengths, and read them without a copy.

The protobuf library copies every byte that it parses. Here the fields of the file are walked over first, and the parser
gets all but the raw data of large initializers, whose places in the content are remembered.

`onnx.checker` accepts truncated external data and `onnx.load` refuses hard links, so this module checks locations
and lengths itself.
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
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
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
NAME = TensorProto.NAME_FIELD_NUMBER
RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
# protobuf's wire types: what follows a field's key
VARINT = 0
LENGTH = 2
FIXED_BYTES = {1: 8, 5: 4}  # by wire type

Bytes = bytes | mmap.mmap
"""a file's content: copied, or mapped into memory"""
Places = Mapping[str, slice]
"""name of an initializer: where its raw data lie in the content of the file"""


class _Field(NamedTuple):
    """A field with a length, by its places in the content."""

    number: int
    start: int
    """of its key"""
    inner: int
    """where its value starts"""
    end: int

    @property
    def size(self) -> int:
        """Return the length of its value."""
        return self.end - self.inner


def parse_stripped(content: Bytes) -> tuple[ModelProto, Places]:
    """Parse a model without its large weights, and return their places in `content`.

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
    view = memoryview(content)
    graph = _only(GRAPH, _fields(content, 0, len(content)))
    places: dict[str, slice] = {}
    parts: list[bytes | memoryview] = []  # of the graph that is left
    at = graph.inner
    for field in _fields(content, graph.inner, graph.end):
        if field.number != INITIALIZER or field.size < LARGE_BYTES:
            continue
        inside = list(_fields(content, field.inner, field.end))
        named = _only(NAME, inside)
        name = content[named.inner : named.end].decode()
        raw = _only(RAW_DATA, inside)
        if name in places:
            raise ValueError("two initializers of one name")
        if raw.size < LARGE_BYTES:  # the rest of the field is long: a doc string, say
            continue
        places[name] = slice(raw.inner, raw.end)
        size = field.size - (raw.end - raw.start)
        parts += [view[at : field.start], _key(INITIALIZER, size)]
        parts += [view[field.inner : raw.start], view[raw.end : field.end]]
        at = field.end
    if not places:
        return content[:], {}
    parts.append(view[at : graph.end])
    key = _key(GRAPH, sum(map(len, parts)))
    return b"".join([view[: graph.start], key, *parts, view[graph.end :]]), places


def _only(number: int, fields: Iterable[_Field]) -> _Field:
    """Return the one field of a number. Raises ValueError for none or several."""
    (only,) = (field for field in fields if field.number == number)
    return only


def _fields(content: Bytes, at: int, end: int) -> Iterator[_Field]:
    """Yield the fields of a message that have a length. Raises LookupError or ValueError where one is cut off."""
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
            at += FIXED_BYTES[kind]
        if at > end:
            raise ValueError("a field ends behind its message")


def _varint(content: Bytes, at: int) -> tuple[int, int]:
    """Read a number of protobuf, seven bits per byte and the lowest first, and the position after it."""
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
    key = bytearray((number << 3 | LENGTH,))
    while size > 127:
        key.append(size & 127 | 128)
        size >>= 7
    key.append(size)
    return bytes(key)


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
        """Return a name for the folder of external files that no renaming changes (`OpenFolder`)."""
        return None if self.open_folder is None else self.open_folder.path


def tensors_of(proto: ModelProto) -> tuple[list[TensorProto], list[TensorProto]]:
    """Return a model's tensors that have values, the main graph's initializers first, and those in other files."""
    tensors = list(_graph_tensors(proto.graph))
    for function in proto.functions:
        tensors += _attribute_tensors(function.attribute_proto)
        tensors += _node_tensors(function.node)
    return tensors, [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]


def locations_of(path: Path, tensors: Iterable[TensorProto]) -> list[str]:
    """Return the names of the files that hold tensors, sorted. Raises as `_location_of`."""
    return sorted({_location_of(path, tensor) for tensor in tensors})


def _location_of(path: Path, tensor: TensorProto) -> str:
    """Return the name, as the model writes it, of the file that holds a tensor's values.

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
    if not location:
        raise _odd_place(tensor, "has no location; the model is damaged")
    windows = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        raise _outside_folder(path, location)
    return location


def _odd_place(tensor: TensorProto, problem: str, hint: str = AGAIN) -> CannotAssessError:
    return CannotAssessError(f"external data of tensor {tensor.name!r:.80} {problem}", hint)


def locate_weights(path: Path, locations: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """Return the folder for ONNX Runtime, and the resolved file below it of each location.

    Raises:
        CannotAssessError: a file is missing, or lies outside the model's folder.
    """
    if not locations:
        return None, {}
    # a model reached through a link (current.onnx -> store/v3.onnx) keeps its weights next to the target
    folders = [path.parent, path.resolve().parent]
    missing = [[name for name in locations if not _is_file(folder / name)] for folder in folders]
    if all(missing):
        name = missing[0][0]
        raise CannotAssessError(
            f"weights file {name:.1000} is missing; the model keeps its weights in it",
            f"copy {name:.1000} next to the model: {folders[0] / name!s:.1000}",
        )
    folder = folders[1 if missing[0] else 0].resolve()
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


def check_external(tensors: Iterable[TensorProto], folder: Path, targets: Mapping[str, Path]) -> None:
    """Refuse tensors of wrong length, and resolve the others' file names.

    Their values must lie whole in the files of `locate_weights`, and be as many as their shapes need. By these names
    ONNX Runtime meets neither symlinks nor names of another folder.

    Raises:
        CannotAssessError.
    """
    for tensor in tensors:
        _check_length(tensor, targets[entries_of(tensor)["location"]])
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = targets[entry.value].relative_to(folder).as_posix()


def _check_length(tensor: TensorProto, target: Path) -> None:
    entries = entries_of(tensor)
    name = entries["location"]
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
            is_pointer = file.read(len(LFS_MARK)) == LFS_MARK
        state = "truncated"
        hint = f"copy or download {name} again"
        if is_pointer:
            state = "a Git LFS pointer"
            hint = f"git lfs pull --include {quoted(name)}"
        end = f"tensor {tensor.name!r} ends at byte {offset + length}"
        raise CannotAssessError(f"weights file {name} is {size_bytes} bytes; {end}, so it is {state}", hint)


def damaged(message: str) -> CannotAssessError:
    """Return the error for a damaged file."""
    return CannotAssessError(message, AGAIN)


def check_inline(tensor: TensorProto, places: Places) -> None:
    """Refuse an inline tensor that has fewer or more values than its shape needs.

    Args:
        tensor: its values are not in another file.
        places: of the large weights, which the tensor does not hold itself; none unless it is of the main graph.

    Raises:
        CannotAssessError.
    """
    try:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        field = tensor_dtype_to_field(tensor.data_type)
        needed = needed_bytes(tensor)
    except (ValueError, KeyError, TypeError) as error:
        message = f"type of weight {tensor.name!r} is number {tensor.data_type}; ONNX has no such type"
        raise damaged(message) from error
    unit = "bytes"
    count = len(getattr(tensor, field))
    if count and (tensor.HasField("raw_data") or tensor.name in places):
        raise damaged(f"weight {tensor.name!r} has values in raw_data and in {field}; they must be in one place")
    if tensor.HasField("raw_data"):
        length = len(tensor.raw_data)
    elif tensor.name in places:
        place = places[tensor.name]
        length = place.stop - place.start
    else:  # one number in a field of its own type for each value, two for a complex one, or for each packed byte
        length = count
        unit = "values"
        if tensor.data_type not in PACKED_BITS or length != needed:
            needed = math.prod(tensor.dims) * (2 if kind.startswith("complex") else 1)
    if length != needed or any(size < 0 for size in tensor.dims):
        raise damaged(
            f"weight {tensor.name!r} has {length} {unit}; its shape {list(tensor.dims)} and type {kind} need {needed}"
        )
    if tensor.HasField("segment"):
        raise damaged(f"weight {tensor.name!r} is in segments; it must be whole")


def values_of(tensor: TensorProto, weights: Weights) -> GenericArray:
    """Read the values of one weight, and no other bytes of the file that holds them.

    Args:
        tensor: an initializer of a file that `read_onnx` has checked.
        weights: `OnnxFile.weights`.
    """
    if tensor.data_type == TensorProto.STRING:  # of any bytes: ONNX's own reader wants UTF-8
        return np.array(list(tensor.string_data), dtype=object).reshape(tuple(tensor.dims))
    if not _is_elsewhere(tensor, weights):
        return np.asarray(to_array(tensor))
    raw_data = b"".join(pieces_of(tensor, weights))
    inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw_data)
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
        entries = entries_of(tensor)
        left = needed_bytes(tensor)
        with (weights.folder / entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                yield piece
                left -= len(piece)


def _is_elsewhere(tensor: TensorProto, weights: Weights) -> bool:
    """Return whether a weight's values are not in the message itself, but in a file."""
    if tensor.data_location == TensorProto.EXTERNAL and weights.folder is not None:
        return True
    if tensor.name not in weights.places or tensor.HasField("raw_data"):
        return False
    return not len(getattr(tensor, tensor_dtype_to_field(tensor.data_type)))


def needed_bytes(tensor: TensorProto) -> int:
    """Return the bytes that a shape and type need. Raises KeyError, TypeError for an unknown type."""
    bits: int = PACKED_BITS.get(tensor.data_type, 0)
    if not bits:
        bits = 8 * tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    n_values: int = math.prod(tensor.dims)
    return (n_values * bits + 7) // 8


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse_tensors = [*attribute.sparse_tensors]
        if attribute.HasField("sparse_tensor"):
            sparse_tensors.append(attribute.sparse_tensor)
        for sparse in sparse_tensors:
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
