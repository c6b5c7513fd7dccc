"""Confidence bounds: of statistics that a run looks at more than once, and of shares of right predictions.

A run looks at the evidence after fixed numbers of images (`next_look`), so the batch size never decides where it
stops; the bounds hold at all looks together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.thresholds.frozen import Frozen

LOOK_EVERY = 32  # images between two looks; one batch of the default size
TUNED_FOR = 64  # images at which the bounds are tightest: the first look that the minimum of 50 allows
SMALL_SAMPLE = 2.0  # widening by 1 + 2/√n: the sequence is asymptotic; keeps Pareto(3) tails within α (simulated)


def next_look(n: int) -> int:
    """Number of images after which to look again: the next multiple of `LOOK_EVERY` above `n`."""
    return (n // LOOK_EVERY + 1) * LOOK_EVERY


def radius(n: int, influence_sd: float, alpha: float) -> float:
    """Half-width of an asymptotic confidence sequence for a mean, valid at every n at once.

    σ̂ · √( 2(nρ² + 1) / (n²ρ²) · log(√(nρ² + 1) / α) ), two-sided
    (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2021, "Time-uniform central limit theory and asymptotic
    confidence sequences", eq. 5), with ρ² = (−2 log α + log(1 − 2 log α)) / n* tuned for n* = TUNED_FOR images,
    times 1 + SMALL_SAMPLE/√n (ours).

    Args:
        n: number of images, at least 1.
        influence_sd: SD over images of what is averaged; for a smooth statistic, of its influence function
            (√n times its standard error).
        alpha: two-sided error rate over all n together.

    Returns:
        The half-width; infinity where the SD is not known (NaN).
    """
    if not math.isfinite(influence_sd):
        return math.inf
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / TUNED_FOR
    a = n * rho2 + 1
    sequence = math.sqrt(2 * a / (n * n * rho2) * math.log(math.sqrt(a) / alpha))
    return influence_sd * sequence * (1 + SMALL_SAMPLE / math.sqrt(n))


def grouped_jackknife_sd(whole: float, without: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> float:
    """√n times the delete-a-group jackknife standard error, for groups of unequal size.

    Var = (1/g) Σ_j (p_j − θ_J)² / (h_j − 1), p_j = h_j·θ − (h_j − 1)·θ_(j), h_j = n/m_j,
    θ_J = g·θ − Σ_j (1 − m_j/n)·θ_(j) (Busing, Meijer, van der Leeden 1999,
    "Delete-m jackknife for unequal m"). For a mean and groups of one image it equals the sample SD (ddof=1).

    Args:
        whole: the statistic over all images.
        without: (group,) the statistic without each group.
        sizes: (group,) number of images of each group, each at least 1.

    Returns:
        The SD of the influence function; NaN with fewer than two groups or any undefined value.
    """
    if len(sizes) < 2 or not math.isfinite(whole) or not np.isfinite(without).all():
        return math.nan
    n = sizes.sum()
    h = n / sizes
    pseudo = h * whole - (h - 1) * without
    jackknifed = len(sizes) * whole - np.sum((1 - sizes / n) * without)
    variance = np.mean((pseudo - jackknifed) ** 2 / (h - 1))
    return float(np.sqrt(n * variance))


CONFIDENCE = 0.95  # of every interval of an accuracy


class Accuracy(Frozen):
    """Top-1 accuracy with its Wilson score interval."""

    n: int
    n_correct: int
    value: float
    low: float
    high: float


class Difference(Frozen):
    """Accuracy on a shifted set minus accuracy on the in-distribution set (fractions)."""

    value: float
    low: float
    high: float


def wilson(n_correct: int, n: int, confidence: float = CONFIDENCE) -> Accuracy:
    """Share of correct predictions with its Wilson score interval.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), z the two-sided normal quantile (Wilson 1927; recommended for
    small n and p near 0 or 1 by Brown, Cai, DasGupta 2001). Equal to scipy.stats.binomtest(n_correct, n)
    .proportion_ci(confidence, method="wilson"). Raises ValueError unless 0 ≤ n_correct ≤ n and n ≥ 1.

    >>> wilson(0, 10).low, round(wilson(0, 10).high, 4)
    (0.0, 0.2775)
    """
    if not 0 <= n_correct <= n or n < 1:
        raise ValueError(f"n_correct is {n_correct} of {n}; it must be between 0 and n, and n at least 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = n_correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # rounding must not leave the estimate outside its own interval
    low, high = min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p)
    return Accuracy(n=n, n_correct=n_correct, value=p, low=0.0 if n_correct == 0 else low, high=high)


def difference(of: Accuracy, minus: Accuracy) -> Difference:
    """Difference of two accuracies with Newcombe's hybrid score interval for independent sets.

    d − √((p₁−l₁)² + (u₂−p₂)²) to d + √((u₁−p₁)² + (p₂−l₂)²), l and u the Wilson bounds of each (Newcombe 1998,
    method 10). For versions of the same images it is too wide, never too narrow as long as they are not negatively
    related.
    """
    value = of.value - minus.value
    down = math.hypot(of.value - of.low, minus.high - minus.value)
    up = math.hypot(of.high - of.value, minus.value - minus.low)
    return Difference(value=value, low=max(value - down, -1.0), high=min(value + up, 1.0))


def is_correct(
    scores: npt.NDArray[Any], right: Sequence[tuple[int, ...]], compete: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Whether the largest of the competing class scores is one of an image's right classes.

    scores: (image, class), any real dtype, larger = more likely (logits or probabilities); infinities are fine.
    right: class indices that count as right, for each image, all among `compete`.
    A tie between a right and a wrong class is wrong: equal scores are no prediction. Returns (image,) bool.
    Raises ValueError for a NaN among the competing scores.

    >>> is_correct(np.array([[0.1, 0.9, 2.0]]), [(1,)], (0, 1)).tolist()
    [True]
    """
    chosen = np.asarray(scores, dtype=np.float64)[:, list(compete)]
    if np.isnan(chosen).any():
        raise ValueError("class scores hold NaN; a prediction needs numbers")
    place = {index: column for column, index in enumerate(compete)}
    mask = np.zeros(chosen.shape, dtype=np.bool_)
    for row, group in enumerate(right):
        mask[row, [place[index] for index in group]] = True
    best_right = np.where(mask, chosen, -np.inf).max(axis=1)
    best_wrong = np.where(mask, -np.inf, chosen).max(axis=1)
    return np.asarray(best_right > best_wrong)
