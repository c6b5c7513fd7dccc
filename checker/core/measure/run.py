"""Run a model on an image set in batches. The one loop opens both and tries the model first.

The check and every engine add up statistics in it (`add_batch`); compare, scan and shift add up their own. A check
looks at its numbers while they grow, and stops when they decide.
"""

import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from itertools import chain, count
from typing import TypeVar

import numpy as np

from ....thresholds.profile import Profile
from ...arrays import AnyArray, Float32s, GenericArray
from ...errors import CannotAssessError, UsageError, unfit
from ...text import Fields, Texts, frozen
from ..evidence import Execution, ModelFacts, Options, PreprocessingFacts, Statistics
from ..images.entries import Entries
from ..images.preprocess import least_edge
from ..images.sanity import DESCRIBED
from ..images.source import ImageSource, Item, Skipped, check_bad, prefetch
from ..model.file import stated_in
from ..model.image_input import fed_as
from ..model.int8 import saturating_pairs
from ..model.open import ModelFile, open_model
from ..model.sidecar import find_preprocessing
from ..progress import LOG, Progress, Tell
from ..runtime.devices import CPU, cpu_threads, expects_accelerator
from ..runtime.head import LinearHead, score_difference
from ..runtime.runner import SAME_OUTPUT, TRIED, Runner
from ..statistics import state as sums
from ..statistics.definitions import FIRST_LOOK, is_look
from ..verdict.gate import model_notes
from ..verdict.reasons import NAMES
from ..verdict.rule import decided
from . import job
from .job import SHARD_IMAGES, Facts, FirstImages, ImagesRead, Job, Measurement, Prepared, nothing_yet, prepare, stack

DECODERS = 2  # threads that decode ahead of a model on the CPU, which wants the cores itself
FIRST_IMAGES = "first images"  # the stage before the first batch is through
AHEAD = 32  # decoded images that may wait: two batches between looks; what is decoded beyond the last look is lost
AHEAD_OF_GPU = 64

Ready = TypeVar("Ready", bound=Prepared)

OpenSource = Callable[[Options], ImageSource]
"""opens the image set that the options of a job name"""
Watch = Callable[[AnyArray, Sequence["Prepared"]], None]
"""shown (image, feature) representations, finite and not constant, and the images that they are of"""


@frozen
class Inputs:
    """A job that is read but not opened.

    Its model is read, its preprocessing found and its images indexed; no session is open.
    """

    job: Job
    models: tuple[ModelFile, ...]
    """one a tensor"""
    preprocessing: PreprocessingFacts
    source: ImageSource
    described: frozenset[str] | None
    """names of the images whose sketches are made whole: the first `DESCRIBED`; None = no sketches"""


@frozen
class Opened(Inputs):
    """A job with everything opened; nothing has run."""

    runners: tuple[Runner, ...]
    """one for all tensors where each is an output of the graph, else one a tensor"""


def open_job(job: Job, open_source: OpenSource, *, threads: int | None = None) -> Opened:
    """Open model, preprocessing, images and session.

    Args:
        job: what to open.
        open_source: opens the job's images.
        threads: cores for ONNX Runtime; None = all that this process may use.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    return open_sessions(read_inputs(job, open_source), threads=threads)


def read_inputs(job: Job, open_source: OpenSource) -> Inputs:
    """Read everything of `open_job` but the sessions.

    Args:
        job: what to open.
        open_source: opens the job's images, once the model is read.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    models = [open_model(job.model, tensor=tensor, pool=job.options.pool) for tensor in job.tensors]
    if _own_outputs(models):  # the same bytes: kept once, they can be 2 GiB
        models[1:] = [replace(model, graph=models[0].graph) for model in models[1:]]
    contract, stated_by = stated_in(models[0].contract)
    preprocessing = find_preprocessing(
        job.model, job.options.preprocess, contract, models[0].image_input.size, stated_by=stated_by
    )
    preprocessing = fed_as(preprocessing, models[0].image_input, job.model)
    source = open_source(job.options)
    source = replace(source, keep=max(source.keep, least_edge(preprocessing.preprocessing)))
    if source.kind == "tensors" and preprocessing.source != "assumed":
        preprocessing = preprocessing.model_copy(update={"source": "tensors"})
    return Inputs(
        job=job,
        models=tuple(models),
        preprocessing=preprocessing,
        source=source,
        described=frozenset(source.entries[:DESCRIBED].names()),
    )


def open_sessions(inputs: Inputs, *, threads: int | None = None) -> Opened:
    """Open the models of `read_inputs`. Arguments and errors are those of `open_job`."""
    groups = [inputs.models] if _own_outputs(inputs.models) else [(model,) for model in inputs.models]
    photos = inputs.source.kind != "tensors"
    runners = tuple(open_runner(inputs, group, photos=photos, threads=threads) for group in groups)
    return Opened(**vars(inputs), runners=runners)


