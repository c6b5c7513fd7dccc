"""Shell completion: the scripts, what bash makes of them, and that no check ever ends with 0 because of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import profile
from support.bad_input import COMMAND, Typed

ASK = "_ROBUSTCHECK_COMPLETE"
OFFERED = {
    "robustcheck che": ["check"],
    "robustcheck profiles sh": ["show"],
    "robustcheck check model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],
    "robustcheck model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],  # of check
    "robustcheck model.onnx --images photos --thr": ["--thresholds"],
    "robustcheck explain recti": ["rectified"],
    "robustcheck explain exit": ["exit-codes"],
    "robustcheck check model.onnx -o j": ["json", "junit"],
    "robustcheck model.onnx -o op": ["openmetrics"],
    "robustcheck compare a.onnx b.onnx -o ": ["terminal", "json", "junit", "markdown", "sarif", "html"],
    "robustcheck scan model.onnx -o t": ["terminal"],
    "robustcheck concepts model.onnx -o h": ["html"],
    "robustcheck directions model.onnx -o h": ["html"],
    "robustcheck model.on": [],  # then bash completes names of files
}


def test_words_are_completed(tmp_path: Path, typed: Typed) -> None:
    for line, offered in OFFERED.items():
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        done = typed(tmp_path, **{ASK: "complete_bash"}, **words)
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, offered, ""), line


@pytest.mark.process
def test_bash_completes_by_the_script_that_the_command_prints(tmp_path: Path) -> None:
    lines = ["robustcheck check model.onnx -o j", "robustcheck model.onnx --thr"]
    code = 'eval "$(robustcheck --show-completion bash)"\n'
    for line in lines:
        words = line.split(" ")
        code += (
            f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; "
            '$(complete -p robustcheck | sed "s/.*-F \\([^ ]*\\) .*/\\1/") robustcheck; echo "${COMPREPLY[@]}"\n'
        )
    done = subprocess.run(
        ["bash", "--norc", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"},
        timeout=profile.PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [shown.split() for shown in done.stdout.splitlines()] == [["json", "junit"], ["--thresholds"]]


def test_other_shells_have_a_script(tmp_path: Path, typed: Typed) -> None:
    for shell, sign in (("zsh", "#compdef robustcheck"), ("fish", "complete --command robustcheck")):
        done = typed(tmp_path, "--show-completion", shell)
        assert (done.returncode, done.stderr) == (0, "")
        assert sign in done.stdout
        # what such a script asks for when it runs
        words = {"_TYPER_COMPLETE_ARGS": "robustcheck model.onnx --thr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        assert "--thresholds" in typed(tmp_path, **words, **{ASK: f"complete_{shell}"}).stdout


@pytest.mark.process
@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh on this machine")
def test_zsh_reads_its_script(tmp_path: Path, typed: Typed) -> None:
    script = typed(tmp_path, "--show-completion", "zsh").stdout
    assert subprocess.run(["zsh", "-n"], input=script, text=True, check=False).returncode == 0


def test_install_writes_into_the_home_of_the_caller(tmp_path: Path, typed: Typed) -> None:
    done = typed(tmp_path, "--install-completion", "bash", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    script = next(path for path in tmp_path.rglob("*") if path.is_file() and "robustcheck" in path.name)
    assert script.read_text().strip() == typed(tmp_path, "--show-completion", "bash").stdout.strip()
    assert str(script) in done.stdout


def test_a_shell_that_is_not_known_is_a_usage_error(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shellingham: Any = pytest.importorskip("shellingham")

    def none_found() -> None:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", none_found)  # a test can't choose the processes above it
    for words in (["tcsh"], ["bsh"], ["bash", "model.onnx"]):
        done = typed(tmp_path, "--show-completion", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "hint: " in done.stderr
    for option in ("--show-completion", "--install-completion"):
        done = typed(tmp_path, option, HOME=str(tmp_path))
        assert done.returncode == 2
        assert f"hint: robustcheck {option} bash" in done.stderr


def test_a_check_in_a_shell_that_asks_for_completion_is_a_check(tmp_path: Path, typed: Typed) -> None:
    words = {"COMP_WORDS": "robustcheck che", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "robustcheck che"}
    for asked in ("complete_bash", "complete_zsh", "source_bash", "", "nonsense"):
        for arguments in (["missing.onnx"], ["check", "missing.onnx"]):
            done = typed(tmp_path, *arguments, **words, **{ASK: asked})
            assert (done.returncode, done.stdout) == (2, "")


def test_a_question_that_makes_no_sense_is_never_a_verdict(tmp_path: Path, typed: Typed) -> None:
    for asked in ("nonsense", "complete_tcsh", "complete_bash", "explain_zsh"):
        assert typed(tmp_path, **{ASK: asked}, COMP_WORDS="", COMP_CWORD="x").returncode == 70
