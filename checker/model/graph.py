"""The graph for ONNX Runtime, and its digest. The digest is over a graph with its weights.

The graph is written when a session is made, so that an open model is in memory once. The digest is what a contract
records of its file. `exporters/digest.py` computes the same when it writes a file; docs/dev/graph-digest.md defines it.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from typing import Any

import onnx
from google.protobuf.message import EncodeError, Message  # type: ignore[import-untyped]

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.text import digest_of

from .file import PROTOBUF_LIMIT_BYTES, OnnxFile
from .weights import Weights, by_place, pieces_of, restore


@dataclass(frozen=True)
class Graph:
    """A model's original graph and what is added to it."""

    file: OnnxFile
    proto: onnx.ModelProto
    """without the large weights that `file.weights` holds; ends where the author's graph does"""
    rewritten: bool
    """whether `proto` says anything else than the file's content"""
    addition: onnx.GraphProto
    """nodes and outputs; empty where nothing is added"""

    def own(self) -> bytes:
        """Write the graph without the addition. These are the file's own bytes, unless something in them was rewritten.

        Raises:
            CannotAssessError: rewritten, it is over protobuf's 2 GiB.
        """
        if not self.rewritten:
            return self.file.content[:]
        try:
            content: bytes = restore(self.proto, self.file.content, self.file.weights.places).SerializeToString()
        except EncodeError as error:
            raise _too_large(self.file) from error
        return content

    def whole(self) -> bytes:
        """Write the graph with the addition. The weights of a file that was not rewritten are not written again.

        Protobuf merges messages that stand one behind the other: it appends repeated fields (nodes, outputs).

        Raises:
            CannotAssessError: it is over protobuf's 2 GiB.
        """
        own = self.own()
        if not self.addition.ByteSize():
            return own
        merged: bytes = own + onnx.ModelProto(graph=self.addition).SerializeToString()
        if len(merged) > PROTOBUF_LIMIT_BYTES:
            raise _too_large(self.file)
        return merged

    def mapped(self, *, whole: bool) -> bytes | None:
        """Write the graph with weights named by their places. ONNX Runtime then maps them from the model's file.

        whole: with the addition. None where the file is not mapped itself, or other files hold weights, too.
        """
        if self.file.mapped is None or self.file.external or not self.file.weights.places:
            return None
        proto = self.light() if whole else self.proto
        written: bytes = by_place(proto, self.file.mapped.location, self.file.weights.places).SerializeToString()
        return written

    def light(self) -> onnx.ModelProto:
        """Copy the graph and the addition without large weights. The copy is for walks and changes."""
        light = copy.deepcopy(self.proto)
        light.MergeFrom(onnx.ModelProto(graph=self.addition))
        return light

    def changed(self, proto: onnx.ModelProto) -> Graph:
        """Replace the graph and its addition by another. It was made of `light`."""
        return replace(self, proto=proto, rewritten=True, addition=onnx.GraphProto())


def _too_large(file: OnnxFile) -> CannotAssessError:
    return CannotAssessError(
        f"{file.path}: model can't be written with one more output; protobuf ends at 2 GiB",
        "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
    )


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
    """Return the digest of a graph with its weights.

    It is sha256:… over nodes, attributes, inputs, outputs, opsets, functions and weights.

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
        for piece in pieces_of(value, weights):
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
