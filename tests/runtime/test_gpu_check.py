"""`make gpu-check` on a machine without a GPU, and the models that it makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from support import ROOT, benchmark_scripts

made = benchmark_scripts.load("made_models")


@pytest.mark.long
def test_the_transformer_is_the_one_that_torch_runs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: the extra export has it")
    images = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    path = made.vit(tmp_path / "vit.onnx", made.TINY)
    ours = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    theirs = made.torch_vit(made.TINY)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    half = made.vit(tmp_path / "half.onnx", made.TINY, half=True)
    session = ort.InferenceSession(half, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": images.astype(np.float16)})[0], theirs, atol=2e-2)


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
    assert {
        "machine",
        "doctor",
        "tests marked requires_cuda",
        "agreement, tiny ViT",
        "scan of all blocks",
    } <= rows.keys()
    if record["reason"]:
        assert rows["agreement, tiny ViT"]["result"] == "no device"
        assert rows["JPEG files, tiny ResNet"]["why"] == record["reason"]
    assert rows["CPU: tensors in memory"]["ours"] > 0
    assert rows["CPU: files"]["images/s"] > 0
    log = (tmp_path / "gpu-check.log").read_text().splitlines()
    assert len(log) == len(record["rows"])
