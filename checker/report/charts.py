"""Compute the geometry of the HTML report's pictures.

Numbers come in, coordinates go out; pure. The templates draw them.

Coordinates are SVG user units, x to the right and y downward.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..core.evidence import OUTLIER_SD, Gallery, Interval, OutlierFeature, Statistics
from ..text import count_text, frozen, number_text
from .document import Chart

Place = Callable[[float, float], float]
"""A value and its unit in, its place on an axis out, 0 to 1."""
BAR_WIDTH = 260.0
BASE = 190.0
"""px, where the axis of a document's picture is"""
ROOM = 150.0
"""px above it"""
PLACE = 26.0
"""px per bar"""
NARROWEST = 300.0
"""px of width: with few bars the words stay readable on a phone"""
WIDEST = 720.0
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
    width = 440.0
    height = 210.0
    base = 176.0


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
    label_width = 104.0
    cell_height = 20.0
    gap = 4.0

    @property
    def width(self) -> float:
        """Return the width, px."""
        return self.label_width + self.cell_width * self.n_images

    @property
    def height(self) -> float:
        """Return the height, px."""
        return len(self.rows) * (self.cell_height + self.gap) - self.gap


def position(value: float, minimum: float) -> float:
    """Return a value's place on the shared axis, 0 to 1: value / (value + threshold), for all statistics.

    0 is 0, the threshold is the middle, and there is room for any value. A value below 0 counts as 0.

    >>> position(0, 8), position(8, 8), position(24, 8)
    (0.0, 0.5, 0.75)
    """
    value = max(value, 0.0)
    return value / (value + minimum)


def ratio_position(value: float, reference: float) -> float:
    """Return a value's place on a ratio's axis, 0 to 1, with the reference's in the middle, where the axis is widest.

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


def limit_at(limit: float, minimum: float, place: Place = position) -> float | None:
    """Return the place of a limit on the axis that all bars share. None for 0 or an infinite one."""
    return place(limit, minimum) * BAR_WIDTH if 0 < limit < math.inf else None


def histogram(edges: Sequence[float], counts: Sequence[int], marks: Mapping[str, float]) -> Histogram | None:
    """Draw the histogram of kurtosis per image. None where nothing was counted.

    edges: one more than counts, rising. marks: words and the value that they stand at.
    """
    top = max(counts, default=0)
    if not top or len(edges) != len(counts) + 1 or edges[-1] <= edges[0]:
        return None
    width = Histogram.width
    base = Histogram.base
    room = 140.0

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
    first = math.ceil(low / step)
    last = math.floor(high / step)
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
    first = chart.curves[0]
    n = len(chart.names)
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
    """Return the shade of a z: the number of LEVELS that its size is beyond.

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
