"""Answer whether the vectors in a file are those of a model. There is no reference model.

The report, its document and the verdict are made here; `trials.py` tries other preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Literal, NoReturn

from ....thresholds.profile import Profile
from ....thresholds.records import ReprArgs
from ...arrays import Array, float64
from ...core.evidence import Evidence, Execution, ImageFacts, PreprocessingFacts
from ...core.measure.reference import ReferenceOutput
from ...core.verdict.gate import Gate
from ...core.verdict.index_reasons import INDEX_REASONS
from ...core.verdict.notes import notes_of
from ...core.verdict.rule import NoTruth
from ...errors import UsageError
from ...report.document import Document, Facts, Section, document_of, facts_of_run, measured
from ...report.preprocessing import preprocessing_text
from ...report.record import ModelRead, Time
from ...report.shown import Shown
from ...report.words import STOPPED
from ...text import VERSION, Texts, count_text, number_text
from . import holds
from .baseline import WithNextBaseline
from .document import judged, step_after
from .ids import match_ids
from .index import (
    FEWEST_IMAGES,
    UNSOUND,
    because_too_few,
    because_unsound,
    compare_vectors,
    explain,
    on_another_machine,
    tested,
)
from .index_report import OTHER_VECTORS, SIGNS, IndexOptions, IndexReason, IndexReport, IndexVerdict
from .machine import loss_of
from .neighbours import quantile, search
from .pairs import Compared
from .similarity import cosine
from .vectors import VectorFile, VectorsByPhoto

FEWEST_MATCHED = 35  # photos from which the lower bound of the share can reach `holds.SAME_SHARE`
OWN = "index: own vector"
THERE = "index: vector is there"
MEDIAN = "index: cosine by id, median"
STEPS = {
    "other_index": "Find the file that made these vectors, or embed the photos again with this one.",
    "changed_index": "Give the vectors as they were before that, or embed the photos again with this file.",
    "untested_index": f"Give {FEWEST_IMAGES} or more photos whose file names are ids of the vectors.",
}
"""next steps that differ from those of a comparison with a reference"""
ANSWERS = {
    "compatible": "The vectors agree with those of this file",
    "re-embed": "The vectors are not those of this file",
    "undecided": "It cannot be told whether the vectors are those of this file",
}
LIMITS = (
    "The answer is about the photos whose vectors were found, and about this machine's arithmetic. Outlier features "
    "were not judged: `robustcheck check` does."
)
AS_ASSUMED = "No option and no file gives the preprocessing; the vectors are those of the assumed one."


class VectorsReport(Shown, NoTruth, WithNextBaseline):
    """Whether the vectors in a file are those of a model. No other model was run."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["vectors"] = "vectors"
    tool_version: str = VERSION
    gate: Gate
    model: ModelRead
    index: IndexReport
    """compatible: they are; re-embed: they are not; undecided: it cannot be told"""
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    notes: Texts
    time: Time | None

    @property
    def exit_code(self) -> Literal[0, 1]:
        """Return 0 if the vectors are those of the model, else 1."""
        return 0 if self.index.is_compatible else 1

    @property
    def passed(self) -> NoReturn:
        """Raise UsageError. Outlier features were not judged, so this is neither PASS nor WARN."""
        raise UsageError(
            f"{self.model.file}: its outlier features were not judged, so there is no PASS", "report.index.verdict"
        )

    @property
    def answer(self) -> str:
        """Return in one sentence the answer with its reason, or with what was measured."""
        index = self.index
        start = ANSWERS[index.verdict]
        reason = index.reason
        if reason is not None:
            return f"{start}: {reason.seen}."
        numbers = index.numbers
        n = index.n_images
        if index.tested == "by vectors":
            n_there = round((numbers[THERE].estimate or 0) * n)
            ids = "and none of its ids is clearly a photo's"
            if index.n_ids == 0:
                ids = "which has no ids"
            if index.n_repeated:
                ids = f"and several vectors have the id of each of {index.n_repeated} photos"
            return f"{start}: {n_there} of {n} photos have their vector in the index, {ids}."
        n_matched = sum(index.ids.values())
        n_own = round((numbers[OWN].estimate or 0) * n_matched)
        cosines = number_text(numbers[MEDIAN].estimate, 5)
        return (
            f"{start}: {n_own} of {n_matched} photos have their own vector under their id (cosine {cosines}, median)."
        )

    def __repr_args__(self) -> ReprArgs:
        """Show one line in repr, str and rich."""
        return [("verdict", self.index.verdict), ("model", self.model.file), ("vectors", self.index.n_vectors)]


