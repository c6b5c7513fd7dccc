"""Compare vectors of the same images, and find their neighbours. Pure.

The index comes in blocks, so memory stays bounded.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import AnyArray, Array, Bools, Counts, Floats
from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.statistics.definitions import CONFIDENCE, unit_rows

Metric = Literal["cosine", "dot", "euclidean"]
KS: Final = (1, 5, 10)  # neighbours that are counted
SEEN: Final = 2 * KS[-1] + 1  # nearest vectors that are looked at: so many that ties at the last one are seen
TIED: Final = 1e-6  # difference of two cosines that float32 rows and a baseline's seven decimals can make
CONSTANT_LENGTH = 1e-3  # SD of the lengths relative to their mean: float16 vectors of length 1 have 2e-4
UNEXPLAINED = 0.1  # share of 1 − cosine that may be left: a rotation of few images always leaves less than before
WIDEST_PERMUTED = 4096  # features: all pairs of them are compared, in 128 MiB
Change = Literal["none", "normalised", "not normalised", "permuted", "rotated"]
Block = tuple[Floats, Floats, Sequence[str]]
"""vectors (vector, feature), their `lengths`, and their ids or none"""


def lengths(x: Floats) -> Floats:
    """Return the Euclidean length of each vector of (image, feature)."""
    squares = np.einsum("ij,ij->i", x, x)
    if x.dtype == np.float32 and not ((squares > 1e-30) & (squares < 1e30)).all():
        return lengths(x.astype(np.float64))  # whose squares neither vanish nor overflow
    return np.asarray(np.sqrt(squares))


def cosine(x: Array, y: Array) -> Array:
    """Return the cosine of each pair of vectors (image, feature)."""
    return np.asarray(np.einsum("ij,ij->i", unit_rows(x), unit_rows(y)))


def quantile(values: Array, p: float, confidence: float = CONFIDENCE) -> Interval:
    """Return a quantile with bounds from order statistics. They hold for every distribution.

    Equal to scipy.stats.quantile_test(values, p=p).confidence_interval(confidence). The estimate is
    numpy.quantile(values, p, method="inverted_cdf"), which is one of the values.

    Args:
        values: (image,), at most 1,024.
        p: between 0 and 1.
        confidence: two-sided.

    Returns:
        None for a bound that the values are too few for: the lower bound of the 5 % quantile needs 72, that of the 1 %
        quantile 368.
    """
    x, n = np.sort(values), len(values)
    below = np.cumsum([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n)])  # P(at most k)
    low = int(np.searchsorted(below, (1 - confidence) / 2, "right"))
    high = int(np.searchsorted(below, (1 + confidence) / 2))
    return Interval(
        estimate=float(np.quantile(x, p, method="inverted_cdf")),
        low=float(x[low - 1]) if low else None,
        high=float(x[high]) if high < n else None,
    )


def explain(x: Array, y: Array, least: float) -> tuple[Change, float]:
    """Find the simple change that explains how the candidate's vectors differ.

    normalised: the candidate's vectors have one length and the reference's have not; not normalised: the other way
    around. permuted: each feature of the reference is the candidate's nearest one. rotated: `procrustes` explains it.

    Args:
        x, y: (image, feature) of candidate and reference, as wide.
        least: 5 % quantile of the cosines from which vectors are the same up to the change.

    Returns:
        The change, and the 5 % quantile of the cosines after it is undone.
    """
    constant = [bool(size.std() < CONSTANT_LENGTH * size.mean()) for size in (lengths(x), lengths(y))]
    a, b = unit_rows(x), unit_rows(y)
    after = float(np.quantile(cosine(a, b), 0.05))
    if after >= least:
        return "none" if constant[0] == constant[1] else "normalised" if constant[0] else "not normalised", after
    changes: tuple[Change, Change] = ("permuted", "rotated")
    for change, undone in zip(changes, (_permuted, procrustes), strict=True):
        left = float(np.quantile(cosine(undone(a, b), b), 0.05))
        if left >= least and 1 - left <= UNEXPLAINED * (1 - after):
            return change, left
    return "none", after


def _permuted(x: Array, y: Array) -> Array:
    """Return, for each feature of y, the nearest one of x.

    x itself if they are more than `WIDEST_PERMUTED`, or if that is not a permutation: of equal features any is taken.
    """
    if x.shape[1] > WIDEST_PERMUTED:
        return x
    squares = [np.einsum("ij,ij->j", v, v) for v in (x, y)]
    found = np.asarray(x[:, (squares[0][:, None] + squares[1] - 2 * (x.T @ y)).argmin(axis=0)])
    features = [Counter(feature.tobytes() for feature in (each + 0.0).T) for each in (x, found)]  # −0 becomes 0
    return found if features[0] == features[1] else x


def procrustes(x: Array, y: Array) -> Array:
    """Rotate x onto y as well as any orthogonal map can. Return x R, (image, feature).

    The R with RᵀR = 1 that minimises ‖x R − y‖ (Schönemann 1966), equal to scipy.linalg.orthogonal_procrustes(x, y).
    With fewer images than features R is not unique; x R is. Of other widths R is the part of an orthogonal map.
    """
    (_, rx), (qy, ry) = np.linalg.qr(x.T), np.linalg.qr(y.T)
    u, _, vt = np.linalg.svd(rx @ ry.T, full_matrices=False)
    return np.asarray(rx.T @ u @ vt @ qy.T)


def margins(candidate: Array, reference: Array, text: Array) -> tuple[Array, Array]:
    """Return the margin of each image's most similar class, by both models.

    Args:
        candidate, reference: (image, feature) vectors of the same images.
        text: (class, feature) embeddings of two or more classes.

    Returns:
        Of candidate and reference: cosine of the reference's most similar class minus that of the best other class.
        The candidate's is above 0 where the class stays; a tie is not.
    """
    ours, theirs = (unit_rows(each) @ unit_rows(text).T for each in (candidate, reference))
    top = np.arange(len(text)) == theirs.argmax(axis=1)[:, None]
    found, was = (each[top] - np.where(top, -np.inf, each).max(axis=1) for each in (ours, theirs))
    return found, was


class Ranked(NamedTuple):
    """The `SEEN` nearest vectors of each query."""

    scores: Floats
    """(query, place) similarity, largest first; −∞ where there is no vector"""
    numbers: Counts
    """(query, place) of the vectors; of equal ones the earlier first"""


class Found(NamedTuple):
    """What queries find in an index."""

    ranked: list[Ranked]
    """of each array of queries"""
    n_vectors: int
    own: list[float]
    """cosine of each image's vector in the index, known by its id, to the last query of the image"""


