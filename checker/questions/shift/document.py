"""The record of accuracies under shift, its document, and its entry of a suite file. Pure."""

from __future__ import annotations  # help() names the types as the package does

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ....thresholds.published import IMAGENET, SHIFT_WORDS
from ....thresholds.records import Frozen, ReprArgs
from ...core.evidence import Execution
from ...core.preprocessing import Preprocessing
from ...errors import CannotAssessError
from ...report.document import (
    Block,
    Cell,
    Column,
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
from ...text import Texts, name_text, percent_text, range_text
from . import robustness
from .predicted import NAMES, Predicted, Target, bounds_text
from .robustness import WORDS, ComparedVerdict, Outcome, SetResult, Shifted, VerdictAgreement

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
        accuracies = {result.name: round(result.accuracy.value, 4) for result in _results(self)}
        shown: ReprArgs = [
            ("model", self.model.file),
            ("verdict", self.verdict.verdict),
            ("agreement", self.agreement.outcome),
            ("accuracies", accuracies),
        ]
        if self.predicted is not None:
            predicted = {target.name: predicted_words(target) for target in self.predicted.targets}
            shown.append(("predicted", predicted))
        return shown


def _results(report: ShiftReport) -> list[SetResult]:
    """Return the results of all labelled sets, the in-distribution one first."""
    return [report.in_distribution, *(shifted.result for shifted in report.shifted)]


@document_of.register(ShiftReport)
def document_of_shift(report: ShiftReport) -> Document:
    """Return the document of accuracies under shift."""
    model = report.model
    inside = report.in_distribution
    verdict = report.verdict
    agreement = report.agreement
    results = _results(report)
    basis = f"{verdict.origin}, {verdict.n_images} images, tensor {verdict.tensor}"
    if verdict.reasons:
        basis = f"{', '.join(verdict.reasons)}; {basis}"
    style: Style = "pass" if verdict.verdict == "PASS" else "warn"
    judged = Cell(verdict.verdict, style)
    outcome = Cell(agreement.outcome, _STYLES.get(agreement.outcome, "bold"))
    agrees = Facts(((judged, basis), (outcome, agreement.sentence)))
    facts = [("Scores", model.class_output), ("Classes", model.n_classes)]
    run = [("Digest of the model", model.digest), ("Seed", report.seed)]
    tiles: list[tuple[str, object, str]] = [("Verdict", verdict.verdict, agreement.outcome)]
    for result in results:
        run.append((f"Digest of {result.name}", result.digest))
        tiles.append((f"Top-1 on {result.name}", percent_text(result.accuracy.value), bounds_text(result.accuracy)))
    labels = _joined((result.labels, result.name) for result in results)
    meanings = tuple((name(some), how) for how, some in labels.items())
    intervals = f"top-1 with {100 * report.confidence:.0f} % intervals (Wilson; difference: Newcombe)"
    return Document(
        question="shift",
        title="Accuracy under distribution shift",
        subject="accuracy on shifted images, next to the verdict",
        model=model,
        facts=(f"{model.n_classes} classes", name(f"output {model.class_output}")),
        summary=_answer(report),
        sections=(
            Section("Accuracy", intervals, (_accuracies(report), Facts(meanings, "labels are")), "short"),
            *_effective(report),
            *_predictions(report.predicted, inside),
            Section("Agreement with the verdict", "", (agrees,), "short"),
            measured(report, facts, run, report.preprocessing_source),
        ),
        notes=report.notes,
        limits=report.claim,
        version=report.tool_version,
        line=_line(report),
        tiles=tuple(tiles),
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
    agreement = report.agreement
    file = name_text(report.model.file, ascii_only=False)
    line = f"{report.verdict.verdict} {file}: {agreement.outcome}: {agreement.sentence}"
    for target in _targets(report):
        line += f"; predicted accuracy on {name_text(target.name, ascii_only=False)}: {predicted_words(target)}"
    return line


def suite_entry(report: ShiftReport, folder: Path) -> str:
    """Return the model's entry of a suite file with its accuracies, as TOML (docs/calibration.md).

    Paths are relative to `folder`.

    Raises CannotAssessError when there are no accuracies that effective robustness could follow from.
    """
    if len(report.accuracies) < 2 or IMAGENET not in report.accuracies:
        why = "; ".join(filter(None, map(robustness.not_comparable, _results(report))))
        raise CannotAssessError(
            f"suite entry has accuracies on {len(report.accuracies)} sets; ImageNet and at least one named shift are "
            f"needed, whole and precise ({why})",
            "--in imagenet=FOLDER --shifted v2=FOLDER",
        )
    model = os.path.relpath(report.model.file, folder)
    model = model.replace(os.sep, "/")
    accuracies = [f"{name} = {value:.6f}" for name, value in report.accuracies.items()]
    values = ", ".join(accuracies)
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
    return Table(
        (
            Column("set"),
            Column("images", right=True),
            Column("classes", right=True),
            Column("top-1", right=True),
            Column("interval", no_wrap=True),
            Column("difference, points", no_wrap=True),
        ),
        tuple(rows),
    )


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
    rows = []
    without = []
    for shifted in report.shifted:
        beyond = shifted.effective_robustness
        if beyond is None:
            without.append((shifted.not_applicable, shifted.result.name))
            continue
        baseline = beyond.baseline
        if beyond.extrapolated:
            baseline += "; extrapolated"
        interval = f"{beyond.low:+.1f} – {beyond.high:+.1f}"
        points = Cell(f"{beyond.points:+.1f}", "bold")
        shift = SHIFT_WORDS[shifted.result.shift or ""]
        rows.append((shift, points, interval, percent_text(beyond.expected), baseline))
    why = tuple((name(names), text) for text, names in sorted(_joined(without).items()))
    table = Table(
        (
            Column("shift"),
            Column("points", right=True),
            Column("interval", no_wrap=True),
            Column("expected", right=True),
            Column("beyond the line of"),
        ),
        tuple(rows),
    )
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
    accuracy = inner.accuracy
    rows: list[TableRow] = []
    missing = []
    assumes = {}
    for target in predicted.targets:
        first: TableRow = (name(target.name), str(target.n_images))
        unknown = []
        for estimate in target.estimates:
            method = NAMES[estimate.method]
            assumes[method] = estimate.assumes
            top = "–"
            interval = "not established"
            points = ""
            if estimate.accuracy is None:
                unknown.append((estimate.not_established, method))
            else:
                top = percent_text(estimate.accuracy)
                interval = bounds_text(estimate) or "none"
                points = f"{-(estimate.drop_points or 0):+.1f}"
            rows.append((*first, method, Cell(top, "bold"), interval, points))
        if target.measured is not None:
            points = f"{100 * (target.measured.value - accuracy.value):+.1f}"
            measured_top = Cell(percent_text(target.measured.value), "bold")
            rows.append((*first, Cell("measured", "dim"), measured_top, bounds_text(target.measured), points))
        for why, methods in _joined(unknown).items():
            missing.append(Cell(f"{target.name}: {methods} not established: {why}."))
    start = (
        f"starts from {percent_text(accuracy.value)} on {accuracy.n} labelled images of {inner.name}, "
        f"{inner.n_labels} of {inner.n_compete} classes"
    )
    table = Table(
        (
            Column("target"),
            Column("images", right=True),
            Column("method", no_wrap=True),
            Column("top-1", right=True),
            Column("interval", no_wrap=True),
            Column("points", right=True),
        ),
        tuple(rows),
        start,
    )
    conditions = Facts(tuple(assumes.items()), "each number is right only if")
    blocks: list[Block] = [predicted.claim, predicted.seen, table, *missing, conditions]
    return [Section("Predicted accuracy, without labels", "intervals of resampling", tuple(blocks), "short")]


def predicted_words(target: Target) -> str:
    """Return the range of a target's predicted accuracies over the methods, or that there is none."""
    values = [e.accuracy for e in target.estimates if e.accuracy is not None]
    if not values:
        return "not established"
    low = percent_text(min(values))
    high = percent_text(max(values))
    return range_text(low, high)
