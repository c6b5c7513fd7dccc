"""What an analysis of a head measured: its records, and what they say in sentences. Pure."""

from __future__ import annotations

import itertools
from typing import Literal

from ....thresholds.records import Frozen
from ...core.evidence import Interval
from ...core.statistics.intervals import Accuracy
from ...text import count_text, interval_text, number_text, percent_text
from ..shift.robustness import Effective

Order = Literal["importance", "singular value", "random"]
SAME = 1e-6  # of the largest singular value: below, two differ, or one differs from 0, by rounding of float32


class Direction(Frozen):
    """One direction of the head."""

    index: int
    """place among the singular values, from 0 for the largest"""
    singular_value: float
    cosine: float
    """mean over images of |cos| between the direction and the representation"""
    importance: Interval
    largest_feature: int
    """the feature with the largest |component| in the direction"""
    largest_component: float
    """that |component|; 1 = the direction is that feature alone"""
    on_features: tuple[float, ...]
    """|component| on each of `Outliers.features`, in their order"""


class TopShare(Frozen):
    """How much of all importance the first directions hold."""

    directions: int
    share: Interval


AccuracyBySet = dict[str, Accuracy]


class Point(Frozen):
    """The head with some of its directions."""

    percent: int
    """of the directions that are kept"""
    kept: int
    importance: float
    """share of all importance that they hold, 0–1"""
    same: Accuracy
    """share of the images whose predicted class is that of the whole head"""
    same_confident: Accuracy
    """the same of the confident images: the half with the largest margin of the whole head"""
    accuracy: AccuracyBySet
    """top-1 on each labelled set, by its name"""
    effective_robustness: dict[str, Effective]
    """on each shifted set that has one"""


class TruncationCurve(Frozen):
    """Predictions against the number of directions kept."""

    order: Order
    """which directions are kept first"""
    points: tuple[Point, ...]


class Fewest(Frozen):
    """The fewest directions that keep a share of the predictions. The most important ones come first."""

    share: float
    directions: int
    percent: float
    """of all directions, 0–100"""


class Analysis(Frozen):
    """The analysed directions of W, or of W less its mean over classes."""

    n_directions: int
    singular_values: tuple[float, ...]
    """falling"""
    importances: tuple[float, ...]
    """in the order of the singular values"""
    participation_ratio: Interval
    """of the importances p: (Σp)² / Σp²; 1 = one direction has all, `n_directions` = all have the same"""
    effective_rank: Interval
    """exp of the entropy of the importances' shares; the same range"""
    top: tuple[TopShare, ...]
    leading: tuple[Direction, ...]
    """the most important directions"""
    curves: tuple[TruncationCurve, ...]
    fewest: tuple[Fewest, ...]

    @property
    def twenty(self) -> Point:
        """Return the point with the most important 20 % of the directions."""
        return next(point for point in self.curves[0].points if point.percent == 20)


class HeadFeature(Frozen):
    """A feature of the representation."""

    index: int
    frequency: float
    """share of the images with |z| > 6"""
    kurtosis_share: float
    """its share of the activation kurtosis"""


class Replacement(Frozen):
    """The effect of replacing features by one value, the same in every image."""

    value: Literal["mean over images", "zero"]
    changed: Accuracy
    """share of the images whose predicted class becomes another one"""
    margin_share: Interval
    """part of the margin between the first two classes that what is replaced gives: the sum over images of
    Σ_j (W_aj − W_bj)·(h_j − replacement) over the sum of the margins, a and b the classes of the two largest scores"""


class Outliers(Frozen):
    """The outlier features, and how the head uses them."""

    persistent: bool
    """|z| > 6 in at least half of the images; without any, the one with most of the kurtosis"""
    n_features: int
    """how many are replaced"""
    features: tuple[HeadFeature, ...]
    """the first of them by their share of the kurtosis"""
    replacements: tuple[Replacement, ...]


def spectrum_notes(raw: Analysis) -> list[str]:
    """Return the notes on singular values, by which a reader knows how far single directions mean anything."""
    sigma = raw.singular_values
    rounding = SAME * sigma[0]
    rank = sum(value > rounding for value in sigma)
    falls = [larger - smaller for larger, smaller in itertools.pairwise(sigma[:rank])]
    n_equal = sum(fall <= rounding for fall in falls)
    notes = []
    if rank < len(sigma):
        notes.append(
            f"{len(sigma) - rank} of {len(sigma)} directions weigh nothing: the head's matrix has rank {rank}."
        )
    if n_equal:
        notes.append(
            f"{count_text(n_equal, 'singular value')} equal to the one before (to 1e-6 of the largest): such "
            "directions are one choice among many, and so is every number of a single one, of the order and the rank."
        )
    return notes


def summary_of(raw: Analysis) -> str:
    """Return in two sentences what was measured."""
    first = percent_text(raw.top[0].share.estimate)
    last = raw.top[-1]
    n_last = min(last.directions, raw.n_directions)
    rank = number_text(raw.effective_rank.estimate)
    twenty = raw.twenty
    same = twenty.same
    interval = interval_text(100 * same.low, 100 * same.high)
    keeps = raw.fewest[-1]
    return (
        f"Of {raw.n_directions} directions the most important holds {first} of the importance, the first {n_last} hold "
        f"{percent_text(last.share.estimate)}; the effective rank is {rank}. The most important 20 % ({twenty.kept}) "
        f"keep {percent_text(same.value)} of the predictions ({interval} %); {keeps.directions} or more "
        f"({keeps.percent:.0f} %) keep {100 * keeps.share:.0f} %."
    )
