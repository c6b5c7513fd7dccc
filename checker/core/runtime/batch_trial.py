"""Try whether a representation depends on its batch: images run alone and together, and both are compared."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ...arrays import AnyArray, Indices
from ...errors import CannotAssessError, EnvironmentFaultError
from ..model.scales import can_fix_scales, with_fixed_scales, with_scales
from .runner import Runner
from .session import relative_difference

TRIED = 5  # images that run alone, and together in one pass: a pass on the CPU has 4 (`runner.MOST_IMAGES_ON_CPU`)


class BatchTrial(NamedTuple):
    """The representations of the first images, alone and together."""

    orders: list[Indices]
    """(image,) of each pass of images together: which images, in which order"""
    together: list[tuple[AnyArray, ...]]
    """of each such pass: (image, feature) for each of the runner's models, in the order of the pass"""
    alone: list[tuple[AnyArray, ...]]
    """of each image that ran alone, from the first one on: (1, feature) for each of the runner's models"""

    def difference(self, index: int, in_batches: AnyArray) -> float:
        """Return the largest difference of one model from what is expected of it (`batch_differences`).

        Args:
            index: of the model.
            in_batches: (image, feature) as they were measured; also expected of the images that did not run alone.
        """
        alone = [representations[index] for representations in self.alone]
        expected = np.concatenate([*alone, in_batches[len(alone) :]])
        difference = relative_difference(expected, in_batches)
        for order, representations in zip(self.orders, self.together, strict=True):
            difference = max(difference, relative_difference(expected[order], representations[index]))
        return difference


def batch_differences(
    runner: Runner, pixels: AnyArray, measured: Sequence[AnyArray] | None = None
) -> tuple[float | None, ...]:
    """Measure how representations depend on the batch, one number for each of the runner's models.

    max |expected − actual| / rms(expected) of an image. Expected are the representations of the first `TRIED` images
    when each runs alone, and of the others as they were measured. Actual are those as they were measured, and those of
    passes in reverse order: of the first `TRIED` images, and of one image more than a measured pass where that is
    larger. What a model makes of 5 images it may not make of 4. Where each image is measured alone, a pass in order
    counts, too. With a fixed batch, one image repeated stands for "alone". 0 means that no representation depends on
    its batch; with a fixed batch of 1 it can't; 1e9 at most, also where a value is finite together and not alone, or
    the other way round. Where memory is short, fewer images run together, and no later pass has more; None where it is
    a single image, which says nothing.

    Args:
        runner: its pass may become smaller.
        pixels: the first images of the run.
        measured: what `Runner.represent_in_batches` gives for them; None = computed here.
    """
    nothing: tuple[float | None, ...] = (None,) * len(runner.models)
    if len(pixels) < 2:
        return nothing
    rows = runner.represent_in_batches(pixels) if measured is None else measured
    trial = _trial(runner, pixels)
    if trial is None:
        return nothing
    return tuple(trial.difference(index, in_batches) for index, in_batches in enumerate(rows))


def _trial(runner: Runner, pixels: AnyArray) -> BatchTrial | None:
    """Run two or more images alone and together. None where memory is too short for two images together."""
    measured_size = runner.pass_size
    if runner.fixed_batch:
        return _run_trial(runner, pixels, max(TRIED, measured_size), measured_size)
    for size, smaller in pairwise(_sizes(measured_size)):
        try:
            return _run_trial(runner, pixels, size, measured_size)
        except EnvironmentFaultError:
            runner.lower_pass_size(smaller)
    return None


def _sizes(measured_size: int) -> list[int]:
    """Return how many images are tried together, one after the other as memory runs out; the last one is 1.

    >>> _sizes(4), _sizes(32), _sizes(1)
    ([5, 4, 2, 1], [33, 32, 16, 8, 4, 2, 1], [5, 2, 1])
    """
    sizes = [max(TRIED, measured_size + 1)]
    while sizes[-1] > 1:
        half = sizes[-1] // 2
        if sizes[-1] > measured_size:
            half = max(half, measured_size)
        sizes.append(half)
    return sizes


def _run_trial(runner: Runner, pixels: AnyArray, size: int, measured_size: int) -> BatchTrial:
    """Run the first images alone, unless they are measured alone, and `size` of them together."""
    orders = _orders(len(pixels), size)
    alone: list[AnyArray] = []
    if measured_size > 1:
        alone = [pixels[i : i + 1] for i in range(min(TRIED, len(pixels)))]
    else:
        in_order = orders[0][::-1]
        orders.append(in_order)
    together = [pixels[order] for order in orders]
    representations = runner.represent_sets([*together, *alone])
    return BatchTrial(orders, representations[: len(orders)], representations[len(orders) :])


def _orders(n: int, most: int) -> list[Indices]:
    """Return reversed orders of the first `TRIED` of n images, and of the first `most` where that is more."""
    sizes = sorted({min(TRIED, most), most})
    return [np.resize(np.arange(min(n, size))[::-1], size) for size in sizes]


def fixed_scale_differences(runner: Runner, pixels: AnyArray) -> tuple[float | None, ...]:
    """Measure `batch_differences` with fixed scales of the quantisers that compute them over the batch.

    The scales are those of `pixels` together, so what is left depends on the batch for another reason. None where the
    model has no such quantisers, where its batch is fixed, or where it does not run so.
    """
    nothing: tuple[float | None, ...] = (None,) * len(runner.models)
    graph = runner.model.graph
    if runner.fixed_batch or not can_fix_scales(graph.proto):
        return nothing
    with_outputs, names = with_scales(graph.with_addition())
    try:
        scales = runner.run_other(with_outputs.SerializeToString(), names, pixels)
        if scales is None:
            return nothing
        with runner.running(with_fixed_scales(with_outputs, names, scales)):
            return batch_differences(runner, pixels)
    except CannotAssessError:
        return nothing
