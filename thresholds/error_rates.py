"""How far a fit can be trusted: exact bounds on error rates, separation, and resampling over checkpoints. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X ≤ k) for X ~ Binomial(n, p); equals `scipy.stats.binom.cdf(k, n, p)`."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def clopper_pearson_upper(k: int, n: int, alpha: float = 0.05) -> float:
    """One-sided upper Clopper–Pearson bound of a rate: the p with P(X ≤ k | n, p) = alpha.

    Equals `scipy.stats.beta.ppf(1 - alpha, k + 1, n - k)`; 1 − alpha^(1/n) for k = 0.

    Args:
        k: errors, 0 to n.
        n: trials, at least 1.
        alpha: one minus the confidence.

    Returns:
        The bound, 0–1; 1 where every trial is an error.

    Raises:
        ValueError: k or n out of range.
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} errors of {n} trials is no rate")
    if k == n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(100):  # bisection: 2^-100 is far below float precision
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(k, n, middle) > alpha else (low, middle)
    return high


def auroc(with_indication: Sequence[float], without: Sequence[float]) -> float:
    """Probability that a random set with the indication reads higher than one without; ties count half.

    The Mann–Whitney statistic over its maximum; equals `scipy.stats.mannwhitneyu(a, b).statistic / (len(a)·len(b))`.

    Raises:
        ValueError: one side is empty.
    """
    if not len(with_indication) or not len(without):
        raise ValueError("AUROC needs values on both sides")
    a = np.asarray(with_indication, dtype=np.float64)[:, None]
    b = np.asarray(without, dtype=np.float64)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())
