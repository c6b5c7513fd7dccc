"""What a check costs beyond the passes: processor time and memory of both processes, next to a bare session.

    python benchmarks/last_fifth.py [--runs 5] [--cores 1 2] [--only WORD] [--before COMMAND]

Models with random weights and a contract, as `robustcheck export` writes it; a folder of 200 photos, of which the
check takes as many as its early stop needs. `baselines/bare_session.py` runs as many in the same passes. A look-up
model stands for everything but the passes. Commands take turns; --before names `robustcheck` of an earlier build,
which takes its turn, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made_models
import numpy as np
import onnx
import speed

from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.exporters import contract as contracts
from support import lookup

BARE = speed.ROOT / "benchmarks" / "baselines" / "bare_session.py"
PHOTOS = 200  # more than an early stop needs
SAMPLE_S = 0.02
PROCESSOR_GOALS = {1: 1.25, 2: 1.15}  # by cores
MEMORY_GOAL = 1.3
LOOKUP_GOAL_S = 0.75


@dataclass(frozen=True)
class Cost:
    """What one command took, with its children."""

    wall_s: float
    processor_s: float
    memory_mib: float
    """peak of the proportional sizes of all its processes, sampled"""


def cost(command: list[str], cores: int) -> Cost:
    """Run a command on the first cores of this process."""
    allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    start, peak, done = time.perf_counter(), [0.0], threading.Event()
    with subprocess.Popen(
        ["taskset", "--cpu-list", allowed, *command], stdout=subprocess.DEVNULL, env=speed.ENVIRONMENT
    ) as process:

        def watch() -> None:
            while not done.wait(SAMPLE_S):
                peak[0] = max(peak[0], _proportional_mib(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        took_s = time.perf_counter() - start
        done.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, 1}:
        raise RuntimeError(f"{command}: exit code {process.returncode}")
    return Cost(took_s, used.ru_utime + used.ru_stime, peak[0])


def _proportional_mib(pid: int) -> float:
    """Proportional set size of a process and its descendants, MiB; 0 of those that have ended."""
    total = 0.0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) / 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(map(_proportional_mib, map(int, (task / "children").read_text(encoding="ascii").split())))
    return total


def with_contract(path: Path) -> Path:
    """Write into a made model what an export writes: preprocessing, the tensor, a digest of graph and weights."""
    model = onnx.load(path)
    contract: dict[str, Any] = lookup.lookup_contract() | {"preprocessing": CLIP.model_dump(mode="json")}
    contract["source"] = contract["source"] | {"random_weights": True, "synthetic": ""}
    contracts.embed(model, contract, path.parent)
    onnx.save(model, path)
    return path


def _images_read(check: list[str], report: Path) -> int:
    """Images that a check takes until it stops."""
    cost([*check, "-o", f"json={report}"], len(os.sched_getaffinity(0)))
    return int(json.loads(report.read_text(encoding="utf-8"))["evidence"]["images"]["n_read"])


def compared(*commands: list[str], cores: int, runs: int) -> list[Cost]:
    """Medians of each command, taken in turns after one run each that is not counted."""
    taken = [[cost(command, cores) for command in commands] for _ in range(runs + 1)]
    return [_median(list(costs)) for costs in zip(*taken[1:], strict=True)]


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(column) for column in zip(*(vars(one).values() for one in costs), strict=True)))


def rows(
    folder: Path, runs: int = 5, cores: list[int] | None = None, only: str = "", before: str = ""
) -> Iterator[dict[str, object]]:
    """All rows, as they are measured; cores: how many are used, of those that there are."""
    there = len(os.sched_getaffinity(0))
    counts = [count for count in cores or [1, 2, 4, 8] if count <= there]
    photos = speed.write_photos(folder / "fifth-photos", PHOTOS)
    writers: dict[str, Callable[[Path], Path]] = {
        "ViT-B-32": lambda path: made_models.vit(path, made_models.B32),
        "RN50": lambda path: made_models.resnet(path, made_models.RN50_BLOCKS),
    }
    for name, write in writers.items():
        if only not in name:
            continue
        model = with_contract(write(folder / f"fifth-{name}.onnx"))
        check = [str(speed.COMMAND), str(model), "--images", str(photos), "-q"]
        n = _images_read(check, folder / "fifth.json")
        for count in counts:
            session = [sys.executable, str(BARE), str(model), str(photos), str(n)]
            commands = [session, check, *([[before, *check[1:]]] if before else [])]
            bare, *checks = compared(*commands, cores=count, runs=runs)
            on = f"{name}, early stop at {n} photos, {count} core{'s' if count > 1 else ''}"
            goal = PROCESSOR_GOALS[min(count, 2)]
            for ours, build in zip(checks, ("", "earlier build: "), strict=False):
                yield _row(f"{build}processor time of a check, {on}", ours.processor_s, bare.processor_s, "s", goal)
                yield _row(f"{build}peak proportional memory of a check, {on}", ours.memory_mib, bare.memory_mib, "MiB",
                           MEMORY_GOAL)  # fmt: skip
    if only in "look-up":
        yield from _lookup_rows(folder, counts, runs)


def _row(what: str, ours: float, bare: float, unit: str, goal: float) -> dict[str, object]:
    digits = 2 if unit == "s" else 0
    return {"what": what, "ours": f"{ours:.{digits}f} {unit}",
            "baseline": f"bare session, same photos and passes: {bare:.{digits}f} {unit}",
            "ratio": round(ours / bare, 2), "goal": f"≤ {goal:g}", "met": ours / bare <= goal}  # fmt: skip


def _lookup_rows(folder: Path, counts: list[int], runs: int) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng(0)
    h = rng.normal(size=(PHOTOS, 512)) + rng.normal(0, 0.5, 512)
    h[:, 7] += 20
    model = lookup.write_lookup_model(folder / "fifth-lookup.onnx", h)
    sources = sorted((speed.ROOT / "checker" / "photos").glob("*.jpg"))
    lookup.write_lookup_images(folder / "fifth-lookup", PHOTOS, photos=sources)
    check = [str(speed.COMMAND), str(model), "--images", str(folder / "fifth-lookup"), "-q"]
    imports = [sys.executable, "-c", "import onnxruntime, onnx, PIL.Image"]
    for count in counts:
        ours, bare = compared(check, imports, cores=count, runs=runs)
        yield {"what": f"cold check of a look-up model, {count} core{'s' if count > 1 else ''}",
               "ours": f"{ours.wall_s:.2f} s ({ours.processor_s:.2f} s CPU)",
               "baseline": f"import onnxruntime, onnx, Pillow: {bare.wall_s:.2f} s ({bare.processor_s:.2f} s CPU)",
               "ratio": round(ours.wall_s / bare.wall_s, 2), "goal": f"≤ {LOOKUP_GOAL_S} s",
               "met": ours.wall_s <= LOOKUP_GOAL_S}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", type=int, nargs="+")
    parser.add_argument("--only", default="", help="the models whose name holds this")
    parser.add_argument("--before", default="", metavar="COMMAND")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name), given.runs, given.cores, given.only, given.before):
            print(" | ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
