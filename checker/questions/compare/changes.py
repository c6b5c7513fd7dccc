"""How the statistics of a candidate differ from its reference's, with bounds. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ....thresholds.profile import Profile
from ....thresholds.records import Frozen
from ....thresholds.statistics import STATISTICS, Statistic
from ...arrays import Array
from ...core.evidence import Interval
from ...core.statistics import intervals
from ...core.statistics import state as sums
from ...text import frozen
from .pairs import Side

KEEPS: tuple[Statistic, ...] = ("strength", "kurtosis", "persistence_ratio", "top3_share", "outlier_frequency")
"""What shows the outlier features, and must be kept where the profile asks for it; the signs only say that the
thresholds apply."""
Keeps = Literal["kept", "shrank", "undecided", "not required"]


class StatisticChange(Frozen):
    """One statistic of both models, and its change."""

    name: Statistic
    candidate: float | None
    reference: float | None
    difference: Interval
    """candidate − reference"""
    ratio: Interval
    """candidate / reference; None where either is not positive or the widths differ"""
    keeps: Keeps
    """`not required`: shown as context, its interval at the same level as those that must be kept"""


@frozen
class ModelJackknife:
    """Every statistic of one model with its jackknife values, which is all that `changes` needs."""

    n_features: int
    sizes: Array
    """(all groups,) images of each"""
    values: Mapping[Statistic, Array]
    """(1 + group,) the statistic over all images, and with each group that is not empty left out in turn"""

    @property
    def n(self) -> int:
        """Images."""
        return int(self.sizes.sum())

    def spread(self, values: Array) -> float:
        """Return the SD of a statistic from its jackknife values, which are as in `values`."""
        sizes = self.sizes[self.sizes > 0]
        sd, *_ = intervals.grouped_jackknife(values[0], values[1:], sizes)
        return sd


def required_by(profile: Profile) -> tuple[Statistic, ...]:
    """Return the statistics that must be kept: those that show outlier features and decide a check."""
    return tuple(name for name in KEEPS if name in profile.deciding)


def changes(
    candidate: ModelJackknife,
    reference: ModelJackknife,
    required: Sequence[Statistic],
    alpha: float,
    tolerance: float,
    *,
    paired: bool = True,
) -> tuple[StatisticChange, ...]:
    """Difference and ratio of each statistic, with confidence intervals.

    Paired: the delete-a-group jackknife (`intervals.grouped_jackknife`) of the difference, and of the difference
    of the logarithms, over the same groups of images in both models, so that what the images do to both cancels. The
    intervals are those of `intervals.radius`: they hold at every number of images at once, so running again with more
    images is not cheating. `alpha` is shared by the required statistics (Bonferroni).

    The outlier frequency's spread is at least that of one image more that only the candidate has far out and one that
    only the reference has (Agresti and Min 2005 add half an image to each of the four cells): "in every image" of both
    is not certain.

    Args:
        candidate, reference: over the same images if `paired`, over any images else: then the squares of the two
            half-widths add.
        required: of which 1 − tolerance must be kept (`required_by`), at least one; the others are context.
        alpha: error rate of the required ratios together, and of their differences together.
        tolerance: share of the reference's value that may be lost, 0 to 1.

    Raises:
        ValueError: paired, and the groups hold other numbers of images.
    """
    if paired and not np.array_equal(candidate.sizes, reference.sizes):
        raise ValueError("the groups of candidate and reference hold other numbers of images; they are not paired")
    share = alpha / len(required)
    missing = Interval(estimate=None, low=None, high=None)
    same_width = candidate.n_features == reference.n_features
    n = min(candidate.n, reference.n)

    def bounds(a: Array, b: Array, floor: float) -> tuple[float, float, float]:
        parts = [(candidate, a), (reference, b)]
        if paired:
            parts = [(candidate, a - b)]
        radii = [intervals.radius(side.n, max(side.spread(values), floor), share) for side, values in parts]
        change = float(a[0] - b[0])
        radius = math.hypot(*radii)
        return change, change - radius, change + radius

    out = []
    for name in STATISTICS:
        a = candidate.values[name]
        b = reference.values[name]
        floor = 0.0
        relative_floor = 0.0
        if name == "outlier_frequency":
            floor = math.sqrt(2 / (n + 2))
            lower = float(min(a[0], b[0]))
            relative_floor = floor / lower if lower > 0 else math.nan
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            difference = _interval(*bounds(a, b, floor))
            logarithms = bounds(np.log(a), np.log(b), relative_floor)
            is_measured = same_width and math.isfinite(logarithms[0])
            ratio = _interval(*np.exp(logarithms)) if is_measured else missing
        keeps: Keeps = "not required"
        if name in required and same_width:
            keeps = _keeps(ratio, difference, b[0], tolerance)
        out.append(
            StatisticChange(
                name=name,
                candidate=_finite(a[0]),
                reference=_finite(b[0]),
                difference=difference,
                ratio=ratio,
                keeps=keeps,
            )
        )
    return tuple(out)


def _keeps(ratio: Interval, difference: Interval, reference: float, tolerance: float) -> Keeps:
    """Return whether a statistic was kept, by its ratio, or by the difference where there is no ratio.

    A frequency of 0 has no logarithm, and so no ratio.
    """
    if ratio.low is not None and ratio.low >= 1 - tolerance:
        return "kept"
    if ratio.high is not None and ratio.high < 1 - tolerance:
        return "shrank"
    if ratio.high is None and difference.high is not None and difference.high < -tolerance * reference:
        return "shrank"
    return "undecided"


def smallest_losses(change: StatisticChange, tolerance: float) -> tuple[float, float] | None:
    """Return the smallest losses of a kept statistic that would have been answered by undecided, and by shrank.

    With w half the width of the interval of log(ratio): a measured loss x is not kept where (1 − x) exp(−w) is below
    1 − tolerance, and shrank where (1 − x) exp(w) is.

    Args:
        change: of the statistic; its interval is taken to be as wide at another loss.
        tolerance: share of the reference's value that may be lost.

    Returns:
        Two shares of the reference's value. None where the statistic was not kept, or need not be.
    """
    low = change.ratio.low
    high = change.ratio.high
    if change.keeps != "kept" or low is None or high is None:
        return None
    least = 1 - tolerance
    factor = math.sqrt(high / low)
    undecided_from = max(0.0, 1 - least * factor)
    shrank_from = 1 - least / factor
    return undecided_from, shrank_from


def _interval(estimate: float, low: float, high: float) -> Interval:
    if not math.isfinite(estimate) or not (math.isfinite(low) and math.isfinite(high)):
        return Interval(estimate=_finite(estimate), low=None, high=None)
    return Interval(estimate=estimate, low=low, high=high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def jackknife_of(side: Side) -> ModelJackknife:
    """Compute the statistics of all images, as `state.statistics` does, and without each group."""
    state = side.state
    groups = sums.jackknife(state)
    strongest = int(groups.top[0])
    far_by_group = side.far[side.usual_side(strongest), :, strongest]
    counts = far_by_group[state.group_sizes > 0]
    n_far = counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        without = (n_far - counts) / (state.n - groups.group_sizes)
        frequency = np.append(n_far / state.n, without)
    negative = np.stack(groups.negative)
    values = dict[Statistic, Array]()
    for name in STATISTICS:
        if name == "outlier_frequency":
            values[name] = frequency
        elif name == "two_sidedness":
            values[name] = np.minimum(negative, 1 - negative).min(axis=0)
        else:
            values[name] = np.append(getattr(groups.overall, name), getattr(groups.without, name))
    return ModelJackknife(state.n_features, state.group_sizes.copy(), values)
