"""The command line in this process, which most tests of it need."""

from __future__ import annotations

import pytest

from robustcheck_onnx.checker.cli import process
from support.bad_input import GROUP_OF, Typed


@pytest.fixture(autouse=True)
def _verbs_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the command line of an app once a run: it takes typer 70 ms each time."""
    monkeypatch.setattr(process, "get_command", GROUP_OF)


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Typed:
    """Type a command line in this process: `typed(folder, *words, **environment)`."""
    return Typed(capfd)
