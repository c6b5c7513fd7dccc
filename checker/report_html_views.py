"""The records that the HTML report's templates write: what is said, nothing of how it looks."""

from __future__ import annotations

from dataclasses import dataclass

from robustcheck_onnx.checker import report_html_charts as charts
from robustcheck_onnx.checker import report_html_facts as facts


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
    bar: charts.Bar | None


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

    chart: charts.Scatter | None
    known: tuple[charts.Known, ...]
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
    ticks: tuple[charts.Tick, ...]
    context: tuple[tuple[str, str], ...]
    histogram: charts.Histogram | None
    quantiles: str
    features: tuple[FeatureRow, ...]
    features_remark: str
    map: charts.Map | None
    map_remark: str
    suite: Suite
    most: tuple[Seen, ...]
    least: tuple[Seen, ...]
    images_remark: str
    facts: tuple[facts.Block, ...]
    claim: str
    limits: tuple[str, ...]
