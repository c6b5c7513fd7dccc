"""What can loosen the gate, and photos that are not the reader's, stand first in every form that has a place."""

from __future__ import annotations

import io
import json

from robustcheck_onnx.checker.report import forms, github, summary
from robustcheck_onnx.checker.report.outcome import cautions, loosening_text
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.report.terminal import one_line
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


def test_settings_are_told_by_who_says_them() -> None:
    assert loosening_text(LOOSE) == SAID
    assert cautions(LOOSE) == [SAID, BUNDLED]
    assert cautions(LOOSE_PASS) == [SAID]
    assert cautions(PASSING) == []


def test_they_are_the_first_lines_of_the_terminal_report() -> None:
    for verbose in (False, True):
        first, second, *_ = terminal_text(LOOSE_PASS, 120, verbose=verbose).splitlines()
        assert (first, second) == (f"robustcheck {VERSION}", f"! {SAID}")
        assert "can loosen" not in terminal_text(PASSING, 120, verbose=verbose)


def test_a_table_of_models_says_them_once_and_first() -> None:
    lines = "\n".join(
        str(line) for line in _shown(summary.render([LOOSE, LOOSE_PASS], models=["a.onnx", "b.onnx"], code=0))
    )
    assert lines.splitlines()[:3] == [f"robustcheck {VERSION}", f"! {SAID}", f"! {BUNDLED}"]
    assert lines.count("can loosen") == 1


def _shown(report: object) -> list[str]:
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=120, color_system=None).print(report)
    return file.getvalue().splitlines()


def test_the_line_of_a_quiet_check_says_whose_photos() -> None:
    assert BUNDLED in one_line(WARNING)
    assert BUNDLED not in one_line(PASSING)


def test_documents_for_people_say_them_before_the_reasons() -> None:
    for form, start in (("markdown", "## "), ("html", "<header"), ("modelcard", "## robustcheck")):
        text = forms.render(form, [LOOSE])
        body = text[text.index(start) :]
        reasons = body.index(RULES["assumed_preprocessing"].title)
        assert 0 < body.index("can loosen the gate: fail-on never") < body.index(BUNDLED) < reasons
        assert "can loosen" not in forms.render(form, [PASSING])


def test_documents_for_programs_hold_them() -> None:
    document = json.loads(forms.render("json", [LOOSE]))
    assert document["gate"]["loosening"][0] == {
        "setting": "fail-on", "value": "never", "source": "robustcheck.toml"
    }  # fmt: skip
    assert any(BUNDLED in note for note in document["notes"])
    (run,) = json.loads(forms.render("sarif", [LOOSE, LOOSE_PASS]))["runs"]
    told = [note["message"]["text"] for note in run["invocations"][0]["toolConfigurationNotifications"]]
    assert told == [SAID, BUNDLED]
    assert run["properties"]["models"][1]["cautions"] == [SAID]
    assert "toolConfigurationNotifications" not in forms.render("sarif", [PASSING])
    assert f'caution="{BUNDLED}"}} 1\n' in forms.render("openmetrics", [LOOSE])
    assert 'caution="' not in forms.render("openmetrics", [PASSING])


def test_junit_shows_them_as_a_property_and_as_output_of_the_suite() -> None:
    root = junit(LOOSE)
    values = {each.attrib["name"]: each.attrib["value"] for each in root.iter("property")}
    assert values["cautions"] == f"{SAID}; {BUNDLED}"
    (output,) = root.iter("system-out")
    assert output.text == f"{SAID}\n{BUNDLED}"
    assert root[0][-1] is output
    assert not list(junit(PASSING).iter("system-out"))


def test_github_gets_a_notice_for_each() -> None:
    told = [line.partition("::robustcheck")[0] for line in github.commands([LOOSE_PASS], forms.FormOptions())]
    assert len(told) == 1
    assert told[0].startswith("::notice ")
    assert told[0].endswith(SAID)
