"""The records that the HTML report's templates write: what is said, nothing of how it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from robustcheck_onnx.checker.statistics import OUTLIER_SD
from robustcheck_onnx.checker.text import number_text

from ..facts import Block


@dataclass(frozen=True)
class SummaryRow:
    """One model in the table of several."""

    anchor: str
    model: str
    verdict: str
    sign: str
    exit_code: str
    why: str
    kurtosis: str
    images: str


@dataclass(frozen=True)
class Page:
    """Everything on the page."""

    title: str
    versions: tuple[str, ...]
    summary: tuple[SummaryRow, ...]
    """empty for one model"""
    models: tuple[Model | Error, ...]
    has_pictures: bool
    """whether calibration photos are embedded"""


@dataclass(frozen=True)
class Error:
    """A model that could not be assessed."""

    anchor: str
    name: str
    message: str
    hint: str
    exit_code: int
    meaning: str
    verdict: str = "ERROR"
    sign: str = "✗"


@dataclass(frozen=True)
class ReasonView:
    """Why the verdict is WARN."""

    id: str
    title: str
    seen: str
    next_step: str
    waived: str
    """by whom, until when and why; empty where nobody accepted it"""


@dataclass(frozen=True)
class StatisticRow:
    """One statistic against its threshold."""

    name: str
    definition: str
    value: str
    interval: str
    threshold: str
    word: str
    sign: str
    colour: str
    bar: Bar | None


@dataclass(frozen=True)
class FeatureRow:
    """One outlier feature."""

    index: int
    share: str
    frequency: str
    mean_z: str
    persistent: bool


@dataclass(frozen=True)
class Seen:
    """A calibration image and its kurtosis."""

    name: str
    kurtosis: str
    uri: str
    why_none: str


@dataclass(frozen=True)
class PlaceRow:
    """One line of the reference list."""

    rank: int
    ratio: str
    kurtosis: str
    shows: bool
    group: str
    checkpoint: str
    own: bool
    gap: str
    """that sets were left out before this line, and how many; empty where none was"""


@dataclass(frozen=True)
class Suite:
    """Where the model stands in the reference suite."""

    chart: Scatter | None
    known: tuple[Known, ...]
    remarks: tuple[str, ...]
    places: tuple[PlaceRow, ...]
    everything: tuple[PlaceRow, ...]


@dataclass(frozen=True)
class Model:
    """One model's part of the page."""

    anchor: str
    name: str
    source: str
    synthetic: str
    """what was planted by hand; empty for a real model"""
    digest: str
    verdict: str
    sign: str
    meaning: str
    gate: str
    gate_remark: str
    tiles: tuple[tuple[str, str, str], ...]
    """(label, value, remark)"""
    reasons: tuple[ReasonView, ...]
    expired: tuple[str, ...]
    notes: tuple[str, ...]
    confidence: str
    statistics: tuple[StatisticRow, ...]
    ticks: tuple[Tick, ...]
    context: tuple[tuple[str, str], ...]
    histogram: Histogram | None
    quantiles: str
    features: tuple[FeatureRow, ...]
    features_remark: str
    map: Map | None
    map_remark: str
    suite: Suite
    most: tuple[Seen, ...]
    least: tuple[Seen, ...]
    images_remark: str
    facts: tuple[Block, ...]
    claim: str
    limits: tuple[str, ...]


LEVELS = (1.0, 2.0, 4.0, OUTLIER_SD)
"""SD: where the shades of the map change; the darkest is what makes an outlier feature"""

Point = tuple[float, float]


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    text: str


class Bar(NamedTuple):
    """An interval beside its threshold, which lies in the middle of BAR_WIDTH."""

    low: float
    high: float
    estimate: float


class Column(NamedTuple):
    """One bin of the histogram."""

    x: float
    y: float
    width: float
    height: float
    text: str


class Histogram(NamedTuple):
    """Bars, the axis below them, and marks above them."""

    width: float
    height: float
    base: float
    columns: tuple[Column, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    """the lowest first; words stand beside their line, above the next lower one, so that no line goes through them"""
    anchor: str
    """the words' text-anchor: start (right of the line) or end"""
    top: int
    """the largest count"""


# --------------------------------------------------------------------------------------------- outlier-feature map


class Cell(NamedTuple):
    """One feature on one image."""

    x: float
    level: int
    """0 to 4, as LEVELS part abs(z)"""
    sign: str
    """above or below"""
    text: str


class MapRow(NamedTuple):
    """One feature on the images shown."""

    y: float
    label: str
    strong: bool
    """among the three strongest or persistent"""
    cells: tuple[Cell, ...]
    text: str


class Map(NamedTuple):
    """Features times images."""

    width: float
    height: float
    label_width: float
    cell_width: float
    cell_height: float
    rows: tuple[MapRow, ...]
    n_images: int


def level(z: float) -> int:
    """The shade of a z: how many of LEVELS its size is beyond.

    >>> [level(z) for z in (0.2, -1.5, 6.0, -6.5)]
    [0, 1, 3, 4]
    """
    return sum(abs(z) > limit for limit in LEVELS)


# ------------------------------------------------------------------------------------------------- reference suite


class Known(NamedTuple):
    """A reference checkpoint whose kurtosis was measured and whose effective robustness is published."""

    number: int
    checkpoint: str
    group: str
    kurtosis: tuple[float, ...]
    """of its image sets, rising"""
    mean_pp: float
    shows: bool

    @property
    def pp(self) -> str:
        """Effective robustness in words."""
        return f"{self.mean_pp:+.1f}"

    @property
    def k(self) -> str:
        """The kurtosis of its sets in words."""
        low, high = number_text(self.kurtosis[0]), number_text(self.kurtosis[-1])
        return low if low == high else f"{low} to {high}"


class Dot(NamedTuple):
    """A mark in the picture."""

    x: float
    y: float
    shows: bool
    text: str


class Line(NamedTuple):
    """One checkpoint: its image sets on one height."""

    y: float
    left: float
    right: float
    number: int
    dots: tuple[Dot, ...]


class Scatter(NamedTuple):
    """Kurtosis (logarithmic) against published effective robustness; below, the sets for which none is known."""

    width: float
    height: float
    left: float
    right: float
    top: float
    base: float
    strip: float
    """height of the strip of sets without a published number"""
    lines: tuple[Line, ...]
    unknown: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: float | None
    """y of 0 percentage points"""
    threshold: float
    own: float | None
    """x of this model; None = its kurtosis was not measured"""
    own_low: float | None
    own_high: float | None
    own_y: float | None
    """y of what is published of the checkpoint that this model's contract names"""
