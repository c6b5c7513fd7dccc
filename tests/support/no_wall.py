"""The wall without its child process: tasks run in this process, where a test can watch and change what they do."""

import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from robustcheck_onnx.checker import child
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits, Progress, Tell, Wall


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

    def n_side_by_side(self, bytes_each: int) -> int:
        del bytes_each
        return 1

    def stop(self) -> None:
        """Nothing runs beside this thread."""
