"""Many jobs on several workers, and what became of each: local processes, and the door to Ray.

Both engines cut a job's images into the same shards and merge them in the same order (`measure.run`), so they give the
same numbers. The local engine measures one model a process; Ray spreads the shards of a model too."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.runtime import cpu_threads
from robustcheck_onnx.thresholds.profile import Profile

from . import run as measure
from .job import TRIES, Job, JobProgress, Outcome, as_error, conclude, died, merge, nothing_yet

ENGINES: Final = ("local", "ray")


def run_jobs(
    jobs: Sequence[Job],
    profile: Profile,
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: JobProgress | None = None,
) -> Iterator[Outcome]:
    """Measure jobs on all of their images and give the outcomes as they come, in any order.

    A job that fails, even by ending its process, fails alone. A worker that dies loses nothing: what it was at is
    done again, `TRIES` times at most. Closing the iterator ends the workers.

    A script that calls this must guard its own start with `if __name__ == "__main__":`, as worker processes import it.

    Args:
        jobs: what to measure.
        profile: its alpha sets the bounds of the evidence.
        engine: local (processes of this machine, one model each) or ray (the extra `ray`).
        workers: processes; None = one for local; for ray one a GPU of the cluster, or one for every four cores.
        address: of a running Ray cluster; None = one on this machine for as long as this runs.
        progress: called when a shard is done; by ray only.

    Raises:
        UsageError: no such engine, less than one worker, an address without ray.
        EnvironmentFaultError: Ray is not installed, or its cluster can't be reached.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine is {engine!r}; it must be local or ray", "--engine local")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1", "--workers 1")
    if engine == "ray":
        from .ray_engine import run_jobs as run_on_ray  # noqa: PLC0415 # an extra

        return run_on_ray(jobs, profile, workers=workers, address=address, progress=progress)
    if address is not None:
        raise UsageError(f"--ray-address is {address}; it needs the Ray engine", "--engine ray")
    return _run_local(jobs, profile, workers or 1)


def _run_local(jobs: Sequence[Job], profile: Profile, workers: int) -> Generator[Outcome, None, None]:
    n_workers = max(1, min(workers, len(jobs)))
    threads = max(1, cpu_threads() // n_workers)
    waiting = deque((job, 1) for job in jobs)
    # a pool for each worker: when a process dies it is known which job it was at, and no other is touched
    idle = [_Worker() for _ in range(n_workers)]
    running: dict[Future[Outcome], tuple[_Worker, Job, int, float]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                worker, (job, tried) = idle.pop(), waiting.popleft()
                try:
                    future = worker.pool.submit(_measure, job, profile, threads)
                except BrokenProcessPool:  # it died while it had nothing to do
                    worker.dismiss()
                    idle.append(_Worker())
                    waiting.appendleft((job, tried))
                    continue
                running[future] = (worker, job, tried, time.perf_counter())
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, job, tried, started = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    worker.dismiss()
                    idle.append(_Worker())
                    if tried < TRIES:
                        waiting.appendleft((job, tried + 1))
                        continue
                    outcome = Outcome(job, (), died(job), time.perf_counter() - started)
                else:
                    idle.append(worker)
                yield outcome
    finally:
        for worker in [*idle, *(entry[0] for entry in running.values())]:
            worker.dismiss()


class _Worker:
    """One process; it ends when it is dismissed, and when this process ends, however that happens."""

    def __init__(self) -> None:
        context = get_context("spawn")  # a fork would copy locks that other threads hold
        lifeline, self._held = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(lifeline,))

    def dismiss(self) -> None:
        self._held.close()
        self.pool.shutdown(cancel_futures=True)


def _begin(lifeline: Connection) -> None:
    """In the worker: leave Ctrl-C to the parent, keep stdout for it, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)

    def end_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _measure(job: Job, profile: Profile, threads: int) -> Outcome:
    """In the worker: whatever it meets is this job's error."""
    started = time.perf_counter()
    try:
        evidence = measure_all(job, profile, threads=threads)
    except Exception as fault:  # noqa: BLE001 # told as this job's error
        return Outcome(job, (), as_error(fault, job), time.perf_counter() - started)
    return Outcome(job, evidence, None, time.perf_counter() - started)


def measure_all(
    job: Job, profile: Profile, *, threads: int | None = None, progress: JobProgress | None = None
) -> tuple[Evidence, ...]:
    """Measure a job on all of its images, in this process: its shards, merged in their order.

    Args:
        job, profile: as in `run_jobs`.
        threads: cores for ONNX Runtime; None = all that this process may use.
        progress: called when a shard is done.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    opened = measure.open_job(job, threads=threads)
    facts = measure.probe(opened)
    total = nothing_yet(len(job.tensors))
    for index in range(facts.n_shards):
        total = merge(total, measure.measure_shard(opened, index))
        if progress is not None:
            progress(job, total.images.n_read, facts.n_images)
    return conclude(job, facts, total, profile)
