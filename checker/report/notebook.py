"""Show results in a notebook: short HTML, data frames and pictures.

They have a short form as HTML, and tables as data frames. pandas is imported when asked for.

Pure: rows and words come in. Everything is escaped; there is no script, no colour of the page and no outside address.

Numbers in, a figure out. Colours that are told apart with any colour vision, and each is also said in words.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from pathlib import PurePath
from textwrap import wrap
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from ...thresholds.profile import Profile
from ...thresholds.statistics import STATISTICS
from ..core.evidence import Interval, Statistics
from ..core.verdict.reasons import NAMES
from ..core.verdict.rule import Reason, Verdict
from ..errors import EnvironmentFaultError, install_hint
from ..text import count_text, number_text, printable
from .document import Cell, Document, Table, pairs_of, text_of
from .forms import SIGNS, clears, statistics_of, verdict_text
from .record import ReferenceRow, Report

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, str | float | bool | None]
"""one line of a data frame: column, value"""

_EDGE = {"pass": "#2e7d32", "warn": "#b26a00", "fail": "#a02a2a", "": "#777"}
"""colour of the edge, readable on light and dark; the sign and the word say the same"""


def block(head: str, lines: Sequence[str], table: str = "", *, verdict: str = "") -> str:
    """Lay out one result.

    Args:
        head: the first line, any text.
        lines: paragraphs, any text.
        table: HTML from `table`.
        verdict: pass, warn, fail or nothing: the colour of the edge.
    """
    paragraphs = "".join(f'<div style="margin-top:.3em">{_text(line)}</div>' for line in lines)
    style = f"border-left:4px solid {_EDGE[verdict]};padding:.2em .8em;max-width:60em"
    return f'<div style="{style}"><div><b>{_text(head)}</b></div>{paragraphs}{table}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table. Heads are as of `document.Table`. All of it is escaped."""
    sides = ["right" if ">" in head[:2] else "left" for head in header]

    def line(cells: Sequence[str], tag: str) -> str:
        styled = (
            f'<{tag} style="text-align:{side};padding:.1em .6em">{_text(cell)}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(styled)}</tr>"

    heads = [head.lstrip("?>=") for head in header]
    body = "".join(line(row, "td") for row in rows)
    return f'<table style="margin-top:.5em"><thead>{line(heads, "th")}</thead><tbody>{body}</tbody></table>'


def _reason(reason: Reason) -> list[str]:
    return [f"{reason.id} ({reason.kind}): {reason.seen}", f"→ {reason.next_step}"]


def headline(verdict: Verdict, file: str, n_images: int) -> str:
    """Write verdict, kind, model and images in a line."""
    return f"{SIGNS[verdict.verdict]} {verdict_text(verdict)} · {file} · {count_text(n_images, 'image')}"


def of_document(document: Document) -> str:
    """Write the HTML of a notebook. It has what the short report shows, and the first table."""
    short = [part for section in document.sections if section.shown in ("brief", "short") for part in section.blocks]
    every = [part for section in document.sections for part in section.blocks if isinstance(part, Table)]
    paragraphs = [
        *document.cautions,
        document.claim,
        document.summary,
        " · ".join(filter(None, map(text_of, document.facts))),
    ]
    paragraphs += itertools.chain(*map(_reason, document.reasons))
    paragraphs += (f"{label}: {words}" if label else words for part in short for label, words in pairs_of(part))
    tables = [part for part in short if isinstance(part, Table)] or every[:1]
    shown = "".join(table(part.heads, [[*map(text_of, row)] for row in part.rows]) for part in tables)
    verdict, code = document.verdict or Cell(document.title), document.exit_code
    head = f"{verdict.text} · {document.model.file}" + ("" if code is None else f" · exit code {code}")
    return block(head, [*filter(None, [*paragraphs, *document.notes, document.limits])], shown, verdict=verdict.style)


def check_frame(report: Report) -> pd.DataFrame:
    """Return a check's measured statistics. A row has estimate, interval, and threshold where it decides."""
    profile, rows = report.profile, list[Row]()
    for name in STATISTICS:
        interval = getattr(report.evidence.statistics, name)
        minimum = profile.minimum_of(name) if name in profile.deciding else None
        rows.append(
            {
                "statistic": name,
                "name": NAMES[name],
                "estimate": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "minimum": minimum,
                "clears": None if minimum is None else clears(interval, minimum),
            }
        )
    return frame(rows, "statistic")


def frame(rows: Sequence[Row], index: str) -> pd.DataFrame:
    """Make a data frame of rows.

    Args:
        rows: all with the same columns.
        index: the column that names the rows.

    Raises:
        EnvironmentFaultError: pandas is not installed.
    """
    pandas = _library("pandas", "a data frame needs it", "pip install pandas")
    data: pd.DataFrame = pandas.DataFrame(list(rows)).set_index(index)
    return data


def _library(name: str, why: str, hint: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as fault:
        package = name.partition(".")[0]
        raise EnvironmentFaultError(f"package {package} is not installed; {why}", hint) from fault


def _text(text: str) -> str:
    return escape(printable(text))


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN, WITH, WITHOUT = "#d55e00", "#0072b2", "#999999"  # Okabe and Ito's palette
PANEL = (4.2, 3.6)  # inches
NAN = float("nan")


def figure(title: str, n_panels: int) -> tuple[Figure, list[Axes]]:
    """Make an empty figure of panels.

    They are next to each other; a notebook shows the figure once, as the value of the cell.

    Raises:
        EnvironmentFaultError: matplotlib is not installed.
    """
    pyplot = _library("matplotlib.pyplot", "a plot needs it", install_hint("plot"))
    drawing, axes = pyplot.subplots(
        1, n_panels, figsize=(PANEL[0] * n_panels, PANEL[1]), layout="constrained", squeeze=False
    )
    pyplot.close(drawing)  # else a notebook shows it twice
    lines = wrap(printable(title), 36 * n_panels)
    drawing.suptitle("\n".join([*lines[:2], *["…"] * (len(lines) > 2)]), parse_math=False)
    return drawing, list(axes.flat)


def check_figure(report: Report) -> Figure:
    """Draw a check. The panels are kurtosis of each image, evidence and thresholds, place in the reference suite."""
    statistics = report.evidence.statistics
    file = PurePath(report.evidence.model.file).name
    drawing, (histogram, bars, plane) = figure(headline(report.verdict, file, statistics.n_images), 3)
    _histogram(histogram, statistics, report.profile)
    rows = [(s.name, s.interval, s.minimum, s.clears == "yes") for s in statistics_of(report)]
    intervals(bars, rows, "value / threshold")
    bars.set_title("evidence against thresholds")
    _suite(plane, statistics, report.reference)
    return drawing


def _histogram(axes: Axes, statistics: Statistics, profile: Profile) -> None:
    edges, counts = statistics.histogram_edges, statistics.histogram_counts
    if counts:
        axes.stairs(counts, edges, fill=True, color=WITH)
    if (mean := statistics.kurtosis.estimate) is not None:
        axes.axvline(mean, color=OWN, label=f"mean {number_text(mean)}")
    axes.set(title="activation kurtosis", xlabel="kurtosis of an image", ylabel="images")
    axes.legend(fontsize="small")


def intervals(axes: Axes, rows: Sequence[tuple[str, Interval, float, bool]], label: str, line: float = 1.0) -> None:
    """Draw intervals below each other. Each has its own unit; the axis is logarithmic where they range far.

    Args:
        axes: where.
        rows: name, interval, the unit (above 0) that it is divided by, and whether it clears the line. A row whose
            estimate is not measured, or not above 0, says so.
        label: of the axis.
        line: what must be cleared.
    """
    names = []
    for place, (name, interval, unit, good) in enumerate(rows):
        names.append(name)
        colour = WITH if good else OWN
        if interval.estimate is None or interval.estimate <= 0 or unit <= 0:
            axes.text(line, place, "not measured or 0", va="center", fontsize="small")
            continue
        value = interval.estimate / unit
        if interval.low is not None and interval.high is not None:
            least = max(interval.low / unit, 1e-3)
            axes.plot([least, interval.high / unit], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(value, place, "o" if good else "X", color=colour, label="_")
    axes.axvline(line, color="black", linestyle="--")
    low, high = axes.get_xlim()
    if low <= 0 or high / low > 3:
        plain_logarithm(axes, "x")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{label} (● clears it, ✗ does not)")


def _suite(axes: Axes, statistics: Statistics, suite: Sequence[ReferenceRow]) -> None:
    for shows, colour, marker, word in ((True, WITH, "o", "with"), (False, WITHOUT, "s", "without")):
        chosen = [row for row in suite if row.shows_outlier_features is shows]
        axes.scatter(
            [row.kurtosis for row in chosen],
            [row.persistence_ratio for row in chosen],
            color=colour, marker=marker, alpha=0.7, label=f"{word} outlier features",
        )  # fmt: skip
    kurtosis, ratio = statistics.kurtosis.estimate, statistics.persistence_ratio.estimate
    if kurtosis is not None and ratio is not None:
        axes.scatter([kurtosis], [ratio], color=OWN, marker="*", s=220, label="this model", zorder=3)
    axes.set(title="place in the reference suite", xlabel=NAMES["kurtosis"], ylabel=NAMES["persistence_ratio"])
    plain_logarithm(axes, "x")
    plain_logarithm(axes, "y")
    axes.legend(fontsize="small")


def plain_logarithm(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 # an extra

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
