"""Run a model on photos in batches: the one loop, in which every photo is counted.

A check and every engine add up statistics in it (`add_rows`); compare, scan and shift add up their own. A check looks
at its numbers while they grow, and stops when they decide.
"""

import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from itertools import chain, compress, count
from typing import TypeVar

from ....thresholds.profile import Profile
from ...arrays import AnyArray
from ...errors import unfit
from ..evidence import Execution, Statistics
from ..images.source import ImageSource, Item, Skipped, prefetch
from ..model.open import ModelFile
from ..progress import LOG, Progress, Tell, tell_stage
from ..runtime.batch_trial import TRIED
from ..runtime.devices import CPU, cpu_threads, expects_accelerator
from ..statistics.intervals import FIRST_LOOK, is_look
from ..statistics.state import MAX_FEATURES, State, statistics, update
from ..verdict.kinds import NAMES
from ..verdict.rule import decided
from .content import described_rows, is_complete, merge_described
from .gallery import merge_seen, seen_rows
from .job import SHARD_IMAGES
from .opening import Inputs, OpenedJob
from .prepare import Prepared, prepare_item, stack
from .probe import probe_measured, take_probe, usable
from .reference import first_images
from .sums import FirstImages, ImagesRead, Measurement, RunFacts, nothing_yet

DECODERS = 2  # threads that decode ahead of a model on the CPU, which wants the cores itself
FIRST_IMAGES = "first images"  # the stage before the first batch is through
AHEAD = 32  # decoded images that may wait: two batches between looks; what is decoded beyond the last look is lost
AHEAD_OF_GPU = 64
Ready = TypeVar("Ready", bound=Prepared)
Watch = Callable[[AnyArray, Sequence["Prepared"]], None]
"""shown (image, feature) representations, finite and not constant, and the images that they are of"""


def decode(
    inputs: Inputs, source: ImageSource | None = None, *, execution: Execution | None = None, stops: Container[int] = ()
) -> AbstractContextManager[Generator[Prepared | Skipped, None, None]]:
    """Decode and prepare the images of a job, in threads that run ahead of its model (`decode_with`)."""
    return decode_with(partial(prepare_item, inputs=inputs), inputs, source, execution=execution, stops=stops)


def decode_with(
    prepare: Callable[[Item], Ready | Skipped],
    inputs: Inputs,
    source: ImageSource | None,
    *,
    execution: Execution | None,
    stops: Container[int] = (),
) -> AbstractContextManager[Generator[Ready | Skipped, None, None]]:
    """Decode images ahead of a model, in order, until the end of the context, which ends the threads.

    Args:
        prepare: makes one image ready.
        inputs: the job.
        source: a piece of its images, or another set; None = the job's.
        execution: how the model runs; None = as the job's device says, while no session is open.
        stops: numbers of images after which the run is likely to stop (`prefetch`).
    """
    if execution is None:
        on_gpu = expects_accelerator(inputs.job.options.device)
        threads = cpu_threads()
    else:
        on_gpu = execution.providers[0] != CPU
        threads = execution.threads
    images = inputs.source if source is None else source
    images = replace(images, keep=max(images.keep, inputs.source.keep))
    workers = count_decoders(on_gpu=on_gpu, threads=threads)
    window = AHEAD_OF_GPU if on_gpu else AHEAD
    return closing(prefetch(images, prepare, workers=workers, window=window, stops=stops))


def count_decoders(*, on_gpu: bool, threads: int) -> int:
    """Count the threads that decode: all of the worker's feed a GPU, while a model on the CPU needs them itself."""
    return max(DECODERS, threads) if on_gpu else DECODERS


