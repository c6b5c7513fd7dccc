"""What only a process of its own can show: closed streams, full devices, rights, memory that ends, signals."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support import ROOT, profile
from support.bad_input import (
    COMMAND,
    SIGNALS,
    agrees,
    assert_says,
    contents,
    default_signals,
    environment,
    run,
    small_files,
    without_progress,
)

pytestmark = pytest.mark.process


def test_what_stdout_cannot_take_is_no_success(world: Path, tmp_path: Path) -> None:
    """With PYTHONUNBUFFERED, Python itself drops the rest of a short write without a word."""
    for call, buffering in (("pass.onnx --images photos -o json", "1"), ("explain schema", "")):
        with (tmp_path / "out").open("wb") as out, small_files():
            done = subprocess.run(
                [COMMAND, *call.split()], cwd=world, stdout=out, stderr=subprocess.PIPE, text=True, check=False,
                env=environment(PYTHONUNBUFFERED=buffering), timeout=profile.PATIENCE_S,
            )  # fmt: skip
        assert_says(
            done,
            4,
            "stdout: system says File too large; space, quota, file handles and rights must be there",
            "df -h; ulimit -a",
        )


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="/dev/full is Linux's")
def test_a_full_device(tmp_path: Path) -> None:
    """A hint that nobody can read changes no exit code either."""
    (tmp_path / "explain").mkdir()
    (tmp_path / "explain" / "m.onnx").touch()
    for call, stream, code in (("explain", "stdout", 4), ("explain", "stderr", 0), ("--bogus", "stderr", 2)):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
            done = subprocess.run(
                [COMMAND, call], cwd=tmp_path, check=False, env=environment(), timeout=profile.PATIENCE_S, **streams
            )
        assert done.returncode == code
        assert stream == "stdout" or bool(done.stdout) == (code == 0)


def test_a_reader_that_goes_away(world: Path) -> None:
    """`robustcheck --help | head -1` is no error; a verdict that nobody read is no success."""
    for call, code in (("check --help", 0), ("explain", 0), ("pass.onnx --images photos -o json", 4)):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as gone:
            done = subprocess.run(
                [COMMAND, *call.split()], cwd=world, stdout=gone, stderr=subprocess.PIPE, text=True, check=False,
                env=environment(), timeout=profile.PATIENCE_S,
            )  # fmt: skip
        assert (done.returncode, without_progress(done.stderr)) == (code, "")


def test_closed_streams(world: Path) -> None:
    for call, closed, code in (
        ("pass.onnx --images photos", ">&-", 4),
        ("pass.onnx --images photos -qq", ">&- 2>&-", 0),
        ("--bogus", "<&- >&- 2>&-", 2),
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", f'"$0" {call} {closed}', COMMAND],
            cwd=world, capture_output=True, text=True, check=False, env=environment(), timeout=profile.PATIENCE_S,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (code, "")
        if code == 4:
            said = without_progress(done.stderr).splitlines()
            assert said[0] == "error: stdout is closed; a report must have somewhere to go"


def without_rights() -> None:
    """Take root's right to read and write everything from the command (Linux capabilities 1 and 2)."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # 24: PR_CAPBSET_DROP


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rights are taken with Linux capabilities")
def test_folders_and_files_without_rights(world: Path, tmp_path: Path) -> None:
    closed, fixed = tmp_path / "closed", tmp_path / "fixed"
    for folder in (closed, fixed):
        folder.mkdir()
    (tmp_path / "secret.onnx").write_bytes(b"x")
    rows = [
        (
            ["pass.onnx", "--images", str(closed)],
            f"error: {closed}: folder cannot be read (Permission denied); all folders of an image set must be readable",
            f"hint: ls -ld {closed}",
            2,
        ),
        (
            [str(tmp_path / "secret.onnx")],
            "error: …secret.onnx: model file is not readable (Permission denied); …",
            "hint: ls -l …secret.onnx",
            3,
        ),
        (
            ["pass.onnx", "-o", f"json={fixed}/r.json"],
            f"error: {fixed}/r.json: folder {fixed} is not writable; reports are written into it",
            f"hint: ls -ld {fixed}",
            4,
        ),
        (
            ["pass.onnx", "-o", f"json={closed}/r.json"],
            f"error: {closed}/r.json: report path is not usable (Permission denied); …",
            f"hint: ls -ld {closed}",
            2,
        ),
    ]
    code = f"""
import sys
from robustcheck_onnx.checker import cli
for words in {[row[0] for row in rows]!r}:
    print(cli.main(words), file=sys.stderr)
"""
    try:
        closed.chmod(0)
        fixed.chmod(0o500)
        (tmp_path / "secret.onnx").chmod(0)
        done = subprocess.run(
            [sys.executable, "-Pc", code], cwd=world, capture_output=True, text=True, check=False, env=environment(),
            preexec_fn=without_rights,  # this process has no threads that hold a lock
            timeout=profile.PATIENCE_S,
        )  # fmt: skip
    finally:
        for folder in (closed, fixed):
            folder.chmod(0o700)
    expected = [line for _, error, hint, exit_code in rows for line in (error, hint, str(exit_code))]
    said = without_progress(done.stderr).splitlines()
    assert len(said) == len(expected), done.stderr
    for shown, words in zip(said, expected, strict=True):
        assert agrees(words, shown), shown


