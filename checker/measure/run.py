"""The loop that every engine runs: open one model and one image set, try it, and add up its images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import ModelFacts, PreprocessingFacts
from robustcheck_onnx.checker.images import DESCRIBED, Entries, ImageSource, Item, Skipped, open_images, prefetch
from robustcheck_onnx.checker.model import Content, ModelFile, find_preprocessing, open_model
from robustcheck_onnx.checker.runtime import CPU, Runner
from robustcheck_onnx.checker.statistics import next_look
from robustcheck_onnx.checker.statistics import state as sums

from . import gallery
from .job import SHARD_IMAGES, Facts, Job, Measurement, nothing_yet
from .prepared import Prepared, prepare, stack

MAX_FEATURES = 16384  # widest vision representation in use is below 5,000; wider means an unpooled map
PROBE_IMAGES = 5  # images that batch invariance is checked on, before anything is measured
DECODERS = 2  # threads that decode ahead of a model on the CPU, which wants the cores itself
AHEAD = 64  # decoded images that may wait: two batches of the default size

Watch = Callable[[npt.NDArray[np.generic]], None]
"""shown (image, feature) representations"""


@dataclass(frozen=True)
class Inputs:
    """A job with its model read, its preprocessing found and its images indexed; no session is open."""

    job: Job
    models: tuple[ModelFile, ...]
    """one a tensor"""
    preprocessing: PreprocessingFacts
    source: ImageSource
    described: frozenset[str]
    """names of the images whose sketches are made whole: the first `imageset.DESCRIBED`"""


@dataclass(frozen=True)
class Opened(Inputs):
    """A job with everything opened; nothing has run."""

    runners: tuple[Runner, ...]
    """one for all tensors where each is an output of the graph, else one a tensor"""


def open_job(job: Job, *, threads: int | None = None, source: ImageSource | None = None) -> Opened:
    """Open model, preprocessing, images and session.

    Args:
        job: what to open.
        threads: cores for ONNX Runtime; None = all that this process may use.
        source: the job's images, where they are open already.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    return open_sessions(read_inputs(job, source=source), threads=threads)


def read_inputs(job: Job, *, source: ImageSource | None = None, read: Content | None = None) -> Inputs:
    """Everything of `open_job` but the sessions.

    Args:
        job: what to open.
        source: the job's images, where they are open already.
        read: the content of the model's file, where it was read already.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    models = [open_model(job.model, tensor=tensor, pool=job.pool, read=read) for tensor in job.tensors]
    if _own_outputs(models):  # the same bytes: kept once, they can be 2 GiB
        models[1:] = [replace(model, graph_bytes=models[0].graph_bytes) for model in models[1:]]
    contract = models[0].contract
    found = find_preprocessing(
        job.model, job.preprocess, contract.preprocessing if contract else None, models[0].image_input.size
    )
    if source is None:
        source = open_images(job.images, seed=job.seed, limit=job.max_images)
    return Inputs(
        job=job,
        models=tuple(models),
        preprocessing=PreprocessingFacts(
            preprocessing=found.preprocessing,
            source="tensors" if source.kind == "tensors" and found.source != "assumed" else found.source,
            fields=tuple(found.origins),
            against_contract=contract is not None and found.preprocessing != contract.preprocessing,
        ),
        source=source,
        described=frozenset(source.entries[:DESCRIBED].names()),
    )


def open_sessions(inputs: Inputs, *, threads: int | None = None) -> Opened:
    """Open the models of `read_inputs`; arguments and errors as for `open_job`."""
    groups = [inputs.models] if _own_outputs(inputs.models) else [(model,) for model in inputs.models]
    return Opened(
        **vars(inputs),
        runners=tuple(
            Runner(
                first,
                inputs.job.device,
                preprocessing=None if inputs.source.kind == "tensors" else inputs.preprocessing.preprocessing,
                also=also,
                threads=threads,
                batch_size=inputs.job.batch_size,
            )
            for first, *also in groups
        ),
    )


def _own_outputs(models: Sequence[ModelFile]) -> bool:
    """Whether all tensors are outputs that the author wrote: one session reads them all."""
    return all(not model.added_output for model in models)


def to_probe(decoded: Iterable[Prepared | Skipped]) -> list[Prepared | Skipped]:
    """The first images until `PROBE_IMAGES` of them are usable, all if they are fewer."""
    found: list[Prepared | Skipped] = []
    n_usable = 0
    for item in decoded:
        found.append(item)
        n_usable += isinstance(item, Prepared)
        if n_usable == PROBE_IMAGES:
            break
    return found


def probe(opened: Opened, first: Iterable[Prepared | Skipped] | None = None) -> Facts:
    """Try the model on the first usable images of the job (`Runner.output_unchanged`, `Runner.batch_invariances`).

    To be called before anything is measured: it settles the graph optimisation that the session runs with, and since
    it looks at the same images everywhere, every worker settles the same. With less than two usable images there is
    no difference to tell, and it is None.

    Args:
        opened: the job.
        first: `to_probe` of the job's images; None = decoded here.
    """
    if first is None:
        first = to_probe(prepare_item(item, opened) for item in opened.source.items())
    found = [item for item in first if isinstance(item, Prepared)]
    batch: list[float | None] = [None] * len(opened.models)
    output: list[float | None] = [None] * len(opened.models)
    if len(found) > 1:
        pixels = stack(found)
        output = [  # first: it may lower the graph optimisation, at which everything else is measured
            check.max_difference
            for runner in opened.runners
            for check in [runner.output_unchanged(pixels)] * len(runner.models)
        ]
        batch = [value for runner in opened.runners for value in runner.batch_invariances(pixels)]
    return Facts(
        models=tuple(_model_facts(*row) for row in zip(opened.models, batch, output, strict=True)),
        executions=tuple(runner.execution for runner in opened.runners for _ in runner.models),
        preprocessing=opened.preprocessing,
        source=replace(opened.source, entries=Entries()),
        n_images=len(opened.source),
        names=opened.source.names_digest,
    )


def decode(inputs: Inputs, source: ImageSource, decoders: int = DECODERS) -> Generator[Prepared | Skipped, None, None]:
    """Images of a job, ready for its model, in order; threads go ahead by at most `AHEAD` of them. Close it at the end.

    Args:
        inputs: the job.
        source: the images: the job's, or a piece of them.
        decoders: number of threads, see `count_decoders`.
    """
    return prefetch(source, partial(prepare_item, inputs=inputs), workers=decoders, window=AHEAD)


def batches(
    opened: Opened, into: Measurement, decoded: Iterable[Prepared | Skipped], watch: Watch | None = None
) -> Generator[bool, None, None]:
    """Measure images and add them up.

    Yields after each batch whether the number of images calls for a look (`intervals.next_look`). Batches end there,
    so that a shard of whole looks is cut into batches as a single run over all images is.

    Args:
        opened: the job.
        into: of no image yet; what is added to.
        decoded: the images: the job's, or a piece of them.
        watch: is shown the usable representations of the first tensor, batch after batch.
    """
    waiting: list[Prepared] = []
    look = next_look(0)
    for item in decoded:
        if isinstance(item, Skipped):
            into.skipped.append(item)
            continue
        waiting.append(item)
        into.n_good += 1
        into.sanity.add(item.sketch)
        into.digests.append(item.digest)
        into.notes.update(item.notes)
        at_look = into.n_good == look
        if not at_look and len(waiting) < opened.job.batch_size:
            continue
        _add(opened, into, waiting, watch)
        waiting = []
        if at_look:
            look = next_look(into.n_good)
        yield at_look
    if waiting:
        _add(opened, into, waiting, watch)


def count_decoders(*, on_gpu: bool, threads: int) -> int:
    """Threads that decode ahead: a model on the CPU wants its cores itself, a GPU is fed by all of the worker's."""
    return max(DECODERS, threads) if on_gpu else DECODERS


