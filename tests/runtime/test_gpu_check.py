"""`make gpu-check` on a machine without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, read_json


@pytest.mark.long
@pytest.mark.process
def test_it_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    """A device that is not there, or the CPU itself: every row has a result."""
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(
        script, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["what"]: row for row in read_json(tmp_path / "gpu-check.json")["rows"]}
    assert rows["CPU: tensors in memory"]["ours"] > 0
