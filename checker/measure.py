"""The loop that every engine runs: open one model and one image set, try it, and add up its images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker import gallery, images, imageset, sequential, sidecar
from robustcheck_onnx.checker import state as sums
from robustcheck_onnx.checker.entries import Entries
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import Execution, ModelFacts, PreprocessingFacts
from robustcheck_onnx.checker.execution import CPU
from robustcheck_onnx.checker.graph import ModelFile, open_model
from robustcheck_onnx.checker.measurement import SHARD_IMAGES, Facts, Job, Measurement, nothing_yet
from robustcheck_onnx.checker.prepared import Prepared, prepare
from robustcheck_onnx.checker.runner import Runner

MAX_FEATURES = 16384  # widest vision representation in use is below 5,000; wider means an unpooled map
PROBE_IMAGES = 5  # images that batch invariance is checked on, before anything is measured
DECODERS = 2  # threads that decode ahead of a model on the CPU, which wants the cores itself
AHEAD = 64  # decoded images that may wait: two batches of the default size

Watch = Callable[[npt.NDArray[np.generic]], None]
"""shown (image, feature) representations"""


@dataclass(frozen=True)
class Opened:
    """A job with everything opened; nothing has run."""

    job: Job
    models: tuple[ModelFile, ...]
    """one a tensor"""
    preprocessing: PreprocessingFacts
    source: images.ImageSource
    described: frozenset[str]
    """names of the images whose sketches are made whole: the first `imageset.DESCRIBED`"""
    runners: tuple[Runner, ...]
    """one for all tensors where each is an output of the graph, else one a tensor"""


def open_job(job: Job, *, threads: int | None = None, source: images.ImageSource | None = None) -> Opened:
    """Open model, preprocessing, images and session.

    Args:
        job: what to open.
        threads: cores for ONNX Runtime; None = all that this process may use.
        source: the job's images, where they are open already.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `pipeline.check`.
    """
    models = [open_model(job.model, tensor=tensor, pool=job.pool) for tensor in job.tensors]
    own = all(not model.added_output for model in models)
    if own:  # the same bytes: kept once, they can be 2 GiB
        models[1:] = [replace(model, graph_bytes=models[0].graph_bytes) for model in models[1:]]
    contract = models[0].contract
    found = sidecar.find_preprocessing(
        job.model, job.preprocess, contract.preprocessing if contract else None, models[0].image_input.size
    )
    if source is None:
        source = images.open_images(job.images, seed=job.seed, limit=job.max_images)
    groups = [models] if own else [[model] for model in models]
    return Opened(
        job=job,
        models=tuple(models),
        preprocessing=PreprocessingFacts(
            preprocessing=found.preprocessing,
            source="tensors" if source.kind == "tensors" and found.source != "assumed" else found.source,
            fields=tuple(found.origins),
            against_contract=contract is not None and found.preprocessing != contract.preprocessing,
        ),
        source=source,
        described=frozenset(source.entries[: imageset.DESCRIBED].names()),
        runners=tuple(Runner(first, job.device, also=also, threads=threads) for first, *also in groups),
    )


def probe(opened: Opened) -> Facts:
    """Try the model on the first usable images of the job (`Runner.output_unchanged`, `Runner.batch_invariance`).

    To be called before anything is measured: it settles the graph optimisation that the session runs with, and since
    it looks at the same images everywhere, every worker settles the same. With less than two usable images there is
    no difference to tell, and it is None.
    """
    found: list[Prepared] = []
    for item in opened.source.items():
        prepared = prepare_item(item, opened)
        if isinstance(prepared, Prepared):
            found.append(prepared)
        if len(found) == PROBE_IMAGES:
            break
    batch: list[float | None] = [None] * len(opened.models)
    output: list[float | None] = [None] * len(opened.models)
    if len(found) > 1:
        pixels = np.stack([item.pixels for item in found])
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


def batches(
    opened: Opened, into: Measurement, source: images.ImageSource, watch: Watch | None = None
) -> Generator[bool, None, None]:
    """Measure images and add them up: decode ahead, run, add.

    Yields after each batch whether the number of images calls for a look (`sequential.next_look`). Batches end there,
    so that a shard of whole looks is cut into batches as a single run over all images is. Close it to stop early.

    Args:
        opened: the job.
        into: of no image yet; what is added to.
        source: the images: the job's, or a piece of them.
        watch: is shown the usable representations of the first tensor, batch after batch.
    """
    waiting: list[Prepared] = []
    look = sequential.next_look(0)

    def prepare_one(item: images.Item) -> Prepared | images.Skipped:
        return prepare_item(item, opened)

    decoders = count_decoders(opened.runners[0].execution)
    with contextlib.closing(images.prefetch(source, prepare_one, workers=decoders, window=AHEAD)) as decoded:
        for item in decoded:
            if isinstance(item, images.Skipped):
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
                look = sequential.next_look(into.n_good)
            yield at_look
    if waiting:
        _add(opened, into, waiting, watch)


def count_decoders(execution: Execution) -> int:
    """Threads that decode ahead: a GPU is fed by every core that the worker has."""
    return DECODERS if execution.providers[0] == CPU else max(DECODERS, execution.threads)


def measure_shard(opened: Opened, index: int) -> Measurement:
    """Measure the images from number `index` · `SHARD_IMAGES` on, at most `SHARD_IMAGES` of them."""
    start = index * SHARD_IMAGES
    shard = replace(opened.source, entries=opened.source.entries[start : start + SHARD_IMAGES])
    measurement = nothing_yet(len(opened.models))
    for _ in batches(opened, measurement, shard):
        pass
    return measurement


def prepare_item(item: images.Item, opened: Opened) -> Prepared | images.Skipped:
    """`prepare` one image as the job says."""
    return prepare(item, opened.models[0], opened.preprocessing.preprocessing, opened.described)


def _add(opened: Opened, into: Measurement, batch: list[Prepared], watch: Watch | None) -> None:
    """Run one batch and add its representations to the states."""
    pixels = np.stack([item.pixels for item in batch])
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
