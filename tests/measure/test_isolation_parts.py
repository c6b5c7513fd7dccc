"""Parts of the wall, without a child."""

import io
import json
import mmap
import os
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import Mock

import pytest

from robustcheck_onnx.checker import child, text
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside import isolation
from robustcheck_onnx.checker.outside.isolation import NO_LIMITS, Limits, Wall
from support import Patch, raised

MIB = 1 << 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc (Linux)")
def test_a_mapped_file_is_no_memory_of_its_process(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(64 * MIB))
    before = isolation._own_bytes(os.getpid())
    with (tmp_path / "weights").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0  # every page of it is there now
        of_file = isolation._own_bytes(os.getpid()) - before
    own = bytearray(os.urandom(MIB) * 64)
    of_own = isolation._own_bytes(os.getpid()) - before
    assert len(own) == 64 * MIB
    assert of_file < 16 * MIB
    assert of_own > 48 * MIB


class Process:
    """In place of a child process: notes what is done to it."""

    def __init__(self, *_: object, env: Any, **__: object) -> None:
        self.env = env
        self.stdin, self.stdout, self.pid = io.BytesIO(), io.BytesIO(b'{"answer": 7}\n'), 0
        self.done: list[str] = []
        STARTED.append(self)

    def wait(self, _: float = 0.0) -> int:
        self.done.append("awaited")
        return 0


STARTED: list[Process] = []


@pytest.fixture
def started(monkeypatch: Patch) -> list[Process]:
    STARTED.clear()
    monkeypatch.setattr(isolation.subprocess, "Popen", Process)  # type: ignore[attr-defined] # the module
    return STARTED


def test_a_wall_starts_a_child_for_each_task_and_ends_those_that_wait(started: list[Process]) -> None:
    with Wall() as wall:
        assert len(started) == 1  # it starts while this process imports what it needs
        run = partial(wall.run, "check", {}, int, about="m")
        assert run(is_last=False) == 7
        assert (len(started), started[0].done) == (2, ["awaited"])
        assert run(is_last=False) == 7
        assert len(started) == 3
    assert [process.done for process in started] == 3 * [["awaited"]]
    assert all(process.stdin.closed for process in started)
    assert started[0].env == {"OPENBLAS_THREAD_TIMEOUT": "20"} | os.environ
    assert run() == 7  # after its end: by a child of its own
    assert len(started) == 4


def test_a_wall_takes_the_child_that_was_started_early(started: list[Process], monkeypatch: Patch) -> None:
    isolation.start_early()
    with Wall():
        assert (len(started), started[0].done, isolation.EARLY) == (1, [], [])
    assert started[0].done == ["awaited"]
    monkeypatch.setattr(isolation.subprocess, "Popen", Mock(side_effect=OSError))  # type: ignore[attr-defined]
    isolation.start_early()  # the wall raises it, where it becomes an error
    raised(EnvironmentFaultError, "child process is not possible", Wall)


@pytest.mark.usefixtures("started")
def test_children_side_by_side_have_cores_and_memory(monkeypatch: Patch, tmp_path: Path) -> None:
    (container := tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(isolation, "CONTAINER", (container, tmp_path / "absent"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    wall = Wall()
    assert (wall.n_side_by_side(1), wall.n_side_by_side(1 << 60)) == (8, 1)
    container.write_text(f"{3 * MIB}\n")
    assert [wall.n_side_by_side(n) for n in (1, MIB, 2 * MIB)] == [8, 3, 1]
    wall.limits = Limits(memory_bytes=MIB)
    assert wall.n_side_by_side(2 * MIB) == 3


def test_a_limit_is_a_number_above_0() -> None:
    assert list(Limits(1e-9, 1, 10**18).given.values()) == [1e-9, 1, 10**18]
    assert Limits(None, None, None) == NO_LIMITS
    for field in ("timeout_s", "memory_bytes", "model_bytes"):
        values: list[Any] = [0, -1, -0.0, float("inf"), float("nan")]
        for value in values:
            raised(UsageError, "it must be more than 0", Limits, **{field: value})


def answer(monkeypatch: Patch, task: Any) -> Any:
    """The error that a task ends in."""
    monkeypatch.setattr(child, "call", task)
    answers = io.BytesIO()
    child._answer({"task": "task", "arguments": {}, "about": "m.onnx", "log": 30}, None, answers)
    return json.loads(answers.getvalue())["error"]


def test_an_exception_of_ours_is_a_property_of_the_file(monkeypatch: Patch) -> None:
    error = answer(monkeypatch, lambda *_: text.digest_of({1}))  # type: ignore[arg-type] # raises in the package
    assert "text.py" in error.pop("traceback")
    message = "m.onnx: this file broke the reader (TypeError in text.py)"
    assert error == {"exit_code": 3, "message": message, "hint": "run again with --debug, and report the traceback"}


def test_an_error_of_the_call_and_too_little_memory_are_none(monkeypatch: Patch) -> None:
    error = answer(monkeypatch, Mock(side_effect=UsageError("pool is x", "--pool cls")))
    assert (error["exit_code"], error["message"], error["hint"]) == (2, "pool is x", "--pool cls")
    assert answer(monkeypatch, Mock(side_effect=MemoryError()))["exit_code"] == 4


def test_a_child_calls_the_functions_of_its_list_alone() -> None:
    for task in child.TASKS:
        module, name = task.split(":")
        assert "return" in get_type_hints(getattr(import_module(f"robustcheck_onnx.checker.{module}"), name))
    raised(ValueError, "not in tuple", child.call, "child:main", {}, print)
