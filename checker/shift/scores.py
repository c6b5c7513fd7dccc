"""Class scores of images: what kind they are, and the few numbers of each image that predicted accuracy needs; pure.

Formulas take the scores of the classes that compete, (image, class), and are computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Kind = Literal["logits", "log-probabilities", "probabilities"]

MANO_POWER = 4  # p of the norm (Xie et al. 2024)
SUM_TOLERANCE = 1e-2  # of probabilities that a float16 or a quantised softmax gives
SOFTMAX = frozenset(("Softmax", "QLinearSoftmax"))
SIGMOID = frozenset(("Sigmoid", "QLinearSigmoid"))
COSINES = "cosines of a zero-shot head"
COOLEST, HOTTEST = 0.02, 50.0  # temperatures that are tried
GOLDEN = (5**0.5 - 1) / 2
SEARCH_STEPS = 40  # the interval of log T shrinks by 0.618 each: to 3e-8 of its width
CHUNK_IMAGES = 4096  # images that are in float64 at once


class ScoreKind(NamedTuple):
    """What the class output holds, and how that is known."""

    kind: Kind
    why: str


class NoScoresError(ValueError):
    """The class output is nothing that a prediction with a confidence can be read from; the text says why."""


def kind_of(scores: npt.NDArray[Any], crossed: frozenset[str], *, cosine: bool = False) -> ScoreKind:
    """Tell logits from probabilities, by the operators at the end of the graph and by the numbers.

    scores: (image, class), finite, at least one image, all classes. crossed: operators between the last linear layer
    and the output (`Head.crossed`), empty where they are not known. cosine: whether the last layer gives cosines,
    which may all be between 0 and 1.

    Raises NoScoresError: a sigmoid for each class (labels that do not exclude each other), or sums that are not 1
    although the graph ends in a softmax.
    """
    values = np.asarray(scores, dtype=np.float64)
    if ended := sorted(SIGMOID & crossed):
        raise NoScoresError(f"it ends in {ended[0]}: one yes or no for each class, not one class for an image")
    positive = bool((values >= 0).all())
    sums = values.sum(axis=1)
    if positive and np.abs(sums - 1).max() <= SUM_TOLERANCE:
        return ScoreKind("probabilities", "it ends in Softmax" if SOFTMAX & crossed else "each row adds up to 1")
    if (values <= 0).all() and np.abs(np.exp(values).sum(axis=1) - 1).max() <= SUM_TOLERANCE:
        return ScoreKind("log-probabilities", "the exponentials of each row add up to 1")
    if SOFTMAX & crossed and "Log" not in crossed:
        raise NoScoresError(f"it ends in Softmax, but a row adds up to {sums[np.abs(sums - 1).argmax()]:.3g}")
    if positive and values.max() <= 1 and not cosine:
        raise NoScoresError("its values are between 0 and 1 and no row adds up to 1, as after a sigmoid")
    return ScoreKind("logits", COSINES if cosine else "its rows are no probabilities")


def as_logits(scores: npt.NDArray[Any], kind: Kind) -> Array:
    """Scores whose softmax are the model's probabilities: probabilities become their logarithms, others stay.

    scores: (image, class). A probability of 0 counts as the smallest normal float32. Raises ValueError for values that
    are not finite, and for probabilities below 0 or a row of zeros.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("class scores are not all finite numbers")
    if kind != "probabilities":
        return values
    if (values < 0).any() or not values.any(axis=1).all():
        raise ValueError("class scores of some images are probabilities and of others are not")
    return np.log(np.maximum(values, np.finfo(np.float32).tiny))


def log_softmax(logits: npt.ArrayLike) -> Array:
    """Logarithms of the softmax over the last axis, in float64."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@dataclass(frozen=True)
class ImageScores:
    """Of each image of a set, what predicted accuracy and MaNo need; every array is (image,)."""

    confidence: Array
    """largest softmax probability"""
    negative_entropy: Array
    """Σ p log p of the softmax, nats, at most 0"""
    predicted: npt.NDArray[np.int32]
    """the class with the largest score, as an index of the model's classes"""
    softmax_power: Array
    """Σ pᵖ over classes, p = MANO_POWER, without temperature"""
    taylor_power: Array
    """the same of the normalised 1 + q + q²/2 of the logits q"""
    uniform_cross_entropy: Array
    """mean over classes of −log softmax, without temperature"""


def describe(logits: Array, compete: Sequence[int], temperature: float = 1.0) -> ImageScores:
    """Compute the numbers of each image.

    logits: (image, class) of the classes in `compete`, from `as_logits`. temperature: the logits are divided by it for
    confidence and entropy (Guo et al. 2017); MaNo's numbers are without.
    """
    plain = log_softmax(logits)
    scaled = plain if temperature == 1.0 else log_softmax(logits / temperature)
    p = np.exp(scaled)
    taylor = 1 + logits + logits**2 / 2  # at least 1/2
    taylor /= taylor.sum(axis=1, keepdims=True)
    return ImageScores(
        confidence=p.max(axis=1),
        negative_entropy=(p * scaled).sum(axis=1),
        predicted=np.asarray(compete, dtype=np.int32)[logits.argmax(axis=1)],
        softmax_power=(np.exp(plain) ** MANO_POWER).sum(axis=1),
        taylor_power=(taylor**MANO_POWER).sum(axis=1),
        uniform_cross_entropy=-plain.mean(axis=1),
    )


def joined(parts: Sequence[ImageScores]) -> ImageScores:
    """Images of several batches as one set, in order; at least one batch."""
    return ImageScores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


class Temperature(NamedTuple):
    """A fitted temperature and what it changes."""

    value: float
    log_loss_before: float
    """mean −log of the probability of the right classes at temperature 1, nats"""
    log_loss_after: float
    at_bound: bool
    """whether the best one lies at the end of what is tried: then there is no optimum between"""


def fit_temperature(logits: npt.NDArray[np.floating[Any]], right: Sequence[Sequence[int]]) -> Temperature:
    """Fit T so that softmax(logits / T) has the least log loss on labelled images (Guo et al. 2017, section 4).

    Where several classes are right for an image, their probabilities are added (ours). The search is golden-section on
    log T between COOLEST and HOTTEST; with one right class the loss has one minimum, as it is convex in 1/T.

    Args:
        logits: (image, class), finite, float32 or float64; at least one image.
        right: columns that are right, for each image; at least one.

    Returns:
        The temperature; T near 0 (`at_bound`) where every image is right by far, as then no T is best.
    """
    mask = np.zeros(logits.shape, dtype=np.bool_)
    for row, columns in enumerate(right):
        mask[row, list(columns)] = True

    def loss(log_t: float) -> float:
        total = 0.0
        for start in range(0, len(logits), CHUNK_IMAGES):
            part = slice(start, start + CHUNK_IMAGES)
            logs = np.where(mask[part], log_softmax(logits[part].astype(np.float64) / np.exp(log_t)), -np.inf)
            total -= float(np.logaddexp.reduce(logs, axis=1).sum())
        return total / len(logits)

    low, high = float(np.log(COOLEST)), float(np.log(HOTTEST))
    best = _golden(loss, low, high)
    at_bound = min(best - low, high - best) < 1e-4
    return Temperature(float(np.exp(best)), loss(0.0), loss(best), at_bound)


def _golden(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function with one minimum, by golden-section search."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(SEARCH_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
