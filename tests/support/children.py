"""The child processes behind the wall, as Linux lists them."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .profile import PATIENCE_S

Found = TypeVar("Found")


def children(pid: int) -> list[int]:
    """Those of a process that read models: a fork server of other tests is none."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it ends just now
            for child in (task / "children").read_text(encoding="utf-8").split():
                if b"checker.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return sorted(found)


def wait_until(happens: Callable[[], Found]) -> Found:
    """What the function gives, once that is true: it is asked again and again."""
    end = time.monotonic() + PATIENCE_S
    while not (found := happens()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def first_children(pid: int) -> list[int]:
    """`children`, once there are some."""
    return wait_until(lambda: children(pid))


def all_end(pids: list[int]) -> bool:
    """Whether all these processes end; one that nobody has waited for yet has ended."""
    return wait_until(lambda: not any(map(_runs, pids)))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
