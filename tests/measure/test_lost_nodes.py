"""Workers of the Ray engine that are lost: on a real cluster of two nodes, one of which is killed, and without one."""

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustcheck_onnx.checker.core.measure.job import TRIES, Job
from robustcheck_onnx.checker.core.measure.sums import nothing_yet
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside import ray_engine as engine
from robustcheck_onnx.checker.outside.isolation import Limits
from robustcheck_onnx.checker.outside.ray_cluster import Crew, import_ray
from robustcheck_onnx.checker.outside.ray_engine import _Course, _next_task, _take
from robustcheck_onnx.checker.outside.workers import run_jobs
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.thresholds import profile
from support import Patch, lookup, raised
from support.measuring import N_IMAGES, SIZE_PX, assert_same_but_execution, on_ray, outcomes, vectors
from support.measuring import job as new_job

Jobs = Callable[[int], list[Job]]
Cluster = Callable[[int], Callable[[], None]]


@pytest.fixture
def jobs(tmp_path: Path, photos: Path) -> Jobs:
    """Makes so many jobs of look-up models."""
    write, h = lookup.write_lookup_model, vectors()
    return lambda n: [new_job(write(tmp_path / f"m{i}.onnx", h, size_px=SIZE_PX), photos, seed=i) for i in range(n)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Adds a second node to a cluster whose first node has so many cores, and returns a function that kills it."""
    ray = import_ray(own_cluster=False)
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes()

    def start(first_cpus: int) -> Callable[[], None]:
        nodes.add_node(num_cpus=first_cpus, object_store_memory=2**27, include_dashboard=False)
        second = nodes.add_node(num_cpus=1, object_store_memory=2**27)
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        return lambda: nodes.remove_node(second, allow_graceful=False)

    yield start
    ray.shutdown()
    nodes.shutdown()


def kill_at(n_calls: int, kill: Callable[[], None], patch: Patch) -> None:
    """Kill a node when the engine chooses a task for the so-and-so-manieth time, or before it chooses any."""
    numbers, choose = itertools.count(), _next_task

    def choosing(*given: Any) -> Any:
        if next(numbers) == n_calls:
            kill()
        return choose(*given)

    patch.setattr(engine, "_next_task", choosing)


@pytest.mark.long
@on_ray
@pytest.mark.parametrize(("n_models", "n_calls"), [(1, 3), (3, 0), (3, 2), (3, 5), (6, 5)])
def test_a_lost_node_costs_no_model(
    n_models: int, n_calls: int, jobs: Jobs, cluster: Cluster, monkeypatch: Patch
) -> None:
    todo, lines = jobs(n_models), list[str]()
    with monkeypatch.context() as patch:
        kill_at(n_calls, cluster(1), patch)
        found = outcomes(todo, engine="ray", workers=2, tell=lines.append)
    for name, alone in outcomes(todo).items():
        assert found[name].error is None
        assert found[name].evidence[0].images.sanity.n_images == N_IMAGES - 2  # each shard once
        assert_same_but_execution(found[name], alone)
    assert any("worker " in line and " of 2 on " in line for line in lines) or n_models == 1, lines


@pytest.mark.long
@on_ray
def test_a_run_without_any_worker_left_ends(jobs: Jobs, cluster: Cluster, monkeypatch: Patch) -> None:
    kill_second = cluster(0)

    def kill() -> None:
        kill_second()
        monkeypatch.setattr(engine, "START_S", 5)

    kill_at(1, kill, monkeypatch)
    lines: list[str] = []
    none_left = "number of workers that came within 5 s is 0 of 1; at least one is needed"
    running = run_jobs(jobs(1), profile.load(), engine="ray", tell=lines.append)
    raised(EnvironmentFaultError, none_left, list, running)
    assert lines[0].startswith("lost worker 1 of 1 on ")
    assert lines[-1].startswith("not there at the end: worker 1 of 1 on ")


BLOCKS = """
import sys, time
sys.addaudithook(lambda event, given: event == "open" and str(given[0]).endswith("m1.onnx") and time.sleep(1000))
"""


@pytest.mark.long
@on_ray
def test_a_model_that_blocks_fails_alone_after_its_limit_of_time(
    jobs: Jobs, tmp_path: Path, monkeypatch: Patch
) -> None:
    todo = jobs(3)
    (tmp_path / "sitecustomize.py").write_text(BLOCKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = outcomes(todo, engine="ray", workers=1, limits=Limits(timeout_s=15))
    assert "m1.onnx: reading and measuring it took longer than 15 s" in str(found.pop("m1").error)
    assert [outcome.error for outcome in found.values()] == [None, None]


def test_ray_has_no_other_limit_than_time() -> None:
    limits = Limits(model_bytes=9)
    words = "--max-model-size needs the local engine; Ray's has --timeout alone"
    assert raised(UsageError, words, run_jobs, [], profile.load(), engine="ray", limits=limits).hint == "--engine local"


def test_workers_that_do_not_come_are_started_again_and_given_up_the_third_time() -> None:
    here, other, lines = (VERSION, "node-a"), ("0.0.1", "node-b"), list[str]()
    answers = [here, other, other, here, other, here]
    numbers = iter(range(len(answers)))
    actor = SimpleNamespace(hello=SimpleNamespace(remote=lambda: next(numbers)))
    ray: Any = SimpleNamespace(exceptions=SimpleNamespace(RayError=OSError), get=answers.__getitem__, kill=lambda _: 0)
    crew = Crew(ray, lambda: actor, 2, lines.append)
    for call in (0, 1, 2, 4, 5):  # 2 and 4 are a new worker; 3 and 5 ask the other one, after each loss again
        crew.answered(call)
    assert not crew.calls
    assert (crew.idle, [*crew.actors]) == ([0], [0])
    version = f"robustcheck-onnx is 0.0.1 there and {VERSION} here"
    second = f"worker 2 of 2 on node-b: {version}"
    assert lines == [f"lost {second}", f"lost {second}", f"gave up {second}"]


def test_one_lost_node_does_not_count_as_two_workers() -> None:
    """A busy worker of the node delivers what it had done; it must not get the lost shard as well."""
    lines, actor = list[str](), SimpleNamespace(hello=SimpleNamespace(remote=object))
    ray: Any = SimpleNamespace(kill=id, get=lambda _: (VERSION, "node"), wait=lambda calls, **_: (calls[:1], calls[1:]))
    ray.exceptions = SimpleNamespace(RayError=OSError)
    crew = Crew(ray, lambda: actor, 3, lines.append)
    crew.calls.clear()  # all are at work
    crew.lose(0, "it was at shard 1")
    crew.free(1)
    assert [*crew.calls.values()] == [0, 1]  # asked first
    crew.end()  # the first answers
    assert lines[1:] == ["not there at the end: worker 2 of 3 on its way"]


def test_a_lost_shard_comes_before_a_new_job_and_fails_its_job_the_second_time() -> None:
    lost = _Course(0, new_job(Path("m.onnx")), nothing_yet(1), begun=True, todo=[0, 1])
    new = _Course(1, new_job(Path("n.onnx")), nothing_yet(1))
    for n_lost in range(TRIES):
        task = _next_task(0, None if n_lost else lost, [new, lost], ahead=1)
        assert (str(task), lost.todo) == ("shard 1 of m.onnx", [1])
        assert task is not None
        outcome = _take(None, task, profile.load())
    assert outcome is not None
    assert isinstance(outcome.error, CannotAssessError)
