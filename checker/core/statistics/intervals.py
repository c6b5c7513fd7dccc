"""Bound statistics that are looked at more than once, accuracies and correlations, by pure functions.

A run looks at the evidence at fixed numbers of images (`is_look`), so the batch size never decides where it stops.
`depth` and `share_floor` give lower bounds for such a run: they hold at all of its looks together. `radius` and
`share_bounds` hold at every number of images together. The formulas, and why they hold: docs/statistics.md.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from ....thresholds.records import Frozen
from ....thresholds.statistics import LOOKS_ALPHA
from ...arrays import Array

CONFIDENCE = 0.95  # of every interval of an accuracy or a correlation
FIRST_LOOK = 50  # images; the least that a profile asks for, unless it asks for more
LOOK_EVERY = 16  # images between two later looks
TUNED_FOR = 50  # images at which the bounds are tightest: those of the first look
SMALL_SAMPLE = 2.0  # widening by 1 + 2/√n: normal theory is asymptotic (simulated)
HORIZON = 288  # images at the last look that `CRITICAL` is for
BEYOND = 0.1  # share of it for all n that are not between the first look and the horizon
NO_SKEWNESS = 1e-6  # below it the skewed and the plain quantile differ by less than 1e-5
CRITICAL = 2.3273  # P(a standard Brownian motion ever exceeds this times √n, n a look to the horizon) = 0.045


def is_look(n: int, first: int = FIRST_LOOK) -> bool:
    """Return whether a run looks at `n` usable images: at the first look, then at multiples of 16."""
    return n == first or (n > first and n % LOOK_EVERY == 0)


def radius(n: int, influence_sd: float, alpha: float) -> float:
    """Compute the half-width of a mean's asymptotic confidence sequence, valid at every n at once.

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
    log_alpha = math.log(alpha)
    rho2 = (-2 * log_alpha + math.log(1 - 2 * log_alpha)) / TUNED_FOR
    a = n * rho2 + 1
    scale = 2 * a / (n * n * rho2)
    sequence = math.sqrt(scale * math.log(math.sqrt(a) / alpha))
    return influence_sd * sequence * (1 + SMALL_SAMPLE / math.sqrt(n))


def depth(n: int, influence_sd: float, skewness: float, *, of_energies: bool = False) -> float:
    """Compute the distance from estimate to lower bound for a run that looks at fixed n.

    From the first look to the horizon σ̂/√n · (3/q)·(∛(1 + q·(z − q/6)) − 1) with z = CRITICAL · (1 + SMALL_SAMPLE/√n):
    a flat group-sequential boundary (Pocock 1977; the constant by recursive integration, Armitage, McPherson, Rowe
    1969), the skewness removed by Hall's cubic transformation (Hall 1992, "On the removal of skewness by
    transformation"). At other n `radius` at the rest of the error rate. For energies at every n the same with the z
    of `radius`: a few images of large norm can be most of them.

    Args:
        n: number of images, at least 1.
        influence_sd: as for `radius`.
        skewness: q, of the estimate itself (`grouped_jackknife`): for a mean the images' skewness over √n.
        of_energies: whether the statistic is a share of the energy.

    Returns:
        The distance; infinity where the SD or the skewness is not known (NaN).
    """
    if not (of_energies or FIRST_LOOK <= n <= HORIZON):
        return radius(n, influence_sd, BEYOND * LOOKS_ALPHA)
    if not math.isfinite(influence_sd + skewness):
        return math.inf
    root = math.sqrt(n)
    q = skewness
    z = CRITICAL * (1 + SMALL_SAMPLE / root)
    if of_energies:
        z = root * radius(n, 1.0, LOOKS_ALPHA)
    if abs(q) > NO_SKEWNESS:
        cube_root = np.cbrt(1 + q * (z - q / 6))
        z = 3 / q * float(cube_root - 1)
    return influence_sd / root * z


def share_floor(count: int, n: int) -> float:
    """Compute the lower bound of a Bernoulli rate for a run that looks at fixed n.

    From the first look to the horizon the p with P(X ≥ count | n, p) = 1 − Φ(CRITICAL): one-sided Clopper–Pearson at
    the level of one look. At other n that of `share_bounds` at the rest of the error rate.
    """
    if not FIRST_LOOK <= n <= HORIZON:
        return share_bounds(count, n, BEYOND * LOOKS_ALPHA)[0]
    if count == 0:
        return 0.0
    level = NormalDist().cdf(-CRITICAL)
    k = np.arange(count, n + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(count, n + 1)])

    def is_too_low(p: float) -> bool:
        logarithms = ways + k * math.log(p) + (n - k) * math.log1p(-p)
        return float(np.exp(logarithms).sum()) < level

    return _edge(count / n, 0.0, is_too_low)


