"""Accuracy without labels: what is predicted for unlabelled target sets, with what each prediction rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustcheck_onnx.checker import measure
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.images import digest_of_set
from robustcheck_onnx.checker.measure import ImagesRead, Inputs
from robustcheck_onnx.checker.runtime import Runner

from . import aline
from .beside import Predictions, predictions_of
from .collect import Collector, Scored
from .dispersion import NUCLEAR_IMAGES, Normaliser, class_shift, mano, normaliser_of, nuclear_norm
from .predicted import MIN_IMAGES, RESAMPLES, Inside, Interval, Method, predict, resample_inside
from .predictions import (
    ASSUMES,
    CLAIM,
    AgreementLine,
    Dispersion,
    Estimate,
    FittedTemperature,
    Predicted,
    PredictedClasses,
    Target,
)
from .records import SetResult
from .sets import LabelledSet, Tell, UnlabelledSet, measure_unlabelled


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
    scored: Scored


def predict_targets(
    runner: Runner,
    inputs: Inputs,
    inner: Measured,
    targets: Sequence[UnlabelledSet],
    shifted: Sequence[SetResult],
    beside: Sequence[Path],
    *,
    with_temperature: bool,
    n_classes: int,
    progress: Tell,
) -> Predicted:
    """Predict the first model's accuracy on unlabelled sets.

    Args:
        runner, inputs: the model.
        inner: the labelled set, measured.
        targets: at least one.
        shifted: labelled sets that were measured: one with the same images as a target gives its measured accuracy.
        beside: further models, none or at least two.
        with_temperature: fit a temperature first; the scores of `inner` must keep their logits.
        n_classes: of the model.
        progress: called after every batch.

    Raises:
        UsageError: a target with the images of the in-distribution set or of another target; a further model twice.
        CannotAssessError: class scores that no confidence can be read from, or that are not finite.
    """
    seed = inputs.job.options.seed % 2**64  # NumPy takes no negative one
    fitted = inner.scores.fit() if with_temperature else None
    inside, kind = inner.scores.scored(), inner.scores.kind
    assert kind is not None
    temperature = fitted.value if fitted else 1.0
    taken: list[_Taken] = []
    known = {inner.result.digest: inner.result.source}
    for target in targets:
        where = str(target.spec.place)
        scores = Collector(runner, where, inner.set.map.compete, kind=kind, temperature=temperature)
        read = measure_unlabelled(runner, target, inputs, progress, scores.add)
        digest = digest_of_set(list(read.digests))
        if digest in known:
            raise UsageError(
                f"{where}: images are those of {known[digest]}; a target must have other images",
                "--in photos/ --target new-photos/",
            )
        known[digest] = where
        taken.append(_Taken(target, read, scores.scored()))
    used = list(known)
    others: list[Predictions] = []
    for path in beside:
        digests = [inputs.models[0].digest, *(each.record.digest for each in others)]
        others.append(
            predictions_of(
                path,
                inputs.job.options,
                inner.set,
                targets,
                n_classes=n_classes,
                digests=used,
                known=digests,
                progress=progress,
            )
        )
    measure.tell_stage(progress, "predicting accuracy")
    normaliser = normaliser_of(inside.images) if kind.kind == "logits" else None
    sizes = [len(each.images.confidence) for each in (inside, *(t.scored for t in taken))]
    n_dispersion = min(NUCLEAR_IMAGES, *(size for size in (NUCLEAR_IMAGES, *sizes) if size >= MIN_IMAGES))
    compete = len(inner.set.map.compete)
    resamples = resample_inside(inside.images, inside.correct, seed)
    accuracies = {result.digest: result.accuracy for result in shifted}
    records = []
    for number, each in enumerate(taken, 1):
        line = _line(inside, each, others, number - 1, (seed, 2, number)) if others else None
        found = predict(resamples, each.scored.images, (seed, 1, number))
        classes = class_shift(inside.images.predicted, each.scored.images.predicted, (seed, 3, number))
        frequencies = np.unique(each.scored.images.predicted, return_counts=True)[1]
        records.append(
            Target(
                name=each.set.spec.name,
                source=str(each.set.spec.place),
                n_available=each.set.source.n_found,
                n_read=each.read.n_read,
                n_images=each.read.n_usable,
                n_skipped=len(each.read.skipped),
                skipped=measure.named_skips(each.read.skipped),
                digest=used[number],
                in_both=(Counter(inner.digests) & Counter(list(each.read.digests))).total(),
                mean_confidence=float(each.scored.images.confidence.mean()),
                estimates=_estimates(resamples, found, line, each.read.n_usable),
                measured=accuracies.get(used[number]),
                classes=PredictedClasses(
                    n_classes=len(frequencies),
                    top_share=float(frequencies.max() / frequencies.sum()),
                    distance=classes.distance,
                    expected_distance=classes.expected,
                    p_value=classes.p_value,
                ),
                dispersion=_dispersion(each.scored, n_dispersion, compete, normaliser),
                line=None if few(len(inside.correct), each.read.n_usable) else _record(line),
            )
        )
    return Predicted(
        scores=kind.kind,
        scores_why=kind.why,
        mean_confidence=float(inside.images.confidence.mean()),
        temperature=fitted
        and FittedTemperature(
            value=fitted.value,
            log_loss_before=fitted.log_loss_before,
            log_loss_after=fitted.log_loss_after,
            at_bound=fitted.at_bound,
        ),
        n_resamples=RESAMPLES,
        min_images=MIN_IMAGES,
        n_dispersion=n_dispersion if sizes[0] >= MIN_IMAGES else 0,
        mano_normaliser=normaliser,
        dispersion=_dispersion(inside, n_dispersion, compete, normaliser),
        beside=tuple(each.record for each in others),
        targets=tuple(records),
        claim=CLAIM,
    )


def _dispersion(scored: Scored, n: int, n_classes: int, normaliser: Normaliser | None) -> Dispersion | None:
    if len(scored.images.confidence) < MIN_IMAGES:
        return None
    return Dispersion(
        nuclear_norm=nuclear_norm(scored.probabilities[:n]),
        mano=None if normaliser is None else mano(scored.images, n_classes, normaliser),
    )


def _record(line: aline.Line | None) -> AgreementLine | None:
    if line is None:
        return None
    return AgreementLine(slope=line.slope, intercept=line.intercept, r_squared=line.r_squared, n_pairs=line.n_pairs)


def _line(
    inside: Scored, target: _Taken, others: Sequence[Predictions], index: int, seed: tuple[int, ...]
) -> aline.Line:
    return aline.fit(
        np.stack([inside.images.predicted, *(each.inside for each in others)]),
        np.stack([inside.correct, *(each.correct for each in others)]),
        np.stack([target.scored.images.predicted, *(each.outside[index] for each in others)]),
        seed,
        RESAMPLES,
    )


def few(n_inside: int, n_images: int) -> str:
    """Why too few images are there to predict an accuracy; empty where there are enough."""
    for n, which in ((n_inside, "labelled in-distribution images"), (n_images, "usable target images")):
        if n < MIN_IMAGES:
            return f"{n} {which}; at least {MIN_IMAGES} are needed"
    return ""


def _estimates(
    inside: Inside, found: dict[Method, Interval], line: aline.Line | None, n_images: int
) -> tuple[Estimate, ...]:
    """Every method's estimate; one that rests on too little has no number, and says why."""
    n_inside, n_correct = len(inside.correct), int(inside.correct.sum())
    too_few = few(n_inside, n_images)
    one_sided = ""
    if n_correct in (0, n_inside):
        which = "right" if n_correct else "wrong"
        one_sided = f"every labelled image is predicted {which}; ATC's threshold needs some of both"
    why: dict[Method, str] = {method: too_few or ("" if method == "doc" else one_sided) for method in found}
    every = dict(found)
    if line is not None:
        every |= {"aline_s": line.aline_s, "aline_d": line.aline_d}
        why |= {"aline_s": too_few or line.fault, "aline_d": too_few or line.fault}
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
        for method, value in every.items()
    )
