"""Measure many jobs on several workers. They are local processes, or Ray's; each job gets an outcome.

Both engines cut a job's images into the same shards and merge them in the same order (`measure.run`), so they give the
same numbers. The local engine measures one model a process; Ray spreads the shards of a model too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final

from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.errors import UsageError, as_error
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits
from robustcheck_onnx.checker.runtime import cpu_threads
from robustcheck_onnx.thresholds.profile import Profile

from . import run as measure
from .job import TRIES, Job, Outcome, conclude, merge, nothing_yet

ENGINES: Final = ("local", "ray")


def run_jobs(
    jobs: Sequence[Job],
    profile: Profile,
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    limits: Limits = NO_LIMITS,
) -> Iterator[Outcome]:
    """Measure whole jobs and yield their outcomes. They come in any order.

    A job that fails, even by ending its process, fails alone. A worker that dies loses nothing: what it was at is
    done again, `TRIES` times at most. Closing the iterator ends the workers.

    Args:
        jobs: what to measure.
        profile: its alpha sets the bounds of the evidence.
        engine: local (processes of this machine, one model each) or ray (the extra `ray`).
        workers: processes; None = one for local; for ray one a GPU of the cluster, or one for every four cores.
        address: of a running Ray cluster; None = one on this machine for as long as this runs.
        limits: of each job, of the local engine alone.

    Raises:
        UsageError: no such engine, less than one worker, an address without ray, limits with ray.
        EnvironmentFaultError: Ray is not installed, or its cluster can't be reached.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine is {engine!r}; it must be local or ray", "--engine local")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1", "--workers 1")
    if engine == "ray":
        limits.refuse_here()
        from .ray_engine import run_jobs as run_on_ray  # noqa: PLC0415 # an extra

        return run_on_ray(jobs, profile, workers=workers, address=address)
    if address is not None:
        raise UsageError(f"--ray-address is {address}; it needs the Ray engine", "--engine ray")
    return _run_local(jobs, profile, workers or 1, limits)


def _run_local(jobs: Sequence[Job], profile: Profile, workers: int, limits: Limits) -> Generator[Outcome, None, None]:
    n_workers = max(1, min(workers, len(jobs)))
    threads = max(1, cpu_threads() // n_workers)
    walls: list[isolation.Wall] = []
    stopping = threading.Event()

    def measured(job: Job) -> Outcome:
        started = time.perf_counter()
        asked = {"job": job, "profile": profile, "threads": threads}
        evidence: tuple[Evidence, ...] = ()
        try:
            with isolation.Wall(limits) as wall:
                walls.append(wall)
                if stopping.is_set():
                    wall.stop()
                task, answer = "measure.workers:measure_all", tuple[Evidence, ...]
                evidence, error = wall.run(task, asked, answer, about=str(job.model), tries=TRIES), None
        except Exception as fault:  # noqa: BLE001 # whatever it is: one job's fault must not end the others
            error = as_error(fault)
        return Outcome(job, evidence, error, time.perf_counter() - started)

    pool = ThreadPoolExecutor(n_workers)
    try:
        for future in as_completed([pool.submit(measured, job) for job in jobs]):
            yield future.result()
    finally:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for wall in walls:
            wall.stop()
        pool.shutdown()


def measure_all(job: Job, profile: Profile, *, threads: int | None = None) -> tuple[Evidence, ...]:
    """Measure a whole job in this process. Its shards are merged in their order.

    Args:
        job, profile: as in `run_jobs`.
        threads: cores for ONNX Runtime; None = all that this process may use.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    opened = measure.open_job(job, threads=threads)
    facts = measure.probe(opened)
    total = nothing_yet(len(job.tensors))
    for index in range(facts.n_shards):
        total = merge(total, measure.measure_shard(opened, index))
    return conclude(job, facts, total, profile)
