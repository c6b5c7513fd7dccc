"""Search all directions for all concepts: average precisions with the labels as they are, and with shuffled ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array, Bools, Floats

from . import null
from .directions import Directions
from .precision import average_precisions, rank

AT_ONCE = 100_000  # numbers that shuffles are ranked in at once: they stay in the cache


class Measured(NamedTuple):
    """What was found along all directions."""

    ap: Array
    """(concept, direction) the larger AP of both signs"""
    along: Bools
    """(concept, direction) whether that is h·v, not −h·v"""
    shuffled: Array
    """(shuffle, concept) the largest AP over directions and signs with shuffled labels"""
    chance: null.Chance


def search(
    h: Floats,
    directions: Directions,
    positives: Sequence[npt.NDArray[np.integer]],
    *,
    n_shuffles: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Measure the AP along all directions, with the labels as they are and shuffled.

    Time grows with directions × shuffles × the positives of all concepts; memory with images × `directions.BLOCK`.

    Args:
        h: (image, feature), finite.
        directions: of its space, one at least.
        positives: of each concept the indices of its images, one at least.
        n_shuffles: at least `null.MIN_SHUFFLES`.
        seed: of the shuffles.
        progress: called with the number of directions that are done.
    """
    n_concepts = len(positives)
    shuffles = null.permutations(len(h), n_shuffles, seed)
    ap, along = np.empty((n_concepts, directions.n)), np.empty((n_concepts, directions.n), bool)
    shuffled = np.zeros((n_shuffles, n_concepts))
    for start, scores in directions.blocks(h):
        ranked, end = rank(scores), start + len(scores)
        for concept, images in enumerate(positives):
            plus, minus = average_precisions(ranked, images[np.newaxis])
            ap[concept, start:end] = np.maximum(plus, minus)[:, 0]
            along[concept, start:end] = (plus >= minus)[:, 0]
            some = max(1, AT_ONCE // (len(images) * len(scores)))
            for first in range(0, n_shuffles, some):
                dealt = shuffles[first : first + some, images]
                best = np.maximum(*average_precisions(ranked, dealt)).max(axis=0)
                shuffled[first : first + some, concept] = np.maximum(shuffled[first : first + some, concept], best)
        progress(end)
    return Measured(ap, along, shuffled, null.compare(ap.max(axis=1), shuffled))
