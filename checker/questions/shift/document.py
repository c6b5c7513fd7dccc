"""The record of accuracies under shift, its document, and its entry of a suite file. Pure."""

from __future__ import annotations  # help() names the types as the package does

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ....thresholds.published import IMAGENET, SHIFT_WORDS
from ....thresholds.records import Frozen, ReprArgs
from ...core.evidence import Execution, Preprocessing
from ...errors import CannotAssessError
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
from ...text import Texts, name_text, percent_text
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
