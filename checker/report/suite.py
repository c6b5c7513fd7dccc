"""Show a model among the reference checkpoints.

The picture is kurtosis against effective robustness, with remarks; pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.text import count_text, number_text, range_text, short_checkpoint

from .charts import Tick, round_values
from .record import ReferenceRow, Report
from .words import group_text, widest_kurtosis

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


class Scatter(NamedTuple):
    """A plot of kurtosis against published effective robustness.

    Kurtosis is logarithmic. The sets for which none is published are below.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    base: float
    strip: float
    """height of the strip of sets without a published number"""
    lines: tuple[Line, ...]
    unpublished: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: float | None
    """y of 0 percentage points"""
    threshold: float | None
    """x; None = the profile has none of the kurtosis"""
    own: float | None
    """x of this model; None = its kurtosis was not measured"""
    own_low: float | None
    own_high: float | None
    own_y: float | None
    """y of what is published of the checkpoint that this model's contract names"""


class Suite(NamedTuple):
    """The picture, its checkpoints, and remarks below it."""

    chart: Scatter | None
    checkpoints: tuple[PublishedCheckpoint, ...]
    remarks: tuple[str, ...]


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
    from robustcheck_onnx.thresholds import published as tables  # noqa: PLC0415 # takes NumPy; an error needs none

    rows = {(row.library, row.model, row.weights): row for row in tables.published()}
    sets: dict[tuple[str, str, str], list[ReferenceRow]] = {}
    others = []
    for one in reference:
        key = tables.MEASURED.get(one.images)
        row = rows.get(key) if key else None
        if key is None or row is None or row.mean_pp is None:
            others.append(one)
        else:
            sets.setdefault(key, []).append(one)

    def mean(key: tuple[str, str, str]) -> float:
        return rows[key].mean_pp or 0.0

    checkpoints = tuple(
        PublishedCheckpoint(
            number=number,
            checkpoint=rows[key].name,
            group=group_text(sets[key][0].group),
            kurtosis=tuple(sorted(one.kurtosis for one in sets[key])),
            mean_pp=mean(key),
            shows=all(one.shows_outlier_features for one in sets[key]),
        )
        for number, key in enumerate(sorted(sets, key=lambda key: -mean(key)), 1)
    )
    return checkpoints, tuple(others)


def _remarks(
    report: Report, checkpoints: Sequence[PublishedCheckpoint], others: Sequence[ReferenceRow]
) -> tuple[str, ...]:
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
    width, height, left, right, top, base, strip = 480.0, 380.0, 40.0, 472.0, 34.0, 262.0, 300.0
    own_values = [v for v in (own.estimate, own.low, own.high) if v is not None]
    values = (
        [k for row in published for k in row.kurtosis]
        + [row.kurtosis for row in unpublished]
        + own_values
        + ([] if threshold is None else [threshold])
    )
    positive = [v for v in values if v > 0]
    low, high = math.log(max(min(positive) / 1.25, 0.5)), math.log(max(positive) * 1.25)

    def x(value: float) -> float:
        place = (math.log(max(value, math.exp(low))) - low) / (high - low)
        return left + place * (right - left)

    points = [row.mean_pp for row in published] + ([] if own_pp is None else [own_pp])
    floor, ceiling = min([0.0, *points]) - 4, max([10.0, *points]) + 6

    def y(pp: float) -> float:
        return base - (pp - floor) / (ceiling - floor) * (base - top)

    dots_of = [
        tuple(
            Dot(x(k), y(row.mean_pp), row.shows, f"{row.checkpoint}: K {number_text(k)}, {row.mean_pp:+.1f} points")
            for k in row.kurtosis
        )
        for row in published
    ]
    lines = [
        _line(row.number, dots, [d for other in dots_of if other is not dots for d in other])
        for row, dots in zip(published, dots_of, strict=True)
    ]
    rug = tuple(
        Dot(
            x(row.kurtosis),
            strip,
            row.shows_outlier_features,
            f"{short_checkpoint(row.checkpoint)}: K {number_text(row.kurtosis)}",
        )
        for row in unpublished
    )
    return Scatter(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        base=base,
        strip=strip,
        lines=tuple(lines),
        unpublished=rug,
        x_ticks=tuple(Tick(x(v), f"{v:g}") for v in _decades(math.exp(low), math.exp(high))),
        y_ticks=tuple(Tick(y(v), f"{v:+g}" if v else "0") for v in round_values(floor, ceiling, 6)),
        zero=y(0.0),
        threshold=None if threshold is None else x(threshold),
        own=None if own.estimate is None else x(own.estimate),
        own_low=None if own.low is None else x(own.low),
        own_high=None if own.high is None else x(own.high),
        own_y=None if own_pp is None else y(own_pp),
    )


def _line(number: int, dots: tuple[Dot, ...], others: Sequence[Dot]) -> Line:
    """Draw a checkpoint's line with its number.

    The number is on the side where no other checkpoint's dot is in the way.
    """
    left, right, y = dots[0].x, dots[-1].x, dots[0].y
    taken = any(0 <= other.x - right < NUMBER_ROOM and abs(other.y - y) < NUMBER_HEIGHT for other in others)
    return Line(y, left, right, number, dots, left - 10 if taken else right + 10, "end" if taken else "start")


def _decades(low: float, high: float) -> list[float]:
    """Return round numbers from low to high. They are 1, 2, 5, 10, 20, …."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
