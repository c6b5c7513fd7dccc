"""How long a calibration on many workers takes, by simulation: stragglers, failures, decoding and the driver included.

python benchmarks/simulation.py [--quick]

First this machine: the times of shards on two workers are measured, a larger run of two workers is predicted from them
and then made, and both are compared. Then the plans of benchmarks/results/scaling.md on 1, 8 and 64 GPUs. Writes
benchmarks/results/scaling-simulated.md. The simulation (`simulate`) is of events: who is free, what is left, what breaks.
"""

# ruff: noqa: E501 # lines of the page as they come out
from __future__ import annotations

import argparse
import heapq
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
SHARD_IMAGES = 512  # checker/core/measure/job.py
RUNS = 200  # of the simulation, for each row
BOUND = 0.15  # of the prediction's error
ONE_WORKER = ROOT / "benchmarks" / "children" / "one_worker.py"  # as the local engine starts it


@dataclass(frozen=True)
class Model:
    """One job: a model on an image set."""

    n_shards: int
    open_s: float
    shard_s: float
    """of a shard on one worker, with nothing in its way: the longer of device and decoding"""
    first_s: float = 0.0
    """more for the first shard: its photos are described for the sanity of the set"""


@dataclass(frozen=True)
class Cluster:
    """What the workers are like."""

    workers: int
    start_s: float = 0.0
    """of a worker, at the beginning and after a failure"""
    spread: Sequence[float] = (1.0,)
    """measured times of shards over their median: each shard's time is multiplied by one of them"""
    driver_s: float = 0.0
    """of the one driver, for each shard; the worker waits for it"""
    failures_an_hour: float = 0.0
    """of one worker; what it was at is begun again"""
    slow_share: float = 0.0
    slow_factor: float = 1.0
    """stragglers: so many of the workers take so many times as long"""
    helps: bool = True
    """whether idle workers take shards of another's model (Ray); the local engine's do not"""


@dataclass
class _Worker:
    slow: float
    model: int | None = None


@dataclass
class _Left:
    """What is left to do: shards by model, models that nobody has begun."""

    shards: list[int]
    fresh: list[int] = field(default_factory=list)


def simulate(models: Sequence[Model], cluster: Cluster, rng: np.random.Generator) -> float:
    """Wall seconds from the start of the workers to the last merged shard.

    Workers take models in their order; one that finds no new model helps with the model that has the most shards left.
    """
    n_slow = round(cluster.slow_share * cluster.workers)
    workers = [_Worker(cluster.slow_factor if index < n_slow else 1.0) for index in range(cluster.workers)]
    left = _Left([model.n_shards for model in models], list(range(len(models))))
    counter = itertools.count()  # of two events at one time, the earlier made
    # a worker is free (False), or has a shard for the driver (True)
    events = [(cluster.start_s, next(counter), index, False) for index in range(cluster.workers)]
    heapq.heapify(events)
    driver_free = 0.0
    while events:
        now, _, index, is_done = heapq.heappop(events)
        worker = workers[index]
        if is_done:
            driver_free = max(driver_free, now) + cluster.driver_s
            heapq.heappush(events, (driver_free, next(counter), index, False))
            continue
        number = _next_model(worker, left, helps=cluster.helps)
        if number is None:
            assert events or sum(left.shards) == 0, "shards are left, and nobody may take them"
            continue
        model = models[number]
        is_first = left.shards[number] == model.n_shards
        left.shards[number] -= 1
        shard_s = (model.shard_s + is_first * model.first_s) * float(rng.choice(cluster.spread)) * worker.slow
        length = shard_s + (0.0 if worker.model == number else model.open_s)
        failure = rng.exponential(3600 / cluster.failures_an_hour) if cluster.failures_an_hour else np.inf
        if failure < length:
            worker.model = None
            # Ray repeats the shard; a model of the local engine is one process, and begun anew
            left.shards[number] = left.shards[number] + 1 if cluster.helps else model.n_shards
            if not any(each.model == number for each in workers):
                left.fresh.insert(0, number)
            heapq.heappush(events, (now + float(failure) + cluster.start_s, next(counter), index, False))
            continue
        worker.model = number
        heapq.heappush(events, (now + length, next(counter), index, True))
    return driver_free


def _next_model(worker: _Worker, left: _Left, *, helps: bool) -> int | None:
    if worker.model is not None and left.shards[worker.model]:
        return worker.model
    if left.fresh:
        return left.fresh.pop(0)
    most = max(range(len(left.shards)), key=left.shards.__getitem__)
    return most if helps and left.shards[most] else None


