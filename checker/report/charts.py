"""Compute the geometry of the HTML report's pictures.

Numbers come in, coordinates go out; pure. The templates draw them.

Coordinates are SVG user units, x to the right and y downward.

The picture is kurtosis against effective robustness, with remarks; pure.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..core.evidence import OUTLIER_SD, Gallery, Interval, OutlierFeature, Statistics
from ..text import Texts, count_text, frozen, number_text, range_text, short_checkpoint
from .document import Chart
from .forms import group_text, widest_kurtosis
from .record import ReferenceRow, Report

Place = Callable[[float, float], float]
"""A value and its unit in, its place on an axis out, 0 to 1."""
BAR_WIDTH = 260.0
BASE, ROOM = 190.0, 150.0
"""of a document's picture, px: where the axis is, and the room above it"""
PLACE, NARROWEST, WIDEST = 26.0, 300.0, 720.0
"""px a bar, and the limits of the width: with few bars the words stay readable on a phone"""
OF_CURVES = 420.0
APART = 44.0
"""px between two words below the axis at least"""
SHAPES = ("range", "mark", "threshold")
LEVELS = (1.0, 2.0, OUTLIER_SD, 6.0)
"""SD: the limits between the shades of the map; beyond the last one lies what makes an outlier feature"""
RATIOS = ((0.0, "0"), (1.0, "threshold"), (10.0, "10×"))
"""Ticks of a check's bars: value over threshold, and how it is written; no word touches another."""
REFERENCE_RATIOS = ((0.5, "0.5"), (0.8, "0.8"), (1.0, "1"), (1.2, "1.2"), (2.0, "2"))
"""Ticks of a comparison's bars: value over the reference's."""


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    text: str


class Bar(NamedTuple):
    """An interval on an axis of BAR_WIDTH."""

    low: float
    high: float
    estimate: float


class Column(NamedTuple):
    """A bin of the histogram."""

    x: float
    y: float
    width: float
    height: float
    text: str


