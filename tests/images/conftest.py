"""Each test runs in a folder of its own."""

from pathlib import Path

import pytest

from support import Patch


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
