"""Weights beside a model that change while it runs: nobody knows which ones were measured, so there is no verdict."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from robustcheck_onnx import Progress, check
from robustcheck_onnx.checker import measure
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model import held
from robustcheck_onnx.checker.model.held import stamp
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import lookup

SAID = r"model\.onnx: weights file weights\.bin changed during the run; it must stay as it was digested"


@pytest.fixture
def place(tmp_path: Path, lookup_pass: tuple[Path, Path]) -> Path:
    """model.onnx with weights.bin, which give a WARN; passing.bin, weights that would give a PASS."""
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
    return tmp_path


def replace(place: Path) -> None:
    (place / "passing.bin").replace(place / "weights.bin")


def write(place: Path) -> None:
    with (place / "weights.bin").open("r+b") as file:
        file.write((place / "passing.bin").read_bytes())


def remove(place: Path) -> None:
    (place / "weights.bin").unlink()


@pytest.mark.process
def test_weights_that_are_replaced_before_the_session_reads_them_give_no_verdict(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a PASS under the digest of weights that give a WARN."""
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


def write_and_set_the_time_back(place: Path) -> None:
    before = (place / "weights.bin").stat()
    write(place)
    os.utime(place / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (place / "weights.bin").stat().st_mtime_ns == before.st_mtime_ns


def exchange_and_put_back(place: Path) -> None:
    """The file itself, for a moment."""
    for name, other in (("weights.bin", "kept"), ("passing.bin", "weights.bin")):
        (place / name).rename(place / other)
    (place / "weights.bin").rename(place / "passing.bin")
    (place / "kept").rename(place / "weights.bin")


@pytest.mark.parametrize("change", [replace, write, remove, write_and_set_the_time_back, exchange_and_put_back])
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


# -------------------------------------------------------------------------------------- the folder is exchanged


@pytest.fixture
def folders(place: Path) -> Path:
    """release/ with model.onnx and weights that give a WARN; other/ with the same model and weights that would pass."""
    for name, weights in (("release", "weights.bin"), ("other", "passing.bin")):
        (place / name).mkdir()
        shutil.copy(place / "model.onnx", place / name / "model.onnx")
        shutil.copy(place / weights, place / name / "weights.bin")
    assert check(place / "other" / "model.onnx", images=place / "photos").verdict.verdict == "PASS"
    return place


def exchange(folders: Path) -> None:
    for name, other in (("release", "kept"), ("other", "release"), ("kept", "other")):
        (folders / name).rename(folders / other)


def test_a_folder_that_is_exchanged_during_the_run_gives_no_verdict(folders: Path) -> None:
    changed: list[int] = []

    def first_batch(now: Progress) -> None:
        if not now.stage and not changed:
            exchange(folders)
            changed.append(1)

    with pytest.raises(CannotAssessError, match=SAID):
        check(folders / "release" / "model.onnx", images=folders / "photos", batch_size=8, progress=first_batch)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only Linux names an open folder")
def test_a_folder_that_is_exchanged_while_onnx_runtime_reads_it_and_put_back_is_measured_as_it_was_digested(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stamp differs afterwards: it was a PASS under the digest of weights that give a WARN."""
    real = measure.open_sessions
    exchanged: list[int] = []

    def opened(*arguments: Any, **options: Any) -> measure.Opened:
        exchange(folders)
        exchanged.append(1)
        try:
            return real(*arguments, **options)
        finally:
            exchange(folders)

    monkeypatch.setattr(measure, "open_sessions", opened)
    report = check(folders / "release" / "model.onnx", images=folders / "photos")
    assert exchanged == [1]
    assert report.verdict.verdict == "WARN"
    digest = hashlib.sha256((folders / "release" / "weights.bin").read_bytes()).hexdigest()
    assert report.evidence.model.external_digests == {"weights.bin": f"sha256:{digest}"}


@pytest.mark.parametrize("back", [False, True])
def test_a_folder_between_the_models_and_the_weights_is_watched(
    place: Path, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx.load(place / "model.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "data/weights.bin" if entry.key == "location" else entry.value
    onnx.save(proto, place / "model.onnx")
    for name, weights in (("data", "weights.bin"), ("other", "passing.bin")):
        (place / name).mkdir()
        (place / weights).rename(place / name / "weights.bin")
    assert check(place / "model.onnx", images=place / "photos").verdict.verdict == "WARN"
    real = measure.open_sessions

    def turn(*names: str) -> None:
        for name, other in pairwise(names):
            (place / name).rename(place / other)

    def opened(*arguments: Any, **options: Any) -> measure.Opened:
        turn("data", "kept")
        turn("other", "data")
        try:
            return real(*arguments, **options)
        finally:
            if back:
                turn("data", "other")
                turn("kept", "data")

    monkeypatch.setattr(measure, "open_sessions", opened)
    with pytest.raises(CannotAssessError, match=r"weights file data/weights\.bin changed during the run"):
        check(place / "model.onnx", images=place / "photos")


def test_nothing_is_signed_or_kept_of_weights_that_changed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (place / "key.pem").write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*form))
    monkeypatch.chdir(place)
    words = ["model.onnx", "--images", "photos", "-qq", "-o", "json=report.json"]
    real = measure.open_sessions

    def opened(*arguments: Any, **options: Any) -> measure.Opened:
        made = real(*arguments, **options)
        write_and_set_the_time_back(place)
        return made

    with monkeypatch.context() as changed:
        changed.setattr(measure, "open_sessions", opened)
        assert cli.main([*words, "--sign", "key.pem"]) == 3
        assert cli.main(words) == 3
    capsys.readouterr()
    assert not (place / "report.sigstore.json").exists()
    assert json.loads((place / "report.json").read_text(encoding="utf-8"))["error"]["exit_code"] == 3


@pytest.mark.long
def test_weights_beyond_2_gib_are_watched_to_their_end(place: Path) -> None:
    """The file is nearly all hole; the weights lie behind 2³¹ bytes."""
    proto = onnx.load(place / "model.onnx", load_external_data=False)
    beyond = (1 << 31) + 4096
    content = (place / "weights.bin").read_bytes()
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = str(int(entry.value) + beyond) if entry.key == "offset" else entry.value
        if tensor.external_data and not any(entry.key == "offset" for entry in tensor.external_data):
            tensor.external_data.add(key="offset", value=str(beyond))
    onnx.save(proto, place / "model.onnx")
    with (place / "weights.bin").open("wb") as file:
        file.seek(beyond)
        file.write(content)
    before = (place / "weights.bin").stat()
    assert before.st_size > 2**31
    assert check(place / "model.onnx", images=place / "photos").verdict.verdict == "WARN"

    def last_byte(now: Progress) -> None:
        if not now.stage:
            with (place / "weights.bin").open("r+b") as weights:
                weights.seek(-1, os.SEEK_END)
                weights.write(b"\x01")
            os.utime(place / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(CannotAssessError, match=SAID):
        check(place / "model.onnx", images=place / "photos", batch_size=8, progress=last_byte)


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


def test_a_stamp_is_taken_when_the_last_write_is_two_ticks_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write within one tick of the first leaves the same times: on ramfs it went unseen."""
    file = tmp_path / "w.bin"
    file.write_bytes(b"a")
    written_ns = file.stat().st_ctime_ns
    now_ns = [written_ns]
    monkeypatch.setattr(time, "time_ns", lambda: now_ns[0])
    monkeypatch.setattr(time, "sleep", lambda s: now_ns.append(now_ns.pop() + round(s * 1e9)))
    held.aged_status(file)
    assert now_ns[0] - written_ns == 2 * held.TICK_NS
    monkeypatch.setattr(time, "time_ns", lambda: file.stat().st_ctime_ns)  # it never stops changing
    with pytest.raises(OSError, match="busy"):
        held.aged_status(file)