@frozen
class Histogram:
    """The bars, the axis below, and the marks above."""

    columns: tuple[Column, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    """the lowest first; words are next to their line, above the next lower one, so that no line goes through them"""
    anchor: str
    """the words' text-anchor: start (right of the line) or end"""
    top: int
    """the largest count"""
    width, height, base = 440.0, 210.0, 176.0


class Cell(NamedTuple):
    """A feature on an image."""

    x: float
    level: int
    """0 to 4: how many of LEVELS abs(z) is beyond"""
    sign: str
    """above or below"""
    text: str


class MapRow(NamedTuple):
    """A feature on the images shown."""

    y: float
    label: str
    strong: bool
    """beyond 4 SD in at least half of all images measured"""
    cells: tuple[Cell, ...]
    text: str


@frozen
class Map:
    """A map of features over images."""

    cell_width: float
    rows: tuple[MapRow, ...]
    n_images: int
    label_width, cell_height, gap = 104.0, 20.0, 4.0

    @property
    def width(self) -> float:
        """Return the width, px."""
        return self.label_width + self.cell_width * self.n_images

    @property
    def height(self) -> float:
        """Return the height, px."""
        return len(self.rows) * (self.cell_height + self.gap) - self.gap


def position(value: float, minimum: float) -> float:
    """Return a value's place on the shared axis.

    It is 0 to 1, the same for all statistics: value / (value + threshold).

    0 is 0, the threshold is the middle, and there is room for any value. A value below 0 counts as 0.

    >>> position(0, 8), position(8, 8), position(24, 8)
    (0.0, 0.5, 0.75)
    """
    value = max(value, 0.0)
    return value / (value + minimum)


def ratio_position(value: float, reference: float) -> float:
    """Return a value's place on a ratio's axis.

    It is 0 to 1; the reference's is the middle, and near it the axis is widest.

    >>> ratio_position(0.0, 1), ratio_position(0.8, 1), ratio_position(1.0, 1), ratio_position(1.25, 1)
    (0.0, 0.25, 0.5, 0.75)
    """
    if value <= 0:
        return 0.0
    steps = math.log(value / reference) / math.log(1.25)
    return (1 + steps / (1 + abs(steps))) / 2


def bar(interval: Interval, minimum: float, place: Place = position) -> Bar | None:
    """Draw the interval as a bar. None where a bound is missing or the threshold is 0 (no ratio to it exists)."""
    if interval.low is None or interval.high is None or interval.estimate is None or minimum <= 0:
        return None
    low, high, estimate = (place(v, minimum) * BAR_WIDTH for v in (interval.low, interval.high, interval.estimate))
    return Bar(low, high, estimate)


def limits_at(limits: Sequence[float], minimum: float, place: Place = position) -> list[float]:
    """Return the places of limits on the axis. Bars share the axis; limits that are 0 or infinite are left out."""
    return [place(limit, minimum) * BAR_WIDTH for limit in limits if 0 < limit < math.inf]


def histogram(edges: Sequence[float], counts: Sequence[int], marks: Mapping[str, float]) -> Histogram | None:
    """Draw the histogram of kurtosis per image. None where nothing was counted.

    edges: one more than counts, rising. marks: words and the value that they stand at.
    """
    top = max(counts, default=0)
    if not top or len(edges) != len(counts) + 1 or edges[-1] <= edges[0]:
        return None
    width, base, room = Histogram.width, Histogram.base, 140.0

    def x(value: float) -> float:
        return (value - edges[0]) / (edges[-1] - edges[0]) * width

    columns = []
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        text = f"{number_text(low)} to {number_text(high)}: {count_text(count, 'image')}"
        height = room * count / top
        columns.append(Column(x(low) + 0.75, base - height, max(x(high) - x(low) - 1.5, 0.5), height, text))
    ticks = tuple(Tick(x(value), f"{value:g}") for value in round_values(edges[0], edges[-1]))
    mark_ticks = [
        Tick(x(value), f"{word} {number_text(value)}")
        for value, word in sorted((value, word) for word, value in marks.items())
        if edges[0] <= value <= edges[-1]
    ]
    rightwards = sum(mark.at for mark in mark_ticks) < len(mark_ticks) * width / 2
    anchor, step = ("start", -1) if rightwards else ("end", 1)
    return Histogram(tuple(columns), ticks, tuple(mark_ticks[::step]), anchor, top)


def histogram_of(s: Statistics) -> Histogram | None:
    """Draw the histogram of kurtosis with mean and median. None where nothing was counted."""
    marks = {"mean": s.kurtosis.estimate, "median": s.kurtosis_quantiles[2] if s.kurtosis_quantiles else None}
    measured = {word: value for word, value in marks.items() if value is not None}
    return histogram(s.histogram_edges, s.histogram_counts, measured)


def round_values(low: float, high: float, about: int = 5) -> list[float]:
    """Return about `about` round numbers from low to high.

    >>> round_values(21.0, 147.0)
    [40.0, 60.0, 80.0, 100.0, 120.0, 140.0]
    """
    if not high > low:
        return []
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.75)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


class Curve(NamedTuple):
    """A line of a picture."""

    shape: str
    """its class in the style sheet: in colour, in ink, dashed"""
    points: str
    whiskers: tuple[tuple[float, float, float], ...]
    """x and both ends of each interval"""
    text: str


class Picture(NamedTuple):
    """The bars or lines of a document's chart."""

    width: float
    bars: tuple[Column, ...]
    curves: tuple[Curve, ...]
    ticks: tuple[Tick, ...]
    grid: tuple[Tick, ...]
    text: str
    """the values in words"""


