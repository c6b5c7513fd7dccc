"""What a second worker of Ray gives, and what a killed one costs: one model, its shards on workers of one core each.

    python benchmarks/ray_workers.py MODEL.onnx [--shards 6]

One model on the bundled photos over and over, in a cluster that runs already: with one worker on one core, with two on
two, and with two of which one is killed. Needs the extra `ray`. The evidence must be the same but for its execution.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from robustcheck_onnx.checker.core.measure.job import SHARD_IMAGES, Job
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.outside.ray_cluster import import_ray, open_cluster
from robustcheck_onnx.checker.outside.workers import run_jobs
from robustcheck_onnx.thresholds import profile

CORES = sorted(os.sched_getaffinity(0))
PHOTOS = Path(__file__).parent.parent / "checker" / "photos"


def kill_one(after_s: float, stop: threading.Event) -> None:
    """Kill one worker, whatever it is at, so many seconds from now."""
    if not stop.wait(after_s):
        named = [p for p in Path("/proc").glob("[0-9]*") if b"ray::Worker" in (p / "cmdline").read_bytes()]
        os.kill(int(named[0].name), signal.SIGKILL)


def measured(job: Job, workers: int, kill_after_s: float | None = None) -> tuple[float, Any]:
    """Seconds of the job on as many cores as workers, and its evidence."""
    os.sched_setaffinity(0, CORES[:workers])
    ray, stop = import_ray(own_cluster=True), threading.Event()
    with open_cluster(ray, workers, None):
        killer = threading.Thread(target=kill_one, args=(kill_after_s or 0.0, stop))
        start = time.perf_counter()
        if kill_after_s is not None:
            killer.start()
        (outcome,) = run_jobs([job], profile.load(), engine="ray", workers=workers)
        took_s = time.perf_counter() - start
        stop.set()
    if outcome.error is not None:
        raise outcome.error
    return took_s, outcome.evidence[0].model_dump(exclude={"execution"})


def main(model: Path, shards: int) -> None:
    """Print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        photos, n = sorted(PHOTOS.glob("*.jpg")), shards * SHARD_IMAGES
        for index in range(n):
            (Path(folder) / f"{index:05}.jpg").hardlink_to(photos[index % len(photos)])
        job = Job(model, Options(images=folder))
        one_s, one = measured(job, 1)
        two_s, two = measured(job, 2)
        killed_s, killed = measured(job, 2, 0.6 * two_s)
    print(f"{model.stem}, {n} photos in {shards} shards: one worker {one_s:.1f} s, two {two_s:.1f} s", end=" ")
    print(f"({one_s / two_s:.2f} x), one of two killed {killed_s:.1f} s; same evidence: {one == two == killed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shards", type=int, default=6)
    given = parser.parse_args()
    main(given.model.resolve(), given.shards)
