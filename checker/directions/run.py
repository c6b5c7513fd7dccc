"""Analyse the directions of a model's linear head. One pass over the images, then linear algebra.

Information, not a verdict. Labels of a labelled set become classes of the head, as in `shift`. Silent; progress goes to
a callback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import ImageFacts, Options, RunOptions
from robustcheck_onnx.checker.images.source import Images, ImageSource, Skipped, check_bad, digest_of_set, open_images
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits, Progress
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Job, named_skips, stack
from robustcheck_onnx.checker.measure.run import Collected, Inputs
from robustcheck_onnx.checker.model import ModelFile
from robustcheck_onnx.checker.report import Clock, Time
from robustcheck_onnx.checker.runtime import (
    LinearHead,
    Runner,
    head_from_file,
    read_head,
)
from robustcheck_onnx.checker.shift import SetResult, labels, robustness, sets
from robustcheck_onnx.checker.statistics import CONFIDENCE, usable_rows, wilson
from robustcheck_onnx.checker.storage.places import as_typed, local_path
from robustcheck_onnx.checker.text import VERSION, count_text, quoted
from robustcheck_onnx.checker.verdict import execution_notes, image_notes, model_notes, skipped_note

from .analysis import Labelled, SameWeightsError, Sets, analyse, correct
from .records import Analysis, DirectionsReport, HeadModel, spectrum_notes, summary_of


class LabelledSet(NamedTuple):
    """A labelled set with its class map, not yet run."""

    spec: sets.Spec
    source: ImageSource
    labels: tuple[str, ...]
    map: labels.ClassMap


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


def with_maps(
    specs: Sequence[sets.Spec],
    inputs: Inputs,
    run: Options,
    maps: dict[str, str],
    head: LinearHead,
    opened: ModelFile,
) -> list[LabelledSet]:
    """Open the labelled sets and read their labels. The in-distribution set comes first."""
    names = opened.contract.zero_shot.classes if opened.contract and opened.contract.zero_shot else ()
    known = labels.Scores(len(head.bias), names if len(names) == len(head.bias) else ())
    prepared: list[LabelledSet] = []
    for spec in specs:
        is_open = not prepared and as_typed(spec.place) == run.images
        source = inputs.source if is_open else open_images(spec.place, seed=run.seed, limit=run.max_images)
        of_images = labels.labels_of(source)
        folders = sorted(set(prepared[0].labels if prepared else of_images))
        which = maps.get(spec.name, maps.get(""))
        class_map = labels.class_map(
            which, of_images, known, where=str(spec.place), shift=spec.shift, sorted_names=folders
        )
        prepared.append(LabelledSet(spec, source, of_images, class_map))
    return prepared


def put_labels(each: LabelledSet, collected: Collected) -> Labelled:
    """Return the label of each usable image. They are in the order of the representations; skipped images have none."""
    right, names = [], iter(collected.names)
    name = next(names, None)
    for entry, label in zip(each.source.entries, each.labels, strict=True):
        if entry.name == name:
            right.append(each.map.indices[label])
            name = next(names, None)
    return Labelled(each.spec.name, collected.representations, right, each.map.compete)


def result_of(each: LabelledSet, collected: Collected, labelled: Labelled, head: LinearHead) -> SetResult:
    """Measure the whole head's accuracy on a labelled set."""
    read = collected.read
    return SetResult(
        name=each.spec.name,
        source=str(each.spec.place),
        shift=each.spec.shift,
        label_set=each.map.label_set,
        labels=each.map.how,
        n_labels=len(set(labelled.right)),
        n_compete=len(each.map.compete),
        n_available=each.source.n_found,
        n_read=read.n_read,
        n_skipped=len(read.skipped),
        skipped=named_skips(read.skipped),
        digest=digest_of_set(list(collected.digests)),
        accuracy=wilson(correct(head, labelled), len(labelled.right)),
    )


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
    sets, maps = parse_sets(labelled, shifted, classes)
    if images is None and sets:
        images = as_typed(sets[0].place)
    run, given = measure.settle(images, options, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    if head is None and (run.tensor is not None or run.pool is not None):
        raise UsageError(
            "--tensor or --pool is given without --head; the model's own head says what it acts on",
            "--head FILE.npy, or leave --tensor and --pool out",
        )
    if isolate and isolation.is_possible(given, run.images, *(as_typed(each.place) for each in sets)):
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
    runner = _runner(inputs, photos=are_photos)
    linear = own or head_from_file(Path(str(head)), _width(runner, inputs))
    prepared = with_maps(sets, inputs, run, maps, linear, opened)
    collected = measure.collect(runner, inputs, progress=progress)
    difference = None if own is None else measure.difference_of_head(own, collected, opened)
    h = collected.representations[usable_rows(collected.representations).usable]
    if len(h) < MIN_IMAGES:
        raise CannotAssessError(
            f"{opened.path}: number of images with a representation that is not constant is {len(h)}; at least "
            f"{MIN_IMAGES} are needed",
            "--images FOLDER with photos",
        )
    for_labels = runner if are_photos or not prepared else _runner(inputs, photos=True)
    measured, results, digests = list[Labelled](), list[SetResult](), list[tuple[str, ...]]()
    for each in prepared:
        of_set = collected
        if each.source is not inputs.source:
            of_set = measure.collect(for_labels, inputs, each.source, progress=progress, label=each.spec.name)
        measured.append(put_labels(each, of_set))
        results.append(result_of(each, of_set, measured[-1], linear))
        digests.append(of_set.digests)
    isolation.tell_stage(progress, "decomposing the head")
    inner = results[0] if results else None
    beside = tuple(
        robustness.put_beside(results[0], digests[0], result, of_result, baseline)
        for result, of_result in zip(results[1:], digests[1:], strict=True)
    )
    try:
        of_sets = Sets(inner, tuple(results[1:]), baseline)
        raw, centred, outliers = analyse(linear, h, labelled=measured, sets=of_sets, seed=run.seed)
    except SameWeightsError as fault:
        raise CannotAssessError(
            f"{opened.path}: weights of {linear.source} are the same for all classes; a prediction must depend on "
            "the image",
            _inspect(opened),
        ) from fault
    facts = collected.read.facts(inputs.source)
    n_left_out = len(collected.representations) - len(h)
    return DirectionsReport(
        tool_version=VERSION,
        model=HeadModel(
            **measure.model_read(opened),
            head=linear.source,
            n_classes=len(linear.bias),
            n_features=linear.weight.shape[1],
            score_difference=difference,
        ),
        n_images=len(h),
        n_left_out=n_left_out,
        raw=raw,
        centred=centred,
        outliers=outliers,
        confidence=CONFIDENCE,
        in_distribution=inner,
        shifted=beside,
        baseline=baseline,
        summary=summary_of(raw),
        preprocessing=inputs.preprocessing,
        images=facts,
        execution=runner.execution,
        notes=_notes(opened, inputs, facts, len(h), n_left_out, raw, results, runner),
        time=Time.until_now(clock, collected.read.n_usable),
    )


def _inspect(opened: ModelFile) -> str:
    return f"robustcheck inspect {quoted(opened.path)}"


def _runner(inputs: Inputs, *, photos: bool) -> Runner:
    """Open a session for photos or for tensors. Photos are preprocessed by it, tensors are already."""
    run = inputs.job.options
    preprocessing = inputs.preprocessing.preprocessing if photos else None
    return Runner(inputs.models[0], run.device, preprocessing=preprocessing, batch_size=run.batch_size)


def _width(runner: Runner, inputs: Inputs) -> int:
    """Return the number of features. The model runs on the first usable image."""
    items = measure.take_probe(measure.prepare_item(item, inputs) for item in inputs.source.items())
    usable = measure.usable(items)
    if not usable:
        skipped = [item for item in items if isinstance(item, Skipped)]
        check_bad(len(items), len(skipped), 1.0, skipped, inputs.source.named)
    return int(runner.run(stack(usable[:1])).representation.shape[1])


def _notes(
    opened: ModelFile,
    inputs: Inputs,
    images: ImageFacts,
    n_images: int,
    n_left_out: int,
    raw: Analysis,
    labelled: Sequence[SetResult],
    runner: Runner,
) -> tuple[str, ...]:
    """Write what a reader must know next to the numbers."""
    source = opened.contract.source if opened.contract else None
    notes = model_notes(
        source.synthetic if source else "",
        random_weights=bool(source and source.random_weights),
        preprocessing=inputs.preprocessing.source,
        left_out=opened.left_out,
    )
    notes += image_notes(images)
    if n_images < FEW_IMAGES:
        notes.append(f"Only {n_images} images: intervals are wide, and the order of the directions can change.")
    if n_left_out:
        notes.append(f"{count_text(n_left_out, 'image')} left out: the representation is the same in all features.")
    notes += spectrum_notes(raw)
    notes += [f"Image set: {finding.seen}." for finding in images.sanity.findings]
    for result in labelled:
        if result.n_labels < result.n_compete:
            notes.append(f"{result.name}: {result.n_labels} of {result.n_compete} classes have images.")
        if result.n_read < result.n_available:
            notes.append(f"{result.name}: {result.n_read} of {result.n_available} images, drawn by seed.")
        notes += skipped_note(result.n_skipped, result.n_read, result.skipped, result.name)
    return (*notes, *execution_notes(runner.execution))
