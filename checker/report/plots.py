"""Draw results with matplotlib. The extra `plot` brings it; it is imported when a picture is asked for.

Numbers in, a figure out. Colours that are told apart with any colour vision, and each is also said in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from robustcheck_onnx.checker.errors import EnvironmentFaultError, install_hint
from robustcheck_onnx.checker.evidence import Interval, Statistics
from robustcheck_onnx.checker.text import number_text, printable
from robustcheck_onnx.checker.verdict.reasons import NAMES
from robustcheck_onnx.thresholds.profile import Profile

from .judged import judged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN, WITH, WITHOUT = "#d55e00", "#0072b2", "#999999"  # Okabe and Ito's palette
PANEL = (4.2, 3.6)  # inches


class Neighbour(NamedTuple):
    """A reference set in a check's picture."""

    kurtosis: float
    persistence_ratio: float
    shows: bool
    """whether it shows outlier features"""


def figure(title: str, n_panels: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make an empty figure of panels.

    They are next to each other; a notebook shows the figure once, as the value of the cell.

    Raises:
        EnvironmentFaultError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot  # noqa: PLC0415 # an extra
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(
            "package matplotlib is not installed; a picture needs it",
            install_hint("plot"),
        ) from fault
    made, axes = pyplot.subplots(
        rows, n_panels, figsize=(PANEL[0] * n_panels, PANEL[1] * rows), layout="constrained", squeeze=False
    )
    pyplot.close(made)  # else a notebook shows it twice
    lines = wrap(printable(title), 36 * n_panels)
    made.suptitle("\n".join([*lines[:2], *["…"] * (len(lines) > 2)]), parse_math=False)
    return made, list(axes.flat)


def check_figure(title: str, statistics: Statistics, profile: Profile, suite: Sequence[Neighbour]) -> Figure:
    """Draw a check. The panels are kurtosis of each image, evidence against thresholds, place in the reference suite.

    Args:
        title: verdict, model and images.
        statistics, profile: the evidence, and what it was judged by.
        suite: the reference sets.
    """
    made, (histogram, bars, plane) = figure(title, 3)
    _histogram(histogram, statistics, profile)
    intervals(
        bars,
        [(each.name, each.interval, each.limits.minimum, each.clears == "yes") for each in judged(statistics, profile)],
        "value / threshold",
    )
    bars.set_title("evidence against thresholds")
    _suite(plane, statistics, suite)
    return made


def _histogram(axes: Axes, statistics: Statistics, profile: Profile) -> None:
    edges, counts = statistics.histogram_edges, statistics.histogram_counts
    if counts:
        axes.stairs(counts, edges, fill=True, color=WITH)
    if (mean := statistics.kurtosis.estimate) is not None:
        axes.axvline(mean, color=OWN, label=f"mean {number_text(mean)}")
    if "kurtosis" in profile.deciding:
        minimum = profile.limits_of("kurtosis").minimum
        axes.axvline(minimum, color="black", linestyle="--", label=f"threshold {number_text(minimum)}")
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
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{label} (● clears it, ✗ does not)")


def _suite(axes: Axes, statistics: Statistics, suite: Sequence[Neighbour]) -> None:
    for shows, colour, marker, word in ((True, WITH, "o", "with"), (False, WITHOUT, "s", "without")):
        chosen = [each for each in suite if each.shows is shows]
        axes.scatter(
            [each.kurtosis for each in chosen],
            [each.persistence_ratio for each in chosen],
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


class Point(NamedTuple):
    """A layer of a scan."""

    kurtosis: float | None
    error: float | None
    """standard error over images"""
    top3_share: float | None
    n_persistent: int
    kind: str


def depth_figure(title: str, layers: Sequence[Point]) -> Figure:
    """Draw a scan over depth. It shows kurtosis, and the share of the three strongest features.

    Args:
        title: model and images.
        layers: in the order of the graph; the representation last.
    """
    made, (kurtosis, share) = figure(title, 2)
    places = np.arange(1, len(layers) + 1)
    values = [np.nan if each.kurtosis is None else each.kurtosis for each in layers]
    errors = [0.0 if each.error is None else each.error for each in layers]
    kurtosis.errorbar(places, values, errors, color=WITH, marker=".", zorder=1, label="mean over images ± its SE")
    shares = [np.nan if each.top3_share is None else each.top3_share for each in layers]
    share.plot(places, shares, color=WITH, marker=".", zorder=1)
    persistent = [index for index, each in enumerate(layers) if each.n_persistent]
    if persistent:
        for axes, heights in ((kurtosis, values), (share, shares)):
            axes.scatter(
                places[persistent], [heights[index] for index in persistent],
                color=OWN, marker="D", zorder=2, label="persistent outlier features",
            )  # fmt: skip
    kurtosis.set(title="activation kurtosis", ylabel="kurtosis")
    low, high = kurtosis.get_ylim()
    if low <= 0 or high / low > 3:
        plain_logarithm(kurtosis, "y")
    share.set(title="share of the three strongest features", ylabel="share of z⁴", ylim=(0, 1.05))
    for axes in (kurtosis, share):
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(f"layer (1 to {len(layers)}; the last is the {layers[-1].kind if layers else 'last'})")
    kurtosis.legend(fontsize="small")
    return made


class Pairs(NamedTuple):
    """The compared numbers in a comparison's picture."""

    ratios: Sequence[tuple[str, Interval, bool]]
    """statistic, candidate / reference, and whether it is kept or need not be"""
    least: float
    """share of the reference's that must be kept"""
    features: Sequence[tuple[int, float, float | None]]
    """outlier feature of the reference, its mean z, and the candidate's; None where nothing stands for it"""


def pair_figure(title: str, candidate: Statistics, reference: Statistics, pairs: Pairs) -> Figure:
    """Draw a comparison.

    The panels are kurtosis of the images in both, the ratio of each statistic, the outlier features of both.

    Args:
        title: verdict and models.
        candidate, reference: the statistics of both.
        pairs: what was compared.
    """
    made, (histogram, kept, features) = figure(title, 3)
    for side, colour, word in ((reference, WITH, "reference"), (candidate, OWN, "candidate")):
        if side.histogram_counts:
            histogram.stairs(side.histogram_counts, side.histogram_edges, color=colour, linewidth=2, label=word)
    histogram.set(title="activation kurtosis", xlabel="kurtosis of an image", ylabel="images")
    histogram.legend(fontsize="small")
    intervals(
        kept, [(name, ratio, 1.0, good) for name, ratio, good in pairs.ratios], "candidate / reference", pairs.least
    )
    kept.set_title(f"kept of the reference (at least {100 * pairs.least:g} %)")
    places = np.arange(len(pairs.features))
    theirs = [z for _, z, _ in pairs.features]
    ours = [np.nan if z is None else z for _, _, z in pairs.features]
    features.bar(places - 0.2, theirs, 0.4, color=WITH, label="reference")
    features.bar(places + 0.2, ours, 0.4, color=OWN, label="candidate")
    features.set_xticks(places, [str(index) for index, _, _ in pairs.features])
    features.set(title="outlier features of the reference", xlabel="feature", ylabel="mean z (SD)")
    features.legend(fontsize="small")
    return made
