"""Decompose a linear head into directions, and predict with it, a piece of the images at a time. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from ...arrays import Array, Bools, Floats, Indices, float64
from ..head import LinearHead

BLOCK_CLASSES = 2048  # rows of W in one step of the decomposition
BLOCK_VALUES = 2**20  # values of a table that is worked on at once: 8 MiB, so that it stays in a cache


class Predictions(NamedTuple):
    """What the whole head makes of some images."""

    first: Indices
    """(image,) class of the largest score; a tie goes to the smaller index"""
    second: Indices
    """(image,) class of the largest score of the others"""
    margins: Array
    """(image,) the first score less the second"""
    copies: Indices
    """(class,) the first of each class's copies, which have the same weights and bias: only rounding decides there"""

    def agrees(self, classes: Indices) -> Bools:
        """Return whether a class, or a copy of it, is the predicted one, (image,)."""
        predicted = self.copies[self.first]
        return np.asarray(self.copies[classes] == predicted)

    @property
    def confident(self) -> Indices:
        """Return the half of the images with the largest margins, the middle one included."""
        falling = np.argsort(-self.margins, kind="stable")
        return falling[: math.ceil(len(falling) / 2)]


def predict(head: LinearHead, h: Floats) -> Predictions:
    """Predict with the whole head. h: (image, feature)."""
    parts = []
    for images in pieces(len(h), len(head.bias)):
        scores = head.scores(h[images])
        rows = np.arange(len(scores))
        first = scores.argmax(axis=1)
        best = scores[rows, first]
        scores[rows, first] = -np.inf
        second = scores.argmax(axis=1)
        margins = best - scores[rows, second]
        parts.append((first, second, margins))
    firsts: dict[bytes, int] = {}
    copies = []
    for i, (row, bias) in enumerate(zip(head.weight, head.bias, strict=True)):
        digest = blake2b(row.tobytes() + bias.tobytes()).digest()
        copies.append(firsts.setdefault(digest, i))
    first, second, margins = map(np.concatenate, zip(*parts, strict=True))
    return Predictions(first, second, margins, np.array(copies))


class HeadDirections(NamedTuple):
    """The right singular vectors of a head: those of W, or of W less its mean over classes."""

    mean: Array
    """(feature,) what was taken from each class's weights: zeros, or their mean over classes"""
    sigma: Array
    """(direction,) singular values, falling"""
    v: Array
    """(feature, direction) unit vectors; their signs mean nothing"""

    def project(self, h: Floats) -> Array:
        """Return h V, (image, direction) of (image, feature)."""
        parts = [float64(h[images]) @ self.v for images in pieces(len(h), len(self.v))]
        return np.concatenate(parts)


def decompose(weight: Array) -> tuple[HeadDirections, HeadDirections]:
    """Return the singular vectors and values of W, and of W less its mean over classes.

    Softmax and the predicted class can't see that mean. One QR decomposition of [1 W] gives both: the rows of R
    below the first are R of the centred W, and all of them R of W itself. R is computed piece by piece, from R of the
    pieces so far on top of the next piece, which is exact and copies nothing of W's size.

    Args:
        weight: (class, feature), finite, at least two classes.

    Returns:
        Raw, then centred: min(classes, features) and min(classes − 1, features) directions.
    """
    n_classes, d = weight.shape
    r = np.empty((0, d + 1))
    for start in range(0, n_classes, BLOCK_CLASSES):
        piece = weight[start : start + BLOCK_CLASSES]
        with_ones = np.c_[np.ones(len(piece)), piece]
        stacked = np.concatenate([r, with_ones])
        r = np.asarray(np.linalg.qr(stacked, mode="r"))
    raw = _directions(r[:, 1:], np.zeros(d))
    centred = _directions(r[1:, 1:], weight.mean(axis=0))
    return raw, centred


def _directions(r: Array, mean: Array) -> HeadDirections:
    _, sigma, vt = np.linalg.svd(r, full_matrices=False)
    return HeadDirections(mean, sigma, np.ascontiguousarray(vt.T))


def pieces(n_images: int, n_columns: int) -> Iterator[slice]:
    """Yield the images in pieces of at least one image, and at most `BLOCK_VALUES` values of a table.

    n_columns: values of the table for each image.
    """
    step = max(1, BLOCK_VALUES // n_columns)
    for start in range(0, n_images, step):
        yield slice(start, min(start + step, n_images))
