"""Accuracy under a distribution shift, where the user has labelled images, and what it says beside the verdict.

One loop runs the model. Silent; progress goes to a callback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

from robustcheck_onnx.checker import isolated, measure, pipeline
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import Options, RunOptions
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.limits import NO_LIMITS, Limits
from robustcheck_onnx.checker.measure import Job, Progress
from robustcheck_onnx.checker.model import Contract
from robustcheck_onnx.checker.report import Clock, Report, Time
from robustcheck_onnx.checker.runtime import Runner
from robustcheck_onnx.checker.statistics import CONFIDENCE
from robustcheck_onnx.checker.storage.places import as_typed, local_path
from robustcheck_onnx.checker.text import VERSION

from . import labels
from .call import judged_before, parse_call, verdict_of
from .notes import notes_of
from .records import ModelUsed, ShiftReport
from .robustness import CLAIM, agree, comparable_accuracies, put_beside
from .sets import LabelledSet, UnlabelledSet, class_output, class_scores, measure_labelled
from .target import Collector, Measured, predict_targets

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
    """Measure a classifier's top-1 accuracy on labelled sets and predict it on unlabelled ones, beside the verdict.

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
    if isolate and isolated.is_possible(None, run.images, *(as_typed(spec.place) for spec in (*others, *targets))):
        arguments = {
            "model": str(model),
            "images": str(images),
            "shifted": several,
            "target": unlabelled,
            "classes": list(classes),
            "baseline": baseline,
            "report": report.model_dump(mode="json") if isinstance(report, Report) else report and str(report),
            "options": {name: value for name, value in run.given.items() if name != "images"},
        }
        record = ShiftReport.model_validate
        return isolated.call("shift", arguments, record, about=str(model), limits=limits, progress=progress)
    limits.refuse_here()
    measure.tell_stage(progress, "opening the model and the images")
    inputs = measure.read_inputs(Job(path, run))
    (opened,), contract = inputs.models, inputs.models[0].contract
    judged = None if report is None else judged_before(report, opened.digest)
    output = class_output(opened)
    preprocessing = inputs.preprocessing
    sources = [
        inputs.source,
        *(open_images(spec.place, seed=run.seed, limit=run.max_images) for spec in others),
    ]
    to_predict = [UnlabelledSet(spec, open_images(spec.place, seed=run.seed, limit=run.max_images)) for spec in targets]
    read = [labels.labels_of(source) for source in sources]
    measure.tell_stage(progress, "loading the model")
    runner = Runner(opened, run.device, preprocessing=preprocessing.preprocessing, batch_size=run.batch_size)
    scores = class_scores(runner, preprocessing.preprocessing)
    folders = sorted(set(read[0]))
    sets = [
        LabelledSet(
            spec,
            source,
            known,
            labels.class_map(
                maps.get(spec.name, maps.get("")),
                known,
                scores,
                where=str(spec.place),
                shift=spec.shift,
                sorted_names=folders,
            ),
        )
        for spec, source, known in zip((first, *others), sources, read, strict=True)
    ]
    collector = Collector(runner, str(first.place), sets[0].map.compete)
    collect = collector.add_labelled if to_predict else None
    inner, inner_digests = measure_labelled(runner, sets[0], inputs, progress, collect)
    rest = [measure_labelled(runner, each, inputs, progress) for each in sets[1:]]
    for result, _ in rest:
        if result.digest == inner.digest:
            raise UsageError(
                f"{result.source}: images are those of {inner.source}; a shifted set must have other images",
                "--in photos/ --shifted sketches/",
            )
    predicted = None
    if to_predict:
        predicted = predict_targets(
            runner,
            inputs,
            Measured(sets[0], inner, inner_digests, collector),
            to_predict,
            [result for result, _ in rest],
            progress,
        )
    if judged is None:
        checked = pipeline.check(model, isolate=False, progress=progress, **run.given)
        judged = verdict_of(checked, "checked now on the images of --in")
    compared = tuple(put_beside(inner, inner_digests, result, digests, baseline) for result, digests in rest)
    n_images = inner.accuracy.n + sum(each.result.accuracy.n for each in compared)
    n_images += sum(each.n_images for each in predicted.targets) if predicted else 0
    return ShiftReport(
        tool_version=VERSION,
        model=ModelUsed(
            file=str(opened.path),
            digest=opened.digest,
            source=_source(contract),
            class_output=output,
            n_classes=scores.n_classes,
            random_weights=contract.source.random_weights if contract else None,
            synthetic=contract.source.synthetic if contract else "",
        ),
        confidence=CONFIDENCE,
        in_distribution=inner,
        shifted=compared,
        accuracies=comparable_accuracies(inner, compared),
        predicted=predicted,
        baseline=baseline,
        verdict=judged,
        agreement=agree(judged, inner, compared, baseline),
        preprocessing=preprocessing.preprocessing,
        preprocessing_source=preprocessing.source,
        execution=runner.execution,
        seed=run.seed,
        notes=notes_of(inner, compared, predicted, preprocessing.source, opened, runner.execution),
        claim=CLAIM,
        time=Time.until_now(clock, n_images),
    )


def _source(contract: Contract | None) -> str:
    if contract is None:
        return ""
    source = contract.source
    return f"{source.library} {source.name} ({'random weights' if source.random_weights else source.weights})"


def _texts(given: Several) -> list[str]:
    return [str(each) for each in ([given] if isinstance(given, (str, Path)) else given)]
