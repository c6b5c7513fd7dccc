"""Run candidate and reference on the same images, in one loop, and add both to a pair."""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Sequence

from ...core.images.source import DecodedImage, Item, Skipped
from ...core.measure.content import DescribedRows, described_rows, merge_described
from ...core.measure.loop import batches, decode_with, key_of
from ...core.measure.opening import OpenedJob
from ...core.measure.prepare import Prepared, prepare_item, stack
from ...core.measure.sums import FirstImages, ImagesRead
from ...core.progress import Tell
from ...core.runtime.runner import RunOutput
from ...core.statistics import state
from ...errors import CannotAssessError, unfit
from ...text import frozen
from .pairs import MAX_ROWS, Pair, Side, add_predictions, update


@frozen
class BothPrepared(Prepared):
    """One image, ready for both models. It is counted as the candidate's."""

    other: Prepared
    """for the reference"""


def run_both(
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
        if same_pixels and isinstance(item, DecodedImage):
            return BothPrepared(**vars(one), other=one)
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
                theirs = second.runners[0].run(stack([both.other for both in batch]))
            pair = pair or Pair(_side(first, ours), _side(second, theirs))
            keys = [key_of(both.digest) for both in batch]
            is_usable = update(pair, ours.representation, theirs.representation, keys)
            usable = [both for both, used in zip(batch, is_usable, strict=True) if used]
            pair.images += [(both.name, both.digest) for both in usable[: MAX_ROWS - len(pair.images)]]
            firsts[0].add([both.pixels for both in usable], [ours.representation[is_usable]])
            firsts[1].add([both.other.pixels for both in usable], [theirs.representation[is_usable]])
            for index, output in enumerate((ours, theirs)):
                rows = described_rows(output.representation[is_usable], [both.sketch for both in usable])
                described[index] = merge_described(described[index], rows)
            a = ours.class_output
            b = theirs.class_output
            if a is not None and b is not None and a.shape == b.shape and a.shape[1] > 1:
                add_predictions(pair, a, b)
    if pair is None:
        read.require_any(first.source)
        raise AssertionError("require_any refuses a set without a usable image")
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


def say_none_usable(opened: Sequence[OpenedJob], pair: Pair, n: int) -> None:
    """Raise CannotAssessError: no representation of the n images is finite and not constant, of one model or both."""
    models = [model.job.model for model in opened]
    for model, side in zip(models, (pair.candidate, pair.reference), strict=True):
        if side.state.n_nonfinite + side.state.n_constant == n:
            seen = f"number of finite, not constant representations is 0 of {n}; at least one is needed"
            raise unfit(model, seen)
    raise CannotAssessError(
        f"{models[0]}, {models[1]}: number of images on which both representations are finite and not constant "
        f"is 0 of {n}; at least one is needed",
        "--images FOLDER",
    )
