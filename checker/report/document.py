"""A document: a result as people read it. Pure.

`terminal` lays it out, `page` shows it as HTML, `markdown` and `notebook` in their forms. None of them knows a
question, and no question knows a form. What comes from outside is a `name`: each form shows it exactly, and safely.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, Literal, NamedTuple, Protocol

from ..core.evidence import ImageFacts, Interval
from ..core.verdict.gate import Waiver
from ..core.verdict.rule import Reason
from ..text import Texts, frozen, name_text, number_text, short_digest, short_provider
from .model_names import FormOptions
from .record import Bound
from .words import SIGNS, gate_text, is_stopped, verdict_text

Style = Literal["", "bold", "dim", "pass", "warn", "fail"]


class Bar(NamedTuple):
    """A bar of the page for an interval and its threshold."""

    interval: Interval
    least: float
    style: Style
    unit: float = 1.0
    """the value in the middle of the axis"""


class Cell(NamedTuple):
    """A piece of text."""

    text: str
    style: Style = ""
    is_name: bool = False
    bar: Bar | None = None
    """what the page draws before the text"""


Words = str | Cell
"""words of our own, or a cell"""
TableRow = tuple[Words, ...]
Labelled = tuple[Words, Words]
"""a label and its text"""
Pairs = Sequence[tuple[str, object]]
"""labels and values"""


def name(text: str, style: Style = "") -> Cell:
    """Return a text from outside. A file or a tensor has it."""
    return Cell(text, style, is_name=True)


def cell_of(words: Words) -> Cell:
    """Return the cell of words."""
    return words if isinstance(words, Cell) else Cell(words)


def text_of(words: Words) -> str:
    """Return the text of words."""
    return words if isinstance(words, str) else words.text


@frozen
class Column:
    """A column of a table."""

    head: str
    right: bool = False
    """right-justified and never wrapped, as numbers are"""
    no_wrap: bool = False
    """never wrapped"""
    wide_only: bool = False
    """left out of a narrow terminal"""


@frozen
class Table:
    """A table with one cell per column in each row."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    legend: str = ""
    most: int | None = None
    """rows in the short report"""


@frozen
class Facts:
    """Labels with a text. A row without a text is left out."""

    rows: tuple[Labelled, ...]
    title: str = ""


class Series(NamedTuple):
    """A line of a chart, over the first one's places."""

    name: str
    values: tuple[float, ...]
    texts: Texts
    """the values in words"""
    bounds: tuple[tuple[float, float], ...] = ()
    """an interval per value"""


@frozen
class Chart:
    """Values from 0 up. One curve is drawn as bars; of several the terminal draws the first."""

    title: str
    names: Texts
    """of the places, below the axis; empty ones are not shown"""
    curves: tuple[Series, ...]
    top: str
    """the largest value in words"""
    caption: str = ""
    """below the page's picture, instead of the title"""
    marked: tuple[bool, ...] = ()
    mark: str = ""
    """what a mark below a bar means"""
    at: tuple[float, ...] = ()
    """where the places are, 0 to 1; evenly if empty"""


def histogram(title: str, edges: Texts, counts: tuple[int, ...], unit: str) -> Chart:
    """Return the chart of how many values lie in each bin. The axis names the first, the middle and the last edge.

    edges: one more than counts, in words. unit: what the edges are values of.
    """
    bins = zip(edges, edges[1:], counts, strict=False)
    texts = tuple(f"{unit} {low} to {high}: {count}" for low, high, count in bins)
    names = [""] * len(counts)
    names[0] = edges[0]
    middle = len(counts) // 2
    names[middle] = edges[middle]
    names[-1] = edges[-1]
    curve = Series(title, counts, texts)
    return Chart(title, tuple(names), (curve,), str(max(counts)))


class Photo(NamedTuple):
    """A picture of the page."""

    name: str
    text: str
    uri: str
    """`data:`; empty without a picture"""
    missing: str = "no preview"
    """why there is no picture"""


@frozen
class Photos:
    """Pictures next to each other."""

    rows: tuple[Photo, ...]
    title: str = ""


@frozen
class Drawing:
    """A figure that the page alone has."""

    figure: object
    """its geometry"""
    text: str
    """what it shows, in words"""


@frozen
class Topics:
    """What was measured, and how. The page folds it."""

    rows: tuple[Topic, ...]


Block = Table | Facts | Chart | Photos | Drawing | Topics | Words


def pairs_of(block: Block) -> list[tuple[str, str]]:
    """Return the labels and texts of a block. Words have no label; tables and charts give none."""
    rows: list[Labelled] = []
    if isinstance(block, Facts):
        rows += block.rows
    elif isinstance(block, Photos):
        rows += ((photo.name, photo.text) for photo in block.rows)
    elif isinstance(block, Topics):
        for topic in block.rows:
            facts = topic.facts + topic.more
            shorts = (f"{fact.caution}{fact.short}" for fact in facts)
            rows.append((topic.label, " · ".join(filter(None, shorts))))
    elif isinstance(block, str | Cell):
        rows.append(("", block))
    pairs = [(text_of(label), text_of(words)) for label, words in rows]
    return [pair for pair in pairs if pair[1]]


@frozen
class Section:
    """A heading with blocks below it. Without a title it continues the section before."""

    title: str
    remark: str
    blocks: tuple[Block, ...]
    shown: Literal["brief", "short", "whole", "text", "detail", "page"] = "whole"
    """the least report that has it. brief: the short one alone; text: the whole one, and not the page; detail: the
    whole one, and not Markdown; page: not in the terminal"""
    is_folded: bool = False
    """whether the page folds it"""


