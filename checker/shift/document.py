"""Make the document of accuracies under shift. The entry of a suite file is here, too."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.report.document import (
    Block,
    Cell,
    Document,
    Facts,
    Section,
    Style,
    Table,
    Words,
    measured,
    name,
)
from robustcheck_onnx.checker.text import name_text, percent_text
from robustcheck_onnx.thresholds.published import IMAGENET, SHIFT_WORDS

from .records import (
    NAMES,
    Outcome,
    Predicted,
    SetResult,
    ShiftReport,
    bounds_text,
    predicted_words,
)
from .robustness import WORDS, not_comparable

_STYLES: dict[Outcome, Style] = {"agree": "pass", "disagree": "fail"}


def document_of(report: ShiftReport) -> Document:
    """Return the document of accuracies under shift."""
    model, inside, verdict, agreement = report.model, report.in_distribution, report.verdict, report.agreement
    results = (inside, *(each.result for each in report.shifted))
    reasons = f"{', '.join(verdict.reasons)}; " if verdict.reasons else ""
    agrees = Facts(
        (
            (
                Cell(verdict.verdict, "pass" if verdict.verdict == "PASS" else "warn"),
                f"{reasons}{verdict.origin}, {verdict.n_images} images, tensor {verdict.tensor}",
            ),
            (Cell(agreement.outcome, _STYLES.get(agreement.outcome, "bold")), agreement.sentence),
        )
    )
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
                (_accuracies(report), Facts(tuple((name(sets), how) for how, sets in labels.items()), "labels are")),
                "short",
            ),
            *_effective(report),
            *(_predictions(report.predicted, inside) if report.predicted else []),
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
                (f"Top-1 on {each.name}", percent_text(each.accuracy.value), bounds_text(each.accuracy))
                for each in results
            ),
        ),
        notes_in_short=True,
    )


def _answer(report: ShiftReport) -> str:
    """Write each accuracy, measured or predicted, in one line."""
    inside = report.in_distribution
    parts = [f"{percent_text(inside.accuracy.value)} on {inside.name}"]
    for each in report.shifted:
        accuracy, points = each.result.accuracy.value, 100 * each.difference.value
        parts.append(f"{percent_text(accuracy)} on {each.result.name} ({points:+.1f} points)")
    for target in report.predicted.targets if report.predicted else ():
        parts.append(f"predicted on {target.name}: {predicted_words(target)}")
    return f"Accuracy: {', '.join(parts)}."


def _line(report: ShiftReport) -> str:
    """Return the agreement with the verdict in one line."""
    file = name_text(report.model.file, ascii_only=False)
    predicted = "".join(
        f"; predicted accuracy on {name_text(each.name, ascii_only=False)}: {predicted_words(each)}"
        for each in (report.predicted.targets if report.predicted else ())
    )
    return f"{report.verdict.verdict} {file}: {report.agreement.outcome}: {report.agreement.sentence}{predicted}"


def suite_entry(report: ShiftReport, folder: Path) -> str:
    """Return the model's entry of a suite file, as TOML.

    It has the accuracies; paths are relative to `folder` (docs/calibration.md).

    Raises CannotAssessError when there are no accuracies that effective robustness could follow from.
    """
    if len(report.accuracies) < 2 or IMAGENET not in report.accuracies:
        results = (report.in_distribution, *(each.result for each in report.shifted))
        why = "; ".join(filter(None, map(not_comparable, results)))
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
    for each in report.shifted:
        gap = each.difference
        difference = f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        rows.append((*_row(each.result), Cell(difference)))
    return Table(("set", ">images", ">classes", ">top-1", "=interval", "=difference, points"), tuple(rows))


def _row(result: SetResult) -> tuple[Words, ...]:
    acc = result.accuracy
    shift = "" if result.shift is None else f" ({WORDS[result.shift]})"
    return (
        *(name(result.name + shift), str(acc.n), f"{result.n_labels} of {result.n_compete}"),
        *(Cell(percent_text(acc.value), "bold"), bounds_text(acc)),
    )


def _effective(report: ShiftReport) -> list[Section]:
    rows = tuple(
        (
            *(SHIFT_WORDS[each.result.shift or ""], Cell(f"{beyond.points:+.1f}", "bold")),
            *(f"{beyond.low:+.1f} – {beyond.high:+.1f}", percent_text(beyond.expected)),
            beyond.baseline + ("; extrapolated" if beyond.extrapolated else ""),
        )
        for each in report.shifted
        if (beyond := each.effective_robustness) is not None
    )
    without = [(each.not_applicable, each.result.name) for each in report.shifted if each.not_applicable]
    why = tuple((name(names), text) for text, names in sorted(_joined(without).items()))
    table = Table(("shift", ">points", "=interval", ">expected", "beyond the line of"), rows)
    title, remark = "Effective robustness", "accuracy beyond the baseline, percentage points"
    return [
        *([Section(title, remark, (table,), "short")] if rows else []),
        *([Section(f"{title} is not applicable", "", (Facts(why),), "short")] if why else []),
    ]


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join the second texts of pairs with one first text."""
    texts: dict[str, list[str]] = {}
    for key, text in pairs:
        texts.setdefault(key, []).append(text)
    return {key: ", ".join(each) for key, each in texts.items()}


def _predictions(predicted: Predicted, inner: SetResult) -> list[Section]:
    rows: list[tuple[Words, ...]] = []
    missing: list[str] = []
    for target in predicted.targets:
        first: tuple[Words, ...] = (name(target.name), str(target.n_images))
        for each in target.estimates:
            numbers = ("–", "not established", "")
            if each.accuracy is not None:
                points = f"{-(each.drop_points or 0):+.1f}"
                numbers = (percent_text(each.accuracy), bounds_text(each) or "none", points)
            rows.append((*first, NAMES[each.method], Cell(numbers[0], "bold"), *numbers[1:]))
        if (found := target.measured) is not None:
            points = f"{100 * (found.value - inner.accuracy.value):+.1f}"
            rows.append(
                (*first, Cell("measured", "dim"), Cell(percent_text(found.value), "bold"), bounds_text(found), points)
            )
        unknown = _joined(
            (each.not_established, NAMES[each.method]) for each in target.estimates if each.not_established
        )
        missing += [f"{target.name}: {methods} not established: {why}." for why, methods in unknown.items()]
    assumes = {NAMES[each.method]: each.assumes for target in predicted.targets for each in target.estimates}
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
