"""Bad input through the real command: one clear error, the right exit code, nothing half-written.

Every row runs `robustcheck` in a folder of broken files (bad_files.py). "…" in an expected message stands for text
that depends on versions or on the machine.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COMMAND = str(Path(sys.executable).parent / "robustcheck")
NATIVE = re.compile(r"\.(cc|h|cu)\b|::|\[ONNXRuntimeError\]|Traceback")  # of ONNX Runtime's source, of Python
Done = subprocess.CompletedProcess[str]


class Row(NamedTuple):
    """A command line (split at blanks), its exit code, its message and its hint."""

    call: str
    code: int
    message: str
    hint: str

    @property
    def arguments(self) -> list[str]:
        return [word.replace("␣", " ") for word in self.call.split(" ")] if self.call else []


def environment(**more: str) -> dict[str, str]:
    """The caller's, without what would change messages, and without a network for the model hubs."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONUNBUFFERED")}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | more


def run(folder: Path, *arguments: str, before: Callable[[], None] | None = None, **more: str) -> Done:
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(**more),
        preexec_fn=before,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, hidden ones too, with its size and time of change."""
    status = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in status.items()}


def agrees(expected: str, text: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in expected.split("…")), text) is not None


def assert_says(done: Done, code: int, message: str, hint: str) -> None:
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (code, 2), done.stderr
    assert not NATIVE.search(done.stderr)
    assert agrees(f"error: {message}", lines[0]), lines[0]
    assert agrees(f"hint: {hint}", lines[1]), lines[1]


def check_row(world: Path, row: Row, command: Callable[..., Done]) -> None:
    before = contents(world)
    done = command(world, *row.arguments)
    assert_says(done, row.code, row.message, row.hint)
    assert done.stdout == ""
    assert contents(world) == before


def small_files() -> None:
    """Files of at most 2 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


SIGNALS = [
    (signal.SIGINT, 130, "interrupted (SIGINT)"),
    (signal.SIGTERM, 143, "terminated (SIGTERM)"),
]


def default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell gives background jobs one that is ignored
