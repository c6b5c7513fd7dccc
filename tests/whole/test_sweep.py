"""benchmarks/sweep.py, backend_models.py: a child that never ends is killed; the page says what the records say."""

from __future__ import annotations

import os
import signal
import time
import tomllib
from pathlib import Path
from typing import Any

from support import ROOT, onnx_models
from support.benchmark_scripts import load

forked, page, backend = load("forked"), load("families_page"), load("backend_models")


def test_a_child_ends_with_a_value_an_error_a_signal_or_a_timeout() -> None:
    assert forked.forked(lambda: {"a": 1}, 20).value == {"a": 1}
    failed = forked.forked(lambda: 1 / 0, 20)
    assert (failed.value, failed.died) == (None, "")
    assert failed.error.startswith("ZeroDivisionError: division by zero (test_sweep.py:")
    assert forked.forked(lambda: os.kill(os.getpid(), signal.SIGKILL), 20).died == "signal 9"
    assert forked.forked(lambda: time.sleep(60), 0.5).died == "timeout"


def test_no_architecture_is_named_twice() -> None:
    table = tomllib.loads((ROOT / "benchmarks" / "architectures.toml").read_text(encoding="utf-8"))
    for library in ("timm", "open_clip"):
        names = [name for family in table[library].values() for name in family]
        assert len(names) == len(set(names))
    assert table["options"].keys() <= {name for family in table["timm"].values() for name in family}


def test_members_that_are_read_alike_share_a_row() -> None:
    right: dict[str, Any] = {
        "library": "timm",
        "family": "ViT",
        "rule": "head_input",
        "pool": "none",
        "outcome": "right",
    }
    norm = {"ends_in": "normalisation", "obstacles": ["normalisation is not calibrated"], "difference": 1e-6}
    records = [right | norm | {"name": "a", "width": 192}, right | norm | {"name": "b", "width": 384}]
    records.append({"library": "open_clip", "family": "CLIP ViT", "rule": "encoder_output", "pool": "spatial_mean",
                    "outcome": "right", "ends_in": "linear", "obstacles": [], "name": "c", "width": 512})  # fmt: skip
    assert page.table(records, can_pass=True).splitlines()[2:] == [
        "| CLIP ViT | open_clip | c | encoder_output, spatial_mean | `linear` | 512 |"
    ]
    assert page.table(records, can_pass=False).splitlines()[2:] == [
        "| ViT | timm | a, b | head_input | `normalisation` | 192–384 | normalisation is not calibrated |"
    ]


def test_inspect_in_a_child_ends_as_the_command_does(tmp_path: Path) -> None:
    model, junk = onnx_models.save(onnx_models.classifier(), tmp_path / "model.onnx"), tmp_path / "junk.onnx"
    junk.write_bytes(b"no model")
    for path, code in ((model, "0"), (junk, "3"), (tmp_path / "nothing.onnx", "2")):
        in_child = backend.inspect("x", path, tmp_path / "stderr")
        assert (in_child.ended, backend.inspect_by_command("x", path).ended) == (code, code)
        assert in_child.message.startswith("error: ") == (code != "0")


def test_a_message_is_known_by_the_rule_it_states() -> None:
    assert backend.kind("error: opset is 28; ONNX Runtime 1.31.1 supports up to 26") == (
        "ONNX Runtime 1.31.1 supports up to 26"
    )
    assert backend.kind("error: output 'a' is empty") == "output '…' is empty"
