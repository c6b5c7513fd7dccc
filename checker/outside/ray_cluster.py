"""Reach or start a Ray cluster, plan how many workers it has room for, and keep so many of them there."""

import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from secrets import token_hex
from types import ModuleType
from typing import Any

from ..core.progress import TellLine
from ..core.runtime.devices import cpu_threads
from ..errors import EnvironmentFaultError, UsageError, install_hint
from ..text import VERSION, Fields, one_line

REACH_S = 30  # to reach a cluster's address; it takes about 3 where one is
PATIENCE_S = 0.5  # between two looks at whether the caller wants to stop
START_S = 300  # for a worker to be there where none is; a cluster that grows takes minutes
STORE_BYTES = 512 * 2**20  # object store of a cluster of our own; a shard's sums are 64·128·feature bytes
CORES_A_WORKER = 4  # by default, without GPUs: more workers would hold the model more often, in as much memory
STARTS = 3  # of a worker before it is given up; a node that is going away may still take a new one
ENVIRONMENT = {  # Ray reads it when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to Ray's makers
    "RAY_DEDUP_LOGS": "1",  # the next is a part of it:
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # a dead worker is reported on stdout, which is the report's
    "RAY_SCHEDULER_EVENTS": "0",  # the autoscaler's too
}


def import_ray(*, own_cluster: bool) -> ModuleType:
    """Import Ray with quiet settings, and with a key for a cluster of our own.

    Raises EnvironmentFaultError: not installed.
    """
    os.environ.update(ENVIRONMENT)
    configured = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if own_cluster and not configured and "ray" not in sys.modules:  # Ray settles it for a process when it is loaded
        # other users of this machine must not be able to run code through it; a key that no file keeps
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
    try:
        import ray  # noqa: PLC0415 # an extra
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"ray: package is not importable ({fault}); --engine ray needs it", install_hint("ray")
        ) from fault
    module: ModuleType = ray
    return module


def check_address(address: str) -> None:
    """Refuse an address where nothing listens, for which Ray would wait.

    Raises:
        UsageError: no address.
        EnvironmentFaultError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and (not host or not port.isdigit() or "/" in host):
        raise UsageError(f"--ray-address is {address!r}; it must be HOST:PORT or auto", "ray status")
    try:
        if address != "auto":
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
        # something else may listen there, and Ray's own patience ends after minutes: tried in a process that can end
        command = [sys.executable, "-P", "-c", "import ray, sys; ray.init(address=sys.argv[1])", address]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=REACH_S, check=False)  # noqa: S603
    except (OSError, OverflowError, subprocess.TimeoutExpired) as fault:
        why = f"no answer within {REACH_S} s" if isinstance(fault, subprocess.TimeoutExpired) else str(fault)
        raise unreachable(address, why) from fault
    if tried.returncode != 0:
        raise unreachable(address, next(reversed(tried.stderr.split("\n")[:-1]), ""))


@contextmanager
def open_cluster(ray: ModuleType, workers: int | None, address: str | None) -> Iterator[None]:
    """Connect to the caller's cluster where one is open, else the one at `address`, else one of our own."""
    if ray.is_initialized():
        yield
        return
    # short, since sockets lie in it; and gone afterwards, which Ray's own is not
    folder = tempfile.mkdtemp(prefix="robustcheck-", dir="/tmp" if Path("/tmp").is_dir() else None)  # noqa: S108
    cluster: Fields = {"address": address}
    if not address:
        cluster = {
            "address": "local",
            "num_cpus": max(cpu_threads(), workers or 0),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": folder,
        }
    try:
        try:
            # workers import from the folder in which Ray starts: an empty one, never the user's
            with chdir(folder):
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **cluster)
        except Exception as fault:  # Ray raises what it likes, bare Exceptions too
            raise unreachable(address, str(fault)) from fault
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def unreachable(address: str | None, why: str) -> EnvironmentFaultError:
    """Return the error for an unusable cluster, the caller's or our own."""
    where = "Ray: cluster on this machine"
    hint = "df -h /tmp /dev/shm; free -h"
    if address:
        where = f"--ray-address is {address}; cluster"
        hint = "ray status, or leave out --ray-address"
    return EnvironmentFaultError(f"{where} can't be used: {one_line(why)}", hint)


