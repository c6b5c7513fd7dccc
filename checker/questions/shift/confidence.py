"""Read how certain a model is of each image off its class scores, which are logits or probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...arrays import AnyArray, Array, float64
from ...core.runtime.runner import Runner
from ...errors import CannotAssessError
from .classes import Classes
from .sets import not_numbers

Kind = Literal["logits", "log-probabilities", "probabilities"]
SUM_TOLERANCE = 1e-2  # of probabilities that a float16 or a quantised softmax gives
SOFTMAX = frozenset(("Softmax", "QLinearSoftmax"))
SIGMOID = frozenset(("Sigmoid", "QLinearSigmoid"))
COSINES = "cosines of a zero-shot head"


class ScoreKind(NamedTuple):
    """The kind of a class output, and its evidence."""

    kind: Kind
    why: str


class NoScoresError(ValueError):
    """An output from which no confidence can be read, with the reason."""


def kind_of(scores: AnyArray, crossed: frozenset[str], *, cosine: bool = False) -> ScoreKind:
    """Distinguish logits from probabilities, by the operators at the end of the graph, then by the numbers.

    scores: (image, class), finite, at least one image, all classes. crossed: operators between the last linear layer
    and the output (`Tail.ops` of the head), empty where they are not known. cosine: whether the last layer gives
    cosines, which may all be between 0 and 1.

    Raises NoScoresError: a sigmoid for each class (labels that do not exclude each other), or sums that are not 1
    although the graph ends in a softmax.
    """
    values = float64(scores)
    if ended := sorted(SIGMOID & crossed):
        raise NoScoresError(f"it ends in {ended[0]}: one yes or no for each class, not one class for an image")
    positive = bool((values >= 0).all())
    sums = values.sum(axis=1)
    from_one = np.abs(sums - 1)
    if positive and from_one.max() <= SUM_TOLERANCE:
        return ScoreKind("probabilities", "it ends in Softmax" if SOFTMAX & crossed else "each row adds up to 1")
    if (values <= 0).all() and np.abs(np.exp(values).sum(axis=1) - 1).max() <= SUM_TOLERANCE:
        return ScoreKind("log-probabilities", "the exponentials of each row add up to 1")
    if SOFTMAX & crossed and "Log" not in crossed:
        raise NoScoresError(f"it ends in Softmax, but a row adds up to {sums[from_one.argmax()]:.3g}")
    if positive and values.max() <= 1 and not cosine:
        raise NoScoresError("its values are between 0 and 1 and no row adds up to 1, as after a sigmoid")
    return ScoreKind("logits", COSINES if cosine else "its rows are not probabilities")


def as_logits(scores: AnyArray, kind: Kind) -> Array:
    """Return logits: probabilities become their logarithms, others stay.

    scores: (image, class), finite. A probability of 0 counts as the smallest normal float32. Raises ValueError for
    probabilities below 0 or a row of zeros.
    """
    values = float64(scores)
    if kind != "probabilities":
        return values
    if (values < 0).any() or not values.any(axis=1).all():
        raise ValueError("class scores of some images are probabilities and of others are not")
    least = np.finfo(np.float32).tiny
    return np.log(np.maximum(values, least))


class ImageScores(NamedTuple):
    """The numbers that predictions need per image, each array (image,)."""

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
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    log_p = shifted - np.log(total)
    p = np.exp(log_p)
    return ImageScores(
        confidence=p.max(axis=1),
        negative_entropy=(p * log_p).sum(axis=1),
        predicted=np.asarray(compete, dtype=np.int32)[logits.argmax(axis=1)],
    )


@dataclass
class Collector:
    """The class scores of one image set, of which three numbers per image stay."""

    runner: Runner
    where: str
    compete: Classes
    """classes among which the prediction is made"""
    kind: ScoreKind | None = None
    """None: read off the first batch"""
    parts: list[ImageScores] = field(default_factory=list)

    def add(self, scores: AnyArray) -> None:
        """Take the scores (image, class) of the next images.

        Raises CannotAssessError: scores that are not finite, or that no confidence can be read from.
        """
        if not np.isfinite(float64(scores)).all():
            raise not_numbers(self.runner, self.where)
        opened = self.runner.model
        head = opened.head
        hint = "export the model with its logits as output, before Softmax or Sigmoid"
        try:
            if self.kind is None:
                crossed = head.tail.ops if head else frozenset()
                gives_cosines = head is not None and head.is_cosine
                self.kind = kind_of(scores, crossed, cosine=gives_cosines)
            logits = as_logits(scores, self.kind.kind)[:, list(self.compete)]
        except NoScoresError as fault:
            raise CannotAssessError(
                f"{opened.path}: class output {opened.class_output!r} gives no confidence ({fault}); predicted "
                "accuracy needs logits or a softmax",
                hint,
            ) from fault
        except ValueError as fault:
            raise CannotAssessError(
                f"{opened.path}: {fault}, on {self.where}; they must be of one kind", hint
            ) from fault
        self.parts.append(describe(logits, self.compete))

    @property
    def images(self) -> ImageScores:
        """Return the numbers of all images taken so far, at least one."""
        return ImageScores(*map(np.concatenate, zip(*self.parts, strict=True)))
