"""The HTML form: one page that needs nothing but itself, for people who decide about a release; pure.

No script, no font, no picture from elsewhere: a policy in the page forbids it. Pictures of numbers are inline SVG;
photos come as `data:` URIs (thumbnails.py) or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from robustcheck_onnx.checker import report_html_parts as views
from robustcheck_onnx.checker import report_parts as parts
from robustcheck_onnx.checker.formats import Options
from robustcheck_onnx.checker.report import Outcome

TEMPLATES = Path(__file__).parent / "templates"


def render(outcomes: Sequence[Outcome], options: Options) -> str:
    """One page: a table of all models where there are several, then a part for each, in the order given."""
    return _environment().get_template("page.html.j2").render(page=views.page_of(outcomes, options))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _shown(value: object) -> object:
    """What a template writes: names that can't steer the page's text, coordinates with two decimals, never None."""
    if value is None:
        raise ValueError("a template wrote None; it must ask first")
    if isinstance(value, float):
        return f"{value:.2f}"
    return (
        parts.name_text(value, ascii_only=False) if isinstance(value, str) and not hasattr(value, "__html__") else value
    )
