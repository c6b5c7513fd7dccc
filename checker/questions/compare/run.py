"""Run candidate and reference on the same images.

One loop runs both and compares them. Silent; progress goes to a callback.
"""

from __future__ import annotations  # help() names the types as the package does

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack, overload

import numpy as np

from ....thresholds.profile import Profile
from ...calls import public
from ...core.evidence import Evidence, Execution
from ...core.measure.job import Job
from ...core.measure.opening import OpenedJob, open_job
from ...core.model.watched import file_digest
from ...core.options import RunOptions
from ...core.progress import Progress
from ...core.verdict.notes import notes_of
from ...core.verdict.profile import load_profile
from ...errors import UsageError
from ...outside.addresses import LocalModel, on_this_machine, parse_address
from ...outside.image_sets.open import Images, opener
from ...outside.isolation import NO_LIMITS, Limits
from ...outside.storage.places import Place, as_typed, redact
from ...report.record import Time
from ...text import VERSION, Texts
from ..call import QuestionRun
from ..check import binding_of
from . import baseline as baselines
from . import stored
from .baseline import COSINE_IMAGES, Baseline, GivenBaseline, Vectors
from .both import measure_both
from .changes import changes, jackknife_of, required_by
from .features import FeatureFates, follow_features, new_features
from .index import concluded_index, on_another_machine
from .index_report import IndexOptions, Required
from .index_run import judge_vectors, machine_loss, report_on_index
from .judge import CLAIM, TOLERANCE, CompareReport, Comparison, FirstBaseline, judge_pair, required_of
from .pairs import Compared, Pair, Side, agreement
from .similarity import cosines, similarity, similarity_of
from .stored import VectorsReport
from .vectors import open_vectors

AnyReport = CompareReport | FirstBaseline | VectorsReport
MAX_IMAGES = 1000  # by default; the intervals then reach 13 % of an SD


class CompareOptions(RunOptions, total=False):
    """The keyword arguments of `compare` without models and images. Those of `RunOptions` are among them."""

    tolerance: float
    thresholds: str | Path | Profile | None
    index: IndexOptions
    require: Sequence[Required]
    write_baseline: str | Path | None
    isolate: bool
    limits: Limits
    progress: Callable[[Progress], None] | None


