"""`robustcheck demo`: two encoders made on the spot, through the ordinary check."""

import functools
import re
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose

from robustcheck_onnx.checker import demo
from support import Capture, Patch, bad_input, normal, robustcheck
from support.bad_input import Done, Run
from support.terminal import OnATerminal, stages_of

TRAIN = functools.cache(demo.train)


@pytest.fixture(autouse=True)
def _trained_once(monkeypatch: Patch) -> None:
    """Train the encoder once, which gives the same weights each time."""
    monkeypatch.setattr(demo, "train", TRAIN)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    folder = tmp_path_factory.mktemp("demo")
    return bad_input.run("demo --keep models", folder), folder / "models"


@pytest.mark.process
def test_one_warns_and_the_synthetic_one_passes(kept: tuple[Done, Path]) -> None:
    done, folder = kept
    assert (done.returncode, re.sub(r".*\d s: .*\n", "", done.stderr)) == (0, "")  # a slow machine tells its progress
    ordinary, planted = (" ".join(part.split()) for part in done.stdout.split("planted encoder"))
    assert [part for part in ("▲ WARN", "not_persistent") if part not in ordinary] == []
    assert "PASS" not in ordinary
    assert "✓ PASS" in planted
    assert "SYNTHETIC" in planted
    assert "feature 92 shifted by -15 standard deviations" in planted
    assert "robustcheck model.onnx --images photos/" in planted
    assert sorted(path.name for path in folder.iterdir()) == ["ordinary.onnx", "planted.onnx"]


def test_quietly_it_is_a_line_a_model(capsys: Capture) -> None:
    assert [robustcheck("demo", "-q"), robustcheck("demo", "-q", "--help")] == [0, 0]
    assert capsys.readouterr().out.startswith("ordinary encoder: WARN · absent\nplanted encoder: PASS\nUsage: ")


def test_the_graphs_compute_what_they_say(kept: tuple[Done, Path]) -> None:
    """Against scikit-image's block averages and the formula in numpy."""
    from skimage.measure import block_reduce

    photos = normal(3, 64, 64, 3).astype(np.float32)
    outputs = [
        ort.InferenceSession(kept[1] / f"{name}.onnx").run(None, {"image": photos.transpose(0, 3, 1, 2)})[0]
        for name in demo.NAMES
    ]
    weights, mean = demo.train()
    coarse = block_reduce(photos[:, :32], (1, 4, 4, 1), np.mean).transpose(0, 3, 1, 2).reshape(3, -1)
    expected = (coarse - mean) @ weights
    assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)
    planted = expected.copy()
    planted[:, 92] -= 15 * expected.std(axis=1)
    assert_allclose(outputs[1], planted, rtol=1e-4, atol=1e-4)


def test_nothing_is_left_without_keep_and_the_work_is_shown(
    here: Path, monkeypatch: Patch, on_a_terminal: OnATerminal
) -> None:
    before = sorted(here.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    code, shown, _ = on_a_terminal("demo --color never")
    assert (code, sorted(here.iterdir())) == (0, before)
    stages = ["starting", "making two tiny encoders from the bundled photos", "opening the model and the images"]
    assert stages_of(shown)[:3] == stages


def test_what_is_not_kept(ends: Run, monkeypatch: Patch) -> None:
    Path("mine").mkdir()
    Path("mine/planted.onnx").write_text("mine")
    before = sorted(Path().rglob("*"))
    for place, code, said in (
        ("mine", 2, "planted.onnx: file exists already"),
        ("mine/planted.onnx", 2, "--keep is a file"),
        ("text.onnx/below", 4, "models could not be written"),
        ("models", 70, "verdict on the planted encoder is WARN; it must be PASS"),  # an internal error
    ):
        if code == 70:
            monkeypatch.setattr(demo, "PLANTED_SD", -1.0)
        ends(code, f"demo --keep {place}", said)
    assert sorted(Path().rglob("*")) == before
    assert Path("mine/planted.onnx").read_text() == "mine"
