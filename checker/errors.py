"""What can go wrong, as values: every error names the thing, its value, the rule and the next step.

The library raises; only `cli/` prints and exits. The exit code belongs to the class, so that "bad
usage", "could not assess" and "environment" are never confused with a verdict (0 PASS, 1 WARN).
"""

from __future__ import annotations

from typing import ClassVar


class RobustcheckError(Exception):
    """An error a user can act on.

    Args:
        message: one line, "<file>: <thing> is <value>; <rule>" (no trailing full stop).
        hint: the next step, best of all a command to type; empty when there is none.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RobustcheckError):
    """The call or a configuration file is wrong (exit 2)."""

    exit_code = 2


class CannotAssessError(RobustcheckError):
    """No verdict is possible: unreadable model, no usable images, no finite representation (exit 3)."""

    exit_code = 3


class EnvironmentFaultError(RobustcheckError):
    """What was asked for is not there: an execution provider, memory, disk space, an extra (exit 4)."""

    exit_code = 4
