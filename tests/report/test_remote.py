"""Reports put into stores: whole, never an earlier PASS left standing, no secret in any of them."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from robustcheck_onnx.checker import pipeline, text
from support import Capture, Patch, Place, robustcheck
from support.stores import ODD, SECRET

pytest.importorskip("fsspec", reason="the extra remote is not installed")
pytestmark = pytest.mark.usefixtures("own_temporary_folder", "capsys")


@pytest.fixture
def call(lookup_pass: Place) -> list[object]:
    return [lookup_pass[0], "--images", lookup_pass[1], "-qq", "--no-time"]


def test_reports_are_put_into_stores(call: list[object], memory: Any, tmp_path: Path) -> None:
    outputs = [f"json=memory://{ODD}/r.json", f"json=file://{tmp_path}/f.json", f"json={tmp_path}/p.json"]
    assert robustcheck(*call, *(word for output in outputs for word in ("-o", output))) == 0
    content = memory.cat_file(f"/{ODD}/r.json")
    assert json.loads(content)["verdict"]["verdict"] == "PASS"
    assert content == (tmp_path / "f.json").read_bytes() == (tmp_path / "p.json").read_bytes()
    # a run that fails leaves an error, but never in place of what is not a report
    memory.pipe_file("/notes.json", b"{}")
    assert (
        robustcheck(tmp_path / "gone.onnx", "-o", f"json=memory://{ODD}/r.json", "-o", "json=memory://notes.json") == 2
    )
    assert json.loads(memory.cat_file(f"/{ODD}/r.json"))["error"]["exit_code"] == 2
    assert memory.cat_file("/notes.json") == b"{}"


def test_a_store_holds_no_earlier_pass_while_a_check_runs(call: list[object], memory: Any, monkeypatch: Patch) -> None:
    """Who is killed leaves what stands there; who is stopped by a signal does not wait for a store."""
    memory.pipe_file("/r.json", text.error_json("stands for an earlier PASS", "", 3).encode())
    memory.pipe_file("/notes.json", b"{}")  # what is not a report stays until there is a result
    monkeypatch.setattr(pipeline, "check", Mock(side_effect=KeyboardInterrupt))
    outputs = [word for name in ("r", "new", "notes") for word in ("-o", f"json=memory://{name}.json")]
    assert robustcheck(*call, *outputs) == 130
    assert json.loads(memory.cat_file("/r.json"))["error"]["exit_code"] == 137
    assert not memory.exists("/new.json")
    assert memory.cat_file("/notes.json") == b"{}"


def test_reports_that_cannot_be_put_there(call: list[object], memory: Any, monkeypatch: Patch, capsys: Capture) -> None:
    for place in (f"https://u:{SECRET}@h/r.json", "memory://folder/"):
        assert robustcheck(*call, "-o", f"json={place}") == 2
    assert robustcheck("memory://m.onnx", "-o", "json=memory://m.onnx") == 2
    refused = PermissionError(f"no write for s3://r.json?sig={SECRET}")
    monkeypatch.setattr(type(memory), "pipe_file", Mock(side_effect=refused))
    assert robustcheck(*call, "-o", "json=memory://r.json") == 4  # the verdict was PASS
    assert not memory.exists("/r.json")
    said = "".join(capsys.readouterr())
    assert SECRET not in said
    assert "no write for" in said


def test_a_run_with_urls_shows_no_key_anywhere(
    lookup_pass: Place, memory: Any, tmp_path: Path, capsys: Capture
) -> None:
    memory.pipe_file("/m.onnx", lookup_pass[0].read_bytes())
    forms = ("json", "junit", "sarif", "markdown", "html", "openmetrics", "gitlab", "terminal")
    wanted = [word for form in forms for word in ("-o", f"{form}={tmp_path}/report.{form}")]
    bad = f"https://u:{SECRET}@127.0.0.1:9/x?X-Amz-Signature={SECRET}"
    for code, args in (
        (4, [bad, "memory://m.onnx", "--images", lookup_pass[1], *wanted]),  # one fails, one passes
        (0, ["check", "--images", bad, "--show-settings"]),
        (2, [bad, "--offline", *wanted]),
    ):
        assert robustcheck(*args, "--debug", "-v") == code, args
        said = "".join(capsys.readouterr())
        assert SECRET not in said + "".join(path.read_text() for path in tmp_path.glob("report.*")), args
        assert "127.0.0.1:9/x?***" in said, args
