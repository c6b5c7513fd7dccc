"""`check`: one model and one image set become one report. Silent; progress goes to a callback."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from robustcheck_onnx.checker.errors import RobustcheckError, UsageError
from robustcheck_onnx.checker.evidence import Evidence, Statistics
from robustcheck_onnx.checker.images import ImageSource, Skipped, open_images, parse_image_set
from robustcheck_onnx.checker.measure import (
    Job,
    Loaded,
    Measurement,
    Prepared,
    Progress,
    conclude,
    nothing_yet,
    versions,
)
from robustcheck_onnx.checker.measure import cache as records
from robustcheck_onnx.checker.measure import detectors as plugins
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure import workers as engines
from robustcheck_onnx.checker.model import Content, Contract, on_this_machine, open_model, read_content
from robustcheck_onnx.checker.report import CLAIM, Binding, Placed, Report, Settings, Time, sealed
from robustcheck_onnx.checker.runtime import cpu_threads, expects_gpu
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.checker.storage import Place, parse_place
from robustcheck_onnx.checker.verdict import NAMES, decided, judge, notes_of
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.profile import STATISTICS, Profile
from robustcheck_onnx.thresholds.published import Context, context_for
from robustcheck_onnx.thresholds.reference import references


def check(
    model: str | Place,
    *,
    images: str | Place | None = None,
    tensor: str | None = None,
    pool: str | None = None,
    preprocess: str | None = None,
    device: str = "auto",
    seed: int = 0,
    max_images: int | None = None,
    max_bad: float = 0.01,
    batch_size: int = 32,
    thresholds: Path | Profile | None = None,
    engine: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    cache: bool = False,
    detectors: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Check one ONNX model on in-distribution images and judge it.

    The local engine stops as soon as the evidence decides; the Ray engine spreads the images over workers and measures
    all of them.

    Args:
        model: path or URL (docs/remote.md) of the ONNX file.
        images: folder, glob, list, manifest, shards or tensors (see `robustcheck check --help`); None = the
            bundled photos.
        tensor, pool: measure this tensor, pooled this way, instead of the one found by rule.
        preprocess: clip, imagenet or a JSON file; None = the file's contract, else a sidecar, else assumed (WARN).
        device: auto, cpu, cuda, cuda:N or tensorrt.
        seed: fixes the order in which images are taken.
        max_images: use at most so many.
        max_bad: largest share of images, 0–1, that may be unusable.
        batch_size: images that the model gets at once; changes speed and memory, never the verdict.
        thresholds: a profile or its file; None = the default profile.
        engine: local (this process) or ray (the extra `ray`).
        workers, ray_address: for ray, see `engine.run`.
        cache: take the evidence of an earlier run if nothing has changed since, and keep this run's (`cache.py`); only
            the local engine does, and only without detectors.
        detectors: names of installed plug-ins to run beside (`detectors.py`), with the local engine only.
        progress: called after every batch; by ray after every shard, without an interval.

    Returns:
        The report; `report.verdict.verdict` is "PASS" or "WARN".

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: no verdict is possible; see each class.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    profile = load_profile(thresholds)
    if detectors and (engine, workers, ray_address) != ("local", None, None):
        raise UsageError(f"--detector is {detectors[0]}; detectors need the local engine", "--engine local")
    loaded = plugins.load(detectors)
    place, image_set = parse_place(model), parse_image_set(images)
    with on_this_machine(place, preprocess=preprocess) as here:
        job = Job(
            model=here.path,
            images=image_set,
            tensors=(tensor,),
            pool=pool,
            preprocess=preprocess,
            device=device,
            seed=seed,
            max_images=max_images,
            max_bad=max_bad,
            batch_size=batch_size,
        )
        if engine == "local" and workers is None and ray_address is None:
            evidence, context, cached = _measured_or_kept(
                job, profile, started, progress, loaded, cache=cache and not here.fetched
            )
        else:
            if engine == "local" and workers is not None:
                raise UsageError(
                    f"--workers is {workers}; one process checks one model, unless with Ray", "--engine ray"
                )
            if here.fetched:
                raise UsageError(
                    f"{here.name}: model is behind a URL; with Ray every worker must find the file",
                    "copy it to all nodes",
                )
            # its faults are told before a cluster starts
            contract = open_model(here.path, tensor=tensor, pool=pool).contract
            evidence = _on_workers(job, profile, engine, workers, ray_address, progress)
            context, cached = _published(contract), None
    if here.fetched:
        named = evidence.model.model_copy(update={"file": here.name})
        evidence = evidence.model_copy(update={"model": named})
    wall_s = time.perf_counter() - clock
    settings = Settings(
        images=None if image_set is None else str(image_set),
        tensor=tensor,
        pool=pool,
        preprocess=preprocess,
        device=device,
        seed=seed,
        max_images=max_images,
        max_bad=max_bad,
        batch_size=batch_size,
        engine=engine,
        workers=workers,
    )
    report = Report(
        tool_version=version("robustcheck-onnx"),
        verdict=judge(evidence, profile),
        notes=notes_of(evidence, profile),
        evidence=evidence,
        profile=profile,
        published=context,
        reference=_reference(),
        claim=CLAIM,
        time=Time(
            started=started.isoformat(timespec="seconds"),
            wall_s=round(wall_s, 3),
            images_per_s=round((evidence.images.n_read - evidence.images.n_skipped) / wall_s, 2)
            if wall_s > 0 and cached is None
            else None,
            cached=cached,
        ),
        binding=Binding(settings=settings, versions=versions()),
    )
    return sealed(report)


def _measured_or_kept(
    job: Job,
    profile: Profile,
    started: datetime,
    progress: Callable[[Progress], None] | None,
    loaded: Sequence[Loaded],
    *,
    cache: bool,
) -> tuple[Evidence, Context | None, str | None]:
    """Evidence, published context, and when it was measured if an earlier run did.

    Nothing is kept of a run with detectors, as nobody knows what a detector depends on.
    """
    key = ""
    read: Content | None = None
    source: ImageSource | None = None
    if cache and not loaded and not records.is_off():
        with contextlib.suppress(OSError, RobustcheckError):  # a faulty model or image set: the run itself says so
            read = read_content(job.model)
            source = open_images(job.images, seed=job.seed, limit=job.max_images)
            key = records.key_of(job, read.digest, profile, source)
            if kept := records.load(key, job.model, source):
                LOG.info("%s: evidence taken from the cache, measured %s", job.model, kept.measured)
                return kept.evidence, kept.published, kept.measured
    LOG.info("%s: opening model, %s", job.model, job.images or "bundled photos")
    inputs = measure.read_inputs(job, source=source, read=read)
    decoders = measure.count_decoders(on_gpu=expects_gpu(job.device), threads=cpu_threads())
    with contextlib.closing(measure.decode(inputs, inputs.source, decoders)) as decoded:
        first = measure.to_probe(decoded)  # the next ones are decoded while the session opens
        opened = measure.open_sessions(inputs)
        _log_opened(opened)
        facts = measure.probe(opened, first)
        LOG.debug("%s: batch invariance and output were tried", job.model)
        watch = partial(plugins.update, loaded) if loaded else None
        measured, stopped = _until_decided(opened, profile, progress, itertools.chain(first, decoded), watch)
    (evidence,) = conclude(job, facts, measured, profile, decided=stopped)
    if loaded:
        evidence = evidence.model_copy(update={"detectors": plugins.results(loaded)})
    context = _published(opened.models[0].contract)
    with contextlib.suppress(OSError):  # a sidecar that is gone: nothing is kept
        # sidecars were read twice; a run during which one changed is not kept
        if key and read is not None and key == records.key_of(job, read.digest, profile, opened.source):
            records.store(key, started.isoformat(timespec="seconds"), measured.digests, evidence, context)
    return evidence, context, None


def _log_opened(opened: measure.Opened) -> None:
    (model, *_), (runner, *_) = opened.models, opened.runners
    found = opened.preprocessing
    tensor = model.representation
    LOG.info("%s: tensor %s by rule %s, pooling %s", model.path, tensor.tensor, tensor.rule, tensor.pool)
    LOG.info("%s: preprocessing from %s", model.path, found.source)
    LOG.info("%s: session on %s, %d images", model.path, ", ".join(runner.execution.providers), len(opened.source))


def _until_decided(
    opened: measure.Opened,
    profile: Profile,
    progress: Callable[[Progress], None] | None,
    decoded: Iterable[Prepared | Skipped],
    watch: measure.Watch | None = None,
) -> tuple[Measurement, bool]:
    """Measure until the evidence decides (True) or the images end (False)."""
    run, clock, total = nothing_yet(1), time.perf_counter(), len(opened.source)
    enough_varied = False
    interval = ""
    for at_look in measure.batches(opened, run, decoded, watch):
        state = run.states[0]
        if at_look and state is not None and state.n >= 2:
            statistics = sums.statistics(state, profile.alpha)
            interval = _closest(statistics, profile)
            LOG.debug("%s: look at %d images: %s", opened.job.model, run.n_good, interval or "no bound yet")
            if decided(statistics, profile):
                # asked last, and only until it holds: counting varied images compares all pairs
                enough_varied = enough_varied or run.sanity.facts().n_varied >= profile.min_images
                if enough_varied:
                    return run, True
        if progress is not None:
            progress(Progress(run.n_good, total, run.n_good / (time.perf_counter() - clock), interval))
    return run, False


def _on_workers(
    job: Job,
    profile: Profile,
    engine: str,
    workers: int | None,
    address: str | None,
    progress: Callable[[Progress], None] | None,
) -> Evidence:
    """Measure all images."""
    clock = time.perf_counter()

    def tell(_: Job, n_done: int, n_total: int) -> None:
        if progress is not None:
            progress(Progress(n_done, n_total, n_done / (time.perf_counter() - clock), ""))

    outcomes = engines.run([job], profile, engine=engine, workers=workers, address=address, progress=tell)
    (outcome,) = outcomes
    if outcome.error is not None:
        raise outcome.error
    (evidence,) = outcome.evidence
    return evidence


def _closest(statistics: Statistics, profile: Profile) -> str:
    """The statistic whose interval is closest to its threshold, for the progress line."""
    gaps = []
    for name in STATISTICS:
        interval, minimum = getattr(statistics, name), profile.thresholds[name].minimum
        if interval.low is not None and interval.high is not None:
            gap = max(interval.low - minimum, minimum - interval.high) / (interval.high - interval.low + 1e-12)
            gaps.append((gap, f"{NAMES[name]} {interval.low:.3g}–{interval.high:.3g} against {minimum:g}"))
    return min(gaps)[1] if gaps else ""


def load_profile(thresholds: Path | Profile | None) -> Profile:
    """The profile that `thresholds` of `check` means. Raises UsageError for a file that is none."""
    if isinstance(thresholds, Profile):
        return thresholds
    try:
        return profiles.load(thresholds)
    except profiles.ProfileError as fault:
        raise UsageError(str(fault), "leave out --thresholds for the default profile") from fault
    except RecursionError as fault:
        raise UsageError(
            f"{thresholds}: threshold profile is nested too deeply; it must be a sealed profile",
            "leave out --thresholds for the default profile",
        ) from fault


def _published(contract: Contract | None) -> Context | None:
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


LOG = logging.getLogger("robustcheck")
LOG.addHandler(logging.NullHandler())
