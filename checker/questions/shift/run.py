"""Measure accuracy under a distribution shift. The user's labelled images are measured next to the verdict.

One loop runs the model. Silent; progress goes to a callback. The report, its notes and its document are here, too.
"""

from __future__ import annotations  # help() names the types as the package does

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Unpack

from ....thresholds.published import IMAGENET, SHIFT_WORDS
from ....thresholds.records import Frozen, ReprArgs
from ...core.evidence import Execution
from ...core.measure.opening import Inputs, open_runner, question_notes
from ...core.model.open import ModelFile
from ...core.options import RunOptions
from ...core.preprocessing import Preprocessing
from ...core.progress import Progress, Tell, tell_stage
from ...core.statistics.intervals import CONFIDENCE
from ...core.verdict.notes import execution_notes, skipped_note
from ...errors import CannotAssessError, UsageError
from ...outside.isolation import NO_LIMITS, Limits
from ...outside.storage.places import as_typed, local_path
from ...report.check import Report, read_one
from ...report.document import (
    Block,
    Cell,
    Document,
    Facts,
    Section,
    Style,
    Table,
    TableRow,
    document_of,
    measured,
    name,
)
from ...report.record import Time
from ...report.shown import Shown
from ...text import VERSION, Fields, Texts, name_text, percent_text
from .. import check as pipeline
from ..call import QuestionRun
from . import robustness, sets
from .predicted import COSINES, NAMES, Collector, Predicted, Target, bounds_text, predict_targets
from .robustness import IMAGES, LABEL_SET, WORDS, ComparedVerdict, Outcome, SetResult, Shifted, VerdictAgreement, agree

Several = str | Path | Sequence[str | Path]
_STYLES: dict[Outcome, Style] = {"agree": "pass", "disagree": "fail"}


class ModelUsed(Frozen):
    """The model whose class scores were read."""

    file: str
    digest: str
    source: str
    class_output: str
    n_classes: int
    random_weights: bool | None
    synthetic: str


class ShiftReport(Shown, Frozen):
    """Everything that `robustcheck shift` measured."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["shift"] = "shift"
    tool_version: str
    model: ModelUsed
    confidence: float
    in_distribution: SetResult
    shifted: tuple[Shifted, ...]
    accuracies: dict[str, float]
    """of the sets that are whole and precise enough for effective robustness; keys of a suite entry, fractions"""
    predicted: Predicted | None = None
    """accuracy predicted without labels; None where no target set was given"""
    baseline: str
    verdict: ComparedVerdict
    agreement: VerdictAgreement
    preprocessing: Preprocessing
    preprocessing_source: str
    execution: Execution
    seed: int
    notes: Texts
    claim: str
    time: Time | None

    def __repr_args__(self) -> ReprArgs:
        """Show one line in repr, str and rich."""
        results = (self.in_distribution, *(s.result for s in self.shifted))
        shown: ReprArgs = [
            ("model", self.model.file),
            ("verdict", self.verdict.verdict),
            ("agreement", self.agreement.outcome),
            ("accuracies", {s.name: round(s.accuracy.value, 4) for s in results}),
        ]
        if self.predicted is not None:
            shown.append(("predicted", {t.name: predicted_words(t) for t in self.predicted.targets}))
        return shown


def measure_shift(
    model: str | Path,
    images: str | Path,
    shifted: Several = (),
    *,
    target: Several = (),
    classes: Sequence[str] = (),
    baseline: str = "timm",
    report: str | Path | Report | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> ShiftReport:
    """Measure a classifier's top-1 accuracy on labelled shifted sets, and predict it on unlabelled ones.

    Args:
        model: ONNX file with class scores.
        images: the labelled in-distribution set, `[NAME=]PATH`: a folder of class folders, or a manifest with labels.
        shifted: one labelled shifted set, or several, written in the same way.
        target: one unlabelled image set of any kind, or several, `[NAME=]PATH`; labels that one has are not read.
            Accuracy on it is predicted from the scores on it and on `images`.
        classes: which score belongs to which label, `[NAME=]MAP`, as `robustcheck shift --classes` takes them.
        baseline: timm or testbed: the models whose accuracies the shifted accuracy is compared with.
        report: of an earlier check of this model, or its JSON file; None = the check runs on `images`.
        isolate: as in `check`; one child reads the model and all sets.
        limits: as in `check`.
        progress: as in `check`.
        options: as in `check`; max_images is of each set.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: see each class; nothing is measured half.
    """
    several = _texts(shifted)
    unlabelled = _texts(target)
    named = sets.parse_call(str(images), several, classes, unlabelled)
    run = QuestionRun.begin(as_typed(named.inside.place), options, progress)
    path = local_path(model, "model")
    places = [as_typed(spec.place) for spec in (*named.shifted, *named.targets)]
    if child := run.child(measure_shift, model, limits, isolate, *places):
        asked: Fields = {"shifted": several, "target": unlabelled, "classes": classes, "baseline": baseline}
        settled = run.options.model_dump(exclude={"images"})
        return child(model, images, report=report, progress=progress, **asked, **settled)
    inputs = run.read(path)
    (opened,) = inputs.models
    judged = None if report is None else judged_before(report, opened.file.digest)
    sets.class_output(opened)  # refuses a model without one
    measured = _measure(named, inputs, baseline, progress)
    if judged is None:
        checked = pipeline.check(model, isolate=False, progress=progress, **run.options.keywords)
        judged = verdict_of(checked, "checked now on the images of --in")
    inside = measured.inside
    n_images = inside.accuracy.n + sum(other.result.accuracy.n for other in measured.shifted)
    if measured.predicted:
        n_images += sum(each.n_images for each in measured.predicted.targets)
    return ShiftReport(
        tool_version=VERSION,
        model=_model(opened, measured.n_classes),
        confidence=CONFIDENCE,
        in_distribution=inside,
        shifted=measured.shifted,
        accuracies=robustness.comparable_accuracies(inside, measured.shifted),
        predicted=measured.predicted,
        baseline=baseline,
        verdict=judged,
        agreement=agree(judged, inside, measured.shifted, baseline),
        preprocessing=inputs.preprocessing.preprocessing,
        preprocessing_source=inputs.preprocessing.source,
        execution=measured.execution,
        seed=run.options.seed,
        notes=notes_of(inside, measured.shifted, measured.predicted, inputs, measured.execution),
        claim=robustness.CLAIM,
        time=Time.until_now(run.clock, n_images),
    )


class SetsMeasured(NamedTuple):
    """What was measured of a call's image sets."""

    inside: SetResult
    shifted: tuple[Shifted, ...]
    predicted: Predicted | None
    n_classes: int
    execution: Execution


