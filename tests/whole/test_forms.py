"""benchmarks/forms.py: it tells what is not right, and the plain form is what every other one is held against."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from support import ROOT
from support.benchmark_scripts import BENCHMARKS, load

pytestmark = pytest.mark.long
pytest.importorskip("torch", reason="extra export: the planted encoder is a torch module")


@pytest.fixture(scope="module")
def forms() -> Iterator[ModuleType]:
    sys.path.append(str(BENCHMARKS))  # at the end, for `planted`: there it hides no package
    yield load("forms")
    sys.path.remove(str(BENCHMARKS))


def _run(only: str) -> tuple[int, list[str]]:
    call = [sys.executable, str(ROOT / "benchmarks" / "forms.py"), "--no-page", "--only", only]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout.splitlines()


def test_the_plain_form_passes_and_nothing_planted_does_not() -> None:
    code, lines = _run("^(plain|nothing planted)$")
    verdicts = {line.split(" | ")[0].strip(): line.split(" | ")[4] for line in lines[:-1]}
    assert verdicts == {"plain": "PASS", "nothing planted": "WARN"}
    assert (code, lines[-1]) == (0, "2 forms; not as they should be: 0")


def test_there_are_enough_forms_and_their_names_differ(forms: ModuleType) -> None:
    names = [form.name for module in forms.KINDS.values() for form in module.forms()]
    assert len(names) == len(set(names)) >= 130


def test_what_is_not_right_is_told(forms: ModuleType) -> None:
    form = forms.Form("a", "", lambda folder: None)
    row = forms.Row("precisions", form, "PASS", planted_z=-12.0)
    assert row.wrong == ""
    assert replace(row, verdict="WARN").wrong == "WARN, not PASS"
    assert replace(row, verdict="no end").wrong == "no end, not PASS"
    assert replace(row, planted_z=None).wrong == "it does not rest on the planted feature"
    assert replace(row, planted_z=-9.0).wrong == "it does not rest on the planted feature"
    warned = replace(form, expected=("WARN",), reasons=frozenset({"rectified"}))
    row = forms.Row("precisions", warned, "WARN", reasons=("undecided",))
    assert row.wrong == "not among the reasons: rectified"
    assert replace(row, reasons=("undecided", "rectified")).wrong == ""
    refused = replace(form, expected=("exit 3",), says="ONNX Runtime .* refuses")
    row = forms.Row("precisions", refused, "exit 3", message="error: ONNX Runtime 1 refuses the model")
    assert row.wrong == ""
    assert replace(row, message="error: killed").wrong == "the message lacks 'ONNX Runtime .* refuses'"


def test_a_form_whose_tool_is_not_there_or_fails_is_said(forms: ModuleType, tmp_path: Path) -> None:
    absent = forms.Form("a", "", lambda folder: None, needs=("no_such_package",))
    row, model = forms.made("precisions", absent, tmp_path)
    assert (row.verdict, row.message, row.wrong, model) == (
        "left out", "no_such_package is not installed", "", None,
    )  # fmt: skip
    row, model = forms.made("precisions", forms.Form("b", "", lambda folder: 1 / 0), tmp_path)
    assert (row.verdict, row.message, model) == ("not made", "ZeroDivisionError: division by zero", None)
    assert row.wrong == "not made, not PASS"
