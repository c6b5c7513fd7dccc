"""The wall without a child process, and the children behind it as Linux lists them."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from robustcheck_onnx.checker import child
from robustcheck_onnx.checker.core.progress import Progress, Tell
from robustcheck_onnx.checker.outside.isolation import NO_LIMITS, Limits, Wall
from support import PATIENCE_S


class NoWall:
    """Stands for `isolation.Wall`. Arguments and answers go through JSON, as they do there; errors stay as they are."""

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        self.limits = limits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def run(
        self, task: str, arguments: Mapping[str, object], answer: Any, *, tell: Tell | None = None, **_: object
    ) -> Any:
        def progress(now: Progress) -> None:
            if tell is not None:
                tell(now)

        sent = json.dumps(to_jsonable_python(dict(arguments), by_alias=False, fallback=os.fspath))
        found = json.dumps(child.call(task, json.loads(sent), progress), allow_nan=False)
        return TypeAdapter(answer).validate_python(json.loads(found))

    threads = Wall.threads

    def n_side_by_side(self, child_bytes: int) -> int:
        del child_bytes
        return 1

    def stop(self) -> None:
        """Nothing runs beside this thread."""


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