def _measure(named: sets.NamedSets, inputs: Inputs, baseline: str, progress: Tell | None) -> SetsMeasured:
    """Measure accuracy on the labelled sets, and predict it on the others."""
    sources = [inputs.source, *sets.open_sets(named.shifted, inputs)]
    targets = sets.open_sets(named.targets, inputs)
    labels = [sets.labels_of(source) for source in sources]
    tell_stage(progress, "loading the model")
    runner = open_runner(inputs)
    scores = sets.class_scores(runner, inputs.preprocessing.preprocessing)
    own, *rest = sets.with_labels((named.inside, *named.shifted), sources, labels, named.maps, scores)
    collected = Collector(runner, str(own.spec.place), own.map.compete)
    inner = sets.measure_labelled(runner, own, inputs, progress, collected.add if targets else None)
    labelled = [sets.measure_labelled(runner, image_set, inputs, progress) for image_set in rest]
    for other in labelled:
        if other.result.digest == inner.result.digest:
            raise UsageError(
                f"{other.result.source}: images are those of {inner.result.source}; a shifted set must have other "
                "images",
                "--in photos/ --shifted sketches/",
            )
    predicted = None
    if targets:
        unlabelled = zip(named.targets, targets, strict=True)
        to_predict = [sets.ImageSet(spec, source, (), own.map) for spec, source in unlabelled]
        results = [other.result for other in labelled]
        predicted = predict_targets(inputs, inner, collected, to_predict, results, progress)
    shifted = [
        robustness.compare_sets(inner.result, inner.digests, other.result, other.digests, baseline)
        for other in labelled
    ]
    return SetsMeasured(inner.result, tuple(shifted), predicted, scores.n_classes, runner.execution)


def _model(opened: ModelFile, n_classes: int) -> ModelUsed:
    source = opened.contract.source if opened.contract else None
    words = ""
    if source is not None:
        weights = "random weights" if source.random_weights else source.weights
        words = f"{source.library} {source.name} ({weights})"
    return ModelUsed(
        file=str(opened.path),
        digest=opened.file.digest,
        source=words,
        class_output=opened.class_output or "",
        n_classes=n_classes,
        random_weights=source.random_weights if source else None,
        synthetic=source.synthetic if source else "",
    )


