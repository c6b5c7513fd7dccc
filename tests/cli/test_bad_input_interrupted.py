"""Bad input through the real command: memory that ends, and signals while a check runs."""

from __future__ import annotations

import contextlib
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.bad_input import COMMAND, SIGNALS, assert_says, contents, default_signals, environment, run


def little_memory() -> None:
    """600 MiB of address space, and one core, so that start-up needs the same everywhere."""
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS ignores RLIMIT_AS")
def test_memory_that_ends_is_the_environment(world: Path) -> None:
    done = run(world, "large.onnx", "--images", "five", before=little_memory, OPENBLAS_NUM_THREADS="1")
    assert_says(
        done,
        4,
        "large.onnx: memory ran out (4294967296 bytes were asked for); the model must fit with one image at least",
        "free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one",
    )
    assert done.stdout == ""


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS ignores RLIMIT_AS")
def test_threads_that_can_not_start_are_the_environment(world: Path) -> None:
    code = """
import resource, sys, threading
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
threading.stack_size(8 << 30)  # of Python's threads: more than there is
from robustcheck_onnx.checker import cli
sys.exit(cli.main(sys.argv[1:]))
"""
    call = [sys.executable, "-c", code, "pass.onnx", "--images", "five", "-qq"]
    done = subprocess.run(call, cwd=world, env=environment(), capture_output=True, text=True, check=False)
    said = "threads: no more can be started; memory, or the limit of processes, is too low"
    assert (done.returncode, done.stderr) == (4, f"error: {said}\nhint: ulimit -v -u\n")


@pytest.mark.parametrize(("number", "code", "words"), SIGNALS)
def test_an_interrupted_check_leaves_nothing(
    world: Path, tmp_path: Path, number: signal.Signals, code: int, words: str
) -> None:
    before = contents(world)
    (tmp_path / "old.json").write_text("old", encoding="utf-8")
    call = ["pass.onnx", "--images", "long.txt", "--thresholds", "t_never.json"]
    call += ["-o", f"json={tmp_path / 'old.json'}", "-o", f"terminal={tmp_path / 'new.txt'}", "-o", "json"]
    control, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *call],
        cwd=world, stdout=subprocess.PIPE, stderr=terminal, env=environment(TERM="xterm"),
        preexec_fn=default_signals,  # noqa: PLW1509 # this process has no threads that hold a lock
    ) as process:  # fmt: skip
        os.close(terminal)
        said = read_until(control, "images/s")
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
        said += read_until(control, "")
    os.close(control)
    assert process.returncode == code
    assert f"error: {words}; there is no verdict, and nothing half-written is left" in said
    assert "Traceback" not in said
    assert out == b""
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("old.json", "old")]
    assert contents(world) == before


def read_until(control: int, mark: str) -> str:
    """What a terminal shows until `mark` comes, or until the program ends."""
    shown, end = b"", time.monotonic() + 20
    while time.monotonic() < end and not (mark and mark.encode() in shown):
        if select.select([control], [], [], 0.1)[0]:
            try:
                piece = os.read(control, 65536)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not piece:
                break
            shown += piece
    return shown.decode(errors="replace")


def work(process: subprocess.Popen[str], cpu_s: float) -> None:
    """Wait until a process and those that it started have worked so long, however busy the machine is."""
    end = time.monotonic() + (30 if Path("/proc/self/stat").exists() else 3)
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):  # not Linux
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
            if sum(map(cpu_time_s, (str(process.pid), *children))) >= cpu_s:
                break
    assert process.poll() is None


def cpu_time_s(pid: str) -> float:
    """User and system time of a process on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("number", "code", "words"), SIGNALS)
def test_a_graph_that_never_ends_can_be_interrupted(world: Path, number: signal.Signals, code: int, words: str) -> None:
    """Python runs no signal handler during a native call; `timeout` sends its signal twice."""
    call = ["endless.onnx", "--images", "five", "--preprocess", "imagenet"]
    with subprocess.Popen(
        [COMMAND, *call],
        cwd=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=default_signals,  # noqa: PLW1509 # this process has no threads that hold a lock
    ) as process:  # fmt: skip
        work(process, 1.2)  # seconds; start-up takes some 0.5
        process.send_signal(number)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, "")
    assert err == f"error: {words}; there is no verdict, and nothing half-written is left\n"
