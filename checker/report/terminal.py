"""Lay out documents in the terminal. Pure.

The short report has at most 18 lines at 80 columns; `-v` shows all. The verdict is the last line of both.

Only bold, dim and the eight basic colours are used, never white, black or a background, and no colour carries
a meaning alone, so that it reads the same on dark, light and colourless output.
"""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table as Grid
from rich.text import Text

from .. import text as texts
from ..core.verdict.kinds import KINDS
from ..core.verdict.reasons import RULES
from ..core.verdict.rule import Reason
from ..text import around, frozen, name_text, sentence_text
from .document import (
    Block,
    Cell,
    Chart,
    Column,
    Document,
    Drawing,
    Fact,
    Facts,
    Labelled,
    Photos,
    Table,
    Topic,
    Topics,
    Words,
    cell_of,
    text_of,
)

Parts = list[RenderableType]
INDENT = 2  # columns
COLOURS = {"PASS": "green", "WARN": "yellow"}
"""Colour of each verdict."""
STYLES = {"pass": "green", "warn": "yellow", "fail": "red"}
WIDE = 108  # columns that a table needs for all of its own
LISTED = 12  # facts of a block in a short report
REASONS_LISTED = 6  # of a short report
BAR_ROWS = 4
SHOWN = {False: ("brief", "short"), True: ("short", "whole", "text", "detail")}
"""sections of the short report and of the whole"""


@frozen
class Pen:
    """A writer of Text, never markup, in the characters that the output can show."""

    ascii_only: bool

    def say(self, sentence: str, style: str = "") -> Text:
        """Write words of the report's own, which may quote names."""
        return Text(sentence_text(sentence, self.ascii_only), style, overflow="fold")

    def prose(self, sentence: str, style: str = "") -> Text:
        """Write a sentence that quotes no names."""
        return Text(texts.prose_text(sentence, self.ascii_only), style, overflow="fold")

    def name(self, name: str, style: str = "") -> Text:
        """Write a name from outside, exactly."""
        return Text(name_text(name, self.ascii_only), style, overflow="fold")

    def command(self, command: str, style: str = "cyan") -> Text:
        """Write a command to copy, on one line. The console may be narrower."""
        return Text(name_text(command, self.ascii_only), style, no_wrap=True, overflow="ignore")

    def facts(self, items: list[Text]) -> Text:
        """Join facts in one line, with dots between. Empty ones are left out."""
        return self.say(" · ").join(item for item in items if item)


@frozen
class Trimmed:
    """A renderable without blanks at line ends. Tables leave them there."""

    body: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        # not `render_lines`, which cuts what is wider than the console: a command
        for segments in Segment.split_lines(console.render(self.body, options)):
            yield from reversed(list(_without_trailing_blanks(segments)))
            yield Segment.line()


def _without_trailing_blanks(segments: list[Segment]) -> Iterator[Segment]:
    content = False
    for text, style, control in reversed(segments):
        written = text if content else text.rstrip(" ")
        if written:
            content = True
            yield Segment(written, style, control)


def line(*pieces: Text) -> Text:
    """Join pieces, each in its own style. `+` would spread the first one's style over all."""
    return Text(overflow="fold").join(pieces)


def section(pen: Pen, title: str, remark: str, *body: RenderableType) -> Group:
    """Put a heading with a remark over indented text."""
    heading = line(pen.say(title, "bold"), pen.say(around("  ", remark), "dim"))
    return Group(heading, *(Padding(block, (0, 0, 0, INDENT)) for block in body))


def noted(pen: Pen, sentences: Sequence[str]) -> Parts:
    """List notes, which may quote names, under a heading. Without notes there is nothing."""
    if not sentences:
        return []
    return [section(pen, "Notes", "", listed(pen, (("•", each) for each in sentences)))]