class ModelShown(Protocol):
    """The model of a question."""

    @property
    def file(self) -> str:
        """Return its path."""

    @property
    def digest(self) -> str:
        """Return its digest. "" where the report has none."""

    @property
    def source(self) -> str:
        """Return what the contract says it is."""


class File(NamedTuple):
    """A model of which no more is shown."""

    file: str
    digest: str = ""
    source: str = ""


INFORMATION = "Information, not a verdict: `robustcheck check` judges the representation alone."


@frozen
class Document:
    """All that is shown of one result."""

    question: str
    """the verb"""
    model: ModelShown
    summary: str
    """the answer in a sentence or two; the terminal's last words, or its first if there is a verdict"""
    sections: tuple[Section, ...]
    version: str
    title: str = ""
    subject: str = ""
    """the question in a line"""
    facts: tuple[Words, ...] = ()
    """of the run, for a line"""
    notes: Texts = ()
    limits: str = ""
    verdict: Cell | None = None
    """sign and words; None: information only"""
    exit_code: int | None = None
    rule: str = ""
    """what decided the exit code, in one sentence"""
    decides: str = ""
    """what the exit code lets go or stops, for a page; empty where it does neither"""
    cautions: Texts = ()
    """what a reader must know before the verdict"""
    reasons: tuple[Reason, ...] = ()
    step: tuple[str, str] = ("", "")
    """what to do next, in words and as a command"""
    headline: str = ""
    """what the page has next to the verdict's sign instead of the summary"""
    remark: str = INFORMATION
    """what the page has below the answer"""
    line: str = ""
    """the answer in one line, for `-q`"""
    basis: tuple[tuple[str, Words], ...] = ()
    """when and on what the answer was found: label and words, for the head of a page"""
    waived: tuple[Waiver, ...] = ()
    """waivers that hold for reasons"""
    expired: tuple[Waiver, ...] = ()
    """waivers for reasons that ended"""
    tiles: tuple[tuple[str, object, Words], ...] = ()
    """numbers that a page shows large: label, value, remark"""
    tiles_note: str = ""
    """what a page has below them"""
    hint: str = ""
    """what the short report lacks"""
    claim: str = ""
    """what must be known before all else"""
    n_hidden: int = 0
    """notes that only the whole report has, where the short one counts them"""
    notes_in_short: bool = False
    """whether the short report has the notes"""

    @property
    def one_line(self) -> str:
        """Return the answer in one line, for `-q`."""
        file = name_text(self.model.file, ascii_only=False)
        return self.line or f"{file}: {self.summary}"


def facts_of_run(report: Any, *first: Words) -> tuple[Words, ...]:
    """Return the facts of a headline. `first` precedes digest, device, runtime and time."""
    run = report.execution
    time = report.time
    provider = f"{run.requested} → {short_provider(run.providers[0])}"
    digest = short_digest(report.model.digest)
    seconds = f"{number_text(time.wall_s)} s" if time else ""
    return (*first, name(digest), provider, f"ONNX Runtime {run.runtime}", seconds)


def measured(report: Any, model: Pairs, images: Pairs, preprocessing: str) -> Section:
    """Return the folded section on how it was measured."""
    run = report.execution
    time = report.time
    last = [
        ("Preprocessing", preprocessing),
        ("Device", run.device),
        ("ONNX Runtime", run.runtime),
        ("Started", time.started if time else ""),
    ]
    blocks = (Facts(_named(model), "Model"), Facts(_named([*images, *last]), "Run"))
    return Section("What was measured, and how", "", blocks, "page", is_folded=True)


def image_rows(images: ImageFacts) -> Pairs:
    """Return the rows of `measured` about an image set."""
    return [("Images", images.source), ("Digest", images.digest), ("Seed", images.seed)]


def _named(rows: Pairs) -> tuple[Labelled, ...]:
    return tuple((label, name(str(value))) for label, value in rows)


@singledispatch
def document_of(record: object) -> Document:
    """Return the document of a record. Each question registers the function that makes it."""
    raise TypeError(f"{type(record).__name__} has no document")


@singledispatch
def page_sections(record: object, options: FormOptions) -> tuple[Section, ...]:
    """Return the sections of a record that its page alone has."""
    return ()


FactKind = Literal["text", "name", "code"]


@frozen
class Fact:
    """A fact of a report.

    The page shows it where it has a value, the terminal where it has a short form or a caution.
    """

    label: str
    value: str
    remark: str = ""
    """what the page adds in parentheses"""
    kind: FactKind = "text"
    """name: text from outside, shown exactly; code: the same, and the page sets it as code"""
    short: str = ""
    """the fact in a few words, for the terminal"""
    caution: str = ""
    """what the terminal writes before `short`, in yellow"""


@frozen
class Topic:
    """The facts about one thing, in the page's order."""

    title: str
    label: str
    """the title that the terminal shows"""
    facts: tuple[Fact, ...]
    more: tuple[Fact, ...] = ()
    """facts for the end of the terminal's line; the page says the same elsewhere"""
    below: tuple[TableRow, ...] = ()
    """further lines of the terminal"""


def verdict_cell(report: Bound) -> Cell:
    """Return a verdict with its sign, kind and what the gate makes of it."""
    verdict = report.verdict
    style: Style = "warn"
    if verdict.passed:
        style = "pass"
    elif is_stopped(report):
        style = "fail"
    sign = SIGNS[verdict.verdict]
    return Cell(f"{sign} {verdict_text(verdict)}{gate_text(report)}", style)
