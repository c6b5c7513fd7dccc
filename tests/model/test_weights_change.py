"""Weights beside a model that change while it runs: nobody knows which ones were measured, so there is no verdict."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx import Progress, check
from robustcheck_onnx.checker import measure
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.measure import cache, own_files
from robustcheck_onnx.checker.model.external import stamp
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import lookup

SAID = r"model\.onnx: weights file weights\.bin changed during the run; it must stay as it was digested"


@pytest.fixture
def place(tmp_path: Path, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.onnx with weights.bin, which give a WARN; passing.bin, weights that would give a PASS; an empty cache."""
    warning = lookup.write_lookup_model(tmp_path / "inline.onnx", np.random.default_rng(3).normal(size=(80, 512)))
    for source, weights in ((lookup_pass[0], "passing.bin"), (warning, "weights.bin")):
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        proto = onnx.load(source)
        onnx.save(
            proto, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=1024
        )
        (tmp_path / "weights.bin").rename(tmp_path / weights)
        os.utime(tmp_path / weights, (1e9, 1e9))  # some clocks of file systems tick every 4 ms only
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    monkeypatch.setenv(own_files.FOLDER, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.OFF, raising=False)
    return tmp_path


def replace(place: Path) -> None:
    (place / "passing.bin").replace(place / "weights.bin")


def write(place: Path) -> None:
    with (place / "weights.bin").open("r+b") as file:
        file.write((place / "passing.bin").read_bytes())


def remove(place: Path) -> None:
    (place / "weights.bin").unlink()


def test_weights_that_are_replaced_before_the_session_reads_them_give_no_verdict(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a PASS under the digest of weights that give a WARN, kept for later runs."""
    real = measure.open_sessions

    def opened(*arguments: Any, **options: Any) -> measure.Opened:
        replace(place)
        return real(*arguments, **options)

    monkeypatch.chdir(place)
    with monkeypatch.context() as changed:
        changed.setattr(measure, "open_sessions", opened)
        assert cli.main(["model.onnx", "--images", "photos", "-qq"]) == 3
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: " + SAID.replace("\\", "")
    assert hint == "hint: run again when nothing writes to it any more"
    assert cache.size().records == 0


@pytest.mark.parametrize("change", [replace, write, remove])
def test_weights_that_change_while_images_are_measured_give_no_verdict(
    place: Path, change: Callable[[Path], None]
) -> None:
    changed: list[int] = []

    def first_batch(now: Progress) -> None:
        if not now.stage and not changed:
            change(place)
            changed.append(1)

    with pytest.raises(CannotAssessError, match=SAID):
        check(place / "model.onnx", images=place / "photos", batch_size=8, progress=first_batch)


def test_weights_that_stay_are_measured(place: Path) -> None:
    assert check(place / "model.onnx", images=place / "photos").verdict.verdict == "WARN"
    replace(place)
    assert check(place / "model.onnx", images=place / "photos").verdict.verdict == "PASS"


def test_every_run_of_a_model_looks(place: Path) -> None:
    """What `scan`, `compare` and the workers of Ray run, too."""
    runner = Runner(open_model(place / "model.onnx"), "cpu")
    pixels = np.zeros((2, 64, 64, 3), np.float32)
    before = runner.represent(pixels)[0]
    write(place)
    with pytest.raises(CannotAssessError, match=SAID):
        runner.represent(pixels)
    again = Runner(open_model(place / "model.onnx"), "cpu").represent(pixels)[0]
    assert not np.array_equal(again, before)


def test_a_stamp_tells_other_bytes_though_their_time_was_set_back(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    before, status = stamp(path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert stamp(path) != before
