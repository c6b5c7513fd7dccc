"""Class scores of images: what kind they are, and the few numbers of each image that predicted accuracy needs; pure.

Formulas take the scores of the classes that compete, (image, class), and are computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import AnyArray, Array

Kind = Literal["logits", "log-probabilities", "probabilities"]

SUM_TOLERANCE = 1e-2  # of probabilities that a float16 or a quantised softmax gives
SOFTMAX = frozenset(("Softmax", "QLinearSoftmax"))
SIGMOID = frozenset(("Sigmoid", "QLinearSigmoid"))
COSINES = "cosines of a zero-shot head"


class ScoreKind(NamedTuple):
    """What the class output holds, and how that is known."""

    kind: Kind
    why: str


class NoScoresError(ValueError):
    """The class output is nothing that a prediction with a confidence can be read from; the text says why."""


def kind_of(scores: AnyArray, crossed: frozenset[str], *, cosine: bool = False) -> ScoreKind:
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


def as_logits(scores: AnyArray, kind: Kind) -> Array:
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
    """What predicted accuracy needs of each image of a set; every array is (image,)."""

    confidence: Array
    """largest softmax probability"""
    negative_entropy: Array
    """Σ p log p of the softmax, nats, at most 0"""
    predicted: npt.NDArray[np.int32]
    """the class with the largest score, as an index of the model's classes"""


def describe(logits: Array, compete: Sequence[int]) -> ImageScores:
    """Compute the numbers of each image.

    logits: (image, class) of the classes in `compete`, from `as_logits`.
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    return ImageScores(
        confidence=p.max(axis=1),
        negative_entropy=(p * log_p).sum(axis=1),
        predicted=np.asarray(compete, dtype=np.int32)[logits.argmax(axis=1)],
    )


def joined(parts: Sequence[ImageScores]) -> ImageScores:
    """Images of several batches as one set, in order; at least one batch."""
    return ImageScores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})
