"""Run a model on photos in batches: the one loop, in which every photo is counted.

A check and every engine add up statistics in it (`add_batch`); compare, scan and shift add up their own. A check looks
at its numbers while they grow, and stops when they decide.
"""

import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from itertools import chain, count
from typing import TypeVar

from ....thresholds.profile import Profile
from ...arrays import AnyArray
from ...errors import unfit
from ..evidence import Execution, Statistics
from ..images.source import ImageSource, Item, Skipped, prefetch
from ..progress import LOG, Progress, Tell
from ..runtime.devices import CPU, cpu_threads, expects_accelerator
from ..runtime.runner import TRIED
from ..statistics import state as sums
from ..statistics.intervals import FIRST_LOOK, is_look
from ..verdict.reasons import NAMES
from ..verdict.rule import decided
from .content import described_rows, is_complete, merge_described
from .gallery import merge_seen, seen_rows
from .job import SHARD_IMAGES
from .opening import Inputs, Opened
from .prepare import Prepared, prepare_item, stack
from .probe import probe_measured, take_probe, usable
from .sums import Facts, FirstImages, ImagesRead, Measurement, nothing_yet

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
    """Decode and prepare the images of a job. Threads run ahead of its model (`decode_with`)."""
    return decode_with(partial(prepare_item, inputs=inputs), inputs, source, execution=execution, stops=stops)


def decode_with(
    prepare: Callable[[Item], Ready | Skipped],
    inputs: Inputs,
    source: ImageSource | None = None,
    *,
    execution: Execution | None = None,
    stops: Container[int] = (),
) -> AbstractContextManager[Generator[Ready | Skipped, None, None]]:
    """Decode images ahead of a model, in order. It is a context, whose end ends the threads.

    Args:
        prepare: makes one image ready.
        inputs: the job.
        source: a piece of its images, or another set; None = the job's.
        execution: how the model runs; None = as the job's device says, while no session is open.
        stops: numbers of images after which the run is likely to stop (`prefetch`).
    """
    on_gpu = expects_accelerator(inputs.job.options.device) if execution is None else execution.providers[0] != CPU
    threads = cpu_threads() if execution is None else execution.threads
    workers = count_decoders(on_gpu=on_gpu, threads=threads)
    images, window = inputs.source if source is None else source, AHEAD_OF_GPU if on_gpu else AHEAD
    images = replace(images, keep=max(images.keep, inputs.source.keep))
    return closing(prefetch(images, prepare, workers=workers, window=window, stops=stops))


def count_decoders(*, on_gpu: bool, threads: int) -> int:
    """Count the threads that decode. A model on the CPU needs its cores itself, a GPU is fed by all of the worker's."""
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
) -> Generator[list[Ready], None, None]:
    """Put images into batches and count them.

    A batch also ends where a run looks at the evidence (`is_look`), so that its size decides nothing.

    Args:
        decoded: the images, in order.
        read: of no image yet; every image is counted in it before its batch is given out.
        batch_size: usable images of a batch.
        n_images: images in all, for the progress.
        first_look: images at the first look.
        progress: called after every batch; before the first one is through, after every image.
        label: what the progress says next to the numbers.
        n_shown: images that were read, and that the progress has shown, before. Its rate is that of the others.
    """
    clock, is_first = time.perf_counter(), True

    def tell() -> None:
        if progress is not None:
            rate = max(0, read.n_read - n_shown) / (time.perf_counter() - clock)
            progress(Progress(read.n_read, n_images, rate, label()))

    def tick() -> None:
        if progress is not None and is_first and read.n_read > n_shown:
            progress(Progress(read.n_read, n_images, 0.0, "", FIRST_IMAGES))

    batch: list[Ready] = []
    for item in decoded:
        if isinstance(item, Skipped):
            read.skipped.append(item)
            tick()
            continue
        batch.append(item)
        read.add(item)
        tick()
        if len(batch) == batch_size or is_look(read.n_usable, first_look):
            yield batch
            batch, is_first = [], False
            tell()
    if batch:
        yield batch
        tell()


def measure_shard(opened: Opened, index: int) -> Measurement:
    """Measure one shard of images.

    It starts at number `index` · `SHARD_IMAGES` and has at most `SHARD_IMAGES` of them.
    """
    start = index * SHARD_IMAGES
    shard = replace(opened.source, entries=opened.source.entries[start : start + SHARD_IMAGES])
    return measure_images(opened, shard)


def measure_images(opened: Opened, source: ImageSource | None = None) -> Measurement:
    """Measure all images of a source. None = of the job's."""
    total = nothing_yet(len(opened.models))
    with decode(opened, source, execution=opened.runners[0].execution) as decoded:
        for batch in batches(decoded, total.images, opened.job.options.batch_size):
            add_batch(opened, total, batch)
    return total


