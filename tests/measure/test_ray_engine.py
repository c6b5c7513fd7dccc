"""The Ray engine on a real cluster: the local engine's evidence, killed workers, errors; and its parts without one."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustcheck_onnx.checker.core.measure.job import TRIES, Job
from robustcheck_onnx.checker.core.measure.sums import nothing_yet
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside import ray_cluster as engine
from robustcheck_onnx.checker.outside.ray_cluster import open_cluster, plan_workers
from robustcheck_onnx.checker.outside.ray_engine import Worker, _Course, _next_task, _take, _Task
from robustcheck_onnx.checker.outside.workers import run_jobs as run
from robustcheck_onnx.thresholds import profile
from support import Capture, Patch, extra, lookup, normal, raised
from support.measuring import N_IMAGES, SIZE_PX, assert_same_but_execution, on_ray, outcomes, vectors
from support.measuring import job as new_job

Jobs = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path, photos: Path) -> Jobs:
    """A job of a look-up model of that name."""
    h, write = vectors(), lookup.write_lookup_model
    return lambda name, **given: new_job(write(tmp_path / f"{name}.onnx", h, size_px=SIZE_PX), photos, **given)


@pytest.mark.long
@on_ray
def test_two_workers_give_the_local_evidence(job: Jobs, photos: Path, tmp_path: Path, capfd: Capture) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    both = job("few", tensors=(None, "representation"), max_images=60, max_bad=1)
    jobs = [job("a"), new_job(damaged, photos), job("b", seed=4), both]
    threads = set(threading.enumerate())
    spread = outcomes(jobs, engine="ray", workers=2)
    assert capfd.readouterr() == ("", "")
    assert set(threading.enumerate()) <= threads  # those of earlier tests may end meanwhile
    alone = outcomes(jobs)
    for name, outcome in spread.items():
        assert (type(outcome.error), str(outcome.error)) == (type(alone[name].error), str(alone[name].error))
        assert_same_but_execution(outcome, alone[name])
        assert {(each.execution.engine, each.execution.workers) for each in outcome.evidence} <= {
            ("ray", 1),
            ("ray", 2),
        }
    assert isinstance(spread["damaged"].error, CannotAssessError)


@pytest.mark.long
@on_ray
def test_killed_workers_lose_nothing(job: Jobs, saboteur: Any, capfd: Capture, monkeypatch: Patch) -> None:
    """And a poisoned model fails alone."""
    kills = saboteur({"photo_00300.png": TRIES - 1, "poisoned.onnx": 99})
    jobs = [job(name) for name in ("a", "poisoned", "b")]
    lines: list[str] = []
    found = outcomes(jobs, engine="ray", workers=2, tell=lines.append)
    assert capfd.readouterr().out == ""
    lost = [line.rpartition("/")[2] for line in lines if line.startswith("lost worker ")]
    assert sorted(lost)[-TRIES:] == ["poisoned.onnx"] * TRIES
    assert len(lost) == TRIES - 1 + TRIES
    assert len(list(kills.glob("poisoned.onnx.*"))) == TRIES
    assert len(list(kills.glob("photo_00300.png.*"))) == TRIES - 1
    error = found["poisoned"].error
    assert isinstance(error, CannotAssessError)
    assert f"worker process ended {TRIES} times" in error.message
    monkeypatch.delenv("PYTHONPATH")
    for name, alone in outcomes(jobs[::2]).items():
        assert found[name].evidence[0].images.sanity.n_images == N_IMAGES - 2  # each shard once
        assert_same_but_execution(found[name], alone)


def test_shards_of_another_model_or_image_set_are_never_merged(job: Jobs, photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in photos.iterdir():
        (few / path.name).symlink_to(path)
    same = new_job(job("m").model, few, max_bad=1)
    for what, change in (
        ("", list),
        ("model", lambda: lookup.write_lookup_model(same.model, normal(20, 48, seed=9), size_px=SIZE_PX)),
        ("list of images", (few / "photo_00001.png").unlink),
    ):
        course = _Course(0, same, nothing_yet(1), begun=True)
        first, second = Worker(".", 1), Worker(".", 1)  # as two nodes have them
        for shard, result in ((-1, first.measure(0, same, -1)), (0, first.measure(0, same, 0))):
            assert _take(result, _Task(0, course, shard), profile.load()) is None
        change()
        found = _take(second.measure(0, same, 1), _Task(1, course, 1), profile.load())
        assert found is not None
        assert [e.execution.workers for e in found.evidence] == ([] if what else [2])
        assert type(found.error) is (EnvironmentFaultError if what else type(None))
        assert not what or f"workers differ in {what};" in str(found.error)


def test_workers_take_the_cores_that_fit() -> None:
    big, small = [(16, 8), (16, 8), (4, 0)], [(2, 0)]
    for nodes, workers, wants_gpu, planned in (
        (small, None, True, (1, 2, 0)),
        (small, 2, True, (2, 1, 0)),
        (big, None, True, (16, 2, 1)),
        (big, 3, True, (3, 8, 1)),
        (big[1:], None, False, (5, 4, 0)),
    ):
        assert plan_workers(nodes, workers, wants_gpu=wants_gpu) == planned
    no_room = r"--workers is 9; the cluster has room for 8 \(GPUs\)"
    assert raised(UsageError, no_room, plan_workers, [(16, 8)], 9, wants_gpu=True).hint == "--workers 8"
    raised(UsageError, "room for 0", plan_workers, [], None, wants_gpu=False)


def test_no_more_shards_are_given_out_than_may_wait_for_an_earlier_one() -> None:
    """However many there are: those that wait are the driver's memory."""
    course = _Course(0, new_job(Path("m.onnx")), nothing_yet(1), begun=True, todo=list(range(1000)))

    def given_out() -> list[int]:
        return [task.shard for task in iter(lambda: _next_task(0, course, [course], ahead=4), None)]

    assert given_out() == [0, 1, 2, 3]
    course.merged = 2
    assert given_out() == [4, 5]


