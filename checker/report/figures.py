"""Draw figures with matplotlib. Colours are told apart with any colour vision, and words say the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from ...thresholds.profile import Profile
from ..core.evidence import Interval, Statistics
from ..core.verdict.kinds import NAMES
from ..errors import install_hint
from ..text import number_text, printable
from .frames import library
from .numbers import statistics_of
from .record import Bound, ReferenceRow
from .words import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette
OWN = "#d55e00"


WITH = "#0072b2"


WITHOUT = "#999999"


PANEL = (4.2, 3.6)  # inches


NAN = float("nan")


def figure(title: str, n_panels: int) -> tuple[Figure, list[Axes]]:
    """Make an empty figure of panels next to each other.

    A notebook shows the figure once, as the value of the cell.

    Raises:
        EnvironmentFaultError: matplotlib is not installed.
    """
    pyplot = library("matplotlib.pyplot", "a plot needs it", install_hint("plot"))
    size = (PANEL[0] * n_panels, PANEL[1])
    drawing, axes = pyplot.subplots(1, n_panels, figsize=size, layout="constrained", squeeze=False)
    pyplot.close(drawing)  # else a notebook shows it twice
    lines = wrap(printable(title), 36 * n_panels)
    if len(lines) > 2:
        lines[2:] = ["…"]
    drawing.suptitle("\n".join(lines), parse_math=False)
    return drawing, list(axes.flat)


def check_figure(report: Bound, reference: Sequence[ReferenceRow]) -> Figure:
    """Draw a check. The panels are kurtosis of each image, evidence and thresholds, place in the reference suite."""
    statistics = report.evidence.statistics
    file = PurePath(report.evidence.model.file).name
    title = headline(report.verdict, file, statistics.n_images)
    drawing, (histogram, bars, plane) = figure(title, 3)
    _histogram(histogram, statistics, report.profile)
    rows = [(s.name, s.interval, s.minimum, s.clears == "yes") for s in statistics_of(report)]
    intervals(bars, rows, "value / threshold")
    bars.set_title("evidence against thresholds")
    _suite(plane, statistics, reference)
    return drawing


def _histogram(axes: Axes, statistics: Statistics, profile: Profile) -> None:
    edges = statistics.histogram_edges
    counts = statistics.histogram_counts
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
            ends = [max(interval.low / unit, 1e-3), interval.high / unit]
            axes.plot(ends, [place, place], color=colour, linewidth=3, solid_capstyle="butt")
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
        kurtoses = [row.kurtosis for row in chosen]
        ratios = [row.persistence_ratio for row in chosen]
        label = f"{word} outlier features"
        axes.scatter(kurtoses, ratios, color=colour, marker=marker, alpha=0.7, label=label)
    kurtosis = statistics.kurtosis.estimate
    ratio = statistics.persistence_ratio.estimate
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
