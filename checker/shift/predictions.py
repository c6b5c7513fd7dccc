"""What `shift --target` predicted for unlabelled images, as frozen records; pure."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from robustcheck_onnx.checker.statistics import Accuracy
from robustcheck_onnx.checker.text import percent_text
from robustcheck_onnx.thresholds.frozen import Frozen

from .predicted import Method
from .scores import Kind

NAMES: dict[Method, str] = {
    "atc_confidence": "ATC, confidence",
    "atc_entropy": "ATC, entropy",
    "doc": "DoC",
}
ASSUMES: dict[Method, str] = {
    "atc_confidence": "as many predictions of a low confidence are wrong on the target as among the labelled images",
    "atc_entropy": "the same of predictions of a high entropy",
    "doc": "accuracy falls by as many points as the mean confidence does",
}
# `python benchmarks/predicted_accuracy.py` measures these figures, and fails where they are others
SEEN = (
    "Seen on two small tasks: ATC's interval contained the measured accuracy in 94 and 95 of 100 cases without a "
    "shift, and in 57 and 44 of 100 under corruptions. Its mean error was then 17 and 16 points, that of DoC 20 and 15."
)
CLAIM = (
    "These are predictions, not measurements. An interval is one of resampling: it says what other images of the same "
    "kinds would change, if the assumption below holds, which unlabelled images cannot show. DoC has none. Predictions "
    "hold for the classes of the labelled images, and change no verdict."
)


Share = Annotated[float, Field(ge=0, le=1)]


class Estimate(Frozen):
    """The accuracy that one method predicts for one target set (fractions)."""

    method: Method
    accuracy: Share | None
    """None where it was not established"""
    low: Share | None
    """of resampling, if the assumption holds; None for DoC"""
    high: Share | None
    drop_points: float | None
    """in-distribution accuracy less the predicted one, percentage points"""
    not_established: str
    """why there is no number; empty where there is one"""
    assumes: str
    """what must hold for the number to be right, in words"""

    @model_validator(mode="after")
    def _has_all_or_says_why(self) -> Self:
        """Refuse a number outside its interval, and neither or both of a number and a reason for none."""
        if (self.accuracy is None) != bool(self.not_established):
            raise ValueError("a prediction has a number, or a reason why it is not established")
        if (self.low is None) != (self.high is None or self.accuracy is None):
            raise ValueError("an interval has two bounds and a number")
        if self.low is not None and not self.low <= (self.accuracy or 0) <= (self.high or 0):
            raise ValueError("a prediction lies in its interval")
        return self


class PredictedClasses(Frozen):
    """The classes predicted on a target set beside those predicted on the in-distribution set."""

    n_classes: int
    """different classes predicted on the target"""
    top_share: float
    """share of the images that the most frequent of them has"""
    distance: float
    """total variation distance of the two histograms, 0 to 1"""
    expected_distance: float
    """its mean when the images are mixed at random"""
    p_value: float
    """of a permutation test"""


class Target(Frozen):
    """An unlabelled image set and what is predicted for it."""

    name: str
    source: str
    n_available: int
    n_read: int
    n_images: int
    """usable ones"""
    n_skipped: int
    skipped: tuple[tuple[str, str], ...]
    digest: str
    in_both: int
    """images that are in the in-distribution set, too"""
    mean_confidence: float
    estimates: tuple[Estimate, ...]
    measured: Accuracy | None
    """accuracy by labels, where the same images were given as a shifted set"""
    classes: PredictedClasses


class Predicted(Frozen):
    """Accuracy predicted without labels, and what it starts from."""

    scores: Kind
    scores_why: str
    mean_confidence: float
    """on the in-distribution set"""
    n_resamples: int
    min_images: int
    """of each set, for a prediction to be established"""
    targets: tuple[Target, ...]
    claim: str
    """what the predictions and their intervals are"""
    seen: str = SEEN
    """how often they were right where that was measured"""


def estimate_text(estimate: Estimate) -> str:
    """Write a predicted accuracy with its interval, or that there is none."""
    if estimate.accuracy is None:
        return "not established"
    return " ".join([percent_text(estimate.accuracy), *([f"({bounds})"] if (bounds := bounds_text(estimate)) else [])])


def bounds_text(estimate: Estimate) -> str:
    """Write the interval of a predicted accuracy; empty where it has none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}"
