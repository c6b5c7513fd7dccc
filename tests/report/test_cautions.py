"""What can loosen the gate, and photos that are not the reader's, stand first in every form that has a place."""

from robustcheck_onnx.checker.report import forms, terminal
from robustcheck_onnx.checker.report.forms import cautions
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict.gate import Gate, Loosening
from robustcheck_onnx.checker.verdict.reasons import RULES
from support import but
from support.outcomes import PASSING, WARNING
from support.reports import terminal_text
from support.terminal import printed

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
        said = ("can loosen the gate: fail-on never", BUNDLED, RULES["assumed_preprocessing"].title)
        places = [body.index(each) for each in said]
        assert places == sorted(places)
        assert places[0] > 0
        assert "can loosen" not in forms.render(form, [PASSING])


def test_they_are_the_first_lines_of_the_terminal_report_and_of_a_table() -> None:
    first = f"robustcheck {VERSION}\n! {SAID}\n"
    for report, said in ((LOOSE, [SAID, BUNDLED]), (LOOSE_PASS, [SAID]), (PASSING, [])):
        assert cautions(report) == said
        for verbose in (False, True):
            assert terminal_text(report, 120, verbose=verbose).startswith(first) == bool(said)
    table = printed(terminal.render_several([LOOSE, LOOSE_PASS], models=["a.onnx", "b.onnx"], code=0), 120)
    assert table.startswith(f"{first}! {BUNDLED}\n")
    assert table.count("can loosen") == 1


def test_documents_for_programs_hold_them() -> None:
    for form, told in {
        "json": ['"setting": "fail-on",', f'"Measured {BUNDLED}'],
        "sarif": [f'"text": "{SAID}"', f'"text": "{BUNDLED}"'],
        "openmetrics": [f'caution="{SAID}"}} 1\n', f'caution="{BUNDLED}"}} 1\n'],
        "junit": [f'name="cautions" value="{SAID}; {BUNDLED}"', f"<system-out>{SAID}\n{BUNDLED}</system-out>"],
    }.items():
        shown, plain = forms.render(form, [LOOSE]), forms.render(form, [PASSING])
        assert [(each in shown, each in plain) for each in told] == [(True, False)] * 2, form
