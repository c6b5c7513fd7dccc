"""The check: one loop from images to a report. Silent; progress goes to a callback."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker import images, imageset, sequential, sidecar
from robustcheck_onnx.checker import state as sums
from robustcheck_onnx.checker.contract import Contract
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import (
    Evidence,
    ImageFacts,
    ModelFacts,
    PreprocessingFacts,
    Statistics,
)
from robustcheck_onnx.checker.graph import ModelFile, open_model
from robustcheck_onnx.checker.notes import notes_of
from robustcheck_onnx.checker.pooling import show_shape
from robustcheck_onnx.checker.preprocess import Preprocessing, apply, apply_uint8, as_photo
from robustcheck_onnx.checker.reasons import NAMES
from robustcheck_onnx.checker.report import CLAIM, Placed, Report, Time
from robustcheck_onnx.checker.runner import Runner
from robustcheck_onnx.checker.verdict import decided, judge
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.profile import STATISTICS, Profile
from robustcheck_onnx.thresholds.published import Context, context_for
from robustcheck_onnx.thresholds.reference import references

MAX_FEATURES = 16384  # widest vision representation in use is below 5,000; wider means an unpooled map
PROBE_IMAGES = 5  # images that batch invariance is checked on, before anything is measured
NAMED_SKIPS = 20  # skipped images named in the report
DECODERS = 2  # threads that decode ahead of the model
AHEAD = 64  # decoded images that may wait: two batches of the default size


@dataclass(frozen=True)
class Progress:
    """Where a run is; given to the callback after every batch."""

    n_done: int
    n_total: int
    images_per_s: float
    interval: str
    """the statistic that is closest to its threshold, in words; empty before the first look"""


@dataclass
class _Run:
    """What one run adds up while images go by."""

    state: sums.State | None = None
    sanity: imageset.ImageSetState = field(default_factory=imageset.ImageSetState)
    digests: list[str] = field(default_factory=list)
    skipped: list[images.Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    n_good: int = 0
    batch_difference: float | None = None
    output_difference: float | None = None

    @property
    def n_read(self) -> int:
        return self.n_good + len(self.skipped)


@dataclass(frozen=True)
class _Prepared:
    digest: str
    notes: tuple[str, ...]
    pixels: npt.NDArray[np.generic]
    sketch: imageset.Sketch


def check(
    model: str | Path,
    *,
    images: str | Path | None = None,
    tensor: str | None = None,
    pool: str | None = None,
    preprocess: str | None = None,
    device: str = "auto",
    seed: int = 0,
    max_images: int | None = None,
    max_bad: float = 0.01,
    batch_size: int = 32,
    thresholds: Path | Profile | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Check one ONNX model on in-distribution images and judge it.

    Args:
        model: path of the ONNX file.
        images: folder, glob, list, manifest, shards or tensors (see `robustcheck check --help`); None = the
            bundled photos.
        tensor, pool: measure this tensor, pooled this way, instead of the one found by rule.
        preprocess: clip, imagenet or a JSON file; None = the file's contract, else a sidecar, else assumed (WARN).
        device: auto, cpu, cuda, cuda:N or tensorrt.
        seed: fixes the order in which images are taken.
        max_images: use at most so many.
        max_bad: largest share of images, 0–1, that may be unusable.
        batch_size: images a forward pass; changes speed and memory, never the verdict.
        thresholds: a profile or its file; None = the default profile.
        progress: called after every batch.

    Returns:
        The report; `report.verdict.verdict` is "PASS" or "WARN".

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: no verdict is possible; see each class.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    profile = _profile(thresholds)
    opened = open_model(model, tensor=tensor, pool=pool)
    contract = opened.contract
    found = sidecar.find_preprocessing(
        Path(model), preprocess, contract.preprocessing if contract else None, opened.image_input.size
    )
    source = _open_source(images, seed, max_images)
    runner = Runner(opened, device=device)
    run, statistics, stopped = _measure(runner, opened, source, found.preprocessing, profile, batch_size, progress)
    _check_bad(run, max_bad, source, sampled=stopped != "all images")
    evidence = Evidence(
        statistics=statistics,
        model=_model_facts(opened, run),
        preprocessing=PreprocessingFacts(
            preprocessing=found.preprocessing,
            source="tensors" if source.kind == "tensors" and found.source != "assumed" else found.source,
            fields=tuple(found.origins),
            against_contract=contract is not None and found.preprocessing != contract.preprocessing,
        ),
        images=_image_facts(source, run),
        execution=runner.execution,
        stopped=stopped,
    )
    wall_s = time.perf_counter() - clock
    return Report(
        tool_version=version("robustcheck-onnx"),
        verdict=judge(evidence, profile),
        notes=notes_of(evidence, profile),
        evidence=evidence,
        profile=profile,
        published=_published(contract),
        reference=_reference(),
        claim=CLAIM,
        time=Time(
            started=started.isoformat(timespec="seconds"),
            wall_s=round(wall_s, 3),
            images_per_s=round(run.n_good / wall_s, 2) if wall_s > 0 else None,
        ),
    )


def _measure(
    runner: Runner,
    opened: ModelFile,
    source: images.ImageSource,
    preprocessing: Preprocessing,
    profile: Profile,
    batch_size: int,
    progress: Callable[[Progress], None] | None,
) -> tuple[_Run, Statistics, Literal["decided", "all images", "image limit"]]:
    """The loop: decode ahead, run, add up, look, stop."""
    run, clock = _Run(), time.perf_counter()
    waiting: list[_Prepared] = []
    enough_varied = False
    look = sequential.next_look(0)
    interval = ""
    statistics: Statistics | None = None

    def prepare(item: images.Item) -> _Prepared | images.Skipped:
        return _prepare(item, preprocessing, opened)

    with contextlib.closing(images.prefetch(source, prepare, workers=DECODERS, window=AHEAD)) as decoded:
        for item in decoded:
            if isinstance(item, images.Skipped):
                run.skipped.append(item)
                continue
            waiting.append(item)
            run.n_good += 1
            run.sanity.add(item.sketch)
            run.digests.append(item.digest)
            run.notes.update(item.notes)
            at_look = run.n_good == look
            if not at_look and len(waiting) < (batch_size if run.state is not None else max(batch_size, PROBE_IMAGES)):
                continue
            _add(run, runner, waiting, batch_size)
            waiting = []
            if at_look:
                look = sequential.next_look(run.n_good)
                # asked again only until it holds: counting varied images compares all pairs
                enough_varied = enough_varied or run.sanity.facts().n_varied >= profile.min_images
                if run.state is not None and run.state.n >= 2:
                    statistics = sums.statistics(run.state, profile.alpha)
                    interval = _closest(statistics, profile)
                    if enough_varied and decided(statistics, profile):
                        return run, statistics, "decided"
            if progress is not None:
                rate = run.n_good / (time.perf_counter() - clock)
                progress(Progress(run.n_good, len(source), rate, interval))
    if waiting:
        _add(run, runner, waiting, batch_size)
    _check_bad(run, 1.0, source, sampled=False)
    if run.state is None or run.state.n == 0:
        raise CannotAssessError(
            f"{opened.path}: number of finite, not constant representations is 0 of {run.n_good}; "
            "at least one is needed",
            f"robustcheck inspect {opened.path}",
        )
    limited = source.n_found > len(source)
    return run, sums.statistics(run.state, profile.alpha), "image limit" if limited else "all images"


def _prepare(item: images.Item, preprocessing: Preprocessing, opened: ModelFile) -> _Prepared | images.Skipped:
    if isinstance(item, images.Skipped):
        return item
    if isinstance(item, images.Tensor):
        takes = (3, opened.image_input.height, opened.image_input.width)
        if any(want not in (None, size) for want, size in zip(takes, item.values.shape, strict=True)):
            raise UsageError(
                f"{item.name}: tensor (channel, height, width) is {item.values.shape}; {opened.path} takes "
                f"{show_shape(takes)}",
                f"robustcheck inspect {shlex.quote(str(opened.path))}",
            )
        pixels = np.ascontiguousarray(np.moveaxis(item.values, 0, -1))
        return _Prepared(item.digest, (), pixels, imageset.describe(as_photo(preprocessing, pixels)))
    try:
        array = (
            apply_uint8(preprocessing, item.image)
            if opened.image_input.dtype == "uint8"
            else apply(preprocessing, item.image)
        )
    except CannotAssessError as fault:  # a strip that cannot be resized: this image's fault, not the run's
        return images.Skipped(item.name, fault.message)
    return _Prepared(item.digest, item.notes, array, imageset.describe(item.image))


def _add(run: _Run, runner: Runner, batch: list[_Prepared], size: int) -> None:
    """Run images in batches of `size` and add their representations to the state; before the first, the probes."""
    pixels = np.stack([item.pixels for item in batch])
    if run.batch_difference is None and len(batch) > 1:
        run.batch_difference = runner.batch_invariance(pixels[:PROBE_IMAGES])
        run.output_difference = runner.output_unchanged(pixels[:PROBE_IMAGES]).max_difference
    for start in range(0, len(batch), size):
        representations = runner.run(pixels[start : start + size]).representation
        if run.state is None:
            if representations.shape[1] > MAX_FEATURES:
                raise CannotAssessError(
                    f"representation has {representations.shape[1]} features; more than {MAX_FEATURES} is an "
                    "unpooled map",
                    "choose another tensor with --tensor, or --pool",
                )
            run.state = sums.State(representations.shape[1])
        sums.update(run.state, representations, [_key(item.digest) for item in batch[start : start + size]])


def _key(digest: str) -> int:
    """The last 32 bits of a hexadecimal digest."""
    return int(digest[-8:], 16)


def _closest(statistics: Statistics, profile: Profile) -> str:
    """The statistic whose interval is closest to its threshold, for the progress line."""
    gaps = []
    for name in STATISTICS:
        interval, minimum = getattr(statistics, name), profile.thresholds[name].minimum
        if interval.low is not None and interval.high is not None:
            gap = max(interval.low - minimum, minimum - interval.high) / (interval.high - interval.low + 1e-12)
            gaps.append((gap, f"{NAMES[name]} {interval.low:.3g}–{interval.high:.3g} against {minimum:g}"))
    return min(gaps)[1] if gaps else ""


def _profile(thresholds: Path | Profile | None) -> Profile:
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


def _open_source(spec: str | Path | None, seed: int, limit: int | None) -> images.ImageSource:
    return images.open_images(spec, seed=seed, limit=limit)


def _check_bad(run: _Run, max_bad: float, source: images.ImageSource, *, sampled: bool) -> None:
    where = source.spec or "bundled photos"
    images.check_bad(run.n_read, len(run.skipped), max_bad, run.skipped, where, sampled=sampled)


def _model_facts(opened: ModelFile, run: _Run) -> ModelFacts:
    chosen, contract = opened.representation, opened.contract
    return ModelFacts(
        file=str(opened.path),
        digest=opened.digest,
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
        batch_difference=run.batch_difference,
        output_difference=run.output_difference,
    )


def _image_facts(source: images.ImageSource, run: _Run) -> ImageFacts:
    return ImageFacts(
        source=source.spec or "bundled photos",
        bundled=source.kind == "bundled",
        n_available=source.n_found,
        n_read=run.n_read,
        n_skipped=len(run.skipped),
        skipped=tuple((bad.name, bad.reason) for bad in run.skipped[:NAMED_SKIPS]),
        notes=dict(sorted(run.notes.items())),
        digest=images.digest_of(run.digests),
        seed=source.seed,
        sanity=run.sanity.facts(),
    )


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
