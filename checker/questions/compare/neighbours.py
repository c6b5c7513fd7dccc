"""Search nearest vectors, and count the neighbours that stay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...arrays import AnyArray, Array, Bools, Counts, Floats, float64
from ...core.statistics.definitions import unit_rows
from ...core.statistics.intervals import CONFIDENCE
from .index_report import Metric, Number
from .similarity import TIED, lengths
from .vectors import SAMPLE, Block

KS = (1, 5, 10)  # neighbours that are counted
SEEN = 2 * KS[-1] + 1  # nearest vectors that are looked at: so many that ties at the last one are seen


def quantile(values: Array, p: float, needs: float | None = None) -> Number:
    """Return a quantile with bounds from order statistics, which hold for every distribution.

    Equal to scipy.stats.quantile_test(values, p=p).confidence_interval(0.95). The estimate is
    numpy.quantile(values, p, method="inverted_cdf"), which is one of the values.

    Args:
        values: (image,), at most 1,024.
        p: between 0 and 1.
        needs: the lower bound that `compatible` needs.

    Returns:
        None for a bound that the values are too few for: the lower bound of the 5 % quantile needs 72, that of the 1 %
        quantile 368.
    """
    x = np.sort(values)
    n = len(values)
    below = np.cumsum([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n)])  # P(at most k)
    low = int(np.searchsorted(below, (1 - CONFIDENCE) / 2, "right"))
    high = int(np.searchsorted(below, (1 + CONFIDENCE) / 2))
    estimate = float(np.quantile(x, p, method="inverted_cdf"))
    lower = float(x[low - 1]) if low else None
    upper = float(x[high]) if high < n else None
    return Number(estimate=estimate, low=lower, high=upper, needs=needs)


class Ranked(NamedTuple):
    """The `SEEN` nearest vectors of each query."""

    scores: Floats
    """(query, place) similarity, largest first; −∞ where there is no vector"""
    numbers: Counts
    """(query, place) of the vectors; of equal ones the earlier first"""


class Neighbours(NamedTuple):
    """What queries find in an index."""

    ranked: list[Ranked]
    """of each array of queries"""
    n_vectors: int
    own: dict[int, Floats]
    """each image's vector in the index, known by its id"""
    nearest: Array
    """(image,) largest cosine of any vector in the index to the last query of the image"""
    nearest_lengths: Floats
    """(image,) of these vectors"""
    sample: Floats
    """(vector, feature) the first `SAMPLE` of the index"""


def search(queries: Sequence[Array], blocks: Iterable[Block], metric: Metric, own: Mapping[int, int]) -> Neighbours:
    """Find the nearest vectors of queries, in float32, with one matrix product per block.

    Args:
        queries: arrays (image, feature) of the same images.
        blocks: the index.
        metric: what orders neighbours. cosine: q·v / ‖v‖. dot: q·v. euclidean: q·v − ‖v‖² / 2, which falls as the
            distance grows. Each is divided by ‖q‖, which changes no order.
        own: image by the number of its vector, which is not a neighbour of that image.
    """
    stacked = np.concatenate(queries)
    units = unit_rows(stacked).astype(np.float32).T
    doubled = 2 * lengths(stacked)
    places = (len(stacked), SEEN)
    best = Ranked(np.full(places, -np.inf, np.float32), np.full(places, -1))
    n_images, width = queries[0].shape
    nearest = np.full(n_images, -1.0)
    nearest_lengths = np.ones(n_images)
    sample = [np.zeros((0, width), np.float32)]
    n_vectors = 0
    vectors_of = {}
    for vectors, sizes in blocks:
        scores = np.asarray(vectors, np.float32) @ units
        length = sizes[:, None]
        cosines = scores[:, -n_images:] / length
        nearest_rows = cosines.argmax(axis=0)
        cosine_there = cosines[nearest_rows, np.arange(n_images)]
        nearest_lengths = np.where(cosine_there > nearest, sizes[nearest_rows], nearest_lengths)
        nearest = np.maximum(nearest, cosine_there)
        room = max(0, SAMPLE - n_vectors)
        sample.append(np.array(vectors[:room]))
        for number, image in own.items():
            row = number - n_vectors
            if 0 <= row < len(vectors):
                vectors_of[image] = np.array(vectors[row])
                scores[row, image::n_images] = -np.inf
        if metric == "cosine":
            scores /= length
        elif metric == "euclidean":
            scores -= length * (length / doubled)
        _add(best, scores, n_vectors)
        n_vectors += len(vectors)
    parts = [np.split(values, len(queries)) for values in best]
    ranked = [Ranked(*part) for part in zip(*parts, strict=True)]
    return Neighbours(ranked, n_vectors, vectors_of, float64(nearest), nearest_lengths, np.concatenate(sample))


