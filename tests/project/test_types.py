"""Public signatures say what they take and give; `user.py` beside this file shows mypy how they are used."""

import inspect
import re
from typing import get_type_hints

import robustcheck_onnx as rc
from robustcheck_onnx.checker.evidence import RunOptions
from robustcheck_onnx.checker.pipeline import CheckOptions
from robustcheck_onnx.checker.verify.run import VerifyOptions


def test_no_public_signature_says_any() -> None:
    """Functions and methods of the face; that each has its types is mypy's to say."""
    found = []
    for name in rc.__all__:
        value = getattr(rc, name)
        for part in (value, *(vars(value).values() if inspect.isclass(value) else ())):
            function = getattr(part, "fget", part)  # of a property
            if not inspect.isfunction(function) or function.__module__.startswith("pydantic"):
                continue
            if function.__name__ == "__call__" or not function.__name__.startswith("_"):
                written = str(function.__annotations__.values())
                found += [f"{name}.{function.__name__}"] * bool(re.search(r"\bAny\b", written))
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