def _texts(places: Several) -> list[str]:
    if isinstance(places, str | Path):
        return [str(places)]
    return [str(place) for place in places]


def judged_before(source: str | Path | Report, digest: str) -> ComparedVerdict:
    """Return the verdict of an earlier check from a report of the same model, or from its file.

    Raises as `report.read_one`, and UsageError for a report about a model with another digest.
    """
    where = "report"
    if isinstance(source, Report):
        report = source
    else:
        report = read_one(Path(source))
        where = f"report {source}"
    of_report = report.evidence.model.digest
    if of_report != digest:
        raise UsageError(
            f"{where}: model of the report has digest {of_report}; this model has {digest}, and they must be the same",
            "robustcheck model.onnx --images photos/ -o json=report.json",
        )
    return verdict_of(report, where)


def verdict_of(report: Report, where: str) -> ComparedVerdict:
    """Return the verdict of a check, with its basis. `where` says in words where the report comes from."""
    return ComparedVerdict(
        verdict=report.verdict.verdict,
        reasons=tuple(reason.id for reason in report.verdict.reasons),
        profile=f"{report.profile.id} {report.profile.digest}",
        n_images=report.evidence.statistics.n_images,
        tensor=report.evidence.model.tensor,
        origin=where,
    )


def notes_of(
    inner: SetResult, shifted: Sequence[Shifted], predicted: Predicted | None, inputs: Inputs, execution: Execution
) -> Texts:
    """Write what a reader must know next to the accuracies."""
    notes = question_notes(inputs) + execution_notes(execution)
    results = (inner, *(s.result for s in shifted))
    if any(result.label_set in LABEL_SET.values() and result.label_set != "file" for result in results):
        notes.append("The model's 1000 classes are taken to be in ImageNet-1k's order.")
    if len({result.n_compete for result in results}) > 1:
        notes.append(
            "The sets are measured with different numbers of classes; part of their difference comes from that."
        )
    for other in shifted:
        notes += _in_both(other.in_both, inner, other.result)
    for result in results:
        total = IMAGES.get(result.shift or "", result.n_available)
        if result.n_available != total:
            notes.append(
                f"{result.name} has {result.n_available} images; {WORDS[result.shift or '']} as published has {total}."
            )
        notes += read_notes(result)
    if predicted is not None:
        notes += predicted_notes(inner, predicted)
    return tuple(notes)


def _in_both(count: int, inner: SetResult, other: SetResult | Target) -> list[str]:
    return [f"{count} images are in both {inner.name} and {other.name}."] if count else []


def predicted_notes(inner: SetResult, predicted: Predicted) -> list[str]:
    """Return the notes on predicted accuracies."""
    notes = []
    if predicted.scores != "logits":
        notes.append(
            f"The class output holds {predicted.scores} ({predicted.scores_why}); confidences are taken as they are."
        )
    if predicted.scores_why == COSINES:
        notes.append(
            "The scores are cosines without a factor: their softmax is nearly flat, and DoC predicts hardly any change."
        )
    if inner.n_labels < inner.n_compete:
        notes.append(
            f"The labelled images of {inner.name} are of {inner.n_labels} of {inner.n_compete} classes; what is "
            "predicted holds for images of these classes only."
        )
    for target in predicted.targets:
        classes = target.classes
        notes += _in_both(target.in_both, inner, target)
        if classes.n_classes == 1:
            notes.append(f"All images of {target.name} are predicted to be of one class.")
        elif classes.are_shifted:
            notes.append(
                f"Other classes are predicted on {target.name} than on {inner.name} (total variation distance "
                f"{classes.distance:.2f}; {classes.expected_distance:.2f} by chance). Its classes may have other "
                "frequencies (label shift), which ATC and DoC take to be the same."
            )
        notes += read_notes(target)
    return notes


def read_notes(read: SetResult | Target) -> list[str]:
    """Note which images of a set were not measured."""
    notes = skipped_note(read.n_skipped, read.n_read, read.skipped, read.name)
    if read.n_read < read.n_available:
        notes.append(f"{read.name}: {read.n_read} of {read.n_available} images, drawn by seed.")
    return notes


