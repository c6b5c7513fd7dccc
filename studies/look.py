"""Opens an exported file as `robustcheck inspect` does and compares what is read with what the library calls so.

Part of studies/sweep.py; runs in a child without torch's help.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from robustcheck_onnx.checker.core.model.open import ModelFile, open_model
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.thresholds import profile as profiles

SAME = 1e-3  # relative difference below which two float32 tensors are the same
ASSUMED = "the tensor is assumed"
THREADS = 2
Array = npt.NDArray[Any]


def look(folder: Path, name: str | None = None) -> dict[str, Any]:
    """Open `folder`/model.onnx and say what is read; the refusal, where it is refused.

    name: of the output; it is renamed first, since a name can tell what an output holds.
    """
    path = folder / "model.onnx"
    if name is not None:
        path = _renamed(path, name)
    start = time.perf_counter()
    try:
        model = open_model(path)
    except RobustcheckError as error:
        return {
            "open_s": round(time.perf_counter() - start, 3),
            "refused": error.exit_code,
            "message": error.message.replace(f"{path}: ", ""),
            "hint": error.hint.replace(str(folder), ""),
        }
    chosen = model.representation
    return {
        "open_s": round(time.perf_counter() - start, 3),
        "tensor": chosen.tensor,
        "rule": chosen.rule,
        "pool": chosen.pool,
        "ends_in": str(chosen.ends_in),
        "tensor_assumed": chosen.tensor_assumed,
        "pool_assumed": chosen.pool_assumed,
        "why": chosen.why,
        "obstacles": obstacles(model),
    }


def obstacles(model: ModelFile) -> list[str]:
    """Say why no file with this representation can pass under the packaged thresholds; [] if it can.

    The width is left out: it differs between the members of a family.
    """
    chosen, profile = model.representation, profiles.load()
    out = []
    if chosen.assumed:
        out.append(ASSUMED if chosen.tensor_assumed else "the pooling is assumed")
    if chosen.rule not in profile.tensor_rules:
        out.append(f"{chosen.rule} is not calibrated")
    if chosen.pool not in profile.pools:
        out.append(f"{chosen.pool} is not calibrated")
    if chosen.ends_in not in profile.ends or chosen.ends_in.can_make_outliers:
        out.append(f"{chosen.ends_in} is not calibrated")
    return out


def compare(folder: Path) -> dict[str, Any]:
    """Run the file and give the largest difference of what is read, relative to the largest value that is wanted."""
    model = open_model(folder / "model.onnx")
    pixels, wanted = np.load(folder / "pixels.npy"), np.load(folder / "wanted.npy")
    read = Runner(model, "cpu", threads=THREADS).run(pixels).representation
    record: dict[str, Any] = {"width": read.shape[1]}
    if read.shape == wanted.shape:
        record["difference"] = float(f"{_difference(read, wanted):.2g}")
    return record


def find_wanted(folder: Path) -> dict[str, Any]:
    """Find the tensor of the graph that holds what the library calls its representation, pooled or not."""
    pixels, wanted = np.load(folder / "pixels.npy"), np.load(folder / "wanted.npy")
    proto = onnx.load(folder / "model.onnx")
    outputs = {output.name for output in proto.graph.output}
    made = [name for node in proto.graph.node for name in node.output if name and name not in outputs]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2)})
    for name, value in zip(names, values, strict=True):
        for how, vectors in _pooled(np.asarray(value)):
            if vectors.shape == wanted.shape and _difference(vectors, wanted) < SAME:
                return {"wanted_tensor": name, "wanted_pool": how}
    return {"wanted_tensor": None}


def _pooled(value: Array) -> list[tuple[str, Array]]:
    if not np.issubdtype(value.dtype, np.floating) or value.ndim < 2:
        return []
    out = [("none", value.reshape(len(value), -1))]
    if value.ndim == 3:
        out += [("token_cls", value[:, 0]), ("token_mean", value.mean(1)), ("mean of the last axis", value.mean(2))]
        out += [("token_mean without the first", value[:, 1:].mean(1))]
    if value.ndim == 4:
        out += [("spatial_mean", value.mean((2, 3))), ("spatial_mean, features last", value.mean((1, 2)))]
    return out


def _difference(read: Array, wanted: Array) -> float:
    return float(np.abs(read - wanted).max() / max(np.abs(wanted).max(), 1e-30))


def _renamed(path: Path, name: str) -> Path:
    proto = onnx.load(path, load_external_data=False)
    old = proto.graph.output[0].name
    proto.graph.output[0].name = name
    for node in proto.graph.node:
        node.output[:] = [name if made == old else made for made in node.output]
        node.input[:] = [name if read == old else read for read in node.input]
    renamed = path.with_name("renamed.onnx")
    onnx.save(proto, renamed)
    return renamed
