"""Jobs on a Ray cluster: one actor a device, a model opened once an actor, its images in shards.

Ray starts the processes, hands out devices, starts a killed actor again and repeats what it was at. Here is only who
measures which shard next, and the merging of shards in their order; `ray_cluster.py` opens the cluster.
"""

from __future__ import annotations

import contextlib
import copy
import os
import queue
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError, as_error
from robustcheck_onnx.checker.runtime import parse_device
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.thresholds.profile import Profile

from . import run as measure
from .job import TRIES, Facts, Job, Measurement, Outcome, conclude, died, merge, nothing_yet
from .ray_cluster import (
    PATIENCE_S,
    check_address,
    greet,
    import_ray,
    node_devices,
    open_cluster,
    plan_workers,
    unreachable,
)

HANDLER_S: Final = 0.05  # between two looks after the handler of SIGTERM
AHEAD_SHARDS: Final = 2  # a worker; merged only in order, so these may wait in the driver's memory


def run_jobs(jobs: Sequence[Job], profile: Profile, *, workers: int | None, address: str | None) -> Iterator[Outcome]:
    """As `workers.run_jobs` with the Ray engine; models and images must lie under the same paths on every node.

    Raises:
        UsageError: a job names a GPU by number, which Ray gives out; more workers than devices; no such address.
        EnvironmentFaultError: Ray is not installed, its cluster can't be reached, its nodes hold another robustcheck.
    """
    for job in jobs:
        device = parse_device(job.options.device)
        if device.is_gpu and device.place:
            raise UsageError(f"--device is {job.options.device}; Ray gives out the GPUs", "--device cuda")
    ray = import_ray(own_cluster=address is None)
    if address is not None and not ray.is_initialized():
        check_address(address)
    return _run(ray, jobs, profile, workers, address)


_Result = Facts | tuple[Facts, Measurement] | RobustcheckError
"""of beginning a job; of a shard; of either"""


class Worker:
    """An actor: one process on one device, with one opened model at a time."""

    def __init__(self, folder: str, threads: int) -> None:
        with contextlib.suppress(OSError):  # another machine without that folder: absolute paths still work
            os.chdir(folder)
        self._threads = threads
        self._number = -1
        self._opened: measure.Opened | None = None
        self._facts: Facts | None = None

    def hello(self) -> str:
        """The version of the code that measures here."""
        return VERSION

    def begin(self, number: int, job: Job) -> Facts | RobustcheckError:
        """Open job number `number` and try its model."""
        try:
            return self._open(number, job)[1]
        except Exception as fault:  # noqa: BLE001 # reported as this job's error
            return as_error(fault)

    def shard(self, number: int, job: Job, index: int) -> tuple[Facts, Measurement] | RobustcheckError:
        """One shard, and what it was measured under."""
        try:
            opened, facts = self._open(number, job)
            return facts, measure.measure_shard(opened, index)
        except Exception as fault:  # noqa: BLE001 # reported as this job's error
            return as_error(fault)

    def _open(self, number: int, job: Job) -> tuple[measure.Opened, Facts]:
        if self._number != number or self._opened is None or self._facts is None:
            self._opened = self._facts = None  # the device's memory is free before the next model comes
            self._opened = measure.open_job(job, threads=self._threads)
            self._facts = measure.probe(self._opened)
            self._number = number
        return self._opened, self._facts


@dataclass(eq=False)
class _Course:
    """A job on its way."""

    number: int
    job: Job
    total: Measurement
    """shards before number `merged`"""
    started: float = 0.0
    begun: bool = False
    facts: Facts | None = None
    given_out: int = 0
    merged: int = 0
    early: dict[int, Measurement] = field(default_factory=dict)
    """shards that wait for one before them"""

    def has_shard(self, ahead: int) -> bool:
        return self.facts is not None and self.given_out < min(self.facts.n_shards, self.merged + ahead)


@dataclass(frozen=True)
class _Task:
    """What one worker is at: the shard, or the beginning of the job (-1)."""

    worker: int
    course: _Course
    shard: int


def _run(
    ray: ModuleType,
    jobs: Sequence[Job],
    profile: Profile,
    workers: int | None,
    address: str | None,
) -> Generator[Outcome, None, None]:
    """Talk to Ray in a thread of its own, which waits for nothing longer than `PATIENCE_S` at a time.

    A signal's exception in the middle of Ray's compiled code ends the process; here it meets a queue.
    """
    messages: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            with open_cluster(ray, workers, address), _workers(ray, jobs, workers, stop) as actors:
                for message in _measure_all(ray, actors, jobs, profile, stop):
                    messages.put(message)
            messages.put(None)
        except ray.exceptions.RayError as fault:
            messages.put(unreachable(address, str(fault)))
        except BaseException as fault:  # noqa: BLE001 # raised again in the caller's thread
            messages.put(fault)

    thread = threading.Thread(target=work, name="ray-engine", daemon=True)
    thread.start()
    try:
        while True:
            try:
                message = messages.get(timeout=HANDLER_S)
            except queue.Empty:
                _keep_handler()
                continue
            if message is None:
                return
            if isinstance(message, BaseException):
                raise message
            yield message
    finally:
        stop.set()
        while thread.is_alive():
            thread.join(HANDLER_S)
            _keep_handler()


