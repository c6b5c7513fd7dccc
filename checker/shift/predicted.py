"""Predict accuracy without labels, by ATC and DoC. Whether the predicted classes shifted is tested, too. Pure.

Predictions start from labelled in-distribution images and end at unlabelled target images. ATC's intervals are by
bootstrap over the images of both sets. DoC has none: where its assumption fails they mean nothing, and they are narrow.

Formulas take the scores of the classes that compete, (image, class), and are computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from robustcheck_onnx.checker.arrays import AnyArray, Array, Bools, Counts, Indices
from robustcheck_onnx.checker.statistics import CONFIDENCE, Accuracy, wilson
from robustcheck_onnx.checker.text import percent_text
from robustcheck_onnx.thresholds.frozen import Frozen

Kind = Literal["logits", "log-probabilities", "probabilities"]

SUM_TOLERANCE = 1e-2  # of probabilities that a float16 or a quantised softmax gives
SOFTMAX = frozenset(("Softmax", "QLinearSoftmax"))
SIGMOID = frozenset(("Sigmoid", "QLinearSigmoid"))
COSINES = "cosines of a zero-shot head"


class ScoreKind(NamedTuple):
    """The kind of a class output, and its evidence."""

    kind: Kind
    why: str


class NoScoresError(ValueError):
    """An output from which no confidence can be read. The text says why."""


def kind_of(scores: AnyArray, crossed: frozenset[str], *, cosine: bool = False) -> ScoreKind:
    """Distinguish logits from probabilities. The operators at the end of the graph decide, then the numbers.

    scores: (image, class), finite, at least one image, all classes. crossed: operators between the last linear layer
    and the output (`Head.crossed`), empty where they are not known. cosine: whether the last layer gives cosines,
    which may all be between 0 and 1.

    Raises NoScoresError: a sigmoid for each class (labels that do not exclude each other), or sums that are not 1
    although the graph ends in a softmax.
    """
    values = np.asarray(scores, dtype=np.float64)
    if ended := sorted(SIGMOID & crossed):
        raise NoScoresError(f"it ends in {ended[0]}: one yes or no for each class, not one class for an image")
    positive = bool((values >= 0).all())
    sums = values.sum(axis=1)
    if positive and np.abs(sums - 1).max() <= SUM_TOLERANCE:
        return ScoreKind("probabilities", "it ends in Softmax" if SOFTMAX & crossed else "each row adds up to 1")
    if (values <= 0).all() and np.abs(np.exp(values).sum(axis=1) - 1).max() <= SUM_TOLERANCE:
        return ScoreKind("log-probabilities", "the exponentials of each row add up to 1")
    if SOFTMAX & crossed and "Log" not in crossed:
        raise NoScoresError(f"it ends in Softmax, but a row adds up to {sums[np.abs(sums - 1).argmax()]:.3g}")
    if positive and values.max() <= 1 and not cosine:
        raise NoScoresError("its values are between 0 and 1 and no row adds up to 1, as after a sigmoid")
    return ScoreKind("logits", COSINES if cosine else "its rows are not probabilities")


def as_logits(scores: AnyArray, kind: Kind) -> Array:
    """Return logits. Probabilities become their logarithms, others stay.

    scores: (image, class). A probability of 0 counts as the smallest normal float32. Raises ValueError for values that
    are not finite, and for probabilities below 0 or a row of zeros.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("class scores are not all finite numbers")
    if kind != "probabilities":
        return values
    if (values < 0).any() or not values.any(axis=1).all():
        raise ValueError("class scores of some images are probabilities and of others are not")
    return np.log(np.maximum(values, np.finfo(np.float32).tiny))


def log_softmax(logits: npt.ArrayLike) -> Array:
    """Return the log-softmax over the last axis, in float64."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@dataclass(frozen=True)
class ImageScores:
    """The numbers that predictions need per image. Every array is (image,)."""

    confidence: Array
    """largest softmax probability"""
    negative_entropy: Array
    """Σ p log p of the softmax, nats, at most 0"""
    predicted: npt.NDArray[np.int32]
    """the class with the largest score, as an index of the model's classes"""


