"""Predict accuracy without labels, by ATC and DoC. Whether the predicted classes shifted is tested, too.

Predictions start from labelled in-distribution images and end at unlabelled target images. ATC's intervals are by
bootstrap over the images of both sets. DoC has none: where its assumption fails they mean nothing, and they are narrow.

Formulas take the scores of the classes that compete, (image, class), and are computed in float64.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ....thresholds.records import Frozen
from ...arrays import Array, Bools, Counts, float64
from ...core.evidence import Skips
from ...core.measure.opening import Inputs
from ...core.measure.sums import ImagesRead
from ...core.progress import Tell, tell_stage
from ...core.statistics.intervals import CONFIDENCE, Accuracy, wilson
from ...errors import UsageError
from .confidence import Collector, ImageScores, Kind
from .robustness import SetResult
from .sets import ImageSet, LabelledResult, run_set

Method = Literal["atc_confidence", "atc_entropy", "doc"]
MIN_IMAGES = 50  # of either set: below, no accuracy is predicted
SHIFTED_P = 0.01  # p-value and excess distance from which a shift of the predicted classes is told
SHIFTED_DISTANCE = 0.1
NAMES: dict[Method, str] = {"atc_confidence": "ATC, confidence", "atc_entropy": "ATC, entropy", "doc": "DoC"}
ASSUMES: dict[Method, str] = {
    "atc_confidence": "as many predictions of a low confidence are wrong on the target as among the labelled images",
    "atc_entropy": "the same of predictions of a high entropy",
    "doc": "accuracy falls by as many points as the mean confidence does",
}
# `python studies/predicted_accuracy.py` measures these figures, and fails where they are others
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
Seed = tuple[int, ...]


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
        """Refuse a number outside its interval, one with a reason, and neither a number nor a reason."""
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

    @property
    def are_shifted(self) -> bool:
        """Return whether they differ clearly more than by chance, and much."""
        beyond_chance = self.distance - self.expected_distance
        return self.p_value <= SHIFTED_P and beyond_chance >= SHIFTED_DISTANCE


class Target(Frozen):
    """An unlabelled image set and its predictions."""

    name: str
    source: str
    n_available: int
    n_read: int
    n_images: int
    """usable ones"""
    n_skipped: int
    skipped: Skips
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


def bounds_text(of: Estimate | Accuracy) -> str:
    """Return the interval of an accuracy as text, empty where it has none."""
    if of.low is None or of.high is None:
        return ""
    return f"{100 * of.low:.1f} – {100 * of.high:.1f}"


RESAMPLES = 1000
PERMUTATIONS = 1000
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)  # quantiles of the resamples that are the ends of an interval
_BLOCK_COUNTS = 4_000_000  # counts that are held at once; with their sums some 150 MB

SCORES: dict[Method, str] = {"atc_confidence": "confidence", "atc_entropy": "negative_entropy"}
"""ATC's methods and the score of `ImageScores` that each thresholds"""


def atc_thresholds(scores: npt.ArrayLike, correct: npt.ArrayLike, counts: npt.ArrayLike) -> Array:
    """Return ATC's threshold of each resample.

    As many labelled images score below it as are predicted wrong: t such that mean(scores < t) = mean(not correct)
    (Garg et al. 2022, eq. 1). Of n sorted scores it is the one at place "number of wrong images". Where several images
    have the score t, no score has that property: then only a share of them counts as right, so that ATC of the labelled
    images is their accuracy (ours; the authors' code takes all as right, which is too high where many confidences are
    exactly 1). Without a wrong image t is the smallest score; infinity where all are wrong.

    Args:
        scores: (image,), larger = more certain.
        correct: (image,) bool.
        counts: (resample, image), how often each image was drawn.

    Returns:
        (2, resample): the threshold, and the share of the images with exactly this score that counts as right, 0 to 1;
        without equal scores it is 1.
    """
    counts = np.asarray(counts)
    is_wrong = ~np.asarray(correct, dtype=np.bool_)
    n_wrong = counts @ is_wrong.astype(np.int64)
    ordered, below = _ordered(float64(scores), counts)
    places = (below[:, 1:] <= n_wrong[:, np.newaxis]).sum(axis=1)
    chosen = np.append(ordered, np.inf)[places]
    first, up_to = _reached(ordered, below, chosen)
    with np.errstate(invalid="ignore"):  # all wrong: no image is at the threshold
        share_right = np.nan_to_num((up_to - n_wrong) / (up_to - first), nan=1.0)
    return np.stack([chosen, share_right])


