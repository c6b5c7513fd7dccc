"""The limits for one model's process. Time, memory, and the size of the model are limited."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import EnvironmentFaultError, UsageError

MAX_MODEL_SIZE: Final = "ROBUSTCHECK_MAX_MODEL_SIZE"
"""Variable of the environment: most bytes of a model with its external data. Processes below this one heed it, too."""


@dataclass(frozen=True)
class Limits:
    """The limits of one child; None = no limit.

    Raises UsageError for a limit that is not a positive number.
    """

    timeout_s: float | None = None
    """seconds of one model, from its start to its end"""
    memory_bytes: int | None = None
    """memory of the child's own at any time, without the files that it maps (Linux only)"""
    model_bytes: int | None = None
    """size of the model file with its external data"""

    def __post_init__(self) -> None:
        for option, value in self.given.items():
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{option} is {value}; it must be more than 0", f"leave out {option} for no limit")
        if self.memory_bytes is not None and not STATUS.exists():
            raise EnvironmentFaultError(
                "--max-memory is not possible here; the memory of a process is read from /proc, as on Linux",
                "leave out --max-memory",
            )

    @property
    def given(self) -> dict[str, float]:
        """Return the set limits by their options."""
        all_of_them = {
            "--timeout": self.timeout_s,
            "--max-memory": self.memory_bytes,
            "--max-model-size": self.model_bytes,
        }
        return {option: value for option, value in all_of_them.items() if value is not None}

    def refuse_here(self) -> None:
        """Refuse limits where there is no child. Nothing would enforce them; raises UsageError."""
        if self.given:
            said = ", ".join(f"{option} {value:g}" for option, value in self.given.items())
            raise UsageError(
                f"limits are {said}; only a local child process has them",
                "isolate=True with images in files",
            )


STATUS: Final = Path("/proc/self/status")
NO_LIMITS: Final = Limits()


def max_model_bytes() -> int | None:
    """Return the environment's limit of a model's bytes.

    External data counts; the variable is `MAX_MODEL_SIZE`; None = no limit.

    Raises UsageError for a value that is not a size.
    """
    text = os.environ.get(MAX_MODEL_SIZE, "")
    if text.isdecimal() or not text:
        return int(text) if text else None
    from pydantic import ByteSize, TypeAdapter, ValidationError  # noqa: PLC0415 # where a person wrote the value

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as fault:
        raise UsageError(f"{MAX_MODEL_SIZE} is {text!r}; it must be a size", f"export {MAX_MODEL_SIZE}=2GiB") from fault
