"""External data of an ONNX file: locate and measure the files of weights beside it (`held.py` digests them).

`onnx.checker` calls truncated external data fine and `onnx.load` refuses hard links, so this module checks locations
and lengths itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from onnx import helper, numpy_helper

from robustcheck_onnx.checker.arrays import GenericArray
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.text import quoted

from .held import Held
from .light import Bytes, Places

LFS_MARK = b"version https://git-lfs.github.com/spec/"  # first line of a Git LFS pointer file
AGAIN = "download or export it again"
PACKED_BITS = {  # types of which a byte holds several values, where the installed onnx has them
    number: bits
    for name, bits in (
        ("INT4", 4),
        ("UINT4", 4),
        ("FLOAT4E2M1", 4),
        ("INT2", 2),
        ("UINT2", 2),
        ("FLOAT6E2M3", 6),
        ("FLOAT6E3M2", 6),
    )
    if (number := dict(onnx.TensorProto.DataType.items()).get(name)) is not None
}


@dataclass(frozen=True)
class Weights:
    """Where the values of weights lie that a parsed model does not hold."""

    held: Held | None
    """the folder of external files; None without external data"""
    content: Bytes
    """of the model's own file"""
    places: Places
    """of large weights in `content`"""

    @property
    def folder(self) -> Path | None:
        """What external files are looked for in, a name of the folder that no renaming changes (`held.py`)."""
        return None if self.held is None else self.held.path


def all_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """List the tensors of a model that have values, the main graph's initializers first, functions and all included."""
    found = list(_graph_tensors(proto.graph))
    for function in proto.functions:
        for attributes in (function.attribute_proto, *(node.attribute for node in function.node)):
            found += _attribute_tensors(attributes)
    return found


def external_tensors(tensors: Iterable[onnx.TensorProto]) -> list[onnx.TensorProto]:
    """List those of which the values lie in other files."""
    return [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]


def location_of(path: Path, tensor: onnx.TensorProto) -> str:
    """Read the name of the file that holds a tensor's values, as the model gives it.

    Raises:
        CannotAssessError: there is none, or it lies outside the model's folder; an entry is there twice or is no text.
    """
    words = [word for entry in tensor.external_data for word in (entry.key, entry.value)]
    odd = next((word for word in words if not isinstance(word, str)), None)  # protobuf gives bytes for no UTF-8
    if odd is not None:
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r:.80} says {odd!r:.80}; it must be UTF-8 text", AGAIN
        )
    if len(words) != 2 * len(entries_of(tensor)):  # readers differ in the one that they take
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r:.80} has an entry twice; each must be there once", AGAIN
        )
    location = entries_of(tensor).get("location", "")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if not location:
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r:.80} has no location; the model is damaged", AGAIN
        )
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        raise _outside_folder(path, location)
    return location


def locate_weights(path: Path, locations: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """Find the folder to give to ONNX Runtime, and each location's resolved file below it.

    Raises:
        CannotAssessError: a file is missing, or lies outside the model's folder.
    """
    if not locations:
        return None, {}
    # a model reached through a link (current.onnx -> store/v3.onnx) keeps its weights beside the target
    folders = [path.parent, path.resolve().parent]
    folder = next((f for f in folders if all(_is_file(f / name) for name in locations)), folders[0])
    for name in locations:
        if not _is_file(folder / name):
            raise CannotAssessError(
                f"{path}: weights file {name:.1000} is missing; the model keeps its weights in it",
                f"copy {name:.1000} next to the model: {folder / name!s:.1000}",
            )
    folder = folder.resolve()
    targets = {name: (folder / name).resolve() for name in locations}
    if all(target.is_relative_to(folder) for target in targets.values()):
        return folder, targets
    blobs = _hub_blobs(folder)
    for name, target in targets.items():
        if blobs is None or target.parent != blobs:
            raise _outside_folder(path, name)
    return blobs, targets


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than any can be
        return False


def check_length(path: Path, tensor: onnx.TensorProto, target: Path) -> None:
    """Refuse a tensor whose values do not lie whole in `target`, or are not as many as its shape needs.

    Raises:
        CannotAssessError.
    """
    entries, name = entries_of(tensor), entries_of(tensor)["location"]
    try:
        offset = int(entries.get("offset") or 0)
        needed = needed_bytes(tensor)
        length = int(entries.get("length") or needed)
    except (ValueError, KeyError) as error:
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r:.80} is described by {entries!s:.200}; "
            "offset, length and type must be known",
            "export the model again",
        ) from error
    if offset < 0 or any(size < 0 for size in tensor.dims) or length != needed:
        raise CannotAssessError(
            f"{path}: external data of tensor {tensor.name!r:.80} is {length} bytes at {offset} in {name:.200}; "
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
            f"git lfs pull --include {quoted(name)}" if pointer else f"copy or download {name} again",
        )


