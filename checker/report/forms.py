"""Render outcomes in the forms of `-o`.

Each form but the terminal's is a template of this package, or a module with one pure function
`render(outcomes, options) -> str`; what it needs is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import error_text

from .record import Failed, Outcome, Report, sealed

TEXTS = ("json", "junit", "sarif", "markdown", "html", "openmetrics", "modelcard", "gitlab", "predicate", "cyclonedx")
NAMES = ("terminal", *TEXTS)
OUTPUTS = (*NAMES, "template")
"""what `-o` of a check takes: a template is named with its file, and is not a form of `render`"""
PACKAGED = ("gitlab", "modelcard", "openmetrics")
"""forms that are templates of this package"""
ONE_MODEL = ("modelcard", "predicate")
"""forms that hold one model only"""


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 # a text
    except OSError:  # the folder was removed under the process
        return os.sep


def _repository() -> str:
    start = Path(_working_folder())
    return str(next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), start))


@dataclass(frozen=True)
class FormOptions:
    """The options that a form may need."""

    thumbnails: Mapping[str, str] = field(default_factory=dict)
    """data: URIs of calibration images by their digest (html)"""
    missing: Mapping[str, str] = field(default_factory=dict)
    """why an image has no thumbnail, by its digest (html)"""
    working_folder: str = field(default_factory=_working_folder)
    """absolute folder that models' relative paths start from (sarif, gitlab, annotations)"""
    root: str = field(default_factory=_repository)
    """absolute folder that a pipeline's paths are relative to: the nearest one upward that holds .git"""


def render(form: str, outcomes: Sequence[Outcome], options: FormOptions | None = None) -> str:
    """Write one document about all outcomes, in order. It ends in a newline.

    form: one of TEXTS. Each report gets the digest of what it holds now: a gate may have been added since it was made.
    Raises UsageError where the form holds one model only and there are several.
    """
    one_model(form, len(outcomes))
    final = [sealed(outcome) if isinstance(outcome, Report) else outcome for outcome in outcomes]
    module = import_module(f"{__package__}.{'template' if form in PACKAGED else form}")
    write = partial(module.packaged, form) if form in PACKAGED else module.render
    text: str = write(final, options or FormOptions())
    return text


def one_model(form: str, models: int) -> None:
    """Refuse several models for a one-model form. Raises UsageError."""
    if form in ONE_MODEL and models != 1:
        raise UsageError(
            f"--output is {form} for {models} models; it holds one model only",
            f"robustcheck model.onnx --images photos/ -o {form}",
        )


def render_error(form: str, message: str, hint: str, exit_code: int, model: str = "") -> str:
    """Write the document of a run without a verdict. It is valid in its form, and never to be read as a PASS.

    form: one of NAMES. model: as it was given; empty where it is not known.
    """
    if form == "terminal":
        return error_text(message, hint, exit_code)
    return render(form, [Failed(model=model, message=message, hint=hint, exit_code=exit_code)])
