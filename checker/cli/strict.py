"""`--strict`: what only the command line may say, where neither the checkout nor its variables are trusted.

A settings file comes with a checkout, and variables may come with its pipeline. The command line is of whoever runs the
check.
"""

from __future__ import annotations

import shlex

from robustcheck_onnx.checker.errors import UsageError

from .command_line import CommandLine
from .powers import HARMLESS, POWERS
from .settings import Resolved


def refuse(resolved: Resolved, line: CommandLine) -> None:
    """Refuse what `--strict` does not take.

    Args:
        resolved: the settings that hold.
        line: what was typed.

    Raises:
        UsageError: a model is named before `--`; a file or a variable says what only the command line may; the command
            line names no images.
    """
    if line.arguments != line.behind_dashes:
        before = line.arguments[: len(line.arguments) - len(line.behind_dashes)]
        raise UsageError(
            f"MODEL.onnx is {before[0]!r}, before --; with --strict models are named after --, so that no name is an "
            "option",
            f"robustcheck check --strict --images {shlex.quote(resolved.settings.images or 'photos/')} -- "
            f"{shlex.join(line.arguments)}",
        )
    said = [
        key
        for key in resolved.sources
        if POWERS[key].power != HARMLESS and key not in resolved.typed and resolved.is_other(key)
    ]
    if said:
        facts = "; ".join(f"{resolved.source(key)}: {key} is {resolved.shown(key)}" for key in said)
        raise UsageError(
            f"{facts}; with --strict only the command line may say that ({POWERS[said[0]].why})",
            f"remove it there, or type {' '.join(_typed(resolved, key) for key in said)}",
        )
    if resolved.settings.images is None:
        raise UsageError(
            "--images is missing; with --strict a gate names its photos: without it these would be the bundled ones, "
            "not yours (--images bundled says that they are meant)",
            "--images photos/",
        )


def _typed(resolved: Resolved, key: str) -> str:
    """The option that says the same on the command line."""
    if key == "waivers":
        return "--waivers FILE"
    value = getattr(resolved.settings, key.replace("-", "_"))
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"--{key} {shlex.quote(str(each))}" for each in values)
