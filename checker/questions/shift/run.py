"""Measure accuracy under a distribution shift. The user's labelled images are measured next to the verdict.

One loop runs the model. Silent; progress goes to a callback. The notes are here, too.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

from ...calls import public
from ...core.evidence import Execution
from ...core.measure.opening import Inputs, open_runner, question_notes
from ...core.model.open import ModelFile
from ...core.options import RunOptions
from ...core.progress import Progress, Tell, tell_stage
from ...core.statistics.intervals import CONFIDENCE
from ...core.verdict.notes import execution_notes, skipped_note
from ...errors import UsageError
from ...outside.isolation import NO_LIMITS, Limits
from ...outside.storage.places import as_typed, local_path
from ...report.check import Report, read_one
from ...report.record import Time
from ...text import VERSION, Fields, Texts
from .. import check as pipeline
from ..call import QuestionRun
from . import robustness, sets
from .confidence import COSINES, Collector
from .document import ModelUsed, ShiftReport
from .predicted import Predicted, Target, predict_targets
from .robustness import IMAGES, WORDS, ComparedVerdict, SetResult, Shifted, agree

Several = str | Path | Sequence[str | Path]


@public('rc.measure_shift("model.onnx", "photos/", "shifted/")')
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
    """Measure a classifier's top-1 accuracy on labelled shifted sets, and predict it on unlabelled ones.

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
    several = _texts(shifted)
    unlabelled = _texts(target)
    named = sets.parse_call(str(images), several, classes, unlabelled)
    run = QuestionRun.begin(as_typed(named.inside.place), options, progress)
    path = local_path(model, "model")
    others = (*named.shifted, *named.targets)
    places = [as_typed(spec.place) for spec in others]
    if child := run.child(measure_shift, model, limits, isolate, *places):
        asked: Fields = {"shifted": several, "target": unlabelled, "classes": classes, "baseline": baseline}
        settled = run.options.model_dump(exclude={"images"})
        return child(model, images, report=report, progress=progress, **asked, **settled)
    inputs = run.read(path)
    (opened,) = inputs.models
    judged = None if report is None else judged_before(report, opened.file.digest)
    sets.class_output(opened)  # refuses a model without one
    measured = _measure(named, inputs, baseline, progress)
    if judged is None:
        checked = pipeline.check(model, isolate=False, progress=progress, **run.options.keywords)
        judged = verdict_of(checked, "checked now on the images of --in")
    inside = measured.inside
    n_images = inside.accuracy.n
    n_images += sum(other.result.accuracy.n for other in measured.shifted)
    if measured.predicted:
        n_images += sum(each.n_images for each in measured.predicted.targets)
    return ShiftReport(
        tool_version=VERSION,
        model=_model(opened, measured.n_classes),
        confidence=CONFIDENCE,
        in_distribution=inside,
        shifted=measured.shifted,
        accuracies=robustness.comparable_accuracies(inside, measured.shifted),
        predicted=measured.predicted,
        baseline=baseline,
        verdict=judged,
        agreement=agree(judged, inside, measured.shifted, baseline),
        preprocessing=inputs.preprocessing.preprocessing,
        preprocessing_source=inputs.preprocessing.source,
        execution=measured.execution,
        seed=run.options.seed,
        notes=notes_of(inside, measured.shifted, measured.predicted, inputs, measured.execution),
        claim=robustness.CLAIM,
        time=Time.until_now(run.clock, n_images),
    )


class SetsMeasured(NamedTuple):
    """What was measured of a call's image sets."""

    inside: SetResult
    shifted: tuple[Shifted, ...]
    predicted: Predicted | None
    n_classes: int
    execution: Execution


def _measure(named: sets.NamedSets, inputs: Inputs, baseline: str, progress: Tell | None) -> SetsMeasured:
    """Measure accuracy on the labelled sets, and predict it on the others."""
    sources = [inputs.source, *sets.open_sets(named.shifted, inputs)]
    targets = sets.open_sets(named.targets, inputs)
    labels = [sets.labels_of(source) for source in sources]
    tell_stage(progress, "loading the model")
    runner = open_runner(inputs)
    scores = sets.class_scores(runner, inputs.preprocessing.preprocessing)
    labelled_specs = (named.inside, *named.shifted)
    own, *rest = sets.with_labels(labelled_specs, sources, labels, named.maps, scores)
    collected = Collector(runner, str(own.spec.place), own.map.compete)
    collect = collected.add if targets else None
    inner = sets.measure_labelled(runner, own, inputs, progress, collect)
    labelled = [sets.measure_labelled(runner, image_set, inputs, progress) for image_set in rest]
    for other in labelled:
        if other.result.digest == inner.result.digest:
            raise UsageError(
                f"{other.result.source}: images are those of {inner.result.source}; a shifted set must have other "
                "images",
                "--in photos/ --shifted sketches/",
            )
    predicted = None
    if targets:
        unlabelled = zip(named.targets, targets, strict=True)
        to_predict = [sets.ImageSet(spec, source, (), own.map) for spec, source in unlabelled]
        results = [other.result for other in labelled]
        predicted = predict_targets(inputs, inner, collected, to_predict, results, progress)
    shifted = [
        robustness.compare_sets(inner.result, inner.digests, other.result, other.digests, baseline)
        for other in labelled
    ]
    return SetsMeasured(inner.result, tuple(shifted), predicted, scores.n_classes, runner.execution)


