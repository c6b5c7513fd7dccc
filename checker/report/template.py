"""Write the forms that are templates: page, packaged ones, a user's own.

The page's templates read the report's own records, with the helpers named in `_pages`. No script, no font, no picture
from elsewhere: a policy in the page forbids it. Pictures of numbers are inline SVG; photos come as `data:` URIs
(images/source.py) or not at all.

Whoever names a template trusts it with the words, not with more: it gets the documents of the JSON form, reads files of
its own folder alone, and is rendered sandboxed in a child process with limits (`render_apart`).
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...thresholds import read_bytes
from ...thresholds.statistics import DEFINITIONS
from ..core.verdict.reasons import KINDS, NAMES
from ..errors import EXIT_CODES, CannotAssessError, EnvironmentFaultError, UsageError
from ..outside import isolation
from ..outside.isolation import STATUS, Limits
from ..text import (
    VERSION,
    Fields,
    as_json,
    count_text,
    gap_text,
    interval_text,
    number_text,
    percent_text,
    printable,
    short_checkpoint,
)
from . import charts, forms
from .document import Document, blocks_of, cell_of
from .markdown import prose, section, text
from .record import Failed, Outcome, Report

TEMPLATES: Final = Path(__file__).parent / "templates"
SUFFIX: Final = ".j2"
MARKUP: Final = (".html", ".htm", ".xhtml", ".xml", ".svg")
"""of names before SUFFIX: what a template of these writes is escaped"""
LARGEST_SOURCE_BYTES: Final = 1 << 20
LARGEST_TEXT_BYTES: Final = 10 << 20
MARK_WITHIN_BYTES: Final = 1400
"""where the mark must stand, so that `storage.stores.OURS` finds it"""
TIMEOUT_S: Final = 20.0
MEMORY_BYTES: Final = 1 << 30
EXAMPLE: Final = "-o template=slack.json.j2=slack.json"


def write_html(outcomes: Sequence[Outcome], options: forms.FormOptions) -> str:
    """Write one page about all models. Several have a table first, then a part each, the worst first."""
    reports = [outcome for outcome in outcomes if isinstance(outcome, Report)]
    galleries = [report.evidence.gallery for report in reports if report.evidence.gallery]
    return written(
        "page.html.j2",
        title=_title(outcomes),
        versions=sorted({report.tool_version for report in reports}),
        outcomes=sorted(outcomes, key=forms.rank_of),
        options=options,
        has_photos=any(photo(options.thumbnails.get(i.digest, "")) for g in galleries for i in (*g.most, *g.least)),
    )


def of_document(document: Document) -> str:
    """Write one self-contained page about a question's result. It ends in a newline."""
    title = f"{document.verdict.text if document.verdict else document.question}: {document.model.file}"
    return written("document.html.j2", title=title, versions=[document.version], document=document)


def written(template: str, **values: object) -> str:
    """Write a page from a template. values: what it reads; `title` and `versions` at least."""
    text: str = _pages().get_template(template).render(**values)
    return text


def _title(outcomes: Sequence[Outcome]) -> str:
    if len(outcomes) == 1:
        return f"{forms.word_of(outcomes[0])}: {forms.model_of(outcomes[0])}"
    counts = forms.counts_text(outcomes)
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
        "finding": lambda reason: forms.Finding(reason, None, None),
        "kind": lambda block: type(block).__name__,
        "signed": lambda value: f"{value:+z.1f}",
    }
    helpers = [blocks_of, gap_text, interval_text, photo, short_checkpoint, charts.suite_of]
    helpers += [forms.cautions, forms.findings, forms.gate_text, forms.is_stopped, forms.without_model]
    environment.globals |= {helper.__name__: helper for helper in helpers}
    environment.globals |= {"words": forms, "drawn": charts, "EXIT_CODES": EXIT_CODES}
    environment.globals |= {"DEFINITIONS": DEFINITIONS, "KINDS": KINDS, "NAMES": NAMES}
    return environment


