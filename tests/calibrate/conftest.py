"""The command line in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import app, process
from support.bad_input import GROUP_OF
from support.calibrations import Call


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(process, "get_command", GROUP_OF)

    def made_call(*words: str | Path, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        done = process.run(app.app, list(map(str, words)))
        out, err = capfd.readouterr()
        assert done == code, err
        return out, err

    return made_call