def _model(opened: ModelFile, n_classes: int) -> ModelUsed:
    source = opened.contract.source if opened.contract else None
    words = ""
    if source is not None:
        weights = "random weights" if source.random_weights else source.weights
        words = f"{source.library} {source.name} ({weights})"
    return ModelUsed(
        file=str(opened.path),
        digest=opened.file.digest,
        source=words,
        class_output=opened.class_output or "",
        n_classes=n_classes,
        random_weights=source.random_weights if source else None,
        synthetic=source.synthetic if source else "",
    )


def _texts(places: Several) -> list[str]:
    if isinstance(places, str | Path):
        return [str(places)]
    return [str(place) for place in places]


def judged_before(source: str | Path | Report, digest: str) -> ComparedVerdict:
    """Return the verdict of an earlier check from a report of the same model, or from its file.

    Raises as `report.check.read_one`, and UsageError for a report about a model with another digest.
    """
    where = "report"
    if isinstance(source, Report):
        report = source
    else:
        report = read_one(Path(source))
        where = f"report {source}"
    of_report = report.evidence.model.digest
    if of_report != digest:
        raise UsageError(
            f"{where}: model of the report has digest {of_report}; this model has {digest}, and they must be the same",
            "robustcheck model.onnx --images photos/ -o json=report.json",
        )
    return verdict_of(report, where)


def verdict_of(report: Report, where: str) -> ComparedVerdict:
    """Return the verdict of a check, with its basis. `where` says in words where the report comes from."""
    return ComparedVerdict(
        verdict=report.verdict.verdict,
        reasons=tuple(reason.id for reason in report.verdict.reasons),
        profile=f"{report.profile.id} {report.profile.digest}",
        n_images=report.evidence.statistics.n_images,
        tensor=report.evidence.model.tensor,
        origin=where,
    )


def notes_of(
    inner: SetResult, shifted: Sequence[Shifted], predicted: Predicted | None, inputs: Inputs, execution: Execution
) -> Texts:
    """Write what a reader must know next to the accuracies."""
    notes = question_notes(inputs) + execution_notes(execution)
    results = (inner, *(s.result for s in shifted))
    if any(result.label_set not in ("", "file") for result in results):
        notes.append("The model's 1000 classes are taken to be in ImageNet-1k's order.")
    if len({result.n_compete for result in results}) > 1:
        notes.append(
            "The sets are measured with different numbers of classes; part of their difference comes from that."
        )
    for other in shifted:
        notes += _in_both(other.in_both, inner, other.result)
    for result in results:
        total = IMAGES.get(result.shift or "", result.n_available)
        if result.n_available != total:
            notes.append(
                f"{result.name} has {result.n_available} images; {WORDS[result.shift or '']} as published has {total}."
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
    for target in predicted.targets:
        classes = target.classes
        notes += _in_both(target.in_both, inner, target)
        if classes.n_classes == 1:
            notes.append(f"All images of {target.name} are predicted to be of one class.")
        elif classes.are_shifted:
            notes.append(
                f"Other classes are predicted on {target.name} than on {inner.name} (total variation distance "
                f"{classes.distance:.2f}; {classes.expected_distance:.2f} by chance). Its classes may have other "
                "frequencies (label shift), which ATC and DoC take to be the same."
            )
        notes += read_notes(target)
    return notes


def read_notes(read: SetResult | Target) -> list[str]:
    """Note which images of a set were not measured."""
    notes = skipped_note(read.n_skipped, read.n_read, read.skipped, read.name)
    if read.n_read < read.n_available:
        notes.append(f"{read.name}: {read.n_read} of {read.n_available} images, drawn by seed.")
    return notes