def measure_shard(opened: Opened, index: int) -> Measurement:
    """Measure the images from number `index` · `SHARD_IMAGES` on, at most `SHARD_IMAGES` of them."""
    start = index * SHARD_IMAGES
    shard = replace(opened.source, entries=opened.source.entries[start : start + SHARD_IMAGES])
    measurement = nothing_yet(len(opened.models))
    execution = opened.runners[0].execution
    decoders = count_decoders(on_gpu=execution.providers[0] != CPU, threads=execution.threads)
    with contextlib.closing(decode(opened, shard, decoders)) as decoded:
        for _ in batches(opened, measurement, decoded):
            pass
    return measurement


def prepare_item(item: Item, inputs: Inputs) -> Prepared | Skipped:
    """`prepare` one image as the job says."""
    return prepare(item, inputs.models[0], inputs.preprocessing.preprocessing, inputs.described)


def _add(opened: Opened, into: Measurement, batch: list[Prepared], watch: Watch | None) -> None:
    """Run one batch and add its representations to the states."""
    pixels = stack(batch)
    names, digests = [item.name for item in batch], [item.digest for item in batch]
    keys = [key_of(digest) for digest in digests]
    representations = [array for runner in opened.runners for array in runner.represent(pixels)]
    for index, array in enumerate(representations):
        state = into.states[index]
        if state is None:
            if array.shape[1] > MAX_FEATURES:
                raise CannotAssessError(
                    f"representation has {array.shape[1]} features; more than {MAX_FEATURES} is an unpooled map",
                    "choose another tensor with --tensor, or --pool",
                )
            state = into.states[index] = sums.State(array.shape[1])
        found = sums.update(state, array, keys)
        kept = into.galleries[index]
        new = gallery.rows_of(found, names, digests, room=gallery.SHOWN - len(kept.first))
        into.galleries[index] = gallery.merge(kept, new)
        if watch is not None and index == 0:
            watch(array[found.usable])


def key_of(digest: str) -> int:
    """The last 32 bits of a hexadecimal digest: they fix an image's jackknife group (`state.update`)."""
    return int(digest[-8:], 16)


def _model_facts(opened: ModelFile, batch_difference: float | None, output_difference: float | None) -> ModelFacts:
    chosen, contract = opened.representation, opened.contract
    return ModelFacts(
        file=str(opened.path),
        digest=opened.digest,
        file_digest=opened.model_digest,
        external_digests=opened.external_digests,
        size_bytes=opened.size_bytes,
        opset=dict(opened.opsets),
        producer=opened.producer,
        tensor=chosen.tensor,
        rule=chosen.rule,
        pool=chosen.pool,
        ends_in=chosen.ends_in,
        why=chosen.why,
        tensor_assumed=chosen.assumed,
        random_weights=contract.source.random_weights if contract else None,
        source=f"{contract.source.library} {contract.source.name} ({contract.source.weights})" if contract else "",
        synthetic=contract.source.synthetic if contract else "",
        batch_difference=batch_difference,
        output_difference=output_difference,
    )
