"""The row of `make bench` for opening a large file: peak memory of `robustcheck inspect` beyond that of a tiny model.

`python benchmarks/opening.py` prints the row alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import speed
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH = 16, 2048  # 268 MB in float32, all in the one file
GOAL = 1.5  # times the file


def write_encoder(path: Path, layers: int, width: int) -> Path:
    """Write an image encoder of linear layers with random weights, all in one file."""
    rng = np.random.default_rng(0)
    weights = {"conv": rng.normal(size=(width, 3, 16, 16)), "proj": rng.normal(size=(width, 512))}
    nodes = [helper.make_node("Conv", ["image", "conv"], ["patches"], strides=[16, 16]),
             helper.make_node("GlobalAveragePool", ["patches"], ["mean"]),
             helper.make_node("Flatten", ["mean"], ["x0"])]  # fmt: skip
    for index in range(layers):
        weights[f"w{index}"] = rng.normal(size=(width, width))
        nodes.append(helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"y{index}"]))
        nodes.append(helper.make_node("Tanh", [f"y{index}"], [f"x{index + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"x{layers}", "proj"], ["embedding"]))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 512])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def rows(folder: Path, runs: int = 3) -> list[dict[str, object]]:
    """Peak memory of `inspect` of a large file, beyond that of a tiny one, as a multiple of the file."""
    tiny = write_encoder(folder / "tiny.onnx", 1, 16)
    large = write_encoder(folder / "large.onnx", LAYERS, WIDTH)
    base, peak = (speed.peak_mib(speed.COMMAND, "inspect", path, runs=runs) for path in (tiny, large))
    size_mib = large.stat().st_size / 2**20
    ratio = (peak - base) / size_mib
    return [
        {"what": f"peak memory of inspect beyond a tiny model's, a file of {size_mib:.0f} MiB",
         "ours": f"{peak - base:.0f} MiB", "baseline": f"the file: {size_mib:.0f} MiB (tiny model's peak: "
         f"{base:.0f} MiB)", "ratio": round(ratio, 2), "goal": f"≤ {GOAL}", "met": ratio <= GOAL},
    ]  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name)):
            print(" | ".join(f"{key}: {value}" for key, value in row.items()))
