"""Open a job: its model is read, its preprocessing found, its photos listed, its sessions opened."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...errors import UsageError
from ...text import Fields, frozen
from ..evidence import Arithmetic, ModelFacts, PreprocessingFacts
from ..images.preprocess import least_edge
from ..images.sanity import DESCRIBED
from ..images.source import ImageSource
from ..model.contract import stated_in
from ..model.image_input import fed_as
from ..model.int8 import saturating_pairs
from ..model.open import ModelFile, open_model
from ..model.sidecar import find_preprocessing
from ..options import Options
from ..runtime.runner import Runner
from ..verdict.notes import model_notes
from .job import Job

OpenSource = Callable[[Options], ImageSource]
"""opens the image set that the options of a job name"""


@frozen
class Inputs:
    """A job whose model, preprocessing and list of images are read, while no session is open."""

    job: Job
    models: tuple[ModelFile, ...]
    """one a tensor"""
    preprocessing: PreprocessingFacts
    source: ImageSource
    described: frozenset[str] | None
    """names of the images whose sketches are complete: the first `DESCRIBED`; None = no sketches"""


@frozen
class OpenedJob(Inputs):
    """A job with everything opened; nothing has run."""

    runners: tuple[Runner, ...]
    """one for all tensors where each is an output of the graph, else one a tensor"""


def open_job(job: Job, open_source: OpenSource, *, threads: int | None = None) -> OpenedJob:
    """Open model, preprocessing, images and session.

    Args:
        job: what to open.
        open_source: opens the job's images.
        threads: cores for ONNX Runtime; None = all that this process may use.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `check`.
    """
    return open_sessions(read_inputs(job, open_source), threads=threads)


def read_inputs(job: Job, open_source: OpenSource) -> Inputs:
    """Read the model and list the images of a job, as `open_job` does before it opens sessions."""
    models = [open_model(job.model, tensor=tensor, pool=job.options.pool) for tensor in job.tensors]
    if _own_outputs(models):  # the same bytes: kept once, they can be 2 GiB
        models[1:] = [replace(model, graph=models[0].graph) for model in models[1:]]
    image_input = models[0].image_input
    contract, stated_by = stated_in(models[0].contract)
    stated = find_preprocessing(
        job.model,
        job.options.preprocess,
        contract,
        image_input.size,
        stated_by=stated_by,
        other_models=job.other_models,
    )
    preprocessing = fed_as(stated, image_input, job.model)
    source = open_source(job.options)
    keep = max(source.keep, least_edge(preprocessing.preprocessing))
    source = replace(source, keep=keep)
    if source.kind == "tensors" and preprocessing.source != "assumed":
        preprocessing = preprocessing.model_copy(update={"source": "tensors"})
    return Inputs(
        job=job,
        models=tuple(models),
        preprocessing=preprocessing,
        source=source,
        described=frozenset(source.entries[:DESCRIBED].names()),
    )


def open_sessions(inputs: Inputs, *, threads: int | None = None) -> OpenedJob:
    """Open the models of `read_inputs`. Arguments and errors are those of `open_job`."""
    groups = [inputs.models] if _own_outputs(inputs.models) else [(model,) for model in inputs.models]
    photos = inputs.source.kind != "tensors"
    runners = tuple(open_runner(inputs, group, photos=photos, threads=threads) for group in groups)
    return OpenedJob(**vars(inputs), runners=runners)


def open_runner(
    inputs: Inputs,
    models: Sequence[ModelFile] = (),
    *,
    photos: bool = True,
    threads: int | None = None,
    device: str | None = None,
    level: str = "all",
    arithmetic: Arithmetic | None = None,
) -> Runner:
    """Open a session for photos, which it preprocesses, or for tensors.

    Args:
        inputs: the job.
        models: the tensors that it reads; none = the first one.
        photos: whether it gets photos.
        threads: as in `open_job`.
        device: None = the job's.
        level: of graph optimisation.
        arithmetic: None = the job's.
    """
    run = inputs.job.options
    first, *also = models or inputs.models[:1]
    device = device or run.device
    arithmetic = arithmetic or run.arithmetic
    if arithmetic == "exact":
        if device not in ("auto", "cpu"):
            raise UsageError(
                f"--device is {device}; the CPU alone computes exact int8 sums (--arithmetic exact)", "--device cpu"
            )
        device = "cpu"
    return Runner(
        first,
        device,
        preprocessing=inputs.preprocessing.preprocessing if photos else None,
        also=also,
        threads=threads,
        batch_size=run.batch_size,
        level=level,
        arithmetic=arithmetic,
    )


def _own_outputs(models: Sequence[ModelFile]) -> bool:
    """Return whether all tensors are the model's own outputs, which one session reads."""
    return all(not model.added_output for model in models)


def model_read(opened: ModelFile) -> Fields:
    """Return the fields of a `ModelRead`."""
    source = ""
    if opened.contract:
        origin = opened.contract.source
        source = f"{origin.library} {origin.name} ({origin.weights})"
    return {
        "file": str(opened.path),
        "digest": opened.file.digest,
        "source": source,
        "tensor": opened.representation.tensor,
        "pool": opened.representation.pool,
    }


def model_facts(
    opened: ModelFile,
    output_difference: float | None = None,
    batch_difference: float | None = None,
    fixed_scale_difference: float | None = None,
) -> ModelFacts:
    """Record the facts of model and tensor, with differences that are None until they are measured."""
    chosen = opened.representation
    source = opened.contract and opened.contract.source
    return ModelFacts(
        **model_read(opened),
        file_digest=opened.file.file_digest,
        external_digests=opened.file.external_digests,
        size_bytes=opened.file.size_bytes,
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
        random_weights=source.random_weights if source else None,
        synthetic=source.synthetic if source else "",
        matched_to=source.matched_to if source else None,
        file_changed=opened.file_changed,
        contract_digest=(opened.contract and opened.contract.graph_digest) or "",
        batch_difference=batch_difference,
        fixed_scale_difference=fixed_scale_difference,
        output_difference=output_difference,
        saturating_pairs=saturating_pairs(opened.graph.proto, opened.file.weights),
    )


def question_notes(inputs: Inputs) -> list[str]:
    """Note what the reader of a question must know."""
    (opened,) = inputs.models
    source = opened.contract and opened.contract.source
    return model_notes(
        source.synthetic if source else "",
        random_weights=bool(source and source.random_weights),
        preprocessing=inputs.preprocessing.source,
        left_out=opened.left_out,
    )
