"""Measure models on the workers of a Ray cluster: shards go to actors, and are merged in their order.

A worker that is lost, alone or with its node, is replaced where the cluster has room, and its shard goes to another
one, so that a run goes on as long as one worker is left.
"""

import copy
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from ...thresholds.profile import Profile
from ..core.measure.job import TRIES, Job, Outcome, died
from ..core.measure.loop import measure_shard
from ..core.measure.opening import OpenedJob, open_job
from ..core.measure.probe import probe
from ..core.measure.sums import Measurement, RunFacts, conclude, merge, nothing_yet
from ..core.progress import TellLine
from ..core.runtime.devices import parse_device
from ..errors import EnvironmentFaultError, RobustcheckError, UsageError, as_error
from ..text import VERSION, frozen
from .image_sets.open import of_job
from .isolation import too_slow
from .ray_cluster import (
    PATIENCE_S,
    START_S,
    Crew,
    check_address,
    import_ray,
    node_devices,
    open_cluster,
    plan_workers,
    unreachable,
)

HANDLER_S = 0.05  # between two looks after the handler of SIGTERM
AHEAD_SHARDS = 2  # per worker; merged only in order, so these may wait in the driver's memory
BEGINNING = -1  # a task in place of a shard: to open a job and try its model


def run_on_ray(
    jobs: Sequence[Job],
    profile: Profile,
    *,
    workers: int | None,
    address: str | None,
    timeout_s: float,
    tell: TellLine,
) -> Iterator[Outcome]:
    """Measure jobs with the Ray engine, as `workers.run_jobs`.

    Models and images must lie under the same paths on every node.

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
    return _run(ray, jobs, profile, workers, address, timeout_s, tell)


_Result = tuple[RunFacts, Measurement | None] | RobustcheckError
"""of a shard, or without a measurement of the beginning of a job"""


class Worker:
    """An actor, one process on one device, with one opened model at a time."""

    def __init__(self, folder: str, threads: int) -> None:
        with suppress(OSError):  # another machine without that folder: absolute paths still work
            os.chdir(folder)
        self._threads = threads
        self._number = -1
        self._opened: OpenedJob | None = None
        self._facts: RunFacts | None = None

    def hello(self) -> tuple[str, str]:
        """Return the version of the measuring code and the name of the machine."""
        return VERSION, platform.node()

    def measure(self, number: int, job: Job, shard: int) -> _Result:
        """Measure one shard of job number `number`, or open the job and try its model (`BEGINNING`)."""
        try:
            opened, facts = self._open(number, job)
            return facts, None if shard == BEGINNING else measure_shard(opened, shard)
        except Exception as fault:  # noqa: BLE001 # reported as this job's error
            return as_error(fault)

    def _open(self, number: int, job: Job) -> tuple[OpenedJob, RunFacts]:
        if self._number != number or self._opened is None or self._facts is None:
            self._opened = self._facts = None  # the device's memory is free before the next model comes
            self._opened = open_job(job, of_job, threads=self._threads)
            self._facts = probe(self._opened)
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
    facts: RunFacts | None = None
    measured_s: float = 0.0
    """while a worker was at it; waiting for a worker does not count"""
    todo: list[int] = field(default_factory=list)
    """shards that no worker is at, in their order"""
    merged: int = 0
    early: dict[int, Measurement] = field(default_factory=dict)
    """shards that wait for one before them"""
    losses: Counter[int] = field(default_factory=Counter)
    """lost workers, by the shard that they were at"""
    workers: set[int] = field(default_factory=set)
    """those that measured a shard"""

    def has_shard(self, ahead: int) -> bool:
        return bool(self.todo) and self.todo[0] < self.merged + ahead

    def lost(self, shard: int) -> Outcome | None:
        """Take back the task of a lost worker; fail after `TRIES`."""
        self.losses[shard] += 1
        if self.losses[shard] == TRIES:
            return self.failed(died(self.job))
        if shard == BEGINNING:
            self.begun = False
        else:
            self.todo = sorted([*self.todo, shard])
        return None

    def add(self, shard: int, measurement: Measurement) -> None:
        """Merge a shard once all before it are merged."""
        self.early[shard] = measurement
        while self.merged in self.early:
            self.total = merge(self.total, self.early.pop(self.merged))
            self.merged += 1

    def failed(self, error: RobustcheckError) -> Outcome:
        return Outcome(self.job, (), error, time.perf_counter() - self.started)

    def concluded(self, facts: RunFacts, profile: Profile) -> Outcome:
        """Conclude the evidence from all shards."""
        spread = {"engine": "ray", "workers": len(self.workers)}
        executions = tuple(execution.model_copy(update=spread) for execution in facts.executions)
        try:
            evidence = conclude(self.job, replace(facts, executions=executions), self.total, profile)
        except RobustcheckError as fault:
            return self.failed(fault)
        return Outcome(self.job, evidence, None, time.perf_counter() - self.started)


@frozen
class _Task:
    """The task of one worker: a shard, or the beginning of the job."""

    worker: int
    course: _Course
    shard: int

    def __str__(self) -> str:
        part = "the start" if self.shard == BEGINNING else f"shard {self.shard + 1}"
        return f"{part} of {self.course.job.model}"


def _run(
    ray: ModuleType,
    jobs: Sequence[Job],
    profile: Profile,
    workers: int | None,
    address: str | None,
    timeout_s: float,
    tell: TellLine,
) -> Iterator[Outcome]:
    """Talk to Ray in a separate thread, which waits for nothing longer than `PATIENCE_S` at a time.

    A signal's exception in the middle of Ray's compiled code ends the process; here it meets a queue.
    """
    messages: SimpleQueue[Outcome | str | BaseException | None] = SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            with open_cluster(ray, workers, address), _workers(ray, jobs, workers, messages.put) as crew:
                for message in _measure_all(ray, crew, jobs, profile, stop, timeout_s):
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
            except Empty:
                _keep_handler()
                continue
            if message is None:
                return
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, Outcome):
                yield message
            else:
                tell(message)
    finally:
        stop.set()
        while thread.is_alive():
            thread.join(HANDLER_S)
            _keep_handler()


def _keep_handler() -> None:
    """Install this process's SIGTERM handler again: `ray.shutdown` leaves one that kills the process."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _workers(ray: ModuleType, jobs: Sequence[Job], workers: int | None, tell: TellLine) -> Iterator[Crew]:
    """Yield the workers; each is idle once it has answered."""
    wants_gpu = any(parse_device(job.options.device).is_gpu for job in jobs)
    n_workers, cpus, gpus = plan_workers(node_devices(ray), workers, wants_gpu=wants_gpu)
    # Ray does not restart an actor by default: its calls would wait for room on another node, as long as it takes
    actor = ray.remote(Worker).options(num_cpus=cpus, num_gpus=gpus)
    crew = Crew(ray, partial(actor.remote, str(Path.cwd()), cpus), n_workers, tell)
    try:
        yield crew
    finally:
        crew.end()


