"""make bench: the figures that README and docs quote, each against a named baseline measured in the same run.

Prints one table and writes benchmarks/results/latest.json. Medians of at least five runs; the machine is named.
"""

from __future__ import annotations

import json
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
from pathlib import Path

import lookup
import numpy as np

from robustcheck_onnx.checker.execution import cpu_name
from robustcheck_onnx.thresholds import profile

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).parent / "robustcheck"
RUNS = 5
MANY, FEW = 10_000, 100  # images of the memory row

# Runs a command as a child and prints its peak memory (KiB on Linux), so that each run is measured alone.
PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(0 if code in (0, 1) else code)
"""


def median_s(action: Callable[[], object], runs: int = RUNS) -> float:
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
    done = subprocess.run([*map(str, arguments)], capture_output=True, check=False)
    if done.returncode not in {0, 1}:
        raise RuntimeError(done.stderr.decode())


def peak_mib(*arguments: str | Path) -> float:
    """Peak resident memory of a command, MiB; the median of three runs."""
    peaks = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / (1024 if platform.system() == "Linux" else 2**20))
    return statistics.median(peaks)


def never_decided(folder: Path) -> Path:
    """A profile that asks for more images than there are, so that a run uses all of them."""
    strict = profile.seal(profile.load().model_copy(update={"id": "bench-all-images", "min_images": 10**9}))
    path = folder / "all-images.json"
    path.write_text(profile.to_json(strict), encoding="utf-8")
    return path


def rows(folder: Path) -> list[dict[str, object]]:
    """All measurements."""
    python_s = median_s(lambda: run(sys.executable, "-c", "pass"))
    help_s = median_s(lambda: run(COMMAND, "--help"))
    out: list[dict[str, object]] = [
        {"what": "robustcheck --help", "ours": f"{help_s:.3f} s", "baseline": f"python -c pass: {python_s:.3f} s",
         "ratio": round(help_s / python_s, 2), "goal": "< 0.3 s", "met": help_s < 0.3},
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    h = rng.normal(size=(MANY, 512)) + rng.normal(0, 0.5, 512)
    h[:, 7] += 20
    model = lookup.write_lookup_model(folder / "model.onnx", h)
    photos = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
    lookup.write_lookup_images(folder / "photos", MANY, photos=photos)
    slow = never_decided(folder)
    check = (COMMAND, model, "--images", folder / "photos", "-q", "--thresholds", slow)
    few = peak_mib(*check, "--max-images", str(FEW))
    many = peak_mib(*check)
    out.append(
        {"what": f"peak memory, {MANY:,} images", "ours": f"{many:.0f} MiB",
         "baseline": f"the same over {FEW} images: {few:.0f} MiB", "ratio": round(many / few, 3),
         "goal": "flat (≤ 1.1)", "met": many <= 1.1 * few}
    )  # fmt: skip
    stop_s = median_s(lambda: run(COMMAND, model, "--images", folder / "photos", "-q"))
    all_s = median_s(lambda: run(*check, "--max-images", "1000"))
    out.append(
        {"what": "cold check, clear case, early stop", "ours": f"{stop_s:.2f} s",
         "baseline": f"the same without early stop, 1,000 images: {all_s:.2f} s", "ratio": round(stop_s / all_s, 3),
         "goal": "< 1", "met": stop_s < all_s}
    )  # fmt: skip
    return out


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        table = rows(Path(folder))
    machine = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime-gpu"),
        "numpy": version("numpy"),
        "own_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(" · ".join(f"{key} {value}" for key, value in machine.items()))
    for row in table:
        print(" | ".join(f"{key}: {value}" for key, value in row.items()))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.json").write_text(json.dumps({"machine": machine, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
