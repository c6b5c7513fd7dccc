"""Measure the directions of a model's linear head. One pass over the images, then linear algebra.

Information, not a verdict. Labels of a labelled set become classes of the head, as in `shift`. Silent; progress goes to
a callback.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

from ...arrays import Floats
from ...calls import public
from ...core.evidence import Execution
from ...core.measure.opening import Inputs, model_read, open_runner, read_inputs
from ...core.measure.sums import ImagesRead
from ...core.options import RunOptions
from ...core.progress import Progress, Tell, tell_stage
from ...core.statistics.definitions import usable_rows
from ...core.statistics.intervals import CONFIDENCE
from ...errors import CannotAssessError, UsageError, unfit
from ...outside.image_sets.open import Images
from ...outside.isolation import NO_LIMITS, Limits
from ...outside.storage.places import as_typed, local_path
from ...text import Fields, count_text, quoted
from ..call import QuestionRun
from ..collect import collect, difference_of_head, n_features, read_head_input
from ..head import LinearHead, head_from_file, read_head
from ..shift import robustness
from ..shift.classes import Scores
from ..shift.robustness import SetResult
from ..shift.run import read_notes
from ..shift.sets import Spec, class_names, labels_of, open_sets, parse_call, with_labels
from .analysis import Labelled, SameWeightsError, analyse, correct
from .document import DirectionsReport, HeadModel
from .records import spectrum_notes, summary_of

MAX_IMAGES = 300  # of each set by default: intervals of a share are then 6 points to each side at most
MIN_IMAGES = 2  # fewer have no mean to be replaced by, and no interval
FEW_IMAGES = 50  # a check needs as many


@public('rc.directions("model.onnx", "photos/")')
def directions(
    model: str | Path,
    images: Images | None = None,
    *,
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
    """Measure which directions of a classifier's head weigh most, and what the predictions are without the others.

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
    specs, maps = parse_sets(labelled, shifted, classes)
    if images is None and specs:
        images = as_typed(specs[0].place)
    run = QuestionRun.begin(images, options, progress, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    if head is None and (run.options.tensor is not None or run.options.pool is not None):
        raise UsageError(
            "--tensor or --pool is given without --head; the model's own head fixes the tensor",
            "--head FILE.npy, or leave --tensor and --pool out",
        )
    if child := run.child(directions, model, limits, isolate, *(as_typed(spec.place) for spec in specs)):
        asked: Fields = {"head": head, "labelled": labelled, "shifted": shifted, "classes": classes}
        return child(model, baseline=baseline, progress=progress, **asked, **run.options.keywords)
    inputs = run.read(path, read_inputs if head is not None else read_head_input)
    of_head = _measure(inputs, head, specs, maps, progress)
    linear = of_head.head
    run.tell("decomposing the head")
    try:
        raw, centred, outliers = analyse(
            linear, of_head.rows, labelled=of_head.labelled, baseline=baseline, seed=run.options.seed
        )
    except SameWeightsError as fault:
        raise unfit(
            path, f"weights of {linear.source} are the same for all classes; a prediction must depend on the image"
        ) from fault
    n_images = len(of_head.rows)
    n_left_out = of_head.read.n_usable - n_images
    results = [(images.result, images.digests) for images in of_head.labelled if images.result]
    shifted_results = [robustness.compare_sets(*results[0], *other, baseline) for other in results[1:]]
    head_model = HeadModel(
        **model_read(inputs.models[0]),
        head=linear.source,
        n_classes=len(linear.bias),
        n_features=linear.weight.shape[1],
        score_difference=of_head.difference,
    )
    head_notes = [*_left_out(n_images, n_left_out), *spectrum_notes(raw)]
    set_notes = _labelled_notes(result for result, _ in results)
    return DirectionsReport(
        model=head_model,
        n_images=n_images,
        n_left_out=n_left_out,
        raw=raw,
        centred=centred,
        outliers=outliers,
        confidence=CONFIDENCE,
        in_distribution=results[0][0] if results else None,
        shifted=tuple(shifted_results),
        baseline=baseline,
        summary=summary_of(raw),
        **run.concluded(inputs, of_head.read, of_head.execution, head_notes, set_notes),
    )


class HeadOutputs(NamedTuple):
    """A head, and the representations that it was given."""

    head: LinearHead
    difference: float | None
    """how far its scores are from the model's; None for another head than the model's own"""
    rows: Floats
    """(image, feature) representations that are not constant"""
    labelled: list[Labelled]
    read: ImagesRead
    execution: Execution


def _measure(
    inputs: Inputs, file: str | Path | None, specs: list[Spec], maps: dict[str, str], progress: Tell | None
) -> HeadOutputs:
    """Read the head, from `file` where it is not the model's own, and run the model on all images."""
    (opened,) = inputs.models
    own = None if file is not None else read_head(opened)
    tell_stage(progress, "loading the model")
    are_photos = inputs.source.kind != "tensors"
    runner = open_runner(inputs, photos=are_photos)
    head = own or head_from_file(Path(str(file)), n_features(runner, inputs))
    sources = open_sets(specs, inputs)
    n_classes = len(head.bias)
    names = class_names(opened)
    if len(names) != n_classes:
        names = ()
    labels = [labels_of(source) for source in sources]
    prepared = with_labels(specs, sources, labels, maps, Scores(n_classes, names))
    collected = collect(runner, inputs, progress=progress)
    difference = None if own is None else difference_of_head(own, collected, opened)
    rows = collected.representations[usable_rows(collected.representations).usable]
    if len(rows) < MIN_IMAGES:
        raise CannotAssessError(
            f"{opened.path}: number of images with a representation that is not constant is {len(rows)}; at least "
            f"{MIN_IMAGES} are needed",
            "--images FOLDER with photos",
        )
    for_labels = runner if are_photos or not prepared else open_runner(inputs)
    labelled = []
    for photos in prepared:
        name = photos.spec.name
        of_set = collected
        if photos.source is not inputs.source:
            of_set = collect(for_labels, inputs, photos.source, progress=progress, label=name)
        usable = set(of_set.names)  # skipped images have no row
        entries = zip(photos.source.entries, photos.right, strict=True)
        right = [classes for entry, classes in entries if entry.name in usable]
        images = Labelled(name, of_set.representations, right, photos.map.compete)
        n_right = correct(head, images)
        result = photos.result(of_set.read, len(set(right)), n_right)
        labelled.append(images._replace(result=result, digests=of_set.digests))
    return HeadOutputs(head, difference, rows, labelled, collected.read, runner.execution)


def parse_sets(
    labelled: str | Path | None, shifted: Sequence[str | Path], classes: Sequence[str]
) -> tuple[list[Spec], dict[str, str]]:
    """Return the sets of a call, the in-distribution one first, with their class maps (`shift.sets.parse_call`).

    Raises UsageError as that, and for shifted sets or class maps without an in-distribution set.
    """
    if labelled is not None:
        named = parse_call(str(labelled), list(map(str, shifted)), classes, alone=True)
        return [named.inside, *named.shifted], named.maps
    for option, values in (("--shifted", shifted), ("--classes", classes)):
        if values:
            raise UsageError(
                f"{option} is given without --in; accuracy starts from labelled in-distribution images",
                f"--in photos/ {option} {quoted(values[0])}",
            )
    return [], {}


def _left_out(n_images: int, n_left_out: int) -> list[str]:
    """Note that there are few images, and how many of them have no direction."""
    notes = []
    if n_images < FEW_IMAGES:
        notes.append(f"Only {n_images} images: intervals are wide, and the order of the directions can change.")
    if n_left_out:
        left_out = count_text(n_left_out, "image")
        notes.append(f"{left_out} left out: the representation is the same in all features.")
    return notes


def _labelled_notes(results: Iterable[SetResult]) -> list[str]:
    """Note which classes and images of the labelled sets were not measured."""
    notes = []
    for result in results:
        if result.n_labels < result.n_compete:
            notes.append(f"{result.name}: {result.n_labels} of {result.n_compete} classes have images.")
        notes += reversed(read_notes(result))
    return notes