def picture(chart: Chart) -> Picture | None:
    """Draw one curve as bars, several as lines. None where no value is above 0."""
    first, n = chart.curves[0], len(chart.names)
    is_bars = len(chart.curves) == 1
    top = max(first.values) if is_bars else 1.0
    if top <= 0:
        return None
    width = min(max(PLACE * n, NARROWEST), WIDEST) if is_bars else OF_CURVES
    step = width / n
    places = [x * width for x in chart.at] or [(i + 0.5) * step for i in range(n)]
    spoken = [
        "; ".join(f"{place} {text}".strip() for place, text in zip(chart.names, curve.texts, strict=True))
        for curve in chart.curves
    ]
    bars = tuple(
        Column(x - 0.4 * step, y_of(value / top), 0.8 * step, BASE - y_of(value / top), text)
        for x, value, text in zip(places, first.values, first.texts, strict=True)
        if is_bars
    )
    curves = tuple(
        Curve(
            shape,
            " ".join(f"{x:.2f},{y_of(value):.2f}" for x, value in zip(places, curve.values, strict=True)),
            tuple((x, y_of(low), y_of(high)) for x, (low, high) in zip(places, curve.bounds, strict=False)),
            f"{curve.name}: {text}",
        )
        for shape, curve, text in zip(SHAPES, chart.curves, spoken, strict=False)
        if not is_bars
    )
    ticks: list[Tick] = []
    for x, text in zip(places, chart.names, strict=True):
        if text and all(x - tick.at >= APART for tick in ticks) and (x == places[-1] or places[-1] - x >= APART):
            ticks.append(Tick(x, text))
    levels = ((1.0, chart.top),) if is_bars else ((1.0, "100 %"), (0.75, "75 %"), (0.5, "50 %"), (0.25, "25 %"))
    grid = tuple(Tick(y_of(share), text) for share, text in (*levels, (0.0, "0")))
    return Picture(width, bars, curves, tuple(ticks), grid, ". ".join(spoken))


def y_of(share: float) -> float:
    """Return where a share of the largest value is, px."""
    return BASE - ROOM * share


def level(z: float) -> int:
    """Return the shade of a z. It is the number of LEVELS that its size is beyond.

    >>> [level(z) for z in (0.2, -1.5, 6.0, -6.5)]
    [0, 1, 3, 4]
    """
    return sum(abs(z) > limit for limit in LEVELS)


def feature_map(gallery: Gallery | None, features: Sequence[OutlierFeature]) -> Map | None:
    """Draw the gallery's features over its images. None where there is none of either."""
    if gallery is None or not gallery.shown or not gallery.features:
        return None
    persistent = {feature.index for feature in features if feature.persistent}
    cell_width = min(max(760.0 / len(gallery.shown), 8.0), 26.0)
    rows = []
    for rank, index in enumerate(gallery.features):
        values = [(image.name, image.z[rank]) for image in gallery.shown if rank < len(image.z)]
        cells = tuple(
            Cell(
                Map.label_width + i * cell_width,
                level(z),
                "above" if z >= 0 else "below",
                f"{name}, feature {index}: z = {z:+.1f}",
            )
            for i, (name, z) in enumerate(values)
        )
        beyond = sum(abs(z) > OUTLIER_SD for _, z in values)
        label = f"feature {index}"
        text = f"{label}: beyond {OUTLIER_SD:g} SD in {beyond} of {count_text(len(values), 'image')} shown"
        rows.append(MapRow(rank * (Map.cell_height + Map.gap), label, index in persistent, cells, text))
    return Map(cell_width, tuple(rows), len(gallery.shown))


NUMBER_ROOM, NUMBER_HEIGHT = 34.0, 14.0
"""what a checkpoint's number takes next to its dot"""


class PublishedCheckpoint(NamedTuple):
    """A reference checkpoint with published effective robustness. Its kurtosis was measured."""

    number: int
    checkpoint: str
    group: str
    kurtosis: tuple[float, ...]
    """of its image sets, rising"""
    mean_pp: float
    shows: bool

    @property
    def pp(self) -> str:
        """Return effective robustness as text."""
        return f"{self.mean_pp:+.1f}"

    @property
    def k(self) -> str:
        """Return the kurtosis of its sets as text."""
        return range_text(number_text(self.kurtosis[0]), number_text(self.kurtosis[-1]))


