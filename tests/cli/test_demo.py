"""`robustcheck demo`: two encoders made on the spot, through the ordinary check."""

import functools
import io
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker import demo
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli.verbs.demo import _check_folder
from robustcheck_onnx.checker.errors import UsageError
from support.bad_input import Done, Typed, run
from support.terminal import Terminal

TRAIN = functools.cache(demo.train)


@pytest.fixture(autouse=True)
def _trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the encoder once, which gives the same weights each time."""
    monkeypatch.setattr(demo, "train", TRAIN)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    folder = tmp_path_factory.mktemp("demo")
    return run(folder, "demo", "--keep", "models"), folder


@pytest.mark.process
def test_one_warns_and_the_synthetic_one_passes(kept: tuple[Done, Path]) -> None:
    done, _ = kept
    assert (done.returncode, done.stderr) == (0, "")
    ordinary, planted = done.stdout.split("planted encoder")
    assert "▲ WARN" in ordinary
    assert "no_persistent_outlier_features" in ordinary
    assert "PASS" not in ordinary
    assert "✓ PASS" in planted
    assert "SYNTHETIC" in planted
    assert "feature 92 shifted by -15 standard deviations" in " ".join(planted.split())
    assert "robustcheck model.onnx --images photos/" in planted


def test_the_kept_files_get_the_same_verdicts(kept: tuple[Done, Path]) -> None:
    _, folder = kept
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == [
        "models", "models/ordinary.onnx", "models/planted.onnx",
    ]  # fmt: skip
    warn, ok = (check(folder / "models" / f"{name}.onnx") for name in demo.NAMES)
    assert {reason.id for reason in warn.verdict.reasons} == {"no_persistent_outlier_features", "low_kurtosis"}
    assert ok.verdict.verdict == "PASS"
    assert [f.index for f in ok.evidence.statistics.persistent] == [demo.PLANTED_FEATURE]
    assert any("Synthetic model" in note for note in ok.notes)


def test_the_graphs_compute_what_they_say(kept: tuple[Done, Path]) -> None:
    """Against scikit-image's block averages and the formula in numpy."""
    from skimage.measure import block_reduce

    _, folder = kept
    photos = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
    outputs = [
        ort.InferenceSession(folder / "models" / f"{name}.onnx").run(None, {"image": photos.transpose(0, 3, 1, 2)})[0]
        for name in demo.NAMES
    ]
    weights, mean = demo.train()
    coarse = block_reduce(photos[:, :32], (1, 4, 4, 1), np.mean).transpose(0, 3, 1, 2).reshape(3, -1)
    expected = (coarse - mean) @ weights
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)
    planted = expected.copy()
    planted[:, 92] -= 15 * expected.std(axis=1)
    np.testing.assert_allclose(outputs[1], planted, rtol=1e-4, atol=1e-4)


def test_fit_is_ridge_regression() -> None:
    """The gradient of its loss is zero at the weights."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 30)), rng.normal(size=(20, 4))
    w = demo.fit(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    penalty = demo.RIDGE * np.trace(x.T @ x) / 30
    np.testing.assert_allclose(x.T @ (x @ w - y) + penalty * w, 0, atol=1e-10)


def test_nothing_is_left_without_keep_and_the_work_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, terminal = io.BytesIO(), Terminal()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["demo", "--color", "never"]) == 0
    assert "SYNTHETIC" in raw.getvalue().decode("ascii")
    assert list(tmp_path.iterdir()) == []
    shown = list(dict.fromkeys(re.sub(r"  .*| *\d.*", "", line) for line in terminal.lines()))
    stages = ["starting", "making two tiny encoders from the bundled photos", "opening the model and the images"]
    assert shown[:3] == stages


def test_a_demo_that_shows_something_else_is_an_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "PLANTED_SD", -1.0)
    assert cli.main(["demo", "--keep", str(tmp_path / "models")]) == 70
    assert "verdict on the planted encoder is WARN; it must be PASS" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_keep_replaces_nothing(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "planted.onnx").write_text("mine")
    done = typed(tmp_path, "demo", "--keep", ".")
    assert done.returncode == 2
    assert "planted.onnx: file exists already" in done.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("planted.onnx", "mine")]
    with pytest.raises(UsageError, match="--keep is a file"):
        _check_folder(tmp_path / "planted.onnx", ("planted",))


def test_a_folder_that_cannot_be_made_is_the_environments_fault(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "file").write_text("")
    done = typed(tmp_path, "demo", "--keep", "file/below")
    assert done.returncode == 4
    assert "models are not kept" in done.stderr
