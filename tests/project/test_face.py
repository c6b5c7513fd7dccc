"""`import robustcheck_onnx as rc`: installed, editable or not; what it names, what it loads, its types (`user.py`)."""

import ast
import inspect
import re
import sys
import typing
from pathlib import Path
from typing import get_type_hints

import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.options import RunOptions
from robustcheck_onnx.checker.questions.check import CheckOptions
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.trust.verify.run import VerifyOptions
from support import Place, raised, read_text
from support.bad_input import COMMAND, python, run


def test_importing_it_loads_nothing_heavy_and_it_is_what_is_tested(tmp_path: Path) -> None:
    loaded = "print(sorted({'numpy', 'onnx', 'onnxruntime', 'pydantic', 'typer', 'torch'} & sys.modules.keys()))"
    done = python(
        f"import sys, robustcheck_onnx as rc; dir(rc); rc.__version__; {loaded}; rc.UsageError; {loaded}; "
        f"rc.check; {loaded}; import inspect; print(rc.__file__, inspect.getfile(rc.check), rc.__version__, sep='\\n')",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lazy, errors, used, *places, version = done.stdout.splitlines()
    assert (lazy, errors) == ("[]", "[]")
    assert used == "['numpy', 'onnx', 'onnxruntime', 'pydantic']"  # the probe can fail
    here = [Path(place).resolve() for place in (rc.__file__, inspect.getfile(rc.check))]  # resolve: a folder of links
    assert [Path(place).resolve() for place in places] == here  # in a clone, or in a wheel
    assert version == VERSION


def test_the_module_is_the_command() -> None:
    calls = ([sys.executable, "-m", "robustcheck_onnx"], [COMMAND])
    module, command = (run([*call, "--help"]) for call in calls)
    assert (module.returncode, module.stdout) == (0, command.stdout)


def test_it_lists_the_names_that_type_checkers_see() -> None:
    body = ast.parse(read_text("face/__init__.py")).body
    (typed,) = [node.body for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {alias.name: node.module for node in typed if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {ast.unparse(node.target) for node in typed if isinstance(node, ast.AnnAssign)}
    assert dir(rc) == sorted(rc.__all__) == sorted(homes.keys() | declared)
    for name, home in homes.items():
        assert getattr(rc, name) is getattr(sys.modules[str(home)], name)  # both say where it is


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'robustcheck_onnx' has no attribute 'chekc'"):
        rc.chekc  # type: ignore[attr-defined]  # noqa: B018


FUNCTIONS = "check compare inspect scan concepts directions measure_shift verify assert_robust"


def test_every_name_of_a_signature_is_there_and_in_help() -> None:
    known = {*dir(rc), "Any", "Callable", "Iterable", "Sequence", "Mapping", "Path", "Unpack", "None"}
    for function in (*(getattr(rc, name) for name in FUNCTIONS.split()), *typing.get_overloads(rc.compare)):
        assert set(re.findall(r"\b[A-Z]\w+", str(function.__annotations__))) <= known, function
    told = inspect.getdoc(rc.check) or ""
    assert all(option in told for option in (*inspect.signature(rc.check).parameters, *rc.RunOptions.__annotations__))


def test_a_report_is_neither_true_nor_false_saves_itself_and_completes_its_own_names(
    passed: rc.Report, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=r"use report\.passed"):
        assert passed
    assert (passed.passed, passed.kind, passed.reasons) == (True, None, ())
    for end, text in {
        ".json": passed.to_json(), ".html": passed.to_html(), ".xml": passed.to_junit(), ".md": passed.to_markdown()
    }.items():  # fmt: skip
        passed.save(tmp_path / f"r{end}")
        assert read_text(tmp_path / f"r{end}") == text
    raised(rc.UsageError, "no form has this suffix", passed.save, tmp_path / "r.pdf")
    names = set(dir(passed))
    assert names >= {"model_dump", "model_copy", "passed", "reasons", "evidence", "save"}
    assert not names & {"dict", "json", "copy", "parse_obj", "model_construct", "model_fields", "schema"}


def test_one_model_has_a_baseline_and_no_verdict(lookup_pass: Place) -> None:
    model, photos = lookup_pass
    first = rc.compare(model, images=photos, max_images=60)
    with pytest.raises(rc.UsageError, match="there is no verdict"):
        assert first.passed
    assert first.next_baseline


def test_an_error_has_its_hint_in_the_words_of_python(lookup_pass: Place) -> None:
    model, photos = lookup_pass
    rows: list[tuple[rc.RunOptions, str]] = [
        ({"preprocess": "CLIP"}, 'preprocess: value is CLIP; …\nhint: preprocess="clip"'),
        ({"device": "gpu"}, "device is 'gpu'; …\nhint: device=\"cuda\""),
        ({"max_bad": 2}, "share of images that may be unusable is 2; it must be 0 to 1\nhint: max_bad=0.01"),
        ({"tensor": "x"}, "…: tensor is 'x'; …\nhint: robustcheck inspect …"),
    ]
    for options, said in rows:
        raised(rc.UsageError, f"^{re.escape(said)}$".replace("…", ".*"), rc.check, model, photos, **options)
    raised(rc.UsageError, r"Did you mean .*model\.onnx\?", rc.inspect, model.with_name("modle.onnx"))
    assert rc.inspect(model).can_pass.answer == "yes"


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
    own = get_type_hints(CheckOptions).keys() - get_type_hints(RunOptions).keys()
    assert inspect.signature(rc.check).parameters.keys() == {"model", "images", "progress", "options", *own}
    verify = {"report_file", "model", "today", *get_type_hints(VerifyOptions)}
    assert inspect.signature(rc.verify).parameters.keys() == verify
