"""The one error of an export, with the same attributes as the checker's errors."""

from __future__ import annotations

import contextlib

USAGE = 2  # exit code: the call is wrong (unknown name, contradictory options, weights not asked for)
NOT_EXPORTED = 3  # exit code: no file could be made that agrees with the model it came from
ENVIRONMENT = 4  # exit code: an extra, a weights file or disk space is missing


class ExportError(Exception):
    """An export that left no file, with the fact, the next step and the exit code.

    Args:
        message: one line, "<file>: <thing> is <value>; <rule>" (no trailing full stop).
        hint: the next step, best of all a command to type; empty when there is none.
        exit_code: USAGE (2), NOT_EXPORTED (3) or ENVIRONMENT (4).
    """

    def __init__(self, message: str, hint: str = "", *, exit_code: int = NOT_EXPORTED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says; its type where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def install_hint(extra: str) -> str:
    """What to type for an extra: pip keeps the distribution that is installed, and brings what the extra names."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, rarely needed

    for name in ("robustcheck-onnx", "robustcheck-onnx-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            version(name)
            return f"pip install '{name}[{extra}]'"
    return f"pip install '.[{extra}]'  # in a clone"