def report_of(model: Compared, index: IndexReport, profile: Profile, when: Time) -> VectorsReport:
    """Return the report on one model.

    Args:
        model: what was measured; of its verdict those reasons count for which its vectors can't be relied on.
        index: from `judge_stored`.
        profile: what the model was judged by.
        when: it ran.
    """
    evidence = model.evidence
    doubts = [reason.id for reason in model.verdict.reasons]
    index = _with_doubts(index, evidence, doubts)
    notes = list(notes_of(evidence, profile))
    if index.is_compatible and evidence.preprocessing.source == "assumed":
        notes.insert(0, AS_ASSUMED)
    facts = evidence.model
    return VectorsReport(
        gate=Gate(
            exit_code=0 if index.is_compatible else 1, fail_on="warn", rule=f"the index verdict is {index.verdict}"
        ),
        model=ModelRead(
            file=facts.file, digest=facts.digest, source=facts.source, tensor=facts.tensor, pool=facts.pool
        ),
        index=index,
        preprocessing=evidence.preprocessing,
        images=evidence.images,
        execution=evidence.execution,
        notes=tuple(notes),
        time=when,
    )


def judge_stored(
    ours: Array,
    names: Sequence[str],
    file: VectorFile,
    options: IndexOptions,
    try_others: Callable[[VectorsByPhoto], str],
    exact: ReferenceOutput | None = None,
) -> IndexReport:
    """Judge whether the vectors in a file are the model's.

    Args:
        ours: (photo, feature) the model's vectors.
        names: of the photos.
        file: the vectors.
        options: of the index verdict; the metric says whether lengths count.
        try_others: names another preprocessing that gives the stored vectors by photo; empty if none
            does.
        exact: the model's run by reference arithmetic, where there was one.
    """
    report = IndexReport(options=options, n_images=len(names), n_vectors=file.n)
    if file.width != ours.shape[1]:
        return _of_another_width(report, file, ours.shape[1])
    matches = match_ids(names, file.ids())
    found = search([ours], file.blocks(), "cosine", matches.rows)
    report = report.model_copy(update={"ids": dict(matches.ways), **matches.counts, "n_vectors": found.n_vectors})
    report = tested(report, ours, found)
    if found.own:
        report = _by_ids(report, ours, found.own, try_others)
    else:
        report = _about_this_file(report, "undecided")
    own: VectorsByPhoto = found.own
    if report.is_compatible:
        rows = matches.rows
        if report.tested == "by vectors":
            nearest = found.ranked[0].numbers[:, 0].tolist()
            rows = {row: photo for photo, row in enumerate(nearest)} | dict(rows)
            own = search([ours], file.blocks(), "cosine", rows).own
        report = _as_between_files(report, ours, own, file, rows)
    return _on_another_machine(report, exact, ours, own)