def check_inline(path: Path, tensor: onnx.TensorProto, places: Places) -> None:
    """Refuse a tensor of the model's own file that has more or fewer values than its shape needs.

    Args:
        path: the model's file.
        tensor: its values are not in another file.
        places: of the large weights, which the tensor does not hold itself; none unless it is of the main graph.

    Raises:
        CannotAssessError.
    """
    hint = AGAIN
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        field = helper.tensor_dtype_to_field(tensor.data_type)
        needed, unit = needed_bytes(tensor), "bytes"
    except (ValueError, KeyError, TypeError) as error:
        raise CannotAssessError(
            f"{path}: type of weight {tensor.name!r} is number {tensor.data_type}; ONNX has no such type", hint
        ) from error
    if len(getattr(tensor, field)) and (tensor.HasField("raw_data") or tensor.name in places):
        raise CannotAssessError(
            f"{path}: weight {tensor.name!r} has values in raw_data and in {field}; they must be in one place", hint
        )
    if tensor.HasField("raw_data"):
        length = len(tensor.raw_data)
    elif tensor.name in places:
        length = places[tensor.name].stop - places[tensor.name].start
    else:  # one number in a field of its own type for each value, two for a complex one, or for each packed byte
        length, unit = len(getattr(tensor, field)), "values"
        values = math.prod(tensor.dims) * (2 if kind.startswith("complex") else 1)
        needed = needed if tensor.data_type in PACKED_BITS and length == needed else values
    if length != needed or any(size < 0 for size in tensor.dims):
        raise CannotAssessError(
            f"{path}: weight {tensor.name!r} has {length} {unit}; its shape {list(tensor.dims)} and type {kind} need "
            f"{needed}",
            hint,
        )
    if tensor.HasField("segment"):
        raise CannotAssessError(f"{path}: weight {tensor.name!r} is in segments; it must be whole", hint)


def use_resolved_names(folder: Path, targets: dict[str, Path], tensors: list[onnx.TensorProto]) -> None:
    """Let the tensors name resolved files, so that ONNX Runtime meets neither symlinks nor names of another folder."""
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = targets[entry.value].relative_to(folder).as_posix()


def values_of(tensor: onnx.TensorProto, weights: Weights) -> GenericArray:
    """Read one weight's values; of an external file, or of the model's, only this weight's bytes.

    Args:
        tensor: an initializer of a file that `read_onnx` has checked.
        weights: `OnnxFile.weights`.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL and weights.folder is not None:
        entries = entries_of(tensor)
        with (weights.folder / entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            item_bytes = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            content = file.read(int(entries.get("length") or math.prod(tensor.dims) * item_bytes))
    elif (
        tensor.name in weights.places
        and not tensor.HasField("raw_data")
        and not len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    ):
        content = weights.content[weights.places[tensor.name]]
    elif tensor.data_type == onnx.TensorProto.STRING:  # of any bytes: ONNX's own reader wants UTF-8
        return np.array(list(tensor.string_data), dtype=object).reshape(tuple(tensor.dims))
    else:
        return np.asarray(numpy_helper.to_array(tensor))
    inline = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=content)
    return np.asarray(numpy_helper.to_array(inline))


def needed_bytes(tensor: onnx.TensorProto) -> int:
    """Count the bytes of raw data that a shape and type need. Raises KeyError, TypeError for an unknown type."""
    bits: int = PACKED_BITS.get(tensor.data_type) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    values: int = math.prod(tensor.dims)
    return (values * bits + 7) // 8


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
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


def entries_of(tensor: onnx.TensorProto) -> dict[str, str]:
    """Give what a tensor says of its external data: location, offset, length."""
    return {entry.key: entry.value for entry in tensor.external_data}


def _hub_blobs(folder: Path) -> Path | None:
    """Find the blobs folder of a Hugging Face cache: <repo>/snapshots/<revision>/… links to <repo>/blobs/…."""
    for part in (folder, *folder.parents):
        if part.parent.name == "snapshots":
            return part.parent.parent / "blobs"
    return None


def _outside_folder(path: Path, location: str) -> CannotAssessError:
    return CannotAssessError(
        f"{path}: external data path {location!r} leaves the model's folder; weights must lie beside it",
        f"copy the weights file into {path.parent} and save the model with its plain name",
    )