@document_of.register(ShiftReport)
def document_of_shift(report: ShiftReport) -> Document:
    """Return the document of accuracies under shift."""
    model = report.model
    inside = report.in_distribution
    verdict = report.verdict
    agreement = report.agreement
    results = (inside, *(s.result for s in report.shifted))
    basis = f"{verdict.origin}, {verdict.n_images} images, tensor {verdict.tensor}"
    if verdict.reasons:
        basis = f"{', '.join(verdict.reasons)}; {basis}"
    style: Style = "pass" if verdict.verdict == "PASS" else "warn"
    outcome = Cell(agreement.outcome, _STYLES.get(agreement.outcome, "bold"))
    agrees = Facts(((Cell(verdict.verdict, style), basis), (outcome, agreement.sentence)))
    labels = _joined((result.labels, result.name) for result in results)
    facts = [("Scores", model.class_output), ("Classes", model.n_classes)]
    run = [("Digest of the model", model.digest), ("Seed", report.seed)]
    run += [(f"Digest of {result.name}", result.digest) for result in results]
    return Document(
        question="shift",
        title="Accuracy under distribution shift",
        subject="accuracy on shifted images, next to the verdict",
        model=model,
        facts=(f"{model.n_classes} classes", name(f"output {model.class_output}")),
        summary=_answer(report),
        sections=(
            Section(
                "Accuracy",
                f"top-1 with {100 * report.confidence:.0f} % intervals (Wilson; difference: Newcombe)",
                (_accuracies(report), Facts(tuple((name(some), how) for how, some in labels.items()), "labels are")),
                "short",
            ),
            *_effective(report),
            *_predictions(report.predicted, inside),
            Section("Agreement with the verdict", "", (agrees,), "short"),
            measured(report, facts, run, report.preprocessing_source),
        ),
        notes=report.notes,
        limits=report.claim,
        version=report.tool_version,
        line=_line(report),
        tiles=(
            ("Verdict", verdict.verdict, agreement.outcome),
            *(
                (f"Top-1 on {result.name}", percent_text(result.accuracy.value), bounds_text(result.accuracy))
                for result in results
            ),
        ),
        notes_in_short=True,
    )


def _targets(report: ShiftReport) -> tuple[Target, ...]:
    """Return the sets on which accuracy was predicted."""
    if report.predicted is None:
        return ()
    return report.predicted.targets


def _answer(report: ShiftReport) -> str:
    """Write each accuracy, measured or predicted, in one line."""
    inside = report.in_distribution
    parts = [f"{percent_text(inside.accuracy.value)} on {inside.name}"]
    for shifted in report.shifted:
        accuracy = shifted.result.accuracy.value
        points = 100 * shifted.difference.value
        parts.append(f"{percent_text(accuracy)} on {shifted.result.name} ({points:+.1f} points)")
    for target in _targets(report):
        parts.append(f"predicted on {target.name}: {predicted_words(target)}")
    return f"Accuracy: {', '.join(parts)}."


def _line(report: ShiftReport) -> str:
    """Return the agreement with the verdict in one line."""
    file = name_text(report.model.file, ascii_only=False)
    predicted = "".join(
        f"; predicted accuracy on {name_text(target.name, ascii_only=False)}: {predicted_words(target)}"
        for target in _targets(report)
    )
    return f"{report.verdict.verdict} {file}: {report.agreement.outcome}: {report.agreement.sentence}{predicted}"


def suite_entry(report: ShiftReport, folder: Path) -> str:
    """Return the model's entry of a suite file with its accuracies, as TOML (docs/calibration.md).

    Paths are relative to `folder`.

    Raises CannotAssessError when there are no accuracies that effective robustness could follow from.
    """
    if len(report.accuracies) < 2 or IMAGENET not in report.accuracies:
        results = (report.in_distribution, *(s.result for s in report.shifted))
        why = "; ".join(filter(None, map(robustness.not_comparable, results)))
        raise CannotAssessError(
            f"suite entry has accuracies on {len(report.accuracies)} sets; ImageNet and at least one named shift are "
            f"needed, whole and precise ({why})",
            "--in imagenet=FOLDER --shifted v2=FOLDER",
        )
    model = os.path.relpath(report.model.file, folder).replace(os.sep, "/")
    values = ", ".join(f"{name} = {value:.6f}" for name, value in report.accuracies.items())
    return (
        f"# accuracies measured by robustcheck {report.tool_version}; model {report.model.digest}\n"
        # a JSON string is a TOML string
        f'[[models]]\nmodel = {json.dumps(model)}\ngroup = "other"\naccuracies = {{ {values} }}\n'
    )


