"""The scan's row of `make bench`: statistics at the end of every block against plain inference on the same session.

`python benchmarks/scan.py` prints the rows alone. CLIP ViT-B/32 and ResNet-50 have random weights (the time does not
depend on them), EfficientNet-Lite0 has its real ones. The two graphs run in turn, so that both see the same machine;
decoding is left out of both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime.devices import cpu_name, cpu_threads
from robustcheck_onnx.checker.core.runtime.runner import BATCH_SIZE, Runner
from robustcheck_onnx.checker.questions.scan.blocks import measuring_model, plan_scan
from robustcheck_onnx.checker.questions.scan.taps import Depth

COMMAND = Path(sys.executable).parent / "robustcheck"
RUNS = 9  # pairs, after one that is not counted
GOAL = 1.25  # × plain inference
MODELS = {
    "ViT-B-32": ("open_clip", "ViT-B-32", "--random-weights"),
    "resnet50": ("torchvision", "resnet50", "--random-weights"),
    "efficientnet-lite0": ("torch", "robustcheck_onnx.exporters.demo:efficientnet_lite0"),
}


def rows(folder: Path, device: str = "cpu") -> list[dict[str, object]]:
    """One row a model: median seconds a batch with and without the statistics, their ratio, goal and whether met."""
    out: list[dict[str, object]] = []
    for name, words in MODELS.items():
        path = folder / f"{name}.scan.onnx"
        if not path.exists():
            subprocess.run([COMMAND, "export", *words, "-o", path], check=True, capture_output=True)
        with_s, without_s, ratio, n_layers = measure(path, device)
        out.append(
            {"what": f"statistics of all layers, {name} ({n_layers} tensors)", "ours": f"{with_s:.3f} s",
             "baseline": f"plain inference, batch of {BATCH_SIZE}: {without_s:.3f} s", "ratio": round(ratio, 3),
             "goal": f"≤ {GOAL}", "met": ratio <= GOAL}
        )  # fmt: skip
    return out


def measure(path: Path, device: str = "cpu") -> tuple[float, float, float, int]:
    """Median seconds with and without statistics, the median of the ratios of pairs, and the number of tensors.

    With statistics: the passes, and adding up what they give.
    """
    model = open_model(path)
    height, width = model.image_input.size or (224, 224)
    pixels = np.random.default_rng(0).normal(size=(BATCH_SIZE, height, width, 3)).astype(np.float32)
    plan = plan_scan(model, pixels[:2])
    plain, measuring = Runner(model, device), Runner(measuring_model(model, plan), device)
    depths = [Depth(tap) for tap in plan.taps]
    ends = np.cumsum([tap.n_numbers for tap in plan.taps])[:-1]

    def measured() -> None:
        rows = measuring.run(pixels).representation
        for depth, part in zip(depths, np.split(rows, ends, axis=1), strict=True):
            depth.update(part)

    pairs = [(_seconds(measured), _seconds(lambda: plain.run(pixels))) for _ in range(RUNS + 1)][1:]
    with_s, without_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return with_s, without_s, statistics.median(a / b for a, b in pairs), len(plan.taps)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Print the rows as JSON lines."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    print(f"{cpu_name()}, {cpu_threads()} cores, device {device}")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder), device):
            print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
