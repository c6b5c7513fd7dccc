"""Run candidate and reference on the same images and compare them: one loop. Silent; progress goes to a callback."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.images import Item, Picture, Skipped, check_bad, parse_image_set, prefetch
from robustcheck_onnx.checker.measure import Job, Measurement, Opened, Prepared, Progress, conclude, nothing_yet, stack
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.pipeline import load_profile
from robustcheck_onnx.checker.report import Time
from robustcheck_onnx.checker.runtime import CPU, RunOutput
from robustcheck_onnx.checker.statistics import CONFIDENCE, state, wilson
from robustcheck_onnx.checker.storage import Place, local_path
from robustcheck_onnx.checker.verdict import judge, notes_of
from robustcheck_onnx.thresholds.profile import Profile

from . import baseline as baselines
from . import changes, fates, pairs
from .baseline import Baseline
from .changes import StatisticChange
from .fates import FeatureFate
from .judge import CLAIM, TOLERANCE, Agreement, Compared, CompareReport, judge_pair
from .pairs import Pair, Side, Similarity, similarity

MAX_IMAGES = 1000  # by default; the intervals then reach 13 % of an SD


def compare(
    candidate: str | Path,
    reference: str | Path | None = None,
    *,
    baseline: Path | None = None,
    images: str | Place | None = None,
    tolerance: float = TOLERANCE,
    preprocess: str | None = None,
    device: str = "auto",
    seed: int = 0,
    max_images: int = MAX_IMAGES,
    max_bad: float = 0.01,
    batch_size: int = 32,
    thresholds: Path | Profile | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[CompareReport, Baseline]:
    """Compare a candidate with its reference on all images, each with its own preprocessing.

    Args:
        candidate: path of an ONNX file.
        reference: another one; None = the baseline, or without that the candidate itself (to make its baseline).
        baseline: a file written from an earlier run's second result, in place of a reference.
        images: as in `pipeline.check`; None = the bundled photos.
        tolerance: share of each statistic that may be lost, 0 ≤ tolerance < 1.
        preprocess: for both, instead of what each file's contract or sidecar says.
        device, seed, max_images, max_bad, batch_size, thresholds, progress: as in `pipeline.check`. An image that one
            of the two can't use counts as unusable for both.

    Returns:
        The report, and the candidate's numbers as a baseline for the next release.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: no verdict is possible; see each class.
    """
    if not 0 <= tolerance < 1:
        raise UsageError(f"--tolerance is {tolerance:g}; it must be at least 0 and less than 1", "--tolerance 0.2")
    if reference is not None and baseline is not None:
        raise UsageError(
            f"REFERENCE is {reference} and --baseline is {baseline}; only one of them can be compared with",
            "leave out one of them",
        )
    started, clock = datetime.now(UTC), time.perf_counter()
    profile = load_profile(thresholds)
    known = None if baseline is None else baselines.read(baseline)
    jobs = [
        Job(
            model=local_path(model, "model"),
            images=parse_image_set(images),
            preprocess=preprocess,
            device=device,
            seed=seed,
            max_images=max_images,
            max_bad=max_bad,
            batch_size=batch_size,
        )
        for model in (candidate, reference)
        if model is not None
    ]
    opened = [measure.open_job(jobs[0])]
    opened += [replace(measure.open_job(job, source=opened[0].source), described=frozenset()) for job in jobs[1:]]
    facts = [measure.probe(each) for each in opened]
    pair, measured = _run(opened[0], opened[-1], batch_size, progress)
    if pair.candidate.state.n == 0:
        _say_none_usable(jobs, pair, measured.n_good)
    evidence = [
        conclude(job, fact, replace(measured, states=[side.state]), profile)[0]
        for job, fact, side in zip(jobs, facts, (pair.candidate, pair.reference), strict=False)
    ]
    wall_s = time.perf_counter() - clock
    when = Time(
        started=started.isoformat(timespec="seconds"),
        wall_s=round(wall_s, 3),
        images_per_s=round(measured.n_good / wall_s, 2),
    )
    made = baselines.make(pair.candidate, evidence[0], measured.digests)
    ours = _compared(evidence[0], profile)
    if known is None:
        found = _between(pair, _compared(evidence[-1], profile), profile.alpha, tolerance)
    else:
        found = _against(pair.candidate, evidence[0], known, profile, tolerance)
    return _report(ours, found, profile, tolerance, baseline, when), made


def _compared(evidence: Evidence, profile: Profile) -> Compared:
    return Compared(
        evidence=evidence,
        verdict=judge(evidence, profile),
        carrying=tuple(f.index for f in fates.carrying(evidence.statistics).features),
    )


@dataclass(frozen=True)
class _Found:
    """A reference, and what comparing the candidate with it gave."""

    reference: Compared
    statistics: tuple[StatisticChange, ...]
    features: tuple[FeatureFate, ...]
    stale: Sequence[str] = ()
    paired: bool = True
    similarity: Similarity | None = None
    agreement: Agreement | None = None


def _between(pair: Pair, reference: Compared, alpha: float, tolerance: float) -> _Found:
    """Two models that were run."""
    numbers = changes.left_out(pair.candidate), changes.left_out(pair.reference)
    return _Found(
        reference,
        statistics=changes.changes(*numbers, alpha, tolerance),
        features=fates.fates(pair, reference.evidence.statistics, tolerance),
        similarity=similarity(pair.candidate.kept_rows, pair.reference.kept_rows),
        agreement=_agreement(pair),
    )


def _against(side: Side, evidence: Evidence, known: Baseline, profile: Profile, tolerance: float) -> _Found:
    """A model that was run, and the numbers of one that was run before."""
    stale = baselines.staleness(known, evidence)
    ours, theirs = changes.left_out(side), known.numbers()
    same_width = ours.n_features == theirs.n_features
    if known.evidence.statistics.statistic_version != evidence.statistics.statistic_version:
        theirs = replace(theirs, n_features=0)  # other definitions: as with other widths there is no ratio
    paired = known.evidence.images.digest == evidence.images.digest and np.array_equal(ours.sizes, theirs.sizes)
    if not stale and not paired:
        stale = ("the baseline has other images among its usable ones",)
    persistent = fates.carrying(known.evidence.statistics).persistent
    return _Found(
        _compared(known.evidence, profile),
        statistics=changes.changes(ours, theirs, profile.alpha, tolerance, paired=paired),
        features=fates.fates_by_index(side, known.features, persistent, tolerance) if same_width else (),
        stale=stale,
        paired=paired,
    )


def _report(
    candidate: Compared, found: _Found, profile: Profile, tolerance: float, baseline: Path | None, when: Time
) -> CompareReport:
    return CompareReport(
        tool_version=version("robustcheck-onnx"),
        verdict=judge_pair(
            candidate, found.reference, found.statistics, found.features, tolerance, profile, found.stale
        ),
        tolerance=tolerance,
        baseline="" if baseline is None else str(baseline),
        paired=found.paired,
        n_images=candidate.evidence.statistics.n_images,
        candidate=candidate,
        reference=found.reference,
        statistics=found.statistics,
        alpha=profile.alpha,
        features=found.features,
        new_features=fates.new_features(candidate.evidence.statistics, found.features),
        similarity=found.similarity,
        agreement=found.agreement,
        notes=_notes(candidate, found.reference, profile),
        profile=profile,
        claim=CLAIM,
        time=when,
    )


def _run(
    first: Opened, second: Opened, batch_size: int, progress: Callable[[Progress], None] | None
) -> tuple[Pair, Measurement]:
    """Run every usable image through both models; what is the same for both stands in one measurement.

    The same model twice is run once.
    """
    measured, clock, total = nothing_yet(1), time.perf_counter(), len(first.source)
    same_pixels = first.preprocessing.preprocessing == second.preprocessing.preprocessing

    def prepare(item: Item) -> tuple[Prepared, Prepared] | Skipped:
        one = measure.prepare_item(item, first)
        if isinstance(one, Skipped):
            return one
        other = one if same_pixels and isinstance(item, Picture) else measure.prepare_item(item, second)
        return other if isinstance(other, Skipped) else (one, other)

    pair: Pair | None = None
    waiting: list[tuple[Prepared, Prepared]] = []
    execution = first.runners[0].execution
    decoders = measure.count_decoders(on_gpu=execution.providers[0] != CPU, threads=execution.threads)
    with contextlib.closing(prefetch(first.source, prepare, workers=decoders, window=measure.AHEAD)) as decoded:
        for number, item in enumerate(decoded, 1):
            if isinstance(item, Skipped):
                measured.skipped.append(item)
            else:
                waiting.append(item)
                measured.n_good += 1
                measured.sanity.add(item[0].sketch)
                measured.digests.append(item[0].digest)
                measured.notes.update(item[0].notes)
            if waiting and (len(waiting) == batch_size or number == total):
                pair = _add(first, second, waiting, pair)
                waiting = []
                if progress is not None:
                    progress(Progress(number, total, number / (time.perf_counter() - clock), ""))
    if pair is None:
        check_bad(total, len(measured.skipped), 1.0, measured.skipped, first.source.spec or "bundled photos")
        raise AssertionError("check_bad refuses a set without a usable image")
    return pair, measured


def _add(first: Opened, second: Opened, batch: Sequence[tuple[Prepared, Prepared]], pair: Pair | None) -> Pair:
    """Run one batch through both models and add what comes out."""
    ours = first.runners[0].run(stack([one for one, _ in batch]))
    theirs = ours if second is first else second.runners[0].run(stack([other for _, other in batch]))
    if pair is None:
        pair = Pair(_side(first, ours), _side(second, theirs))
    keys = [measure.key_of(one.digest) for one, _ in batch]
    pairs.update(pair, ours.representation, theirs.representation, keys)
    a, b = ours.class_output, theirs.class_output
    if a is not None and b is not None and a.shape == b.shape and a.shape[1] > 1:
        pairs.add_predictions(pair, a, b)
    return pair


def _side(opened: Opened, output: RunOutput) -> Side:
    width = output.representation.shape[1]
    if width > measure.MAX_FEATURES:
        raise CannotAssessError(
            f"{opened.models[0].path}: representation has {width} features; more than {measure.MAX_FEATURES} is an "
            "unpooled map",
            "export the model with a pooled representation",
        )
    return Side(state.State(width))


def _say_none_usable(jobs: Sequence[Job], pair: Pair, n: int) -> None:
    for job, side in zip(jobs, (pair.candidate, pair.reference), strict=True):
        bad = side.state.n_nonfinite + side.state.n_constant
        if bad == n:
            raise CannotAssessError(
                f"{job.model}: number of finite, not constant representations is 0 of {n}; at least one is needed",
                f"robustcheck inspect {job.model}",
            )
    raise CannotAssessError(
        f"{jobs[0].model}, {jobs[1].model}: number of images on which both representations are finite and not constant "
        f"is 0 of {n}; at least one is needed",
        "--images FOLDER",
    )


def _agreement(pair: Pair) -> Agreement | None:
    if pair.n_predicted == 0:
        return None
    share = wilson(pair.n_agreeing, pair.n_predicted)
    return Agreement(
        n=share.n,
        n_same=share.n_correct,
        value=share.value,
        low=share.low,
        high=share.high,
        confidence=CONFIDENCE,
    )


def _notes(candidate: Compared, reference: Compared, profile: Profile) -> tuple[str, ...]:
    """What a reader must know beside the verdict: of both models, each sentence once."""
    notes = []
    if candidate.evidence.model.digest == reference.evidence.model.digest:
        notes.append("Candidate and reference are the same file, byte for byte.")
    ours, theirs = (each.evidence.preprocessing.preprocessing for each in (candidate, reference))
    if ours != theirs:
        fields = [name for name in type(ours).model_fields if getattr(ours, name) != getattr(theirs, name)]
        notes.append(f"Candidate and reference preprocess differently ({', '.join(fields)}), each as its file says.")
    told = [notes_of(each.evidence, profile) for each in (candidate, reference)]
    notes += [note for note in told[0] if note in told[1]]
    for name, mine, others in (("candidate", *told), ("reference", *told[::-1])):
        notes += [f"Of the {name}: {note}" for note in mine if note not in others]
    return tuple(notes)
