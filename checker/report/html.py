"""Write the HTML form as one page. It needs no other file and is for people who decide about a release; pure.

The templates read the report's own records, with the helpers named in `_environment`. No script, no font, no picture
from elsewhere: a policy in the page forbids it. Pictures of numbers are inline SVG; photos come as `data:` URIs
(images/source.py) or not at all.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from robustcheck_onnx.checker.errors import EXIT_CODES
from robustcheck_onnx.checker.text import (
    count_text,
    gap_text,
    interval_text,
    number_text,
    percent_text,
    printable,
    short_checkpoint,
)
from robustcheck_onnx.checker.verdict.reasons import KINDS, NAMES
from robustcheck_onnx.thresholds.profile import DEFINITIONS

from . import charts, forms
from .charts import suite_of
from .document import Document, blocks_of, cell_of
from .forms import Finding, FormOptions, cautions, findings, model_of, rank_of, without_model
from .record import Failed, Outcome, Report
from .terminal import passed_by

TEMPLATES = Path(__file__).parent / "templates"


def write_html(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one page about all models. Several have a table first, then a part each, the worst first."""
    reports = [outcome for outcome in outcomes if isinstance(outcome, Report)]
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
    """Write one self-contained page about a question's result. It ends in a newline."""
    title = f"{document.verdict.text if document.verdict else document.question}: {document.model.file}"
    return written("document.html.j2", title=title, versions=[document.version], document=document)


def written(template: str, **values: object) -> str:
    """Write a page from a template. values: what it reads; `title` and `versions` at least."""
    text: str = _environment().get_template(template).render(**values)
    return text


def _title(outcomes: Sequence[Outcome]) -> str:
    verdicts = ["ERROR" if isinstance(outcome, Failed) else outcome.verdict.verdict for outcome in outcomes]
    if len(outcomes) == 1:
        return f"{verdicts[0]}: {model_of(outcomes[0])}"
    n = Counter(verdicts)
    counts = ", ".join(f"{n[verdict]} {verdict}" for verdict in forms.SIGNS if n[verdict])
    return count_text(len(outcomes), "model") + (f": {counts}" if counts else "")


def photo(uri: str) -> str:
    """Return a picture's `data:` URI. Empty for any other address, since the page loads nothing."""
    return uri if uri.startswith(("data:image/jpeg;base64,", "data:image/webp;base64,")) else ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_written,
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
    helpers = (
        blocks_of,
        findings,
        gap_text,
        interval_text,
        passed_by,
        photo,
        short_checkpoint,
        suite_of,
        without_model,
    )
    environment.globals |= {helper.__name__: helper for helper in helpers}
    environment.globals |= {"cautions": cautions, "words": forms, "drawn": charts, "EXIT_CODES": EXIT_CODES}
    environment.globals |= {"DEFINITIONS": DEFINITIONS, "KINDS": KINDS, "NAMES": NAMES}
    return environment


def _written(value: object) -> object:
    """Escape what a template writes. Names can't steer the page, coordinates get two decimals, None is an error."""
    if value is None:
        raise ValueError("a template wrote None; it must ask first")
    if isinstance(value, float):
        return f"{value:.2f}"
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
