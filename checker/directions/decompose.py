"""Decompose a linear head into directions. How much each weighs on some images is computed, too.

Directions are the right singular vectors of the head's weight matrix W (class, feature): W = U Σ Vᵀ. Source: Crabbé,
Rodríguez, Shankar, Zappella, Blaas, "Interpreting CLIP: Insights on the Robustness to ImageNet Distribution Shifts",
TMLR 2024. Where singular values are equal, their directions are no more than one choice among many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Floats, Indices
from robustcheck_onnx.checker.evidence import Interval

CLASSES_AT_ONCE = 2048  # rows of W in one step of the decomposition
AT_ONCE = 2**20  # values of a table that is worked on at once: 8 MiB, so that it stays in a cache
Z = 1.959963984540054  # normal quantile of a two-sided 95 % interval
TOP = (1, 3, 10)  # numbers of directions whose share of the importance is reported


def pieces(n_images: int, n_columns: int) -> Iterator[slice]:
    """Yield the images piece by piece. A piece has at least one image, and at most `AT_ONCE` values of a table.

    n_columns: values of the table for each image.
    """
    step = max(1, AT_ONCE // n_columns)
    for start in range(0, n_images, step):
        yield slice(start, min(start + step, n_images))


@dataclass(frozen=True)
class Directions:
    """The right singular vectors of a head. They are those of W, or of W less its mean over classes."""

    mean: Array
    """(feature,) what was taken from each class's weights: zeros, or their mean over classes"""
    sigma: Array
    """(direction,) singular values, falling"""
    v: Array
    """(feature, direction) unit vectors; their signs mean nothing"""

    @property
    def n(self) -> int:
        """Number of directions."""
        return len(self.sigma)

    def columns(self, weight: Array) -> Array:
        """Return (U Σ)ᵀ, (direction, class). These are the weights of each class in the coordinates of the directions.

        weight: (class, feature) W as it was decomposed.
        """
        columns = self.v.T @ weight.T
        columns -= (self.v.T @ self.mean)[:, None]
        return np.asarray(columns, dtype=np.float64)

    def project(self, h: Floats) -> Array:
        """h V, (image, direction) of (image, feature)."""
        out = np.empty((len(h), self.n))
        for images in pieces(len(h), len(self.v)):
            out[images] = h[images].astype(np.float64) @ self.v
        return out


def decompose(weight: Array) -> tuple[Directions, Directions]:
    """Return the singular vectors and values of a head. They are those of W, and of W less its mean over classes.

    Softmax and the predicted class can't see that mean. One QR decomposition of [1 W] gives both: below its first row
    stands R of the centred W, and with the row R of W itself. It goes piece by piece, R of the pieces so far on top of
    the next one, which is exact and copies nothing of W's size.

    Args:
        weight: (class, feature), finite, at least two classes.

    Returns:
        Raw, then centred: min(classes, features) and min(classes − 1, features) directions.
    """
    n_classes, d = weight.shape
    r = np.empty((0, d + 1))
    for start in range(0, n_classes, CLASSES_AT_ONCE):
        piece = weight[start : start + CLASSES_AT_ONCE]
        r = np.asarray(np.linalg.qr(np.concatenate([r, np.c_[np.ones(len(piece)), piece]]), mode="r"))
    return _directions(r[:, 1:], np.zeros(d)), _directions(r[1:, 1:], weight.mean(axis=0))


def _directions(r: Array, mean: Array) -> Directions:
    _, sigma, vt = np.linalg.svd(r, full_matrices=False)
    return Directions(mean, sigma, np.ascontiguousarray(vt.T))


class Importance(NamedTuple):
    """The weight of each direction. It is σᵢ / Σσ × the mean over images of |cos(vᵢ, h)|."""

    values: Array
    """(direction,) in the order of the singular values"""
    se: Array
    """(direction,) standard errors over images"""
    cosines: Array
    """(direction,) mean over images of |cos(vᵢ, h)|"""
    order: Indices
    """(direction,) from the most to the least important; ties in the order of the singular values"""
    participation_ratio: Interval
    effective_rank: Interval
    top_shares: tuple[Interval, ...]
    """share of all importance that the first 1, 3 and 10 directions (`TOP`) have"""


def importance(directions: Directions, projected: Array, norms: Array) -> Importance:
    """Weigh the directions on some images.

    Intervals are normal ones over images: of a function of the mean importances by the delta method, its gradient times
    each image's importances standing for the image.

    Args:
        directions: of a head whose singular values are not all 0.
        projected: (image, direction) h V, of two images or more.
        norms: (image,) |h|, above 0.
    """
    scale = directions.sigma / directions.sigma.sum()
    absolute = np.abs(projected) / norms[:, None]
    cosines = absolute.mean(axis=0)
    values = scale * cosines
    order = np.argsort(-values, kind="stable")

    def estimate(value: float, gradient: Array, ceiling: float) -> Interval:
        """Return a value with its delta-method interval.

        `gradient` is that of the value, by each direction's importance.
        """
        half = float(Z * (absolute @ (scale * gradient)).std(ddof=1) / np.sqrt(len(projected)))
        return Interval(estimate=value, low=max(value - half, 0.0), high=min(value + half, ceiling))

    n, total = directions.n, values.sum()
    shares = values / total
    squares = float((values**2).sum())
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy = -float((shares * logs).sum())
    rank = float(np.exp(entropy))
    tops = []
    for k in TOP:
        held = np.zeros(n)
        held[order[:k]] = 1.0
        share = min(float(shares @ held), 1.0) if k < n else 1.0
        tops.append(estimate(share, (held - share) / total, 1.0))
    return Importance(
        values=values,
        se=scale * absolute.std(axis=0, ddof=1) / np.sqrt(len(projected)),
        cosines=cosines,
        order=order,
        participation_ratio=estimate(
            float(total**2 / squares), 2 * total / squares - 2 * total**2 * values / squares**2, n
        ),
        effective_rank=estimate(rank, np.where(shares > 0, -rank * (logs + entropy) / total, 0.0), n),
        top_shares=tuple(tops),
    )
