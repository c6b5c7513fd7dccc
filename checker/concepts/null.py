"""What chance gives: the best AP of each concept with its labels dealt to other images, and what is beyond it; pure.

The rows of the assignment of images to concepts are permuted, so each concept keeps its number of positives and
concepts stay together as often as they are. Concepts differ in what chance gives them (a frequent one starts from a
high AP), so each is standardised by its own shuffles, and the largest over all concepts is what every concept has to
exceed: the single-step max-T procedure of Westfall and Young (Resampling-Based Multiple Testing, 1993).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ERROR_RATE = 0.05  # at which a concept without any relation to the representation is called beyond chance, over all
MIN_SHUFFLES = 19  # with fewer no result can be beyond chance at that rate: 1 / (1 + 19) = 0.05


class Chance(NamedTuple):
    """What chance gives each concept."""

    needed: Array
    """(concept,) AP that a direction has to exceed; inf where chance gave the same AP in every shuffle and more"""
    p: Array
    """(concept,) p-value of the best direction, corrected over concepts: at least 1 / (1 + shuffles)"""


def permutations(n_images: int, n_shuffles: int, seed: int) -> npt.NDArray[np.int32]:
    """(shuffle, image) int32: which image gets the labels of each."""
    rng = np.random.default_rng(seed)
    order = np.tile(np.arange(n_images, dtype=np.int32), (n_shuffles, 1))
    return rng.permuted(order, axis=1)


def compare(best: Array, shuffled: Array) -> Chance:
    """Compare the best AP of each concept with its shuffles, corrected over concepts.

    The labels as they are and the shuffles count alike: each is standardised by the mean and SD of the others, so that
    under chance alone all are exchangeable and the error rate is exact, whatever the images, directions and concepts.

    Args:
        best: (concept,) largest AP over directions.
        shuffled: (shuffle, concept) the same with shuffled labels, at least `MIN_SHUFFLES` of them.
    """
    n_shuffles = len(shuffled)
    if n_shuffles < MIN_SHUFFLES:
        raise ValueError(f"number of shuffles is {n_shuffles}; at least {MIN_SHUFFLES} are needed")
    largest = _by_the_others(np.vstack([best, shuffled]))
    mine, chance = largest[0], np.sort(largest[1:].max(axis=1))
    p = (1 + n_shuffles - np.searchsorted(chance, mine, side="left")) / (1 + n_shuffles)
    limit = chance[n_shuffles - int(ERROR_RATE * (1 + n_shuffles) + 1e-9)]
    sd = shuffled.std(axis=0)
    with np.errstate(invalid="ignore"):
        needed = np.where(sd > 0, shuffled.mean(axis=0) + limit * sd, shuffled.max(axis=0))
    return Chance(needed, p)


def _by_the_others(values: Array) -> Array:
    """Each row standardised by mean and (biased) SD of the other rows, column by column.

    Where the others do not vary it is 0 for what is equal to them and ±inf for what is not.
    """
    n = len(values)
    away = values - values.mean(axis=0)
    total = (away**2).sum(axis=0)
    tiny = 1e-24 * n  # rounding of APs
    others = total - away**2 * n / (n - 1)  # sum of squares of the others about their mean
    with np.errstate(divide="ignore", invalid="ignore"):
        t = away * n / (n - 1) / np.sqrt(np.where(others > tiny, others, 0.0) / (n - 1))
    same: Array = np.where(np.abs(away) ** 2 <= tiny, 0.0, t)
    return same