def describe(logits: Array, compete: Sequence[int]) -> ImageScores:
    """Compute the numbers of each image.

    logits: (image, class) of the classes in `compete`, from `as_logits`.
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    return ImageScores(
        confidence=p.max(axis=1),
        negative_entropy=(p * log_p).sum(axis=1),
        predicted=np.asarray(compete, dtype=np.int32)[logits.argmax(axis=1)],
    )


def joined(parts: Sequence[ImageScores]) -> ImageScores:
    """Join batches to one set, in order. There is at least one batch."""
    return ImageScores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


Method = Literal["atc_confidence", "atc_entropy", "doc"]

RESAMPLES = 1000
MIN_IMAGES = 50  # of either set: below, no accuracy is predicted
PERMUTATIONS = 1000
SHIFTED_P = 0.01  # p-value and excess distance from which a shift of the predicted classes is told
SHIFTED_DISTANCE = 0.1
_AT_ONCE = 4_000_000  # counts that are held at once; with their sums some 150 MB

SCORES: dict[Method, str] = {"atc_confidence": "confidence", "atc_entropy": "negative_entropy"}
"""ATC's methods and the score of `ImageScores` that each thresholds"""


class Threshold(NamedTuple):
    """ATC's threshold."""

    score: float
    share_right: float
    """the share of the images with exactly this score that counts as right, 0 to 1; without equal scores it is 1"""


def atc_threshold(scores: npt.ArrayLike, correct: npt.ArrayLike) -> Threshold:
    """Return ATC's threshold.

    As many labelled images score below it as are predicted wrong (Garg et al. 2022, eq. 1). 2022, eq. 1).

    t such that mean(scores < t) = mean(not correct): of n sorted scores, the one at place "number of wrong images".
    Where several images have the score t, no score has that property: then only a share of them counts as right, so
    that ATC of the labelled images is their accuracy (ours; the authors' code takes all as right, which is too high
    where many confidences are exactly 1). Without a wrong image t is the smallest score; infinity where all are wrong.

    Args:
        scores: (image,), larger = more certain.
        correct: (image,) bool.
    """
    ordered, n_wrong = np.sort(np.asarray(scores, dtype=np.float64)), int((~np.asarray(correct, dtype=np.bool_)).sum())
    if n_wrong == len(ordered):
        return Threshold(float("inf"), 1.0)
    first, behind = (int(np.searchsorted(ordered, ordered[n_wrong], side)) for side in ("left", "right"))
    return Threshold(float(ordered[n_wrong]), (behind - n_wrong) / (behind - first))


