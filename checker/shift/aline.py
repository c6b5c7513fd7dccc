"""Agreement on the line: accuracy without labels from where several models agree; pure.

Baek, Jiang, Raghunathan, Kolter 2022, "Agreement-on-the-line: predicting the performance of neural networks under
distribution shift": where accuracy in and out of distribution lie on a line (probit scale), so does agreement between
pairs of models, with the same slope and intercept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from .predicted import Bools, Interval, percentiles, resampled
from .scores import Array

MIN_MODELS = 3  # two have one pair, and one point has no line
FITS = 0.95  # R² of the line from which the paper counts it as one
_EDGE = 1e-9  # a share of 0 or 1 has no probit; only resamples meet it
_probit = np.frompyfunc(NormalDist().inv_cdf, 1, 1)
_normal = np.frompyfunc(NormalDist().cdf, 1, 1)


@dataclass(frozen=True)
class Line:
    """The line through the pairs' agreements, and what it says of the first model."""

    slope: float
    intercept: float
    r_squared: float
    n_pairs: int
    aline_s: Interval
    aline_d: Interval
    fault: str
    """why no accuracy follows; empty where one does"""


def probit(share: npt.ArrayLike) -> Array:
    """The normal quantile of shares; 0 and 1 count as 1e-9 from there."""
    return np.asarray(_probit(np.clip(np.asarray(share, dtype=np.float64), _EDGE, 1 - _EDGE)), dtype=np.float64)


def fit(
    inside: npt.NDArray[np.int32], correct: Bools, outside: npt.NDArray[np.int32], seed: tuple[int, ...], resamples: int
) -> Line:
    """Predict the accuracy of the first model on target images, from the agreement of all models.

    ALine-S applies the agreements' line to the model's accuracy; ALine-D solves, in the least squares sense, the
    equations that the line gives for each pair of models (Baek et al. 2022, algorithm 1). Intervals are percentiles of
    a bootstrap over the images of both sets.

    Args:
        inside: (model, image) predicted classes of the labelled images, at least three models.
        correct: (model, image) whether each is right.
        outside: (model, image) predicted classes of the target's images.
        seed: of the resamples.
        resamples: how many.
    """
    pairs = list(combinations(range(len(inside)), 2))
    in_agree, out_agree = (
        np.stack([each[i] == each[j] for i, j in pairs], axis=1).astype(np.float64) for each in (inside, outside)
    )
    right = correct.T.astype(np.float64)
    shares = [each.mean(axis=0) for each in (right, in_agree, out_agree)]
    slope, intercept, r_squared, values = _solve(pairs, *(each[None] for each in shares))
    accuracy, agree_in = _means((right, in_agree), (*seed, 0), resamples)
    (agree_out,) = _means((out_agree,), (*seed, 1), resamples)
    resampled_values = _solve(pairs, accuracy, agree_in, agree_out)[3]
    by_s, by_d = (_interval(float(value), many) for value, many in zip(values[0], resampled_values.T, strict=True))
    fault = ""
    if any(((each <= 0) | (each >= 1)).any() for each in shares):
        fault = "an accuracy or an agreement of two models is 0 or 1, which has no probit"
    elif not np.isfinite(r_squared[0]) or r_squared[0] < FITS:
        fault = f"the line does not fit: R² is {max(float(np.nan_to_num(r_squared[0])), 0):.2f}, {FITS} is needed"
    elif slope[0] <= 0:
        fault = f"the line falls: its slope is {slope[0]:.2f}"
    return Line(
        float(np.nan_to_num(slope[0])),
        float(np.nan_to_num(intercept[0])),
        float(np.nan_to_num(r_squared[0])),
        len(pairs),
        by_s,
        by_d,
        fault,
    )


def _interval(value: float, resampled_values: Array) -> Interval:
    low, high = percentiles(resampled_values)
    return Interval(value, min(low, value), max(high, value))


def _means(sets: Sequence[Array], seed: tuple[int, ...], resamples: int) -> list[Array]:
    """Means over resampled images, (resample, column), of arrays (image, column) of the same images."""
    blocks = [[counts @ each / len(each) for each in sets] for counts in resampled(len(sets[0]), seed, resamples)]
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _solve(
    pairs: list[tuple[int, int]], accuracy: Array, agree_in: Array, agree_out: Array
) -> tuple[Array, Array, Array, Array]:
    """Slope, intercept, R² (resample,) and the first model's accuracy by ALine-S and -D (resample, 2).

    accuracy: (resample, model); agree_in, agree_out: (resample, pair).
    """
    acc, x, y = probit(accuracy), probit(agree_in), probit(agree_out)
    dx, dy = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    xx, xy, yy = (dx**2).sum(axis=1), (dx * dy).sum(axis=1), (dy**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(xx > 0, xy / xx, 0.0)
        r_squared = xy**2 / (xx * yy)
    intercept = y.mean(axis=1) - slope * x.mean(axis=1)
    matrix = np.zeros((len(pairs), acc.shape[1]))
    for row, pair in enumerate(pairs):
        matrix[row, list(pair)] = 0.5
    sides = y + slope[:, None] * (acc @ matrix.T - x)
    by_d = sides @ np.linalg.pinv(matrix).T[:, :1]
    by_s = slope * acc[:, 0] + intercept
    return slope, intercept, r_squared, np.asarray(_normal(np.stack([by_s, by_d[:, 0]], axis=1)), dtype=np.float64)
