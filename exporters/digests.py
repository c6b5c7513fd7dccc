"""Digests of graphs, files and weights.

The checker computes the same `graph_digest` when it opens a file; docs/dev/graph-digest.md defines it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    from torch import nn


# What no value depends on: fields of any message, and of one kind.
_LEFT_OUT_EVERYWHERE = {"doc_string", "metadata_props"}
_LEFT_OUT = {
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


def graph_digest(model: onnx.ModelProto, folder: Path) -> str:
    """Return "sha256:" + hex over a model's graph and weights.

    Args:
        model: loaded without its external weights, or with them.
        folder: where external weights lie.

    Raises:
        OSError: external weights can't be read.
        ValueError: they end too early.
    """
    text = json.dumps(_value(model, folder), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return "sha256:" + hex of a file's bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def state_digest(module: nn.Module) -> str:
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


def _value(value: Any, folder: Path) -> Any:
    """Return the fields of a message that are set, and of a tensor its digest."""
    if hasattr(value, "DESCRIPTOR"):
        if value.DESCRIPTOR.name == "TensorProto":
            return _tensor(value, folder)
        form = {}
        for field, inner in value.ListFields():
            if field.name not in _LEFT_OUT_EVERYWHERE and field.full_name not in _LEFT_OUT:
                form[field.name] = _value(inner, folder)
        return form
    if isinstance(value, float):
        return repr(value)  # JSON has no NaN
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str | int):
        return value
    return [_value(item, folder) for item in value]


def _tensor(tensor: onnx.TensorProto, folder: Path) -> list[Any]:
    """Return a tensor's [name, data type, dims, hex of the SHA-256 of the raw little-endian bytes]."""
    import onnx

    digest = hashlib.sha256()
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size = int(entries["length"])
        with (folder / entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            content = file.read(size)
        if len(content) < size:
            raise ValueError(f"{entries['location']}: weights end before those of {tensor.name!r}")
        digest.update(content)
    elif tensor.HasField("raw_data"):
        digest.update(tensor.raw_data)
    elif tensor.data_type == onnx.TensorProto.STRING:
        for text in tensor.string_data:
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data)
    return [tensor.name, tensor.data_type, list(tensor.dims), digest.hexdigest()]