def _add(best: Ranked, scores: Floats, start: int) -> None:
    """Add the similarities (vector, query) of another block, in place. start: number of its first vector."""
    limit = best.scores[:, -1]
    n_queries = scores.shape[1]
    if len(scores) > SEEN and np.isneginf(limit).any():
        smallest = np.partition(scores, -SEEN, axis=0)[-SEEN]
        limit = np.nextafter(smallest, -np.inf)
    hits = np.flatnonzero(scores > limit)
    queries, query = np.unique(hits % n_queries, return_inverse=True)
    places = np.arange(len(queries))
    query = np.concatenate([np.repeat(places, SEEN), query])
    score = np.concatenate([best.scores[queries].ravel(), scores.ravel()[hits]])
    number = np.concatenate([best.numbers[queries].ravel(), start + hits // n_queries])
    order = np.lexsort((number, -score, query))
    firsts = np.searchsorted(query[order], places)
    nearest = order[firsts[:, None] + np.arange(SEEN)]
    best.scores[queries] = score[nearest]
    best.numbers[queries] = number[nearest]


def recall_bounds(ours: Ranked, theirs: Ranked, k: int, metric: Metric) -> tuple[Array, Array]:
    """Return the share of the k nearest vectors that both have, (image,). At least and at most, by the order of ties.

    Similarities that differ by rounding alone are ties. A group that is tied in both, of at most `KS[-1]` vectors,
    counts as kept: those are equal vectors in an index, and which of them is found does not matter. In a larger group
    nothing can be told apart.
    """
    equal = ours.numbers[:, :, None] == theirs.numbers[:, None, :]

    def first(scores: Floats) -> tuple[Bools, Bools]:
        """Return what is surely among the first k, and what may be."""
        tolerance = TIED * np.maximum(np.abs(scores[:, :1]), metric == "cosine")
        sure = scores > scores[:, k, None] + tolerance
        possible = scores >= scores[:, k - 1, None] - tolerance
        return sure, possible & np.isfinite(scores) & ~sure

    def both(a: AnyArray, b: AnyArray) -> Counts:
        return np.asarray((equal & a[:, :, None] & b[:, None, :]).sum(axis=(1, 2)))

    x_sure, x_tied = first(ours.scores)
    y_sure, y_tied = first(theirs.scores)
    n = x_tied.sum(axis=1)
    m = y_tied.sum(axis=1)
    x_places = np.minimum(k - x_sure.sum(axis=1), n)
    y_places = np.minimum(k - y_sure.sum(axis=1), m)
    many = np.maximum(n, m) > KS[-1]
    same = (n == m) & (both(x_tied, y_tied) == n) & ~many
    least = both(x_sure, y_sure)
    least += np.where(same, np.minimum(x_places, y_places), 0)
    least += np.maximum(0, x_places - n + both(x_tied, y_sure))
    least += np.maximum(0, y_places - m + both(x_sure, y_tied))
    possible = both(x_sure | x_tied, y_sure | y_tied)
    most = np.where(many, k, np.minimum(k, possible))
    return least / k, most / k
