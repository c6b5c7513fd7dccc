"""Collect what a model makes of every image. It is one pass over an image set, for questions that need it all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robustcheck_onnx.checker.arrays import Float32s, GenericArray
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.images.source import ImageSource
from robustcheck_onnx.checker.isolation import Tell
from robustcheck_onnx.checker.model import ModelFile
from robustcheck_onnx.checker.runtime import SAME_OUTPUT, LinearHead, Runner, score_difference
from robustcheck_onnx.checker.text import quoted

from .job import ImagesRead, Job
from .prepared import stack
from .run import Inputs, batches, decode, read_inputs

COMPARED = 2**20  # scores that are compared with the model's own at once


@dataclass(frozen=True)
class Collected:
    """A model's outputs for an image set, by row. Its memory grows with the images."""

    representations: Float32s
    """(image, feature), finite; of the usable images, in their order"""
    scores: Float32s | None
    """(image, class), as the model gives them, where it has class scores"""
    names: tuple[str, ...]
    digests: tuple[str, ...]
    read: ImagesRead


def read_head_input(job: Job, *, source: ImageSource | None = None) -> Inputs:
    """Read a job to measure its head's input.

    It is `read_inputs`, with that tensor as the measured one where the model has a head.

    A head's own input can be another tensor than the representation: a zero-shot head reads it divided by its norm.

    Args:
        job: names no tensor.
        source: the job's images, where they are open already.

    Raises as `open_job`.
    """
    inputs = read_inputs(job, source=source)
    (opened,) = inputs.models
    if opened.head is None or opened.class_output is None or opened.head.tensor == opened.representation.tensor:
        return inputs
    job = replace(job, options=job.options.model_copy(update={"tensor": opened.head.tensor}))
    return read_inputs(job, source=inputs.source)


def collect(
    runner: Runner,
    inputs: Inputs,
    source: ImageSource | None = None,
    *,
    progress: Tell | None = None,
    label: str = "",
) -> Collected:
    """Collect representations and scores of an image set. All class scores are included.

    Args:
        runner: of the model of `inputs`.
        inputs: the job.
        source: another image set; None = the job's.
        progress: called after every batch.
        label: what the progress says next to the numbers.

    Raises:
        CannotAssessError: too many unusable images (`ImagesRead.check_usable`), values that are not finite.
    """
    images, read = inputs.source if source is None else source, ImagesRead()
    rows: list[Float32s] = []
    scores: list[Float32s] = []
    names: list[str] = []
    described = inputs if source is None else replace(inputs, described=None)
    run = inputs.job.options
    with decode(described, images, execution=runner.execution) as decoded:
        for batch in batches(
            decoded, read, run.batch_size, n_images=len(images), progress=progress, label=lambda: label
        ):
            output = runner.run(stack(batch))
            names += (image.name for image in batch)
            rows.append(_finite(output.representation, runner, "representation"))
            if output.class_output is not None:
                scores.append(_finite(output.class_output, runner, "class output"))
    read.check_usable(images, run.max_bad, sampled=images.n_found > len(images))
    return Collected(
        np.concatenate(rows), np.concatenate(scores) if scores else None, tuple(names), tuple(read.digests), read
    )


def difference_of_head(head: LinearHead, collected: Collected, opened: ModelFile) -> float:
    """Prove that a head is the model's own. Returns how far W·h + b is from its class output (`score_difference`).

    Args:
        head: from `read_head`.
        collected: with scores, of the tensor that the head acts on.
        opened: the model.

    Raises CannotAssessError where the class output is another function, or of another width.
    """
    scores = collected.scores
    assert scores is not None
    if head.weight.shape[1] != collected.representations.shape[1]:
        raise CannotAssessError(
            f"{opened.path}: head takes {head.weight.shape[1]} features; its input {opened.representation.tensor!r} "
            f"has {collected.representations.shape[1]}, and they must be the same",
            f"robustcheck inspect {quoted(opened.path)}",
        )
    step = max(1, COMPARED // len(head.bias))
    pieces = [slice(start, start + step) for start in range(0, len(scores), step)]
    difference = max(score_difference(head, collected.representations[piece], scores[piece]) for piece in pieces)
    allowed = SAME_OUTPUT[opened.precision]
    if not difference <= allowed:
        raise CannotAssessError(
            f"{opened.path}: class output differs from W·h + b by {difference:.2g} (relative), softmax or sigmoid "
            f"counted in; {allowed:g} or less is needed for the head to be what decides",
            "--head FILE.npy, a matrix (class, feature) that acts on --tensor NAME",
        )
    return difference


def _finite(values: GenericArray, runner: Runner, what: str) -> Float32s:
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        path = str(runner.model.path)
        raise CannotAssessError(
            f"{path}: {what} has values that are not finite; every image needs numbers",
            f"robustcheck inspect {quoted(path)}",
        )
    return numbers