def _accuracies(report: ShiftReport) -> Table:
    rows = [(*_row(report.in_distribution), Cell("in-distribution", "dim"))]
    for shifted in report.shifted:
        gap = shifted.difference
        difference = f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        rows.append((*_row(shifted.result), Cell(difference)))
    return Table(("set", ">images", ">classes", ">top-1", "=interval", "=difference, points"), tuple(rows))


def _row(result: SetResult) -> TableRow:
    acc = result.accuracy
    shift = "" if result.shift is None else f" ({WORDS[result.shift]})"
    return (
        name(result.name + shift),
        str(acc.n),
        f"{result.n_labels} of {result.n_compete}",
        Cell(percent_text(acc.value), "bold"),
        bounds_text(acc),
    )


def _effective(report: ShiftReport) -> list[Section]:
    rows = tuple(
        (
            SHIFT_WORDS[shifted.result.shift or ""],
            Cell(f"{beyond.points:+.1f}", "bold"),
            f"{beyond.low:+.1f} – {beyond.high:+.1f}",
            percent_text(beyond.expected),
            beyond.baseline + ("; extrapolated" if beyond.extrapolated else ""),
        )
        for shifted in report.shifted
        if (beyond := shifted.effective_robustness) is not None
    )
    without = [(s.not_applicable, s.result.name) for s in report.shifted if s.not_applicable]
    why = tuple((name(names), text) for text, names in sorted(_joined(without).items()))
    table = Table(("shift", ">points", "=interval", ">expected", "beyond the line of"), rows)
    title = "Effective robustness"
    remark = "accuracy beyond the baseline, percentage points"
    sections = []
    if rows:
        sections.append(Section(title, remark, (table,), "short"))
    if why:
        sections.append(Section(f"{title} is not applicable", "", (Facts(why),), "short"))
    return sections


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join the second texts of pairs with one first text."""
    texts: dict[str, list[str]] = {}
    for key, text in pairs:
        texts.setdefault(key, []).append(text)
    return {key: ", ".join(parts) for key, parts in texts.items()}


def _predictions(predicted: Predicted | None, inner: SetResult) -> list[Section]:
    if predicted is None:
        return []
    rows: list[TableRow] = []
    missing: list[str] = []
    for target in predicted.targets:
        first: TableRow = (name(target.name), str(target.n_images))
        for estimate in target.estimates:
            numbers = ("–", "not established", "")
            if estimate.accuracy is not None:
                points = f"{-(estimate.drop_points or 0):+.1f}"
                numbers = (percent_text(estimate.accuracy), bounds_text(estimate) or "none", points)
            rows.append((*first, NAMES[estimate.method], Cell(numbers[0], "bold"), *numbers[1:]))
        if (acc := target.measured) is not None:
            points = f"{100 * (acc.value - inner.accuracy.value):+.1f}"
            rows.append(
                (*first, Cell("measured", "dim"), Cell(percent_text(acc.value), "bold"), bounds_text(acc), points)
            )
        unknown = _joined((e.not_established, NAMES[e.method]) for e in target.estimates if e.not_established)
        missing += [f"{target.name}: {methods} not established: {why}." for why, methods in unknown.items()]
    assumes = {NAMES[e.method]: e.assumes for target in predicted.targets for e in target.estimates}
    table = Table(
        ("target", ">images", "=method", ">top-1", "=interval", ">points"),
        tuple(rows),
        f"starts from {percent_text(inner.accuracy.value)} on {inner.accuracy.n} labelled images of {inner.name}, "
        f"{inner.n_labels} of {inner.n_compete} classes",
    )
    blocks: list[Block] = [predicted.claim, predicted.seen, table]
    blocks += map(Cell, missing)
    blocks += [Facts(tuple(assumes.items()), "each number is right only if")]
    return [Section("Predicted accuracy, without labels", "intervals of resampling", tuple(blocks), "short")]


def predicted_words(target: Target) -> str:
    """Return the range of a target's predicted accuracies over the methods, or that there is none."""
    values = [e.accuracy for e in target.estimates if e.accuracy is not None]
    if not values:
        return "not established"
    low = percent_text(min(values))
    high = percent_text(max(values))
    return low if low == high else f"{low} to {high}"