@dataclass(frozen=True)
class Times:
    """Seconds, measured with workers side by side."""

    start: list[float]
    open: list[float]
    first: list[float]
    """of each model's first shard"""
    later: list[float]
    """of its other shards"""


def times_here(model: Path, photos: Path, workers: int, lengths: Sequence[int]) -> Times:
    """Measure models of so many shards each, `workers` at a time, so that first and later shards run beside each other."""
    threads = max(1, len(os.sched_getaffinity(0)) // workers)

    def one(shards: int) -> list[list[str]]:
        words = [sys.executable, str(ONE_WORKER), str(time.time()), str(model), str(photos)]
        words += [str(shards * SHARD_IMAGES), str(threads)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return [line.split() for line in done.stdout.splitlines()]

    times = Times([], [], [], [])
    with ThreadPoolExecutor(workers) as pool:
        for said in pool.map(one, lengths):
            shards = [float(value) for what, value in said if what == "shard"]
            times.start.extend(float(value) for what, value in said if what == "start")
            times.open.extend(float(value) for what, value in said if what == "open")
            times.first.append(shards[0])
            times.later.extend(shards[1:])
    return times


def made_here(model: Path, photos: Path, shards: Sequence[int], workers: int) -> float:
    """Wall seconds of the local engine over jobs of so many shards each."""
    from robustcheck_onnx.checker.core.measure.job import Job
    from robustcheck_onnx.checker.core.options import Options
    from robustcheck_onnx.checker.outside.workers import run_jobs
    from robustcheck_onnx.thresholds import profile

    jobs = [Job(model, Options(images=str(photos), max_images=n * SHARD_IMAGES, preprocess="clip")) for n in shards]
    begun = time.perf_counter()
    for outcome in run_jobs(jobs, profile.load(), engine="local", workers=workers):
        if outcome.error is not None:
            raise outcome.error
    return time.perf_counter() - begun


@dataclass(frozen=True)
class Trial:
    """A prediction, and what came of it."""

    spread: list[float]
    shard_s: float
    first_s: float
    open_s: float
    start_s: float
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Of the prediction, relative."""
        return self.predicted_s / self.measured_s - 1


def trial(folder: Path, *, quick: bool) -> Trial:
    """Measure shards on two workers, predict a larger run of two, and make it."""
    import made_models

    photos = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
    many = folder / "photos"
    many.mkdir()
    shards = [1, 2] if quick else [3, 1, 2, 4, 1, 3]
    for index in range(SHARD_IMAGES * max(shards)):
        (many / f"{index:05d}.jpg").symlink_to(photos[index % len(photos)])
    model = made_models.vit(folder / "m.onnx", made_models.TINY)
    times = times_here(model, many, 2, [1, 2] if quick else [2, 3, 2, 2, 3])
    start_s, open_s = statistics.median(times.start), statistics.median(times.open)
    first_s, shard_s = statistics.median(times.first), statistics.median(times.later)
    spread = [each / shard_s for each in times.later] + [each / first_s for each in times.first]
    cluster = Cluster(2, start_s, tuple(spread), helps=False)
    # each model of the local engine has a process of its own
    models = [Model(n_shards, open_s + start_s, shard_s, first_s - shard_s) for n_shards in shards]
    cluster = replace(cluster, start_s=0.0)
    rng = np.random.default_rng(0)
    runs = [simulate(models, cluster, rng) for _ in range(RUNS)]
    low, predicted, high = np.quantile(runs, [0.05, 0.5, 0.95])
    measured = made_here(model, many, shards, 2)
    return Trial(spread, shard_s, first_s, open_s, start_s, float(predicted), float(low), float(high), measured)


def plan(
    n_models: int, gpus: int, cores: int, spread: Sequence[float], cpu_ms: float, *, breaks: bool
) -> tuple[float, float, str]:
    """Median hours, 95 % quantile, and what bounds them, for models like the paper suite's on 50,000 images each."""
    from scaling import SET_IMAGES, SUITE_GFLOP, SUITE_MPARAMS, TFLOPS, UTILISATION

    n_shards = -(-SET_IMAGES // SHARD_IMAGES)
    decode_s = SHARD_IMAGES * cpu_ms / 1e3 / (cores / gpus)
    models, device_s = [], 0.0
    for index in range(n_models):
        gflop, mparams = SUITE_GFLOP[index % len(SUITE_GFLOP)], SUITE_MPARAMS[index % len(SUITE_MPARAMS)]
        on_device = SHARD_IMAGES * gflop / (TFLOPS["H100 SXM"] * UTILISATION * 1e3)
        device_s += on_device * n_shards
        models.append(Model(n_shards, 5 + 4 * mparams / 1e3 / NETWORK_GB_S, max(on_device, decode_s)))
    cluster = Cluster(gpus, 10.0, tuple(spread), driver_s=0.004)
    if breaks:
        cluster = replace(cluster, failures_an_hour=FAILURES, slow_share=SLOW_SHARE, slow_factor=SLOW_FACTOR)
    rng = np.random.default_rng(1)
    runs = [simulate(models, cluster, rng) / 3600 for _ in range(5 if n_models * n_shards > 5_000 else 50)]
    decode_bound = n_models * n_shards * decode_s / gpus
    driver = n_models * n_shards * 0.004
    parts = {"device": device_s / gpus, "decoding": decode_bound, "driver": driver}
    return statistics.median(runs), float(np.quantile(runs, 0.95)), max(parts, key=parts.__getitem__)


NETWORK_GB_S = 1.0  # an assumption: from the shared disk to a node, for the model's weights
FAILURES, SLOW_SHARE, SLOW_FACTOR = 0.02, 0.05, 2.0  # assumptions: of a worker an hour; stragglers


def page(found: Trial, cpu_ms: float, load: float) -> str:
    """The page."""
    from robustcheck_onnx.checker.core.runtime.devices import cpu_name, cpu_threads

    rows = []
    for n_models in (81, 200):
        for gpus, cores in ((1, 16), (8, 128), (64, 1024)):
            calm, _, bound = plan(n_models, gpus, cores, found.spread, cpu_ms, breaks=False)
            rough, worst, _ = plan(n_models, gpus, cores, found.spread, cpu_ms, breaks=True)
            rows.append(
                f"| {n_models} | {gpus} | {cores} | {calm:.2f} | {rough:.2f} | {worst:.2f} | {rough * gpus:.1f} | {bound} |"
            )
            print(rows[-1], flush=True)
    verdict = "within" if abs(found.error) <= BOUND else "**not within**"
    return f"""# Scaling, simulated

Written by `python benchmarks/simulation.py`: {cpu_name()}, {cpu_threads()} cores, load average {load:.1f} when it began; {datetime.now(UTC):%Y-%m-%d}.
The engine's own way of working ([scaling](scaling.md)) as a simulation of events: a worker takes models in their order, then helps with
the one that has the most shards left; it waits for the driver between shards; a worker that fails begins its shard again, after a
new start. **No GPU was measured.**

## Does it predict? Two workers here
The times of shards were measured on two workers side by side (a small transformer on 32 px, so that decoding is most of the work):
{found.shard_s:.2f} s a shard (median), {found.first_s:.2f} s the first of a model, of which 256 photos are described; from {min(found.spread):.2f} to {max(found.spread):.2f} times that; {found.start_s:.2f} s to start a process, {found.open_s:.2f} s to open the model. From
these the simulation gives **{found.predicted_s:.1f} s** ({found.low_s:.1f} to {found.high_s:.1f} in nine runs of ten) for six models of 3, 1, 2, 4, 1 and 3 shards on two workers of the local
engine. The run took **{found.measured_s:.1f} s**: the prediction is {found.error:+.1%} off, {verdict} {BOUND:.0%}.

## The plans
The paper suite's open_clip encoders over and over, 50,000 images each; H100 SXM in float32 at 40 % of the data sheet's peak (*an
assumption*, as in [scaling](scaling.md)); {cpu_ms:.1f} ms of one core for an image (measured there); 5 s and the weights at {NETWORK_GB_S:.0f} GB/s to open a model
(*an assumption*); shards spread as measured here. "With trouble": {FAILURES} failures an hour and worker, {SLOW_SHARE:.0%} of the workers {SLOW_FACTOR:.0f} times slower
(*assumptions*).

| models | GPUs | cores | hours | with trouble | 95 % of runs below | GPU-hours | bound by |
|---:|---:|---:|---:|---:|---:|---:|---|
{chr(10).join(rows)}

The cost is GPU-hours times the price of one, with the cores of the row beside it; no price is quoted here. With too few cores a GPU waits for
decoding. Beyond as many GPUs as models the last models decide: their shards are shared, and each helper opens the model once.
"""


def main() -> int:
    """Measure, predict, compare, and write the page; exit code 1 where the prediction is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small trial, and no page")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = trial(Path(folder), quick=given.quick)
    print(f"predicted {found.predicted_s:.2f} s, measured {found.measured_s:.2f} s: {found.error:+.1%}", flush=True)
    if not given.quick:
        from scaling import measure_stages

        text = page(found, measure_stages().cpu, load)
        (ROOT / "benchmarks" / "results" / "scaling-simulated.md").write_text(text, encoding="utf-8")
    return int(abs(found.error) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
