"""Predicted accuracy without labels (ATC and DoC), and whether the predicted classes shifted; pure.

Predictions start from labelled in-distribution images and end at unlabelled target images. ATC's intervals are by
bootstrap over the images of both sets. DoC has none: where its assumption fails they say nothing, and they are narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array, Bools, Counts, Indices
from robustcheck_onnx.checker.statistics import CONFIDENCE, wilson

from .scores import ImageScores

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
    """The score below which as many labelled images lie as are predicted wrong (Garg et al. 2022, eq. 1).

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
    """Average thresholded confidence: the share of target images at or above the labelled images' threshold.

    Of the images exactly at it, the share that `atc_threshold` gives counts.

    Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution performance", eq. 2. Arguments are
    scores (image,) of both sets, and for the labelled ones whether they are right. Returns a fraction.

    >>> atc([0.2, 0.5, 0.7, 0.9], [False, True, True, True], [0.1, 0.4, 0.6, 0.8])
    0.5
    """
    threshold, scores = atc_threshold(inside, correct), np.asarray(outside, dtype=np.float64)
    return float((scores > threshold.score).mean() + threshold.share_right * (scores == threshold.score).mean())


def doc(inside: npt.ArrayLike, correct: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Accuracy on labelled images less the fall of the mean confidence, kept within 0 to 1.

    Difference of confidences (Guillory et al. 2021, "Predicting with confidence on unseen distributions"), taken as
    the difference of accuracies itself, which needs no other labelled shift: their DoC-feature without a regression,
    as Garg et al. 2022 compare with. Arguments as for `atc`, of confidences. Returns a fraction.
    """
    fall = np.mean(np.asarray(inside, dtype=np.float64)) - np.mean(np.asarray(outside, dtype=np.float64))
    return float(np.clip(np.mean(np.asarray(correct, dtype=np.float64)) - fall, 0, 1))


def resampled(n: int, seed: tuple[int, ...], resamples: int = RESAMPLES) -> Iterator[Counts]:
    """Bootstrap resamples of n images, as how often each is drawn: blocks of (resample, image), rows adding up to n.

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
    """The labelled images resampled: what every target is compared with, each array (resample,)."""

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
    """How many images each resample has before each place: (resample, image + 1), for counts of ordered images."""
    return np.concatenate([np.zeros((len(counts), 1), dtype=np.int64), np.cumsum(counts, axis=1)], axis=1)


def _at(rows: Counts, place: Indices) -> Counts:
    """One value of each row."""
    return np.asarray(rows[np.arange(len(rows)), place])


@dataclass(frozen=True)
class Interval:
    """A predicted accuracy with its interval, fractions; None where the method has none."""

    value: float
    low: float | None = None
    high: float | None = None


def predict(inside: Inside, outside: ImageScores, seed: tuple[int, ...]) -> dict[Method, Interval]:
    """Predict the accuracy on target images by ATC (two scores) and DoC.

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
    """Compare the classes predicted on two sets by a permutation test of their total variation distance.

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
