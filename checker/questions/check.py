"""Turn a model and an image set into a report. Silent; progress goes to a callback."""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from onnx import ModelProto

from ...thresholds.context import Context
from ...thresholds.profile import Profile
from ...thresholds.published import context_for
from ...thresholds.tables import references
from ..calls import public
from ..core.evidence import Evidence
from ..core.measure.job import versions
from ..core.measure.loop import decode, likely_stops, until_decided
from ..core.measure.opening import OpenedJob, open_sessions
from ..core.measure.probe import take_probe
from ..core.measure.reference import reference_runs, with_references
from ..core.measure.sums import conclude
from ..core.model.contract import Contract
from ..core.options import Options, RunOptions
from ..core.progress import LOG, Progress, Tell
from ..core.verdict.notes import memory_note, notes_of
from ..core.verdict.profile import load_profile
from ..core.verdict.rule import judge
from ..outside import isolation
from ..outside.addresses import LocalModel, Model, on_this_machine, parse_model
from ..outside.image_sets.listing import parse_image_set
from ..outside.image_sets.open import Images
from ..outside.isolation import NO_LIMITS, Limits
from ..outside.representations import Provenance, Saver, checked_path, saving
from ..outside.storage.places import Place, Url, as_typed, redact
from ..report.check import Report
from ..report.record import CLAIM, Binding, ReferenceRow, Settings, Time, sealed
from ..text import VERSION
from .call import QuestionRun


class CheckOptions(RunOptions, total=False):
    """The keyword arguments of `check` without `images` and `progress`, those of `RunOptions` among them."""

    thresholds: str | Path | Profile | None
    save_representations: str | Path | None
    isolate: bool
    limits: Limits


