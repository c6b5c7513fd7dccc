"""The wall without its child process: tasks run in this process, where a test can watch and change what they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from robustcheck_onnx.checker import child
from robustcheck_onnx.checker.limits import NO_LIMITS, Limits
from robustcheck_onnx.checker.progress import Progress, Tell


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
        self,
        task: str,
        arguments: Mapping[str, Any],
        *,
        about: str,
        tell: Tell | None = None,
        is_last: bool = True,
        tries: int = 1,
    ) -> Any:
        del about, is_last, tries

        def progress(now: Progress) -> None:
            if tell is not None:
                tell(now)

        answer = child.TASKS[task](json.loads(json.dumps(arguments)), progress)
        return json.loads(json.dumps(answer, allow_nan=False))

    def stop(self) -> None:
        """Nothing runs beside this thread."""