def _keep_handler() -> None:
    """Install this process's handler of SIGTERM again: `ray.shutdown` leaves the system's, which kills the process."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _workers(ray: ModuleType, jobs: Sequence[Job], workers: int | None, stop: threading.Event) -> Iterator[list[Any]]:
    """The actors, all there."""
    wants_gpu = any(parse_device(job.options.device).is_gpu for job in jobs)
    n_workers, cpus, gpus = plan_workers(node_devices(ray), workers, wants_gpu=wants_gpu)
    # a restarted actor begins its call again: Ray's own retry, with nothing lost and nothing twice
    actor = ray.remote(Worker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=TRIES - 1)
    actors = [actor.remote(str(Path.cwd()), cpus) for _ in range(n_workers)]
    try:
        greet(ray, actors, stop)
        yield actors
    finally:
        for handle in actors:
            ray.kill(handle)


def _measure_all(
    ray: ModuleType, actors: list[Any], jobs: Sequence[Job], profile: Profile, stop: threading.Event
) -> Iterator[Outcome]:
    """The outcomes."""
    courses = [_Course(i, job, nothing_yet(len(job.tensors))) for i, job in enumerate(jobs)]
    at: dict[int, _Course] = {}  # the job whose model a worker holds
    idle = list(range(len(actors)))
    running: dict[Any, _Task] = {}
    while courses and not stop.is_set():
        for worker in list(idle):
            task = _next_task(worker, at.get(worker), courses, AHEAD_SHARDS * len(actors))
            if task is None:
                continue
            idle.remove(worker)
            at[worker] = task.course
            handle, number, job = actors[worker], task.course.number, task.course.job
            call = handle.begin.remote(number, job) if task.shard < 0 else handle.shard.remote(number, job, task.shard)
            running[call] = task
        done, _ = ray.wait(list(running), num_returns=1, timeout=PATIENCE_S)
        for call in done:
            task = running.pop(call)
            idle.append(task.worker)
            if task.course not in courses:
                continue  # it failed while this shard was measured
            outcome = _take(_result(ray, call, task.course.job), task, len(actors), profile)
            if outcome is not None:
                courses.remove(task.course)
                yield outcome


def _next_task(worker: int, current: _Course | None, courses: list[_Course], ahead: int) -> _Task | None:
    """A shard of the model that the worker holds, else a job that has not begun, else the job with most left to do."""
    ready = [course for course in courses if course.has_shard(ahead)]
    new = next((course for course in courses if not course.begun), None)
    if current in ready or (new is None and ready):
        course = (
            current
            if current in ready
            else max(ready, key=lambda c: (c.facts.n_shards if c.facts else 0) - c.given_out)
        )
        assert course is not None
        course.given_out += 1
        return _Task(worker, course, course.given_out - 1)
    if new is None:
        return None
    new.begun, new.started = True, time.perf_counter()
    return _Task(worker, new, -1)


def _result(ray: ModuleType, call: Any, job: Job) -> _Result:
    try:
        # a copy: arrays that come from Ray lie in its object store, and the smallest keeps a whole result there
        result: _Result = copy.deepcopy(ray.get(call))
    except ray.exceptions.RayActorError:
        return died(job)  # Ray has tried again already
    except ray.exceptions.RayError as fault:
        return as_error(fault)
    return result


def _take(result: _Result, task: _Task, n_workers: int, profile: Profile) -> Outcome | None:
    """Put a result where it belongs; the outcome at the job's end."""
    course, job = task.course, task.course.job
    wall_s = time.perf_counter() - course.started
    if isinstance(result, RobustcheckError):
        return Outcome(job, (), result, wall_s)
    if isinstance(result, Facts):
        executions = tuple(e.model_copy(update={"engine": "ray", "workers": n_workers}) for e in result.executions)
        course.facts = replace(result, executions=executions)
        return None
    assert course.facts is not None
    facts, course.early[task.shard] = result
    if what := facts.differs_from(course.facts):
        return Outcome(job, (), _differ(job, what), wall_s)
    while course.merged in course.early:
        course.total = merge(course.total, course.early.pop(course.merged))
        course.merged += 1
    if course.merged < course.facts.n_shards:
        return None
    try:
        return Outcome(job, conclude(job, course.facts, course.total, profile), None, wall_s)
    except RobustcheckError as fault:
        return Outcome(job, (), fault, wall_s)


def _differ(job: Job, what: str) -> EnvironmentFaultError:
    return EnvironmentFaultError(
        f"{job.model}: workers differ in {what}; every node must see the same files, which stay as they are during a "
        "run, and run models the same way",
        "robustcheck doctor on every node",
    )
