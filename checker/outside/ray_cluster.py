"""Reach or start a Ray cluster, and plan how many workers it has room for."""

import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from secrets import token_hex
from types import ModuleType
from typing import Final

from ..core.runtime.devices import cpu_threads
from ..errors import EnvironmentFaultError, UsageError, install_hint
from ..text import Fields, one_line

REACH_S: Final = 30  # to reach a cluster's address; it takes about 3 where one is
PATIENCE_S: Final = 0.5  # between two looks at whether the caller wants to stop
START_S: Final = 300  # for a worker to be there where none is; a cluster that grows takes minutes
STORE_BYTES: Final = 512 * 2**20  # object store of a cluster of our own; a shard's sums are 64·128·feature bytes
CORES_A_WORKER: Final = 4  # by default, without GPUs: more workers would hold the model more often, in as much memory
ENVIRONMENT: Final = {  # Ray reads it when it is imported
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
