"""Shell completion: the scripts, what bash makes of them, and that no check ever ends with 0 because of them."""

import os
from pathlib import Path

import pytest

from support import Patch, bad_input
from support.bad_input import COMMAND, Run, environment

ASK = "_ROBUSTCHECK_COMPLETE"
OFFERED = {
    "robustcheck profiles sh": ["show"],
    "robustcheck check model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],
    "robustcheck model.onnx --max-": ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],  # of check
    "robustcheck explain recti": ["rectified"],
    "robustcheck check model.onnx -o j": ["json", "junit"],
    "robustcheck compare a.onnx b.onnx -o ": ["terminal", "json", "junit", "markdown", "sarif", "html"],
    "robustcheck scan model.onnx -o t": ["terminal"],
    "robustcheck model.on": [],  # then bash completes names of files
}


def test_words_are_completed(ends: Run) -> None:
    for line, offered in OFFERED.items():
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        done = ends(0, "", **{ASK: "complete_bash"}, **words)
        assert (done.stdout.split(), done.stderr) == (offered, "")


@pytest.mark.process
def test_bash_completes_by_the_script_that_the_command_prints() -> None:
    code = """
eval "$(robustcheck --show-completion bash)"
ask() { $(complete -p robustcheck | sed "s/.*-F \\([^ ]*\\) .*/\\1/") robustcheck; echo "${COMPREPLY[@]}"; }
COMP_WORDS=(robustcheck check model.onnx -o j); COMP_CWORD=4; ask
COMP_WORDS=(robustcheck model.onnx --thr); COMP_CWORD=2; ask
"""
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    done = bad_input.run(["bash", "--norc", "-c", code], env=environment(PATH=path))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "json junit\n--thresholds\n")


def test_other_shells_have_a_script(run: Run, ends: Run) -> None:
    for shell, sign in (("zsh", "#compdef robustcheck"), ("fish", "complete --command robustcheck")):
        done = ends(0, f"--show-completion {shell}")
        assert (done.stderr, sign in done.stdout) == ("", True)
        # what such a script asks for when it runs
        words = {"_TYPER_COMPLETE_ARGS": "robustcheck model.onnx --thr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        assert "--thresholds" in run("", **words, **{ASK: f"complete_{shell}"}).stdout


def test_install_writes_into_the_home_of_the_caller(here: Path, run: Run, ends: Run) -> None:
    done = ends(0, "--install-completion bash", HOME=str(here / "home"))
    script = next(path for path in (here / "home").rglob("*robustcheck*") if path.is_file())
    assert script.read_text().strip() == run("--show-completion bash").stdout.strip()
    assert str(script) in done.stdout


def test_a_shell_that_is_not_known_is_a_usage_error(ends: Run, monkeypatch: Patch) -> None:
    shellingham = pytest.importorskip("shellingham")

    def none_found() -> None:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", none_found)  # a test can't choose the processes above it
    for option in ("--show-completion", "--install-completion"):
        for words in ("", "tcsh", "bash model.onnx"):
            ends(2, f"{option} {words}", HOME=str(Path.cwd()))


def test_a_check_in_a_shell_that_asks_for_completion_is_a_check(ends: Run) -> None:
    words = {"COMP_WORDS": "robustcheck che", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "robustcheck che"}
    for asked in ("complete_bash", "complete_zsh", "source_bash", "", "nonsense"):
        for call in ("missing.onnx", "check missing.onnx"):
            done = ends(2, call, **words, **{ASK: asked})
            assert done.stdout == ""


def test_a_question_that_makes_no_sense_is_never_a_verdict(ends: Run) -> None:
    for asked in ("nonsense", "complete_tcsh", "complete_bash", "explain_zsh"):
        ends(70, "", **{ASK: asked}, COMP_WORDS="", COMP_CWORD="x")
