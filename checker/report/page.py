"""Write the HTML page from documents. Pure.

No script, no font, no picture from elsewhere: a policy in the page forbids it. Pictures of numbers are inline SVG;
photos come as `data:` URIs (outside/image_sets/thumbnails.py) or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..core.verdict.kinds import KINDS
from ..errors import EXIT_CODES
from ..text import HOME, around, count_text, page, printable
from . import charts
from .document import Cell, Document, File, Section, cell_of, document_of, name, page_sections
from .model_names import FormOptions, model_of
from .record import Failed, Outcome, Outcomes
from .template import TEMPLATES
from .words import SIGNS, cautions, counts_text, rank_of, spelled, without_model, word_of


def write_html(outcomes: Outcomes, options: FormOptions) -> str:
    """Write one page about all models. Several have a list first, then a part each, the worst first."""
    ordered = sorted(outcomes, key=rank_of)
    documents = [_document(outcome, options) for outcome in ordered]
    if max(options.n_models, len(documents)) > 1:
        documents = [replace(document, decides=ONE_OF_SEVERAL) for document in documents]
    return _written(_title(outcomes), documents)


def of_document(document: Document) -> str:
    """Write one self-contained page about a question's result, with a newline at the end."""
    head = document.verdict.text if document.verdict else document.question
    return _written(f"{head}: {document.model.file}", [document])


ONE_OF_SEVERAL = "This file"


def release_text(exit_code: int, *, is_allowed: bool = False, subject: str = "The release") -> tuple[str, str]:
    """Write whether a release may go, and what the exit code does to a pipeline.

    Args:
        exit_code: of the run, or of one of its models.
        is_allowed: whether there are reasons for WARN, and the rule of the run lets them through.
        subject: what may go; ONE_OF_SEVERAL for one of several models, whose exit code is not the run's.

    >>> release_text(1)
    ('The release is stopped.', 'Exit code 1: a pipeline stops here.')
    >>> release_text(0, is_allowed=True)
    ('The release may go although there are reasons for WARN.', 'Exit code 0: a pipeline goes on.')
    >>> release_text(0, subject=ONE_OF_SEVERAL)
    ('This file may go.', 'Exit code 0 of this file; the run ends with the worst of all its files.')
    """
    effect = "a pipeline stops here" if exit_code else "a pipeline goes on"
    effect = f"Exit code {exit_code}: {effect}."
    if subject == ONE_OF_SEVERAL:
        effect = f"Exit code {exit_code} of this file; the run ends with the worst of all its files."
    if exit_code:
        return f"{subject} is stopped.", effect
    although = ""
    if is_allowed:
        although = " although there are reasons for WARN"
    return f"{subject} may go{although}.", effect


def photo(uri: str) -> str:
    """Return a picture's `data:` URI. Empty for any other address, since the page loads nothing."""
    if uri.startswith(("data:image/jpeg;base64,", "data:image/webp;base64,")):
        return uri
    return ""


def _written(title: str, documents: Sequence[Document]) -> str:
    codes = [document.exit_code for document in documents if document.exit_code is not None]
    versions = sorted({document.version for document in documents if document.version})
    template = _pages().get_template("page.html.j2")
    exit_code = max(codes, default=None)
    is_allowed = exit_code == 0 and any(document.reasons for document in documents)
    return template.render(
        title=title, versions=versions, documents=documents, exit_code=exit_code, is_allowed=is_allowed
    )


def _document(outcome: Outcome, options: FormOptions) -> Document:
    """Return the document of an outcome, with the sections that the page alone has. The limits stay last."""
    if isinstance(outcome, Failed):
        return _without_verdict(outcome)
    document = document_of(outcome)
    *sections, limits = document.sections
    sections += page_sections(outcome, options)
    return replace(document, cautions=tuple(cautions(outcome)), sections=(*sections, limits))


def _without_verdict(failed: Failed) -> Document:
    """Return the document of a model that could not be assessed."""
    blocks = (name(failed.message), name(failed.hint))
    return Document(
        question="check",
        model=File(failed.model),
        summary=f"ERROR: {without_model(failed)}",
        sections=(Section("What went wrong", "", tuple(block for block in blocks if block.text)),),
        version="",
        verdict=Cell(f"{SIGNS['ERROR']} ERROR", "fail"),
        exit_code=failed.exit_code,
        rule=EXIT_CODES.get(failed.exit_code, "error"),
        decides="The release",
        headline="ERROR: this model could not be assessed. There is no verdict on it.",
        remark="",
    )


def _title(outcomes: Outcomes) -> str:
    if len(outcomes) == 1:
        return f"{word_of(outcomes[0])}: {model_of(outcomes[0])}"
    return count_text(len(outcomes), "model") + around(": ", counts_text(outcomes))


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
    environment.filters |= {"cell": cell_of, "kind": lambda block: type(block).__name__, "spelled": spelled}
    helpers = [photo, release_text]
    environment.globals |= {helper.__name__: helper for helper in helpers}
    guide = page("how-to-read", HOME)
    environment.globals |= {"drawn": charts, "KINDS": KINDS, "guide": guide, "guide_is_address": bool(HOME)}
    return environment


def _page_text(value: object) -> object:
    """Escape what a template writes. Names can't steer the page, coordinates get two decimals, None is an error."""
    if value is None:
        raise ValueError("a template wrote None; it must ask first")
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return printable(value)
    return value
