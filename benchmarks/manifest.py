"""The row of `make bench` for a manifest of a million images: time to the first batch and peak memory.

`python benchmarks/manifest.py` prints the rows alone. Each is a process of its own that does what `robustcheck
model.onnx --images FILE` does up to its first batch: it lists the images, looks for a kept result, opens a look-up
model, probes it and measures one batch. The paths are all different and lead, through linked folders, to 1,000 photos.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.core.runtime.devices import cpu_name, cpu_threads
from support import lookup

ROWS, FEW = 1_000_000, 100
PHOTOS = 1000
RUNS = 5
GOAL_S, GOAL_MB = 3.0, 300
ROOT = Path(__file__).parent.parent

FIRST_BATCH = Path(__file__).parent / "children" / "first_batch.py"

KINDS: dict[str, tuple[str, Callable[[str, int], str]]] = {
    "csv": ("path,label\n", lambda name, label: f"{name},{label}\n"),
    "jsonl": ("", lambda name, label: json.dumps({"path": name, "label": label}) + "\n"),
    "txt": ("", lambda name, label: f"{name}\n"),
}
"""suffix → first line, and a row"""


def first_batch(model: Path, listed: Path) -> tuple[float, float, float]:
    """Medians of wall time, s, CPU time, s, and peak memory, MB, from the start of a process to its first batch."""
    found = []
    for _ in range(RUNS):
        command: list[str | Path] = [sys.executable, FIRST_BATCH, model, listed, str(time.time())]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        wall, cpu, kib = map(float, done.stdout.split())
        found.append((wall, cpu, kib * 1024 / 1e6))
    wall, cpu, mb = (statistics.median(column) for column in zip(*found, strict=True))
    return wall, cpu, mb


def rows(folder: Path, n: int = ROWS) -> list[dict[str, object]]:
    """One row a kind of file: a million images against a hundred of them."""
    folder = folder / "manifest"
    folder.mkdir()
    photos = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
    h = np.random.default_rng(0).normal(size=(PHOTOS, 512))
    model = lookup.write_lookup_model(folder / "model.onnx", h)
    lookup.write_lookup_images(folder / "photos", PHOTOS, photos=photos)
    files = sorted(path.name for path in (folder / "photos").iterdir())
    for number in range(-(-n // PHOTOS)):
        (folder / f"class{number:04d}").symlink_to("photos")
    names = [f"class{number // PHOTOS:04d}/{files[number % PHOTOS]}" for number in range(n)]
    out: list[dict[str, object]] = []
    for kind, (header, line) in KINDS.items():
        few, many = folder / f"few.{kind}", folder / f"many.{kind}"
        for path, count in ((few, FEW), (many, n)):
            content = "".join(line(name, number // PHOTOS) for number, name in enumerate(names[:count]))
            path.write_text(header + content, encoding="utf-8")
        few_s, _, few_mb = first_batch(model, few)
        many_s, cpu_s, many_mb = first_batch(model, many)
        out.append(
            {"what": f"first batch, {n:,} images in a .{kind}",
             "ours": f"{many_s:.2f} s ({cpu_s:.2f} s CPU), {many_mb:.0f} MB",
             "baseline": f"{FEW} of them: {few_s:.2f} s, {few_mb:.0f} MB", "ratio": round(many_s / few_s, 2),
             "goal": f"≤ {GOAL_S:g} s, ≤ {GOAL_MB} MB", "met": many_s <= GOAL_S and many_mb <= GOAL_MB}
        )  # fmt: skip
    return out


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"{cpu_name()} · {cpu_threads()} cores · load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name)):
            print(" | ".join(f"{key}: {value}" for key, value in row.items()))
