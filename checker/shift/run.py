"""Accuracy under a distribution shift, where the user has labelled images, and what it says beside the verdict.

One loop runs the model. Silent; progress goes to a callback.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from robustcheck_onnx.checker import isolated, measure, pipeline
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Execution, Options, Preprocessing, RunOptions
from robustcheck_onnx.checker.images import ImageSource, Skipped, digest_of_set, open_images
from robustcheck_onnx.checker.limits import NO_LIMITS, Limits
from robustcheck_onnx.checker.measure import ImagesRead, Inputs, Job, Prepared, Progress, stack
from robustcheck_onnx.checker.model import Contract, ModelFile
from robustcheck_onnx.checker.report import Clock, Report, Time
from robustcheck_onnx.checker.runtime import Runner
from robustcheck_onnx.checker.statistics import CONFIDENCE, wilson
from robustcheck_onnx.checker.storage import as_typed, local_path
from robustcheck_onnx.checker.verdict import execution_notes, model_notes, skipped_note

from . import labels
from .call import Spec, judged_before, parse_call, verdict_of
from .records import ModelUsed, SetResult, Shifted, ShiftReport
from .robustness import CLAIM, IMAGES, LABEL_SET, WORDS, agree, comparable_accuracies, put_beside


class _LabelledSet(NamedTuple):
    """An image set with its class map, before the model has run on it."""

    spec: Spec
    source: ImageSource
    labels: tuple[str, ...]
    map: labels.ClassMap


def measure_shift(
    model: str | Path,
    images: str | Path,
    shifted: str | Path | Sequence[str | Path],
    *,
    classes: Sequence[str] = (),
    baseline: str = "timm",
    report: str | Path | Report | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> ShiftReport:
    """Measure a classifier's top-1 accuracy on labelled sets, and compare with the verdict of the check.

    Args:
        model: ONNX file with class scores.
        images: the labelled in-distribution set, `[NAME=]PATH`: a folder of class folders, or a manifest with labels.
        shifted: one labelled shifted set, or several, written in the same way.
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
    several = [shifted] if isinstance(shifted, (str, Path)) else shifted
    first, others, maps = parse_call(str(images), [str(each) for each in several], classes)
    run = Options.of({**options, "images": as_typed(first.place)})
    path = local_path(model, "model")
    if isolate and isolated.is_possible(None, run.images, *(as_typed(spec.place) for spec in others)):
        arguments = {
            "model": str(model),
            "images": str(images),
            "shifted": [str(each) for each in several],
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
    output = _class_output(opened)
    preprocessing = inputs.preprocessing
    sources = [
        inputs.source,
        *(open_images(spec.place, seed=run.seed, limit=run.max_images) for spec in others),
    ]
    read = [labels.labels_of(source) for source in sources]
    measure.tell_stage(progress, "loading the model")
    runner = Runner(opened, run.device, preprocessing=preprocessing.preprocessing, batch_size=run.batch_size)
    scores = _scores(runner, preprocessing.preprocessing)
    folders = sorted(set(read[0]))
    sets = [
        _LabelledSet(
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
    measured = [_measure(runner, each, inputs, progress) for each in sets]
    (inner, inner_digests), *rest = measured
    for result, _ in rest:
        if result.digest == inner.digest:
            raise UsageError(
                f"{result.source}: images are those of {inner.source}; a shifted set must have other images",
                "--in photos/ --shifted sketches/",
            )
    if judged is None:
        checked = pipeline.check(model, isolate=False, progress=progress, **run.given)
        judged = verdict_of(checked, "checked now on the images of --in")
    beside = tuple(put_beside(inner, inner_digests, result, digests, baseline) for result, digests in rest)
    n_images = inner.accuracy.n + sum(each.result.accuracy.n for each in beside)
    return ShiftReport(
        tool_version=version("robustcheck-onnx"),
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
        shifted=beside,
        accuracies=comparable_accuracies(inner, beside),
        baseline=baseline,
        verdict=judged,
        agreement=agree(judged, inner, beside, baseline),
        preprocessing=preprocessing.preprocessing,
        preprocessing_source=preprocessing.source,
        execution=runner.execution,
        seed=run.seed,
        notes=_notes(inner, beside, preprocessing.source, opened, runner.execution),
        claim=CLAIM,
        time=Time.until_now(clock, n_images),
    )


def _source(contract: Contract | None) -> str:
    if contract is None:
        return ""
    source = contract.source
    return f"{source.library} {source.name} ({'random weights' if source.random_weights else source.weights})"


def _class_output(opened: ModelFile) -> str:
    if opened.class_output is None:
        raise CannotAssessError(
            f"{opened.path}: class output is missing; accuracy needs a model with class scores",
            "robustcheck export … --zero-shot CLASSES.txt gives an image-text encoder a head, and --head NAME a torch "
            "model",
        )
    return opened.class_output


def _scores(runner: Runner, preprocessing: Preprocessing) -> labels.Scores:
    """How many classes the model scores, asked of the model itself with one black image."""
    opened = runner.model
    black = np.zeros((1, *preprocessing.size, 3), dtype=np.float32)
    output = runner.run(black).class_output
    assert output is not None
    columns, head = output.shape[1], opened.head.classes if opened.head else None
    if columns < 2 or head not in (None, columns):
        raise CannotAssessError(
            f"{opened.path}: class output {opened.class_output!r} has {columns} values an image"
            + (f", its last linear layer {head}" if head else "")
            + "; one score for each of at least two classes is needed",
            "export the model without ArgMax or TopK at its end",
        )
    names = opened.contract.zero_shot.classes if opened.contract and opened.contract.zero_shot else ()
    if names and len(names) != columns:
        raise CannotAssessError(
            f"{opened.path}: number of class names in the contract is {len(names)}; the model has {columns} classes",
            "export the model again with `robustcheck export`",
        )
    return labels.Scores(columns, names)


@dataclass(frozen=True)
class _Labelled(Prepared):
    """One image, ready for the model."""

    right: tuple[int, ...]
    """the classes that are right for it"""


def _measure(
    runner: Runner, each: _LabelledSet, inputs: Inputs, progress: Callable[[Progress], None] | None
) -> tuple[SetResult, list[str]]:
    """Run one set through the model: its accuracy, and the digests of its images."""
    run, read = inputs.job.options, ImagesRead()
    n_correct = 0
    seen: set[tuple[int, ...]] = set()
    with measure.decode(replace(inputs, described=None), each.source, execution=runner.execution) as decoded:
        labelled = (
            image if isinstance(image, Skipped) else _Labelled(**vars(image), right=each.map.indices[label])
            for image, label in zip(decoded, each.labels, strict=True)
        )
        for batch in measure.batches(
            labelled, read, run.batch_size, n_images=len(each.source), progress=progress, label=lambda: each.spec.name
        ):
            seen.update(image.right for image in batch)
            n_correct += _count(runner, batch, each)
    read.check_usable(each.source, run.max_bad, sampled=each.source.n_found > len(each.source))
    digests = list(read.digests)
    result = SetResult(
        name=each.spec.name,
        source=str(each.spec.place),
        shift=each.spec.shift,
        label_set=each.map.label_set,
        labels=each.map.how,
        n_labels=len(seen),
        n_compete=len(each.map.compete),
        n_available=each.source.n_found,
        n_read=read.n_read,
        n_skipped=len(read.skipped),
        skipped=measure.named_skips(read.skipped),
        digest=digest_of_set(digests),
        accuracy=wilson(n_correct, len(digests)),
    )
    return result, digests


def _count(runner: Runner, batch: Sequence[_Labelled], each: _LabelledSet) -> int:
    """How many images of a batch are predicted right."""
    output = runner.run(stack(batch)).class_output
    assert output is not None
    try:
        return int(labels.is_correct(output, [image.right for image in batch], each.map.compete).sum())
    except ValueError as fault:
        raise CannotAssessError(
            f"{runner.model.path}: class scores on {each.spec.place} are not all numbers; accuracy needs a prediction "
            "for every image",
            f"robustcheck inspect {shlex.quote(str(runner.model.path))}",
        ) from fault


def _notes(
    inner: SetResult, beside: Sequence[Shifted], preprocessing: str, opened: ModelFile, execution: Execution
) -> tuple[str, ...]:
    """Write what a reader must know beside the accuracies."""
    source = opened.contract.source if opened.contract else None
    notes = model_notes(
        source.synthetic if source else "",
        random_weights=bool(source and source.random_weights),
        preprocessing=preprocessing,
        left_out=opened.left_out,
    )
    notes += execution_notes(execution)
    results = (inner, *(each.result for each in beside))
    if any(result.label_set in LABEL_SET.values() and result.label_set != "file" for result in results):
        notes.append("The model's 1000 classes are taken to be in ImageNet-1k's order.")
    if len({result.n_compete for result in results}) > 1:
        notes.append(
            "The sets are measured with different numbers of classes; part of their difference comes from that."
        )
    for each in beside:
        if each.in_both:
            notes.append(f"{each.in_both} images are in both {inner.name} and {each.result.name}.")
    for result in results:
        whole = IMAGES.get(result.shift or "", result.n_available)
        if result.n_available != whole:
            notes.append(
                f"{result.name} has {result.n_available} images; {WORDS[result.shift or '']} as published has {whole}."
            )
        notes += skipped_note(result.n_skipped, result.n_read, result.skipped, result.name)
        if result.n_read < result.n_available:
            notes.append(f"{result.name}: {result.n_read} of {result.n_available} images, drawn by seed.")
    return tuple(notes)
