"""Writing reports: whole or not at all, and nothing but the report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustcheck_onnx.checker import delivery
from robustcheck_onnx.checker.errors import EnvironmentFaultError


def test_a_report_is_not_written_through_a_link_that_was_laid_for_it(tmp_path: Path) -> None:
    """In a shared folder anyone can guess a process number."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".r.json.{os.getpid()}.tmp").symlink_to(victim)
    delivery.write_whole(tmp_path / "r.json", "{}")
    assert victim.read_text() == "mine"
    assert (tmp_path / "r.json").read_text() == "{}"
    assert not (tmp_path / "r.json").is_symlink()


def test_a_name_that_is_taken_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands there is another process's."""
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * n)
    taken = tmp_path / f".r.json.{'0' * 8}.tmp"
    taken.write_text("theirs")
    with pytest.raises(EnvironmentFaultError, match="report is not written"):
        delivery.write_whole(tmp_path / "r.json", "{}")
    assert taken.read_text() == "theirs"
    taken.unlink()
    delivery.write_whole(tmp_path / "r.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