def empty_table(pen: Pen, columns: Sequence[Column]) -> Grid:
    """Make a table without lines and rows. It has no line of heads where all heads are empty."""
    is_headed = any(column.head for column in columns)
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_header=is_headed)
    for column in columns:
        grid.add_column(
            pen.say(column.head),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.right or column.no_wrap,
        )
    return grid


def table_of(pen: Pen, columns: Sequence[Column], rows: Iterable[Iterable[Words]]) -> Grid:
    """Lay out a table. A row has a cell per column."""
    grid = empty_table(pen, columns)
    for row in rows:
        grid.add_row(*(written(pen, each) for each in row))
    return grid


def written(pen: Pen, words: Words) -> Text:
    """Write words of our own, or a cell."""
    cell = cell_of(words)
    style = STYLES.get(cell.style, cell.style)
    if cell.is_name:
        return pen.name(cell.text, style)
    return pen.say(cell.text, style)


def spaced(blocks: Iterable[RenderableType]) -> Group:
    """Stack blocks with a blank line between."""
    parts = [part for block in blocks for part in (Text(), block)]
    return Group(*parts[1:])


def hanging(rows: Iterable[tuple[Text, Text]]) -> Grid:
    """Lay out rows of a label and wrapping text. The label may be a mark."""
    grid = Grid.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    for mark, text in rows:
        grid.add_row(mark, text)
    return grid


def listed(pen: Pen, rows: Iterable[Labelled]) -> Grid:
    """Lay out rows of `hanging`, from words or cells."""
    return hanging((written(pen, mark), written(pen, text)) for mark, text in rows)


def labelled(pen: Pen, rows: Iterable[tuple[str, str]]) -> Grid:
    """Lay out rows of a dim label and text. Rows without a text are left out."""
    return listed(pen, ((Cell(label, "dim"), text) for label, text in rows if text))


@frozen
class Ruled:
    """A line of words in a rule of the full width. Words that fill the line are alone and wrap."""

    pen: Pen
    words: str
    colour: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        pen = self.pen
        words = pen.say(self.words, f"bold {self.colour}")
        title = line(pen.say("━━ ", self.colour), words)
        ink = sentence_text("━", pen.ascii_only)
        rule = Rule(title, characters=ink, style=self.colour, align="left")
        yield rule if title.cell_len + 2 <= options.max_width else title


def reasons(pen: Pen, of_verdict: Sequence[Reason]) -> Parts:
    """Explain the reasons for WARN as one block.

    Each has what was seen and what to do next; without any there is no block.
    """
    rows: list[tuple[Text, Text]] = []
    before = None
    for reason in of_verdict:
        if reason.kind != before:
            kind = f"{reason.kind}: {KINDS[reason.kind]}"
            rows.append((Text(), pen.say(kind, "dim")))
            before = reason.kind
        step = pen.say(f"→ {reason.next_step}")
        step.highlight_regex(r"`[^`]*`", "cyan")
        words = f"{reason.title}  " if reason.id in RULES else ""
        title = line(pen.say(words, "bold"), pen.say(reason.id, "dim"))
        rows.append((pen.say("✗", "yellow"), title))
        rows += [(Text(), pen.say(reason.seen)), (Text(), step)]
    if not rows:
        return []
    return [section(pen, "Reasons and next steps", "`robustcheck explain REASON` shows more", hanging(rows))]


def reason_ids(pen: Pen, of_verdict: Sequence[Reason], n_notes: int = 0) -> list[Text]:
    """Write the ids of the reasons for WARN. There is no line where there is none."""
    if not of_verdict:
        return []
    ids = [each.id for each in of_verdict[:REASONS_LISTED]]
    text = f"✗ {', '.join(ids)}"
    if len(of_verdict) > REASONS_LISTED:
        text += f" and {len(of_verdict) - REASONS_LISTED} more"
    hint = "  -v explains them"
    if n_notes:
        hint += f" and {texts.count_text(n_notes, 'note')}"
    return [line(pen.say(text, "yellow"), pen.say(hint, "dim"))]


