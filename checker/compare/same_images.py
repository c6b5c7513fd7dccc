"""Compare the two vectors of the same image. Pure.

A simple change of all vectors that explains the difference is found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Literal

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Floats
from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.statistics import CONFIDENCE, unit_rows

CONSTANT_LENGTH = 1e-3  # SD of the lengths relative to their mean: float16 vectors of length 1 have 2e-4
UNEXPLAINED = 0.1  # share of 1 − cosine that may be left: a rotation of few images always leaves less than before
WIDEST_PERMUTED = 4096  # features: all pairs of them are compared, in 128 MiB
Change = Literal["none", "normalised", "not normalised", "permuted", "rotated"]


def lengths(x: Floats) -> Array:
    """Return the Euclidean length of each vector of (image, feature)."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", x, x)))


def cosine(x: Array, y: Array) -> Array:
    """Return the cosine of each pair of vectors (image, feature)."""
    return np.asarray(np.einsum("ij,ij->i", unit_rows(x), unit_rows(y)))


def quantile(values: Array, p: float, confidence: float = CONFIDENCE) -> Interval:
    """Return a quantile with bounds from order statistics. They hold for every distribution.

    Equal to scipy.stats.quantile_test(values, p=p).confidence_interval(confidence). The estimate is
    numpy.quantile(values, p, method="inverted_cdf"), which is one of the values.

    Args:
        values: (image,), at most 1,024.
        p: between 0 and 1.
        confidence: two-sided.

    Returns:
        None for a bound that the values are too few for: the lower bound of the 5 % quantile needs 72, that of the 1 %
        quantile 368.
    """
    x, n = np.sort(values), len(values)
    below = np.cumsum([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n)])  # P(at most k)
    low = int(np.searchsorted(below, (1 - confidence) / 2, "right"))
    high = int(np.searchsorted(below, (1 + confidence) / 2))
    return Interval(
        estimate=float(np.quantile(x, p, method="inverted_cdf")),
        low=float(x[low - 1]) if low else None,
        high=float(x[high]) if high < n else None,
    )


def explain(x: Array, y: Array, least: float) -> tuple[Change, float]:
    """Find the simple change that explains how the candidate's vectors differ.

    normalised: the candidate's vectors have one length and the reference's have not; not normalised: the other way
    around. permuted: each feature of the reference is the candidate's nearest one. rotated: `procrustes` explains it.

    Args:
        x, y: (image, feature) of candidate and reference, as wide.
        least: 5 % quantile of the cosines from which vectors are the same up to the change.

    Returns:
        The change, and the 5 % quantile of the cosines after it is undone.
    """
    constant = [bool(size.std() < CONSTANT_LENGTH * size.mean()) for size in (lengths(x), lengths(y))]
    a, b = unit_rows(x), unit_rows(y)
    after = float(np.quantile(cosine(a, b), 0.05))
    if after >= least:
        return "none" if constant[0] == constant[1] else "normalised" if constant[0] else "not normalised", after
    changes: dict[Change, Callable[[Array, Array], Array]] = {"permuted": _permuted, "rotated": procrustes}
    for change, undone in changes.items():
        left = float(np.quantile(cosine(undone(a, b), b), 0.05))
        if left >= least and 1 - left <= UNEXPLAINED * (1 - after):
            return change, left
    return "none", after


def _permuted(x: Array, y: Array) -> Array:
    """Return, for each feature of y, the nearest one of x.

    x itself if they are more than `WIDEST_PERMUTED`, or if that is not a permutation: of equal features any is taken.
    """
    if x.shape[1] > WIDEST_PERMUTED:
        return x
    squares = [np.einsum("ij,ij->j", v, v) for v in (x, y)]
    found = np.asarray(x[:, (squares[0][:, None] + squares[1] - 2 * (x.T @ y)).argmin(axis=0)])
    features = [Counter(feature.tobytes() for feature in (each + 0.0).T) for each in (x, found)]  # −0 becomes 0
    return found if features[0] == features[1] else x


def procrustes(x: Array, y: Array) -> Array:
    """Rotate x onto y as well as any orthogonal map can. Return x R, (image, feature).

    The R with RᵀR = 1 that minimises ‖x R − y‖ (Schönemann 1966), equal to scipy.linalg.orthogonal_procrustes(x, y).
    With fewer images than features R is not unique; x R is. Of other widths R is the part of an orthogonal map.
    """
    (_, rx), (qy, ry) = np.linalg.qr(x.T), np.linalg.qr(y.T)
    u, _, vt = np.linalg.svd(rx @ ry.T, full_matrices=False)
    return np.asarray(rx.T @ u @ vt @ qy.T)
