"""Measure outlier features at the end of every block. They are measured inside the model's own graph.

Information, not a verdict. Silent; progress goes to a callback.
"""

from __future__ import annotations  # help() names the types as the package does

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import Execution, ImageFacts, RunOptions
from robustcheck_onnx.checker.images.source import Images
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits, Progress
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import ImagesRead, Job, stack
from robustcheck_onnx.checker.measure.run import Inputs
from robustcheck_onnx.checker.report.record import Clock, Time
from robustcheck_onnx.checker.representations import MadeWith, checked_path, saving
from robustcheck_onnx.checker.runtime.runner import SAME_OUTPUT, Runner, relative_difference
from robustcheck_onnx.checker.statistics import usable_rows
from robustcheck_onnx.checker.storage.places import local_path
from robustcheck_onnx.checker.text import VERSION, quoted
from robustcheck_onnx.checker.verdict.notes import execution_notes, image_notes

from .blocks import measuring_model, plan_scan
from .document import Layer, ScanModel, ScanReport, summary
from .taps import GRID, Depth

MAX_IMAGES = 64  # by default: a profile needs no tight interval
FEW_IMAGES = 50  # a check needs as many; fewer make persistent features unreliable (docs/statistics.md)


def scan(
    model: str | Path,
    *,
    blocks: Sequence[str] = (),
    images: Images | None = None,
    save_representations: str | Path | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> ScanReport:
    """Measure outlier features at the end of every block. The representation is measured, too.

    Args:
        model: path of the ONNX file.
        blocks: measure these tensors instead of the ends of blocks found by rule.
        images: as in `check`.
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
    clock, (run, given) = Clock(), measure.settle(images, options, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    save_representations = None if save_representations is None else str(checked_path(save_representations))
    if isolate and isolation.is_possible(given, run.images):
        return isolation.apart(scan, str(model), limits)(
            model, blocks=blocks, save_representations=save_representations, progress=progress, **run.given
        )
    limits.refuse_here()
    isolation.tell_stage(progress, "opening the model and the images")
    inputs = measure.read_inputs(Job(path, run), source=given)
    (opened,) = inputs.models
    preprocessing = inputs.preprocessing.preprocessing
    read = ImagesRead()
    with saving(save_representations) as saver:
        with measure.decode(inputs) as decoded:
            isolation.tell_stage(progress, "finding the blocks")
            first = measure.take_probe(decoded)  # the next ones are decoded while the sessions open
            probe = measure.first_pixels(first, inputs.source)
            plan = plan_scan(opened, probe, run.device, blocks, preprocessing=preprocessing)
            own = Runner(opened, run.device, preprocessing=preprocessing).run(probe)
            isolation.tell_stage(progress, "loading the model")
            runner = Runner(
                measuring_model(opened, plan),
                run.device,
                preprocessing=preprocessing,
                batch_size=run.batch_size,
                also=(replace(opened, added_output=False),),
            )
            difference = relative_difference(own.representation, runner.represent(probe)[1])
            if own.class_output is not None:
                again = runner.run(probe).class_output
                assert again is not None
                difference = max(difference, relative_difference(own.class_output, again))
            depths = [Depth(tap) for tap in plan.taps]
            *ends, n_numbers = np.cumsum([tap.n_numbers for tap in plan.taps])
            for batch in measure.batches(
                itertools.chain(first, decoded), read, run.batch_size, n_images=len(inputs.source), progress=progress
            ):
                rows, representations = runner.represent(stack(batch))
                if saver is not None:
                    usable = usable_rows(representations).usable
                    saver.add(representations[usable], list(itertools.compress(batch, usable)))
                if rows.shape[1] != n_numbers:
                    raise CannotAssessError(
                        f"{opened.path}: statistics of an image are {rows.shape[1]} numbers; {n_numbers} were planned "
                        "from its first images: the number of tokens must not depend on the images",
                        f"robustcheck scan {quoted(opened.path)} --block TENSOR",
                    )
                for depth, part in zip(depths, np.split(rows, ends, axis=1), strict=True):
                    depth.update(part)
        read.check_usable(inputs.source, run.max_bad, sampled=inputs.source.n_found > len(inputs.source))
        facts_of_images = read.facts(inputs.source)
        layers = tuple(
            Layer(
                kind=kind,
                tensor=tap.tensor,
                form=tap.form,
                width=tap.features,
                positions=tap.positions,
                measured=tap.measured,
                class_token=tap.class_token,
                statistics=depth.statistics(),
            )
            for kind, tap, depth in zip(plan.kinds, plan.taps, depths, strict=True)
        )
        if not any(layer.statistics.n_images for layer in layers):
            raise CannotAssessError(
                f"{opened.path}: number of images with finite, not constant values is 0 of {read.n_usable} "
                "at every block; at least one is needed",
                f"robustcheck inspect {quoted(opened.path)}",
            )
        if saver is not None:
            saver.write(
                MadeWith(
                    model=str(opened.path),
                    model_digest=opened.digest,
                    tensor=opened.representation.tensor,
                    pool=opened.representation.pool,
                    preprocessing=inputs.preprocessing,
                    images=inputs.source.named,
                    seed=inputs.source.seed,
                )
            )
    facts = ScanModel(
        **measure.model_read(opened),
        rule=plan.rule,
        n_left_out=plan.n_left_out,
        output_difference=difference,
        output_unchanged=difference <= SAME_OUTPUT[opened.precision],
    )
    begins = next((index for index, layer in enumerate(layers) if layer.statistics.has_outliers), None)
    return ScanReport(
        tool_version=VERSION,
        model=facts,
        layers=layers,
        begins=begins,
        summary=summary(layers, begins),
        preprocessing=inputs.preprocessing,
        images=facts_of_images,
        execution=runner.execution,
        notes=_notes(inputs, facts, layers, facts_of_images, runner.execution),
        time=Time.until_now(clock, read.n_usable),
    )


def _notes(
    inputs: Inputs, facts: ScanModel, layers: Sequence[Layer], images: ImageFacts, execution: Execution
) -> tuple[str, ...]:
    """What a reader must know next to the numbers."""
    notes = measure.question_notes(inputs) + image_notes(images)
    if (n_good := images.n_usable) < FEW_IMAGES:
        notes.append(f"Only {n_good} images: a feature that persists over few images need not persist over many.")
    notes += [f"Image set: {finding.seen}." for finding in images.sanity.findings]
    if facts.rule == "stages":
        notes.append("No residual block was found: layers are cut where width or resolution changes.")
    if facts.n_left_out:
        what = "1 tensor was" if facts.n_left_out == 1 else f"{facts.n_left_out} tensors were"
        notes.append(f"{what} left out: their axes could not be told apart, or they have too few features.")
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
    return (*notes, *execution_notes(execution))
