"""The HTML form: one page that needs nothing but itself, for people who decide about a release; pure.

No script, no font, no picture from elsewhere: a policy in the page forbids it. Pictures of numbers are inline SVG;
photos come as `data:` URIs (thumbnails.py) or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from robustcheck_onnx.checker.text import count_text, name_text, number_text

from .. import words
from ..forms import Options
from ..record import Failed, Outcome, Report
from .model import SIGNS, _model_of
from .views import Error, Model, Page, SummaryRow

TEMPLATES = Path(__file__).parent / "templates"


def render(outcomes: Sequence[Outcome], options: Options) -> str:
    """One page: a table of all models where there are several, then a part for each, in the order given."""
    return _environment().get_template("page.html.j2").render(page=page_of(outcomes, options))


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
    return name_text(value, ascii_only=False) if isinstance(value, str) and not hasattr(value, "__html__") else value


EXIT_MEANINGS = {
    2: "usage: an argument or a configuration file is wrong",
    3: "could not assess",
    4: "environment: something that was asked for is missing",
    70: "internal error",
}


# ---------------------------------------------------------------------------------------------------------- page


def page_of(outcomes: Sequence[Outcome], options: Options) -> Page:
    """The page about all outcomes, in the order given."""
    models = tuple(
        _error_of(outcome, f"model-{i}") if isinstance(outcome, Failed) else _model_of(outcome, f"model-{i}", options)
        for i, outcome in enumerate(outcomes, 1)
    )
    if len(models) == 1:
        title = f"{models[0].verdict}: {models[0].name}"
    else:
        counts = Counter(model.verdict for model in models)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SIGNS if counts[verdict])
        title = f"{count_text(len(models), 'model')}{told and f': {told}'}"
    rows = tuple(_summary_row(o, m) for o, m in zip(outcomes, models, strict=True))
    return Page(
        title=title,
        versions=tuple(sorted({o.tool_version for o in outcomes if isinstance(o, Report)})),
        summary=rows if len(rows) != 1 else (),
        models=models,
        has_pictures=any(image.uri for m in models if isinstance(m, Model) for image in (*m.most, *m.least)),
    )


def _summary_row(outcome: Outcome, model: Model | Error) -> SummaryRow:
    if isinstance(outcome, Failed):
        why = words.without_model(outcome.message, outcome.model)
        return SummaryRow(model.anchor, model.name, "ERROR", SIGNS["ERROR"], str(outcome.exit_code), why, "–", "–")
    s = outcome.evidence.statistics
    reasons = ", ".join(reason.id for reason in outcome.verdict.reasons)
    return SummaryRow(
        anchor=model.anchor,
        model=model.name,
        verdict=outcome.verdict.verdict,
        sign=SIGNS[outcome.verdict.verdict],
        exit_code="–" if outcome.gate is None else str(outcome.gate.exit_code),
        why=reasons or "no reason for WARN",
        kurtosis=number_text(s.kurtosis.estimate),
        images=str(s.n_images),
    )


def _error_of(failed: Failed, anchor: str) -> Error:
    meaning = EXIT_MEANINGS.get(failed.exit_code, "error")
    return Error(anchor, failed.model, failed.message, failed.hint, failed.exit_code, meaning)