def open_runner(
    inputs: Inputs,
    models: Sequence[ModelFile] = (),
    *,
    photos: bool = True,
    threads: int | None = None,
    device: str | None = None,
    level: str = "all",
    exact: bool = False,
) -> Runner:
    """Open a session for photos or for tensors. Photos are preprocessed by it, tensors are already.

    Args:
        inputs: the job.
        models: the tensors that it reads; none = the first one.
        photos: whether it gets photos.
        threads: as in `open_job`.
        device: None = the job's.
        level: of graph optimisation.
        exact: whether int8 sums must be exact, where the job does not ask for it.
    """
    run, (first, *also) = inputs.job.options, models or inputs.models[:1]
    preprocessing = inputs.preprocessing.preprocessing if photos else None
    asked = run.device if device is None else device
    is_exact = exact or run.arithmetic == "exact"
    if is_exact and asked not in ("auto", "cpu"):
        raise UsageError(
            f"--device is {asked}; the CPU alone computes exact int8 sums (--arithmetic exact)", "--device cpu"
        )
    return Runner(
        first,
        "cpu" if is_exact else asked,
        preprocessing=preprocessing,
        also=also,
        threads=threads,
        batch_size=run.batch_size,
        level=level,
        exact=is_exact,
    )


def _own_outputs(models: Sequence[ModelFile]) -> bool:
    """Return whether all tensors are the model's own outputs. One session reads them all then."""
    return all(not model.added_output for model in models)


def take_probe(decoded: Iterable[Prepared | Skipped], n: int = TRIED) -> list[Prepared | Skipped]:
    """Take images until `n` are usable. All are taken if they are fewer."""
    first, n_usable = list[Prepared | Skipped](), 0
    for item in decoded:
        first.append(item)
        n_usable += isinstance(item, Prepared)
        if n_usable == n:
            break
    return first


def usable(items: Iterable[Prepared | Skipped]) -> list[Prepared]:
    """Return the images that can be run."""
    return [item for item in items if isinstance(item, Prepared)]


def probe(opened: Opened) -> Facts:
    """Try the model on the first usable images, decoded here. See `probe_measured`."""
    first = take_probe(prepare_item(item, opened) for item in opened.source.items())
    return probe_measured(opened, usable(first))[0]


def probe_measured(opened: Opened, images: Sequence[Prepared]) -> tuple[Facts, list[AnyArray]]:
    """Try the model, and measure images for it. See `Runner.output_difference` and `Runner.batch_invariances`.

    To be called before anything else is measured: it settles the graph optimisation that the session runs with, and
    since it looks at the same images everywhere, every worker settles the same. With less than two usable images there
    is no difference to tell, and it is None.

    Args:
        opened: the job.
        images: the first usable ones of the job.

    Returns:
        The facts, and the representations (image, feature) of each tensor; none for less than two images.
    """
    rows: list[AnyArray] = []
    models: list[ModelFacts] = []
    for runner in opened.runners if len(images) > 1 else ():
        pixels = stack(images)
        output = runner.output_difference(pixels[:TRIED])  # first: it may lower the graph optimisation
        own = runner.represent_in_batches(pixels)
        batch = runner.batch_invariances(pixels, own)
        fixed: tuple[float | None, ...] = (None,) * len(own)
        if opened.job.options.batch_size == 1:
            fixed = runner.fixed_scale_invariances(pixels[:TRIED])
        rows += own
        for model, *measured in zip(runner.models, batch, fixed, strict=True):
            models.append(model_facts(model, output, *measured))
    facts = Facts(
        models=tuple(models or map(model_facts, opened.models)),
        executions=tuple(_execution(runner, opened.job.options) for runner in opened.runners for _ in runner.models),
        preprocessing=opened.preprocessing,
        source=replace(opened.source, entries=Entries.of([])),
        n_images=len(opened.source),
        names=opened.source.names_digest,
    )
    return facts, rows


def _execution(runner: Runner, options: Options) -> Execution:
    """Return the description of a session, with the arithmetic that was asked for."""
    return runner.execution.model_copy(update={"arithmetic": options.arithmetic})


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


def prepare_item(item: Item, inputs: Inputs) -> Prepared | Skipped:
    """Prepare one image as the job says."""
    return prepare(item, inputs.models[0], inputs.preprocessing.preprocessing, inputs.described)


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
        tensor.seen = job.merge_seen(tensor.seen, job.seen_rows(added, names, digests))
        shown = array[added.usable]
        used = [item for item, is_usable in zip(batch, added.usable, strict=True) if is_usable]
        sketches = [item.sketch for item in used]
        tensor.described = job.merge_described(tensor.described, job.described_rows(shown, sketches))
        if watch is not None and index == 0:
            watch(shown, used)


