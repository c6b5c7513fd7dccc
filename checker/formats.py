"""The forms in which a check's outcome is handed over, by the names that `-o FORMAT` takes.

Each form but the terminal's is a module `report_<name>` with one pure function `render(outcomes, options) -> str`,
imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from robustcheck_onnx.checker.report import Outcome, Report, sealed

TEXTS = ("json",)  # of: json, junit, sarif, markdown, html, openmetrics, modelcard, csv, gitlab
NAMES = ("terminal", *TEXTS)


@dataclass(frozen=True)
class Options:
    """What a form may need beside the outcomes."""

    thumbnails: Mapping[str, str] = field(default_factory=dict)
    """data: URIs of calibration images by their digest (html)"""


def render(form: str, outcomes: Sequence[Outcome], options: Options | None = None) -> str:
    """One document about all outcomes, in the order given; ends in a newline.

    form: one of TEXTS. Reports are sealed as they are: a gate may have come in since they were made.
    Raises UsageError where the form holds one model only and there are several.
    """
    module = import_module(f"robustcheck_onnx.checker.report_{form}")
    final = [sealed(outcome) if isinstance(outcome, Report) else outcome for outcome in outcomes]
    text: str = module.render(final, options or Options())
    return text
