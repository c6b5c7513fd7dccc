"""Write the HTML page. Pure.

No script, no font, no picture from elsewhere: a policy in the page forbids it. Pictures of numbers are inline SVG;
photos come as `data:` URIs (outside/image_sets/thumbnails.py) or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...thresholds.statistics import DEFINITIONS
from ..core.verdict.reasons import KINDS, NAMES
from ..errors import EXIT_CODES
from ..text import count_text, gap_text, interval_text, number_text, percent_text, printable, short_checkpoint
from . import charts, numbers, words
from .document import Document, cell_of, document_of
from .model_names import FormOptions, model_of
from .record import Bound, Failed, Outcome
from .suite import suite_of
from .template import TEMPLATES
from .words import Finding, cautions, counts_text, findings, gate_text, is_stopped, rank_of, without_model, word_of


def write_html(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one page about all models. Several have a table first, then a part each, the worst first."""
    reports = [outcome for outcome in outcomes if isinstance(outcome, Bound)]
    galleries = [report.evidence.gallery for report in reports if report.evidence.gallery]
    return written(
        "page.html.j2",
        title=_title(outcomes),
        versions=sorted({report.tool_version for report in reports}),
        outcomes=sorted(outcomes, key=rank_of),
        options=options,
        has_photos=any(photo(options.thumbnails.get(i.digest, "")) for g in galleries for i in (*g.most, *g.least)),
    )


def of_document(document: Document) -> str:
    """Write one self-contained page about a question's result, with a newline at the end."""
    title = f"{document.verdict.text if document.verdict else document.question}: {document.model.file}"
    return written("document.html.j2", title=title, versions=[document.version], document=document)


def written(template: str, **values: object) -> str:
    """Write a page from a template. values: what it reads; `title` and `versions` at least."""
    text: str = _pages().get_template(template).render(**values)
    return text


def _title(outcomes: Sequence[Outcome]) -> str:
    if len(outcomes) == 1:
        return f"{word_of(outcomes[0])}: {model_of(outcomes[0])}"
    counts = counts_text(outcomes)
    return count_text(len(outcomes), "model") + (f": {counts}" if counts else "")


def photo(uri: str) -> str:
    """Return a picture's `data:` URI. Empty for any other address, since the page loads nothing."""
    return uri if uri.startswith(("data:image/jpeg;base64,", "data:image/webp;base64,")) else ""


@cache
def _pages() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_page_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["failed"] = lambda outcome: isinstance(outcome, Failed)
    environment.filters |= {
        "counted": count_text,
        "number": number_text,
        "percent": percent_text,
        "cell": cell_of,
        "finding": lambda reason: Finding(reason, None, None),
        "kind": lambda block: type(block).__name__,
        "signed": lambda value: f"{value:+z.1f}",
    }
    helpers = [gap_text, interval_text, photo, short_checkpoint, suite_of]
    helpers += [cautions, findings, gate_text, is_stopped, without_model]
    environment.globals |= {"document_of": document_of} | {helper.__name__: helper for helper in helpers}
    environment.globals |= {"words": words, "numbers": numbers, "drawn": charts, "EXIT_CODES": EXIT_CODES}
    environment.globals |= {"DEFINITIONS": DEFINITIONS, "KINDS": KINDS, "NAMES": NAMES}
    return environment


def _page_text(value: object) -> object:
    """Escape what a template writes. Names can't steer the page, coordinates get two decimals, None is an error."""
    if value is None:
        raise ValueError("a template wrote None; it must ask first")
    if isinstance(value, float):
        return f"{value:.2f}"
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
