"""Run candidate and reference on the same images, in one loop, and add both to a pair."""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Sequence
from itertools import compress

from ....thresholds.profile import Profile
from ...core.evidence import Evidence
from ...core.images.source import DecodedImage, Item, Skipped
from ...core.measure.content import DescribedRows, described_rows, merge_described
from ...core.measure.loop import batches, decode_with, key_of
from ...core.measure.opening import OpenedJob
from ...core.measure.prepare import Prepared, prepare_item, stack
from ...core.measure.probe import probe
from ...core.measure.reference import (
    IMAGES_OF_COMPARISON,
    ReferenceOutput,
    first_images,
    reference_runs,
    with_references,
)
from ...core.measure.sums import FirstImages, ImagesRead, Measurement, TensorSums, conclude
from ...core.progress import Tell
from ...core.runtime.runner import RunOutput
from ...core.statistics import state
from ...errors import CannotAssessError, unfit
from ...outside.addresses import LocalModel
from ...text import frozen
from ..call import QuestionRun
from .pairs import MAX_ROWS, Pair, Side, add_predictions, update


@frozen
class BothPrepared(Prepared):
    """One image, ready for both models, and counted as the candidate's."""

    other: Prepared
    """for the reference"""


def measure_both(
    models: Sequence[LocalModel], opened: Sequence[OpenedJob], run: QuestionRun, profile: Profile
) -> tuple[Pair, ImagesRead, list[ReferenceOutput | None], list[Evidence]]:
    """Run both models on the images. Return also what each gives by reference arithmetic, and its evidence."""
    run.tell("trying the models on a few images")
    facts = [probe(model) for model in opened]
    firsts = (first_images(opened[0]), first_images(opened[-1]))
    pair, read, described = _run_both(opened[0], opened[-1], run.progress, firsts)
    sides = (pair.candidate, pair.reference)
    references = []
    evidence = []
    for number, model in enumerate(opened):
        (exact,) = reference_runs(model, firsts[number], IMAGES_OF_COMPARISON)
        fact = with_references(facts[number], [exact])
        sums = TensorSums(sides[number].state, described=described[number])
        (concluded,) = conclude(model.job, fact, Measurement([sums], read), profile)
        references.append(exact)
        evidence.append(models[number].named(concluded))
    return pair, read, references, evidence


def _run_both(
    first: OpenedJob, second: OpenedJob, progress: Tell | None, firsts: tuple[FirstImages, FirstImages]
) -> tuple[Pair, ImagesRead, list[DescribedRows]]:
    """Run every usable image through both models. The same model twice is run once.

    firsts: get the first images of each.

    Returns their sums, the images, and of each model the rows that its content is measured on.
    """
    read = ImagesRead()
    described: list[DescribedRows] = [(), ()]
    same_pixels = first.preprocessing.preprocessing == second.preprocessing.preprocessing

    def prepare(item: Item) -> BothPrepared | Skipped:
        one = prepare_item(item, first)
        if isinstance(one, Skipped):
            return one
        other: Prepared | Skipped = one
        if not (same_pixels and isinstance(item, DecodedImage)):
            other = prepare_item(item, second)
        if isinstance(other, Skipped):
            return other
        return BothPrepared(**vars(one), other=other)

    pair: Pair | None = None
    with decode_with(prepare, first, second.source, execution=first.runners[0].execution) as decoded:
        for batch in batches(
            decoded, read, first.job.options.batch_size, n_images=len(first.source), progress=progress
        ):
            ours = first.runners[0].run(stack(batch))
            theirs = ours
            if second is not first:
                others = [both.other for both in batch]
                theirs = second.runners[0].run(stack(others))
            if pair is None:
                pair = Pair(_side(first, ours), _side(second, theirs))
            keys = [key_of(both.digest) for both in batch]
            is_usable = update(pair, ours.representation, theirs.representation, keys)
            usable = list(compress(batch, is_usable))
            room = MAX_ROWS - len(pair.images)
            pair.images += [(both.name, both.digest) for both in usable[:room]]
            sketches = [both.sketch for both in usable]
            pixels = ([both.pixels for both in usable], [both.other.pixels for both in usable])
            for index, output in enumerate((ours, theirs)):
                rows = output.representation[is_usable]
                firsts[index].add(pixels[index], [rows])
                described[index] = merge_described(described[index], described_rows(rows, sketches))
            a = ours.class_output
            b = theirs.class_output
            if a is not None and b is not None and a.shape == b.shape and a.shape[1] > 1:
                add_predictions(pair, a, b)
    if pair is None:
        read.require_any(first.source)
        raise AssertionError("require_any refuses a set without a usable image")
    if pair.candidate.state.n == 0:
        _refuse_unmeasured(first, second, pair, read.n_usable)
    return pair, read, described


def _side(opened: OpenedJob, output: RunOutput) -> Side:
    width = output.representation.shape[1]
    if width > state.MAX_FEATURES:
        raise CannotAssessError(
            f"{opened.models[0].path}: representation has {width} features; more than {state.MAX_FEATURES} is an "
            "unpooled map",
            "export the model with a pooled representation",
        )
    return Side(state.State(width))


def _refuse_unmeasured(first: OpenedJob, second: OpenedJob, pair: Pair, n: int) -> None:
    """Raise CannotAssessError: no representation of the n images is finite and not constant, of one model or both."""
    models = (first.job.model, second.job.model)
    for model, side in zip(models, (pair.candidate, pair.reference), strict=True):
        if side.state.n_nonfinite + side.state.n_constant == n:
            seen = f"number of finite, not constant representations is 0 of {n}; at least one is needed"
            raise unfit(model, seen)
    raise CannotAssessError(
        f"{models[0]}, {models[1]}: number of images on which both representations are finite and not constant "
        f"is 0 of {n}; at least one is needed",
        "--images FOLDER",
    )
