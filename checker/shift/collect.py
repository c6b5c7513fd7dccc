"""Takes the class scores of one image set batch by batch, and keeps what predicted accuracy needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.runtime import Runner

from .dispersion import NUCLEAR_IMAGES
from .predicted import Bools
from .scores import (
    CHUNK_IMAGES,
    ImageScores,
    NoScoresError,
    ScoreKind,
    Temperature,
    as_logits,
    describe,
    fit_temperature,
    joined,
    kind_of,
    log_softmax,
)
from .sets import not_numbers


class Scored(NamedTuple):
    """One set, scored."""

    images: ImageScores
    probabilities: npt.NDArray[np.float32]
    """(image, class) softmax without temperature, of the first NUCLEAR_IMAGES images"""
    correct: Bools
    """(image,); empty for a set without labels"""


@dataclass
class Collector:
    """Adds up one set. It keeps six numbers an image, and the probabilities of the first NUCLEAR_IMAGES images."""

    runner: Runner
    where: str
    compete: tuple[int, ...]
    """classes among which the prediction is made"""
    kind: ScoreKind | None = None
    """None: told from the first batch"""
    temperature: float = 1.0
    keeps_logits: bool = False
    """whether to keep float32 logits of every image instead, for `fit`"""
    _parts: list[ImageScores] = field(default_factory=list)
    _probabilities: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _correct: list[Bools] = field(default_factory=list)
    _logits: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _right: list[Sequence[int]] = field(default_factory=list)

    def add(self, scores: npt.NDArray[Any]) -> None:
        """Take the scores (image, class) of the next images.

        Raises CannotAssessError: scores that are not finite, or that no confidence can be read from.
        """
        if not np.isfinite(np.asarray(scores, dtype=np.float64)).all():
            raise not_numbers(self.runner, self.where)
        opened = self.runner.model
        try:
            if self.kind is None:
                head = opened.head
                crossed, cosine = (head.crossed, head.cosine) if head else (frozenset(), False)
                self.kind = kind_of(scores, crossed, cosine=cosine)
            logits = as_logits(scores, self.kind.kind)[:, list(self.compete)]
        except ValueError as fault:
            hint = "export the model with its logits as output, before Softmax or Sigmoid"
            if isinstance(fault, NoScoresError):
                raise CannotAssessError(
                    f"{opened.path}: class output {opened.class_output!r} gives no confidence ({fault}); predicted "
                    "accuracy needs logits or a softmax",
                    hint,
                ) from fault
            raise CannotAssessError(
                f"{opened.path}: {fault}, on {self.where}; they must be of one kind", hint
            ) from fault
        room = NUCLEAR_IMAGES - sum(map(len, self._probabilities))
        if room > 0:
            self._probabilities.append(np.exp(log_softmax(logits[:room])).astype(np.float32))
        if self.keeps_logits:
            self._logits.append(logits.astype(np.float32))
        else:
            self._parts.append(describe(logits, self.compete, self.temperature))

    def add_labelled(self, scores: npt.NDArray[Any], right: Sequence[tuple[int, ...]], correct: Bools) -> None:
        """Take the scores of the next labelled images; right: the classes that are right for each."""
        self.add(scores)
        self._correct.append(correct)
        if self.keeps_logits:
            place = {index: column for column, index in enumerate(self.compete)}
            self._right += [[place[index] for index in group] for group in right]

    def fit(self) -> Temperature:
        """Fit the temperature on the labelled images taken so far, and describe them with it; the logits are let go."""
        logits = np.concatenate(self._logits)
        fitted = fit_temperature(logits, self._right)
        self._logits, self._right = [], []
        self._parts = [
            describe(logits[start : start + CHUNK_IMAGES].astype(np.float64), self.compete, fitted.value)
            for start in range(0, len(logits), CHUNK_IMAGES)
        ]
        return fitted

    def scored(self) -> Scored:
        """All images taken so far, at least one."""
        correct = np.concatenate(self._correct) if self._correct else np.zeros(0, dtype=np.bool_)
        return Scored(joined(self._parts), np.concatenate(self._probabilities), correct)
