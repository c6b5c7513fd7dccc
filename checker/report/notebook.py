"""Show a document in a notebook, as short HTML. Pure.

Everything is escaped; there is no script, no colour of the page and no outside address.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from ..core.verdict.rule import Reason
from ..text import around, printable
from .document import Cell, Document, Table, pairs_of, text_of

_EDGE = {"pass": "#2e7d32", "warn": "#b26a00", "fail": "#a02a2a", "": "#777"}
"""colour of the edge, readable on light and dark; the sign and the word say the same"""


def table(block: Table) -> str:
    """Lay out a table, with all of it escaped."""
    sides = ["right" if column.right else "left" for column in block.columns]

    def line(cells: Sequence[str], tag: str) -> str:
        styled = (
            f'<{tag} style="text-align:{side};padding:.1em .6em">{_text(cell)}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(styled)}</tr>"

    heads = [column.head for column in block.columns]
    body = "".join(line([*map(text_of, row)], "td") for row in block.rows)
    return f'<table style="margin-top:.5em"><thead>{line(heads, "th")}</thead><tbody>{body}</tbody></table>'


def _reason(reason: Reason) -> list[str]:
    return [f"{reason.id} ({reason.kind}): {reason.seen}", f"→ {reason.next_step}"]


def of_document(document: Document) -> str:
    """Write the HTML of a notebook, with what the short report shows, and the first table."""
    short = [part for section in document.sections if section.shown in ("brief", "short") for part in section.blocks]
    every = [part for section in document.sections for part in section.blocks if isinstance(part, Table)]
    facts = filter(None, map(text_of, document.facts))
    paragraphs = [*document.cautions, document.claim, document.summary, " · ".join(facts)]
    paragraphs += itertools.chain(*map(_reason, document.reasons))
    paragraphs += (around("", label, ": ") + words for part in short for label, words in pairs_of(part))
    paragraphs += [*document.notes, document.limits]
    tables = [part for part in short if isinstance(part, Table)] or every[:1]
    verdict = document.verdict or Cell(document.title)
    head = f"{verdict.text} · {document.model.file}"
    if document.exit_code is not None:
        head += f" · exit code {document.exit_code}"
    lines = [f'<div style="margin-top:.3em">{_text(words)}</div>' for words in paragraphs if words]
    content = "".join([f"<div><b>{_text(head)}</b></div>", *lines, *map(table, tables)])
    style = f"border-left:4px solid {_EDGE[verdict.style]};padding:.2em .8em;max-width:60em"
    return f'<div style="{style}">{content}</div>'


def _text(text: str) -> str:
    return escape(printable(text))
