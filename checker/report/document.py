"""A result as people read it. A question makes one document; there is one renderer per form. Pure.

`layout` shows it in the terminal, `html` as a page and in a notebook, `markdown` as Markdown. None of them knows a
question, and no question knows a form. What comes from outside is a `name`: each form shows it exactly, and safely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

from robustcheck_onnx.checker.evidence import Execution
from robustcheck_onnx.checker.text import name_text, number_text, short_digest, short_provider

from .record import Time

Style = Literal["", "bold", "dim", "pass", "warn", "fail"]


class Cell(NamedTuple):
    """A piece of text."""

    text: str
    style: Style = ""
    is_name: bool = False


Words = str | Cell
"""words of our own, or a cell"""


def name(text: str, style: Style = "") -> Cell:
    """Return a text from outside. A file or a tensor has it."""
    return Cell(text, style, is_name=True)


def cell_of(words: Words) -> Cell:
    """Return the cell of words."""
    return words if isinstance(words, Cell) else Cell(words)


@dataclass(frozen=True)
class Table:
    """A table with one cell per column in each row."""

    heads: tuple[str, ...]
    """`>` before a head: right-justified; `=` or `>`: never wraps; `?` before that: left out of a narrow terminal"""
    rows: tuple[tuple[Words, ...], ...]
    legend: str = ""
    most: int | None = None
    """rows in the short report"""


@dataclass(frozen=True)
class Facts:
    """Labels with a text. A row without a text is left out."""

    rows: tuple[tuple[Words, Words], ...]
    title: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    texts: tuple[str, ...]


class Curve(NamedTuple):
    """A line of a chart, over the first one's places."""

    name: str
    values: tuple[float, ...]
    texts: tuple[str, ...]
    """the values in words"""
    bounds: tuple[tuple[float, float], ...] = ()
    """an interval per value"""


@dataclass(frozen=True)
class Chart:
    """Values from 0 up. One curve is drawn as bars; of several the terminal draws the first."""

    title: str
    names: tuple[str, ...]
    """of the places, below the axis; empty ones are not shown"""
    curves: tuple[Curve, ...]
    top: str
    """the largest value in words"""
    caption: str = ""
    """below the page's picture, instead of the title"""
    marked: tuple[bool, ...] = ()
    mark: str = ""
    """what a mark below a bar means"""
    at: tuple[float, ...] = ()
    """where the places are, 0 to 1; evenly if empty"""


Block = Table | Facts | Bullets | Chart | str


@dataclass(frozen=True)
class Section:
    """A heading with blocks below it."""

    title: str
    remark: str
    blocks: tuple[Block, ...]
    shown: Literal["short", "whole", "page", "folded"] = "whole"
    """the least report that has it; the last two are not in the terminal, and the page folds the last"""


class ModelShown(Protocol):
    """The model of a question."""

    file: str
    digest: str
    source: str
    """what the contract says it is"""


@dataclass(frozen=True)
class Document:
    """All that is shown of one result."""

    question: str
    """the verb"""
    title: str
    subject: str
    """the question in a line"""
    model: ModelShown
    facts: tuple[Words, ...]
    """of the run, for a line"""
    summary: str
    """the answer in a sentence or two; the terminal's last words"""
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    limits: str
    version: str
    line: str = ""
    """the answer in one line, for `-q`"""
    tiles: tuple[tuple[str, object, str], ...] = ()
    """numbers that a page shows large: label, value, remark"""
    hint: str = ""
    """what the short report lacks"""
    claim: str = ""
    """what must be known before all else"""
    notes_in_short: bool = False
    """whether the short report has the notes"""

    @property
    def one_line(self) -> str:
        """Return the answer in one line, for `-q`."""
        return self.line or f"{name_text(self.model.file, ascii_only=False)}: {self.summary}"


def facts_of_run(model: ModelShown, run: Execution, time: Time | None, *first: Words) -> tuple[Words, ...]:
    """Return the facts of a headline. `first` precedes digest, device, runtime and time."""
    provider = f"{run.requested} → {short_provider(run.providers[0])}"
    seconds = f"{number_text(time.wall_s)} s" if time else ""
    return (*first, name(short_digest(model.digest)), provider, f"ONNX Runtime {run.runtime}", seconds)


def measured(
    model: Sequence[tuple[str, object]],
    images: Sequence[tuple[str, object]],
    preprocessing: str,
    run: Execution,
    time: Time | None,
) -> Section:
    """Return the folded section on how it was measured."""
    last = [("Preprocessing", preprocessing), ("Device", run.device), ("ONNX Runtime", run.runtime)]
    rows = (*images, *last, ("Started", time.started if time else ""))
    blocks = (Facts(_named(model), "Model"), Facts(_named(rows), "Run"))
    return Section("What was measured, and how", "", blocks, "folded")


def _named(rows: Sequence[tuple[str, object]]) -> tuple[tuple[Words, Words], ...]:
    return tuple((label, name(str(value))) for label, value in rows)


class Shown:
    """The base of a report that is shown as a document. The module `document` of its room makes it."""

    def to_html(self) -> str:
        """Return the page, as `-o html`."""
        return written(document_of(self), "html")

    def to_markdown(self) -> str:
        """Return the Markdown, as `-o markdown`."""
        return written(document_of(self), "markdown")

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows. It has the answer, notes, limits, and the first tables."""
        return str(import_module(f"{__package__}.html").short_of(document_of(self)))

    _repr_markdown_ = to_markdown


def document_of(report: Any) -> Document:
    """Return the document of a question's report."""
    room = type(report).__module__.rpartition(".")[0]
    made: Document = import_module(f"{room}.document").document_of(report)
    return made


def written(document: Document, form: str) -> str:
    """Write a document as html or markdown. It ends in a newline."""
    return str(import_module(f"{__package__}.{form}").of_document(document))
