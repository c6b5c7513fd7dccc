"""Ridge regressions from one encoder's representations to vectors of another one.

With pairs at random an aligner learns nothing about images but the mean of the targets; the more it is regularised, the
less else its vectors hold. They are clear of the thresholds of all statistics (studies/results/students.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Aligned(NamedTuple):
    """What `align` gives."""

    h: Array
    """(image, feature) aligned representations, as wide as the targets"""
    r2: float
    """explained share of the targets' variance, in the sample"""


def align(
    source: npt.ArrayLike, targets: npt.ArrayLike, regularisation: float, rng: np.random.Generator | None = None
) -> Aligned:
    """Fit source → targets by ridge regression about the means, and apply it to the source.

    W minimises |Y − X W|² + λ |W|² over the centred X, Y, λ = regularisation · n · (mean variance of a source feature),
    so that 1 weighs the penalty like the data; the aligned representations are X W + the targets' mean.

    Args:
        source: (image, source feature); finite, not all the same.
        targets: (image', feature); finite. Only the first rows count where one of the two has more.
        regularisation: above 0; 1e-6 is next to none.
        rng: shuffles the targets against the source, so that the pairs are random; None = row beside row.
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    n = min(len(x), len(y))
    if rng is not None:
        y = y[rng.permutation(len(y))]
    x, y = x[:n], y[:n]
    mean = y.mean(axis=0)
    x, y = x - x.mean(axis=0), y - mean
    gram = x @ x.T  # (image, image): images are fewer than features squared
    penalty = regularisation * n * float(np.mean(x**2))
    fitted = gram @ np.linalg.solve(gram + penalty * np.eye(n), y)
    return Aligned(fitted + mean, 1.0 - float(np.sum((y - fitted) ** 2) / np.sum(y**2)))
