"""Public signatures say what they take and give; `user.py` beside this file shows mypy how they are used."""

from __future__ import annotations

import inspect
import re
from typing import get_type_hints

import robustcheck_onnx as rc
from robustcheck_onnx.checker.evidence import RunOptions
from robustcheck_onnx.checker.pipeline import CheckOptions
from robustcheck_onnx.checker.verify import VerifyOptions


def test_no_public_signature_says_any() -> None:
    """Functions and methods of the face, as they are written."""
    found = []
    for name in rc.__all__:
        value = getattr(rc, name)
        functions = [value] if inspect.isfunction(value) else []
        if inspect.isclass(value):
            properties = [each.fget for each in vars(value).values() if isinstance(each, property)]
            functions = [each for each in (*vars(value).values(), *properties) if inspect.isfunction(each)]
        for function in functions:
            if function.__module__.startswith("pydantic") or function.__name__.startswith("_") != (
                function.__name__ == "__call__"
            ):
                continue
            written = function.__annotations__
            parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
            assert written.keys() >= {*parameters, "return"}, function
            if function.__name__ == "to_frame":  # pandas has no types of its own: mypy takes it for Any
                assert re.fullmatch(r"(pd\.|pandas\.)?DataFrame", written["return"]), function
            found += [f"{name}.{function.__name__}" for text in written.values() if re.search(r"\bAny\b", str(text))]
    assert found == []


def test_options_that_are_handed_on_are_those_of_check_and_verify() -> None:
    """`check` writes its own, and `assert_robust` hands them on; so do `verify` and `gate_model_version`."""
    hints = get_type_hints(rc.check)
    own = get_type_hints(CheckOptions).keys() - get_type_hints(RunOptions).keys()
    assert inspect.signature(rc.check).parameters.keys() == {"model", "images", "progress", "options", *own}
    assert all(get_type_hints(CheckOptions)[name] == hints[name] for name in own)
    hints, options = get_type_hints(rc.verify), get_type_hints(VerifyOptions)
    assert inspect.signature(rc.verify).parameters.keys() == {"report_file", "model", "today", *options}
    assert all(options[name] == hints[name] for name in options)
