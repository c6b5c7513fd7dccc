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

from robustcheck_onnx.checker.arrays import Array, Bools

ERROR_RATE = 0.05  # at which a concept without any relation to the representation is called beyond chance, over all
BISECTIONS = 50  # halvings of 0 to 1: to about the rounding of an AP
MIN_SHUFFLES = 19  # with fewer no result can be beyond chance at that rate: 1 / (1 + 19) = 0.05


class Chance(NamedTuple):
    """What chance gives each concept."""

    needed: Array
    """(concept,) AP that a direction has to exceed to be beyond chance, whatever the best one reached; inf: none can"""
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
    t = _by_the_others(np.vstack([best, shuffled]))
    chance = np.sort(t[1:].max(axis=1))
    p = (1 + n_shuffles - np.searchsorted(chance, t[0], side="left")) / (1 + n_shuffles)
    return Chance(np.where(shuffled.std(axis=0) > 0, _needed(t, shuffled), shuffled.max(axis=0)), p)


def _needed(t: Array, shuffled: Array) -> Array:
    """The AP of each concept from which its p-value is at most `ERROR_RATE`, the other concepts as they are.

    By bisection: an AP counts among its own shuffles, so one far beyond them would lower the bar for others.
    t: (1 + shuffle, concept) the standardised APs, those of the labels as they are first.
    """
    n_shuffles, n_concepts = shuffled.shape
    allowed = int(ERROR_RATE * (1 + n_shuffles) + 1e-9) - 1  # shuffles that may reach the AP
    elsewhere = np.full(shuffled.shape, -np.inf)  # the largest over the other concepts
    if n_concepts > 1:
        top = np.partition(t[1:], n_concepts - 2, axis=1)[:, -2:]
        elsewhere[:] = np.where(t[1:] < top[:, 1:], top[:, 1:], top[:, :1])

    def is_beyond(ap: Array) -> Bools:
        own = _by_the_others(np.vstack([ap, shuffled]))
        enough: Bools = (np.maximum(own[1:], elsewhere) >= own[0]).sum(axis=0) <= allowed
        return enough

    low, high = np.zeros(n_concepts), np.ones(n_concepts)
    possible = is_beyond(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        beyond = is_beyond(middle)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return np.where(possible, high, np.inf)


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
