"""What the wall costs: two checkouts, each with its .venv, run in turns on the same files (docs/dev/decisions/wall.md).

    python benchmarks/wall_cost.py OLD_CHECKOUT NEW_CHECKOUT --model MODEL.onnx [--runs 9] [--only WORD]

MODEL.onnx is a model of real size, such as demo-out/efficientnet_lite0.onnx of `make demo`. Prints medians: seconds,
and seconds of processor time with those of child processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import speed

N_MODELS = 8
N_PHOTOS = 512


def run(tree: Path, *words: str | Path) -> tuple[float, float]:
    """Seconds, and seconds of processor time with those of child processes, of one command."""
    start = time.perf_counter()
    with subprocess.Popen(
        [tree / ".venv/bin/robustcheck", *words], stdout=subprocess.DEVNULL, env=speed.ENVIRONMENT
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        took_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, 1}:
        raise RuntimeError(f"{words}: exit code {process.returncode}")
    return took_s, used.ru_utime + used.ru_stime


def never_decided(tree: Path, folder: Path) -> Path:
    """A profile by which a run uses all images, as that checkout writes one."""
    code = "import sys, pathlib, speed; print(speed.never_decided(pathlib.Path(sys.argv[1])))"
    made = subprocess.run(
        [tree / ".venv/bin/python", "-c", code, folder],
        cwd=tree / "benchmarks", check=True, capture_output=True, text=True,
    )  # fmt: skip
    return Path(made.stdout.strip())


def main(trees: list[Path], model: Path, runs: int, only: str) -> None:
    """Print a row of medians for each kind of call and checkout, as the rows get ready."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(trees[0], "demo", "--keep", folder)
        small = []
        for index in range(N_MODELS):
            small.append(folder / f"small-{index}.onnx")
            small[-1].write_bytes((folder / "planted.onnx").read_bytes())
        photos, report = speed.write_photos(folder / "photos", N_PHOTOS), folder / "report.json"
        profiles: dict[Path, Path] = {}
        for tree in trees:
            place = folder / f"profile-{len(profiles)}"
            place.mkdir()
            profiles[tree] = never_decided(tree, place)
        full: list[str | Path] = [model, "--images", photos, "-o", f"json={report}", "-q"]
        calls: dict[str, list[str | Path]] = {
            "--version": ["--version"],
            "a small model": [small[0], "-q"],
            "a model of real size, early stop": [model, "--images", photos, "-q"],
            f"{N_MODELS} small models in one call": [*small, "-q"],
            f"all {N_PHOTOS} photos": full,
        }
        for what, words in calls.items():
            if only not in what:
                continue
            took: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
            speeds: dict[Path, list[float]] = {tree: [] for tree in trees}
            for number in range(runs + 1):
                for tree in trees if number % 2 else reversed(trees):  # what else the machine does hits both
                    of_all: list[str | Path] = ["--thresholds", profiles[tree]] if words is full else []
                    done = run(tree, *words, *of_all)
                    if number == 0:  # files come into memory, modules are compiled
                        continue
                    took[tree].append(done)
                    if words is full:
                        speeds[tree].append(json.loads(report.read_text(encoding="utf-8"))["time"]["images_per_s"])
            for tree in trees:
                wall_s, cpu_s = (statistics.median(column) for column in zip(*took[tree], strict=True))
                rate = f" | {statistics.median(speeds[tree]):.1f} images/s" if words is full else ""
                print(f"{what} | {tree.name} | {wall_s:.2f} s | {cpu_s:.2f} s{rate}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--only", default="", help="the rows whose name holds this")
    given = parser.parse_args()
    main([tree.resolve() for tree in given.trees], given.model.resolve(), given.runs, given.only)