def steps(pen: Pen, prose: str, command: str) -> list[Text]:
    """Write what to do next, as `step_of` gives it."""
    lines = []
    if prose:
        lines.append(pen.say(f"→ {prose}"))
    if command and prose:
        lines.append(pen.command(f"  {command}"))
    elif command:
        lines.append(line(pen.say("→ "), pen.command(command)))
    return lines


def measured(pen: Pen, topics: Iterable[Topic]) -> Grid:
    """Show what was measured, and how."""
    rows: list[tuple[Text, Text]] = []
    for topic in topics:
        facts = [_fact(pen, fact) for fact in topic.facts + topic.more]
        below = (line(*(written(pen, each) for each in words)) for words in topic.below)
        label = f"{topic.label} "
        for text in (pen.facts(facts), *below):
            rows.append((pen.say(label, "dim"), text))
            label = " "
    return hanging(rows)


def _fact(pen: Pen, fact: Fact) -> Text:
    short = Cell(fact.short, is_name=fact.kind != "text")
    return line(pen.say(fact.caution, "yellow"), written(pen, short))


def framed(pen: Pen, version: str, cautions: Iterable[str], blocks: Iterable[RenderableType]) -> RenderableType:
    """Stack blocks below the cautions and the version, which distinguishes our own files from others."""
    first = pen.say(f"robustcheck {version}", "dim")
    return Trimmed(Group(first, *marked(pen, cautions), spaced(blocks)))


