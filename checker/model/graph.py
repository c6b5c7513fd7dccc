"""The graph that ONNX Runtime gets: written when a session is made, so that an open model is in memory once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from robustcheck_onnx.checker.errors import CannotAssessError

from .file import PROTOBUF_LIMIT_BYTES, OnnxFile
from .light import by_place, restore


@dataclass(frozen=True)
class Graph:
    """A model's graph as its author wrote it, and what is added behind it."""

    file: OnnxFile
    proto: onnx.ModelProto
    """without the large weights that `file.weights` holds; ends where the author's graph does"""
    rewritten: bool
    """whether `proto` says anything else than the file's content"""
    addition: onnx.GraphProto
    """nodes and outputs; empty where nothing is added"""

    def own(self) -> bytes:
        """Write the graph without the addition: the file's own bytes, unless something had to be rewritten in them.

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
        """Write the graph with the addition, without writing the weights of a file again that was not rewritten.

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
        """Write the graph with its large weights named by their places in the model's file, for ONNX Runtime to map.

        whole: with the addition. None where the file is not mapped itself, or other files hold weights, too.
        """
        if self.file.mapped is None or self.file.external or not self.file.weights.places:
            return None
        proto = self.light() if whole else self.proto
        written: bytes = by_place(proto, self.file.mapped.location, self.file.weights.places).SerializeToString()
        return written

    def light(self) -> onnx.ModelProto:
        """Copy the graph with the addition and without the large weights, to walk over or to change."""
        proto = onnx.ModelProto(graph=self.addition)
        light = onnx.ModelProto()
        light.CopyFrom(self.proto)
        light.MergeFrom(proto)
        return light

    def changed(self, proto: onnx.ModelProto) -> Graph:
        """Put another graph, made of `light`, in the place of this one and its addition."""
        return replace(self, proto=proto, rewritten=True, addition=onnx.GraphProto())


def _too_large(file: OnnxFile) -> CannotAssessError:
    return CannotAssessError(
        f"{file.path}: model can't be written with one more output; protobuf ends at 2 GiB",
        "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
    )
