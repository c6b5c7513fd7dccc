"""Place a model among the reference checkpoints: kurtosis against published effective robustness. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...thresholds.context import Context
from ..core.evidence import Interval
from ..text import Texts, count_text, frozen, number_text, range_text, short_checkpoint
from .charts import Tick
from .numbers import group_text
from .record import ReferenceRow

if TYPE_CHECKING:
    from ...thresholds.published import Published

NUMBER_ROOM = 34.0
"""px, the width that a checkpoint's number takes next to its dot"""


NUMBER_HEIGHT = 14.0
"""px, its height"""


POINTS = range(-100, 101, 10)
"""percentage points of effective robustness with a tick"""


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
    def texts(self) -> Texts:
        """Return its group, effective robustness, kurtosis, and whether it shows outlier features, for a table."""
        kurtosis = range_text(number_text(self.kurtosis[0]), number_text(self.kurtosis[-1]))
        return (self.group, f"{self.pp} pp", kurtosis, "yes" if self.shows else "no")


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
    width = 480.0
    height = 380.0
    left = 40.0
    right = 472.0
    top = 34.0
    base = 262.0
    strip = 300.0
    """height of the strip of sets without a published number"""


class KnownCheckpoints(NamedTuple):
    """The picture, its checkpoints, and remarks below it."""

    chart: Scatter | None
    checkpoints: tuple[PublishedCheckpoint, ...]
    remarks: Texts


def suite_of(
    reference: Sequence[ReferenceRow], own: Interval, threshold: float | None, published: Context | None
) -> KnownCheckpoints:
    """Place a model among the reference checkpoints.

    Args:
        reference: the sets of these checkpoints.
        own: the model's kurtosis.
        threshold: of the kurtosis; None where the profile has none.
        published: effective robustness of the checkpoint that the model's contract names.
    """
    checkpoints, others = _by_checkpoint(reference)
    chart = scatter(checkpoints, others, own, threshold, published.mean_pp if published else None)
    return KnownCheckpoints(chart, checkpoints, tuple(_remarks(published, checkpoints, len(others))))


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
        if key in rows:
            sets.setdefault(key, []).append(one)
        else:
            others.append(one)
    best_first = sorted(sets, key=lambda key: -(rows[key].mean_pp or 0.0))
    checkpoints = tuple(_checkpoint(number, rows[key], sets[key]) for number, key in enumerate(best_first, 1))
    return checkpoints, tuple(others)


def _checkpoint(number: int, row: Published, sets: Sequence[ReferenceRow]) -> PublishedCheckpoint:
    """Return what is published of a checkpoint with what was measured on its image sets."""
    kurtosis = tuple(sorted(one.kurtosis for one in sets))
    shows = all(one.shows_outlier_features for one in sets)
    return PublishedCheckpoint(number, row.name, group_text(sets[0].group), kurtosis, row.mean_pp or 0.0, shows)


def _remarks(
    published: Context | None,
    checkpoints: Sequence[PublishedCheckpoint],
    n_others: int,
) -> Iterator[str]:
    if checkpoints:
        yield (
            f"Both numbers are known for {count_text(len(checkpoints), 'checkpoint')}. For "
            f"{count_text(n_others, 'other reference set')} the average over the four shifts is not published, or "
            "the source does not name the weights: the strip at the foot of the picture shows their kurtosis only."
        )
    if published is not None:
        yield f"{published.sentence} Context only: it decides nothing."
    else:
        yield "No effective robustness is published for this model; its line shows the kurtosis only."


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
    low = math.log(max(min(positive) / 1.25, 0.5))
    high = math.log(max(positive) * 1.25)
    pps = [0.0, 10.0, *(row.mean_pp for row in published)]
    if own_pp is not None:
        pps.append(own_pp)
    floor = min(pps) - 4
    ceiling = max(pps) + 6

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

    def dot(row: ReferenceRow) -> Dot:
        text = f"{short_checkpoint(row.checkpoint)}: K {number_text(row.kurtosis)}"
        return Dot(x(row.kurtosis), Scatter.strip, row.shows_outlier_features, text)

    own_y = None
    if own_pp is not None:
        own_y = y(own_pp)
    return Scatter(
        tuple(lines),
        tuple(map(dot, unpublished)),
        tuple(Tick(x(v), f"{v:g}") for v in _decades(math.exp(low), math.exp(high))),
        tuple(Tick(y(pp), f"{pp:+d}".replace("+0", "0")) for pp in POINTS if floor <= pp <= ceiling),
        x_of(threshold),
        x_of(own.estimate),
        x_of(own.low),
        x_of(own.high),
        own_y,
    )


def _line(number: int, dots: tuple[Dot, ...], others: Sequence[Dot]) -> Line:
    """Draw a checkpoint's line with its number.

    The number is on the side where no other checkpoint's dot is in the way.
    """
    left = dots[0].x
    right = dots[-1].x
    y = dots[0].y
    blocked = any(0 <= other.x - right < NUMBER_ROOM and abs(other.y - y) < NUMBER_HEIGHT for other in others)
    if blocked:
        return Line(y, left, right, number, dots, left - 10, "end")
    return Line(y, left, right, number, dots, right + 10, "start")


def _decades(low: float, high: float) -> list[float]:
    """Return round numbers from low to high, of 1, 2, 5, 10, 20, …."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in exponents for m in (1, 2, 5) if low <= m * 10.0**p <= high]