def node_devices(ray: ModuleType) -> list[tuple[int, int]]:
    """Return (CPUs, GPUs) of each live node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]


def plan_workers(devices: Sequence[tuple[int, int]], workers: int | None, *, wants_gpu: bool) -> tuple[int, int, int]:
    """Plan the workers, and for each its GPUs and the most CPUs with which so many workers fit on the nodes.

    Args:
        devices: (CPUs, GPUs) of each node.
        workers: so many; None = one for each GPU of the cluster, without GPUs one for every `CORES_A_WORKER` CPUs.
        wants_gpu: whether GPUs are to be used where there are some.

    Raises:
        UsageError: so many workers do not fit.
    """
    gpus = int(wants_gpu and any(gpu for _, gpu in devices))

    def count_fitting(cpus: int) -> int:
        return sum(min(cpu // cpus, gpu) if gpus else cpu // cpus for cpu, gpu in devices)

    most = count_fitting(1)
    if workers is None:
        workers = most if gpus else sum(math.ceil(cpu / CORES_A_WORKER) for cpu, _ in devices)
    for cpus in range(max((cpu for cpu, _ in devices), default=0), 0, -1):
        if 0 < workers <= count_fitting(cpus):
            return workers, cpus, gpus
    raise UsageError(
        f"--workers is {workers}; the cluster has room for {most} ({'GPUs' if gpus else 'CPUs'})",
        f"--workers {max(1, most)}",
    )


class Crew:
    """The workers of a run, by number, in which a lost one is replaced as soon as the cluster has room."""

    def __init__(self, ray: ModuleType, start: Callable[[], Any], n_workers: int, tell: TellLine) -> None:
        """Start the workers. start: starts an actor and returns its handle."""
        self._ray = ray
        self._start = start
        self._tell = tell
        self._failures: Counter[int] = Counter()
        self._machines: dict[int, str] = {}
        self._doubted: set[int] = set()
        """those that have not answered since a worker was lost"""
        self.n_workers = n_workers
        self.actors: dict[int, Any] = {}
        self.calls: dict[Any, int] = {}
        """those that show whether a worker is there"""
        self.idle: list[int] = []
        for worker in range(n_workers):
            self.replace(worker)

    def replace(self, worker: int) -> None:
        """Start a worker, after the end of the one with this number."""
        if worker in self.actors:
            self._ray.kill(self.actors[worker])
        self.actors[worker] = self._start()
        self._call(worker)

    def _call(self, worker: int) -> None:
        self.calls[self.actors[worker].hello.remote()] = worker

    def lose(self, worker: int, what_follows: str) -> None:
        """Report a lost worker and replace it.

        Its node may have had others, so none gets a task before it has answered again. Otherwise the lost shard could
        go to another worker of that node, and one lost node would count as two workers.
        """
        self._tell(f"lost {self._name(worker)}: {what_follows}")
        self._doubted = {*self.actors}
        others = [other for other in (*self.idle, *self.calls.values()) if other != worker]
        self.idle.clear()
        self.calls.clear()
        self.replace(worker)
        for other in others:
            self._call(other)

    def free(self, worker: int) -> None:
        """Take back a worker that has delivered a result."""
        if worker in self._doubted:
            self._call(worker)
        else:
            self.idle.append(worker)

    def answered(self, call: Any) -> None:
        """Take in a worker that is there; replace one that is not.

        Raises EnvironmentFaultError: the last one can't be started, or holds another version.
        """
        worker = self.calls.pop(call)
        try:
            version, self._machines[worker] = self._ray.get(call)
            why = "" if version == VERSION else f"robustcheck-onnx is {version} there and {VERSION} here"
        except self._ray.exceptions.RayError as fault:
            why = " ".join(str(fault).split())[-300:]
        if not why:
            self._failures[worker] = 0
            self._doubted.discard(worker)
            self.idle.append(worker)
            return
        self._failures[worker] += 1
        if self._failures[worker] < STARTS:
            self.lose(worker, why)
            return
        self._ray.kill(self.actors.pop(worker))
        self._tell(f"gave up {self._name(worker)}: {why}")
        if not self.actors:
            raise EnvironmentFaultError(
                f"Ray: a worker can't be started ({why}); every node needs the same robustcheck-onnx",
                install_hint("ray"),
            )

    def _name(self, worker: int) -> str:
        return f"worker {worker + 1} of {self.n_workers} on {self._machines.get(worker, 'its way')}"

    def end(self) -> None:
        """End all workers, and report those that are not there."""
        missing = [*self.calls]
        if missing:  # some may have been asked a moment ago
            _, missing = self._ray.wait(missing, num_returns=len(missing), timeout=PATIENCE_S)
        for handle in self.actors.values():
            self._ray.kill(handle)
        for call in missing:
            self._tell(f"not there at the end: {self._name(self.calls[call])}")
