"""Effective robustness: accuracy under a distribution shift beyond what ImageNet accuracy leads one to expect (pure).

Taori et al. 2020, "Measuring Robustness to Natural Distribution Shifts in Image Classification": on logit axes the
accuracies of models trained on ImageNet alone lie close to a line; what a model has above that line is its effective
robustness. The published accuracies that the lines are fitted on are in `published.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .frozen import Frozen

Values = NDArray[np.float64]

PERCENTAGE_POINTS = 100.0  # in an accuracy of 1
MIN_MODELS = 3  # a line through two points has no residual
LOWEST_ACCURACY = 0.55  # ImageNet top-1; Taori et al. leave out models below, and few of the fitted ones lie there


class Baseline(Frozen):
    """The line logit(shift accuracy) = a · logit(ImageNet accuracy) + b over models without effective robustness."""

    a: float
    b: float
    n: int
    """models"""
    r2: float
    """squared correlation on logit axes"""
    residual_sd_pp: float
    """standard deviation of accuracy minus baseline about its mean (divided by n), percentage points"""
    low: float
    """lowest ImageNet accuracy it was fitted on"""
    high: float
    """highest ImageNet accuracy it was fitted on"""


class EffectiveRobustness(NamedTuple):
    """Effective robustness of one or many models for one shift."""

    points: Values
    """accuracy minus baseline, percentage points"""
    extrapolated: NDArray[np.bool_]
    """True: the ImageNet accuracy is outside what the baseline was fitted on, or below LOWEST_ACCURACY"""


def logit(accuracy: ArrayLike) -> Values:
    """log(p / (1 − p)) of accuracies as fractions.

    Equal to scipy.special.logit.
    accuracy: any shape, each in (0, 1). Returns float64 of the same shape.
    Raises ValueError naming the first accuracy that is not between 0 and 1: 0 and 1 have no logit.

    >>> float(logit(0.5))
    0.0
    """
    p = _inside("accuracy", accuracy)
    return np.log(p) - np.log1p(-p)


def sigmoid(x: ArrayLike) -> Values:
    """1 / (1 + exp(−x)), the inverse of logit.

    Equal to scipy.special.expit. x: any shape, finite. Returns float64 in [0, 1]; large x gives exactly 0 or 1.

    >>> float(sigmoid(0))
    0.5
    """
    values = np.asarray(x, dtype=np.float64)
    small = np.exp(-np.abs(values))  # never overflows
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def fit_baseline(acc_in: ArrayLike, acc_shift: ArrayLike) -> Baseline:
    """Least squares on logit axes over the accuracies of models that have no effective robustness.

    logit(acc_shift) = a · logit(acc_in) + b (Taori et al. 2020); equal to scipy.stats.linregress on logits.
    acc_in, acc_shift: (model,), fractions in (0, 1): accuracy on ImageNet and on the shift.
    Raises ValueError: lengths differ, fewer than MIN_MODELS models, an accuracy that is not between 0 and 1, or all
    models with the same ImageNet accuracy.
    """
    x, y = _inside("ImageNet accuracy", acc_in), _inside("accuracy on the shift", acc_shift)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"accuracies have shapes {x.shape} and {y.shape}; two lists of one length are needed")
    if x.size < MIN_MODELS:
        raise ValueError(f"baseline has {x.size} models; a line with a residual needs {MIN_MODELS} or more")
    if np.all(x == x[0]):
        raise ValueError(f"ImageNet accuracy is {x[0]:g} for all {x.size} models; a line needs different ones")
    u, v = logit(x), logit(y)
    du, dv = u - u.mean(), v - v.mean()
    a = float(du @ dv / (du @ du))
    b = float(v.mean() - a * u.mean())
    spread = float(dv @ dv)
    # models that all have one accuracy on the shift lie on a flat line exactly; there is no correlation to speak of
    r2 = float((du @ dv) ** 2 / (du @ du * spread)) if spread > 0 else 0.0
    residual = PERCENTAGE_POINTS * (y - sigmoid(a * u + b))
    return Baseline(
        a=a,
        b=b,
        n=int(x.size),
        r2=r2,
        residual_sd_pp=float(residual.std()),
        low=float(x.min()),
        high=float(x.max()),
    )


def expected_accuracy(acc_in: ArrayLike, baseline: Baseline) -> Values:
    """Accuracy on the shift that the baseline leads one to expect: sigmoid(a · logit(acc_in) + b).

    acc_in: any shape, fractions in (0, 1). Returns the same shape, fractions.
    Raises ValueError naming an accuracy that is not between 0 and 1.
    """
    return sigmoid(baseline.a * logit(acc_in) + baseline.b)


def effective_robustness(acc_in: ArrayLike, acc_shift: ArrayLike, baseline: Baseline) -> EffectiveRobustness:
    """Accuracy on the shift minus the baseline's, in percentage points; 0 = as models trained on ImageNet alone.

    100 · (acc_shift − sigmoid(a · logit(acc_in) + b)) (Taori et al. 2020).
    acc_in: (model,) or one number, fractions in (0, 1). acc_shift: of the same shape, fractions in [0, 1]: a shift on
    which a model gets everything wrong, or right, still has a value. Returns both fields in that shape.
    Raises ValueError naming an accuracy outside its range, or for shapes that differ.
    """
    x = _inside("ImageNet accuracy", acc_in)
    y = np.asarray(acc_shift, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"accuracies have shapes {x.shape} and {y.shape}; they must be the same")
    outside = ~((y >= 0) & (y <= 1))
    if outside.any():
        raise ValueError(f"accuracy on the shift is {y[outside].flat[0]:g}; it must be a fraction from 0 to 1")
    points = PERCENTAGE_POINTS * (y - expected_accuracy(x, baseline))
    return EffectiveRobustness(points, (x < max(baseline.low, LOWEST_ACCURACY)) | (x > baseline.high))


def _inside(what: str, accuracy: ArrayLike) -> Values:
    p = np.asarray(accuracy, dtype=np.float64)
    outside = ~((p > 0) & (p < 1))  # NaN too
    if outside.any():
        raise ValueError(f"{what} is {p[outside].flat[0]:g}; it must be a fraction between 0 and 1")
    return p
