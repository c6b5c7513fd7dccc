"""Run a few images once more by reference arithmetic, to show what the machine makes of a file.

The reference is the CPU. Where int8 sums saturate on it, they are computed without saturation; elsewhere the graph is
not optimised. docs/dev/decisions/reference-run.md has the measurements that this rests on.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np

from ....thresholds.statistics import LOOKS_ALPHA, Statistic
from ...arrays import AnyArray, Array, GenericArray, float64
from ...errors import CannotAssessError, EnvironmentFaultError
from ...text import frozen
from ..evidence import CONTENT_IMAGES, NONFINITE, Arithmetic, Execution, ReferenceRun
from ..runtime.devices import CPU
from ..runtime.runner import SAME_OUTPUT, Runner
from ..runtime.session import relative_difference
from ..statistics import definitions
from ..statistics.state import State, statistics, update
from .opening import OpenedJob, open_runner
from .sums import FirstImages, RunFacts

IMAGES_OF_CHECK = 8
IMAGES_OF_COMPARISON = 16  # more than of a check: they decide whether an index verdict stands
IMAGES_OF_FLOOR = 4  # for which a second reference run gives the floor of rounding
FAR = 1e-4  # 1 − cosine, beyond which content is measured by reference arithmetic, too; a layer in TF32 has 2e-8
LARGE_BYTES = 2**30  # of a file whose first session is closed before the reference opens its own
ReferenceArithmetic = Literal["exact int8 sums", "no graph optimisation"]


@frozen
class ReferenceOutput:
    """A reference run of one tensor."""

    run: ReferenceRun
    rows: AnyArray | None = None
    """(image, feature) of the images tried, by reference arithmetic; None where no reference run was possible"""


def kind_of(execution: Execution) -> ReferenceArithmetic | None:
    """Return the reference arithmetic of a run; None where none is needed."""
    if execution.arithmetic == "exact":
        return None
    if execution.int8_sums is None:
        return None if execution.providers[0] == CPU else "no graph optimisation"
    return "exact int8 sums" if execution.int8_sums.saturates else "no graph optimisation"


def with_references(facts: RunFacts, references: Sequence[ReferenceOutput | None]) -> RunFacts:
    """Return the facts with the reference run of each tensor, where there is one."""
    executions = [
        execution if reference is None else execution.model_copy(update={"reference": reference.run})
        for execution, reference in zip(facts.executions, references, strict=True)
    ]
    return replace(facts, executions=tuple(executions))


def first_images(opened: OpenedJob) -> FirstImages:
    """Return the list that gets the images which may run by reference arithmetic: as many as content is measured on."""
    is_needed = any(kind_of(runner.execution) is not None for runner in opened.runners)
    return FirstImages(limit=CONTENT_IMAGES if is_needed else 0)


def reference_runs(
    opened: OpenedJob, first: FirstImages, n_tried: int = IMAGES_OF_CHECK
) -> list[ReferenceOutput | None]:
    """Run the first images by reference arithmetic, for each tensor; None where that is not needed.

    `n_tried` images run. Where their representations are far from the measured ones, the others run, too: effective
    rank and relative variance of a few images say little of those of `CONTENT_IMAGES`. The sessions of files over 1 GiB
    are closed: nothing runs in them afterwards.
    """
    references: list[ReferenceOutput | None] = []
    for runner in opened.runners:
        kind = kind_of(runner.execution)
        if kind is None or len(first.pixels) < 2:
            references += [None] * len(runner.models)
            continue
        if runner.model.file.size_bytes > LARGE_BYTES:
            runner.close()
        start = len(references)
        rows = [np.stack(of_tensor) for of_tensor in zip(*first.rows, strict=True)]
        measured = rows[start : start + len(runner.models)]
        references += _run(opened, runner, kind, first.pixels, measured, n_tried)
    return references


def _run(
    opened: OpenedJob,
    runner: Runner,
    kind: ReferenceArithmetic,
    pixels: Sequence[GenericArray],
    measured: Sequence[AnyArray],
    n_tried: int,
) -> list[ReferenceOutput | None]:
    """Compare the measured representations of one session with those of the reference."""
    is_exact = kind == "exact int8 sums"
    level = "all" if is_exact else "none"
    other_level = "none" if is_exact else "all"
    arithmetic: Arithmetic = "exact" if is_exact else "machine"
    photos = opened.source.kind != "tensors"
    on_cpu = partial(open_runner, opened, runner.models, photos=photos, device="cpu", arithmetic=arithmetic)
    tried_pixels = np.stack(pixels[:n_tried])
    tried = [rows[:n_tried] for rows in measured]
    floor: Sequence[AnyArray] = ()
    try:
        reference = on_cpu(level=level).represent_in_batches(tried_pixels)
        differences = list(map(relative_difference, reference, tried))
        is_other = max(differences) > SAME_OUTPUT[runner.execution.precision]
        if is_other and (is_exact or runner.execution.providers[0] != CPU):
            floor = on_cpu(level=other_level).represent_in_batches(tried_pixels[:IMAGES_OF_FLOOR])
    except (CannotAssessError, EnvironmentFaultError) as fault:
        failed = ReferenceRun(by=kind, failed=fault.message)
        return [ReferenceOutput(failed)] * len(measured)
    runs = _compared(kind, reference, tried, floor)
    if len(pixels) > n_tried and any(map(_is_far, runs)):
        try:
            others = on_cpu(level=level).represent_in_batches(np.stack(pixels[n_tried:]))
            whole = [np.concatenate(parts) for parts in zip(reference, others, strict=True)]
            runs = _compared(kind, whole, measured, floor)
        except (CannotAssessError, EnvironmentFaultError) as fault:
            runs = [run.model_copy(update={"failed": fault.message}) for run in runs]
    return [ReferenceOutput(run, rows) for run, rows in zip(runs, reference, strict=True)]


def _is_far(run: ReferenceRun) -> bool:
    """Return whether the machine's representations are so far from the reference's that the content may be another."""
    return run.exceeds_rounding and run.cosine is not None and 1 - run.cosine > FAR


def _compared(
    kind: ReferenceArithmetic, reference: Sequence[AnyArray], measured: Sequence[AnyArray], floor: Sequence[AnyArray]
) -> list[ReferenceRun]:
    """Compare the representations of each tensor with those of the reference.

    floor: (image, feature) of the first images by a second reference run; empty where none was needed.
    """
    runs = []
    for index, (theirs, own) in enumerate(zip(reference, measured, strict=True)):
        cosines = cosine(theirs, own)
        of_floor = None
        if floor:
            of_floor = float(np.median(cosine(theirs[:IMAGES_OF_FLOOR], floor[index])))
        run = ReferenceRun(
            by=kind,
            n_images=len(own),
            cosine=float(np.median(cosines)),
            worst_cosine=float(cosines.min()),
            difference=relative_difference(theirs, own),
            floor=of_floor,
            shifts=shifts(theirs, own),
        )
        runs.append(run)
    return runs


def cosine(a: AnyArray, b: AnyArray) -> Array:
    """Return the cosine of the two representations of each image, (image,); 0 where one is not finite or zero."""
    with np.errstate(all="ignore"):
        values = (definitions.unit_rows(a) * definitions.unit_rows(b)).sum(axis=1)
    return float64(np.nan_to_num(values, nan=0.0))


def shifts(reference: AnyArray, measured: AnyArray) -> dict[str, float]:
    """Subtract the statistics of measured representations from those of the reference's, over the same images.

    Statistics of the verdict and of the content, but those without a finite value in one of the two; and the share of
    the representations that are not finite.
    """
    ours = _estimates(measured)
    theirs = _estimates(reference)
    return {name: theirs[name] - ours[name] for name in ours if name in theirs}


def _estimates(h: AnyArray) -> dict[str, float]:
    """Estimate the statistics of a few representations (image, feature)."""
    state = State(h.shape[1])
    usable = update(state, h, np.arange(len(h))).usable
    share = {NONFINITE: state.n_nonfinite / len(h)}
    if not state.n:
        return share
    measured = statistics(state, LOOKS_ALPHA)
    values = {name: getattr(measured, name).estimate for name in get_args(Statistic)}
    rows = h[usable]
    for definition in (definitions.effective_rank, definitions.relative_variance, definitions.mean_of_rest):
        values[definition.__name__] = definition(rows)
    return share | {name: value for name, value in values.items() if value is not None}
