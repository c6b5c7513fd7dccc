"""Measure outlier features at the end of every block, inside the model's own graph.

Information, not a verdict. Silent; progress goes to a callback.
"""

from __future__ import annotations  # help() names the types as the package does

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from ...arrays import AnyArray
from ...calls import public
from ...core.measure.loop import batches, decode
from ...core.measure.opening import Inputs, model_read, open_runner
from ...core.measure.prepare import stack
from ...core.measure.probe import take_probe
from ...core.measure.sums import ImagesRead
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.runtime.runner import SAME_OUTPUT, Runner
from ...core.runtime.session import relative_difference
from ...core.statistics.definitions import usable_rows
from ...errors import CannotAssessError, unfit
from ...outside.image_sets.open import Images
from ...outside.isolation import NO_LIMITS, Limits
from ...outside.representations import Provenance, checked_path, saving
from ...outside.storage.places import local_path
from ...text import quoted
from ..call import QuestionRun
from ..collect import first_pixels
from .blocks import ScanPlan, measuring_model, plan_scan
from .document import ScanModel, ScanReport
from .layer import Layer, summary
from .taps import GRID, Depth

MAX_IMAGES = 64  # by default: a profile needs no tight interval
FEW_IMAGES = 50  # a check needs as many; fewer make persistent features unreliable (docs/statistics.md)