class Dot(NamedTuple):
    """A mark in the picture."""

    x: float
    y: float
    shows: bool
    text: str


class Line(NamedTuple):
    """A checkpoint with its image sets on one height."""

    y: float
    left: float
    right: float
    number: int
    dots: tuple[Dot, ...]
    at: float
    """x of the number"""
    anchor: str
    """the number's text-anchor: start (right of the dots), or end where another checkpoint's dot is in its way"""


@frozen
class Scatter:
    """A plot of kurtosis against published effective robustness.

    Kurtosis is logarithmic. The sets for which none is published are below.
    """

    lines: tuple[Line, ...]
    unpublished: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    threshold: float | None
    """x; None = the profile has none of the kurtosis"""
    own: float | None
    """x of this model; None = its kurtosis was not measured"""
    own_low: float | None
    own_high: float | None
    own_y: float | None
    """y of what is published of the checkpoint that this model's contract names"""
    width, height, left, right, top, base = 480.0, 380.0, 40.0, 472.0, 34.0, 262.0
    strip = 300.0
    """height of the strip of sets without a published number"""


class Suite(NamedTuple):
    """The picture, its checkpoints, and remarks below it."""

    chart: Scatter | None
    checkpoints: tuple[PublishedCheckpoint, ...]
    remarks: Texts


def suite_of(report: Report) -> Suite:
    """Place a report's model among the reference checkpoints. Their effective robustness is published."""
    checkpoints, others = _by_checkpoint(report.reference)
    own_pp = report.published.mean_pp if report.published else None
    limits = report.profile.thresholds.get("kurtosis")
    threshold = limits.minimum if limits else None
    chart = scatter(checkpoints, others, report.evidence.statistics.kurtosis, threshold, own_pp)
    return Suite(chart, checkpoints, _remarks(report, checkpoints, others))


def _by_checkpoint(
    reference: Sequence[ReferenceRow],
) -> tuple[tuple[PublishedCheckpoint, ...], tuple[ReferenceRow, ...]]:
    """Group the reference sets by checkpoint, best first.

    Sets without published effective robustness are returned apart.
    """
    from ...thresholds import published as tables  # noqa: PLC0415 # takes NumPy; an error needs none

    rows = {(row.library, row.model, row.weights): row for row in tables.published() if row.mean_pp is not None}
    sets: dict[tuple[str, str, str], list[ReferenceRow]] = {}
    others: list[ReferenceRow] = []
    for one in reference:
        key = tables.MEASURED.get(one.images)
        (sets.setdefault(key, []) if key in rows else others).append(one)
    named = ((-(rows[key].mean_pp or 0.0), rows[key].name, of_key) for key, of_key in sets.items())
    checkpoints = tuple(
        PublishedCheckpoint(
            number,
            checkpoint,
            group_text(of_key[0].group),
            tuple(sorted(one.kurtosis for one in of_key)),
            -minus_pp,
            all(one.shows_outlier_features for one in of_key),
        )
        for number, (minus_pp, checkpoint, of_key) in enumerate(sorted(named, key=lambda entry: entry[0]), 1)
    )
    return checkpoints, tuple(others)


def _remarks(report: Report, checkpoints: Sequence[PublishedCheckpoint], others: Sequence[ReferenceRow]) -> Texts:
    remarks = []
    if checkpoints:
        groups = sorted({row.group for row in checkpoints})
        one_kind = (
            f" All of them are {groups[0]} models, so the picture cannot show whether kurtosis tells robust from "
            "less robust ones apart."
        )
        remarks.append(
            f"Both numbers are known for {count_text(len(checkpoints), 'checkpoint')}."
            + (one_kind if len(groups) == 1 else "")
            + f" For {count_text(len(others), 'other reference set')} the average over the four shifts is not "
            "published, or the source does not name the weights: the strip at the foot of the picture shows their "
            "kurtosis only."
        )
    if report.published is not None:
        remarks.append(f"{report.published.sentence} Context only: it decides nothing.")
    else:
        remarks.append("No effective robustness is published for this model; its line shows the kurtosis only.")
    if widest := widest_kurtosis(report.reference):
        name, least, most = widest
        remarks.append(
            f"Kurtosis moves with the images: {name} reads {number_text(least)} on one set and {number_text(most)} on "
            "another."
        )
    return tuple(remarks)


