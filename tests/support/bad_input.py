"""Command lines, typed in this process or in one of their own, and what they must say.

"…" in an expected message stands for text that depends on versions or on the machine.
"""

import contextlib
import functools
import io
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import process
from support import BIN, Capture, documents, profile

COMMAND = str(BIN / "robustcheck")
NATIVE = re.compile(r"\.(cc|h|cu)\b|::|\[ONNXRuntimeError\]|Traceback")  # of ONNX Runtime's source, of Python
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
"""`run("pass.onnx --images photos", folder=…, **environment)`"""


def environment(**more: str) -> dict[str, str]:
    """The caller's, without what would change messages, and without a network for the model hubs."""
    others = ("COLUMNS", "PYTHONUNBUFFERED", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | more


def run(call: str | list[str], folder: Path | None = None, **options: Any) -> Done:
    """A command line of robustcheck, or another program's words, in a process of its own."""
    words = [COMMAND, *shlex.split(call)] if isinstance(call, str) else call
    defaults = {"cwd": folder, "env": environment(), **PIPES}
    done = subprocess.run(words, text=True, check=False, timeout=profile.PATIENCE_S, **defaults | options)
    assert not (fault := documents.fault_of(done.stdout or "")), fault
    return done


def python(code: str, *words: str, **options: Any) -> Done:
    """A program of Python in a process of its own."""
    return run([sys.executable, "-c", code, *words], **options)


def listening(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process that takes signals as one in a terminal does, and whose ends are read."""
    words = [COMMAND, *arguments]
    options = {"cwd": folder, "env": environment(), "preexec_fn": default_signals, **PIPES, **options}
    return subprocess.Popen(words, text=True, **options)  # this process has no threads that hold a lock


GROUP_OF = functools.cache(get_command)  # typer takes 70 ms to make all verbs, which a test need not pay each time


class Typed:
    """The command in this process. What it prints is captured at the file descriptors, compiled modules included."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def __call__(self, line: str, *words: str | Path, folder: Path = Path(), **more: str) -> Done:
        """What `robustcheck LINE` does in a folder. words: more of them, as they are; more: environment variables."""
        self._capture.readouterr()
        call = [*shlex.split(line), *map(str, words)]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(process, "get_command", GROUP_OF)
            for name in os.environ.keys() - environment().keys():
                patch.delenv(name)
            for name, value in environment(**more).items():
                patch.setenv(name, value)
            before = sys.stdout
            code = cli.main(call)
            sys.stdout.flush()
            if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is not before:
                sys.stdout.detach().detach()  # it would close the file that pytest reads
                sys.stdout = before
        done = Done(call, code, *self._capture.readouterr())
        assert not (fault := documents.fault_of(done.stdout)), fault
        return done


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, hidden ones too, with its size and time of change."""
    status = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in status.items()}


def agrees(expected: str, text: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in expected.split("…")), text) is not None


def without_progress(stderr: str) -> str:
    """What a command said, without the lines of progress that come where a machine is busy."""
    return re.sub(r"^(\S+: )?\d+ s: .*\n", "", stderr, flags=re.MULTILINE)


def assert_says(done: Done, code: int, message: str, hint: str) -> None:
    lines = without_progress(done.stderr).splitlines()
    assert (done.returncode, len(lines)) == (code, 2), done.stderr
    assert not NATIVE.search(done.stderr)
    assert agrees(f"error: {message}", lines[0]), lines[0]
    assert agrees(f"hint: {hint}", lines[1]), lines[1]


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Let this process, and what it starts, write files of at most 2 KiB, as on a disk that is full."""
    now, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (now, most))


def default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell gives background jobs one that is ignored
