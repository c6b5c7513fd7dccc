"""One digest over the values of every tensor in a model file: what a contract says of its weights, computed anew.

`exporters/weights.py` computes the same when it writes a file; docs/onnx-contract.md defines it.
"""

from __future__ import annotations

import hashlib
import json

import onnx
from onnx import helper, numpy_helper

from robustcheck_onnx.checker.text import sha256_of

from .external import CHUNK_BYTES, Weights, all_tensors, entries_of, needed_bytes

NONE = Weights(folder=None, content=b"", places={})


def initializers_digest(proto: onnx.ModelProto, weights: Weights = NONE) -> str:
    """Digest the tensors of a model as sha256:…; no weight is copied, and external ones are read in pieces.

    Each tensor (initializers and tensors in attributes, those of nested graphs and of functions too) is one line of
    JSON, [name, data type, dims, hex of the SHA-256 of its raw little-endian bytes]; the digest is over these lines,
    sorted.

    Args:
        proto: as `read_onnx` gives it, before anything of it is left out or opened up.
        weights: `OnnxFile.weights`; left out for a model that holds all values itself.
    """
    lines = sorted(_line(tensor, weights) for tensor in all_tensors(proto))
    return sha256_of("\n".join(lines).encode())


def _line(tensor: onnx.TensorProto, weights: Weights) -> str:
    digest = hashlib.sha256()
    if tensor.data_location == onnx.TensorProto.EXTERNAL and weights.folder is not None:
        entries = entries_of(tensor)
        left = needed_bytes(tensor)
        with (weights.folder / entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                digest.update(piece)
                left -= len(piece)
    elif tensor.HasField("raw_data"):
        digest.update(tensor.raw_data)
    elif tensor.name in weights.places and not len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))):
        digest.update(memoryview(weights.content)[weights.places[tensor.name]])
    elif tensor.data_type == onnx.TensorProto.STRING:
        for text in tensor.string_data:
            digest.update(len(text).to_bytes(8, "little") + text)
    else:  # values in a field of their own type
        digest.update(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)
    return json.dumps([tensor.name, tensor.data_type, list(tensor.dims), digest.hexdigest()])
