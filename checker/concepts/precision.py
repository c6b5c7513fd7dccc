"""Average precision of scores for "the concept is present", over many directions and label assignments at once; pure.

AP = Σ_n (R_n − R_{n−1})·P_n over the distinct scores in falling order, P_n and R_n precision and recall of all images
with at least that score: no interpolation, images of one score count together (scikit-learn's definition). It is the
mean over the positives of (positives with at least this score) / (images with at least this score).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array

Counts = npt.NDArray[np.int32]


class Ranked(NamedTuple):
    """Images ranked along some directions, from either end."""

    at_least: Counts
    """(direction, image): number of images whose score is at least this one's, itself included"""
    at_most: Counts
    """(direction, image): number of images whose score is at most this one's: the ranks along −v"""
    has_ties: bool


def rank(scores: Array) -> Ranked:
    """Rank (direction, image) finite scores."""
    n = scores.shape[1]
    order = np.argsort(scores, axis=1)
    rising = np.take_along_axis(scores, order, axis=1)
    differs = rising[:, 1:] != rising[:, :-1]
    edge = np.ones((len(scores), 1), bool)
    place = np.arange(n, dtype=np.int32)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), place, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([differs, edge]), place, n - 1)[:, ::-1], axis=1)[:, ::-1]
    at_least, at_most = np.empty_like(order, np.int32), np.empty_like(order, np.int32)
    np.put_along_axis(at_least, order, n - first, axis=1)
    np.put_along_axis(at_most, order, last + 1, axis=1)
    return Ranked(at_least, at_most, not differs.all())


def average_precisions(ranked: Ranked, positives: npt.NDArray[np.integer]) -> tuple[Array, Array]:
    """AP along each direction and against it.

    Args:
        ranked: n images along m directions.
        positives: (assignment, positive) indices of the images that have the concept, at least one each.

    Returns:
        (direction, assignment) each: AP of h·v, and of −h·v. 1 where all images are positives.
    """
    along = np.sort(np.take(ranked.at_least, positives, axis=1), axis=-1)
    if ranked.has_ties:
        against = np.sort(np.take(ranked.at_most, positives, axis=1), axis=-1)
        return _of_sorted(along), _of_sorted(against)
    n, found = ranked.at_least.shape[1], np.arange(1, positives.shape[-1] + 1)
    return (found / along).mean(-1), (found[::-1] / (n + 1 - along)).mean(-1)


def _of_sorted(counts: Counts) -> Array:
    """AP of positives by the number of images with at least their score, rising along the last axis."""
    n = counts.shape[-1]
    differs = counts[..., 1:] != counts[..., :-1]
    ends = np.concatenate([differs, np.ones((*counts.shape[:-1], 1), bool)], axis=-1)  # of a run of equal scores
    found = np.where(ends, np.arange(1, n + 1), n)
    found = np.minimum.accumulate(found[..., ::-1], axis=-1)[..., ::-1]
    means: Array = (found / counts).mean(-1)
    return means
