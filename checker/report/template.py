"""Render a template of the user's own.

Whoever names a template trusts it with the words, not with more: it gets the documents of the JSON form, reads files of
its own folder alone, and is rendered sandboxed in a child process with limits (`render_apart`).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...thresholds import read_bytes
from ..errors import CannotAssessError, EnvironmentFaultError, UsageError
from ..outside import isolation
from ..outside.isolation import STATUS, Limits
from ..text import VERSION, Fields, printable
from .json_forms import all_sealed, documents
from .record import Outcomes

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".j2"
MARKUP = (".html", ".htm", ".xhtml", ".xml", ".svg")
"""of names before SUFFIX: what a template of these writes is escaped"""
LARGEST_SOURCE_BYTES = 1 << 20
LARGEST_TEXT_BYTES = 10 << 20
MARK_WITHIN_BYTES = 1400
"""where the mark must stand, so that `storage.documents.OURS` finds it"""
TIMEOUT_S = 20.0
MEMORY_BYTES = 1 << 30
EXAMPLE = "-o template=slack.json.j2=slack.json"


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
            names: Mapping[str, Any] = environment.tests
            if isinstance(node, nodes.Filter):
                names = environment.filters
            if node.name not in names:
                kind = type(node).__name__.lower()
                raise _error(file, f"{kind} {node.name!r} is not known", node.lineno)
    except TemplateSyntaxError as fault:
        raise _error(file, fault.message or "syntax error", fault.lineno) from fault
    except RecursionError as fault:
        raise _error(file, "it is nested too deeply") from fault
    shows_mark = "mark" in meta.find_undeclared_variables(tree) or any(meta.find_referenced_templates(tree))
    if into_file and not shows_mark:
        raise _without_mark(file)


def render(documents: Sequence[Mapping[str, Any]], file: Path, *, into_file: bool) -> str:
    """Write the text of a template, with a newline at the end.

    Args:
        documents: each report as the JSON form has it, or `{"model": …, "error": {…}}`. The template gets them as
            `reports`, and one alone as `report`, too; unprintable characters of its texts are escapes.
        file: the template.
        into_file: as of `check`.

    Raises UsageError: as `check`; a name that is not defined, or any other fault of the template, with its line; more
    than LARGEST_TEXT_BYTES.
    """
    shown = [_shown(document) for document in documents]
    values: Fields = {"reports": shown, "mark": mark()}
    if len(shown) == 1:
        values["report"] = shown[0]
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
        message = str(fault) or type(fault).__name__
        raise _error(file, message, _line_of(fault, file)) from fault
    text = "".join(parts).encode("utf-8", "backslashreplace").decode()
    if into_file and mark().encode() not in text.encode()[:MARK_WITHIN_BYTES]:
        raise _without_mark(file)
    return text if text.endswith("\n") else f"{text}\n"


def render_apart(file: Path, outcomes: Outcomes, *, into_file: bool) -> str:
    """Render outcomes in a child with limits of its own.

    Raises UsageError: as `render`, and where the template gives no text within TIMEOUT_S and MEMORY_BYTES.
    """
    shown = documents(all_sealed(outcomes))
    limits = Limits(timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES if STATUS.exists() else None)
    try:
        return isolation.apart(render, str(file), limits)(shown, file, into_file=into_file)
    except (CannotAssessError, EnvironmentFaultError) as fault:
        raise UsageError(
            f"{file}: template gave no text within {TIMEOUT_S:g} s and {MEMORY_BYTES >> 30} GiB of memory "
            f"({type(fault).__name__}); it must be done by then",
            "-o json=report.json, and a program of your own",
        ) from fault


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
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value


def _line_of(fault: Exception, file: Path) -> int | None:
    """Return the template's line of an error. None if it is another file's."""
    lines = [frame.lineno for frame in traceback.extract_tb(fault.__traceback__) if frame.filename == str(file)]
    return lines[-1] if lines else None


def _error(file: Path, message: str, line: int | None = None) -> UsageError:
    where = f"{file}: line {line} of the template: " if line else f"{file}: template can't be used: "
    words = " ".join(message.split())
    return UsageError(f"{where}{printable(words)[:300]}", EXAMPLE)


def _without_mark(file: Path) -> UsageError:
    return UsageError(
        f"{file}: template does not write {{{{ mark }}}} among its first {MARK_WITHIN_BYTES} bytes; by it a later run "
        "knows the file as one of ours, and leaves no earlier PASS there",
        "write {{ mark }} near the top, or write to stdout: -o template=FILE.j2",
    )
