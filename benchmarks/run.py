"""make bench: the figures that README and docs quote, each against a named baseline measured in the same run.

python benchmarks/run.py [--quick]

Prints one table and writes benchmarks/results/latest.json and .svg. Medians of at least five runs (--quick: one, to try
the script); the machine is named, and how busy it was.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import directions
import graphs
import last_fifth
import manifest
import numpy as np
import opening
import scan
import speed

from robustcheck_onnx.checker.core.runtime.devices import cpu_name
from support import lookup

ROOT = Path(__file__).parent.parent
COMMAND = speed.COMMAND
MANY, FEW = 100_000, 100  # images of the memory row
DIFFERENT = 10_000  # of them; the list names each ten times
ENVIRONMENT = speed.ENVIRONMENT


def median_s(action: Callable[[], object], runs: int) -> float:
    """Median wall time of an action, s, after one run that is not counted."""
    action()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def run(*arguments: str | Path) -> None:
    """Run a command whose verdict does not matter."""
    done = subprocess.run([*map(str, arguments)], capture_output=True, check=False, env=ENVIRONMENT)
    if done.returncode not in {0, 1}:
        raise RuntimeError(done.stderr.decode())


def rows(folder: Path, runs: int) -> list[dict[str, object]]:
    """Start-up, memory and early stop, on a look-up model: everything but the model's own passes."""
    python_s = median_s(lambda: run(sys.executable, "-c", "pass"), runs)
    help_s = median_s(lambda: run(COMMAND, "--help"), runs)
    out: list[dict[str, object]] = [
        {"what": "robustcheck --help", "ours": f"{help_s:.3f} s", "baseline": f"python -c pass: {python_s:.3f} s",
         "ratio": round(help_s / python_s, 2), "goal": "≤ 0.25 s", "met": help_s <= 0.25},
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    h = rng.normal(size=(DIFFERENT, 512)) + rng.normal(0, 0.5, 512)
    h[:, 7] += 20
    model = lookup.write_lookup_model(folder / "model.onnx", h)
    photos = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
    lookup.write_lookup_images(folder / "photos", DIFFERENT, photos=photos)
    names = [str(path) for path in sorted((folder / "photos").iterdir())] * (MANY // DIFFERENT)
    (folder / "many.txt").write_text("\n".join(names), encoding="utf-8")
    first_s = median_s(lambda: run(sys.executable, speed.FIRST_IMAGES, model, folder / "photos", "1"), runs)
    out.append(
        {"what": "start to first inference, look-up model", "ours": f"{first_s:.2f} s",
         "baseline": f"python -c pass: {python_s:.3f} s", "ratio": round(first_s / python_s, 1), "goal": "≤ 0.6 s",
         "met": first_s <= 0.6}
    )  # fmt: skip
    slow = speed.never_decided(folder)
    check = (COMMAND, model, "--images", folder / "photos", "-q", "--thresholds", slow)
    few = speed.peak_mib(*check, "--max-images", str(FEW))
    listed = (COMMAND, model, "--images", folder / "many.txt", "-q", "--thresholds", slow)
    many = speed.peak_mib(*listed, runs=1)
    out.append(
        {"what": f"peak memory, {MANY:,} images", "ours": f"{many:.0f} MiB",
         "baseline": f"the same over {FEW} images: {few:.0f} MiB", "ratio": round(many / few, 3),
         "goal": "flat (≤ 1.1)", "met": many <= 1.1 * few}
    )  # fmt: skip
    stop_s = median_s(lambda: run(COMMAND, model, "--images", folder / "photos", "-q"), runs)
    all_s = median_s(lambda: run(*check, "--max-images", "1000"), runs)
    out.append(
        {"what": "cold check, clear case, early stop", "ours": f"{stop_s:.2f} s",
         "baseline": f"the same without early stop, 1,000 images: {all_s:.2f} s", "ratio": round(stop_s / all_s, 3),
         "goal": "< 1", "met": stop_s < all_s}
    )  # fmt: skip
    return out


def plot(table: list[dict[str, object]]) -> str:
    """The rows that have a ratio goal, as bars on a log scale, with the goal as a line."""
    shown = [row for row in table if str(row["goal"]).startswith("≥")]
    height = 34 * len(shown) + 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" '
             'font-size="12" role="img" aria-label="ratio to the baseline, with goals">',
             '<rect width="100%" height="100%" fill="#fff"/>']  # fmt: skip

    def x(value: float) -> float:
        return 300 + 300 * (math.log10(max(value, 0.1)) + 1) / 3  # 0.1 to 100

    for index, row in enumerate(shown):
        y = 20 + 34 * index
        ratio, goal = float(str(row["ratio"])), float(str(row["goal"]).removeprefix("≥ "))
        colour = "#2c7a2c" if row["met"] else "#a4430b"
        parts.append(f'<text x="6" y="{y + 13}">{row["what"]}</text>')
        parts.append(f'<rect x="300" y="{y}" width="{x(ratio) - 300:.1f}" height="18" fill="{colour}"/>')
        parts.append(f'<path d="M{x(goal):.1f} {y - 4}v26" stroke="#000" stroke-width="2"/>')
        parts.append(f'<text x="{x(ratio) + 4:.1f}" y="{y + 13}">{ratio:g} (goal {goal:g})</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(arguments: list[str]) -> None:
    """Measure, print, write."""
    runs = 1 if "--quick" in arguments else 5
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = []
        made = (
            rows(folder, runs),
            opening.rows(folder),
            graphs.rows(folder, runs),
            manifest.rows(folder),
            scan.rows(folder),
            directions.rows(runs),
        )
        for row in chain(*made, speed.rows(folder, runs), last_fifth.rows(folder, runs)):
            print(" | ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
            table.append(row)
    machine = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load_before": round(load, 2),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime-gpu"),
        "numpy": version("numpy"),
        "pillow": version("Pillow"),
        "own_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(" · ".join(f"{key} {value}" for key, value in machine.items()))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.json").write_text(json.dumps({"machine": machine, "rows": table}, indent=1) + "\n")
    (results / "latest.svg").write_text(plot(table), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
