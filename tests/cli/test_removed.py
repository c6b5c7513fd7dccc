"""Each word that earlier versions had is answered with what to do instead, as CHANGELOG says."""

from pathlib import Path

from robustcheck_onnx.checker.cli import help, options
from support import ROOT
from support.bad_input import Run

CHANGELOG = " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split())
VALUE = {"--alias": "x", "--beside": "x.onnx", "--detector": "x", "--engine": "ray", "--workers": "2"}
SHOW = "check --show-settings"


def test_a_removed_word_is_answered_and_the_changelog_has_each_line(run: Run) -> None:
    def answered(call: str, what: str, line: str, **variables: str) -> None:
        done = run(call, **variables)
        said = f"error: {what} was removed\nhint: {line}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
        assert line in CHANGELOG

    for verb, line in help.REMOVED_VERBS.items():
        answered(verb, f"command {verb}", line)
    for option, line in options.REMOVED_OPTIONS.items():
        verb = "shift" if option in ("--beside", "--temperature") else "check"
        answered(f"{verb} model.onnx {option} {VALUE.get(option, '')}", f"option {option}", line)
    for form, line in options.REMOVED_FORMS.items():
        answered(f"model.onnx -o {form}", f"form {form}", line)
    for variable, line in options.REMOVED_VARIABLES.items():
        answered(SHOW, f"environment: variable {variable}", line, **{variable: "1"})
    for key, line in options.REMOVED_KEYS.items():
        Path("robustcheck.toml").write_text(f"{key} = true\n")
        answered(SHOW, f"robustcheck.toml: key {key}", line)


def test_a_file_may_have_a_removed_name(ends: Run) -> None:
    Path("text.onnx").rename("reference")
    assert "was removed" not in ends(3, "reference").stderr
