"""What a child answers when an exception of ours comes up while it reads a file."""

import io
import json
from importlib import import_module
from typing import Any, get_type_hints
from unittest.mock import Mock

from robustcheck_onnx.checker import child, text
from robustcheck_onnx.checker.errors import UsageError
from support import Patch, raised


def answer(monkeypatch: Patch, task: Any) -> Any:
    """The error that a task ends in."""
    monkeypatch.setattr(child, "call", task)
    answers = io.BytesIO()
    child._answer({"task": "task", "arguments": {}, "about": "m.onnx", "log": 30}, None, answers)
    return json.loads(answers.getvalue())["error"]


def test_an_exception_of_ours_is_a_property_of_the_file(monkeypatch: Patch) -> None:
    error = answer(monkeypatch, lambda *_: text.once(None))  # type: ignore[arg-type] # raises in the package
    assert "text.py" in error.pop("traceback")
    assert error == {
        "exit_code": 3,
        "message": "m.onnx: this file broke the reader (TypeError in text.py)",
        "hint": "run again with --debug, and report the traceback",
    }


def test_an_error_of_the_call_and_too_little_memory_are_none(monkeypatch: Patch) -> None:
    error = answer(monkeypatch, Mock(side_effect=UsageError("pool is x", "--pool cls")))
    assert (error["exit_code"], error["message"], error["hint"]) == (2, "pool is x", "--pool cls")
    assert answer(monkeypatch, Mock(side_effect=MemoryError()))["exit_code"] == 4


def test_a_child_calls_the_functions_of_its_list_alone() -> None:
    for task in child.TASKS:
        module, name = task.split(":")
        assert "return" in get_type_hints(getattr(import_module(f"robustcheck_onnx.checker.{module}"), name))
    raised(ValueError, "not in tuple", child.call, "child:main", {}, print)