# ---------------------------------------------------------------------------------------------------- memory


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
    done = subprocess.run(
        call, cwd=world, env=environment(), capture_output=True, text=True, check=False, timeout=profile.PATIENCE_S
    )
    said = "threads: no more can be started; memory, or the limit of processes, is too low"
    assert (done.returncode, done.stderr) == (4, f"error: {said}\nhint: ulimit -v -u\n")


# --------------------------------------------------------------------------------------------------- signals


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
        out, _ = process.communicate(timeout=profile.PATIENCE_S)
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
    shown, end = b"", time.monotonic() + profile.PATIENCE_S
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
    end = time.monotonic() + profile.PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with contextlib.suppress(FileNotFoundError):  # one that has ended
            pids = [str(process.pid), *children.read_text(encoding="utf-8").split()]
            if sum(map(cpu_time_s, pids)) >= cpu_s:
                break
    assert process.poll() is None


def cpu_time_s(pid: str) -> float:
    """User and system time of a process on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the work of a process is read from /proc")
def test_a_graph_that_never_ends_can_be_interrupted(world: Path) -> None:
    """Python runs no signal handler during a native call; `timeout` sends its signal twice."""
    call = ["endless.onnx", "--images", "five", "--preprocess", "imagenet"]
    number, code, words = SIGNALS[1]
    with subprocess.Popen(
        [COMMAND, *call],
        cwd=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=default_signals,  # noqa: PLW1509 # this process has no threads that hold a lock
    ) as process:  # fmt: skip
        work(process, 1.2)  # seconds; start-up takes some 0.5
        process.send_signal(number)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=profile.PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, "")
    assert without_progress(err) == f"error: {words}; there is no verdict, and nothing half-written is left\n"


# ------------------------------------------------------------------------------------------ exports, benchmark


@pytest.mark.long
def test_an_interrupted_export_leaves_nothing(world: Path, tmp_path: Path) -> None:
    mark, target = tmp_path / "mark", tmp_path / "out"
    target.mkdir()
    number, code, words = SIGNALS[1]  # both go the same way, as for a check
    call = ["export", "torch", "net:build_slow", "--preprocessing", "p_net.json", "--random-weights"]
    with subprocess.Popen(
        [COMMAND, *call, "-o", str(target / "m.onnx")],
        cwd=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(MARK=str(mark)),
        preexec_fn=default_signals,  # noqa: PLW1509 # this process has no threads that hold a lock
    ) as process:  # fmt: skip
        end = time.monotonic() + profile.PATIENCE_S
        while not mark.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        drafts = [path.name for path in target.iterdir()]
        process.send_signal(number)
        out, err = process.communicate(timeout=profile.PATIENCE_S)
    assert drafts
    assert drafts[0].startswith(".robustcheck-export-")
    assert (process.returncode, out) == (code, "")
    assert without_progress(err) == f"error: {words}; there is no verdict, and nothing half-written is left\n"
    assert list(target.iterdir()) == []


@pytest.mark.long
def test_an_export_on_a_full_disk_leaves_nothing(world: Path, tmp_path: Path) -> None:
    call = ["export", "torch", "net:build", "--preprocessing", "p_net.json", "--random-weights"]
    with small_files():
        done = run(world, *call, "-q", "-o", str(tmp_path / "m.onnx"))  # -q: no line of progress where it takes long
    assert_says(
        done,
        4,
        f"{tmp_path / 'm.onnx'}: file could not be written (File too large); nothing is left",
        f"df -h {tmp_path}; ls -ld {tmp_path}",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for what is left in /proc")
def test_kills_at_random_moments_leave_nothing_that_they_must_not() -> None:
    """The benchmark in its smallest form; it ends with 0 only where it found nothing wrong."""
    script = str(ROOT / "benchmarks" / "kills.py")
    call = [sys.executable, script, "--kills", "1", "--signals", "1", "--aimed", "1", "--seed", "7"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=profile.PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
