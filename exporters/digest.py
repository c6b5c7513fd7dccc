"""Digest a graph, a file, or a state dict. A graph is digested with its weights.

The checker computes the same `graph_digest` when it opens a file; docs/dev/graph-digest.md defines it. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import torch

_CHUNK_BYTES = 1 << 22  # read size of external weights, 4 MiB
# What no value depends on: fields of any message, and of one kind.
_LEFT_OUT_EVERYWHERE = {"doc_string", "metadata_props"}
_LEFT_OUT = {
    "ModelProto": {"ir_version", "producer_name", "producer_version", "domain", "model_version", "training_info"},
    "GraphProto": {"name", "value_info"},
    "FunctionProto": {"value_info"},
    "NodeProto": {"name"},
}


def graph_digest(model: onnx.ModelProto, folder: Path) -> str:
    """Return "sha256:" + hex over a model's graph and weights.

    Args:
        model: loaded without its external weights, or with them.
        folder: where external weights lie.

    Raises:
        OSError: external weights can't be read.
        ValueError: they end too early.
    """
    text = json.dumps(_message(model, folder), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return "sha256:" + hex of a file's bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def state_digest(module: torch.nn.Module) -> str:
    """Return "sha256:" + hex over the state dict, sorted by name.

    For each entry: UTF-8 text "name dtype d0,d1\\n" (d0, d1, … the shape), then the tensor's bytes (C order).
    """
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(f"{name} {tensor.dtype} {','.join(map(str, tensor.shape))}\n".encode())
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return "sha256:" + sha.hexdigest()


def _message(message: Any, folder: Path) -> Any:
    """Return the fields that are set; of a tensor a digest."""
    kind = message.DESCRIPTOR.name
    if kind == "TensorProto":
        return _tensor(message, folder)
    left_out = _LEFT_OUT_EVERYWHERE | _LEFT_OUT.get(kind, set())
    return {field.name: _value(value, folder) for field, value in message.ListFields() if field.name not in left_out}


def _value(value: Any, folder: Path) -> Any:
    if hasattr(value, "DESCRIPTOR"):
        return _message(value, folder)
    if isinstance(value, float):
        return repr(value)  # JSON has no NaN
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int) else [_value(item, folder) for item in value]


def _tensor(tensor: onnx.TensorProto, folder: Path) -> list[Any]:
    """Return the fields of a tensor's digest.

    They are [name, data type, dims, hex of the SHA-256 of the raw little-endian bytes].
    """
    import onnx

    digest = hashlib.sha256()
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _add_external(digest, tensor, folder)
    elif tensor.HasField("raw_data"):
        digest.update(tensor.raw_data)
    elif tensor.data_type == onnx.TensorProto.STRING:
        for text in tensor.string_data:
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data)
    return [tensor.name, tensor.data_type, list(tensor.dims), digest.hexdigest()]


def _add_external(digest: Any, tensor: onnx.TensorProto, folder: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset") or 0))
        left = int(entries["length"])
        while left:
            piece = file.read(min(_CHUNK_BYTES, left))
            if not piece:
                raise ValueError(f"{entries['location']}: weights end before those of {tensor.name!r}")
            digest.update(piece)
            left -= len(piece)
