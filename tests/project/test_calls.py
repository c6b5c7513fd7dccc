"""Calls of the public functions: photos after the models by position, and what a wrong call is told."""

import ast
import inspect
import pickle
import pydoc
import re
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.calls import SYNONYMS, keywords_of
from robustcheck_onnx.checker.errors import CallError
from support import Patch, Place, normal, raised
from support.onnx_models import encoder, save

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(rc, name) for name in rc.__all__ if inspect.isfunction(getattr(rc, name))
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)
MODELS = {"model", "candidate", "reference", "new", "old"}
PHOTOS = {"images", "concept_set"}
"""a set without labels, or with those of classes; a set with those of concepts"""
WITHOUT_PHOTOS = {"inspect"}
"""what reads a model and measures nothing"""


def form_of(name: str) -> dict[str, Parameter]:
    return dict(inspect.signature(FUNCTIONS[name]).parameters)


def test_photos_come_by_position_after_the_models() -> None:
    seen = set()
    for name in FUNCTIONS:
        form = form_of(name)
        by_position = [each for each, one in form.items() if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
        models = [each for each in by_position if each in MODELS]
        if not models or name in WITHOUT_PHOTOS:
            assert not PHOTOS & form.keys()
            continue
        photos = by_position[by_position.index(models[-1]) + 1]
        assert photos in PHOTOS, f"{name}: {photos} comes after the models"
        assert PHOTOS & form.keys() == {photos}
        seen.add(name)
    assert seen == {
        "assert_robust", "assert_same_index", "check", "compare", "concepts", "directions", "measure_shift", "scan",
        "verify",
    }  # fmt: skip


@EVERY
def test_a_public_function_keeps_its_signature_help_and_name(name: str) -> None:
    function = FUNCTIONS[name]
    plain = inspect.unwrap(function)
    assert plain is not function  # each is checked, a new one, too
    assert inspect.signature(function) == inspect.signature(plain)
    assert (function.__doc__, function.__module__, function.__qualname__) == (plain.__doc__, plain.__module__, name)
    assert pickle.loads(pickle.dumps(function)) is function
    told = pydoc.plain(pydoc.render_doc(function))
    assert all(parameter in told for parameter in form_of(name))
    assert inspect.getsource(function) == inspect.getsource(plain)


@EVERY
def test_an_unknown_keyword_is_a_usage_error_of_every_function(name: str) -> None:
    fault = raised(rc.UsageError, rf"^rc\.{name}: unknown keyword qqqq; known are ", FUNCTIONS[name], qqqq=1)
    known = fault.message.partition("known are ")[2].split(", ")
    assert known == [*keywords_of(FUNCTIONS[name])]
    assert set(known) >= {each for each in form_of(name) if not each.endswith("options")}
    assert isinstance(fault, TypeError)  # as Python's own error is
    assert (fault.exit_code, raised(CallError, "", FUNCTIONS[name], *range(9)).exit_code) == (2, 2)
    if fault.hint.startswith(f"rc.{name}("):  # a right call
        call = ast.parse(fault.hint, mode="eval").body
        assert isinstance(call, ast.Call)
        inspect.signature(FUNCTIONS[name]).bind(*call.args)
    else:
        assert fault.hint.startswith('rc.check("model.onnx", "photos/"')


NAMED: list[tuple[str, dict[str, object], str]] = [
    ("check", {"image": "photos/"}, "images"),
    ("check", {"photos": "photos/"}, "images"),
    ("check", {"provider": "cuda"}, "device"),
    ("check", {"threshold": "default-4"}, "thresholds"),
    ("check", {"profile": "default-4"}, "thresholds"),
    ("check", {"sead": 1}, "seed"),
    ("check", {"batch": 1}, "batch_size"),
    ("check", {"layer": "x"}, "tensor"),
    ("assert_robust", {"max_image": 64}, "max_images"),
    ("compare", {"refernce": "old.onnx"}, "reference"),
    ("concepts", {"images": "photos/"}, "concept_set"),
    ("concepts", {"limit": 64}, "max_images"),
    ("verify", {"image": "photos/"}, "images"),
    ("gate_model_version", {"imags": "photos/"}, "images"),
    ("load_representations", {"pth": "rows.npz"}, "path"),
]


def test_the_right_keyword_is_named() -> None:
    for name, given, meant in NAMED:
        (typed,) = given
        said = rf"^rc\.{name}: unknown keyword {typed}\. Did you mean {meant}\?\n"
        raised(rc.UsageError, said, FUNCTIONS[name], "m.onnx", **given)
    every = {keyword for function in FUNCTIONS.values() for keyword in keywords_of(function)}
    assert set(SYNONYMS.values()) <= every


WRONG: list[tuple[str, tuple[object, ...], dict[str, object], str]] = [
    ("compare", (), {"reference": "old.onnx"}, "missing a required argument: 'candidate'; by position it takes "
     "candidate, reference, images"),
    ("inspect", ("m.onnx", "photos/"), {}, "too many positional arguments; by position it takes model"),
    ("judge", ("m.onnx", "photos/"), {}, "evidence: type is str; it must be rc.Evidence"),
    ("verify", (3, "m.onnx"), {}, "report_file: type is int; it must be str or Path"),
    ("log_report", ("report.json",), {}, "report: type is str; it must be rc.Report or rc.CompareReport"),
    ("concepts", ("m.onnx", ["a.jpg"]), {}, "concept_set: type is list; it must be str or Path"),
    ("measure_shift", ("m.onnx", "in/", 3), {}, "shifted: type is int; it must be str or Path or Sequence"),
    ("check", ("m.onnx",), {"progress": True}, "progress: type is bool; it must be Callable or None"),
    ("check", ("m.onnx",), {"thresholds": 4}, "thresholds: type is int; it must be str or Path or rc.Profile or None"),
    ("scan", ("m.onnx",), {"limits": 60}, "limits: type is int; it must be rc.Limits"),
    ("assert_same_index", ("new.onnx", "old.onnx"), {"index": "i.npy"}, "index: type is str; it must be "
     "rc.IndexOptions"),
]  # fmt: skip


def test_what_is_wrong_with_a_call_is_said_before_anything_is_read() -> None:
    for name, given, named, said in WRONG:
        raised(rc.UsageError, f"^{re.escape(f'rc.{name}: {said}')}\nhint: rc", FUNCTIONS[name], *given, **named)


def test_a_path_given_to_measure_leads_to_check() -> None:
    leads = r'\nhint: rc\.check\("model\.onnx", "photos/"\) .*save_representations="rows\.npz" .*rc\.load_repres'
    update = rc.Accumulator().update
    for call, given in ((rc.measure, ("m.onnx", "photos/")), (rc.measure, (Path("m.onnx"),)), (update, ("photos/",))):
        raised(rc.UsageError, f"^(rc.measure: too many|representations: type is .*not a path).*{leads}", call, *given)
    assert rc.measure(np.eye(4)).n_images == 4
    writes = r'\nhint: rc\.check\("model\.onnx", "photos/", save_representations="rows\.npz"\) writes one$'
    for path in ("m.onnx", "photos/", 3):
        raised(rc.UsageError, writes, rc.load_representations, path)


def test_another_kind_of_path_is_a_path(lookup_pass: Place, monkeypatch: Patch) -> None:
    class Named:
        def __fspath__(self) -> str:
            return "model.onnx"

    monkeypatch.chdir(lookup_pass[0].parent)
    assert rc.inspect(Named()).file == "model.onnx"  # type: ignore[arg-type]


def test_photos_by_position_are_those_by_name(tmp_path: Path) -> None:
    model, photos = save(encoder(), tmp_path / "m.onnx"), normal(9, 3, 8, 8).astype(np.float32)
    given: dict[str, Any] = {"preprocess": "imagenet", "device": "cpu"}
    one, other = rc.scan(model, photos, **given), rc.scan(model, images=photos, **given)
    assert (one.layers, one.images) == (other.layers, other.images)
    assert one.images.source == "9 preprocessed images in memory"
