"""Write the JSON form. It has the report's own fields, or those of several models in one document; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustcheck_onnx.checker.text import SCHEMA_VERSION, as_json, error_json

from .forms import FormOptions
from .record import Failed, Outcome, to_json


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one report, or several as `{"reports": [...]}`. A model that failed has an error document."""
    del options
    if len(outcomes) == 1:
        (outcome,) = outcomes
        if isinstance(outcome, Failed):
            return error_json(outcome.message, outcome.hint, outcome.exit_code)
        return to_json(outcome)
    return as_json({"schema_version": SCHEMA_VERSION, "tool": "robustcheck", "reports": documents(outcomes)})


def documents(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the document of each outcome. It has a report's fields, or the model with its error."""
    return [
        {"model": o.model, "error": {"message": o.message, "hint": o.hint, "exit_code": o.exit_code}}
        if isinstance(o, Failed)
        else o.model_dump(mode="json")
        for o in outcomes
    ]