def search(queries: Sequence[Array], blocks: Iterable[Block], metric: Metric, names: Sequence[str]) -> Found:
    """Find the nearest vectors of queries. In float32, one matrix product per block.

    Args:
        queries: arrays (image, feature) of the same images.
        blocks: the index.
        metric: what orders neighbours. cosine: q·v / ‖v‖. dot: q·v. euclidean: q·v − ‖v‖² / 2, which falls as the
            distance grows. Each is divided by ‖q‖, which changes no order.
        names: of the images. A vector whose id is an image's name is not a neighbour of that image.
    """
    stacked = np.concatenate(queries)
    units, doubled = unit_rows(stacked).astype(np.float32).T, 2 * lengths(stacked)
    best = Ranked(np.full((len(stacked), SEEN), -np.inf, np.float32), np.full((len(stacked), SEEN), -1))
    n_vectors, own = 0, list[float]()
    images = {name: image for image, name in enumerate(names)}
    for vectors, sizes, ids in blocks:
        scores, length = np.asarray(vectors, np.float32) @ units, sizes[:, None]
        for row, name in enumerate(ids):
            if (image := images.get(name)) is not None:
                same_image = slice(image, None, len(queries[0]))
                own.append(float(scores[row, same_image][-1] / sizes[row]))
                scores[row, same_image] = -np.inf
        if metric == "cosine":
            scores /= length
        elif metric == "euclidean":
            scores -= length * (length / doubled)
        _add(best, scores, n_vectors)
        n_vectors += len(vectors)
    parts = [np.split(each, len(queries)) for each in best]
    return Found([Ranked(*each) for each in zip(*parts, strict=True)], n_vectors, own)


def _add(best: Ranked, scores: Floats, start: int) -> None:
    """Add the similarities (vector, query) of another block, in place. start: number of its first vector."""
    limit, n_queries = best.scores[:, -1], scores.shape[1]
    if len(scores) > SEEN and np.isneginf(limit).any():
        limit = np.nextafter(np.partition(scores, -SEEN, axis=0)[-SEEN], -np.inf)
    hits = np.flatnonzero(scores > limit)
    queries, query = np.unique(hits % n_queries, return_inverse=True)
    places = np.arange(len(queries))
    query = np.concatenate([np.repeat(places, SEEN), query])
    score = np.concatenate([best.scores[queries].ravel(), scores.ravel()[hits]])
    number = np.concatenate([best.numbers[queries].ravel(), start + hits // n_queries])
    order = np.lexsort((number, -score, query))
    nearest = order[np.searchsorted(query[order], places)[:, None] + np.arange(SEEN)]
    best.scores[queries], best.numbers[queries] = score[nearest], number[nearest]


def shares_kept(ours: Ranked, theirs: Ranked, k: int, metric: Metric) -> tuple[Array, Array]:
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
        return sure, (scores >= scores[:, k - 1, None] - tolerance) & np.isfinite(scores) & ~sure

    def both(a: AnyArray, b: AnyArray) -> Counts:
        return np.asarray((equal & a[:, :, None] & b[:, None, :]).sum(axis=(1, 2)))

    (x_sure, x_tied), (y_sure, y_tied) = first(ours.scores), first(theirs.scores)
    n, m = x_tied.sum(axis=1), y_tied.sum(axis=1)
    x_places, y_places = np.minimum(k - x_sure.sum(axis=1), n), np.minimum(k - y_sure.sum(axis=1), m)
    many = np.maximum(n, m) > KS[-1]
    same = (n == m) & (both(x_tied, y_tied) == n) & ~many
    least = both(x_sure, y_sure) + np.where(same, np.minimum(x_places, y_places), 0)
    least += np.maximum(0, x_places - n + both(x_tied, y_sure)) + np.maximum(0, y_places - m + both(x_sure, y_tied))
    most = np.where(many, k, np.minimum(k, both(x_sure | x_tied, y_sure | y_tied)))
    return least / k, most / k
