"""What only a process of its own can show: closed streams, full devices, rights, memory that ends, signals."""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import PATIENCE_S, ROOT, bad_input
from support.bad_input import assert_says, environment, python, run, without_progress
from support.walls import wait_until

TERMINATED = "error: terminated (SIGTERM); there is no verdict, and nothing half-written is left\n"


def test_what_stdout_cannot_take_is_no_success(world: Path, tmp_path: Path) -> None:
    """With PYTHONUNBUFFERED, Python itself drops the rest of a short write without a word."""
    said = "stdout: system reports File too large; space, quota, file handles and rights must be there"
    for call, buffering in (("pass.onnx --images photos -o json", "1"), ("explain schema", "")):
        with (tmp_path / "out").open("wb") as out, bad_input.small_files():
            done = run(call, world, stdout=out, env=environment(PYTHONUNBUFFERED=buffering))
        assert_says(done, 4, said, "df -h; ulimit -a")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="/dev/full is Linux's")
def test_a_full_device(tmp_path: Path) -> None:
    for call, stream, code in (("explain", "stdout", 4), ("--bogus", "stderr", 2)):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            assert run(call, tmp_path, **{stream: full}).returncode == code


def test_a_reader_that_goes_away(world: Path) -> None:
    """`robustcheck --help | head -1` is not an error; a verdict that nobody read is not a success."""
    for call, code in {"check --help": 0, "explain": 0, "pass.onnx --images photos -o json": 4}.items():
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as gone:
            done = run(call, world, stdout=gone)
        assert (done.returncode, without_progress(done.stderr)) == (code, "")


def test_closed_streams(world: Path) -> None:
    for call, code, said in (
        ("pass.onnx --images photos >&-", 4, "error: stdout is closed; a report needs an open stream or a file"),
        ("pass.onnx --images photos -qq >&- 2>&-", 0, ""),
        ("--bogus <&- >&- 2>&-", 2, ""),
    ):
        done = run(["/bin/sh", "-c", f"{bad_input.COMMAND} {call}"], world)
        assert (done.returncode, done.stdout) == (code, "")
        assert without_progress(done.stderr).partition("\n")[0] == said


def without_rights() -> None:
    """Take root's right to read and write everything from the command (Linux capabilities 1 and 2)."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # 24: PR_CAPBSET_DROP


RIGHTS = """\
pass.onnx --images closed => 2 => ls -ld closed => closed: folder cannot be read (Permission denied); all folders of
    an image set must be readable
secret.onnx => 3 => ls -l secret.onnx => secret.onnx: model file is not readable (Permission denied); …
pass.onnx -o json=fixed/r.json => 4 => ls -ld fixed => fixed/r.json: folder fixed is not writable; reports are written
    into it
pass.onnx -o json=closed/r.json => 2 => ls -ld closed => closed/r.json: report path is not usable (Permission denied); …
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rights are taken with Linux capabilities")
def test_folders_and_files_without_rights(here: Path) -> None:
    (here / "closed").mkdir(0)
    (here / "fixed").mkdir(0o500)
    (here / "secret.onnx").touch(0)
    code = """
import sys
from robustcheck_onnx.checker import cli
for call in sys.argv[1:]:
    print(cli.main(call.split()), file=sys.stderr)
"""
    try:
        rows = [line.split(" => ") for line in RIGHTS.replace("\n    ", " ").splitlines()]
        calls = [row[0] for row in rows]
        done = python(code, *calls, preexec_fn=without_rights)  # this process has no threads that hold a lock
    finally:
        for name in ("closed", "fixed"):
            (here / name).chmod(0o700)
    expected = [words for _, code, hint, error in rows for words in (f"error: {error}", f"hint: {hint}", code)]
    said = without_progress(done.stderr).splitlines()
    assert [shown for words, shown in zip(expected, said, strict=True) if not bad_input.agrees(words, shown)] == []


# ---------------------------------------------------------------------------------------------------- memory


def little_memory() -> None:
    """600 MiB of address space, and one core, so that start-up needs the same everywhere."""
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS ignores RLIMIT_AS")
def test_memory_that_ends_is_the_environment(world: Path) -> None:
    little = environment(OPENBLAS_NUM_THREADS="1")
    done = run("large.onnx --images five", world, preexec_fn=little_memory, env=little)
    said = "large.onnx: memory ran out (4294967296 bytes were asked for); the model must fit with one image at least"
    assert_says(done, 4, said, "free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one")
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
    done = python(code, "pass.onnx", "--images", "five", "-qq", folder=world)
    said = "threads: no more can be started; memory, or the limit of processes, is too low"
    assert (done.returncode, done.stderr) == (4, f"error: {said}\nhint: ulimit -v -u\n")


# --------------------------------------------------------------------------------------------------- signals


def work(process: subprocess.Popen[str], cpu_s: float) -> None:
    """Wait until a process and those that it started have worked so long, however busy the machine is."""

    def has_worked() -> bool:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with contextlib.suppress(FileNotFoundError):  # one that has ended
            pids = [str(process.pid), *children.read_text().split()]
            return sum(map(cpu_time_s, pids)) >= cpu_s
        return False

    wait_until(lambda: has_worked() or process.poll() is not None)
    assert process.poll() is None


def cpu_time_s(pid: str) -> float:
    """User and system time of a process on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the work of a process is read from /proc")
def test_a_graph_that_never_ends_can_be_interrupted(world: Path) -> None:
    """Python runs no signal handler during a native call; `timeout` sends its signal twice."""
    with bad_input.listening(world, "endless.onnx", "--images", "five", "--preprocess", "imagenet") as process:
        work(process, 1.2)  # seconds; start-up takes some 0.5
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, out, without_progress(err)) == (143, "", TERMINATED)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for what is left in /proc")
def test_kills_at_random_moments_leave_nothing_that_they_must_not() -> None:
    """The benchmark in its smallest form; it ends with 0 only where it found nothing wrong."""
    few = "studies/kills.py --kills 1 --signals 1 --aimed 1 --seed 7"
    done = run([sys.executable, *few.split()], ROOT, env=None)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
