"""`make gpu-check` on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT


@pytest.mark.long
@pytest.mark.process
def test_it_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    """A device that is not there, or the CPU itself: every row has a result."""
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--quick", "--out", str(tmp_path)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "gpu-check.json").read_text())
    rows = {row["what"]: row for row in record["rows"]}
    assert {"machine", "doctor", "tests marked requires_cuda", "scan of all blocks"} <= rows.keys()
    if record["reason"]:
        assert rows["agreement, tiny ViT"]["result"] == "no device"
        assert rows["JPEG files, tiny ResNet"]["why"] == record["reason"]
    assert rows["CPU: tensors in memory"]["ours"] > 0
    assert rows["CPU: files"]["images/s"] > 0
    log = (tmp_path / "gpu-check.log").read_text().splitlines()
    assert len(log) == len(record["rows"])
