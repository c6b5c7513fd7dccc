"""Find the nearest vectors of queries in an index. The index comes in blocks, so memory stays bounded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Bools, Counts, Float32s, Floats
from robustcheck_onnx.checker.statistics import unit_rows

from .pairs import TIED
from .same_images import cosine, lengths

Metric = Literal["cosine", "dot", "euclidean"]
KS: Final = (1, 5, 10)  # neighbours that are counted
SEEN: Final = 2 * KS[-1] + 1  # nearest vectors that are looked at: so many that ties at the last one are seen


class Neighbours(NamedTuple):
    """What the candidate's queries find of the reference's neighbours."""

    n_vectors: int
    kept: dict[int, Array]
    """by k: share of each image's k nearest vectors that were surely kept, (image,)"""
    possible: dict[int, Array]
    """the same with every tie in the candidate's favour"""
    own: list[float]
    """cosine of each photo's vector in the index, known by its id, to the reference's vector of the photo"""


def search(
    candidate: Array,
    reference: Array,
    blocks: Iterable[tuple[Floats, Floats, Sequence[str]]],
    metric: Metric,
    names: Sequence[str],
) -> Neighbours:
    """Find the nearest vectors of both models' queries. In float32, a matrix product per block and model.

    A neighbour is kept if it is one of the first k of both. Similarities that differ by rounding alone are ties: see
    `_overlap`.

    Args:
        candidate, reference: (image, feature) queries, of the same images.
        blocks: vectors that the candidate's queries are asked in, those that the reference's are asked in, (vector,
            feature) with the same rows, and their ids, or none.
        metric: what orders neighbours. cosine: q·v / ‖v‖. dot: q·v. euclidean: q·v − ‖v‖² / 2, which falls as the
            distance grows.
        names: of the images. A vector whose id is an image's name is not a neighbour of that image.
    """
    queries = [(unit_rows(each) if metric == "cosine" else each).astype(np.float32) for each in (candidate, reference)]
    same = np.array_equal(queries[0], queries[1])
    nothing = np.full((len(candidate), SEEN), -np.inf), np.full((len(candidate), SEEN), -1)
    ours, theirs = nothing, nothing
    n_vectors, own = 0, list[float]()
    images = {name: image for image, name in enumerate(names)}
    for asked, truth, ids in blocks:
        if asked is truth and same:
            scores = [_similarity(queries[1], truth, metric)] * 2
        elif asked is truth:  # one product for both
            scores = np.split(_similarity(np.concatenate(queries), asked, metric), 2)
        else:
            scores = [_similarity(queries[0], asked, metric), _similarity(queries[1], truth, metric)]
        for column, name in enumerate(ids):
            if (image := images.get(name)) is not None:
                own += cosine(reference[[image]], np.asarray(truth[[column]], np.float64)).tolist()
                scores[0][image, column] = scores[1][image, column] = -np.inf
        ours, theirs = nearest(ours, scores[0], n_vectors), nearest(theirs, scores[1], n_vectors)
        n_vectors += len(truth)
    shares = {k: _overlap(ours, theirs, k, metric == "cosine") for k in KS if k <= n_vectors - bool(own)}
    kept, possible = ({k: both[place] for k, both in shares.items()} for place in (0, 1))
    return Neighbours(n_vectors, kept, possible, own)


def nearest(kept: tuple[Floats, Counts], new: Floats, start: int) -> tuple[Floats, Counts]:
    """Return the `SEEN` nearest vectors of each query after another block.

    Args:
        kept: (query, place) similarity, largest first, and number of the vector. −∞ where there is no vector.
        new: (query, vector) similarities of the block. −∞ leaves a vector out.
        start: number of the block's first vector.

    Returns:
        As `kept`. Of equal vectors the earlier one comes first, whatever the blocks are.
    """
    columns = np.flatnonzero((new > kept[0][:, -1:]).any(axis=0))
    scores = np.hstack((kept[0], new[:, columns]))
    numbers = np.hstack((kept[1], np.broadcast_to(columns + start, (len(new), len(columns)))))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :SEEN]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(numbers, best, axis=1)


def _overlap(ours: tuple[Floats, Counts], theirs: tuple[Floats, Counts], k: int, cosines: bool) -> tuple[Array, Array]:
    """Return the share of the k nearest vectors that both have, (image,). At least and at most, by the order of ties.

    A group that is tied in both, of at most `KS[-1]` vectors, counts as kept: those are equal vectors in an index, and
    which of them is found does not matter. In a larger group nothing can be told apart.
    """
    x, y = (_first(scores, k, cosines) for scores, _ in (ours, theirs))
    equal = ours[1][:, :, None] == theirs[1][:, None, :]

    def both(a: Bools, b: Bools) -> Counts:
        return np.asarray((equal & a[:, :, None] & b[:, None, :]).sum(axis=(1, 2)))

    n, m = x.tied.sum(axis=1), y.tied.sum(axis=1)
    many = np.maximum(n, m) > KS[-1]
    least = both(x.sure, y.sure)
    least += np.maximum(0, x.places - n + both(x.tied, y.sure)) + np.maximum(0, y.places - m + both(x.sure, y.tied))
    same = (n == m) & (both(x.tied, y.tied) == n) & ~many
    least += np.where(same, np.minimum(x.places, y.places), 0)
    most = np.where(many, k, np.minimum(k, both(x.sure | x.tied, y.sure | y.tied)))
    return least / k, most / k


class _First(NamedTuple):
    """Which of the nearest vectors are the first k."""

    sure: Bools
    tied: Bools
    """those of which some are among them"""
    places: Counts
    """how many"""


def _first(scores: Floats, k: int, cosines: bool) -> _First:
    tolerance = TIED * np.maximum(np.abs(scores[:, :1]), cosines)
    sure = scores > scores[:, k, None] + tolerance
    tied = (scores >= scores[:, k - 1, None] - tolerance) & np.isfinite(scores) & ~sure
    return _First(sure, tied, np.minimum(k - sure.sum(axis=1), tied.sum(axis=1)))


def _similarity(queries: Float32s, vectors: Floats, metric: Metric) -> Float32s:
    """Return the similarities (query, vector)."""
    v = np.asarray(vectors, dtype=np.float32)
    scores: Float32s = queries @ v.T
    if metric == "cosine":
        scores /= lengths(v)
    elif metric == "euclidean":
        scores -= lengths(v) ** 2 / 2
    return scores


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
