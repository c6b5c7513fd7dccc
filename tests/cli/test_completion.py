"""Shell completion: the scripts, what bash makes of them, and that no check ever ends with 0 because of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROBUSTCHECK = Path(sys.executable).parent / "robustcheck"
ASK = "_ROBUSTCHECK_COMPLETE"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{ROBUSTCHECK.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [ROBUSTCHECK, *arguments], capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": path} | environment,
    )  # fmt: skip


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers for a line at whose end the tabulator key is hit, by the script that the command prints."""
    words = line.split(" ")
    quoted = " ".join(map(shlex.quote, words))
    code = (
        f'eval "$(robustcheck --show-completion bash)"; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; '
        '$(complete -p robustcheck | sed "s/.*-F \\([^ ]*\\) .*/\\1/") robustcheck; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": f"{ROBUSTCHECK.parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


MAXIMA = ["--max-images", "--max-bad", "--max-memory", "--max-model-size"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("robustcheck che", ["check"]),
        ("robustcheck profiles va", ["validate"]),
        ("robustcheck check model.onnx --max-", ["--max-images", "--max-bad", "--max-memory", "--max-model-size"]),
        (
            "robustcheck model.onnx --max-",
            ["--max-images", "--max-bad", "--max-memory", "--max-model-size"],
        ),  # short for check
        ("robustcheck model.onnx --images photos --thr", ["--thresholds"]),
        ("robustcheck explain recti", ["rectified"]),
        ("robustcheck explain exit", ["exit-codes"]),
        ("robustcheck check model.onnx -o j", ["json", "junit"]),
        ("robustcheck model.onnx -o op", ["openmetrics"]),
        ("robustcheck compare a.onnx b.onnx -o ", ["terminal", "json", "junit", "markdown", "sarif", "html"]),
        ("robustcheck scan model.onnx -o t", ["terminal"]),
        ("robustcheck concepts model.onnx -o h", ["html"]),
        ("robustcheck directions model.onnx -o h", ["html"]),
        ("robustcheck model.on", []),  # then bash completes names of files
    ],
)
def test_bash_completes(line: str, offered: list[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == offered


@pytest.mark.parametrize(
    ("shell", "sign"), [("zsh", "#compdef robustcheck"), ("fish", "complete --command robustcheck")]
)
def test_other_shells_have_a_script(shell: str, sign: str) -> None:
    done = run("--show-completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert sign in done.stdout
    # what such a script asks for when it runs
    arguments = {"_TYPER_COMPLETE_ARGS": "robustcheck model.onnx --thr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert "--thresholds" in run(**arguments, **{ASK: f"complete_{shell}"}).stdout


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh on this machine")
def test_zsh_reads_its_script() -> None:
    script = run("--show-completion", "zsh").stdout
    assert subprocess.run(["zsh", "-n"], input=script, text=True, check=False).returncode == 0


def test_install_writes_into_the_home_of_the_caller(tmp_path: Path) -> None:
    done = run("--install-completion", "bash", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    script = next(path for path in tmp_path.rglob("*") if path.is_file() and "robustcheck" in path.name)
    assert script.read_text().strip() == run("--show-completion", "bash").stdout.strip()
    assert str(script) in done.stdout


@pytest.mark.parametrize("words", [("tcsh",), ("bsh",), ("bash", "model.onnx")])
def test_a_shell_that_is_not_known_is_a_usage_error(words: tuple[str, ...]) -> None:
    done = run("--show-completion", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "hint: " in done.stderr


NO_SHELL = """
import sys
import shellingham

def none_found():
    raise shellingham.ShellDetectionFailure

shellingham.detect_shell = none_found  # a test can't choose the processes above it
from robustcheck_onnx.checker import cli
sys.exit(cli.main([sys.argv[1]]))
"""


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_where_no_shell_is_found_the_end_is_no_warn(option: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_SHELL, option], capture_output=True, text=True, check=False,
        env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert f"hint: robustcheck {option} bash" in done.stderr


@pytest.mark.parametrize("asked", ["complete_bash", "complete_zsh", "source_bash", "", "nonsense"])
def test_a_check_in_a_shell_that_asks_for_completion_is_a_check(asked: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.onnx"
    words = {"COMP_WORDS": "robustcheck che", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "robustcheck che"}
    for arguments in ([str(missing)], ["check", str(missing)]):
        done = run(*arguments, **words, **{ASK: asked})
        assert done.returncode == 2
        assert done.stdout == ""


@pytest.mark.parametrize("asked", ["nonsense", "complete_tcsh", "complete_bash", "explain_zsh"])
def test_a_question_that_makes_no_sense_is_never_a_verdict(asked: str) -> None:
    assert run(**{ASK: asked}, COMP_WORDS="", COMP_CWORD="x").returncode == 70
