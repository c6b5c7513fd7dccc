"""Find outlier features, and measure how the head uses them. Each direction's use is measured, too. Pure.

The head of k directions is W V_k V_kᵀ h + b; the bias stays whole. Each image is projected once, and the directions are
added in their order, so that a whole curve costs little more than one set of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array, Bools, Floats, Indices
from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.runtime import LinearHead
from robustcheck_onnx.checker.statistics import PERSISTENT_SHARE, definitions

from .decompose import Z, in_pieces

OUTLIER_SD = 6.0  # Bondarenko et al. 2023, "Quantizable Transformers"; Dettmers et al. 2022, LLM.int8
LISTED = 8  # outlier features that are named, those with the largest share of the kurtosis first


@dataclass(frozen=True)
class OutlierFeatures:
    """The features that are set to something else."""

    indices: Indices
    """persistent outlier features, the largest share of the activation kurtosis first; the one feature with the
    largest share where none is persistent"""
    persistent: bool
    frequencies: Array
    """(feature of `indices`,) share of the images in which |z| > 6"""
    shares: Array
    """(feature of `indices`,) share of the activation kurtosis"""


def outlier_features(h: Floats) -> OutlierFeatures:
    """Return the persistent outlier features. They have |z| > 6 in at least half of the images.

    h: (image, feature), finite and not constant (`definitions.usable_rows`).
    """
    z = definitions.standardise(h)
    frequency = (np.abs(z) > OUTLIER_SD).mean(axis=0)
    share = definitions.shares_of_kurtosis((z**4).sum(axis=0))
    by_share = np.argsort(-share, kind="stable")
    persistent = by_share[frequency[by_share] >= PERSISTENT_SHARE]
    chosen = persistent if len(persistent) else by_share[:1]
    return OutlierFeatures(chosen, bool(len(persistent)), frequency[chosen], share[chosen])


def replaced(h: Array, features: Indices, values: npt.ArrayLike) -> Array:
    """Copy h with some features at one value. It is the same in every image.

    h: (image, feature); values: one for each of `features`, or one for all.
    """
    out = h.copy()
    out[:, features] = values
    return out


def margin_share(given: Array, margins: Array) -> Interval:
    """Return the features' share of the margins.

    It is the sum over images of what they give over the sum of the margins.

    The interval is normal over images (delta method of a ratio of means).

    Args:
        given: (image,) Σ_j (W_aj − W_bj)·(h_j − r_j), over the features j, with a and b the classes of the largest and
            the second score and r_j what h_j is replaced by.
        margins: (image,) the first score less the second.

    Returns:
        Nothing measured where all margins are 0. Below 0 where the features speak against the predictions; above 1
        where the rest of the representation does.
    """
    mean, n = float(margins.mean()), len(margins)
    if mean <= 0:
        return Interval(estimate=None, low=None, high=None)
    share = float(given.mean()) / mean
    half = Z * float((given - share * margins).std(ddof=1)) / mean / n**0.5
    return Interval(estimate=share, low=share - half, high=share + half)


PERCENT = (90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 2)
"""share of the directions that is kept at each point of a curve"""
KEEPS = (0.99, 0.95)
"""shares of the predictions for which the smallest number of directions is looked for"""
STEPS = 50  # numbers of directions that are tried for it, evenly spaced; all where there are fewer


def n_kept(percent: int, n_directions: int) -> int:
    """Return the number of directions for a percentage. It is rounded up, so at least 1.

    >>> n_kept(2, 768), n_kept(2, 10)
    (16, 1)
    """
    return math.ceil(percent * n_directions / 100)


def steps_of(n_directions: int) -> list[int]:
    """Return the numbers of directions to try. The search is for `KEEPS`; they fall, without all of them."""
    tried = {math.ceil(n_directions * step / STEPS) for step in range(1, STEPS + 1)}
    return sorted(tried - {n_directions}, reverse=True)


@dataclass(frozen=True)
class Pruned:
    """A head's scores with fewer directions. They are for one set of images."""

    columns: Array
    """(direction, class) (U Σ)ᵀ"""
    projected: Array
    """(image, direction) h V, h as the head takes it (of length 1 where it normalises)"""
    bias: Array
    """(class,)"""

    def scores(self, order: Indices, kept: Sequence[int], look: Callable[[int, slice, Array], None]) -> None:
        """Pass on the scores by number of directions. They come a piece of the images at a time.

        Args:
            order: (direction,) which direction is added first.
            kept: numbers of directions.
            look: called with the number kept, the piece of the images, and its (image, class) scores. They are
                overwritten afterwards.
        """
        levels = sorted(set(kept))
        columns = [self.columns[order[low:high]] for low, high in zip([0, *levels], levels, strict=False)]

        def piece(images: slice) -> None:
            total = np.tile(self.bias, (len(self.projected[images]), 1))
            low = 0
            for high, added in zip(levels, columns, strict=True):
                total += self.projected[images][:, order[low:high]] @ added
                look(high, images, total)
                low = high

        in_pieces(len(self.projected), len(self.bias), piece)


def predictions(pruned: Pruned, order: Indices, kept: Sequence[int]) -> dict[int, Indices]:
    """Return the predicted classes by directions kept. Each is (image,); of equal scores the first counts."""
    found = {k: np.empty(len(pruned.projected), dtype=np.intp) for k in kept}

    def look(k: int, images: slice, scores: Array) -> None:
        found[k][images] = scores.argmax(axis=1)

    pruned.scores(order, kept, look)
    return found


def fewest(same: Sequence[tuple[int, float]], n_directions: int, share: float) -> int:
    """Return the fewest directions that keep a share.

    From there on every larger number tried keeps that share of the predictions, too.

    Args:
        same: number kept and share of the same predictions, in any order.
        n_directions: all of them; they keep everything.
        share: 0 to 1.
    """
    best = n_directions
    for kept, value in sorted(same, reverse=True):
        if value < share:
            break
        best = kept
    return best


@dataclass(frozen=True)
class Predictions:
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
        """Return whether a class is the predicted one, (image,).

        One with the same weights and bias counts as the same.
        """
        return np.asarray(self.copies[found] == self.copies[self.first])

    @property
    def confident(self) -> Indices:
        """Return the half of the images with the largest margins. The middle one is included."""
        return np.argsort(-self.margins, kind="stable")[: -(-len(self.margins) // 2)]


def without_copies(head: LinearHead) -> Indices:
    """Return the first of each class's copies, (class,).

    Copies have the same weights and bias, so that only rounding decides between their scores.
    """
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


def predict_whole(head: LinearHead, h: Floats) -> Predictions:
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
    return Predictions(first, second, margins, without_copies(head))