def key_of(digest: str) -> int:
    """Return the last 32 bits of a hexadecimal digest. They fix an image's jackknife group (`state.update`)."""
    return int(digest[-8:], 16)


def model_read(opened: ModelFile) -> Fields:
    """Return the fields of a `ModelRead`."""
    chosen, origin = opened.representation, opened.contract and opened.contract.source
    source = f"{origin.library} {origin.name} ({origin.weights})" if origin else ""
    return {
        "file": str(opened.path),
        "digest": opened.digest,
        "source": source,
        "tensor": chosen.tensor,
        "pool": chosen.pool,
    }


def model_facts(
    opened: ModelFile,
    output_difference: float | None = None,
    batch_difference: float | None = None,
    fixed_scale_difference: float | None = None,
) -> ModelFacts:
    """Record the facts of model and tensor. The differences are None until they are measured."""
    chosen, contract = opened.representation, opened.contract
    return ModelFacts(
        **model_read(opened),
        file_digest=opened.model_digest,
        external_digests=opened.external_digests,
        size_bytes=opened.size_bytes,
        opset=dict(opened.opsets),
        producer=opened.producer,
        left_out=opened.left_out,
        input_type=opened.image_input.dtype,
        scaling=opened.scaling,
        other_scalings=opened.scalings[1:],
        rule=chosen.rule,
        ends_in=chosen.ends_in,
        why=chosen.why,
        tensor_assumed=chosen.assumed,
        random_weights=contract.source.random_weights if contract else None,
        synthetic=contract.source.synthetic if contract else "",
        matched_to=contract.source.matched_to if contract else None,
        file_changed=opened.file_changed,
        batch_difference=batch_difference,
        fixed_scale_difference=fixed_scale_difference,
        output_difference=output_difference,
        saturating_pairs=saturating_pairs(opened.graph.proto, opened.graph.file.weights),
    )


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
                job.is_complete(total.tensors[0].described)
                and total.images.sanity.facts().n_varied >= profile.min_images
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


COMPARED = 2**20  # scores that are compared with the model's own at once


@frozen
class Collected:
    """A model's outputs for an image set, by row. Its memory grows with the images."""

    representations: Float32s
    """(image, feature), finite; of the usable images, in their order"""
    scores: Float32s | None
    """(image, class), as the model gives them, where it has class scores"""
    names: Texts
    digests: Texts
    read: ImagesRead


def read_head_input(job: Job, open_source: OpenSource) -> Inputs:
    """Read a job to measure its head's input.

    It is `read_inputs`, with that tensor as the measured one where the model has a head.

    A head's own input can be another tensor than the representation: a zero-shot head reads it divided by its norm.

    Args:
        job: names no tensor.
        open_source: opens the job's images.

    Raises as `open_job`.
    """
    inputs = read_inputs(job, open_source)
    (opened,) = inputs.models
    if opened.head is None or opened.class_output is None or opened.head.tensor == opened.representation.tensor:
        return inputs
    job = replace(job, options=job.options.model_copy(update={"tensor": opened.head.tensor}))
    return read_inputs(job, lambda _: inputs.source)


def collect(
    runner: Runner, inputs: Inputs, source: ImageSource | None = None, *, progress: Tell | None = None, label: str = ""
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
    read.check_usable(images, run.max_bad)
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
        raise unfit(
            opened.path,
            f"head takes {head.weight.shape[1]} features; its input {opened.representation.tensor!r} "
            f"has {collected.representations.shape[1]}, and they must be the same",
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


def first_pixels(items: Sequence[Prepared | Skipped], source: ImageSource) -> GenericArray:
    """Stack the pixels of the usable images. Raises CannotAssessError where there is none."""
    images = usable(items)
    if not images:
        check_bad(len(items), len(items), 1.0, [item for item in items if isinstance(item, Skipped)], source.named)
    return stack(images)


def n_features(runner: Runner, inputs: Inputs) -> int:
    """Return the number of features. The model runs on the first usable image."""
    items = take_probe(prepare_item(item, inputs) for item in inputs.source.items())
    return int(runner.run(first_pixels(items, inputs.source)[:1]).representation.shape[1])


def question_notes(inputs: Inputs) -> list[str]:
    """Note what the reader of a question must know."""
    (opened,) = inputs.models
    source = opened.contract.source if opened.contract else None
    return model_notes(
        source.synthetic if source else "",
        random_weights=bool(source and source.random_weights),
        preprocessing=inputs.preprocessing.source,
        left_out=opened.left_out,
    )


def _finite(values: GenericArray, runner: Runner, subject: str) -> Float32s:
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        path = str(runner.model.path)
        raise unfit(path, f"{subject} has values that are not finite; every image needs numbers")
    return numbers
