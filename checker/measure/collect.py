"""One pass over an image set that keeps what the model makes of every image, for questions that need it all."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.images import ImageSource
from robustcheck_onnx.checker.progress import Progress
from robustcheck_onnx.checker.runtime import Runner

from .job import ImagesRead, Job
from .prepared import stack
from .run import Inputs, batches, decode, read_inputs


@dataclass(frozen=True)
class Collected:
    """What a model made of an image set, row by row; its memory grows with the images."""

    representations: npt.NDArray[np.float32]
    """(image, feature), finite; of the usable images, in their order"""
    scores: npt.NDArray[np.float32] | None
    """(image, class), as the model gives them, where it has class scores"""
    names: tuple[str, ...]
    digests: tuple[str, ...]
    read: ImagesRead


def read_head_input(job: Job, *, source: ImageSource | None = None) -> Inputs:
    """`read_inputs`, with the input of the model's head as the tensor that is measured, where it has a head.

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
    progress: Callable[[Progress], None] | None = None,
    label: str = "",
) -> Collected:
    """Run a model on a whole image set, and keep every representation and all class scores.

    Args:
        runner: of the model of `inputs`.
        inputs: the job.
        source: another image set; None = the job's.
        progress: called after every batch.
        label: what the progress says beside the numbers.

    Raises:
        CannotAssessError: too many unusable images (`ImagesRead.check_usable`), values that are not finite.
    """
    images, read = inputs.source if source is None else source, ImagesRead()
    rows: list[npt.NDArray[np.float32]] = []
    scores: list[npt.NDArray[np.float32]] = []
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


def _finite(values: npt.NDArray[np.generic], runner: Runner, what: str) -> npt.NDArray[np.float32]:
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        path = str(runner.model.path)
        raise CannotAssessError(
            f"{path}: {what} has values that are not finite; every image needs numbers",
            f"robustcheck inspect {shlex.quote(path)}",
        )
    return numbers
