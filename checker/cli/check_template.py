"""The templates of a check's `-o template=FILE.j2[=PATH]`: who may name one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import UsageError

from .output import Destination
from .output_words import split, template_of

if TYPE_CHECKING:
    from .settings import Resolved


def files(resolved: Resolved) -> list[str]:
    """The templates that the settings name.

    Raises UsageError: a settings file or a variable names one, or one is a URL, or `template` stands alone.
    """
    named = [file for text in resolved.settings.output if (file := template_of(split(text)[0])) is not None]
    for file in named:
        if not file:
            raise UsageError(
                "--output is template; it needs the template's file", "-o template=slack.json.j2=slack.json"
            )
        if "output" not in resolved.typed:
            raise UsageError(
                f"{resolved.source('output')}: output is template={file}; a template writes what it likes, so only the "
                "command line may name one",
                f"remove it there, or type -o template={file}",
            )
        if "://" in file:
            raise UsageError(
                f"--output is template={file}; a template must be a file of this machine", "copy it here first"
            )
    return named


def check(destinations: Iterable[Destination]) -> None:
    """Refuse templates before anything is measured. Raises as `template.check`."""
    for form, path in destinations:
        if (file := template_of(form)) is not None:
            from robustcheck_onnx.checker.report import template

            template.check(Path(file), into_file=path is not None)