def scatter(
    published: Sequence[PublishedCheckpoint],
    unpublished: Sequence[ReferenceRow],
    own: Interval,
    threshold: float | None,
    own_pp: float | None,
) -> Scatter | None:
    """Draw the model's kurtosis among the reference sets.

    published, unpublished: sets with and without a published effective robustness. own: this model's kurtosis.
    threshold: the kurtosis threshold. own_pp: what is published of it, percentage points; None = nothing.
    Returns None where there is no reference set to stand among.
    """
    if not published and not unpublished:
        return None
    kurtosis = [k for row in published for k in row.kurtosis] + [row.kurtosis for row in unpublished]
    markers = (own.estimate, own.low, own.high, threshold)
    positive = [value for value in (*kurtosis, *markers) if value is not None and value > 0]
    low, high = math.log(max(min(positive) / 1.25, 0.5)), math.log(max(positive) * 1.25)
    pps = [0.0, 10.0, *(row.mean_pp for row in published), *([] if own_pp is None else [own_pp])]
    floor, ceiling = min(pps) - 4, max(pps) + 6

    def x(value: float) -> float:
        place = (math.log(max(value, math.exp(low))) - low) / (high - low)
        return Scatter.left + place * (Scatter.right - Scatter.left)

    def x_of(value: float | None) -> float | None:
        return None if value is None else x(value)

    def y(pp: float) -> float:
        return Scatter.base - (pp - floor) / (ceiling - floor) * (Scatter.base - Scatter.top)

    dots_of = [
        tuple(
            Dot(x(k), y(row.mean_pp), row.shows, f"{row.checkpoint}: K {number_text(k)}, {row.pp} points")
            for k in row.kurtosis
        )
        for row in published
    ]
    lines = [
        _line(row.number, dots, [d for other in dots_of if other is not dots for d in other])
        for row, dots in zip(published, dots_of, strict=True)
    ]
    rug = [
        (row.kurtosis, row.shows_outlier_features, f"{short_checkpoint(row.checkpoint)}: K {number_text(row.kurtosis)}")
        for row in unpublished
    ]
    return Scatter(
        tuple(lines),
        tuple(Dot(x(k), Scatter.strip, shows, text) for k, shows, text in rug),
        tuple(Tick(x(v), f"{v:g}") for v in _decades(math.exp(low), math.exp(high))),
        tuple(Tick(y(v), f"{v:+g}" if v else "0") for v in round_values(floor, ceiling, 6)),
        x_of(threshold),
        x_of(own.estimate),
        x_of(own.low),
        x_of(own.high),
        None if own_pp is None else y(own_pp),
    )


def _line(number: int, dots: tuple[Dot, ...], others: Sequence[Dot]) -> Line:
    """Draw a checkpoint's line with its number.

    The number is on the side where no other checkpoint's dot is in the way.
    """
    left, right, y = dots[0].x, dots[-1].x, dots[0].y
    blocked = any(0 <= other.x - right < NUMBER_ROOM and abs(other.y - y) < NUMBER_HEIGHT for other in others)
    return Line(y, left, right, number, dots, left - 10 if blocked else right + 10, "end" if blocked else "start")


def _decades(low: float, high: float) -> list[float]:
    """Return round numbers from low to high. They are 1, 2, 5, 10, 20, …."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in exponents for m in (1, 2, 5) if low <= m * 10.0**p <= high]