def on_cluster(*jobs: Job, address: str | None = None) -> object:
    return run(jobs, profile.load(), engine="ray", address=address)


def test_without_ray_the_extra_is_named(monkeypatch: Patch) -> None:
    with monkeypatch.context() as gone:
        gone.setitem(sys.modules, "ray", None)
        gone.setattr(os, "environ", dict(os.environ))  # which holds settings of Ray from then on
        caught = raised(EnvironmentFaultError, r"^ray: .* \(.*\); --engine ray needs it\n", on_cluster)
    assert caught.hint == extra("ray")
    assert not outcomes([])


@pytest.mark.long
@on_ray
def test_an_address_without_a_cluster_and_a_gpu_by_number_are_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    """It is tried without the code of the current folder."""
    (tmp_path / "ray.py").write_text("open('imported', 'w').close()")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{other.getsockname()[1]}"
        refused = f"{closed}; cluster can't be used: .*refused"
        raised(EnvironmentFaultError, refused, on_cluster, address=closed)
        other.listen()  # something that is not a cluster: it takes the connection and says nothing
        monkeypatch.setattr(engine, "REACH_S", 3)
        raised(EnvironmentFaultError, "no answer within 3 s", on_cluster, address=closed)
    for wrong in ("localhost", "ray://localhost:1", "host:port"):
        raised(UsageError, "it must be HOST:PORT or auto", on_cluster, address=wrong)
    assert not (tmp_path / "imported").exists()
    named = new_job(tmp_path, device="cuda:1")
    raised(UsageError, "device is cuda:1; Ray gives out the GPUs", on_cluster, named)


@pytest.mark.skipif(sys.platform != "linux", reason="which signals are caught is read from /proc")
def test_the_handler_of_sigterm_outlives_rays_shutdown() -> None:
    """Else a signal in the second that Ray's processes take to end kills this one, and its documents say nothing."""
    code = r"""
import contextlib, ctypes, os, re, signal, sys, time, types
from pathlib import Path
from robustcheck_onnx.checker.outside import ray_engine
signal.signal(signal.SIGTERM, lambda *_: sys.exit(77))
@contextlib.contextmanager
def cluster(*_):
    yield
    ctypes.CDLL(None).signal(15, 0)  # as ray.shutdown does
    status = Path("/proc/self/status")
    while not int(re.search(r"SigCgt:\s+(\w+)", status.read_text())[1], 16) >> 14 & 1:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
ray_engine.open_cluster = cluster
ray_engine._workers = lambda *_: contextlib.nullcontext([])
ray = types.SimpleNamespace(exceptions=types.SimpleNamespace(RayError=RuntimeError))
list(ray_engine._run(ray, [], None, 1, None, 1.0, print))"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 77


def test_whatever_ray_raises_at_its_start_is_the_environments() -> None:
    """It raises bare Exceptions, too; and it starts in an empty folder, from which its workers import."""

    def init(**_: object) -> None:
        assert not [*Path().iterdir()]
        raise Exception("Failed to start the dashboard")  # what Ray does

    ray: Any = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    here = Path.cwd()
    raised(EnvironmentFaultError, "Failed to start the dashboard", open_cluster(ray, 1, None).__enter__)
    assert Path.cwd() == here