@public('rc.check("model.onnx", "photos/")')
def check(
    model: Model,
    images: Images | None = None,
    *,
    thresholds: str | Path | Profile | None = None,
    save_representations: str | Path | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> Report:
    """Check one ONNX model on in-distribution images and judge it.

    The run stops as soon as the evidence decides.

    Args:
        model: path or URL of the ONNX file; or the model itself, as `bytes` or `onnx.ModelProto`. Then no sidecar is
            looked for: its contract, or `preprocess`, must say what the pixels are.
        images: in-distribution photos: the path or URL of a set; or an iterable of paths, of PIL images, of uint8
            arrays (height, width, RGB), or of preprocessed float arrays (channel, height, width), of NumPy or any
            library whose arrays NumPy can read. What is handed over so is measured in this process, and a note of the
            report says so. None = the bundled photos.
        thresholds: a profile, its file, or the name of a packaged one; None = the default profile.
        save_representations: a .npz file that the measured representations are written to, for `load_representations`.
        isolate: read model and images in a child process, so that no file can end this one, whatever it holds
            (docs/dev/decisions/wall.md). False, and images that are handed over: in this process.
        limits: what the child may take.
        progress: called when a stage begins and after every batch.
        options: what else moves the numbers (`RunOptions`).
            tensor: Tensor to measure. Default: the one that the rule chooses.
            pool: How to pool it. Default: by rule.
            preprocess: clip, imagenet or a JSON file. Default: that of the model or a sidecar.
            device: auto, cpu, cuda, cuda:N, tensorrt or another execution provider. Default: auto.
            seed: Random order of the images; another number gives another order. Default: 0.
            max_images: Stop after this many images. Default: all.
            max_bad: Largest share of images that may be unusable, 0 to 1. Default: 0.01.
            batch_size: Images at once, 1 to 32. Default: 32.
            arithmetic: machine or exact. Default: this machine; WARN where exact sums could change the verdict.

    Returns:
        The report: `report.passed`, `report.reasons`, `report.save("report.html")`.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: no verdict is possible; see each class.
    """
    run = QuestionRun.begin(images, options, progress)
    profile = load_profile(thresholds)
    saved = None if save_representations is None else str(checked_path(save_representations))
    place = parse_model(model)
    if run.handed_over is None:
        parse_image_set(run.options.images)  # what is refused offline is refused before anything is opened
    typed = as_typed(place) if isinstance(place, Url) else None
    if isolate and isolation.is_possible(run.handed_over, run.options.images, typed):
        with _as_file(place) as (name, from_memory):
            about = f"<{from_memory}>" if from_memory else redact(name)
            return isolation.apart(check_stored, about, limits)(
                name,
                from_memory,
                thresholds=profile,
                save_representations=saved,
                progress=progress,
                **run.options.keywords,
            )
    limits.refuse_here()
    with on_this_machine(place, preprocess=run.options.preprocess, tell=run.tell) as here, saving(saved) as saver:
        evidence, published = _measured(run, here, profile, saver)
        if saver is not None:
            saver.write(Provenance.of(evidence, here.name))
    time = Time.until_now(run.clock, evidence.images.n_usable)
    evidence = here.named(evidence)
    notes = list(notes_of(evidence, profile))
    if here.in_memory:
        notes += memory_note(here.name)
    report = Report(
        tool_version=VERSION,
        verdict=judge(evidence, profile),
        notes=tuple(notes),
        evidence=evidence,
        profile=profile,
        published=published,
        reference=_reference(),
        claim=CLAIM,
        time=time,
        binding=binding_of(run.options),
    )
    return sealed(report)


def check_stored(
    model: str, from_memory: str = "", *, thresholds: Profile, progress: Tell | None = None, **options: Any
) -> Report:
    """Check a model in this process.

    from_memory: bytes or ModelProto, where the file holds what was given so.
    """
    source: Model = model
    if from_memory:
        source = Path(model).read_bytes()
    if from_memory == "ModelProto":
        source = ModelProto.FromString(source)
    return check(source, thresholds=thresholds, isolate=False, progress=progress, **options)


def binding_of(options: Options) -> Binding:
    """Return settings and versions of a run of this process, without secrets."""
    settings = Settings(**dict(options))
    if settings.images is not None:
        settings = settings.model_copy(update={"images": redact(settings.images)})
    return Binding(settings=settings, versions=versions())


@contextmanager
def _as_file(model: Place | bytes | ModelProto) -> Iterator[tuple[str, str]]:
    """Yield a model's file name and its name in memory, for which it gets a file that a child can read."""
    if isinstance(model, Path | Url):
        yield as_typed(model), ""
        return
    with on_this_machine(model) as here:
        yield str(here.path), here.name.strip("<>")


def _measured(
    run: QuestionRun, model: LocalModel, profile: Profile, saver: Saver | None
) -> tuple[Evidence, Context | None]:
    """Return evidence and published context."""
    LOG.info("%s: opening model, %s", model.path, redact(run.options.images or "bundled photos"))
    inputs = run.read(model.path, other_models=model.other_models)
    with decode(inputs, stops=likely_stops(profile)) as decoded:
        run.tell("loading the model")
        first = take_probe(decoded)  # the next ones are decoded while the session opens
        opened = open_sessions(inputs)
        _log_opened(opened)
        run.tell("trying the model on a few images")
        watch = None if saver is None else saver.add
        facts, total, kept, is_decided = until_decided(opened, profile, first, decoded, run.progress, watch)
    facts = with_references(facts, reference_runs(opened, kept))
    (evidence,) = conclude(inputs.job, facts, total, profile, decided=is_decided)
    return evidence, published_of(opened.models[0].contract)


def _log_opened(opened: OpenedJob) -> None:
    model = opened.models[0]
    runner = opened.runners[0]
    tensor = model.representation
    LOG.info("%s: tensor %s by rule %s, pooling %s", model.path, tensor.tensor, tensor.rule, tensor.pool)
    LOG.info("%s: preprocessing from %s", model.path, opened.preprocessing.source)
    LOG.info("%s: session on %s, %d images", model.path, ", ".join(runner.execution.providers), len(opened.source))


def published_of(contract: Contract | None) -> Context | None:
    """Return the published facts of a contract's checkpoint, or None where nothing is published."""
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


def _reference() -> tuple[ReferenceRow, ...]:
    rows = [row for row in references() if not row.excluded]
    rows.sort(key=lambda row: -row.kurtosis)
    return tuple(
        ReferenceRow(
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
