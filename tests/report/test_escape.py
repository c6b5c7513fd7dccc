"""Names that would be commands of a pipeline: no form of the report lets GitHub's runner take one for its own."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustcheck_onnx.checker.cli import process
from robustcheck_onnx.checker.report import forms, pipelines
from robustcheck_onnx.checker.text import as_json, printable
from robustcheck_onnx.thresholds import profile
from support import Capture, Place, but, reports, robustcheck
from support.keys import write_keys
from support.outcomes import PLACE, failed, gated
from support.profile import sized

COMMANDS = {
    *("add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group", "notice", "remove-matcher"),
    *("save-state", "set-env", "set-output", "stop-commands", "warning"),
}
NAMES = [
    "##[set-output name=verdict;]PASS.onnx",
    "x ##[stop-commands]t.onnx",
    "::set-output name=verdict::PASS.onnx",
    "::Stop-Commands::t.onnx",
    "a:::error file=a::b.onnx",
    "###[add-mask]WARN.onnx",
]
WIDTHS = (60, 80, 61, 62, 63)[: sized(2, 5)]


def command_of(line: str) -> str:
    """What the runner takes a line for, "" for nothing (actions/runner, src/Runner.Common/ActionCommand.cs)."""
    start = line.lstrip()
    if start.startswith("::") and "::" in start[2:]:
        name = start[2:].partition("::")[0].partition(" ")[0]
        if name.lower() in COMMANDS:
            return name
    _, mark, rest = line.partition("##[")
    name = rest.partition("]")[0].partition(" ")[0]
    return name if mark and "]" in rest and name.lower() in COMMANDS else ""


def commands_in(text: str) -> list[str]:
    return [command for line in text.splitlines() if (command := command_of(line))]


def test_no_line_of_a_document_is_a_command() -> None:
    for form, name in itertools.product(forms.TEXTS, NAMES):
        assert command_of(name) or command_of(name[2:])  # the form with colons counts where a line starts
        assert json.loads(as_json({"file": name})) == {"file": name}
        report = gated(reports.warning(), file=name, tensor=name, synthetic=name)
        for outcome in (report, failed(name, f"{name}: model is bad; it must not be")):
            assert commands_in(forms.render(form, [outcome], PLACE)) == [], name


def test_no_line_of_the_terminal_report_is_a_command_however_it_wraps() -> None:
    for name, width, blanks in itertools.product(NAMES, WIDTHS, range(8)):
        report = gated(reports.warning(), file=f"{'d' * (width - blanks - 2)}{name}", tensor=name)
        assert commands_in(reports.terminal_text(report, width)) == [], (name, width, blanks)


def test_an_annotation_and_an_error_are_no_other_command(capsys: Capture) -> None:
    for name in NAMES:
        report = gated(reports.warning(), file=name, tensor=name)
        assert {command_of(line) for line in pipelines.commands([report], PLACE)} == {"warning", "notice"}
        process.say(f"{name}: {name}", name)
        assert commands_in(capsys.readouterr().err) == []


@pytest.mark.long
def test_no_verb_shows_a_name_raw(
    lookup_pass: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """An error with its traceback, of two models; a profile that says what it likes; a signature's file."""
    monkeypatch.chdir(tmp_path)
    write_keys(tmp_path)
    name = "m\x1b[31m\n##[set-output name=verdict;]PASS.onnx"
    Path(name).symlink_to(lookup_pass[0])
    edited = profile.seal(but(profile.load(), id="mine-1", edited=name))
    Path("edited.json").write_text(profile.to_json(edited))
    images = ["--images", lookup_pass[1]]
    for code, call in (
        (2, ["check", f"no {name}", name, "--debug", *images, "-qq"]),
        (0, ["profiles", "show", "edited.json"]),
        (0, ["check", name, *images, "-o", "json=r.json", "-qq"]),
        (0, ["sign", "r.json", name, "--key", "key.pem", *images]),
    ):
        assert robustcheck(*call) == code, call
        said = "".join(capsys.readouterr())
        assert said.replace("\n", "").isprintable(), call
        assert commands_in(said) == [], call


@given(st.text(alphabet="#[:: seto-u=\n"))
def test_any_text_is_one_line_and_no_command(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "##[" not in shown
    plain = text.replace("#", "").replace(":", "")
    assert printable(plain) == plain.replace("\n", "\\n")
    for stays in ("onnx::MatMul_12", "std::vector<int>", "## heading [1]", "#[a]", "s3://a/b", "modèle.onnx"):
        assert printable(stays) == stays
