"""`check`: one model and one image set become one report. Silent; progress goes to a callback."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy.typing as npt
from onnx import ModelProto

from robustcheck_onnx.checker import isolated, isolation, measure
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import Evidence, RunOptions
from robustcheck_onnx.checker.images import Images, ImageSource, parse_image_set
from robustcheck_onnx.checker.isolation import LOG
from robustcheck_onnx.checker.limits import NO_LIMITS, Limits
from robustcheck_onnx.checker.measure import Job, Prepared, Progress
from robustcheck_onnx.checker.measure import detectors as plugins
from robustcheck_onnx.checker.model import Contract, Model, on_this_machine, open_model, parse_model
from robustcheck_onnx.checker.report import CLAIM, Binding, Clock, Placed, Report, Settings, Time, sealed
from robustcheck_onnx.checker.representations import MadeWith, Saver, checked_path, saving
from robustcheck_onnx.checker.storage import Place, Url, as_typed, redact
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict import judge, load_profile, memory_note, notes_of
from robustcheck_onnx.thresholds.context import Context
from robustcheck_onnx.thresholds.profile import Profile
from robustcheck_onnx.thresholds.published import context_for
from robustcheck_onnx.thresholds.reference import references


class CheckOptions(RunOptions, total=False):
    """The keyword arguments of `check` but `images` and `progress`; those of `RunOptions` are among them."""

    thresholds: str | Path | Profile | None
    engine: str
    workers: int | None
    ray_address: str | None
    detectors: Sequence[str]
    save_representations: str | Path | None
    isolate: bool
    limits: Limits


def check(
    model: Model,
    *,
    images: Images | None = None,
    thresholds: str | Path | Profile | None = None,
    engine: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    detectors: Sequence[str] = (),
    save_representations: str | Path | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> Report:
    """Check one ONNX model on in-distribution images and judge it.

    The local engine stops as soon as the evidence decides; the Ray engine spreads the images over workers and measures
    all of them.

    Args:
        model: path or URL of the ONNX file; or the model itself, as `bytes` or `onnx.ModelProto`. Then no sidecar is
            looked for: its contract, or `preprocess`, must say what the pixels are.
        images: in-distribution photos: the path or URL of a set; or an iterable of paths, of PIL images, of uint8
            arrays (height, width, RGB), or of preprocessed float arrays (channel, height, width), of NumPy or any
            library whose arrays NumPy can read. What is handed over so is measured in this process, and a note of the
            report says so. None = the bundled photos.
        thresholds: a profile, its file, or the name of a packaged one; None = the default profile.
        engine: local (this process) or ray (the extra `ray`).
        workers: with ray, the number of worker processes; None = one a GPU of the cluster, or one for every four cores.
        ray_address: with ray, the address of a running cluster; None = one on this machine, for this run only.
        detectors: names of installed plug-ins to run beside the check, `NAME` or `NAME=TEXT` for one that takes a
            text, with the local engine only.
        save_representations: a .npz file that the measured representations are written to,
            for `load_representations`; with the local engine only.
        isolate: read model and images in a child process, so that no file can end this one, whatever it holds
            (docs/decisions/wall.md). False, and images that are handed over: in this process.
        limits: what the child may take.
        progress: called when a stage begins and after every batch; by ray after every shard, without an interval.
        options: what else moves the numbers: tensor, pool, preprocess, device, seed, max_images, max_bad, batch_size
            (see `RunOptions`).

    Returns:
        The report; `report.verdict.verdict` is "PASS" or "WARN".

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: no verdict is possible; see each class.
        TypeError: the model, the images or an option are of a type that is not taken; the message names it.
    """
    clock, (run, given) = Clock(), measure.settle(images, options)
    profile = load_profile(thresholds)
    on_ray = (engine, workers, ray_address) != ("local", None, None)
    if detectors and on_ray:
        raise UsageError(
            f"--detector is {plugins.name_of(detectors[0])}; detectors need the local engine", "--engine local"
        )
    if save_representations is not None:
        save_representations = str(checked_path(save_representations))
        if on_ray:
            raise UsageError(
                f"--save-representations is {save_representations}; that needs the local engine", "--engine local"
            )
    if engine == "local" and workers is not None:
        raise UsageError(f"--workers is {workers}; one process checks one model, unless with Ray", "--engine ray")
    place = parse_model(model)
    if given is None:
        parse_image_set(run.images)  # what is refused offline is refused before anything is opened
    elif on_ray:
        raise UsageError(f"images are {given.named}; with Ray every worker must find them", "name a folder or a list")
    if isolate and isolated.is_possible(given, run.images, as_typed(place) if isinstance(place, Url) else None):
        with isolation.Wall(limits) as wall, _as_file(place) as (name, from_memory):
            return isolated.check(
                wall,
                name,
                from_memory=from_memory,
                profile=profile,
                options=run.given,
                engine=engine,
                workers=workers,
                ray_address=ray_address,
                detectors=detectors,
                save_representations=save_representations,
                progress=progress,
            )
    limits.refuse_here()
    loaded = plugins.load(detectors)
    with on_this_machine(place, preprocess=run.preprocess, tell=partial(measure.tell_stage, progress)) as here:
        job = Job(here.path, run)
        if on_ray:
            if here.fetched:
                raise UsageError(
                    f"{here.name}: model is no file of this machine; with Ray every worker must find it",
                    "copy it to all nodes",
                )
            evidence, published = _on_workers(job, profile, engine, workers, ray_address, progress)
        else:
            with saving(save_representations) as saver:
                evidence, published = _measured(job, profile, progress, loaded, given, saver)
                if saver is not None:
                    saver.write(_made_with(evidence, here.name))
    if here.fetched:
        named = evidence.model.model_copy(update={"file": here.name, "origin": here.origin})
        evidence = evidence.model_copy(update={"model": named})
    return report_of(
        evidence,
        profile,
        published,
        Settings(**dict(run), engine=engine, workers=workers),
        time=Time.until_now(clock, evidence.images.n_read - evidence.images.n_skipped),
        notes=memory_note(here.name) if here.in_memory else (),
    )


def report_of(
    evidence: Evidence,
    profile: Profile,
    published: Context | None,
    settings: Settings,
    *,
    time: Time | None = None,
    notes: Iterable[str] = (),
) -> Report:
    """The report on evidence, judged by a profile; `notes` are those beside the ones on the evidence."""
    shown = settings.model_copy(update={"images": None if settings.images is None else redact(settings.images)})
    report = Report(
        tool_version=VERSION,
        verdict=judge(evidence, profile),
        notes=(*notes_of(evidence, profile), *notes),
        evidence=evidence,
        profile=profile,
        published=published,
        reference=_reference(),
        claim=CLAIM,
        time=time,
        binding=Binding(settings=shown, versions=measure.versions()),
    )
    return sealed(report)


def _made_with(evidence: Evidence, model: str) -> MadeWith:
    return MadeWith(
        model=model,
        model_digest=evidence.model.digest,
        tensor=evidence.model.tensor,
        pool=evidence.model.pool,
        preprocessing=evidence.preprocessing,
        images=evidence.images.source,
        seed=evidence.images.seed,
    )


@contextlib.contextmanager
def _as_file(model: Place | bytes | ModelProto) -> Iterator[tuple[str, str]]:
    """The model's name for a child, and what it was in memory: a file has it then."""
    if isinstance(model, Path | Url):
        yield as_typed(model), ""
        return
    with on_this_machine(model) as here:
        yield str(here.path), here.name.strip("<>")


