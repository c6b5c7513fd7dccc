"""What can loosen the gate, and photos that are not the reader's, stand first in every form that has a place."""

from __future__ import annotations

import io
import json

from rich.console import Console

from robustcheck_onnx.checker.report import forms, summary
from robustcheck_onnx.checker.report.outcome import cautions
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict import RULES, Gate, Loosening
from support.form_readers import junit
from support.outcomes import PASSING, WARNING
from support.reports import terminal_text

SAID = "can loosen the gate: fail-on never, waivers 2 in all (robustcheck.toml); seed 3 (ROBUSTCHECK_SEED)"
BUNDLED = "on the bundled photos, not yours"


def loose(report: Report) -> Report:
    gate = Gate(
        exit_code=0,
        fail_on="never",
        rule="--fail-on is never",
        loosening=(
            Loosening(setting="fail-on", value="never", source="robustcheck.toml"),
            Loosening(setting="seed", value="3", source="ROBUSTCHECK_SEED"),
            Loosening(setting="waivers", value="2 in all", source="robustcheck.toml"),
        ),
    )
    return report.model_copy(update={"gate": gate})


LOOSE, LOOSE_PASS = loose(WARNING), loose(PASSING)


def test_documents_for_people_say_them_before_the_reasons() -> None:
    for form, start in (("markdown", "## "), ("html", "<header"), ("modelcard", "## robustcheck")):
        text = forms.render(form, [LOOSE])
        body = text[text.index(start) :]
        reasons = body.index(RULES["assumed_preprocessing"].title)
        assert 0 < body.index("can loosen the gate: fail-on never") < body.index(BUNDLED) < reasons
        assert "can loosen" not in forms.render(form, [PASSING])


def test_they_are_the_first_lines_of_the_terminal_report_and_of_a_table() -> None:
    for report, said in ((LOOSE, [SAID, BUNDLED]), (LOOSE_PASS, [SAID]), (PASSING, [])):
        assert cautions(report) == said
        for verbose in (False, True):
            first, *lines = terminal_text(report, 120, verbose=verbose).splitlines()
            assert first == f"robustcheck {VERSION}"
            assert [lines[0]] * len(said[:1]) == [f"! {each}" for each in said[:1]]
    file = io.StringIO()
    table = summary.render([LOOSE, LOOSE_PASS], models=["a.onnx", "b.onnx"], code=0)
    Console(file=file, width=120, color_system=None).print(table)
    assert file.getvalue().startswith(f"robustcheck {VERSION}\n! {SAID}\n! {BUNDLED}\n")
    assert file.getvalue().count("can loosen") == 1


def test_documents_for_programs_hold_them() -> None:
    document = json.loads(forms.render("json", [LOOSE]))
    first = {"setting": "fail-on", "value": "never", "source": "robustcheck.toml"}
    assert document["gate"]["loosening"][0] == first
    assert any(BUNDLED in note for note in document["notes"])
    (run,) = json.loads(forms.render("sarif", [LOOSE, LOOSE_PASS]))["runs"]
    told = [note["message"]["text"] for note in run["invocations"][0]["toolConfigurationNotifications"]]
    assert told == [SAID, BUNDLED]
    assert run["properties"]["models"][1]["cautions"] == [SAID]
    assert f'caution="{BUNDLED}"}} 1\n' in forms.render("openmetrics", [LOOSE])
    for form, word in (("sarif", "toolConfigurationNotifications"), ("openmetrics", 'caution="')):
        assert word not in forms.render(form, [PASSING])


def test_junit_shows_them_as_a_property_and_as_output_of_the_suite() -> None:
    root = junit(LOOSE)
    values = {each.attrib["name"]: each.attrib["value"] for each in root.iter("property")}
    assert values["cautions"] == f"{SAID}; {BUNDLED}"
    (output,) = root.iter("system-out")
    assert output.text == f"{SAID}\n{BUNDLED}"
    assert root[0][-1] is output
    assert not list(junit(PASSING).iter("system-out"))
