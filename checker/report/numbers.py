"""Describe statistics and the reference sets in words. Pure."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

from ...thresholds.statistics import STATISTICS, Statistic
from .. import text
from ..core.evidence import TOP_FEATURES, Content, Interval, OutlierFeature, Statistics
from ..core.verdict.kinds import NAMES
from ..core.verdict.rule import inside, outside
from ..text import number_text
from .record import Bound, ReferenceRow

Clears = Literal["yes", "no", "straddles", "not measured"]


CLEARS: dict[Clears, tuple[str, str]] = {
    "yes": ("✓", "yes"),
    "no": ("✗", "no"),
    "straddles": ("~", "straddles"),
    "not measured": ("?", "unknown"),
}
"""Sign and word of each answer to "ok?"."""


def clears(interval: Interval, minimum: float) -> Clears:
    """Return on which side of the threshold the interval lies. The verdict's own comparisons decide."""
    if interval.low is None or interval.high is None:
        return "not measured"
    if inside(interval, minimum):
        return "yes"
    return "no" if outside(interval, minimum) else "straddles"


class JudgedStatistic(NamedTuple):
    """A deciding statistic with its threshold."""

    id: Statistic
    interval: Interval
    minimum: float
    """the threshold; PASS needs the whole interval above it"""

    @property
    def must_be(self) -> str:
        """Write the threshold for a table: `> 7.5`."""
        return f"> {self.minimum:g}"

    @property
    def name(self) -> str:
        """Return the statistic in words."""
        return NAMES[self.id]

    @property
    def value(self) -> str:
        """Write the estimate, or a dash. The dash is for one that could not be measured."""
        return number_text(self.interval.estimate, missing="–")

    @property
    def clears(self) -> Clears:
        """Return on which side of the threshold the interval lies."""
        return clears(self.interval, self.minimum)

    @property
    def answer(self) -> str:
        """Write whether the interval clears the threshold, with a sign: `✓ yes`."""
        return " ".join(CLEARS[self.clears])

    def bounds(self, between: str = " to ") -> str:
        """Write the interval in enough digits to show on which side of the threshold each bound lies."""
        return text.interval_text(self.interval.low, self.interval.high, [self.minimum], between=between)


NEIGHBOURS = 4  # reference sets listed around the model, next to the two ends of the table


_GROUPS = {
    "zero_shot_clip": "zero-shot CLIP",
    "finetuned_clip": "finetuned CLIP",
    "self_supervised": "self-supervised",
    "face": "face recognition",
    "reid": "re-identification",
    "bad_export": "bad export",
}


def statistics_of(report: Bound) -> list[JudgedStatistic]:
    """Return the deciding statistics, in the profile's order."""
    evidence = report.evidence.statistics
    profile = report.profile
    return [JudgedStatistic(name, getattr(evidence, name), profile.minimum_of(name)) for name in profile.deciding]


def context_of(report: Bound) -> tuple[tuple[str, str], ...]:
    """Return the statistics that do not decide. Each has a name and a value in words; the profile sets which decide."""
    evidence = report.evidence.statistics
    others = [name for name in STATISTICS if name not in report.profile.thresholds]
    return tuple((NAMES[name], number_text(getattr(evidence, name).estimate, missing="–")) for name in others)


def confidence_text(report: Bound) -> str:
    """Write what the error rate of the bounds covers."""
    return f"{100 * (1 - report.evidence.statistics.alpha):g} % for each lower bound by itself"


def notable_features(statistics: Statistics) -> list[OutlierFeature]:
    """Return the strongest three and the persistent features.

    The three make up the strength; persistent ones are extreme in half of the images.
    """
    return [f for rank, f in enumerate(statistics.features) if f.persistent or rank < TOP_FEATURES]


def content_texts(content: Content | None) -> tuple[str, str, str]:
    """Write the effective rank with its maximum, the relative variance, and how much the mean of the rest holds."""
    if content is None:
        return "not measured", "not measured", "not measured"
    rank = f"{number_text(content.effective_rank)} of {content.n}"
    return rank, text.percent_text(content.relative_variance), text.percent_text(content.mean_of_rest)


def max_median_text(statistics: Statistics) -> str:
    """Write the max-median ratio, "infinite" where it was measured and a median is 0."""
    if statistics.max_median_ratio is None and statistics.rms_kurtosis is not None:
        return "infinite"
    return number_text(statistics.max_median_ratio)


class ReferenceLine(NamedTuple):
    """A line of the reference list. `reference` None = the model that was measured."""

    rank: int
    reference: ReferenceRow | None
    left_out: int = 0
    """sets between the line before and this one that are not listed"""


def reference_lines(references: Sequence[ReferenceRow], strength: float) -> tuple[ReferenceLine, ...]:
    """Rank the model among the reference sets by strength. The list has its neighbours and both ends.

    Args:
        references: in any order.
        strength: the model's.

    Returns:
        The strongest first, ranks counted with the model among the sets; after sets of the same strength.
    """
    strongest = sorted(references, key=lambda r: -r.strength)
    own = sum(r.strength >= strength for r in references)
    ordered = [*strongest[:own], None, *strongest[own:]]
    last = len(ordered) - 1
    first = max(min(own - NEIGHBOURS // 2, last - NEIGHBOURS), 0)
    window = range(first, min(first + NEIGHBOURS, last) + 1)
    listed = sorted({0, *window, last})
    pairs = zip((-1, *listed), listed, strict=False)
    return tuple(ReferenceLine(place + 1, ordered[place], place - before - 1) for before, place in pairs)


def widest_kurtosis(references: Sequence[ReferenceRow]) -> tuple[str, float, float] | None:
    """Return the checkpoint whose kurtosis differs most between sets.

    Returns its name, least and most activation kurtosis over its image sets.

    Only sets that show the indication count: of the others the table holds logits next to representations.
    None when no checkpoint is in the table twice.
    """
    by_checkpoint = attrgetter("checkpoint")
    shows = [r for r in references if r.shows_outlier_features]
    ranges = []
    for checkpoint, rows in groupby(sorted(shows, key=by_checkpoint), by_checkpoint):
        values = [r.kurtosis for r in rows]
        if len(values) > 1 and min(values) > 0:
            ranges.append((checkpoint, min(values), max(values)))
    return max(ranges, key=lambda r: r[2] / r[1], default=None)


def group_text(group: str) -> str:
    """Write a group of the reference table in words."""
    return _GROUPS.get(group, group.replace("_", " "))
