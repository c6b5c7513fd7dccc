"""Place a model among the reference checkpoints: kurtosis against published effective robustness. Pure."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...thresholds.context import Context
from ..core.evidence import Interval
from ..text import Texts, count_text, frozen, number_text, range_text, short_checkpoint
from .charts import Tick, round_values
from .numbers import group_text, widest_kurtosis
from .record import ReferenceRow

NUMBER_ROOM = 34.0
"""px, the width that a checkpoint's number takes next to its dot"""


NUMBER_HEIGHT = 14.0
"""px, its height"""


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
    width = 480.0
    height = 380.0
    left = 40.0
    right = 472.0
    top = 34.0
    base = 262.0
    strip = 300.0
    """height of the strip of sets without a published number"""


class Suite(NamedTuple):
    """The picture, its checkpoints, and remarks below it."""

    chart: Scatter | None
    checkpoints: tuple[PublishedCheckpoint, ...]
    remarks: Texts


def suite_of(
    reference: Sequence[ReferenceRow], own: Interval, threshold: float | None, published: Context | None
) -> Suite:
    """Place a model among the reference checkpoints.

    Args:
        reference: the sets of these checkpoints.
        own: the model's kurtosis.
        threshold: of the kurtosis; None where the profile has none.
        published: effective robustness of the checkpoint that the model's contract names.
    """
    checkpoints, others = _by_checkpoint(reference)
    chart = scatter(checkpoints, others, own, threshold, published.mean_pp if published else None)
    return Suite(chart, checkpoints, tuple(_remarks(reference, published, checkpoints, len(others))))


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


def _remarks(
    reference: Sequence[ReferenceRow],
    published: Context | None,
    checkpoints: Sequence[PublishedCheckpoint],
    n_others: int,
) -> Iterator[str]:
    if checkpoints:
        groups = {row.group for row in checkpoints}
        one_kind = ""
        if len(groups) == 1:
            one_kind = (
                f" All of them are {groups.pop()} models, so the picture cannot show whether kurtosis tells robust "
                "from less robust ones apart."
            )
        yield (
            f"Both numbers are known for {count_text(len(checkpoints), 'checkpoint')}.{one_kind} For "
            f"{count_text(n_others, 'other reference set')} the average over the four shifts is not published, or "
            "the source does not name the weights: the strip at the foot of the picture shows their kurtosis only."
        )
    if published is not None:
        yield f"{published.sentence} Context only: it decides nothing."
    else:
        yield "No effective robustness is published for this model; its line shows the kurtosis only."
    if widest := widest_kurtosis(reference):
        name, least, most = widest
        yield (
            f"Kurtosis moves with the images: {name} reads {number_text(least)} on one set and {number_text(most)} on "
            "another."
        )


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
    pps = [0.0, 10.0, *(row.mean_pp for row in published), *([] if own_pp is None else [own_pp])]
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
    left = dots[0].x
    right = dots[-1].x
    y = dots[0].y
    blocked = any(0 <= other.x - right < NUMBER_ROOM and abs(other.y - y) < NUMBER_HEIGHT for other in others)
    return Line(y, left, right, number, dots, left - 10 if blocked else right + 10, "end" if blocked else "start")


def _decades(low: float, high: float) -> list[float]:
    """Return round numbers from low to high, of 1, 2, 5, 10, 20, …."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in exponents for m in (1, 2, 5) if low <= m * 10.0**p <= high]
