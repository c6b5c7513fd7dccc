"""Digests the values of every tensor in a model file: the contract's `initializers_digest`.

The checker computes the same when it opens the file; docs/onnx-contract.md defines it. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_CHUNK_BYTES = 1 << 22  # read size of external weights, 4 MiB


def initializers_digest(model: onnx.ModelProto, folder: Path) -> str:
    """Return "sha256:" + hex over every tensor of a model, each with its name, type, shape and values.

    Args:
        model: loaded without its external weights, or with them.
        folder: where external weights lie.

    Raises:
        OSError: external weights can't be read.
        ValueError: they end too early.
    """
    lines = sorted(_line(tensor, folder) for tensor in _tensors(model))
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(tensor: onnx.TensorProto, folder: Path) -> str:
    """Return [name, data type, dims, hex of the SHA-256 of the raw little-endian bytes] as JSON."""
    import onnx

    digest = hashlib.sha256()
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        for piece in _external(tensor, folder):
            digest.update(piece)
    elif tensor.HasField("raw_data"):
        digest.update(tensor.raw_data)
    elif tensor.data_type == onnx.TensorProto.STRING:
        for text in tensor.string_data:
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data)
    return json.dumps([tensor.name, tensor.data_type, list(tensor.dims), digest.hexdigest()])


def _external(tensor: onnx.TensorProto, folder: Path) -> Iterator[bytes]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset") or 0))
        left = int(entries["length"])
        while left:
            piece = file.read(min(_CHUNK_BYTES, left))
            if not piece:
                raise ValueError(f"{entries['location']}: weights end before those of {tensor.name!r}")
            yield piece
            left -= len(piece)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _of_graph(model.graph)
    yield from _of_nodes(node for function in model.functions for node in function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _of_graph(graph)
