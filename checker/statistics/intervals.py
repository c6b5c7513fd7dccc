"""Confidence bounds: of statistics that a run looks at more than once (`radius`, `share_bounds`), of accuracies
(`wilson`), of correlations (`correlation_bounds`).

A run looks at the evidence at fixed numbers of images (`is_look`), so the batch size never decides where it stops.
Each bound holds at all looks together.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from robustcheck_onnx.checker.arrays import Array
from robustcheck_onnx.thresholds.frozen import Frozen

CONFIDENCE = 0.95  # of every interval of an accuracy or a correlation
FIRST_LOOK = 50  # images; the least that a profile asks for, unless it asks for more
LOOK_EVERY = 16  # images between two later looks
TUNED_FOR = 50  # images at which the bounds are tightest: those of the first look
SMALL_SAMPLE = 2.0  # widening by 1 + 2/√n: the sequence is asymptotic; keeps Pareto(3) tails within α (simulated)


def is_look(n: int, first: int = FIRST_LOOK) -> bool:
    """Tell whether a run looks at the evidence at `n` usable images: at the first look, then at multiples of 16."""
    return n == first or (n > first and n % LOOK_EVERY == 0)


def radius(n: int, influence_sd: float, alpha: float) -> float:
    """Compute the half-width of an asymptotic confidence sequence for a mean, valid at every n at once.

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


def share_bounds(count: int, n: int, alpha: float) -> tuple[float, float]:
    """Compute an exact confidence sequence for the rate of a Bernoulli sequence, valid at every n at once.

    All p with B(1 + s, 1 + n − s) / (p^s (1 − p)^(n − s)) ≤ 1/α, s = count: the likelihood ratio of the uniform
    mixture against p is a martingale of mean 1 under p, so it ever exceeds 1/α with probability α at most (Ville).
    Robbins 1970, "Statistical methods related to the law of the iterated logarithm"; Howard, Ramdas, McAuliffe, Sekhon
    2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences", section 3 (beta-binomial mixture).

    Args:
        count: of the n that are so, 0 to n.
        n: number of images, at least 1.
        alpha: two-sided error rate over all n together; above 0, below 1.

    Returns:
        Lower and upper bound, 0 to 1; 0 where count is 0, 1 where it is n.

    Raises:
        ValueError: count is not within 0 to n, or n is 0.

    >>> [round(bound, 3) for bound in share_bounds(64, 64, 0.05)]
    [0.894, 1.0]
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"count is {count} of {n}; it must be between 0 and n, and n at least 1")
    mixture = math.lgamma(1 + count) + math.lgamma(1 + n - count) - math.lgamma(2 + n)

    def beyond(p: float) -> bool:
        """Whether the martingale exceeds 1/α at p."""
        log_likelihood = (count * math.log(p) if count else 0.0) + ((n - count) * math.log1p(-p) if n > count else 0.0)
        return mixture - log_likelihood > -math.log(alpha)

    def edge(inside: float, outside: float) -> float:
        for _ in range(60):  # bisection: 2^-60 is below float precision
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
        return outside  # the wider side

    estimate = count / n
    return (0.0 if count == 0 else edge(estimate, 0.0)), (1.0 if count == n else edge(estimate, 1.0))


def grouped_jackknife_sd(whole: float, without: Array, sizes: Array) -> float:
    """Compute √n times the delete-a-group jackknife standard error, for groups of unequal size.

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


class Accuracy(Frozen):
    """Top-1 accuracy with its Wilson score interval."""

    n: int
    n_correct: int
    value: float
    low: float
    high: float


def wilson(n_correct: int, n: int, confidence: float = CONFIDENCE) -> Accuracy:
    """Compute the share of correct predictions with its Wilson score interval.

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


def correlation_bounds(r: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Compute the interval of a Pearson correlation by Fisher's z: tanh(artanh r ± z/√(n − 3)) (Fisher 1921).

    Equal to scipy.stats.pearsonr(x, y).confidence_interval(confidence). Heavy tails make it too narrow around a strong
    correlation, not around 0 (for independent features the variance of r is about 1/n whatever their distribution).

    Args:
        r: over n images, −1 to 1.
        n: number of images.
        confidence: two-sided.

    Returns:
        Lower and upper bound; −1 and 1 with three images or fewer, r itself at −1 or 1.
    """
    if n <= 3:
        return -1.0, 1.0
    if abs(r) >= 1:
        return r, r
    half = NormalDist().inv_cdf(0.5 + confidence / 2) / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
