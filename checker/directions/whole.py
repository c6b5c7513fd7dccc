"""What the whole head predicts: the two classes with the largest scores, and the margin between them; pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Bools, Floats, Indices
from robustcheck_onnx.checker.runtime import LinearHead

from .decompose import in_pieces


@dataclass(frozen=True)
class Whole:
    """What the whole head makes of some images."""

    first: Indices
    """(image,) class of the largest score; a tie goes to the smaller index"""
    second: Indices
    """(image,) class of the largest score of the others"""
    margins: Array
    """(image,) the first score less the second"""
    copies: Indices
    """(class,) `without_copies`"""

    def agrees(self, found: Indices) -> Bools:
        """(image,) whether a class is the predicted one, or one with the same weights and bias."""
        return np.asarray(self.copies[found] == self.copies[self.first])

    @property
    def confident(self) -> Indices:
        """The half of the images with the largest margins, the middle one included."""
        return np.argsort(-self.margins, kind="stable")[: -(-len(self.margins) // 2)]


def without_copies(head: LinearHead) -> Indices:
    """(class,) the first class with the same weights and bias: which of them has the larger score is rounding."""
    firsts: dict[bytes, int] = {}
    rows = enumerate(zip(head.weight, head.bias, strict=True))
    return np.array([firsts.setdefault(blake2b(row.tobytes() + bias.tobytes()).digest(), i) for i, (row, bias) in rows])


def predicted(head: LinearHead, h: Floats) -> Indices:
    """(image,) class of the largest score; h: (image, feature)."""
    first = np.empty(len(h), np.intp)

    def piece(images: slice) -> None:
        first[images] = head.scores(h[images]).argmax(axis=1)

    in_pieces(len(h), len(head.bias), piece)
    return first


def whole_head(head: LinearHead, h: Floats) -> Whole:
    """Predict with the whole head.

    h: (image, feature).
    """
    n = len(h)
    first, second, margins = np.empty(n, np.intp), np.empty(n, np.intp), np.empty(n)

    def piece(images: slice) -> None:
        scores = head.scores(h[images])
        rows = np.arange(len(scores))
        first[images] = scores.argmax(axis=1)
        best = scores[rows, first[images]]
        scores[rows, first[images]] = -np.inf
        second[images] = scores.argmax(axis=1)
        margins[images] = best - scores[rows, second[images]]

    in_pieces(n, len(head.bias), piece)
    return Whole(first, second, margins, without_copies(head))