def _as_between_files(
    report: IndexReport, ours: Array, own: VectorsByPhoto, file: VectorFile, rows: Mapping[int, int]
) -> IndexReport:
    """Require what a comparison with the model that made the vectors requires.

    Args:
        report: `compatible` by the vectors that are there.
        ours: (photo, feature) the model's vectors.
        own: the vectors of the file by photo.
        file: all its vectors.
        rows: photo by the number of its vector.
    """
    photos = sorted(own)
    theirs = float64([own[photo] for photo in photos])
    options = report.options.model_copy(update={"metric": report.options.metric or "cosine"})
    ids = (str(rows.get(row, "")) for row in range(file.n))
    images = [(str(photo), "") for photo in photos]
    between = compare_vectors(ours[photos], theirs, images, options, None, file.blocks(), ids)
    deciding = {name: number for name, number in between.numbers.items() if number.needs is not None}
    report = report.model_copy(update={"numbers": deciding | report.numbers})
    for each in between.reasons:
        step = each.next_step if each.verdict == "undecided" else STEPS["other_index"]
        report = report.because(each.id, each.verdict, each.seen, step)
    return report


def _of_another_width(report: IndexReport, file: VectorFile, width: int) -> IndexReport:
    """Answer about vectors of another width. Raises UsageError where the file seems to be transposed."""
    if file.n == width:
        raise UsageError(
            f"{file.path}: vectors of {file.option} have {file.width} features; those of the model have {width}",
            file.transposed,
        )
    seen = f"they have {file.width} features, and those of this file {width}"
    return report.because("another_width", "re-embed", seen, STEPS["other_index"])


def _by_ids(
    report: IndexReport, ours: Array, own: VectorsByPhoto, try_others: Callable[[VectorsByPhoto], str]
) -> IndexReport:
    """Name what was done to the vectors of photos with an id, and judge that."""
    photos = sorted(own)
    stored = float64([own[photo] for photo in photos])
    of_model = ours[photos]
    cosines = cosine(stored, of_model)
    change, after = explain(stored, of_model, report.options.min_cosine)
    numbers = report.numbers | {MEDIAN: quantile(cosines, 0.5)}
    report = report.model_copy(update={"numbers": numbers})
    if change in CHANGES:
        report = report.model_copy(update={"change": change})
    first = report.reasons[0].id if report.reasons else ""
    upper = numbers[OWN].high
    is_other = first in OTHER_VECTORS and upper is not None and upper < holds.SAME_SHARE
    is_scaled = first == "index_lengths" and report.options.metric is not None
    verdict: IndexVerdict = "undecided"
    if len(photos) >= FEWEST_MATCHED and (is_other or is_scaled):
        verdict = "re-embed"
    if first not in ("other_index", "changed_index") or len(photos) < FEWEST_MATCHED:
        return _about_this_file(report, verdict)
    if change == "permuted":
        seen = f"the features are permuted; put in this file's order, the cosine is {number_text(after)} (worst 5 %)"
        return _because(report, "permuted", seen, "re-embed")
    is_own = holds.is_same(cosines, holds.spacing(ours)[photos])
    others = {photo: own[photo] for photo in compress(photos, ~is_own)}
    if way := try_others(others):
        seen = f"{len(others)} of {len(photos)} photos were preprocessed in another way: {way}"
        return _because(report, "other_preprocessing", seen, verdict)
    return _about_this_file(report, verdict)


def _on_another_machine(
    report: IndexReport, exact: ReferenceOutput | None, ours: Array, own: VectorsByPhoto
) -> IndexReport:
    """Make the verdict undecided where this machine's arithmetic makes the vectors differ.

    exact: the vectors of the first photos by reference arithmetic.
    """
    if exact is None or exact.rows is None:
        return report
    rows = exact.rows
    photos = [photo for photo in sorted(own) if photo < len(rows)]
    if not photos:
        return report
    stored = float64([own[photo] for photo in photos])
    loss = loss_of((ours[photos], stored), (rows[photos], None), "this machine", exact.run.words)
    if report.is_compatible:
        return on_another_machine(report, loss)
    if loss is None or not loss.is_of_machine:
        return report
    seen = loss.text.replace("the reference's", "those of the index")
    return _because(report, "runtime_differs", seen, "undecided")


