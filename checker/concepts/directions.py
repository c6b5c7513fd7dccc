"""The directions of a representation that concepts are looked for along; pure.

h·v is looked at for v and for −v: the sign of a singular vector means nothing, so both signs are one direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Floats

Of = Literal["head", "features", "axes"]
OF: tuple[Of, ...] = ("head", "features", "axes")
BLOCK = 64  # directions whose scores are in memory at once
ROWS = 4096  # images that are projected at once


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of the space of representations."""

    of: Of
    vectors: Array | None
    """(feature, direction) float64, of length 1; None: the features themselves"""
    strengths: Array | None
    """(direction,) singular values of a head, or SDs along principal axes, falling; None of features"""
    n: int

    def blocks(self, h: Floats) -> Iterator[tuple[int, Array]]:
        """The scores h·v, some directions at a time: number of the first, (direction, image) float64."""
        for start in range(0, self.n, BLOCK):
            if self.vectors is None:
                yield start, h[:, start : start + BLOCK].T.astype(np.float64)
                continue
            some = self.vectors[:, start : start + BLOCK]
            parts = [h[row : row + ROWS].astype(np.float64) @ some for row in range(0, len(h), ROWS)]
            yield start, np.ascontiguousarray(np.concatenate(parts).T)


def of_head(weight: Array) -> Directions:
    """Right singular vectors of a head's (class, feature) weight as it is, those with a singular value above rounding.

    The paper's directions (Crabbé et al., TMLR 2024, section on concepts). Neither the bias nor a mean over classes is
    taken out.
    """
    _, values, rows = np.linalg.svd(weight, full_matrices=False)
    kept = values > values[0] * max(weight.shape) * np.finfo(np.float32).eps
    return Directions("head", rows[kept].T, values[kept], int(kept.sum()))


def of_features(n_features: int) -> Directions:
    """The features of the representation, one by one."""
    return Directions("features", None, None, n_features)


def of_axes(h: Floats) -> Directions:
    """Principal axes of (image, feature) representations, those with a variance above rounding.

    They come from the images without their labels, so shuffled labels tell what chance gives along them, too.
    """
    centred = h.astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    variances, vectors = variances[::-1], vectors[:, ::-1]
    kept = variances > variances[0] * max(h.shape) * np.finfo(np.float32).eps ** 2
    kept[len(h) - 1 :] = False  # n images about their mean span n − 1 directions
    return Directions("axes", np.ascontiguousarray(vectors[:, kept]), np.sqrt(variances[kept]), int(kept.sum()))
