"""Further models on the same image sets, for the agreement on the line: what each predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker import measure
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Options
from robustcheck_onnx.checker.images import digest_of_set
from robustcheck_onnx.checker.measure import Inputs, Job
from robustcheck_onnx.checker.runtime import Runner

from .predicted import Bools
from .predictions import Beside
from .sets import (
    LabelledSet,
    Scores,
    Tell,
    UnlabelledSet,
    class_output,
    class_scores,
    measure_labelled,
    measure_unlabelled,
    not_numbers,
)


class Predictions(NamedTuple):
    """What one further model predicts."""

    record: Beside
    inside: npt.NDArray[np.int32]
    """(image,) classes predicted on the in-distribution set"""
    correct: Bools
    outside: list[npt.NDArray[np.int32]]
    """the same of each target"""


def predictions_of(
    path: Path,
    run: Options,
    inner: LabelledSet,
    targets: Sequence[UnlabelledSet],
    *,
    n_classes: int,
    digests: Sequence[str],
    known: Sequence[str],
    progress: Tell,
) -> Predictions:
    """Run one further model over the in-distribution set and all targets.

    Args:
        path: the model. Its own contract or sidecar says how pixels become inputs; where it has neither, the call's
            `--preprocess` does.
        run: the options of the call.
        inner, targets: the sets.
        n_classes: of the first model, whose labels and classes are taken.
        digests: of the images that the first model used, one a set.
        known: digests of the models so far.

    Raises:
        UsageError: the same model again, or one with another number of classes.
        CannotAssessError: it uses other images of a set (one that it can't take), or its scores are not numbers.
    """
    inputs = _inputs(path, run, inner)
    (opened,) = inputs.models
    if opened.digest in known:
        raise UsageError(f"{path}: model is given twice; agreement needs different models", "--beside OTHER.onnx")
    class_output(opened)
    measure.tell_stage(progress, f"loading {path.name}")
    preprocessing = inputs.preprocessing.preprocessing
    runner = Runner(opened, run.device, preprocessing=preprocessing, batch_size=run.batch_size)
    columns = class_scores(runner, preprocessing).n_classes
    if columns != n_classes:
        raise UsageError(
            f"{path}: number of classes is {columns}; the first model has {n_classes}, and both must be the same",
            "--beside a model with the same classes in the same order",
        )
    compete = np.asarray(inner.map.compete, dtype=np.int32)

    def predicted(scores: Scores, where: str) -> npt.NDArray[np.int32]:
        chosen = np.asarray(scores, dtype=np.float64)[:, compete]
        if np.isnan(chosen).any():
            raise not_numbers(runner, where)
        return np.asarray(compete[chosen.argmax(axis=1)], dtype=np.int32)

    parts: list[npt.NDArray[np.int32]] = []
    flags: list[Bools] = []

    def collect(scores: Scores, _right: object, correct: Bools) -> None:
        parts.append(predicted(scores, inner.spec.name))
        flags.append(correct)

    result, _ = measure_labelled(runner, inner, inputs, progress, collect)
    used, outside = [result.digest], []
    for target in targets:
        of_target: list[npt.NDArray[np.int32]] = []
        read = measure_unlabelled(
            runner,
            target,
            inputs,
            progress,
            lambda scores, to=of_target, of=target: to.append(predicted(scores, of.spec.name)),  # type: ignore[misc]
        )
        used.append(digest_of_set(list(read.digests)))
        outside.append(np.concatenate(of_target))
    names = [inner.spec.name, *(target.spec.name for target in targets)]
    for name, own, first in zip(names, used, digests, strict=True):
        if own != first:
            raise CannotAssessError(
                f"{path}: images of {name} are not all usable by this model; all models must take the same",
                "leave the images that it can't take out of the set",
            )
    record = Beside(
        file=str(opened.path),
        digest=opened.digest,
        accuracy=result.accuracy,
        preprocessing_source=inputs.preprocessing.source,
    )
    return Predictions(record, np.concatenate(parts), np.concatenate(flags), outside)


def _inputs(path: Path, run: Options, inner: LabelledSet) -> Inputs:
    own = measure.read_inputs(Job(path, run.model_copy(update={"preprocess": None})), source=inner.source)
    if own.preprocessing.source != "assumed" or run.preprocess is None:
        return own
    return measure.read_inputs(Job(path, run), source=inner.source)
