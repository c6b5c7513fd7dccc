"""`robustcheck shift` in the form that is written to files: JSON; pure."""

from __future__ import annotations

from .records import ShiftReport, to_json

FORMS = ("json",)


def render(form: str, report: ShiftReport) -> str:
    """Write the report in a form (one of FORMS); it ends in a newline."""
    del form
    return to_json(report)