def atc(inside: npt.ArrayLike, correct: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return the average thresholded confidence.

    This is the share of target images at or above the labelled images' threshold.

    Of the images exactly at it, the share that `atc_threshold` gives counts.

    Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution performance", eq. 2. Arguments are
    scores (image,) of both sets, and for the labelled ones whether they are right. Returns a fraction.

    >>> atc([0.2, 0.5, 0.7, 0.9], [False, True, True, True], [0.1, 0.4, 0.6, 0.8])
    0.5
    """
    threshold, scores = atc_threshold(inside, correct), np.asarray(outside, dtype=np.float64)
    return float((scores > threshold.score).mean() + threshold.share_right * (scores == threshold.score).mean())


def doc(inside: npt.ArrayLike, correct: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return DoC's prediction.

    It is the accuracy on labelled images less the fall of the mean confidence, kept within 0 to 1.

    Difference of confidences (Guillory et al. 2021, "Predicting with confidence on unseen distributions"), taken as
    the difference of accuracies itself, which needs no other labelled shift: their DoC-feature without a regression,
    as Garg et al. 2022 compare with. Arguments as for `atc`, of confidences. Returns a fraction.
    """
    fall = np.mean(np.asarray(inside, dtype=np.float64)) - np.mean(np.asarray(outside, dtype=np.float64))
    return float(np.clip(np.mean(np.asarray(correct, dtype=np.float64)) - fall, 0, 1))


def resampled(n: int, seed: tuple[int, ...], resamples: int = RESAMPLES) -> Iterator[Counts]:
    """Draw bootstrap resamples of n images. They are counts of draws: blocks of (resample, image), rows adding up to n.

    seed: of NumPy's default generator; the same numbers give the same resamples.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, min(resamples, _AT_ONCE // n))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)


@dataclass(frozen=True)
class Inside:
    """The resampled labelled images. Every target is compared with them; each array is (resample,)."""

    scores: ImageScores
    correct: Bools
    """(image,)"""
    thresholds: dict[Method, Array]
    """of ATC, by method"""
    shares_right: dict[Method, Array]
    """of the images at the threshold, by method"""

    @property
    def resamples(self) -> int:
        """Return how often the images were resampled."""
        return len(self.thresholds["atc_confidence"])


def resample_inside(scores: ImageScores, correct: Bools, seed: int, resamples: int = RESAMPLES) -> Inside:
    """Resample the labelled images; at least one of them."""
    orders = {method: np.argsort(getattr(scores, name), kind="stable") for method, name in SCORES.items()}
    thresholds: dict[Method, list[Array]] = {method: [] for method in SCORES}
    shares_right: dict[Method, list[Array]] = {method: [] for method in SCORES}
    for counts in resampled(len(correct), (seed, 0), resamples):
        n_wrong = counts @ (~correct).astype(np.int64)
        for method, order in orders.items():
            below = _counted_below(counts[:, order])
            values = np.append(getattr(scores, SCORES[method])[order], np.inf)
            chosen = values[(below[:, 1:] <= n_wrong[:, None]).sum(axis=1)]
            up_to, first = (_at(below, np.searchsorted(values[:-1], chosen, side)) for side in ("right", "left"))
            thresholds[method].append(chosen)
            with np.errstate(invalid="ignore"):  # all wrong: no image is at the threshold
                shares_right[method].append(np.nan_to_num((up_to - n_wrong) / (up_to - first), nan=1.0))
    return Inside(
        scores,
        correct,
        {method: np.concatenate(parts) for method, parts in thresholds.items()},
        {method: np.concatenate(parts) for method, parts in shares_right.items()},
    )


def _counted_below(counts: Counts) -> Counts:
    """Count the images of each resample before each place.

    The result is (resample, image + 1), for counts of ordered images.
    """
    return np.concatenate([np.zeros((len(counts), 1), dtype=np.int64), np.cumsum(counts, axis=1)], axis=1)


def _at(rows: Counts, place: Indices) -> Counts:
    """One value of each row."""
    return np.asarray(rows[np.arange(len(rows)), place])


@dataclass(frozen=True)
class Interval:
    """A predicted accuracy with its interval, as fractions. None where the method has none."""

    value: float
    low: float | None = None
    high: float | None = None


def predict(inside: Inside, outside: ImageScores, seed: tuple[int, ...]) -> dict[Method, Interval]:
    """Predict the accuracy on target images. Methods are ATC (two scores) and DoC.

    ATC's intervals are percentiles of the bootstrap over the images of both sets, CONFIDENCE wide. A bootstrap of a
    share of 0 or 1 has no width, so they are never narrower than Wilson's for the share of the target images (ours).

    Args:
        inside: from `resample_inside`.
        outside: of at least one target image.
        seed: of the resamples of the target; another one for each target.
    """
    n, correct = len(outside.confidence), inside.correct
    ordered = {method: np.argsort(getattr(outside, name), kind="stable") for method, name in SCORES.items()}
    shares: dict[Method, list[Array]] = {method: [] for method in SCORES}
    start = 0
    for counts in resampled(n, seed, inside.resamples):
        rows = slice(start, start + len(counts))
        start += len(counts)
        for method, order in ordered.items():
            below, values = _counted_below(counts[:, order]), getattr(outside, SCORES[method])[order]
            chosen, share_right = inside.thresholds[method][rows], inside.shares_right[method][rows]
            up_to, first = (_at(below, np.searchsorted(values, chosen, side)) for side in ("right", "left"))
            shares[method].append(1 - (first + (1 - share_right) * (up_to - first)) / n)
    found: dict[Method, Interval] = {}
    for method, name in SCORES.items():
        value = atc(getattr(inside.scores, name), correct, getattr(outside, name))
        low, high = np.quantile(np.concatenate(shares[method]), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        alone = wilson(round(value * n), n)
        found[method] = Interval(value, min(float(low), alone.low), max(float(high), alone.high))
    found["doc"] = Interval(doc(inside.scores.confidence, correct, outside.confidence))
    return found


@dataclass(frozen=True)
class ClassShift:
    """How much the predicted classes of two sets differ."""

    distance: float
    """total variation: half the sum of |differences of shares|, 0 to 1"""
    expected: float
    """its mean when the images of both sets are mixed at random"""
    p_value: float

    @property
    def is_told(self) -> bool:
        """Whether it is clearly more than chance, and much."""
        return self.p_value <= SHIFTED_P and self.distance - self.expected >= SHIFTED_DISTANCE


def class_shift(inside: npt.ArrayLike, outside: npt.ArrayLike, seed: tuple[int, ...]) -> ClassShift:
    """Test whether the predicted classes shifted. It is a permutation test of their total variation distance.

    Under mixing, the counts of the one set are multivariate hypergeometric. p is (1 + permutations at least as far) /
    (1 + PERMUTATIONS). A difference may be other classes (label shift), or the same ones taken for others.

    inside, outside: (image,) class indices; at least one image each.
    """
    a, b = np.asarray(inside), np.asarray(outside)
    classes = np.union1d(a, b)
    one, two = (np.searchsorted(classes, each) for each in (a, b))
    counts_a, counts_b = (np.bincount(each, minlength=len(classes)) for each in (one, two))

    def distance(of: Counts, other: Counts) -> Array:
        return np.asarray(np.abs(of / len(a) - other / len(b)).sum(axis=-1) / 2)

    both = counts_a + counts_b
    mixed = np.random.default_rng(seed).multivariate_hypergeometric(both, len(a), size=PERMUTATIONS)
    found, chance = float(distance(counts_a, counts_b)), distance(mixed, both - mixed)
    p = (1 + int((chance >= found - 1e-12).sum())) / (1 + PERMUTATIONS)
    return ClassShift(found, float(chance.mean()), p)


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
    """One method's predicted accuracy for one target set."""

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
        """Refuse an estimate that contradicts itself.

        The number lies in its interval, and there is either a number or a reason.
        """
        if (self.accuracy is None) != bool(self.not_established):
            raise ValueError("a prediction has a number, or a reason why it is not established")
        if (self.low is None) != (self.high is None or self.accuracy is None):
            raise ValueError("an interval has two bounds and a number")
        if self.low is not None and not self.low <= (self.accuracy or 0) <= (self.high or 0):
            raise ValueError("a prediction lies in its interval")
        return self


class PredictedClasses(Frozen):
    """The classes predicted on two sets. One is the target set, one the in-distribution set."""

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
    """An unlabelled image set and its predictions."""

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
    """Return a predicted accuracy with its interval as text. It may say that there is none."""
    if estimate.accuracy is None:
        return "not established"
    return " ".join([percent_text(estimate.accuracy), *([f"({bounds})"] if (bounds := bounds_text(estimate)) else [])])


def bounds_text(estimate: Estimate) -> str:
    """Return the interval of a predicted accuracy as text. Empty where it has none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}"
