"""Work is never silent: stages and numbers on a terminal, a plain line from time to time elsewhere, nothing with -q."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import progress
from robustcheck_onnx.checker.measure import Progress
from robustcheck_onnx.thresholds import profile
from support.calibrations import N_MODELS, Calibrated
from support.measuring import never_narrow

COMMAND = Path(sys.executable).parent / "robustcheck"
MEASURED = Progress(64, 80, 12.34, "kurtosis 1–2 against 3")


def waited(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within some seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_elsewhere_a_plain_line_comes_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    with progress.progress_line(0, "m.onnx") as line:
        assert line is not None
        monkeypatch.setattr(sys, "stderr", io.StringIO())  # as an exporter does while a library works
        line.stage("opening the model")
        assert waited(lambda: log.getvalue().count("opening the model\n") > 1)  # a stage that takes long
        line(MEASURED)
        assert waited(lambda: "measuring" in log.getvalue())
    said = log.getvalue()
    assert re.search(r"^m\.onnx: 0 s: opening the model$", said, re.MULTILINE)
    assert "m.onnx: 0 s: measuring, 64 of 80 images, 12.3 images/s, kurtosis 1–2 against 3\n" in said
    time.sleep(0.1)
    assert log.getvalue() == said  # the end of the block is the end of the lines


def test_a_short_run_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress.progress_line(0, "m.onnx") as line:
        assert line is not None
        line(MEASURED)
    assert log.getvalue() == ""
    assert progress.EVERY_S == 10


@pytest.mark.parametrize("quiet", [1, 2])
def test_quiet_is_quiet(quiet: int) -> None:
    with progress.progress_line(quiet, "m.onnx") as line:
        assert line is None


def test_a_full_stderr_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with progress.progress_line(0) as line:
            assert line is not None
            line.stage("opening")
            time.sleep(0.05)
        monkeypatch.undo()
        full.close = lambda: None  # type: ignore[method-assign] # what waits in its buffer can't be written either


def test_a_name_forges_no_line() -> None:
    shown = progress._Shown("opening")
    assert progress.plain_line(shown, "a\nb.onnx", 12.4) == "a\\nb.onnx: 12 s: opening"


def on_a_terminal(*words: str | Path, columns: int = 80) -> tuple[int, list[str]]:
    """The exit code of a command whose stderr is a terminal, and the lines that it showed there."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *words], stdout=subprocess.DEVNULL, stderr=terminal,
        env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)},
    ) as child:  # fmt: skip
        os.close(terminal)
        seen = b""
        try:
            while data := os.read(controller, 65536):
                seen += data
        except OSError:  # the other end is closed: all was read
            pass
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    return child.returncode, [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_a_terminal_shows_stages_and_images(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    (tmp_path / "all.json").write_text(profile.to_json(never_narrow()), encoding="utf-8")
    code, lines = on_a_terminal(model, "--images", photos, "--thresholds", tmp_path / "all.json")
    assert code == 1
    shown = dict.fromkeys(re.sub(r"  .*| *\d.*", "", line) for line in lines)
    stages = ["opening the model and the images", "loading the model", "trying the model on a few images"]
    assert list(shown) == ["starting", *stages, "first images", "measuring"]
    assert any(re.match(r"measuring +\d+/80 +\d+\.\d images/s", line) for line in lines)
    assert all(len(line) <= 80 for line in lines)
    code, lines = on_a_terminal(model, "--images", photos, "-q")
    assert (code, lines) == (0, [])


STAGES = {
    "compare": {"loading the candidate", "loading the reference", "trying the models on a few images", "measuring"},
    "scan": {"opening the model and the images", "finding the blocks"},
    "verify": {"reading the report and the model", "comparing the images", "loading the model", "measuring"},
}


@pytest.mark.parametrize("verb", STAGES)
def test_other_verbs_show_their_work(verb: str, lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    report = tmp_path / "report.json"
    if verb == "verify":
        words: list[str | Path] = [COMMAND, model, "--images", photos, "-o", f"json={report}"]
        subprocess.run(words, check=True, capture_output=True)
    asked = {"compare": [model, model], "scan": [model], "verify": [report, model]}[verb]
    code, lines = on_a_terminal(verb, *asked, "--images", photos)
    assert code == 0 if verb != "scan" else code in {0, 3}  # this model has no blocks
    stages = {re.sub(r"  .*| *\d.*", "", line) for line in lines}
    assert stages >= STAGES[verb]


def test_the_demo_shows_its_work() -> None:
    code, lines = on_a_terminal("demo")
    shown = list(dict.fromkeys(re.sub(r"  .*| *\d.*", "", line) for line in lines))
    stages = ["starting", "making two tiny encoders from the bundled photos", "opening the model and the images"]
    assert (code, shown[:3]) == (0, stages)


def test_a_calibration_shows_what_it_does_and_keeps_what_it_did(calibrated: Calibrated, tmp_path: Path) -> None:
    where = ("--suite", calibrated.suite, "--images", calibrated.photos, "--cache", tmp_path / "cache")
    rows = calibrated.table.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_text("".join(rows[:-2]), encoding="utf-8")
    some = ("--results", tmp_path / "some.jsonl", "--out", tmp_path / "p.json", "--device", "cpu")
    code, lines = on_a_terminal("calibrate", *where, *some, columns=110)
    assert code == 0
    bare = [re.sub(r"(  | [━╸╺]).*", "", line) for line in lines]
    activity = [line for line in dict.fromkeys(bare) if line.startswith(("reading", "measuring"))]
    assert activity == ["reading images and models", *(f"measuring, {n} of 2 models done" for n in (0, 1, 2))]
    assert f"{N_MODELS} models: {N_MODELS - 2} measured before, 2 to do" in bare
    assert sum(line.startswith("measured made_") for line in bare) == 2
    code, lines = on_a_terminal("calibrate", *where, *some, "-q")
    assert (code, lines) == (0, [])
