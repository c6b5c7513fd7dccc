"""Work is never silent: stages and numbers on a terminal, a plain line from time to time elsewhere, nothing with -q."""

from __future__ import annotations

import io
import queue
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import progress
from robustcheck_onnx.checker.measure import Progress
from robustcheck_onnx.thresholds import profile
from support.calibrations import N_MODELS, Calibrated
from support.measuring import never_narrow
from support.terminal import Terminal

MEASURED = Progress(64, 80, 12.34, "kurtosis 1–2 against 3")


class Clock:
    """Time that passes when the test says so; stands for the event that ends the plain lines, too."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ends: queue.Queue[bool] = queue.Queue()
        self._asleep = threading.Semaphore(0)

    def wait(self, seconds: float) -> bool:
        assert seconds == progress.EVERY_S == 10
        self._asleep.release()
        return self._ends.get()

    def set(self) -> None:
        self._ends.put(True)

    def passes(self) -> None:
        """Let ten seconds pass, and what is due be written."""
        self._asleep.acquire()
        self.now += 10
        self._ends.put(False)
        self._asleep.acquire()
        self._asleep.release()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    fakes = {"Event": lambda: clock, "Thread": threading.Thread}
    monkeypatch.setattr(progress, "threading", SimpleNamespace(**fakes))
    return clock


def test_elsewhere_a_plain_line_comes_again_and_again(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress.progress_line(0, "m.onnx") as line:
        assert line is not None
        monkeypatch.setattr(sys, "stderr", io.StringIO())  # as an exporter does while a library works
        assert log.getvalue() == ""  # a short run says nothing
        line.stage("opening the model")
        clock.passes()
        clock.passes()  # a stage that takes long
        line(MEASURED)
        clock.passes()
    assert log.getvalue().splitlines() == [
        "m.onnx: 10 s: opening the model",
        "m.onnx: 20 s: opening the model",
        "m.onnx: 30 s: measuring, 64 of 80 images, 12.3 images/s, kurtosis 1–2 against 3",
    ]


def test_quiet_is_quiet() -> None:
    for quiet in (1, 2):
        with progress.progress_line(quiet, "m.onnx") as line:
            assert line is None


def test_a_full_stderr_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        failed, write = threading.Event(), full.write

        def watched(text: str) -> int:
            failed.set()
            return write(text)

        full.write = watched  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", full)
        with progress.progress_line(0) as line:
            assert line is not None
            line.stage("opening")
            failed.wait()
        monkeypatch.undo()
        full.close = lambda: None  # type: ignore[method-assign] # what waits in its buffer can't be written either


def test_a_name_forges_no_line() -> None:
    shown = progress._Shown("opening")
    assert progress.plain_line(shown, "a\nb.onnx", 12.4) == "a\\nb.onnx: 12 s: opening"


OnATerminal = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> OnATerminal:
    """Return the exit code of a command whose stderr is a terminal, and the lines that it showed there."""

    def run(*words: str | Path, columns: int = 80) -> tuple[int, list[str]]:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            patch.setenv("TERM", "xterm")
            patch.setenv("COLUMNS", str(columns))
            code = cli.main(list(map(str, words)))
        capsys.readouterr()
        return code, terminal.lines()

    return run


def test_a_terminal_shows_stages_and_images(
    lookup_pass: tuple[Path, Path], tmp_path: Path, on_a_terminal: OnATerminal
) -> None:
    model, photos = lookup_pass
    (tmp_path / "all.json").write_text(profile.to_json(never_narrow()), encoding="utf-8")
    code, lines = on_a_terminal(model, "--images", photos, "--thresholds", tmp_path / "all.json")
    assert code == 1
    shown = dict.fromkeys(re.sub(r"  .*| *\d.*", "", line) for line in lines)
    stages = ["opening the model and the images", "loading the model", "trying the model on a few images"]
    assert list(shown) == ["starting", *stages, "first images", "measuring"]
    assert any(re.match(r"measuring +\d+/80 +\d+\.\d images/s .*\d against \d", line) for line in lines)
    assert all(len(line) <= 80 and "━" not in line for line in lines)
    code, lines = on_a_terminal(model, "--images", photos, "-q")
    assert (code, lines) == (0, [])


STAGES = {
    "compare": {"loading the candidate", "loading the reference", "trying the models on a few images", "measuring"},
    "scan": {"opening the model and the images", "finding the blocks"},
    "verify": {"reading the report and the model", "comparing the images", "loading the model", "measuring"},
}


def test_other_verbs_show_their_work(
    lookup_pass: tuple[Path, Path], tmp_path: Path, on_a_terminal: OnATerminal
) -> None:
    model, photos = lookup_pass
    report = tmp_path / "report.json"
    assert cli.main([str(model), "--images", str(photos), "-qq", "-o", f"json={report}"]) == 0
    for verb, asked in {"compare": [model, model], "scan": [model], "verify": [report, model]}.items():
        code, lines = on_a_terminal(verb, *asked, "--images", photos)
        assert code == 0 if verb != "scan" else code in {0, 3}  # this model has no blocks
        assert {re.sub(r"  .*| *\d.*", "", line) for line in lines} >= STAGES[verb]


@pytest.mark.long
def test_a_calibration_shows_what_it_does_and_keeps_what_it_did(
    calibrated: Calibrated, tmp_path: Path, on_a_terminal: OnATerminal
) -> None:
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