@overload
def compare(
    candidate: str | Path,
    reference: None = None,
    images: Images | None = None,
    *,
    baseline: None = None,
    **options: Unpack[CompareOptions],
) -> FirstBaseline | VectorsReport: ...
@overload
def compare(
    candidate: str | Path,
    reference: str | Path | None = None,
    images: Images | None = None,
    *,
    baseline: str | Path | Baseline | None = None,
    **options: Unpack[CompareOptions],
) -> CompareReport: ...
@public('rc.compare("new.onnx", "old.onnx", "photos/")')
def compare(
    candidate: str | Path,
    reference: str | Path | None = None,
    images: Images | None = None,
    *,
    baseline: str | Path | Baseline | None = None,
    tolerance: float = TOLERANCE,
    thresholds: str | Path | Profile | None = None,
    index: IndexOptions = IndexOptions(),  # noqa: B008 # frozen
    require: Sequence[Required] = ("indication",),
    write_baseline: str | Path | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> CompareReport | FirstBaseline | VectorsReport:
    """Compare a candidate with its reference. Both run on all images, each with its own preprocessing.

    Args:
        candidate: path of an ONNX file, or an address as in `check`.
        reference: another one; None = the baseline. Without either, the candidate's vectors are compared with those of
            `index.file`; without that, too, nothing is compared, and there is no verdict.
        images: as in `check`.
        baseline: in place of a reference, the `next_baseline` of an earlier run, or the file that it was written to.
        tolerance: share of each statistic that may be lost, 0 ≤ tolerance < 1; 0.2 unless it is given.
        thresholds: as in `check`.
        index: what the index verdict is asked with.
        require: the verdicts that `exit_code` is of: indication (PASS), index (compatible), or both.
        write_baseline: file for the candidate's numbers; one that ends in .npz gets the vectors, too. It is written
            after the comparison, so an error leaves an earlier file as it was. That of `baseline` is replaced only
            where the report's `exit_code` is 0.
        isolate: as in `check`; one child reads both models.
        limits: as in `check`.
        progress: as in `check`.
        options: as in `check`, for both models; max_images is 1,000 unless it is given. An image that one of the two
            can't use counts as unusable for both.

    Returns:
        The report; its `next_baseline` holds the candidate's numbers and vectors for the next release. Without
        reference and baseline a `VectorsReport` on the vectors in `index.file`; without that a `FirstBaseline`, which
        holds the numbers alone.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: no verdict is possible; see each class.
    """
    _refuse(tolerance, reference, baseline)
    require = required_of(require)
    if reference is None and baseline is None:
        _refuse_alone(images, index, require, tolerance)
    run = QuestionRun.begin(images, options, progress, max_images=MAX_IMAGES)
    profile = load_profile(thresholds)
    places = [parse_address(model) for model in (candidate, reference) if model is not None]
    typed = [as_typed(place) for place in places]
    child: Callable[..., AnyReport] | None = run.child(compare, redact(typed[0]), limits, isolate, *typed)
    if child is None:
        report = _compare(run, places, baseline, tolerance, profile, index, require)
    else:
        asked = partial(
            child,
            *typed,
            tolerance=tolerance,
            thresholds=profile,
            index=index,
            require=require,
            progress=progress,
            **run.options.keywords,
        )
        report = _compare_apart(asked, baseline)
    return _save_baseline(report, write_baseline, baseline)


def _compare(
    run: QuestionRun,
    places: Sequence[Place],
    baseline: GivenBaseline,
    tolerance: float,
    profile: Profile,
    index: IndexOptions,
    require: Sequence[Required],
) -> AnyReport:
    """Compare in this process."""
    old_numbers = None if baseline is None else baselines.load(baseline)
    baseline_digest = ""
    if isinstance(baseline, str | Path):
        baseline_digest = file_digest(Path(baseline))
    named = (("--index", index.file), ("--text", index.text))
    files = {option: open_vectors(file, option) for option, file in named if file is not None}
    with ExitStack() as copies:
        preprocess = run.options.preprocess
        models = [copies.enter_context(on_this_machine(p, preprocess=preprocess, tell=run.tell)) for p in places]
        opened = _open(models, run)
        pair, read, references, evidence = measure_both(models, opened, run, profile)
        when = Time.until_now(run.clock, read.n_usable)
        nodes = [_types_of_nodes(model) for model in opened]
        vectors = Vectors(pair.candidate.vectors, tuple(digest for _, digest in pair.images))
        numbers = baselines.make(pair.candidate, evidence[0], read.digests, nodes[0])
        new_baseline = numbers.with_vectors(vectors)
        ours = Compared.of(evidence[0], profile)
        is_exact = run.options.arithmetic is not None
        if len(opened) == 1 and old_numbers is None:
            if index.file is None:
                return FirstBaseline(candidate=ours, next_baseline=new_baseline)
            exact = None if is_exact else references[0]
            judged = judge_vectors(opened[0], pair, files["--index"], index, run, exact)
            return stored.report_of(ours, judged, profile, when).with_baseline(new_baseline)
        if old_numbers is not None:
            comparison = _against(pair.candidate, evidence[0], read.digests, old_numbers, profile, tolerance)
            old = old_numbers.vectors
            nodes.append(Counter(old_numbers.nodes))
            if not old_numbers.nodes:  # those of the candidate have nothing to be compared with
                nodes[0] = Counter()
        else:
            theirs = Compared.of(evidence[-1], profile)
            comparison = _between(pair, theirs, profile, tolerance)
            old = Vectors(pair.reference.vectors, vectors.digests)
        run.tell("comparing the vectors")
        index_report = report_on_index(pair, old, comparison.reference.evidence, files, index)
        index_report = concluded_index(index_report, (ours, comparison.reference), nodes)
        if not is_exact:
            loss = machine_loss(pair, old, references, [ours.evidence, comparison.reference.evidence])
            index_report = on_another_machine(index_report, loss)
        digests = {f"{name}_digest": file_digest(file) for name, file in dict(index).items() if isinstance(file, Path)}
        index_report = index_report.model_copy(update=digests)
        report = _report(
            ours,
            comparison,
            profile,
            tolerance,
            baselines.name_of(baseline),
            when,
            index=index_report,
            required=require,
            binding=binding_of(run.options),
            baseline_digest=baseline_digest,
        )
        return report.with_baseline(new_baseline)


def _types_of_nodes(opened: OpenedJob) -> Counter[str]:
    """Count the nodes of a model's graph by type."""
    graph = opened.models[0].graph.proto.graph
    return Counter(node.op_type for node in graph.node)


def _open(models: Sequence[LocalModel], run: QuestionRun) -> list[OpenedJob]:
    """Open the candidate, and the reference where there is one, on the candidate's images."""
    jobs = [Job(model.path, run.options, other_models=model.other_models) for model in models]
    run.tell("loading the candidate")
    opened = [open_job(jobs[0], opener(run.handed_over))]
    for job in jobs[1:]:
        run.tell("loading the reference")
        reference = open_job(job, lambda _: opened[0].source)
        opened.append(replace(reference, described=None))
    return opened


def _refuse(tolerance: float, reference: str | Path | None, baseline: GivenBaseline) -> None:
    if not 0 <= tolerance < 1:
        raise UsageError(f"--tolerance is {tolerance:g}; it must be at least 0 and less than 1", "--tolerance 0.2")
    if reference is not None and baseline is not None:
        raise UsageError(
            f"REFERENCE is {redact(str(reference))} and --baseline is {baselines.name_of(baseline)}; the candidate is "
            "compared with one of them",
            "leave out one of them",
        )


def _refuse_alone(images: Images | None, index: IndexOptions, require: Sequence[Required], tolerance: float) -> None:
    """Refuse what needs a reference where the vectors of a file are compared with those of one model."""
    if index.file is None:
        return
    step = "name the reference, or leave it out"
    if index.text is not None:
        raise UsageError("--text is given without a reference; it needs the classes of two models", step)
    if index.accept_untested:
        raise UsageError(
            "--accept-untested-index is given without a reference; then this test is all that is asked", step
        )
    if "indication" in require and len(require) > 1:
        raise UsageError("require has indication without a reference; there is no verdict on outlier features", step)
    usual = IndexOptions()
    named = {
        "--min-cosine": (index.min_cosine, usual.min_cosine),
        "--min-recall": (index.min_recall, usual.min_recall),
        "--tolerance": (tolerance, TOLERANCE),
    }
    for option, (given, default) in named.items():
        if given != default:
            raise UsageError(f"{option} is {given:g} without a reference; it limits what a new file may change", step)
    if images is None:
        raise UsageError(
            f"--images is missing; the photos whose vectors {index.file} holds are needed", "--images FOLDER"
        )


def _save_baseline(report: AnyReport, file: str | Path | None, baseline: GivenBaseline) -> AnyReport:
    """Write the candidate's numbers to a file. Nothing else can fail any more.

    A candidate that failed does not replace the baseline that it was compared with: tried again, it would be compared
    with itself.
    """
    if file is None or report.next_baseline is None:
        return report
    is_same = isinstance(baseline, str | Path) and Path(file).exists() and Path(file).samefile(baseline)
    if not (is_same and getattr(report, "exit_code", False)):
        baselines.write(Path(file), report.next_baseline)
    return report


def _compare_apart(child: Callable[..., AnyReport], baseline: GivenBaseline) -> AnyReport:
    """Compare in a child. Baselines cross the wall in files, since JSON does not hold their vectors."""
    sent = baseline
    with TemporaryDirectory(prefix="robustcheck-") as folder:
        written = Path(folder, "made.npz")
        if isinstance(baseline, Baseline):
            sent = Path(folder, "sent.json")
            if baseline.vectors is not None:
                sent = Path(folder, "sent.npz")
            baselines.write(sent, baselines.load(baseline))
        report = child(baseline=sent, write_baseline=written)
        numbers = baselines.read(written)
    if isinstance(report, FirstBaseline):
        return report.model_copy(update={"next_baseline": numbers})
    if isinstance(report, CompareReport) and isinstance(baseline, Baseline):
        report = report.model_copy(update={"baseline": baselines.name_of(baseline), "baseline_digest": ""})
    return report.with_baseline(numbers)


def _between(pair: Pair, reference: Compared, profile: Profile, tolerance: float) -> Comparison:
    """Two models that were run."""
    ours = pair.candidate
    theirs = pair.reference
    required = required_by(profile)
    return Comparison(
        reference,
        statistics=changes(jackknife_of(ours), jackknife_of(theirs), required, profile.alpha, tolerance),
        features=follow_features(ours, theirs, reference.evidence.statistics, tolerance),
        similarity=similarity(ours.scaled_rows, theirs.scaled_rows),
        agreement=agreement(pair),
    )


def _against(
    side: Side, evidence: Evidence, digests: Sequence[str], old: Baseline, profile: Profile, tolerance: float
) -> Comparison:
    """A model that ran, and the numbers of an earlier one."""
    stale = baselines.staleness(old, evidence)
    ours = jackknife_of(side)
    theirs = old.jackknife()
    statistics = old.evidence.statistics
    same_width = ours.n_features == theirs.n_features
    if statistics.statistic_version != evidence.statistics.statistic_version:
        theirs = replace(theirs, n_features=0)  # other definitions: as with other widths there is no ratio
    same_images = old.evidence.images.digest == evidence.images.digest
    paired = same_images and np.array_equal(ours.sizes, theirs.sizes)
    if not stale and not paired:
        stale = ("the baseline has other images among its usable ones",)
    same_rows = paired and tuple(digests) == old.images
    if not stale and not same_rows:
        stale = ("the baseline took the same images in another order (--seed, or their names)",)
    features: FeatureFates = ()
    if same_width:
        values = old.rows if same_rows else None
        features = follow_features(side, None, statistics, tolerance, old.frequencies, values)
    alike = None
    if same_rows:
        alike = similarity_of(cosines(side.scaled_rows[:COSINE_IMAGES]), old.cosine_matrix)
    return Comparison(
        Compared.of(old.evidence, profile),
        statistics=changes(ours, theirs, required_by(profile), profile.alpha, tolerance, paired=paired),
        features=features,
        stale=stale,
        paired=paired,
        is_baseline=True,
        similarity=alike,
    )


def _report(
    candidate: Compared,
    comparison: Comparison,
    profile: Profile,
    tolerance: float,
    baseline: str,
    when: Time,
    **added: Any,
) -> CompareReport:
    numbers = dict(vars(comparison))
    del numbers["stale"], numbers["is_baseline"]
    statistics = candidate.evidence.statistics
    report = CompareReport(
        tool_version=VERSION,
        verdict=judge_pair(candidate, comparison, tolerance, profile),
        tolerance=tolerance,
        baseline=baseline,
        n_images=statistics.n_images,
        candidate=candidate,
        alpha=profile.alpha,
        new_features=new_features(statistics, comparison.features),
        notes=_notes(candidate, comparison.reference, profile, is_baseline=baseline != ""),
        profile=profile,
        claim=CLAIM,
        time=when,
        **numbers,
        **added,
    )
    return report.gated()


BASELINE_NOTE = "A baseline holds no predicted classes: whether both models predict the same ones was not compared."


def _notes(candidate: Compared, reference: Compared, profile: Profile, *, is_baseline: bool) -> Texts:
    """Return the notes on both models, each once."""
    notes = []
    if is_baseline:
        notes.append(BASELINE_NOTE)
    if candidate.evidence.model.digest == reference.evidence.model.digest:
        notes.append("Candidate and reference are the same file, byte for byte.")
    if fields := baselines.changed_preprocessing(candidate.evidence, reference.evidence):
        notes.append(f"Candidate and reference preprocess differently ({fields}), each as its file says.")
    notes += _other_cpu_note(candidate.evidence.execution, reference.evidence.execution)
    ours = notes_of(candidate.evidence, profile)
    theirs = notes_of(reference.evidence, profile)
    notes += [note for note in ours if note in theirs]
    notes += [f"Of the candidate: {note}" for note in ours if note not in theirs]
    notes += [f"Of the reference: {note}" for note in theirs if note not in ours]
    return tuple(notes)


def _other_cpu_note(candidate: Execution, reference: Execution) -> list[str]:
    """Note that int8 sums saturated in one of two runs of int8 files alone."""
    if candidate.int8_sums is None or reference.int8_sums is None or candidate.saturates == reference.saturates:
        return []
    return [
        f"int8 sums {candidate.sums_words} on the CPU of the candidate and {reference.sums_words} on that of the "
        "reference: one file can give different vectors on the two."
    ]
