"""Predicted accuracy without labels: average thresholded confidence, difference of confidences; pure.

Both start from labelled in-distribution images and end at unlabelled target images. Intervals are by bootstrap over
the images of both sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.statistics import CONFIDENCE, wilson

from .scores import Array, ImageScores

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Method = Literal["atc_confidence", "atc_entropy", "doc", "aline_s", "aline_d"]

RESAMPLES = 1000
MIN_IMAGES = 50  # of either set: below, no accuracy is predicted
_AT_ONCE = 4_000_000  # counts that are held at once; with their sums some 150 MB

SCORES: dict[Method, str] = {"atc_confidence": "confidence", "atc_entropy": "negative_entropy"}
"""ATC's methods and the score of `ImageScores` that each thresholds"""


def atc_threshold(scores: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """The score below which as many labelled images lie as are predicted wrong (Garg et al. 2022, eq. 1).

    t such that mean(scores < t) = mean(not correct): of n sorted scores, the one at place "number of wrong images".
    Equal scores at t all count as right, so the share below t may then be smaller. Without a wrong image it is the
    smallest score; infinity where all are wrong.

    Args:
        scores: (image,), larger = more certain.
        correct: (image,) bool.
    """
    ordered, n_wrong = np.sort(np.asarray(scores, dtype=np.float64)), int((~np.asarray(correct, dtype=np.bool_)).sum())
    return float(ordered[n_wrong]) if n_wrong < len(ordered) else float("inf")


def atc(inside: npt.ArrayLike, correct: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Average thresholded confidence: the share of target images at or above the labelled images' threshold.

    Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution performance", eq. 2. Arguments are
    scores (image,) of both sets, and for the labelled ones whether they are right. Returns a fraction.

    >>> atc([0.2, 0.5, 0.7, 0.9], [False, True, True, True], [0.1, 0.4, 0.6, 0.8])
    0.5
    """
    return float((np.asarray(outside, dtype=np.float64) >= atc_threshold(inside, correct)).mean())


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
    accuracy: Array
    confidence: Array


def resample_inside(scores: ImageScores, correct: Bools, seed: int, resamples: int = RESAMPLES) -> Inside:
    """Resample the labelled images; at least one of them."""
    n = len(correct)
    orders = {method: np.argsort(getattr(scores, name), kind="stable") for method, name in SCORES.items()}
    thresholds: dict[Method, list[Array]] = {method: [] for method in SCORES}
    accuracy, confidence = [], []
    for counts in resampled(n, (seed, 0), resamples):
        n_wrong = counts @ (~correct).astype(np.int64)
        accuracy.append(1 - n_wrong / n)
        confidence.append(counts @ scores.confidence / n)
        for method, order in orders.items():
            place = (np.cumsum(counts[:, order], axis=1) <= n_wrong[:, None]).sum(axis=1)
            values = np.append(getattr(scores, SCORES[method])[order], np.inf)
            thresholds[method].append(values[place])
    return Inside(
        scores,
        correct,
        {method: np.concatenate(parts) for method, parts in thresholds.items()},
        np.concatenate(accuracy),
        np.concatenate(confidence),
    )


@dataclass(frozen=True)
class Interval:
    """A predicted accuracy with its interval, fractions."""

    value: float
    low: float
    high: float


def predict(inside: Inside, outside: ImageScores, seed: tuple[int, ...]) -> dict[Method, Interval]:
    """Predict the accuracy on target images by ATC (two scores) and DoC.

    Intervals are percentiles of the bootstrap over the images of both sets, CONFIDENCE wide. ATC's is never narrower
    than Wilson's for the share of the target images alone (ours): where that share is 0 or 1 a bootstrap has no width.
    A temperature is taken as fixed.

    Args:
        inside: from `resample_inside`.
        outside: of at least one target image.
        seed: of the resamples of the target; another one for each target.
    """
    n, correct = len(outside.confidence), inside.correct
    ordered = {method: np.argsort(getattr(outside, name), kind="stable") for method, name in SCORES.items()}
    shares: dict[Method, list[Array]] = {method: [] for method in SCORES}
    confidence = []
    start = 0
    for counts in resampled(n, seed, len(inside.accuracy)):
        rows = slice(start, start + len(counts))
        start += len(counts)
        confidence.append(counts @ outside.confidence / n)
        for method, order in ordered.items():
            below = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts[:, order], axis=1)], axis=1)
            values = getattr(outside, SCORES[method])[order]
            place = np.searchsorted(values, inside.thresholds[method][rows], side="left")
            shares[method].append(1 - below[np.arange(len(counts)), place] / n)
    found: dict[Method, Interval] = {}
    for method, name in SCORES.items():
        value = atc(getattr(inside.scores, name), correct, getattr(outside, name))
        low, high = percentiles(np.concatenate(shares[method]))
        alone = wilson(round(value * n), n)
        found[method] = Interval(value, min(low, alone.low), max(high, alone.high))
    value = doc(inside.scores.confidence, correct, outside.confidence)
    low, high = percentiles(np.clip(inside.accuracy - inside.confidence + np.concatenate(confidence), 0, 1))
    found["doc"] = Interval(value, min(low, value), max(high, value))
    return found


def percentiles(values: Array) -> tuple[float, float]:
    """The bounds of a percentile interval of bootstrap values (Efron 1979), CONFIDENCE wide."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
