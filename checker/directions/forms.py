"""`robustcheck directions` in the forms that are written to files: JSON and HTML; pure."""

from __future__ import annotations

from importlib import import_module

from .records import DirectionsReport, to_json

FORMS = ("json", "html")


def render(form: str, report: DirectionsReport) -> str:
    """Write the report in a form (one of FORMS); it ends in a newline."""
    if form == "json":
        return to_json(report)
    text: str = import_module(f"{__package__}.html").render(report)  # needs a template engine, which JSON does not
    return text