def share_bounds(count: int, n: int, alpha: float) -> tuple[float, float]:
    """Compute an exact confidence sequence for a Bernoulli rate, valid at every n at once.

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
        """Return whether the martingale exceeds 1/α at p."""
        log_likelihood = 0.0
        if count:
            log_likelihood += count * math.log(p)
        if n > count:
            log_likelihood += (n - count) * math.log1p(-p)
        return mixture - log_likelihood > -math.log(alpha)

    estimate = count / n
    low = 0.0 if count == 0 else _edge(estimate, 0.0, beyond)
    high = 1.0 if count == n else _edge(estimate, 1.0, beyond)
    return low, high


def _edge(inside: float, outside: float, is_beyond: Callable[[float], bool]) -> float:
    """Find the end of an interval between a value inside and one outside, rounded outwards."""
    for _ in range(60):  # bisection: 2^-60 is below float precision
        middle = (inside + outside) / 2
        if is_beyond(middle):
            outside = middle
        else:
            inside = middle
    return outside


def grouped_jackknife(estimate: float, without: Array, sizes: Array) -> tuple[float, float]:
    """Compute √n times the standard error of an estimate and its skewness, by a delete-a-group jackknife.

    Var = (1/g) Σ_j (p_j − θ_J)² / (h_j − 1), p_j = h_j·θ − (h_j − 1)·θ_(j), h_j = n/m_j,
    θ_J = g·θ − Σ_j (1 − m_j/n)·θ_(j) (Busing, Meijer, van der Leeden 1999,
    "Delete-m jackknife for unequal m"). For a mean and groups of one image it equals the sample SD (ddof=1).
    q = Σ_j r_j³ / (Σ_j r_j²)^1.5, r_j = (p_j − θ_J)/h_j: what each group moves the estimate by (ours).

    Args:
        estimate: the statistic over all images.
        without: (group,) the statistic without each group.
        sizes: (group,) number of images of each group, each at least 1.

    Returns:
        The SD of the influence function, and q; NaN with fewer than two groups or any undefined value.
    """
    if len(sizes) < 2 or not math.isfinite(estimate) or not np.isfinite(without).all():
        return math.nan, math.nan
    n = sizes.sum()
    h = n / sizes
    pseudo = h * estimate - (h - 1) * without
    jackknifed = len(sizes) * estimate - np.sum((1 - sizes / n) * without)
    residual = pseudo - jackknifed
    variance = np.mean(residual**2 / (h - 1))
    moved = residual / h
    scale = np.sum(moved**2) ** 1.5
    skewness = float(np.sum(moved**3) / scale) if scale else 0.0
    return float(np.sqrt(n * variance)), skewness


class Accuracy(Frozen):
    """The top-1 accuracy with its Wilson score interval."""

    n: int
    n_correct: int
    value: float
    low: float
    high: float


def wilson(n_correct: int, n: int, confidence: float = CONFIDENCE) -> Accuracy:
    """Compute a share of correct predictions with its Wilson score interval.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), z the two-sided normal quantile (Wilson 1927; recommended for
    small n and p near 0 or 1 by Brown, Cai, DasGupta 2001). Equal to scipy.stats.binomtest(n_correct, n)
    .proportion_ci(confidence, method="wilson"). Raises ValueError unless 0 ≤ n_correct ≤ n and n ≥ 1.

    >>> wilson(0, 10).low, round(wilson(0, 10).high, 4)
    (0.0, 0.2775)
    """
    if not 0 <= n_correct <= n or n < 1:
        raise ValueError(f"n_correct is {n_correct} of {n}; it must be between 0 and n, and n at least 1")
    low, high = wilson_bounds(n_correct / n, n, confidence)
    return Accuracy(n=n, n_correct=n_correct, value=n_correct / n, low=low, high=high)


def wilson_bounds(p: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Wilson score interval of a share p of n."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    scale = 1 + z * z / n
    variance = p * (1 - p) / n + z * z / (4 * n * n)
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(variance) / scale
    # rounding must not leave the estimate outside its own interval
    low = 0.0 if p == 0 else min(max(centre - half, 0.0), p)
    high = max(min(centre + half, 1.0), p)
    return low, high


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
    z = math.atanh(r)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) / math.sqrt(n - 3)
    return math.tanh(z - half), math.tanh(z + half)
