"""An error before any model is measured: no PASS of an earlier run stands at a path with `{model}`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustcheck_onnx.checker import cli


@pytest.mark.usefixtures("capsys")  # main writes to stdout
@pytest.mark.parametrize(
    "words",
    [
        ["--strict", "--", "m.onnx"],
        ["--bogus", "m.onnx"],
        ["m.onnx", "empty"],
        ["--max-bad", "7", "m.onnx"],
        ["--bogus", "."],
        ["--bogus", "m*.onnx"],
    ],
)
def test_no_earlier_pass_stands(
    words: list[str], lookup_pass: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = lookup_pass
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(model.read_bytes())
    Path("empty").mkdir()
    output = ["-o", "json={model}.json", "-qq"]
    assert cli.main(["m.onnx", "--images", str(photos), *output]) == 0
    assert json.loads(Path("m.json").read_text(encoding="utf-8"))["verdict"]["verdict"] == "PASS"
    assert cli.main(["check", *output, *words]) == 2
    assert json.loads(Path("m.json").read_text(encoding="utf-8"))["error"]["exit_code"] == 2
