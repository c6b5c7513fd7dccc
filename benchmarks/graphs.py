"""Rows of `make bench` about the graph alone: inspect of a deep gated model, and our own walks over a large graph."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import speed
from onnx import TensorProto, helper, numpy_helper

from robustcheck_onnx.checker.core.model.ends import ends_in, last_linears
from robustcheck_onnx.checker.core.model.last_layer import find_head
from robustcheck_onnx.checker.core.model.layers import build_layers

BLOCKS, WIDTH, TOKENS = 48, 64, 16
NODES = 100_000
PATCH_PX = 8


def gated_vit(blocks: int) -> onnx.ModelProto:
    """A vision transformer with gated MLPs (SwiGLU, as EVA02 and DINOv2-g have them) and a projection.

    One attention head; all blocks share their weights.
    """
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "patch": rng.normal(size=(WIDTH, 3, PATCH_PX, PATCH_PX)),
        "norm": np.ones(WIDTH),
        "scale": np.array(WIDTH**-0.5),
    }
    nodes = [
        helper.make_node("Conv", ["image", "patch"], ["map"], strides=[PATCH_PX, PATCH_PX]),
        helper.make_node("Reshape", ["map", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["x0"], perm=[0, 2, 1]),
    ]

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))

    weights |= {name: rng.normal(size=(WIDTH, WIDTH)) / 8 for name in ("q", "k", "v", "o", "g", "u", "d")}
    for i in range(blocks):
        add("LayerNormalization", [f"x{i}", "norm"], f"n{i}")
        for name in ("q", "k", "v"):
            add("MatMul", [f"n{i}", name], f"n{name}{i}")
        add("Transpose", [f"nk{i}"], f"kt{i}", perm=[0, 2, 1])
        add("MatMul", [f"nq{i}", f"kt{i}"], f"dots{i}")
        add("Mul", [f"dots{i}", "scale"], f"scaled{i}")
        add("Softmax", [f"scaled{i}"], f"attention{i}")
        add("MatMul", [f"attention{i}", f"nv{i}"], f"mixed{i}")
        add("MatMul", [f"mixed{i}", "o"], f"out{i}")
        add("Add", [f"x{i}", f"out{i}"], f"y{i}")
        add("LayerNormalization", [f"y{i}", "norm"], f"m{i}")
        add("MatMul", [f"m{i}", "g"], f"gate{i}")
        add("Sigmoid", [f"gate{i}"], f"s{i}")
        add("Mul", [f"gate{i}", f"s{i}"], f"silu{i}")
        add("MatMul", [f"m{i}", "u"], f"up{i}")
        add("Mul", [f"silu{i}", f"up{i}"], f"gated{i}")
        add("MatMul", [f"gated{i}", "d"], f"down{i}")
        add("Add", [f"y{i}", f"down{i}"], f"x{i + 1}")
    weights["projection"] = rng.normal(size=(WIDTH, 512))
    add("ReduceMean", [f"x{blocks}"], "pooled", axes=[1], keepdims=0)
    add("MatMul", ["pooled", "projection"], "embedding")
    edge = PATCH_PX * int(TOKENS**0.5)
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([0, WIDTH, -1]), "flat"))
    graph = helper.make_graph(
        nodes,
        "gated",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, edge, edge])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 512])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def rows(folder: Path, runs: int) -> list[dict[str, object]]:
    """Time of `inspect` of a gated model, and of the walks over a graph of `NODES` nodes."""
    tiny, deep = folder / "tiny.onnx", folder / "gated.onnx"
    onnx.save(gated_vit(1), tiny)
    onnx.save(gated_vit(BLOCKS), deep)
    tiny_s, deep_s = (_inspect_s(path, runs) for path in (tiny, deep))
    large = gated_vit(NODES // 19).graph
    parse_s, walk_s = [], []
    for _ in range(runs):
        start = time.process_time()
        graph = onnx.GraphProto.FromString(large.SerializeToString())
        parsed = time.process_time()
        layers = build_layers(graph, "image", [onnx.TensorProto(name="projection", dims=(WIDTH, 512))])
        ends_in(layers, "embedding")
        find_head(layers, "embedding")
        list(last_linears(layers, "embedding"))
        parse_s.append(parsed - start)
        walk_s.append(time.process_time() - parsed)
    own, baseline = statistics.median(walk_s), statistics.median(parse_s)
    return [
        {"what": f"inspect, gated ViT of {BLOCKS} blocks", "ours": f"{deep_s:.2f} s",
         "baseline": f"the same with 1 block: {tiny_s:.2f} s", "ratio": round(deep_s / tiny_s, 2), "goal": "≤ 2 s",
         "met": deep_s <= 2},
        {"what": f"our walks over a graph of {len(large.node):,} nodes", "ours": f"{own:.2f} s",
         "baseline": f"protobuf, writing and reading it: {baseline:.2f} s", "ratio": round(own / baseline, 2),
         "goal": "≤ 1 s", "met": own <= 1},
    ]  # fmt: skip


def _inspect_s(model: Path, runs: int) -> float:
    """Median wall time of `robustcheck inspect`, s."""
    times = []
    for _ in range(runs + 1):  # the first is not counted
        start = time.perf_counter()
        subprocess.run([speed.COMMAND, "inspect", model, "--preprocess", "clip"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else 5):
            print(" | ".join(f"{key}: {value}" for key, value in row.items()))