@public('rc.scan("model.onnx", "photos/")')
def scan(
    model: str | Path,
    images: Images | None = None,
    *,
    blocks: Sequence[str] = (),
    save_representations: str | Path | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> ScanReport:
    """Measure outlier features at the end of every block, and those of the representation.

    Args:
        model: path of the ONNX file.
        images: as in `check`.
        blocks: measure these tensors instead of the ends of blocks found by rule.
        save_representations: as in `check`: of the representation, not of the blocks.
        isolate: as in `check`.
        limits: as in `check`.
        progress: called when a stage begins and after every batch.
        options: as in `check`; tensor and pool are the representation's, max_images is 64 unless it is given.

    Raises:
        UsageError: as for a check; no such tensor among `blocks`.
        CannotAssessError: as for a check; no block was found; an opset below 11; nothing finite to measure.
        EnvironmentFaultError: as for a check.
    """
    run = QuestionRun.begin(images, options, progress, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    saved = None if save_representations is None else str(checked_path(save_representations))
    if child := run.child(scan, model, limits, isolate):
        return child(model, blocks=blocks, save_representations=saved, progress=progress, **run.options.keywords)
    return _scan(run, path, blocks, saved)


def _scan(run: QuestionRun, path: Path, blocks: Sequence[str], saved: str | None) -> ScanReport:
    """Measure every block of a model in this process."""
    inputs = run.read(path)
    (opened,) = inputs.models
    read = ImagesRead()
    with saving(saved) as saver:
        with decode(inputs) as decoded:
            run.tell("finding the blocks")
            first = take_probe(decoded)  # the next ones are decoded while the sessions open
            pixels = first_pixels(first, inputs.source)
            plan = plan_scan(opened, pixels, run.options.device, blocks, inputs.preprocessing.preprocessing)
            runner, difference = _open_measuring(inputs, plan, pixels, run)
            depths = [Depth(tap) for tap in plan.taps]
            every = itertools.chain(first, decoded)
            n_images = len(inputs.source)
            for batch in batches(every, read, run.options.batch_size, n_images=n_images, progress=run.progress):
                rows, representations = runner.represent(stack(batch))
                if saver is not None:
                    usable = usable_rows(representations).usable
                    photos = list(itertools.compress(batch, usable))
                    saver.add(representations[usable], photos)
                _add(depths, rows, path)
        read.require_share(inputs.source, run.options.max_bad, sampled=inputs.source.is_limited)
        layers = _layers(depths, path, read.n_usable)
        with_outliers = [index for index, layer in enumerate(layers) if layer.statistics.has_outliers]
        begins = with_outliers[0] if with_outliers else None
        facts = ScanModel(
            **model_read(opened),
            rule=plan.rule,
            n_left_out=plan.n_left_out,
            output_difference=difference,
            output_unchanged=difference <= SAME_OUTPUT[opened.precision],
        )
        few = []
        if read.n_usable < FEW_IMAGES:
            few = [f"Only {read.n_usable} images: a feature that persists over few images need not persist over many."]
        report = ScanReport(
            model=facts,
            layers=layers,
            begins=begins,
            summary=summary(layers, begins),
            **run.concluded(inputs, read, runner.execution, few, _notes(facts, layers)),
        )
        if saver is not None:
            saver.write(Provenance.of(report, facts.file))
    return report


def _open_measuring(inputs: Inputs, plan: ScanPlan, pixels: AnyArray, run: QuestionRun) -> tuple[Runner, float]:
    """Open the model with the nodes that measure, and return how far they change its own outputs on some pixels."""
    (opened,) = inputs.models
    own = Runner(opened, run.options.device, preprocessing=inputs.preprocessing.preprocessing).run(pixels)
    run.tell("loading the model")
    measuring = measuring_model(opened, plan)
    runner = open_runner(inputs, (measuring, replace(opened, added_output=False)))
    _, representation = runner.represent(pixels)
    difference = relative_difference(own.representation, representation)
    if own.class_output is not None:
        again = runner.run(pixels).class_output
        assert again is not None
        difference = max(difference, relative_difference(own.class_output, again))
    return runner, difference


def _add(depths: Sequence[Depth], rows: AnyArray, where: Path) -> None:
    """Add the numbers of some images to the sums of every tensor, or refuse rows of another length than planned."""
    *ends, n_numbers = np.cumsum([depth.tap.n_numbers for depth in depths])
    if rows.shape[1] != n_numbers:
        raise CannotAssessError(
            f"{where}: statistics of an image are {rows.shape[1]} numbers; {n_numbers} were planned "
            "from its first images: the number of tokens must not depend on the images",
            f"robustcheck scan {quoted(where)} --block TENSOR",
        )
    for depth, part in zip(depths, np.split(rows, ends, axis=1), strict=True):
        depth.update(part)


def _layers(depths: Sequence[Depth], where: Path, n_images: int) -> tuple[Layer, ...]:
    """Conclude the statistics of every tensor, or refuse a run in which no image could be measured anywhere."""
    layers = []
    for depth in depths:
        tap = depth.tap
        layer = Layer(
            kind=tap.kind,
            tensor=tap.tensor,
            form=tap.form,
            width=tap.features,
            positions=tap.positions,
            measured=tap.measured,
            class_token=tap.class_token,
            statistics=depth.statistics(),
        )
        layers.append(layer)
    if not any(layer.statistics.n_images for layer in layers):
        raise unfit(
            where,
            f"number of images with finite, not constant values is 0 of {n_images} "
            "at every block; at least one is needed",
        )
    return tuple(layers)


def _notes(facts: ScanModel, layers: Sequence[Layer]) -> list[str]:
    """Note what a reader must know next to the numbers."""
    notes = []
    if facts.rule == "stages":
        notes.append("No residual block was found: layers are cut where width or resolution changes.")
    if facts.n_left_out:
        tensors = "1 tensor was" if facts.n_left_out == 1 else f"{facts.n_left_out} tensors were"
        notes.append(f"{tensors} left out: their axes could not be told apart, or they have too few features.")
    if any(layer.measured != layer.positions for layer in layers):
        notes.append(f"Feature maps are measured at up to {GRID} × {GRID} evenly spaced positions of each image.")
    if n_not_finite := max(layer.statistics.n_not_finite for layer in layers):
        notes.append(f"At some layer {n_not_finite} images were left out: their values are not finite.")
    if not facts.output_unchanged:
        notes.append(
            "The nodes that a scan adds changed the model's own output (relative difference "
            f"{facts.output_difference:.2g}): with them ONNX Runtime fuses layers in another way, so the numbers are "
            "of a slightly different model."
        )
    return notes