def _measure_all(
    ray: ModuleType,
    crew: Crew,
    jobs: Sequence[Job],
    profile: Profile,
    stop: threading.Event,
    timeout_s: float,
) -> Iterator[Outcome]:
    """Measure all jobs and yield their outcomes.

    Raises EnvironmentFaultError: no worker was there for `START_S`.
    """
    courses = [_Course(i, job, nothing_yet(len(job.tensors))) for i, job in enumerate(jobs)]
    at: dict[int, _Course] = {}  # the job whose model a worker holds
    running: dict[Any, _Task] = {}
    looked = time.perf_counter()
    there = looked
    while courses and not stop.is_set():
        for worker in list(crew.idle):
            task = _next_task(worker, at.get(worker), courses, AHEAD_SHARDS * crew.n_workers)
            if task is None:
                continue
            crew.idle.remove(worker)
            at[worker] = task.course
            call = crew.actors[worker].measure.remote(task.course.number, task.course.job, task.shard)
            running[call] = task
        done, _ = ray.wait([*running, *crew.calls], num_returns=1, timeout=PATIENCE_S)
        now = time.perf_counter()
        for course in {task.course for task in running.values()}:
            course.measured_s += now - looked
        looked = now
        if running or crew.idle:
            there = now
        if now - there > START_S:
            raise EnvironmentFaultError(
                f"Ray: number of workers that came within {START_S} s is 0 of {crew.n_workers}; at least one is needed",
                "ray status",
            )
        for call in done:
            if call in crew.calls:
                crew.answered(call)
                continue
            task = running.pop(call)
            result = _result(ray, call)
            if result is None:
                crew.lose(task.worker, f"it was at {task}")
            else:
                crew.free(task.worker)
            outcome = _take(result, task, profile)
            if outcome is not None and task.course in courses:  # else it failed while this shard was measured
                courses.remove(task.course)
                yield outcome
        for course in [course for course in courses if course.measured_s > timeout_s]:
            courses.remove(course)
            for call, task in list(running.items()):
                if task.course is course:
                    del running[call]
                    crew.replace(task.worker)  # native code can't be interrupted otherwise
            yield course.failed(too_slow(str(course.job.model), timeout_s))


def _next_task(worker: int, current: _Course | None, courses: list[_Course], ahead: int) -> _Task | None:
    """Choose the next task for a worker.

    Taken first is a shard of the model that the worker holds, then one of a job that lost a worker, then a job that has
    not begun, and last a shard of the job with most left to do.
    """
    ready = [course for course in courses if course.has_shard(ahead)]
    if current in ready:
        return _Task(worker, current, current.todo.pop(0))
    for course in ready:
        if course.losses:
            return _Task(worker, course, course.todo.pop(0))
    for course in courses:
        if not course.begun:
            course.begun = True
            course.started = course.started or time.perf_counter()
            return _Task(worker, course, BEGINNING)
    if not ready:
        return None
    most = max(ready, key=lambda course: len(course.todo))
    return _Task(worker, most, most.todo.pop(0))


def _result(ray: ModuleType, call: Any) -> _Result | None:
    """Return a call's result; None where its worker is lost."""
    errors = ray.exceptions
    try:
        # a copy: arrays that come from Ray lie in its object store, and the smallest keeps a whole result there
        result: _Result = copy.deepcopy(ray.get(call))
    except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError, errors.OutOfMemoryError):
        return None  # or the result was lost with the node
    except errors.RayError as fault:
        return as_error(fault)
    return result


def _take(result: _Result | None, task: _Task, profile: Profile) -> Outcome | None:
    """Store a result, or give a lost worker's task back to its job; return the outcome of a job that has ended."""
    course = task.course
    if result is None:
        return course.lost(task.shard)
    if isinstance(result, RobustcheckError):
        return course.failed(result)
    facts, measurement = result
    if measurement is None:
        course.facts = facts
        course.todo = list(range(facts.n_shards))
        return None
    assert course.facts is not None
    if names := facts.differs_from(course.facts):
        unlike = EnvironmentFaultError(
            f"{course.job.model}: workers differ in {names}; every node must see the same files, which stay as they "
            "are during a run, and run models the same way",
            "robustcheck doctor on every node",
        )
        return course.failed(unlike)
    course.workers.add(task.worker)
    course.add(task.shard, measurement)
    return course.concluded(course.facts, profile) if course.merged == course.facts.n_shards else None
