"""Analyse the directions of a model's linear head. One pass over the images, then linear algebra.

Information, not a verdict. Labels of a labelled set become classes of the head, as in `shift`. Silent; progress goes to
a callback.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import RunOptions
from robustcheck_onnx.checker.images.source import Images, open_images
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits, Progress
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.measure.run import Inputs
from robustcheck_onnx.checker.report.record import Clock, Time
from robustcheck_onnx.checker.runtime.head import head_from_file, read_head
from robustcheck_onnx.checker.shift import labels, robustness, sets
from robustcheck_onnx.checker.shift.records import SetResult
from robustcheck_onnx.checker.statistics.definitions import CONFIDENCE, usable_rows
from robustcheck_onnx.checker.storage.places import as_typed, local_path
from robustcheck_onnx.checker.text import VERSION, count_text, quoted
from robustcheck_onnx.checker.verdict.notes import execution_notes, image_notes

from .analysis import Labelled, SameWeightsError, analyse, correct
from .document import DirectionsReport, HeadModel, spectrum_notes, summary_of


def parse_sets(
    labelled: str | Path | None, shifted: Sequence[str | Path], classes: Sequence[str]
) -> tuple[list[sets.Spec], dict[str, str]]:
    """Return the sets of a call, with their class maps. The in-distribution one comes first (`shift.sets.parse_call`).

    Raises UsageError as that, and for shifted sets or class maps without an in-distribution set.
    """
    if labelled is not None:
        named = sets.parse_call(str(labelled), [str(each) for each in shifted], classes, alone=True)
        return [named.inside, *named.shifted], named.maps
    for option, values in (("--shifted", shifted), ("--classes", classes)):
        if values:
            raise UsageError(
                f"{option} is given without --in; accuracy starts from labelled in-distribution images",
                f"--in photos/ {option} {quoted(values[0])}",
            )
    return [], {}


MAX_IMAGES = 300  # of each set by default: intervals of a share are then 6 points to each side at most
MIN_IMAGES = 2  # fewer have no mean to be replaced by, and no interval
FEW_IMAGES = 50  # a check needs as many


def directions(
    model: str | Path,
    *,
    images: Images | None = None,
    head: str | Path | None = None,
    labelled: str | Path | None = None,
    shifted: Sequence[str | Path] = (),
    classes: Sequence[str] = (),
    baseline: str = "timm",
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> DirectionsReport:
    """Measure the directions of a classifier's head.

    Which weigh most, and what is left of the predictions without others?

    Args:
        model: path of the ONNX file: a classifier, or an encoder with `head`.
        images: as in `check`; those of `labelled` where only these are given.
        head: file with the weights of a linear head: .npy (class, feature), or .safetensors with weight and bias.
        labelled: in-distribution images with labels, as in `measure_shift`: accuracy is measured on them, too.
        shifted: shifted sets with labels, as in `measure_shift`.
        classes: what labels mean, as in `measure_shift`.
        baseline: timm or testbed, as in `measure_shift`.
        isolate: as in `check`.
        limits: as in `check`.
        progress: called when a stage begins and after every batch.
        options: as in `check`; max_images is of each set, and 300 unless it is given; tensor and pool belong to `head`.

    Raises:
        UsageError: as for a check and `measure_shift`; a head file of another kind, shape or width; tensor
            without head.
        CannotAssessError: as for a check; no head, or several; scores that are not W·h + b; fewer than two images;
            values that are not finite; classes with the same weights.
        EnvironmentFaultError: as for a check.
    """
    clock = Clock()
    specs, maps = parse_sets(labelled, shifted, classes)
    if images is None and specs:
        images = as_typed(specs[0].place)
    run, given = measure.settle(images, options, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    if head is None and (run.tensor is not None or run.pool is not None):
        raise UsageError(
            "--tensor or --pool is given without --head; the model's own head fixes the tensor",
            "--head FILE.npy, or leave --tensor and --pool out",
        )
    if isolate and isolation.is_possible(given, run.images, *(as_typed(each.place) for each in specs)):
        return isolation.apart(directions, str(model), limits)(
            model,
            head=head,
            labelled=labelled,
            shifted=shifted,
            classes=classes,
            baseline=baseline,
            progress=progress,
            **run.given,
        )
    limits.refuse_here()
    isolation.tell_stage(progress, "opening the model and the images")
    job = Job(path, run)
    inputs = measure.read_head_input(job, source=given) if head is None else measure.read_inputs(job, source=given)
    (opened,) = inputs.models
    own = None if head is not None else read_head(opened)
    isolation.tell_stage(progress, "loading the model")
    are_photos = inputs.source.kind != "tensors"
    runner = measure.open_runner(inputs, photos=are_photos)
    linear = own or head_from_file(Path(str(head)), measure.n_features(runner, inputs))
    sources = [
        inputs.source
        if i == 0 and as_typed(spec.place) == run.images
        else open_images(spec.place, seed=run.seed, limit=run.max_images)
        for i, spec in enumerate(specs)
    ]
    n_classes, names = len(linear.bias), sets.class_names(opened)
    scores = labels.Scores(n_classes, names if len(names) == n_classes else ())
    prepared = sets.with_labels(specs, sources, [labels.labels_of(source) for source in sources], maps, scores)
    collected = measure.collect(runner, inputs, progress=progress)
    difference = None if own is None else measure.difference_of_head(own, collected, opened)
    h = collected.representations[usable_rows(collected.representations).usable]
    if len(h) < MIN_IMAGES:
        raise CannotAssessError(
            f"{opened.path}: number of images with a representation that is not constant is {len(h)}; at least "
            f"{MIN_IMAGES} are needed",
            "--images FOLDER with photos",
        )
    for_labels = runner if are_photos or not prepared else measure.open_runner(inputs, photos=True)
    measured, results = list[Labelled](), list[tuple[SetResult, Sequence[str]]]()
    for each in prepared:
        of_set = collected
        if each.source is not inputs.source:
            of_set = measure.collect(for_labels, inputs, each.source, progress=progress, label=each.spec.name)
        usable = set(of_set.names)  # skipped images have no row
        right = [right for entry, right in zip(each.source.entries, each.right, strict=True) if entry.name in usable]
        predicted = Labelled(each.spec.name, of_set.representations, right, each.map.compete)
        result = each.result(of_set.read, len(set(right)), correct(linear, predicted))
        measured.append(predicted._replace(result=result))
        results.append((result, of_set.digests))
    isolation.tell_stage(progress, "decomposing the head")
    beside = tuple(robustness.put_beside(*results[0], *each, baseline) for each in results[1:])
    try:
        raw, centred, outliers = analyse(linear, h, labelled=measured, baseline=baseline, seed=run.seed)
    except SameWeightsError as fault:
        raise CannotAssessError(
            f"{opened.path}: weights of {linear.source} are the same for all classes; a prediction must depend on "
            "the image",
            f"robustcheck inspect {quoted(opened.path)}",
        ) from fault
    report = DirectionsReport(
        tool_version=VERSION,
        model=HeadModel(
            **measure.model_read(opened),
            head=linear.source,
            n_classes=len(linear.bias),
            n_features=linear.weight.shape[1],
            score_difference=difference,
        ),
        n_images=len(h),
        n_left_out=len(collected.representations) - len(h),
        raw=raw,
        centred=centred,
        outliers=outliers,
        confidence=CONFIDENCE,
        in_distribution=results[0][0] if results else None,
        shifted=beside,
        baseline=baseline,
        summary=summary_of(raw),
        preprocessing=inputs.preprocessing,
        images=collected.read.facts(inputs.source),
        execution=runner.execution,
        notes=(),
        time=Time.until_now(clock, collected.read.n_usable),
    )
    return report.model_copy(update={"notes": _notes(report, inputs, [result for result, _ in results])})


def _notes(report: DirectionsReport, inputs: Inputs, labelled: Sequence[SetResult]) -> tuple[str, ...]:
    """Write what a reader must know next to the numbers."""
    notes = measure.question_notes(inputs) + image_notes(report.images)
    if report.n_images < FEW_IMAGES:
        notes.append(f"Only {report.n_images} images: intervals are wide, and the order of the directions can change.")
    if report.n_left_out:
        left_out = count_text(report.n_left_out, "image")
        notes.append(f"{left_out} left out: the representation is the same in all features.")
    notes += spectrum_notes(report.raw)
    notes += [f"Image set: {finding.seen}." for finding in report.images.sanity.findings]
    for result in labelled:
        if result.n_labels < result.n_compete:
            notes.append(f"{result.name}: {result.n_labels} of {result.n_compete} classes have images.")
        notes += reversed(sets.read_notes(result))
    return (*notes, *execution_notes(report.execution))
