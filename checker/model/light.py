"""Parse an ONNX file without a copy of its large weights: they stay in the file's content until somebody asks.

The protobuf library copies every byte that it parses. Here the fields of the file are walked over first, and the parser
gets all but the raw data of large initializers, whose places in the content are remembered.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

LARGE_BYTES = 1 << 16  # weights below are parsed as they are: shape inference and the walks read small ones
GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
NAME, RAW_DATA = onnx.TensorProto.NAME_FIELD_NUMBER, onnx.TensorProto.RAW_DATA_FIELD_NUMBER
# protobuf's wire types: what follows a field's key
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5

Bytes = bytes | mmap.mmap
"""a file's content: copied, or mapped into memory"""
Places = Mapping[str, slice]
"""name of an initializer: where its raw data lie in the content of the file"""


@dataclass(frozen=True)
class _Field:
    """A field with a length: from `start` (its key) to `end` in the content, its value from `inner` on."""

    number: int
    start: int
    inner: int
    end: int


def parse_light(content: Bytes) -> tuple[onnx.ModelProto, Places]:
    """Parse a model without the raw data of its large initializers, and give their places in `content`.

    Whatever the walk over the fields does not understand is parsed whole, with no places.

    Raises:
        DecodeError: no complete protobuf.
    """
    try:
        light, places = _without_large(content)
        return onnx.ModelProto.FromString(light), places
    except (IndexError, ValueError, DecodeError):
        return onnx.ModelProto.FromString(content[:]), {}


def restore(proto: onnx.ModelProto, content: Bytes, places: Places) -> onnx.ModelProto:
    """Copy a model with the raw data that `parse_light` left in `content`."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for tensor in whole.graph.initializer:
        if tensor.name in places:
            tensor.raw_data = content[places[tensor.name]]
    return whole


def by_place(proto: onnx.ModelProto, file: str, places: Places) -> onnx.ModelProto:
    """Copy a model in which the large weights that `parse_light` left in a file are named by their places in it."""
    pointing = onnx.ModelProto()
    pointing.CopyFrom(proto)
    for tensor in pointing.graph.initializer:
        if tensor.name in places and not tensor.HasField("raw_data"):
            place = places[tensor.name]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", file), ("offset", place.start), ("length", place.stop - place.start)):
                tensor.external_data.add(key=key, value=str(value))
    return pointing


def drop_pages(content: Bytes) -> None:
    """Give back the memory that reading a mapped file has filled; what is read again comes from the file again."""
    if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)


def _without_large(content: Bytes) -> tuple[bytes, Places]:
    """Cut the raw data of large initializers out of a model. Raises IndexError, ValueError for what is no plain one."""
    graphs = [field for field in _fields(content, 0, len(content)) if field.number == GRAPH]
    if len(graphs) != 1:
        raise ValueError("protobuf would merge several graphs")
    (graph,) = graphs
    view, places, parts, at = memoryview(content), dict[str, slice](), list[bytes | memoryview](), graph.inner
    for field in _fields(content, graph.inner, graph.end):
        if field.number != INITIALIZER or field.end - field.inner < LARGE_BYTES:
            continue
        inside = list(_fields(content, field.inner, field.end))
        names = [content[part.inner : part.end].decode() for part in inside if part.number == NAME]
        raw = [part for part in inside if part.number == RAW_DATA]
        if len(names) != 1 or len(raw) != 1 or names[0] in places:
            raise ValueError("protobuf would take the last one")
        if raw[0].end - raw[0].inner < LARGE_BYTES:  # the rest of the field is long: a doc string, say
            continue
        places[names[0]] = slice(raw[0].inner, raw[0].end)
        rest = view[field.inner : raw[0].start], view[raw[0].end : field.end]
        parts += [view[at : field.start], _key(INITIALIZER, sum(map(len, rest))), *rest]
        at = field.end
    if not places:
        return content[:], {}
    parts.append(view[at : graph.end])
    head = _key(GRAPH, sum(map(len, parts)))
    return b"".join([view[: graph.start], head, *parts, view[graph.end :]]), places


def _fields(content: Bytes, at: int, end: int) -> Iterator[_Field]:
    """Yield the fields of a message that have a length; raises IndexError or ValueError where one is cut off."""
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
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError("a wire type that ONNX does not use")
        if at > end:
            raise ValueError("a field ends behind its message")


def _varint(content: Bytes, at: int) -> tuple[int, int]:
    """Read a number of protobuf, seven bits a byte, the lowest first; give what stands behind it, too."""
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
