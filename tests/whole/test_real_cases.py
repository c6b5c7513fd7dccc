"""benchmarks/real_cases.py: its changes are what they say, and its answers on one real set are the expected ones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from support import ROOT, onnx_models
from support.benchmark_scripts import load

SHARED = Path(os.environ.get("ROBUSTCHECK_SHARED", ROOT.parent / "shared")) / "data" / "embeddings"
real_cases = load("real_cases")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/embeddings is not there: real embeddings stay outside")
def test_one_real_set_is_answered_as_expected() -> None:
    call = [sys.executable, str(ROOT / "benchmarks" / "real_cases.py"), str(SHARED), "--fast"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1]) == (0, "not as expected: none"), done.stdout + done.stderr
    seen = {line.split("|")[1].partition(", ")[2].strip(): line.split("|")[3].strip() for line in lines[:-1]}
    assert {name for name, verdict in seen.items() if verdict == "WARN"} == {
        "outlier features removed",
        "outlier features × 0.5",
        "rotated",
        "permuted",
    }
    assert len(seen) == 11


def test_an_answer_that_is_not_expected_is_told() -> None:
    case = real_cases.Case("a", Path("a"), Path("b"), None, "WARN", frozenset({"statistic_shrank"}), "PASS", "")
    seen = real_cases.Seen("WARN", ("statistic_shrank", "undecided"), "PASS", (), "kept")
    assert real_cases.agrees(case, seen)
    assert not real_cases.agrees(case, replace(seen, compares="PASS"))
    assert not real_cases.agrees(case, replace(seen, reasons=("undecided",)))
    assert not real_cases.agrees(case, replace(seen, checks="WARN"))
    assert real_cases.agrees(replace(case, checks=""), replace(seen, checks="WARN"))


def test_roundings() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="comes with onnx")
    x = np.random.default_rng(0).normal(size=(40, 30)) * 10.0 ** np.arange(-15, 15)
    truth = x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(real_cases.bfloat16(x), truth)
    levels = real_cases.rounded(x, 8) / (np.abs(x).max() / 127)
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
    assert np.abs(levels).max() == pytest.approx(127)


def test_outliers_are_those_beyond_6_sd_in_half_of_the_images() -> None:
    x = np.random.default_rng(1).normal(size=(60, 400))
    assert len(real_cases.outliers(x)) == 1
    x[:, 3] -= 12
    x[:40, 8] += 12
    x[:20, 9] += 12
    assert real_cases.outliers(x) == [3, 8]


def test_clipped_ends_at_two_sd_of_each_image(tmp_path: Path) -> None:
    source = onnx_models.save(onnx_models.encoder(32, output="representation"), tmp_path / "a.onnx")
    target = real_cases.clipped(source, tmp_path / "b.onnx")
    onnx.checker.check_model(str(target))
    images = np.random.default_rng(2).normal(size=(6, 3, 8, 8)).astype(np.float32)
    h, seen = (
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["representation"], {"image": images})[
            0
        ]
        for path in (source, target)
    )
    mean, sd = h.mean(axis=1, keepdims=True), h.std(axis=1, keepdims=True)
    np.testing.assert_allclose(seen, np.clip(h, mean - 2 * sd, mean + 2 * sd), rtol=1e-4, atol=1e-4)
    assert (np.abs(seen - h) > 0.1 * sd).any()
