"""benchmarks/kills.py, in short: what kills and signals at random moments leave; and what it would find wrong."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support import benchmark_scripts

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for what is left in /proc"),
]


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    benchmark_scripts.load("kills_runs")
    return benchmark_scripts.load("kills")


def test_a_few_strikes_leave_nothing_that_they_must_not(kills: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        assert kills.main(["--kills", "4", "--signals", "4", "--aimed", "2", "--seed", "7"]) == 0
    finally:
        signal.signal(signal.SIGINT, interrupt)
    shown = capsys.readouterr()
    assert shown.err == ""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.out.splitlines()[2:]]
    assert sum(int(row[2]) for row in rows) == 13
    assert {row[0] for row in rows} == {"check", "calibrate", "compare --write-baseline", "sign"}


EARLIER = {"report.json": "earlier", "r.html": "earlier", "report.sigstore.json": "earlier"}


@pytest.mark.parametrize(
    ("changed", "code", "number", "left", "n_faults"),
    [
        ({}, -9, signal.SIGKILL, "as before", 0),
        ({}, 0, signal.SIGKILL, "as before", 1),  # a PASS of an earlier run, as if it were this one's
        ({}, 130, signal.SIGINT, "as before", 1),
        ({}, -2, signal.SIGINT, "as before", 0),
        ({"report.json": "unfinished"}, -9, signal.SIGKILL, "part marked", 1),  # a signature beside it
        ({"report.json": "unfinished", "report.sigstore.json": "none"}, -9, signal.SIGKILL, "part marked", 0),
        (dict.fromkeys(EARLIER, "new"), 0, signal.SIGKILL, "written", 0),
        (dict.fromkeys(EARLIER, "new"), 143, signal.SIGTERM, "written", 1),
        ({**dict.fromkeys(EARLIER, "new"), "r.html": "half-written"}, -9, signal.SIGKILL, "part written", 2),
        (dict.fromkeys(EARLIER, "error") | {"report.sigstore.json": "none"}, 143, signal.SIGTERM, "error", 0),
        (dict.fromkeys(EARLIER, "error") | {"report.sigstore.json": "none"}, 1, signal.SIGTERM, "error", 1),
    ],
)
def test_what_is_wrong_is_seen(
    kills: ModuleType, changed: dict[str, str], code: int, number: signal.Signals, left: str, n_faults: int
) -> None:
    forms = {"report.json": "json", "r.html": "html"}
    run = kills.Run("check", (), forms, dict.fromkeys(EARLIER, b"1"), dict.fromkeys(EARLIER, b"2"))
    found, faults = kills.judged(run, EARLIER | changed, code, number)
    assert (found, len(faults)) == (left, n_faults), faults


def test_a_process_that_is_left_is_found(kills: ModuleType, tmp_path: Path) -> None:
    mark = f"TMPDIR={tmp_path}\0".encode()
    assert list(kills.processes_with(mark)) == []
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "input()"], {"TMPDIR": str(tmp_path)})
    try:
        assert list(kills.processes_with(mark)) == [pid]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