def _page_text(value: object) -> object:
    """Escape what a template writes. Names can't steer the page, coordinates get two decimals, None is an error."""
    if value is None:
        raise ValueError("a template wrote None; it must ask first")
    if isinstance(value, float):
        return f"{value:.2f}"
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def packaged(
    form: str, outcomes: Sequence[Outcome], options: forms.FormOptions, comparison: object | None = None
) -> str:
    """Write a form that is a packaged template, which may call the helpers of `_packaged`.

    comparison: the comparison that the one outcome is a side of.
    """
    named = list(zip(forms.names_of(outcomes), outcomes, strict=True))
    reports = [(name, outcome) for name, outcome in named if isinstance(outcome, Report)]
    template = _packaged().get_template(f"{form}{SUFFIX}")
    return template.render(outcomes=outcomes, named=named, reports=reports, options=options, comparison=comparison)


@cache
def _packaged() -> _Sandbox:
    environment = _environment(TEMPLATES)
    environment.tests["failed"] = lambda value: isinstance(value, Failed)
    environment.filters |= {"printable": printable, "scalar": _scalar, "stem": lambda name: PurePath(name).stem}
    helpers = [as_json, prose, section, text, forms.cautions, forms.exit_code_of, forms.finding_text, forms.findings]
    helpers += [forms.fingerprint, forms.path_of, forms.statistics_of, forms.verdict_text]
    environment.globals |= {helper.__name__: helper for helper in helpers}
    environment.globals |= {"NOT_ASSESSED": forms.NOT_ASSESSED, "NOT_ASSESSED_TITLE": forms.NOT_ASSESSED_TITLE}
    environment.globals |= {"VERSION": VERSION, "labels": _labels}
    return environment


def mark() -> str:
    """Return the words that mark our texts. By them a later run knows a template's text as one of ours.

    >>> mark().startswith("robustcheck "), mark().endswith(" report")
    (True, True)
    """
    return f"robustcheck {VERSION} report"


def check(file: Path, *, into_file: bool) -> None:
    """Refuse a bad template before anything is measured. Nothing of it runs.

    into_file: whether its text goes to a file, which must hold `mark`.

    Raises UsageError: missing, not readable, too large, no Jinja2, an unknown filter or test, or without the mark.
    """
    environment = _environment(file.parent)
    try:
        tree = environment.parse(_source(file), filename=str(file))
        for node in tree.find_all((nodes.Filter, nodes.Test)):
            names: Mapping[str, Any] = environment.filters if isinstance(node, nodes.Filter) else environment.tests
            if node.name not in names:
                raise _error(file, f"{type(node).__name__.lower()} {node.name!r} is not known", node.lineno)
    except TemplateSyntaxError as fault:
        raise _error(file, fault.message or "syntax error", fault.lineno) from fault
    except RecursionError as fault:
        raise _error(file, "it is nested too deeply") from fault
    shows_mark = "mark" in meta.find_undeclared_variables(tree) or any(meta.find_referenced_templates(tree))
    if into_file and not shows_mark:
        raise _without_mark(file)


def render(documents: Sequence[Mapping[str, Any]], file: Path, *, into_file: bool) -> str:
    """Write the text of a template. It ends in a newline.

    Args:
        documents: each report as the JSON form has it, or `{"model": …, "error": {…}}`. The template gets them as
            `reports`, and one alone as `report`, too; unprintable characters of its texts are escapes.
        file: the template.
        into_file: as of `check`.

    Raises UsageError: as `check`; a name that is not defined, or any other fault of the template, with its line; more
    than LARGEST_TEXT_BYTES.
    """
    shown = [_shown(document) for document in documents]
    values: Fields = {"reports": shown, "mark": mark()} | ({"report": shown[0]} if len(shown) == 1 else {})
    parts: list[str] = []
    size = 0
    try:
        for part in _environment(file.parent).get_template(file.name).generate(values):
            parts.append(part)
            size += len(part.encode("utf-8", "backslashreplace"))
            if size > LARGEST_TEXT_BYTES:
                raise _error(file, f"its text has more than {LARGEST_TEXT_BYTES >> 20} MiB")
    except UsageError:
        raise
    except TemplateSyntaxError as fault:
        raise _error(file, fault.message or "syntax error", fault.lineno) from fault
    except MemoryError as fault:
        raise _error(file, "it takes more memory than there is") from fault
    except Exception as fault:
        raise _error(file, str(fault) or type(fault).__name__, _line_of(fault, file)) from fault
    text = "".join(parts).encode("utf-8", "backslashreplace").decode()
    if into_file and mark().encode() not in text.encode()[:MARK_WITHIN_BYTES]:
        raise _without_mark(file)
    return text if text.endswith("\n") else f"{text}\n"


