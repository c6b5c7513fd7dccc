"""Predict the accuracy on unlabelled target sets. Each prediction comes with what it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import AnyArray, Bools
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images.source import digest_of_set
from robustcheck_onnx.checker.isolation import Tell, tell_stage
from robustcheck_onnx.checker.measure.job import ImagesRead, named_skips
from robustcheck_onnx.checker.measure.run import Inputs
from robustcheck_onnx.checker.runtime import Runner

from .predicted import (
    ASSUMES,
    CLAIM,
    MIN_IMAGES,
    RESAMPLES,
    Estimate,
    ImageScores,
    Inside,
    Interval,
    Method,
    NoScoresError,
    Predicted,
    PredictedClasses,
    ScoreKind,
    Target,
    as_logits,
    class_shift,
    describe,
    joined,
    kind_of,
    predict,
    resample_inside,
)
from .records import SetResult
from .sets import LabelledSet, UnlabelledSet, measure_unlabelled, not_numbers


@dataclass
class Collector:
    """The class scores of one image set, summed up. They come batch by batch: three numbers per image."""

    runner: Runner
    where: str
    compete: tuple[int, ...]
    """classes among which the prediction is made"""
    kind: ScoreKind | None = None
    """None: read off the first batch"""
    _parts: list[ImageScores] = field(default_factory=list)
    _correct: list[Bools] = field(default_factory=list)

    def add(self, scores: AnyArray) -> None:
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
        self._parts.append(describe(logits, self.compete))

    def add_labelled(self, scores: AnyArray, correct: Bools) -> None:
        """Add the scores of labelled images. Whether each is predicted right comes with them."""
        self.add(scores)
        self._correct.append(correct)

    @property
    def images(self) -> ImageScores:
        """All images taken so far, at least one."""
        return joined(self._parts)

    @property
    def correct(self) -> Bools:
        """Whether each labelled image so far is predicted right."""
        return np.concatenate(self._correct)


class Measured(NamedTuple):
    """The in-distribution set as the model went through it."""

    set: LabelledSet
    result: SetResult
    digests: list[str]
    scores: Collector


class _Taken(NamedTuple):
    """A target set as the model went through it."""

    set: UnlabelledSet
    read: ImagesRead
    scores: ImageScores


def predict_targets(
    runner: Runner,
    inputs: Inputs,
    inner: Measured,
    targets: Sequence[UnlabelledSet],
    shifted: Sequence[SetResult],
    progress: Tell | None,
) -> Predicted:
    """Predict the model's accuracy on unlabelled sets.

    Args:
        runner, inputs: the model.
        inner: the labelled set, measured.
        targets: at least one.
        shifted: labelled sets that were measured: one with the same images as a target gives its measured accuracy.
        progress: called after every batch.

    Raises:
        UsageError: a target with the images of the in-distribution set or of another target.
        CannotAssessError: class scores that no confidence can be read from, or that are not finite.
    """
    seed = inputs.job.options.seed % 2**64  # NumPy takes no negative one
    inside, correct, kind = inner.scores.images, inner.scores.correct, inner.scores.kind
    assert kind is not None
    taken: list[_Taken] = []
    known = {inner.result.digest: inner.result.source}
    for target in targets:
        where = str(target.spec.place)
        scores = Collector(runner, where, inner.set.map.compete, kind=kind)
        read = measure_unlabelled(runner, target, inputs, progress, scores.add)
        digest = digest_of_set(list(read.digests))
        if digest in known:
            raise UsageError(
                f"{where}: images are those of {known[digest]}; a target must have other images",
                "--in photos/ --target new-photos/",
            )
        known[digest] = where
        taken.append(_Taken(target, read, scores.images))
    used = list(known)
    tell_stage(progress, "predicting accuracy")
    resamples = resample_inside(inside, correct, seed)
    accuracies = {result.digest: result.accuracy for result in shifted}
    records = []
    for number, each in enumerate(taken, 1):
        found = predict(resamples, each.scores, (seed, 1, number))
        classes = class_shift(inside.predicted, each.scores.predicted, (seed, 3, number))
        frequencies = np.unique(each.scores.predicted, return_counts=True)[1]
        records.append(
            Target(
                name=each.set.spec.name,
                source=str(each.set.spec.place),
                n_available=each.set.source.n_found,
                n_read=each.read.n_read,
                n_images=each.read.n_usable,
                n_skipped=len(each.read.skipped),
                skipped=named_skips(each.read.skipped),
                digest=used[number],
                in_both=(Counter(inner.digests) & Counter(list(each.read.digests))).total(),
                mean_confidence=float(each.scores.confidence.mean()),
                estimates=_estimates(resamples, found, each.read.n_usable),
                measured=accuracies.get(used[number]),
                classes=PredictedClasses(
                    n_classes=len(frequencies),
                    top_share=float(frequencies.max() / frequencies.sum()),
                    distance=classes.distance,
                    expected_distance=classes.expected,
                    p_value=classes.p_value,
                ),
            )
        )
    return Predicted(
        scores=kind.kind,
        scores_why=kind.why,
        mean_confidence=float(inside.confidence.mean()),
        n_resamples=RESAMPLES,
        min_images=MIN_IMAGES,
        targets=tuple(records),
        claim=CLAIM,
    )


def _few(n_inside: int, n_images: int) -> str:
    """Return why the images are too few. Empty where there are enough to predict an accuracy."""
    for n, which in ((n_inside, "labelled in-distribution images"), (n_images, "usable target images")):
        if n < MIN_IMAGES:
            return f"{n} {which}; at least {MIN_IMAGES} are needed"
    return ""


def _estimates(inside: Inside, found: dict[Method, Interval], n_images: int) -> tuple[Estimate, ...]:
    """Return every method's estimate. One that rests on too little has no number, and says why."""
    n_inside, n_correct = len(inside.correct), int(inside.correct.sum())
    too_few = _few(n_inside, n_images)
    one_sided = ""
    if n_correct in (0, n_inside):
        which = "right" if n_correct else "wrong"
        one_sided = f"every labelled image is predicted {which}; ATC's threshold needs some of both"
    why: dict[Method, str] = {method: too_few or ("" if method == "doc" else one_sided) for method in found}
    accuracy = n_correct / n_inside
    return tuple(
        Estimate(
            method=method,
            accuracy=None if why[method] else value.value,
            low=None if why[method] else value.low,
            high=None if why[method] else value.high,
            drop_points=None if why[method] else 100 * (accuracy - value.value),
            not_established=why[method],
            assumes=ASSUMES[method],
        )
        for method, value in found.items()
    )
