"""Measure accuracy under a distribution shift. The user's labelled images are measured next to the verdict.

One loop runs the model. Silent; progress goes to a callback. The notes of the report are written here, too.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

from robustcheck_onnx.checker import isolation, pipeline
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import Execution, Options, RunOptions
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits, Progress
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.measure.run import Inputs
from robustcheck_onnx.checker.report.record import Clock, Report, Time
from robustcheck_onnx.checker.statistics.definitions import CONFIDENCE
from robustcheck_onnx.checker.storage.places import as_typed, local_path
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict.gate import execution_notes

from . import labels
from .predicted import COSINES, Collector, predict_targets
from .records import ModelUsed, Predicted, SetResult, Shifted, ShiftReport, Target
from .robustness import CLAIM, IMAGES, LABEL_SET, WORDS, agree, comparable_accuracies, put_beside
from .sets import (
    ImageSet,
    class_output,
    class_scores,
    judged_before,
    measure_labelled,
    parse_call,
    read_notes,
    verdict_of,
    with_labels,
)


def notes_of(
    inner: SetResult, beside: Sequence[Shifted], predicted: Predicted | None, inputs: Inputs, execution: Execution
) -> tuple[str, ...]:
    """Write what a reader must know next to the accuracies."""
    notes = measure.question_notes(inputs) + execution_notes(execution)
    results = (inner, *(each.result for each in beside))
    if any(result.label_set in LABEL_SET.values() and result.label_set != "file" for result in results):
        notes.append("The model's 1000 classes are taken to be in ImageNet-1k's order.")
    if len({result.n_compete for result in results}) > 1:
        notes.append(
            "The sets are measured with different numbers of classes; part of their difference comes from that."
        )
    for each in beside:
        notes += _in_both(each.in_both, inner, each.result)
    for result in results:
        whole = IMAGES.get(result.shift or "", result.n_available)
        if result.n_available != whole:
            notes.append(
                f"{result.name} has {result.n_available} images; {WORDS[result.shift or '']} as published has {whole}."
            )
        notes += read_notes(result)
    if predicted is not None:
        notes += predicted_notes(inner, predicted)
    return tuple(notes)


def _in_both(count: int, inner: SetResult, other: SetResult | Target) -> list[str]:
    return [f"{count} images are in both {inner.name} and {other.name}."] if count else []


def predicted_notes(inner: SetResult, predicted: Predicted) -> list[str]:
    """Return the notes on predicted accuracies."""
    notes = []
    if predicted.scores != "logits":
        notes.append(
            f"The class output holds {predicted.scores} ({predicted.scores_why}); confidences are taken as they are."
        )
    if predicted.scores_why == COSINES:
        notes.append(
            "The scores are cosines without a factor: their softmax is nearly flat, and DoC predicts hardly any change."
        )
    if inner.n_labels < inner.n_compete:
        notes.append(
            f"The labelled images of {inner.name} are of {inner.n_labels} of {inner.n_compete} classes; what is "
            "predicted holds for images of these classes only."
        )
    for each in predicted.targets:
        classes = each.classes
        notes += _in_both(each.in_both, inner, each)
        if classes.n_classes == 1:
            notes.append(f"All images of {each.name} are predicted to be of one class.")
        elif classes.are_shifted:
            notes.append(
                f"Other classes are predicted on {each.name} than on {inner.name} (total variation distance "
                f"{classes.distance:.2f}; {classes.expected_distance:.2f} by chance). Its classes may have other "
                "frequencies (label shift), which ATC and DoC take to be the same."
            )
        notes += read_notes(each)
    return notes


Several = str | Path | Sequence[str | Path]


def measure_shift(
    model: str | Path,
    images: str | Path,
    shifted: Several = (),
    *,
    target: Several = (),
    classes: Sequence[str] = (),
    baseline: str = "timm",
    report: str | Path | Report | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> ShiftReport:
    """Measure a classifier's top-1 accuracy under shift.

    Labelled sets are measured, unlabelled ones predicted, next to the verdict.

    Args:
        model: ONNX file with class scores.
        images: the labelled in-distribution set, `[NAME=]PATH`: a folder of class folders, or a manifest with labels.
        shifted: one labelled shifted set, or several, written in the same way.
        target: one unlabelled image set of any kind, or several, `[NAME=]PATH`; labels that one has are not read.
            Accuracy on it is predicted from the scores on it and on `images`.
        classes: which score belongs to which label, `[NAME=]MAP`, as `robustcheck shift --classes` takes them.
        baseline: timm or testbed: the models whose accuracies the shifted accuracy is compared with.
        report: of an earlier check of this model, or its JSON file; None = the check runs on `images`.
        isolate: as in `check`; one child reads the model and all sets.
        limits: as in `check`.
        progress: as in `check`.
        options: as in `check`; max_images is of each set.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: see each class; nothing is measured half.
    """
    clock = Clock()
    several, unlabelled = _texts(shifted), _texts(target)
    first, others, maps, targets = parse_call(str(images), several, classes, unlabelled)
    run = Options.of({**options, "images": as_typed(first.place)})
    path = local_path(model, "model")
    if isolate and isolation.is_possible(None, run.images, *(as_typed(spec.place) for spec in (*others, *targets))):
        return isolation.apart(measure_shift, str(model), limits)(
            model,
            images,
            shifted=several,
            target=unlabelled,
            classes=classes,
            baseline=baseline,
            report=report,
            progress=progress,
            **run.model_dump(exclude={"images"}),
        )
    limits.refuse_here()
    isolation.tell_stage(progress, "opening the model and the images")
    inputs = measure.read_inputs(Job(path, run))
    (opened,), contract = inputs.models, inputs.models[0].contract
    judged = None if report is None else judged_before(report, opened.digest)
    output = class_output(opened)
    preprocessing = inputs.preprocessing
    sources, unlabelled_sources = (
        [open_images(spec.place, seed=run.seed, limit=run.max_images) for spec in specs] for specs in (others, targets)
    )
    sources.insert(0, inputs.source)
    read = [labels.labels_of(source) for source in sources]
    isolation.tell_stage(progress, "loading the model")
    runner = measure.open_runner(inputs)
    scores = class_scores(runner, preprocessing.preprocessing)
    own, *rest = with_labels((first, *others), sources, read, maps, scores)
    collected = Collector(runner, str(first.place), own.map.compete)
    inner = measure_labelled(runner, own, inputs, progress, collected.add if targets else None)
    beside = [measure_labelled(runner, each, inputs, progress) for each in rest]
    results = [each.result for each in beside]
    for result in results:
        if result.digest == inner.result.digest:
            raise UsageError(
                f"{result.source}: images are those of {inner.result.source}; a shifted set must have other images",
                "--in photos/ --shifted sketches/",
            )
    predicted = None
    if targets:
        to_predict = [
            ImageSet(spec, source, (), own.map) for spec, source in zip(targets, unlabelled_sources, strict=True)
        ]
        predicted = predict_targets(inputs, inner, collected, to_predict, results, progress)
    if judged is None:
        checked = pipeline.check(model, isolate=False, progress=progress, **run.given)
        judged = verdict_of(checked, "checked now on the images of --in")
    compared = tuple(put_beside(inner.result, inner.digests, each.result, each.digests, baseline) for each in beside)
    n_images = sum(each.accuracy.n for each in (inner.result, *results))
    n_images += sum(each.n_images for each in predicted.targets) if predicted else 0
    source = contract.source if contract else None
    return ShiftReport(
        tool_version=VERSION,
        model=ModelUsed(
            file=str(opened.path),
            digest=opened.digest,
            source=f"{source.library} {source.name} ({'random weights' if source.random_weights else source.weights})"
            if source
            else "",
            class_output=output,
            n_classes=scores.n_classes,
            random_weights=source.random_weights if source else None,
            synthetic=source.synthetic if source else "",
        ),
        confidence=CONFIDENCE,
        in_distribution=inner.result,
        shifted=compared,
        accuracies=comparable_accuracies(inner.result, compared),
        predicted=predicted,
        baseline=baseline,
        verdict=judged,
        agreement=agree(judged, inner.result, compared, baseline),
        preprocessing=preprocessing.preprocessing,
        preprocessing_source=preprocessing.source,
        execution=runner.execution,
        seed=run.seed,
        notes=notes_of(inner.result, compared, predicted, inputs, runner.execution),
        claim=CLAIM,
        time=Time.until_now(clock, n_images),
    )


def _texts(given: Several) -> list[str]:
    return [str(each) for each in ([given] if isinstance(given, (str, Path)) else given)]