def render_document(document: Document, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Lay out the short report, or the whole. The answer is last."""
    pen = Pen(ascii_only)
    facts: list[Text] = []
    if document.facts:
        facts.append(pen.facts([written(pen, each) for each in document.facts]))
    blocks = [_opening(pen, document, facts, verbose=verbose)]
    if verbose:
        blocks.append(reasons(pen, document.reasons))
    if verbose or document.notes_in_short:
        blocks.append(noted(pen, document.notes))
    if not document.title:
        blocks.append([*facts])
    for each in document.sections:
        if each.shown in SHOWN[verbose]:
            parts = [Group(*_block(pen, block, verbose=verbose)) for block in each.blocks]
            if each.title:
                blocks.append([section(pen, each.title, each.remark, spaced(parts))])
            else:
                blocks[-1] += parts
    if not verbose:
        blocks[-1] += reason_ids(pen, document.reasons, document.n_hidden)
    if verbose and document.limits:
        blocks.append([section(pen, "Limits", "", pen.prose(document.limits))])
    elif document.hint and not verbose:
        blocks.append([pen.say(document.hint, "dim")])
    if verbose or document.verdict is None:
        blocks.append([])
    blocks[-1].append(_answer(pen, document))
    groups = [Group(*block) for block in blocks if block]
    return framed(pen, document.version, document.cautions, groups)


def _opening(pen: Pen, document: Document, facts: Sequence[Text], *, verbose: bool) -> Parts:
    """Write what comes before all sections: claim, title, summary and next step."""
    opening: Parts = []
    if document.claim:
        opening.append(pen.prose(document.claim, "bold"))
    if document.title:
        model = document.model
        title = pen.say(document.title, "bold")
        opening.append(line(title, pen.say("  "), pen.name(model.file)))
        if model.source:
            opening.append(pen.name(model.source, "dim"))
        opening += facts
    if document.verdict:
        opening.append(pen.say(document.summary, "bold"))
    if not (verbose and document.reasons):
        opening += steps(pen, *document.step)
    return opening


def _answer(pen: Pen, document: Document) -> RenderableType:
    """Write the last line: the verdict with the exit code. Without a verdict it is the summary."""
    if document.verdict is None:
        return pen.say(document.summary, "bold")
    words = document.verdict.text
    if document.exit_code is not None:
        words += f" · exit code {document.exit_code}"
    return Ruled(pen, words, STYLES[document.verdict.style])


def _block(pen: Pen, block: Block, *, verbose: bool) -> Parts:
    if isinstance(block, Table):
        return [_Fitting(pen, block, None if verbose else block.most)]
    if isinstance(block, Chart):
        return [_Bars(pen, block)]
    if isinstance(block, Facts):
        return _facts(pen, block, verbose=verbose)
    if isinstance(block, Topics):
        return [measured(pen, block.rows)]
    if isinstance(block, Photos | Drawing):
        return []
    if isinstance(block, str):
        return [pen.prose(block)]
    return [written(pen, block)]


def _facts(pen: Pen, facts: Facts, *, verbose: bool) -> Parts:
    """Lay out labels with their texts. The short report has the first LISTED."""
    rows: list[Labelled] = []
    for words, text in facts.rows:
        if text_of(text):
            label = cell_of(words)
            rows.append((label._replace(style=label.style or "dim"), text))
    parts: Parts = []
    if facts.title:
        parts.append(pen.say(facts.title, "dim"))
    if verbose or len(rows) <= LISTED:
        return [*parts, listed(pen, rows)]
    more = pen.say(f"and {len(rows) - LISTED} more", "dim")
    return [*parts, listed(pen, rows[:LISTED]), more]


@frozen
class _Fitting:
    """A table. In a narrow terminal it has no columns that are `wide_only`."""

    pen: Pen
    table: Table
    most: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        pen = self.pen
        table = self.table
        is_wide = options.max_width >= WIDE
        places = [i for i, column in enumerate(table.columns) if is_wide or not column.wide_only]
        hidden = [column.head for i, column in enumerate(table.columns) if i not in places]
        columns = [table.columns[i] for i in places]
        if rows := table.rows[: self.most]:
            yield table_of(pen, columns, ([row[i] for i in places] for row in rows))
        if rows and (more := len(table.rows) - len(rows)):
            yield pen.say(f"and {more} more", "dim")
        wider = f": from {WIDE + INDENT} columns on"
        last = [table.legend, around("", ", ".join(hidden), wider)]
        if any(last):
            yield Text()
            yield pen.say("; ".join(filter(None, last)), "dim")


@frozen
class _Bars:
    """Bars of a chart's first curve, as wide as fit. Where they are too many, each is the largest of some."""

    pen: Pen
    chart: Chart

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Implement rich's protocol."""
        pen = self.pen
        chart = self.chart
        values = chart.curves[0].values
        n = len(chart.names)
        room = max(options.max_width - len(chart.top) - 4, 8)
        step = -(-n // room)
        wide = max(1, min(4, room // n))
        counts = [round(1000 * max(values[i : i + step])) for i in range(0, n, step)]
        marks = [any(chart.marked[i : i + step]) for i in range(0, n, step)]
        indent = len(chart.top)
        n_columns = wide * len(counts)
        if chart.title and not chart.caption:
            yield pen.say(chart.title, "dim")
        for label, row in zip([chart.top, *[""] * (BAR_ROWS - 1)], texts.bars(counts, BAR_ROWS), strict=True):
            axis = pen.say(f"{label:>{indent}} │", "dim")
            signs = "".join(sign * wide for sign in row)
            yield line(axis, pen.say(signs, "cyan"))
        yield pen.say(f"{0:>{indent}} └{'─' * n_columns}", "dim")
        if any(marks):
            signs = "".join(("▲" if mark else " ") * wide for mark in marks)
            yield pen.say(" " * (indent + 2) + signs, "yellow")
        first = chart.names[0]
        last = chart.names[-1]
        gap = max(n_columns - len(first), len(last) + 1)
        yield pen.say(f"{'':>{indent}}  {first}{last:>{gap}}", "dim")
        meanings = []
        if any(marks):
            meanings.append(f"▲ {chart.mark}")
        if step > 1:
            meanings.append(f"a bar is the largest of {step}")
        if meanings:
            yield pen.say("; ".join(meanings), "dim")


def marked(pen: Pen, texts: Iterable[str]) -> list[Text]:
    """Write each caution as a line."""
    return [pen.say(f"! {text}", "yellow") for text in texts]
