"""Each word that earlier versions had is answered with what to do instead, as CHANGELOG says."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import app, removed

CHANGELOG = " ".join((Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8").split())
VALUE = {"--alias": ["x"], "--beside": ["x.onnx"], "--detector": ["x"], "--engine": ["ray"], "--workers": ["2"]}


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one error and hint of a command line that must end with 2."""
    assert app.main(list(words)) == 2
    out, err = capsys.readouterr()
    assert not out
    return err


def test_a_removed_word_is_answered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for verb, line in removed.VERBS.items():
        assert answer(capsys, *verb.split()) == f"error: command {verb} was removed\nhint: {line}\n"
    for option, line in removed.OPTIONS.items():
        verb = "shift" if option in ("--beside", "--temperature") else "check"
        words = (verb, "model.onnx", option, *VALUE.get(option, []))
        assert answer(capsys, *words) == f"error: option {option} was removed\nhint: {line}\n"
    for form, line in removed.FORMS.items():
        assert answer(capsys, "model.onnx", "-o", form) == f"error: form {form} was removed\nhint: {line}\n"
    for key, line in removed.KEYS.items():
        file = tmp_path / "robustcheck.toml"
        file.write_text(f"{key} = true\n")
        said = answer(capsys, "check", "--show-settings", "--config", str(file))
        assert said == f"error: {file}: key {key} was removed\nhint: {line}\n"


def test_a_removed_variable_is_answered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, line in removed.VARIABLES.items():
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            said = answer(capsys, "check", "--show-settings")
        assert said == f"error: environment: variable {variable} was removed\nhint: {line}\n"


def test_a_file_may_have_a_removed_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reference").write_bytes(b"no model")
    assert app.main(["reference"]) == 3
    assert "was removed" not in capsys.readouterr().err


def test_the_changelog_has_each_line() -> None:
    tables = (removed.VERBS, removed.OPTIONS, removed.FORMS, removed.VARIABLES)
    lines = {line for table in tables for line in table.values()}
    assert [line for line in lines if line not in CHANGELOG] == []