def batches(
    decoded: Iterable[Ready | Skipped],
    read: ImagesRead,
    batch_size: int,
    *,
    n_images: int = 0,
    first_look: int = FIRST_LOOK,
    progress: Tell | None = None,
    label: Callable[[], str] = str,
    n_shown: int = 0,
) -> Iterator[list[Ready]]:
    """Count images, and put the usable ones into batches.

    A batch also ends where a run looks at the evidence (`is_look`), so that its size decides nothing.

    Args:
        decoded: the images, in order.
        read: of no image yet; every image is counted in it before its batch is given out.
        batch_size: usable images of a batch.
        n_images: images in all, for the progress.
        first_look: images at the first look.
        progress: called after every batch; before the first one is through, after every image.
        label: what the progress says next to the numbers.
        n_shown: images read before that the progress has shown already, and that its rate leaves out.
    """
    started = time.perf_counter()
    is_first = True

    def tell_image() -> None:
        if is_first and read.n_read > n_shown:
            tell_stage(progress, FIRST_IMAGES, read.n_read, n_images)

    def tell_batch() -> None:
        if progress is not None:
            rate = max(0, read.n_read - n_shown) / (time.perf_counter() - started)
            progress(Progress(read.n_read, n_images, rate, label()))

    batch: list[Ready] = []
    for item in decoded:
        if isinstance(item, Skipped):
            read.skipped.append(item)
            tell_image()
            continue
        batch.append(item)
        read.add(item)
        tell_image()
        if len(batch) == batch_size or is_look(read.n_usable, first_look):
            yield batch
            batch = []
            is_first = False
            tell_batch()
    if batch:
        yield batch
        tell_batch()


def measure_shard(opened: OpenedJob, index: int) -> Measurement:
    """Measure one shard: at most `SHARD_IMAGES` images, from number `index` · `SHARD_IMAGES` on."""
    start = index * SHARD_IMAGES
    shard = replace(opened.source, entries=opened.source.entries[start : start + SHARD_IMAGES])
    return measure_images(opened, shard)


def measure_images(opened: OpenedJob, source: ImageSource | None = None) -> Measurement:
    """Measure all images of a source; None = of the job's."""
    total = nothing_yet(len(opened.models))
    with decode(opened, source, execution=opened.runners[0].execution) as decoded:
        for batch in batches(decoded, total.images, opened.job.options.batch_size):
            add_rows(opened, total, batch, represent(opened, batch))
    return total


def represent(opened: OpenedJob, batch: Sequence[Prepared]) -> list[AnyArray]:
    """Run one batch from `batches`, and return its representations (image, feature) of each tensor."""
    pixels = stack(batch)
    return [rows for runner in opened.runners for rows in runner.represent(pixels)]


def add_rows(
    opened: OpenedJob,
    total: Measurement,
    batch: Sequence[Prepared],
    measured: Sequence[AnyArray],
    watch: Watch | None = None,
) -> None:
    """Add the representations of one batch.

    Args:
        opened: the job.
        total: what is added to; its images are counted already.
        batch: from `batches`.
        measured: from `represent`.
        watch: is shown the usable representations of the first tensor.

    Raises:
        CannotAssessError: a representation of more than `MAX_FEATURES` features.
    """
    names = [image.name for image in batch]
    digests = [image.digest for image in batch]
    keys = [key_of(digest) for digest in digests]
    for index, array in enumerate(measured):
        tensor = total.tensors[index]
        if tensor.state is None:
            tensor.state = _empty_state(opened.models[index], array.shape[1])
        added = update(tensor.state, array, keys)
        tensor.seen = merge_seen(tensor.seen, seen_rows(added, names, digests))
        usable_rows = array[added.usable]
        usable_images = list(compress(batch, added.usable))
        described = described_rows(usable_rows, [image.sketch for image in usable_images])
        tensor.described = merge_described(tensor.described, described)
        if watch is not None and index == 0:
            watch(usable_rows, usable_images)


def _empty_state(model: ModelFile, n_features: int) -> State:
    """Return the state of no image yet. Raises CannotAssessError for a representation that is an unpooled map."""
    if n_features > MAX_FEATURES:
        raise unfit(
            model.path, f"representation has {n_features} features; more than {MAX_FEATURES} is an unpooled map"
        )
    return State(n_features)


