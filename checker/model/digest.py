"""One digest of a model's graph and weights: what a contract says of its file, computed anew.

`exporters/digest.py` computes the same when it writes a file; docs/onnx-contract.md defines it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import numpy_helper

from robustcheck_onnx.checker.text import digest_of

from .external import Weights, entries_of, needed_bytes
from .held import CHUNK_BYTES

NONE = Weights(held=None, content=b"", places={})
# What no value depends on; any other field counts, also one that a later ONNX adds.
LEFT_OUT_EVERYWHERE = {"doc_string", "metadata_props"}
LEFT_OUT = {
    "onnx.ModelProto.ir_version",
    "onnx.ModelProto.producer_name",
    "onnx.ModelProto.producer_version",
    "onnx.ModelProto.domain",
    "onnx.ModelProto.model_version",
    "onnx.ModelProto.training_info",
    "onnx.GraphProto.name",
    "onnx.GraphProto.value_info",
    "onnx.FunctionProto.value_info",
    "onnx.NodeProto.name",
}


def graph_digest(proto: onnx.ModelProto, weights: Weights = NONE) -> str:
    """Digest a model's nodes, attributes, inputs, outputs, opsets, functions and weights as sha256:….

    The digest is over canonical JSON of the model: an object for each message with the fields that are set, without
    what no value depends on (names of nodes, metadata, doc strings, …). A tensor is [name, data type, dims, hex of the
    SHA-256 of its raw little-endian bytes]. No weight is copied, and external ones are read in pieces.

    Args:
        proto: as `read_onnx` gives it, before anything of it is left out or opened up.
        weights: `OnnxFile.weights`; left out for a model that holds all values itself.
    """
    return digest_of(_form(proto, weights))


def _form(value: Any, weights: Weights) -> Any:
    """Give the JSON form of a field's value."""
    if isinstance(value, onnx.TensorProto):
        digest = hashlib.sha256()
        for piece in _pieces(value, weights):
            digest.update(piece)
        return [value.name, value.data_type, list(value.dims), digest.hexdigest()]
    if isinstance(value, Message):
        if not isinstance(value, onnx.ModelProto | onnx.GraphProto):  # places are of the main graph's initializers
            weights = replace(weights, places={})
        return {
            field.name: _form(inner, weights)
            for field, inner in value.ListFields()
            if field.name not in LEFT_OUT_EVERYWHERE and field.full_name not in LEFT_OUT
        }
    if isinstance(value, float):
        return repr(value)  # JSON has no NaN
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int) else [_form(item, weights) for item in value]


def _pieces(tensor: onnx.TensorProto, weights: Weights) -> Iterator[bytes | memoryview]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL and weights.folder is not None:
        entries = entries_of(tensor)
        left = needed_bytes(tensor)
        with (weights.folder / entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                yield piece
                left -= len(piece)
    elif tensor.HasField("raw_data"):
        yield tensor.raw_data
    elif tensor.name in weights.places:
        yield memoryview(weights.content)[weights.places[tensor.name]]
    elif tensor.data_type == onnx.TensorProto.STRING:
        for text in tensor.string_data:
            yield len(text).to_bytes(8, "little") + text
    else:  # values in a field of their own type
        yield numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