def _about_this_file(report: IndexReport, verdict: IndexVerdict) -> IndexReport:
    """Write the reason about this file, where `tested` writes it about a reference."""
    if report.reason is None:
        return report
    seen = report.reason.seen.replace("the reference", "this file")
    return _because(report, report.reason.id, seen, verdict)


def _because(report: IndexReport, name: str, seen: str, verdict: IndexVerdict) -> IndexReport:
    """Return the report with this as its only reason."""
    _, usual_step = INDEX_REASONS[name]
    step = STEPS.get(name) or usual_step or STEPS["other_index"]
    reason = IndexReason(id=name, verdict=verdict, seen=seen, next_step=step)
    return report.model_copy(update={"verdict": verdict, "reasons": (reason,)})


def _with_doubts(report: IndexReport, evidence: Evidence, reasons: Sequence[str]) -> IndexReport:
    """Make the verdict undecided where the model's own vectors can't be relied on.

    Assumed preprocessing is such a doubt only for vectors that differ: those that are the same confirm it.
    """
    if unsound := UNSOUND.intersection(reasons):
        return because_unsound(report, unsound).model_copy(update={"verdict": "undecided"})
    n_varied = evidence.images.sanity.n_varied
    if report.is_compatible and n_varied < FEWEST_IMAGES:
        return because_too_few(report, n_varied)
    if evidence.preprocessing.source == "assumed" and report.verdict == "re-embed":
        seen = f"neither an option nor a file gives the preprocessing of {evidence.model.file}"
        if report.reason:
            seen += f", and {report.reason.seen}"
        return report.because("assumed_preprocessing", "undecided", seen)
    return report


@document_of.register(VectorsReport)
def document_of_vectors(report: VectorsReport) -> Document:
    """Return the document of a report."""
    index = report.index
    sign = SIGNS[index.verdict]
    heading = f"{sign} index {index.verdict}"
    line = f"{sign} {report.model.file}: {report.answer}"
    if index.reason:
        line += f" {index.reason.next_step}"
    if report.exit_code:
        heading += f" · {STOPPED}"
        line += f" · {STOPPED}"
    rows = Facts(tuple(_rows(index)))
    what = measured(
        report,
        (("File", report.model.file), ("Digest", report.model.digest), ("Tensor", report.model.tensor)),
        (("Images", report.images.source), ("Digest of the images", report.images.digest)),
        preprocessing_text(report.preprocessing.preprocessing),
    )
    return Document(
        question="compare",
        title="Vectors",
        subject="are the vectors in a file those of this model?",
        model=report.model,
        facts=facts_of_run(report, count_text(index.n_images, "photo"), f"{index.n_vectors:,} vectors"),
        summary=report.answer,
        sections=(Section("Index of vectors", str(index.options.file), (rows,), "short"), what),
        notes=report.notes,
        limits=LIMITS,
        version=report.tool_version,
        verdict=judged(heading, report.exit_code == 0, "fail"),
        exit_code=report.exit_code,
        rule=report.gate.rule,
        step=step_after(index.reason),
        remark="No other model was run, and outlier features were not judged.",
        line=f"{line} · exit code {report.exit_code}: {report.gate.rule}",
    )


def _rows(index: IndexReport) -> Iterator[tuple[str, str]]:
    """Yield label and text of each line. What is about a reference, or in the answer, is left out."""
    for reason in index.reasons:
        if reason != index.reason:
            yield reason.verdict, f"{reason.seen}. {reason.next_step}"
    if index.change != "none":
        yield "difference", CHANGES[index.change]
    for label, text in index.model_copy(update={"reasons": ()}).rows():
        if label not in ("made by", "run by"):
            yield label, text
    if index.is_compatible:
        yield "tested", index.tested or ""


CHANGES = {
    "normalised": "the vectors in the index have one length, and those of this file have not",
    "not normalised": "the vectors of this file have one length, and those in the index have not",
}
