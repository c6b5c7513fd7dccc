"""Building blocks of the terminal report: text in the characters the output can show, headings, tables.

Only bold, dim and the eight basic colours are used, never white, black or a background, and no colour carries
a meaning alone, so that it reads the same on dark, light and colourless output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.text import name_text, prose_text, sentence_text

INDENT = 2  # columns
GAP = 3  # columns between blocks that stand side by side


@dataclass(frozen=True)
class Pen:
    """Writes Text, never markup, in the characters that the output can show."""

    ascii_only: bool

    def say(self, sentence: str, style: str = "") -> Text:
        """A sentence or word of the report's own; may quote names."""
        return Text(sentence_text(sentence, self.ascii_only), style, overflow="fold")

    def prose(self, sentence: str, style: str = "") -> Text:
        """A sentence that quotes no names."""
        return Text(prose_text(sentence, self.ascii_only), style, overflow="fold")

    def name(self, name: str, style: str = "") -> Text:
        """A name from outside, exact."""
        return Text(name_text(name, self.ascii_only), style, overflow="fold")

    def facts(self, items: list[Text]) -> Text:
        """Facts in one line, with dots between; empty ones are left out."""
        return self.say(" · ").join(item for item in items if item)


@dataclass(frozen=True)
class Trimmed:
    """Its lines without the blanks that tables leave at the end."""

    body: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        for segments in console.render_lines(self.body, options, pad=False):
            yield from reversed(list(_without_trailing_blanks(segments)))
            yield Segment.line()


def _without_trailing_blanks(segments: list[Segment]) -> Iterator[Segment]:
    content = False
    for text, style, control in reversed(segments):
        kept = text if content else text.rstrip(" ")
        if kept:
            content = True
            yield Segment(kept, style, control)


@dataclass(frozen=True)
class Flow:
    """Blocks side by side as far as their widths allow, then the next row, with a blank line between."""

    blocks: tuple[RenderableType, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        rows: list[list[RenderableType]] = []
        free = -1
        for block in self.blocks:
            width = Measurement.get(console, options, block).maximum
            if width + GAP > free:
                rows.append([])
                free = options.max_width + GAP
            rows[-1].append(block)
            free -= width + GAP
        for i, row in enumerate(rows):
            if i:
                yield Text()
            grid = Table.grid(padding=(0, GAP, 0, 0))
            grid.add_row(*row)
            yield grid


def line(*pieces: Text) -> Text:
    """Pieces one after the other, each in its own style (`+` would spread the first one's style over all)."""
    return Text(overflow="fold").join(pieces)


def section(pen: Pen, title: str, remark: str, *body: RenderableType) -> Group:
    """A heading with a remark beside it, and what stands indented below."""
    return Group(
        line(pen.say(title, "bold"), pen.say(f"  {remark}" if remark else "", "dim")),
        *(Padding(block, (0, 0, 0, INDENT)) for block in body),
    )


def columns(pen: Pen, *headers: str) -> Table:
    """A table without lines; a header with `>` is right-justified, with `>` or `=` its column never wraps."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for header in headers:
        table.add_column(
            pen.say(header.lstrip(">=")),
            justify="right" if header.startswith(">") else "left",
            overflow="fold",
            no_wrap=header.startswith((">", "=")),
        )
    return table


def hanging(rows: list[tuple[Text, Text]]) -> Table:
    """Rows of a mark or label and a text that wraps beside it."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    for mark, text in rows:
        grid.add_row(mark, text)
    return grid
