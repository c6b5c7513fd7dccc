"""Find the nearest vectors of queries in an index. The index comes in blocks, so memory stays bounded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Float32s, Floats
from robustcheck_onnx.checker.statistics import unit_rows

from .pairs import TIED
from .same_images import cosine, lengths

Metric = Literal["cosine", "dot", "euclidean"]
KS: Final = (1, 5, 10)  # neighbours that are counted


class Neighbours(NamedTuple):
    """What the candidate's queries find of the reference's neighbours."""

    n_vectors: int
    kept: dict[int, Array]
    """by k: share of each image's k nearest vectors that were kept, (image,)"""
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

    One of the candidate's neighbours is kept if its similarity in the reference is at least that of the reference's
    k-th neighbour: among ties any of them counts. Of the candidate's own ties the first vectors are its neighbours.

    Args:
        candidate, reference: (image, feature) queries, of the same images.
        blocks: vectors that the candidate's queries are asked in, those that the reference's are asked in, (vector,
            feature) with the same rows, and their ids, or none.
        metric: what orders neighbours. cosine: q·v / ‖v‖. dot: q·v. euclidean: q·v − ‖v‖² / 2, which falls as the
            distance grows.
        names: of the images. A vector whose id is an image's name is not a neighbour of that image.
    """
    queries = [(unit_rows(each) if metric == "cosine" else each).astype(np.float32) for each in (candidate, reference)]
    ours = theirs = (np.full((len(candidate), KS[-1]), -np.inf),) * 2
    n_vectors, own = 0, list[float]()
    images = {name: image for image, name in enumerate(names)}
    for asked, truth, ids in blocks:
        if asked is truth:  # one product for both
            scores = np.split(_similarity(np.concatenate(queries), asked, metric), 2)
        else:
            scores = [_similarity(queries[0], asked, metric), _similarity(queries[1], truth, metric)]
        for column, name in enumerate(ids):
            if (image := images.get(name)) is not None:
                own += cosine(reference[[image]], np.asarray(truth[[column]], np.float64)).tolist()
                scores[0][image, column] = scores[1][image, column] = -np.inf
        ours, theirs = nearest(ours, (scores[0], scores[1])), nearest(theirs, (scores[1], scores[1]))
        n_vectors += len(truth)
    tolerance = TIED * np.maximum(np.abs(theirs[0][:, :1]), metric == "cosine")
    kept = {
        k: (ours[1][:, :k] >= theirs[0][:, k - 1, None] - tolerance).mean(axis=1)
        for k in KS
        if k <= n_vectors - bool(own)
    }
    return Neighbours(n_vectors, kept, own)


def nearest(kept: tuple[Floats, Floats], new: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the `KS[-1]` nearest vectors of each query after another block.

    Args:
        kept: (query, place) similarity to the queries, largest first, and that to another model's queries. −∞ where
            there is no vector.
        new: (query, vector) the same of the block. −∞ in the first leaves a vector out.

    Returns:
        As `kept`. Of equal vectors the earlier one comes first, whatever the blocks are.
    """
    columns = np.flatnonzero((new[0] > kept[0][:, -1:]).any(axis=0))
    scores, others = (np.hstack((old, each[:, columns])) for old, each in zip(kept, new, strict=True))
    best = np.argsort(-scores, axis=1, kind="stable")[:, : KS[-1]]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(others, best, axis=1)


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
