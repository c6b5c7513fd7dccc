"""What `robustcheck directions` measured, as frozen records; pure."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

from robustcheck_onnx.checker.evidence import Execution, ImageFacts, Interval, PreprocessingFacts
from robustcheck_onnx.checker.report import notebook
from robustcheck_onnx.checker.report.document import Shown
from robustcheck_onnx.checker.report.record import ModelRead, Time
from robustcheck_onnx.checker.shift.records import Effective, SetResult, Shifted
from robustcheck_onnx.checker.statistics import Accuracy
from robustcheck_onnx.checker.text import count_text, interval_text, number_text, percent_text
from robustcheck_onnx.thresholds.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd

Order = Literal["importance", "singular value", "random"]

SAME = 1e-6  # of the largest singular value: below, two differ, or one differs from 0, by rounding of float32
NORMALISER = "singular value / sum of all singular values × mean over images of |cos(direction, representation)|"
CLAIM = (
    "Information, not a verdict. Importance and pruning of directions are an analysis of Crabbé et al. (arXiv "
    "2310.13040). The abstract of its first version, of 2023, says that 80 % of the directions of robust CLIP models "
    "can be pruned without harm; that of the final version does not. No threshold is known that tells robust models "
    "from others, and the paper's own normaliser of the importance is not known to us. The numbers hold for this head "
    "and these images."
)


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
    accuracy: dict[str, Accuracy]
    """top-1 on each labelled set, by its name"""
    effective_robustness: dict[str, Effective]
    """on each shifted set that has one"""


class Curve(Frozen):
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
    """The analysed directions. They are those of W, or of W less its mean over classes."""

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
    curves: tuple[Curve, ...]
    fewest: tuple[Fewest, ...]


class HeadFeature(Frozen):
    """A feature of the representation."""

    index: int
    frequency: float
    """share of the images with |z| > 6"""
    kurtosis_share: float
    """its share of the activation kurtosis"""


class Replacement(Frozen):
    """The effect of replacing features by one value. It is the same in every image."""

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


class HeadModel(ModelRead):
    """The model and its head."""

    head: str
    """where the head's weights come from"""
    n_classes: int
    n_features: int
    score_difference: float | None
    """largest relative difference between W·h + b and the model's own class output, up to a softmax or a sigmoid; None:
    the head is not the model's own"""


class DirectionsReport(Shown, Frozen):
    """The directions of a linear head, and pruning them."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    kind: Literal["directions"] = "directions"
    tool_version: str
    model: HeadModel
    n_images: int
    """measured"""
    n_left_out: int
    """images whose representation is constant: it has no direction"""
    shown: Literal["raw"] = "raw"
    """which of the two analyses the short report shows: that of W as it is, as in the paper"""
    raw: Analysis
    centred: Analysis
    """of W less its mean over classes, which softmax and the predicted class can't see"""
    outliers: Outliers
    normaliser: str = NORMALISER
    confidence: float
    """of every interval; normal over images (by the delta method), shares Wilson's"""
    in_distribution: SetResult | None
    """accuracy of the whole head where labels were given"""
    shifted: tuple[Shifted, ...]
    baseline: str
    summary: str
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    notes: tuple[str, ...]
    claim: str = CLAIM
    time: Time | None
    """None where the caller asked for no time block"""

    def __repr_args__(self) -> list[tuple[str, object]]:
        """Show one line in repr, str and rich."""
        rank = self.raw.effective_rank.estimate
        return [
            ("model", self.model.file),
            ("classes", self.model.n_classes),
            ("features", self.model.n_features),
            ("effective_rank", None if rank is None else round(rank, 2)),
            ("images", self.n_images),
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame, one row per curve point.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        rows: list[notebook.Row] = [
            {
                "decomposition": name,
                "order": curve.order,
                "percent": point.percent,
                "kept": point.kept,
                "importance": point.importance,
                "same": point.same.value,
                "same_low": point.same.low,
                "same_high": point.same.high,
                "same_confident": point.same_confident.value,
                **{f"accuracy of {each}": accuracy.value for each, accuracy in point.accuracy.items()},
            }
            for name, analysis in (("raw", self.raw), ("centred", self.centred))
            for curve in analysis.curves
            for point in curve.points
        ]
        return notebook.frame(rows, "decomposition")


def spectrum_notes(raw: Analysis) -> list[str]:
    """Return the notes on singular values. They tell how far single directions mean anything."""
    sigma = raw.singular_values
    rounding = SAME * sigma[0]
    rank = sum(value > rounding for value in sigma)
    n_equal = sum(a - b <= rounding for a, b in itertools.pairwise(sigma[:rank]))
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
    """What was found, in two sentences."""
    first, last = raw.top[0].share.estimate, raw.top[-1]
    twenty = next(point for point in raw.curves[0].points if point.percent == 20)
    keeps = raw.fewest[-1]
    rank, same = number_text(raw.effective_rank.estimate), twenty.same
    return (
        f"Of {raw.n_directions} directions the most important holds {percent_text(first)} of the importance, the "
        f"first {min(last.directions, raw.n_directions)} hold {percent_text(last.share.estimate)}; the effective rank "
        f"is {rank}. The most important 20 % ({twenty.kept}) keep {percent_text(same.value)} of the predictions "
        f"({interval_text(100 * same.low, 100 * same.high)} %); {keeps.directions} or more "
        f"({keeps.percent:.0f} %) keep {100 * keeps.share:.0f} %."
    )