def add_batch(
    opened: Opened,
    total: Measurement,
    batch: Sequence[Prepared],
    watch: Watch | None = None,
    measured: Sequence[AnyArray] = (),
    kept: FirstImages | None = None,
) -> None:
    """Run one batch and add its representations.

    Args:
        opened: the job.
        total: what is added to; its images are counted already.
        batch: from `batches`.
        watch: is shown the usable representations of the first tensor.
        measured: the representations, where they are measured already.
        kept: gets the batch's images and representations, until it has enough.

    Raises:
        CannotAssessError: a representation of more than `MAX_FEATURES` features.
    """
    names, digests = [item.name for item in batch], [item.digest for item in batch]
    keys = [key_of(digest) for digest in digests]
    if not measured:
        pixels = stack(batch)
        measured = [array for runner in opened.runners for array in runner.represent(pixels)]
    if kept is not None:
        kept.add([item.pixels for item in batch], measured)
    for index, array in enumerate(measured):
        tensor = total.tensors[index]
        if tensor.state is None:
            if array.shape[1] > sums.MAX_FEATURES:
                path = opened.models[index].path
                raise unfit(
                    path,
                    f"representation has {array.shape[1]} features; more than {sums.MAX_FEATURES} is an unpooled map",
                )
            tensor.state = sums.State(array.shape[1])
        added = sums.update(tensor.state, array, keys)
        tensor.seen = merge_seen(tensor.seen, seen_rows(added, names, digests))
        shown = array[added.usable]
        used = [item for item, is_usable in zip(batch, added.usable, strict=True) if is_usable]
        sketches = [item.sketch for item in used]
        tensor.described = merge_described(tensor.described, described_rows(shown, sketches))
        if watch is not None and index == 0:
            watch(shown, used)


def key_of(digest: str) -> int:
    """Return the last 32 bits of a hexadecimal digest. They fix an image's jackknife group (`state.update`)."""
    return int(digest[-8:], 16)


def until_decided(
    opened: Opened,
    profile: Profile,
    decoded: Iterator[Prepared | Skipped],
    progress: Tell | None,
    watch: Watch | None,
    kept: FirstImages,
) -> tuple[Facts, Measurement, bool]:
    """Try the model, and measure until the evidence decides. True: it does; False: the images end first.

    kept: gets the first images.
    """
    batch_size = opened.job.options.batch_size

    def counted() -> Iterator[Prepared | Skipped]:
        for n_read, item in enumerate(decoded, 1):
            if progress is not None:
                progress(Progress(n_read, len(opened.source), 0.0, "", FIRST_IMAGES))
            yield item

    first = take_probe(counted(), max(TRIED, min(batch_size, profile.min_images)))
    facts, rows = probe_measured(opened, usable(first))
    LOG.debug("%s: batch invariance and output were tried", opened.job.model)
    total = nothing_yet(1)
    enough_varied = False
    closest = [""]  # of the last look, for the progress
    of_images = batches(
        chain(first, decoded),
        total.images,
        batch_size,
        n_images=len(opened.source),
        first_look=profile.min_images,
        progress=progress,
        label=lambda: closest[-1],
        n_shown=len(first),
    )
    for batch in of_images:
        own, rows = [array[: len(batch)] for array in rows], [array[len(batch) :] for array in rows]
        are_all = all(len(array) == len(batch) for array in own)  # else they end inside this batch: it runs
        add_batch(opened, total, batch, watch, own if are_all else (), kept)
        state, n_usable = total.tensors[0].state, total.images.n_usable
        if not is_look(n_usable, profile.min_images) or state is None or state.n < 2:
            continue
        measured = sums.statistics(state, profile.alpha, profile.bounds)
        closest.append(_closest(measured, profile))
        LOG.debug("%s: look at %d images: %s", opened.job.model, n_usable, closest[-1] or "no bound yet")
        if decided(measured, profile):
            # asked last, and only until it holds: counting varied images compares all pairs
            enough_varied = enough_varied or (
                is_complete(total.tensors[0].described) and total.images.sanity.facts().n_varied >= profile.min_images
            )
            if enough_varied:
                return facts, total, True
    return facts, total, False


def likely_stops(profile: Profile) -> tuple[int, int]:
    """Return the first two looks of a run.

    A clear case is decided at one of them, and nothing is decoded beyond it in vain.
    """
    second = next(n for n in count(profile.min_images + 1) if is_look(n, profile.min_images))
    return profile.min_images, second


def _closest(statistics: Statistics, profile: Profile) -> str:
    """Return the statistic that is closest to its threshold. Its interval is compared, for the progress line."""
    gaps = []
    for name in profile.deciding:
        interval = getattr(statistics, name)
        minimum = profile.minimum_of(name)
        if interval.low is not None and interval.high is not None:
            distance = max(interval.low - minimum, minimum - interval.high)
            gap = distance / (interval.high - interval.low + 1e-12)
            gaps.append((gap, f"{NAMES[name]} {interval.low:.3g}–{interval.high:.3g} against {minimum:g}"))
    return min(gaps)[1] if gaps else ""
