"""Show reports in a notebook.

They have a short form as HTML, and tables as data frames. pandas is imported when asked for.

Pure: rows and words come in. Everything is escaped; there is no script, no colour of the page and no outside address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.text import count_text, printable
from robustcheck_onnx.checker.verdict.reasons import NAMES
from robustcheck_onnx.checker.verdict.rule import Reason, Verdict
from robustcheck_onnx.thresholds.profile import STATISTICS, Profile

from .judged import CLEARS, SIGNS, clears, judged, meaning_text, verdict_text

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, str | float | bool | None]
"""one line of a data frame: column, value"""

_EDGE = {"PASS": "#2e7d32", "WARN": "#b26a00", "": "#777"}
"""colour of the edge, readable on light and dark; the sign and the word say the same"""


def block(head: str, lines: Sequence[str], table: str = "", *, verdict: str = "") -> str:
    """Lay out one result.

    Args:
        head: the first line, any text.
        lines: paragraphs, any text.
        table: HTML from `table`.
        verdict: PASS, WARN or nothing: the colour of the edge.
    """
    said = "".join(f'<div style="margin-top:.3em">{_text(line)}</div>' for line in lines)
    style = f"border-left:4px solid {_EDGE[verdict]};padding:.2em .8em;max-width:60em"
    return f'<div style="{style}"><div><b>{_text(head)}</b></div>{said}{table}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int = 1) -> str:
    """Lay out a table with text columns first. They are `n_text`; the others are numbers. All of it is escaped."""

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ["left"] * n_text + ["right"] * (len(cells) - n_text)
        styled = (
            f'<{tag} style="text-align:{side};padding:.1em .6em">{_text(cell)}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(styled)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<table style="margin-top:.5em"><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table>'


def verdict_lines(verdict: Verdict) -> list[str]:
    """Explain a verdict and its reasons. A reason has its kind and its next step."""
    return [meaning_text(verdict), *(text for reason in verdict.reasons for text in _reason(reason))]


def _reason(reason: Reason) -> list[str]:
    return [f"{reason.id} ({reason.kind}): {reason.seen}", f"→ {reason.next_step}"]


def headline(verdict: Verdict, file: str, n_images: int) -> str:
    """Write verdict, kind, model and images in a line."""
    return f"{SIGNS[verdict.verdict]} {verdict_text(verdict)} · {file} · {count_text(n_images, 'image')}"


def check_html(verdict: Verdict, evidence: Evidence, profile: Profile, notes: Sequence[str]) -> str:
    """Write a check as HTML.

    It has verdict, kind, reasons, the deciding statistics with their thresholds, and notes.
    """
    rows = []
    for each in judged(evidence.statistics, profile):
        sign, word = CLEARS[each.clears]
        rows.append([each.name, each.value, each.bounds(), str(each.limits), f"{sign} {word}"])
    return block(
        headline(verdict, evidence.model.file, evidence.statistics.n_images),
        [*verdict_lines(verdict), *notes],
        table(["statistic", "value", "interval", "threshold", "clears it?"], rows),
        verdict=verdict.verdict,
    )


def check_rows(evidence: Evidence, profile: Profile) -> list[Row]:
    """Return a check's measured statistics, a row each."""
    rows: list[Row] = []
    for name in STATISTICS:
        interval = getattr(evidence.statistics, name)
        limits = profile.limits_of(name) if name in profile.deciding else None
        rows.append(
            {
                "statistic": name,
                "name": NAMES[name],
                "estimate": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "minimum": None if limits is None else limits.minimum,
                "maximum": None if limits is None else limits.maximum,
                "clears": None if limits is None else clears(interval, limits),
            }
        )
    return rows


def frame(rows: Sequence[Row], index: str) -> pd.DataFrame:
    """Make a data frame of rows.

    Args:
        rows: all with the same columns.
        index: the column that names the rows.

    Raises:
        EnvironmentFaultError: pandas is not installed.
    """
    pandas = _library("pandas", "a data frame needs it", "pip install pandas")
    made: pd.DataFrame = pandas.DataFrame(list(rows)).set_index(index)
    return made


def _library(name: str, why: str, hint: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(f"package {name} is not installed; {why}", hint) from fault


def _text(text: str) -> str:
    return escape(printable(text))