def atc(inside: npt.ArrayLike, correct: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return the average thresholded confidence: the share of target images at or above the labelled ones' threshold.

    Of the images exactly at it, the share that `atc_thresholds` gives counts.

    Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution performance", eq. 2. Arguments are
    scores (image,) of both sets, and for the labelled ones whether they are right. Returns a fraction.

    >>> atc([0.2, 0.5, 0.7, 0.9], [False, True, True, True], [0.1, 0.4, 0.6, 0.8])
    0.5
    """
    once_each = np.ones((1, np.size(inside)), np.int64)
    ((threshold,), (share_right,)) = atc_thresholds(inside, correct, once_each)
    scores = float64(outside)
    above = (scores > threshold).mean()
    at = (scores == threshold).mean()
    return float(above + share_right * at)


def doc(inside: npt.ArrayLike, correct: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return the accuracy on labelled images less the fall of the mean confidence, kept within 0 to 1.

    Difference of confidences (Guillory et al. 2021, "Predicting with confidence on unseen distributions"), taken as
    the difference of accuracies itself, which needs no other labelled shift: their DoC-feature without a regression,
    as Garg et al. 2022 compare with. Arguments as for `atc`, of confidences. Returns a fraction.
    """
    fall = np.mean(float64(inside)) - np.mean(float64(outside))
    accuracy = np.mean(float64(correct))
    return float(np.clip(accuracy - fall, 0, 1))


def resampled(n: int, seed: Seed, resamples: int = RESAMPLES) -> Iterator[Counts]:
    """Draw bootstrap resamples of n images, as counts of draws: blocks of (resample, image), rows adding up to n.

    seed: of NumPy's default generator; the same numbers give the same resamples.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, min(resamples, _BLOCK_COUNTS // n))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        firsts = n * np.arange(size)[:, np.newaxis]
        drawn = firsts + rng.integers(n, size=(size, n))
        counts = np.bincount(drawn.ravel(), minlength=size * n)
        yield counts.reshape(size, n)


class Inside(NamedTuple):
    """The resampled labelled images, with which every target is compared."""

    scores: ImageScores
    correct: Bools
    """(image,)"""
    thresholds: dict[Method, Array]
    """(2, resample) of ATC, by method"""


def resample_inside(scores: ImageScores, correct: Bools, seed: int, resamples: int = RESAMPLES) -> Inside:
    """Resample the labelled images; at least one of them."""
    thresholds: dict[Method, list[Array]] = {method: [] for method in SCORES}
    for counts in resampled(len(correct), (seed, 0), resamples):
        for method, name in SCORES.items():
            thresholds[method].append(atc_thresholds(getattr(scores, name), correct, counts))
    by_method = {method: np.concatenate(blocks, axis=1) for method, blocks in thresholds.items()}
    return Inside(scores, correct, by_method)


def _ordered(scores: Array, counts: Counts) -> tuple[Array, Counts]:
    """Order scores, and count how many images of each resample come before each place: (resample, image + 1)."""
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(counts[:, order], axis=1)
    return scores[order], np.pad(below, ((0, 0), (1, 0)))


def _reached(ordered: Array, below: Counts, thresholds: Array) -> tuple[Counts, Counts]:
    """Count images of resamples below their thresholds, and up to them."""
    rows = np.arange(len(below))
    first = np.searchsorted(ordered, thresholds, "left")
    up_to = np.searchsorted(ordered, thresholds, "right")
    return below[rows, first], below[rows, up_to]


class Prediction(NamedTuple):
    """A predicted accuracy with its interval, as fractions. None where the method has none."""

    value: float
    low: float | None = None
    high: float | None = None


def predict(inside: Inside, outside: ImageScores, seed: Seed) -> dict[Method, Prediction]:
    """Predict the accuracy on target images by ATC, with two scores, and by DoC.

    ATC's intervals are percentiles of the bootstrap over the images of both sets, CONFIDENCE wide. A bootstrap of a
    share of 0 or 1 has no width, so they are never narrower than Wilson's for the share of the target images (ours).

    Args:
        inside: from `resample_inside`.
        outside: of at least one target image.
        seed: of the resamples of the target; another one for each target.
    """
    n = len(outside.confidence)
    start = 0
    shares: dict[Method, list[Array]] = {method: [] for method in SCORES}
    for counts in resampled(n, seed, inside.thresholds["atc_confidence"].shape[1]):
        end = start + len(counts)
        for method, name in SCORES.items():
            ordered, below = _ordered(getattr(outside, name), counts)
            chosen, share_right = inside.thresholds[method][:, start:end]
            first, up_to = _reached(ordered, below, chosen)
            n_wrong = first + (1 - share_right) * (up_to - first)
            shares[method].append(1 - n_wrong / n)
        start = end
    predictions = {}
    for method, name in SCORES.items():
        value = atc(getattr(inside.scores, name), inside.correct, getattr(outside, name))
        low, high = np.quantile(np.concatenate(shares[method]), ENDS)
        alone = wilson(round(value * n), n)
        low = min(float(low), alone.low)
        high = max(float(high), alone.high)
        predictions[method] = Prediction(value, low, high)
    accuracy = doc(inside.scores.confidence, inside.correct, outside.confidence)
    predictions["doc"] = Prediction(accuracy)
    return predictions


def class_shift(inside: npt.ArrayLike, outside: npt.ArrayLike, seed: Seed) -> PredictedClasses:
    """Test whether the predicted classes shifted, by a permutation test of their total variation distance.

    Under mixing, the counts of the one set are multivariate hypergeometric. p is (1 + permutations at least as far) /
    (1 + PERMUTATIONS). A difference may be other classes (label shift), or the same ones taken for others.

    inside, outside: (image,) class indices; at least one image each.
    """
    classes = np.union1d(inside, outside)

    def counted(indices: npt.ArrayLike) -> Counts:
        return np.bincount(np.searchsorted(classes, indices), minlength=len(classes))

    of_inside = counted(inside)
    of_outside = counted(outside)
    n_inside = of_inside.sum()
    n_outside = of_outside.sum()

    def distance(one: Counts, other: Counts) -> Array:
        apart = np.abs(one / n_inside - other / n_outside)
        return np.asarray(apart.sum(axis=-1) / 2)

    both = of_inside + of_outside
    mixed = np.random.default_rng(seed).multivariate_hypergeometric(both, n_inside, size=PERMUTATIONS)
    observed = float(distance(of_inside, of_outside))
    chance = distance(mixed, both - mixed)
    n_as_far = int((chance >= observed - 1e-12).sum())
    return PredictedClasses(
        n_classes=int((of_outside > 0).sum()),
        top_share=float(of_outside.max() / n_outside),
        distance=observed,
        expected_distance=float(chance.mean()),
        p_value=(1 + n_as_far) / (1 + PERMUTATIONS),
    )


def predict_targets(
    inputs: Inputs,
    inner: LabelledResult,
    collected: Collector,
    targets: Sequence[ImageSet],
    shifted: Sequence[SetResult],
    progress: Tell | None,
) -> Predicted:
    """Predict the model's accuracy on unlabelled sets.

    Args:
        inputs: the model.
        inner, collected: the labelled set, measured, with the scores of its images.
        targets: at least one.
        shifted: labelled sets that were measured: one with the same images as a target gives its measured accuracy.
        progress: called after every batch.

    Raises:
        UsageError: a target with the images of the in-distribution set or of another target.
        CannotAssessError: class scores that no confidence can be read from, or that are not finite.
    """
    seed = inputs.job.options.seed % 2**64  # NumPy takes no negative one
    inside = collected.images
    kind = collected.kind
    assert kind is not None
    read = []
    by_digest = {inner.result.digest: inner.result.source}
    for target in targets:
        where = str(target.spec.place)
        scores = replace(collected, where=where, parts=[])
        images = ImagesRead()
        for batch, _ in run_set(scores.runner, target, inputs, progress, images):
            scores.add(batch)
        facts = target.facts(images)
        digest = facts["digest"]
        if digest in by_digest:
            raise UsageError(
                f"{where}: images are those of {by_digest[digest]}; a target must have other images",
                "--in photos/ --target new-photos/",
            )
        by_digest[digest] = where
        read.append((images, facts, scores.images))
    tell_stage(progress, "predicting accuracy")
    resamples = resample_inside(inside, inner.correct, seed)
    accuracies = {result.digest: result.accuracy for result in shifted}
    records = []
    for number, (images, facts, outside) in enumerate(read, 1):
        predictions = predict(resamples, outside, (seed, 1, number))
        record = Target(
            **facts,
            n_images=images.n_usable,
            in_both=(Counter(inner.digests) & Counter(images.digests)).total(),
            mean_confidence=float(outside.confidence.mean()),
            estimates=_estimates(resamples, predictions, images.n_usable),
            measured=accuracies.get(facts["digest"]),
            classes=class_shift(inside.predicted, outside.predicted, (seed, 3, number)),
        )
        records.append(record)
    return Predicted(
        scores=kind.kind,
        scores_why=kind.why,
        mean_confidence=float(inside.confidence.mean()),
        n_resamples=RESAMPLES,
        min_images=MIN_IMAGES,
        targets=tuple(records),
        claim=CLAIM,
    )


def _estimates(inside: Inside, predictions: dict[Method, Prediction], n_images: int) -> tuple[Estimate, ...]:
    """Return every method's estimate, or why it has no number where it rests on too little."""
    n_inside = len(inside.correct)
    n_correct = int(inside.correct.sum())
    few = ""
    if n_inside < MIN_IMAGES:
        few = f"{n_inside} labelled in-distribution images; at least {MIN_IMAGES} are needed"
    elif n_images < MIN_IMAGES:
        few = f"{n_images} usable target images; at least {MIN_IMAGES} are needed"
    one_sided = ""
    if n_correct in (0, n_inside):
        which = "right" if n_correct else "wrong"
        one_sided = f"every labelled image is predicted {which}; ATC's threshold needs some of both"
    estimates = []
    for method, (accuracy, low, high) in predictions.items():
        why = few or ("" if method == "doc" else one_sided)
        estimates.append(
            Estimate(
                method=method,
                accuracy=None if why else accuracy,
                low=None if why else low,
                high=None if why else high,
                drop_points=None if why else 100 * (n_correct / n_inside - accuracy),
                not_established=why,
                assumes=ASSUMES[method],
            )
        )
    return tuple(estimates)
