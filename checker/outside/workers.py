"""Measure many jobs on several workers: local processes, or the actors of a Ray cluster.

Both engines cut a job's images into the same shards and merge them in the same order, so they give the same numbers.
The local engine measures one model per process; Ray spreads the shards of a model, too (`ray_engine`).
"""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import replace

from ...thresholds.profile import Profile
from ..core.evidence import Evidence
from ..core.measure.job import TRIES, Job, Outcome
from ..core.measure.loop import measure_shard
from ..core.measure.opening import open_job
from ..core.measure.probe import probe
from ..core.measure.sums import conclude, merge, nothing_yet
from ..core.progress import LOG, TellLine
from ..core.runtime.devices import cpu_threads
from ..errors import UsageError, as_error
from . import isolation
from .image_sets.open import of_job
from .isolation import NO_LIMITS, Limits
from .ray_engine import run_on_ray

ENGINES = ("local", "ray")


def run_jobs(
    jobs: Sequence[Job],
    profile: Profile,
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    limits: Limits = NO_LIMITS,
    tell: TellLine = LOG.warning,
) -> Iterator[Outcome]:
    """Measure jobs and yield their outcomes, in any order.

    A job that fails, even by ending its process, fails alone. The task of a worker that dies is done once more; the
    job fails if that kills a second worker (`TRIES`). Closing the iterator ends the workers.

    Args:
        jobs: what to measure.
        profile: its alpha sets the bounds of the evidence.
        engine: local (processes of this machine, one model each) or ray (the extra `ray`).
        workers: processes; None = one for local; for ray one a GPU of the cluster, or one for every four cores.
        address: of a running Ray cluster; None = one on this machine for as long as this runs.
        limits: of each job; with ray only the time, which runs while a worker is at the job.
        tell: called in the caller's thread, with ray alone, while the next outcome is awaited.

    Raises:
        UsageError: no such engine, less than one worker, an address without ray, limits of memory or size with ray.
        EnvironmentFaultError: Ray is not installed, or its cluster can't be reached.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine is {engine!r}; it must be local or ray", "--engine local")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1", "--workers 1")
    if engine == "ray":
        for option in replace(limits, timeout_s=None).given:
            raise UsageError(f"{option} needs the local engine; Ray's has --timeout alone", "--engine local")
        timeout_s = limits.timeout_s or math.inf
        return run_on_ray(jobs, profile, workers=workers, address=address, timeout_s=timeout_s, tell=tell)
    if address is not None:
        raise UsageError(f"--ray-address is {address}; it needs the Ray engine", "--engine ray")
    return _run_local(jobs, profile, workers or 1, limits)


def _run_local(jobs: Sequence[Job], profile: Profile, workers: int, limits: Limits) -> Iterator[Outcome]:
    n_workers = max(1, min(workers, len(jobs)))
    threads = max(1, cpu_threads() // n_workers)

    def measured(job: Job) -> Outcome:
        started = time.perf_counter()
        task = "outside.workers:measure_all"
        arguments = {"job": job, "profile": profile, "threads": threads}
        evidence: tuple[Evidence, ...] = ()
        error = None
        try:
            evidence = wall.run(task, arguments, tuple[Evidence, ...], about=str(job.model), tries=TRIES)
        except Exception as fault:  # noqa: BLE001 # whatever it is: one job's fault must not end the others
            error = as_error(fault)
        return Outcome(job, evidence, error, time.perf_counter() - started)

    with isolation.Wall(limits) as wall, wall.threads(n_workers) as pool:
        for future in as_completed([pool.submit(measured, job) for job in jobs]):
            yield future.result()


def measure_all(job: Job, profile: Profile, *, threads: int | None = None) -> tuple[Evidence, ...]:
    """Measure all shards of a job in this process, and merge them in their order.

    Args:
        job, profile: as in `run_jobs`.
        threads: cores for ONNX Runtime; None = all that this process may use.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `check`.
    """
    opened = open_job(job, of_job, threads=threads)
    facts = probe(opened)
    total = nothing_yet(len(job.tensors))
    for index in range(facts.n_shards):
        total = merge(total, measure_shard(opened, index))
    return conclude(job, facts, total, profile)
