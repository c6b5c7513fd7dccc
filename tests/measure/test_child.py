"""What a child answers when an exception of ours comes up while it reads a file."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from robustcheck_onnx.checker import child, text
from robustcheck_onnx.checker.errors import UsageError


def answer(monkeypatch: pytest.MonkeyPatch, task: Any) -> dict[str, Any]:
    """The error that a task ends in."""
    monkeypatch.setitem(child.TASKS, "task", task)
    answers = io.BytesIO()
    child._answer({"task": "task", "arguments": {}, "about": "m.onnx", "log": 30}, None, answers)
    return dict(json.loads(answers.getvalue())["error"])


def raises(fault: Exception) -> Any:
    def task(_: dict[str, Any], __: Any) -> None:
        raise fault

    return task


def test_an_exception_of_ours_is_a_property_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    error = answer(monkeypatch, lambda _, __: text.once(None))  # type: ignore[arg-type] # raises in the package
    assert "text.py" in error.pop("traceback")
    assert error == {
        "exit_code": 3,
        "message": "m.onnx: this file broke the reader (TypeError in text.py)",
        "hint": "run again with --debug, and report the traceback",
    }


def test_an_error_of_the_call_and_too_little_memory_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    error = answer(monkeypatch, raises(UsageError("pool is x", "--pool cls")))
    assert (error["exit_code"], error["message"], error["hint"]) == (2, "pool is x", "--pool cls")
    assert answer(monkeypatch, raises(MemoryError()))["exit_code"] == 4