def key_of(digest: str) -> int:
    """Return the last 32 bits of a hexadecimal digest, which fix an image's jackknife group (`state.update`)."""
    return int(digest[-8:], 16)


def until_decided(
    opened: OpenedJob,
    profile: Profile,
    first: Sequence[Prepared | Skipped],
    decoded: Iterator[Prepared | Skipped],
    progress: Tell | None,
    watch: Watch | None,
) -> tuple[RunFacts, Measurement, FirstImages, bool]:
    """Try the model on the first images, and measure images until the evidence decides or they end.

    Args:
        opened: the job, of one tensor.
        profile: its thresholds decide.
        first: the images that were decoded while the session opened; all of them are tried.
        decoded: the images after these.
        progress: as for `batches`.
        watch: as for `add_rows`.

    Returns:
        What the trial found, the sums, the first images for a reference run, and whether the evidence decided.
    """
    batch_size = opened.job.options.batch_size
    n_images = len(opened.source)
    n_wanted = max(TRIED, min(batch_size, profile.min_images))
    tried = take_probe(decoded, n_wanted, first, lambda n_read: tell_stage(progress, FIRST_IMAGES, n_read, n_images))
    facts, tried_rows = probe_measured(opened, usable(tried))
    n_tried = len(usable(tried))
    LOG.debug("%s: batch invariance and output were tried", opened.job.model)
    total = nothing_yet(len(opened.models))
    kept = first_images(opened)  # not before: the trial may open another session

    def rows_of(batch: Sequence[Prepared]) -> list[AnyArray]:
        """Return the representations of the batch that was counted last: those of the trial, if all were tried."""
        end = total.images.n_usable
        if end > n_tried or not tried_rows:  # a single image is not tried
            return represent(opened, batch)
        return [rows[end - len(batch) : end] for rows in tried_rows]

    closest = ""  # of the last look, for the progress
    of_images = batches(
        chain(tried, decoded),
        total.images,
        batch_size,
        n_images=n_images,
        first_look=profile.min_images,
        progress=progress,
        label=lambda: closest,
        n_shown=len(tried),
    )
    for batch in of_images:
        measured = rows_of(batch)
        kept.add([image.pixels for image in batch], measured)
        add_rows(opened, total, batch, measured, watch)
        n_usable = total.images.n_usable
        state = total.tensors[0].state
        if not is_look(n_usable, profile.min_images) or state is None or state.n < 2:
            continue
        numbers = statistics(state, profile.alpha, profile.bounds)
        closest = _closest(numbers, profile)
        LOG.debug("%s: look at %d images: %s", opened.job.model, n_usable, closest or "no bound yet")
        if decided(numbers, profile) and _are_varied(total, profile.min_images):
            return facts, total, kept, True
    return facts, total, kept, False


def _are_varied(total: Measurement, min_images: int) -> bool:
    """Return whether enough varied images were read. Asked last, as it compares all pairs of images."""
    return is_complete(total.tensors[0].described) and total.images.sanity.facts().n_varied >= min_images


def likely_stops(profile: Profile) -> tuple[int, int]:
    """Return the first two looks of a run, at one of which a clear case is decided."""
    second = next(n for n in count(profile.min_images + 1) if is_look(n, profile.min_images))
    return profile.min_images, second


def _closest(numbers: Statistics, profile: Profile) -> str:
    """Describe, for the progress, the statistic whose interval is closest to its threshold."""
    gaps = []
    for name in profile.deciding:
        interval = getattr(numbers, name)
        minimum = profile.minimum_of(name)
        if interval.low is not None and interval.high is not None:
            distance = max(interval.low - minimum, minimum - interval.high)
            gap = distance / (interval.high - interval.low + 1e-12)
            gaps.append((gap, f"{NAMES[name]} {interval.low:.3g}–{interval.high:.3g} against {minimum:g}"))
    return min(gaps)[1] if gaps else ""
