"""What can loosen the gate, and photos that are not the reader's, stand first in every form that has a place."""

import io

from rich.console import Console

from robustcheck_onnx.checker.report import forms, terminal
from robustcheck_onnx.checker.report.forms import cautions
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict.gate import Gate, Loosening
from robustcheck_onnx.checker.verdict.reasons import RULES
from support import but
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
    return but(report, gate=gate)


LOOSE, LOOSE_PASS = loose(WARNING), loose(PASSING)


def test_documents_for_people_say_them_before_the_reasons() -> None:
    for form, start in {"markdown": "## ", "html": "<header", "modelcard": "## robustcheck"}.items():
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
    table = terminal.render_several([LOOSE, LOOSE_PASS], models=["a.onnx", "b.onnx"], code=0)
    Console(file=file, width=120, color_system=None).print(table)
    assert file.getvalue().startswith(f"robustcheck {VERSION}\n! {SAID}\n! {BUNDLED}\n")
    assert file.getvalue().count("can loosen") == 1


def test_documents_for_programs_hold_them() -> None:
    for form, told in {
        "json": ['"setting": "fail-on",', f'"Measured {BUNDLED}'],
        "sarif": [f'"text": "{SAID}"', f'"text": "{BUNDLED}"'],
        "openmetrics": [f'caution="{SAID}"}} 1\n', f'caution="{BUNDLED}"}} 1\n'],
        "junit": [f'name="cautions" value="{SAID}; {BUNDLED}"', f"<system-out>{SAID}\n{BUNDLED}</system-out>"],
    }.items():
        shown, plain = forms.render(form, [LOOSE]), forms.render(form, [PASSING])
        assert [words for words in told if words not in shown] == [], form
        assert not [words for words in told if words in plain], form
