"""Compute the geometry of the HTML report's pictures.

Numbers come in, coordinates go out; pure. The templates draw them.

Coordinates are SVG user units, x to the right and y downward.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..core.evidence import OUTLIER_SD, Gallery, OutlierFeature
from ..text import count_text, frozen
from .document import Bar, Chart, Series

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
FOOT = (0.0, "0")
LINE_LEVELS = ((1.0, "100 %"), (0.75, "75 %"), (0.5, "50 %"), (0.25, "25 %"), FOOT)
SHAPES = ("range", "mark", "threshold")
LEVELS = (1.0, 2.0, OUTLIER_SD, 6.0)
"""SD: the limits between the shades of the map; beyond the last one lies what makes an outlier feature"""
RATIOS = (0.5, 0.8, 1.0, 1.2, 2.0)
"""ticks of a bar's axis: value over its unit"""


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    text: str


class DrawnBar(NamedTuple):
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


class MapCell(NamedTuple):
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
    cells: tuple[MapCell, ...]
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


def position(value: float, unit: float) -> float:
    """Return a value's place on the axis of all bars, 0 to 1, with the unit in the middle, where the axis is widest.

    >>> position(0.0, 8), position(6.4, 8), position(8.0, 8), position(10.0, 8)
    (0.0, 0.25, 0.5, 0.75)
    """
    if value <= 0:
        return 0.0
    steps = math.log(value / unit) / math.log(1.25)
    return (1 + steps / (1 + abs(steps))) / 2


def place_on(bar: Bar, value: float) -> float:
    """Return where a value is on the axis of a bar, px."""
    return position(value, bar.unit) * BAR_WIDTH


def drawn_bar(bar: Bar) -> DrawnBar | None:
    """Draw an interval. None where a bound is missing or the unit is 0, to which no ratio exists."""
    interval = bar.interval
    if interval.low is None or interval.high is None or interval.estimate is None or bar.unit <= 0:
        return None
    ends = place_on(bar, interval.low), place_on(bar, interval.high)
    return DrawnBar(*ends, place_on(bar, interval.estimate))


def limit_of(bar: Bar) -> float | None:
    """Return where a bar's threshold is on its axis, px. None where the unit is 0."""
    return place_on(bar, bar.least) if bar.unit > 0 else None


class DrawnCurve(NamedTuple):
    """A line of a picture."""

    shape: str
    """its class in the style sheet: in colour, in ink, dashed"""
    points: str
    whiskers: tuple[tuple[float, float, float], ...]
    """x and both ends of each interval"""
    text: str


class DrawnChart(NamedTuple):
    """The bars or lines of a document's chart."""

    width: float
    bars: tuple[Column, ...]
    curves: tuple[DrawnCurve, ...]
    ticks: tuple[Tick, ...]
    grid: tuple[Tick, ...]
    text: str
    """the values in words"""


def picture(chart: Chart) -> DrawnChart | None:
    """Draw one curve as bars, several as lines. None where no value is above 0."""
    n = len(chart.names)
    first = chart.curves[0]
    is_bars = len(chart.curves) == 1
    width = OF_CURVES
    levels: tuple[tuple[float, str], ...] = LINE_LEVELS
    if is_bars:
        width = min(max(PLACE * n, NARROWEST), WIDEST)
        levels = ((1.0, chart.top), FOOT)
    if is_bars and max(first.values) <= 0:
        return None
    step = width / n
    places = [(i + 0.5) * step for i in range(n)]
    if chart.at:
        places = [x * width for x in chart.at]
    spoken = [_spoken(chart.names, curve) for curve in chart.curves]
    bars: tuple[Column, ...] = ()
    curves: tuple[DrawnCurve, ...] = ()
    if is_bars:
        bars = tuple(_bars(first, places, 0.8 * step))
    else:
        shapes = zip(SHAPES, chart.curves, spoken, strict=False)
        curves = tuple(_line(shape, curve, places, text) for shape, curve, text in shapes)
    ticks = tuple(_ticks(chart.names, places))
    grid = tuple(Tick(y_of(share), text) for share, text in levels)
    return DrawnChart(width, bars, curves, ticks, grid, ". ".join(spoken))


def _spoken(names: Sequence[str], curve: Series) -> str:
    """Write the values of a curve in words, each after the name of its place."""
    values = zip(names, curve.texts, strict=True)
    return "; ".join(f"{name} {text}".strip() for name, text in values)


def _bars(curve: Series, places: Sequence[float], width: float) -> Iterator[Column]:
    """Yield the bars of a curve. The tallest has all the room."""
    top = max(curve.values)
    for x, value, text in zip(places, curve.values, curve.texts, strict=True):
        y = y_of(value / top)
        left = x - width / 2
        yield Column(left, y, width, BASE - y, text)


def _line(shape: str, curve: Series, places: Sequence[float], text: str) -> DrawnCurve:
    """Draw a curve as a line, with an interval at each place."""
    values = zip(places, curve.values, strict=True)
    points = " ".join(f"{x:.2f},{y_of(value):.2f}" for x, value in values)
    intervals = zip(places, curve.bounds, strict=False)
    whiskers = tuple((x, y_of(low), y_of(high)) for x, (low, high) in intervals)
    return DrawnCurve(shape, points, whiskers, f"{curve.name}: {text}")


def _ticks(names: Sequence[str], places: Sequence[float]) -> list[Tick]:
    """Return the names that fit below the axis. The last one is always there."""
    last = places[-1]
    ticks: list[Tick] = []
    for x, text in zip(places, names, strict=True):
        is_apart = all(x - tick.at >= APART for tick in ticks)
        if text and is_apart and (x == last or last - x >= APART):
            ticks.append(Tick(x, text))
    return ticks


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
        cells = tuple(_cell(i, name, index, z, cell_width) for i, (name, z) in enumerate(values))
        beyond = sum(abs(z) > OUTLIER_SD for _, z in values)
        label = f"feature {index}"
        shown = count_text(len(values), "image")
        text = f"{label}: beyond {OUTLIER_SD:g} SD in {beyond} of {shown} shown"
        y = rank * (Map.cell_height + Map.gap)
        rows.append(MapRow(y, label, index in persistent, cells, text))
    return Map(cell_width, tuple(rows), len(gallery.shown))


def _cell(place: int, name: str, feature: int, z: float, width: float) -> MapCell:
    """Draw a feature on an image."""
    sign = "below"
    if z >= 0:
        sign = "above"
    x = Map.label_width + place * width
    text = f"{name}, feature {feature}: z = {z:+.1f}"
    return MapCell(x, level(z), sign, text)