def _measured(
    job: Job,
    profile: Profile,
    progress: Callable[[Progress], None] | None,
    loaded: Sequence[plugins.Loaded],
    given: ImageSource | None,
    saver: Saver | None,
) -> tuple[Evidence, Context | None]:
    """Evidence and published context."""
    LOG.info("%s: opening model, %s", job.model, redact(job.options.images or "bundled photos"))
    measure.tell_stage(progress, "opening the model and the images")
    inputs = measure.read_inputs(job, source=given)
    with measure.decode(inputs, stops=measure.likely_stops(profile)) as decoded:
        measure.tell_stage(progress, "loading the model")
        first = measure.to_probe(decoded)  # the next ones are decoded while the session opens
        opened = measure.open_sessions(inputs)
        _log_opened(opened)
        plugins.begin(loaded, opened.models[0].digest, opened.preprocessing.preprocessing)
        measure.tell_stage(progress, "trying the model on a few images")
        facts = measure.probe(opened, first)
        LOG.debug("%s: batch invariance and output were tried", job.model)
        watch = partial(_show, loaded, saver) if loaded or saver else None
        total, is_decided = measure.until_decided(opened, profile, itertools.chain(first, decoded), progress, watch)
    (evidence,) = measure.conclude(job, facts, total, profile, decided=is_decided)
    if loaded:
        evidence = evidence.model_copy(update={"detectors": plugins.results(loaded)})
    return evidence, published_of(opened.models[0].contract)


def _show(
    loaded: Sequence[plugins.Loaded], saver: Saver | None, rows: npt.NDArray[Any], images: Sequence[Prepared]
) -> None:
    """Hand one batch of representations to the detectors and to the file."""
    plugins.update(loaded, rows)
    if saver is not None:
        saver.add(rows, [image.name for image in images], [image.digest for image in images])


def _log_opened(opened: measure.Opened) -> None:
    (model, *_), (runner, *_) = opened.models, opened.runners
    tensor = model.representation
    LOG.info("%s: tensor %s by rule %s, pooling %s", model.path, tensor.tensor, tensor.rule, tensor.pool)
    LOG.info("%s: preprocessing from %s", model.path, opened.preprocessing.source)
    LOG.info("%s: session on %s, %d images", model.path, ", ".join(runner.execution.providers), len(opened.source))


def _on_workers(
    job: Job,
    profile: Profile,
    engine: str,
    workers: int | None,
    address: str | None,
    progress: Callable[[Progress], None] | None,
) -> tuple[Evidence, Context | None]:
    """Measure all images; evidence and published context."""
    measure.tell_stage(progress, "opening the model and starting the workers")
    # its faults are told before a cluster starts
    contract = open_model(job.model, tensor=job.options.tensor, pool=job.options.pool).contract
    outcomes = measure.run_jobs(
        [job], profile, engine=engine, workers=workers, address=address, progress=measure.job_progress(progress)
    )
    (outcome,) = outcomes
    if outcome.error is not None:
        raise outcome.error
    (evidence,) = outcome.evidence
    return evidence, published_of(contract)


def published_of(contract: Contract | None) -> Context | None:
    """What is published of the checkpoint that a model's contract names; None where nothing is."""
    if contract is None:
        return None
    source = contract.source
    return context_for(
        source.library,
        source.name,
        source.weights,
        random_weights=source.random_weights,
        synthetic=source.synthetic,
        image_size_px=contract.preprocessing.size[0],
    )


def _reference() -> tuple[Placed, ...]:
    rows = sorted((row for row in references() if not row.excluded), key=lambda row: -row.kurtosis)
    return tuple(
        Placed(
            checkpoint=row.checkpoint,
            group=row.group,
            images=row.set,
            kurtosis=row.kurtosis,
            persistence_ratio=row.persistence_ratio,
            top3_share=row.top3_share,
            shows_outlier_features=row.expected == "present",
            source=row.source,
        )
        for row in rows
    )