def render_apart(file: Path, outcomes: Sequence[Outcome], *, into_file: bool) -> str:
    """Render outcomes in a child. It has limits of its own.

    Raises UsageError: as `render`, and where the template gives no text within TIMEOUT_S and MEMORY_BYTES.
    """
    documents = forms.documents(forms.all_sealed(outcomes))
    limits = Limits(timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES if STATUS.exists() else None)
    try:
        return isolation.apart(render, str(file), limits)(documents, file, into_file=into_file)
    except (CannotAssessError, EnvironmentFaultError) as fault:
        raise UsageError(
            f"{file}: template gave no text within {TIMEOUT_S:g} s and {MEMORY_BYTES >> 30} GiB of memory "
            f"({type(fault).__name__}); it must be done by then",
            "-o json=report.json, and a program of your own",
        ) from fault


def _labels(**labels: str) -> str:
    """Write the labels of an OpenMetrics sample."""
    escaped = ((k, v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for k, v in labels.items())
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"


def _scalar(value: str | float | None) -> str:
    """Write a YAML scalar. A JSON text without unprintable characters is one; a number always gets a point."""
    if isinstance(value, str):
        return json.dumps(printable(value), ensure_ascii=False)
    written = json.dumps(None if value is None else float(value), allow_nan=False)
    # YAML 1.1 takes 1e-05 for a text: it wants a point before the exponent
    return written if "e" not in written or "." in written else written.replace("e", ".0e")


class _OwnFolder(FileSystemLoader):
    """A loader of one folder's templates. A link that leads out of it loads nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder.resolve()

    def get_source(self, environment: Any, template: str) -> Any:
        source = super().get_source(environment, template)
        if not Path(source[1]).resolve().is_relative_to(self._folder):
            raise PermissionError(f"{template!r} lies outside the template's folder")
        return source


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox for templates. Its operators are not computed while a template is compiled."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)


def _environment(folder: Path) -> _Sandbox:
    return _Sandbox(
        loader=_OwnFolder(folder),
        undefined=StrictUndefined,
        autoescape=lambda name: (name or "").removesuffix(SUFFIX).lower().endswith(MARKUP),
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(file: Path) -> str:
    if not file.name.endswith(SUFFIX) or file.name == SUFFIX:
        raise _error(file, f"its name must end in {SUFFIX}")
    try:
        return read_bytes(file, LARGEST_SOURCE_BYTES).decode()
    except OSError as fault:
        raise _error(file, f"it is not readable ({fault.strerror})") from fault
    except UnicodeDecodeError as fault:
        raise _error(file, "it is not UTF-8") from fault


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_shown(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def _line_of(fault: Exception, file: Path) -> int | None:
    """Return the template's line of an error. None if it is another file's."""
    lines = [frame.lineno for frame in traceback.extract_tb(fault.__traceback__) if frame.filename == str(file)]
    return lines[-1] if lines else None


def _error(file: Path, message: str, line: int | None = None) -> UsageError:
    where = f"{file}: line {line} of the template: " if line else f"{file}: template can't be used: "
    return UsageError(f"{where}{printable(' '.join(message.split()))[:300]}", EXAMPLE)


def _without_mark(file: Path) -> UsageError:
    return UsageError(
        f"{file}: template does not write {{{{ mark }}}} among its first {MARK_WITHIN_BYTES} bytes; by it a later run "
        "knows the file as one of ours, and leaves no earlier PASS there",
        "write {{ mark }} near the top, or write to stdout: -o template=FILE.j2",
    )
