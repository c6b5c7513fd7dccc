"""Collect a model's representations and scores of a whole image set, row by row."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..arrays import Float32s, GenericArray
from ..core.images.source import ImageSource, Skipped, check_bad
from ..core.measure.job import Job
from ..core.measure.loop import batches, decode
from ..core.measure.opening import Inputs, OpenSource, read_inputs
from ..core.measure.prepare import Prepared, prepare_item, stack
from ..core.measure.probe import take_probe, usable
from ..core.measure.sums import ImagesRead
from ..core.model.open import ModelFile
from ..core.progress import Tell
from ..core.runtime.runner import SAME_OUTPUT, Runner
from ..errors import CannotAssessError, unfit
from ..text import Texts, frozen
from .head import LinearHead, score_difference

COMPARED = 2**20  # scores that are compared with the model's own at once


@frozen
class Collected:
    """A model's outputs for an image set, by row, whose memory grows with the images."""

    representations: Float32s
    """(image, feature), finite; of the usable images, in their order"""
    scores: Float32s | None
    """(image, class), as the model gives them, where it has class scores"""
    names: Texts
    digests: Texts
    read: ImagesRead


def read_head_input(job: Job, open_source: OpenSource) -> Inputs:
    """Read a job as `read_inputs`, to measure the input of the model's head where it has one.

    A head's own input can be another tensor than the representation: a zero-shot head reads it divided by its norm.

    Args:
        job: names no tensor.
        open_source: opens the job's images.

    Raises as `open_job`.
    """
    inputs = read_inputs(job, open_source)
    (opened,) = inputs.models
    if opened.head is None or opened.class_output is None or opened.head.tensor == opened.representation.tensor:
        return inputs
    job = replace(job, options=job.options.model_copy(update={"tensor": opened.head.tensor}))
    return read_inputs(job, lambda _: inputs.source)


def collect(
    runner: Runner, inputs: Inputs, source: ImageSource | None = None, *, progress: Tell | None = None, label: str = ""
) -> Collected:
    """Collect the representations and all class scores of an image set.

    Args:
        runner: of the model of `inputs`.
        inputs: the job.
        source: another image set; None = the job's.
        progress: called after every batch.
        label: what the progress says next to the numbers.

    Raises:
        CannotAssessError: too many unusable images (`ImagesRead.require_share`), values that are not finite.
    """
    images = inputs.source if source is None else source
    read = ImagesRead()
    rows: list[Float32s] = []
    scores: list[Float32s] = []
    names: list[str] = []
    described = inputs if source is None else replace(inputs, described=None)
    run = inputs.job.options
    n_images = len(images)
    with decode(described, images, execution=runner.execution) as decoded:
        for batch in batches(decoded, read, run.batch_size, n_images=n_images, progress=progress, label=lambda: label):
            output = runner.run(stack(batch))
            names += (image.name for image in batch)
            rows.append(_finite(output.representation, runner, "representation"))
            if output.class_output is not None:
                scores.append(_finite(output.class_output, runner, "class output"))
    read.require_share(images, run.max_bad, sampled=images.is_limited)
    return Collected(
        representations=np.concatenate(rows),
        scores=np.concatenate(scores) if scores else None,
        names=tuple(names),
        digests=tuple(read.digests),
        read=read,
    )


def difference_of_head(head: LinearHead, collected: Collected, opened: ModelFile) -> float:
    """Prove that a head is the model's own; return how far W·h + b is from its class output (`score_difference`).

    Args:
        head: from `read_head`.
        collected: with scores, of the tensor that the head acts on.
        opened: the model.

    Raises CannotAssessError where the class output is another function, or of another width.
    """
    rows = collected.representations
    scores = collected.scores
    assert scores is not None
    if head.weight.shape[1] != rows.shape[1]:
        raise unfit(
            opened.path,
            f"head takes {head.weight.shape[1]} features; its input {opened.representation.tensor!r} "
            f"has {rows.shape[1]}, and they must be the same",
        )
    step = max(1, COMPARED // len(head.bias))
    pieces = [slice(start, start + step) for start in range(0, len(scores), step)]
    difference = max(score_difference(head, rows[piece], scores[piece]) for piece in pieces)
    allowed = SAME_OUTPUT[opened.precision]
    if not difference <= allowed:
        raise CannotAssessError(
            f"{opened.path}: class output differs from W·h + b by {difference:.2g} (relative), softmax or sigmoid "
            f"counted in; {allowed:g} or less is needed for the head to be what decides",
            "--head FILE.npy, a matrix (class, feature) that acts on --tensor NAME",
        )
    return difference


def first_pixels(items: Sequence[Prepared | Skipped], source: ImageSource) -> GenericArray:
    """Stack the pixels of the usable images. Raises CannotAssessError where there is none."""
    images = usable(items)
    if not images:
        skipped = [item for item in items if isinstance(item, Skipped)]
        check_bad(len(items), len(items), 1.0, skipped, source.named)
    return stack(images)


def n_features(runner: Runner, inputs: Inputs) -> int:
    """Return the number of features, for which the model runs on the first usable image."""
    items = take_probe(prepare_item(item, inputs) for item in inputs.source.items())
    pixels = first_pixels(items, inputs.source)
    return int(runner.run(pixels[:1]).representation.shape[1])


def _finite(values: GenericArray, runner: Runner, subject: str) -> Float32s:
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise unfit(runner.model.path, f"{subject} has values that are not finite; every image needs numbers")
    return numbers
