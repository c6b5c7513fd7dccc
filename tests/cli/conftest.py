"""The command line in this process, which most tests of it need, and the folder it is typed in."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import process
from support import Capture, Patch, Place, lookup, normal, robustcheck
from support.bad_input import GROUP_OF, Done, Run, Typed
from support.terminal import OnATerminal, Terminal


@pytest.fixture(scope="session")
def _models(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place) -> Path:
    """A folder of pass.onnx, its photos, text.onnx (no model) and warn.onnx, whose rows are Gaussian."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(lookup_pass[0], folder / "pass.onnx")
    (folder / "photos").symlink_to(lookup_pass[1])
    (folder / "text.onnx").write_text("no model", encoding="utf-8")
    lookup.write_lookup_model(folder / "warn.onnx", normal(80, 512, seed=3))
    return folder


@pytest.fixture(autouse=True)
def here(_models: Path, tmp_path: Path, monkeypatch: Patch) -> Path:
    """The current folder, with the models and the photos; the command line of an app is made once a run."""
    monkeypatch.setattr(process, "get_command", GROUP_OF)
    monkeypatch.chdir(shutil.copytree(_models, tmp_path / "here", symlinks=True))
    return tmp_path / "here"


@pytest.fixture
def run(capfd: Capture) -> Typed:
    """Type a command line in this process: `run("pass.onnx --images photos", **environment)`."""
    return Typed(capfd)


@pytest.fixture
def ends(run: Run) -> Run:
    """Type a command line that must end with this code, and with these texts on stderr: `ends(2, "pass.onnx", "x")`."""

    def typed(code: int, line: str, *said: str, **environment: str) -> Done:
        done = run(line, **environment)
        assert (done.returncode, [text for text in said if text not in done.stderr]) == (code, []), done.stderr
        return done

    return typed


@pytest.fixture
def on_a_terminal(monkeypatch: Patch, capsys: Capture) -> OnATerminal:
    """Type a command line whose stderr is a terminal."""

    def run(line: str, columns: int = 80) -> tuple[int, list[str], str]:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            patch.setenv("TERM", "xterm")
            patch.setenv("COLUMNS", str(columns))
            code = robustcheck(*shlex.split(line))
        return code, terminal.lines(), capsys.readouterr().out

    return run
