"""The folder in which the command is typed, and a terminal."""

import shlex
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import process
from support import Capture, Patch, robustcheck
from support.bad_input import GROUP_OF
from support.screens import OnATerminal, Terminal


@pytest.fixture(autouse=True)
def _here(here: Path, monkeypatch: Patch) -> None:
    """The command line of an app is made once a run."""
    monkeypatch.setattr(process, "get_command", GROUP_OF)


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
