"""Show accuracies, effective robustness and agreement. The entry of a suite file is written here, too."""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.report import (
    COLOURS,
    Pen,
    Trimmed,
    bullets,
    columns,
    labelled,
    line,
    noted,
    section,
    spaced,
)
from robustcheck_onnx.checker.text import name_text, percent_text
from robustcheck_onnx.thresholds.published import IMAGENET, SHIFT_WORDS

from .records import NAMES, Predicted, SetResult, Shifted, ShiftReport, Target, bounds_text, predicted_words
from .robustness import WORDS, not_comparable

_COLOURS = {"agree": "green", "disagree": "red"}


def render(report: ShiftReport, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Render the short report, or the whole.

    It fits the width of the console; the accuracies in a line are last.
    """
    pen = Pen(ascii_only)
    model = report.model
    blocks = [
        Group(
            line(pen.say("Accuracy under distribution shift", "bold"), pen.say("  "), pen.name(model.file)),
            pen.say(f"{model.source}, " if model.source else "", "dim")
            + pen.say(f"{model.n_classes} classes, output ", "dim")
            + pen.name(model.class_output, "dim"),
        ),
        _accuracies(pen, report),
        *([_effective(pen, report)] if any(each.effective_robustness for each in report.shifted) else []),
        *([_without(pen, report)] if any(each.not_applicable for each in report.shifted) else []),
        *([_predictions(pen, report.predicted, report.in_distribution)] if report.predicted else []),
        *noted(pen, report.notes),
        *([pen.prose(report.claim, "dim")] if verbose else []),
        _agreement(pen, report),
        pen.say(_answer(report), "bold"),
    ]
    return Trimmed(spaced(blocks))


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


def one_line(report: ShiftReport) -> str:
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


def _accuracies(pen: Pen, report: ShiftReport) -> RenderableType:
    table = columns(pen, "set", ">images", ">classes", ">top-1", "=interval", "=difference, points")
    inside = report.in_distribution
    table.add_row(*_row(pen, inside), pen.say("in-distribution", "dim"))
    for each in report.shifted:
        gap = each.difference
        difference = f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        table.add_row(*_row(pen, each.result), pen.say(difference))
    results = (inside, *(each.result for each in report.shifted))
    by_labels = groupby(results, key=lambda result: result.labels)
    labels = labelled(pen, ((", ".join(result.name for result in group), how) for how, group in by_labels))
    remark = f"top-1 with {100 * report.confidence:.0f} % intervals (Wilson; difference: Newcombe)"
    return section(pen, "Accuracy", remark, table, Text(), pen.say("labels are", "dim"), labels)


def _row(pen: Pen, result: SetResult) -> tuple[Text, ...]:
    acc = result.accuracy
    shift = "" if result.shift is None else f" ({WORDS[result.shift]})"
    return (
        pen.name(result.name) + pen.say(shift, "dim"),
        pen.say(str(acc.n)),
        pen.say(f"{result.n_labels} of {result.n_compete}"),
        pen.say(percent_text(acc.value), "bold"),
        pen.say(f"{100 * acc.low:.1f} – {100 * acc.high:.1f}"),
    )


def _effective(pen: Pen, report: ShiftReport) -> RenderableType:
    table = columns(pen, "shift", ">points", "=interval", ">expected", "beyond the line of")
    for each in report.shifted:
        beyond = each.effective_robustness
        if beyond is not None:
            mark = "; extrapolated" if beyond.extrapolated else ""
            table.add_row(
                pen.say(SHIFT_WORDS[each.result.shift or ""]),
                pen.say(f"{beyond.points:+.1f}", "bold"),
                pen.say(f"{beyond.low:+.1f} – {beyond.high:+.1f}"),
                pen.say(percent_text(beyond.expected)),
                pen.say(beyond.baseline + mark),
            )
    return section(pen, "Effective robustness", "accuracy beyond the baseline, percentage points", table)


def _without(pen: Pen, report: ShiftReport) -> RenderableType:
    without = sorted((each for each in report.shifted if each.not_applicable), key=_why)
    rows = ((", ".join(each.result.name for each in group), why) for why, group in groupby(without, key=_why))
    return section(pen, "Effective robustness is not applicable", "", labelled(pen, rows))


def _why(each: Shifted) -> str:
    return each.not_applicable


def _predictions(pen: Pen, predicted: Predicted, inner: SetResult) -> RenderableType:
    table = columns(pen, "target", ">images", "=method", ">top-1", "=interval", ">points")
    missing = []
    for target in predicted.targets:
        name, images = pen.name(target.name), str(target.n_images)
        for each in target.estimates:
            value, bounds, points = "–", "not established", ""
            if each.accuracy is not None:
                value, bounds = percent_text(each.accuracy), bounds_text(each) or "none"
                points = f"{-(each.drop_points or 0):+.1f}"
            table.add_row(
                name,
                pen.say(images),
                pen.say(NAMES[each.method]),
                pen.say(value, "bold"),
                pen.say(bounds),
                pen.say(points),
            )
            name, images = Text(), ""
        if target.measured is not None:
            found = target.measured
            table.add_row(
                Text(),
                Text(),
                pen.say("measured", "dim"),
                pen.say(percent_text(found.value), "bold"),
                pen.say(f"{100 * found.low:.1f} – {100 * found.high:.1f}"),
                pen.say(f"{100 * (found.value - inner.accuracy.value):+.1f}"),
            )
        missing += _missing(target)
    assumes = {NAMES[each.method]: each.assumes for target in predicted.targets for each in target.estimates}
    start = (
        f"starts from {percent_text(inner.accuracy.value)} on {inner.accuracy.n} labelled images of {inner.name}, "
        f"{inner.n_labels} of {inner.n_compete} classes"
    )
    body: list[RenderableType] = [
        pen.prose(predicted.claim),
        pen.prose(predicted.seen),
        Text(),
        table,
        pen.say(start, "dim"),
    ]
    if missing:
        body += [Text(), bullets(pen, missing)]
    body += [Text(), pen.say("each number is right only if", "dim"), labelled(pen, assumes.items())]
    return section(pen, "Predicted accuracy, without labels", "intervals of resampling", *body)


def _missing(target: Target) -> list[str]:
    """Why there is no number, once a reason."""
    reasons: dict[str, list[str]] = {}
    for each in target.estimates:
        if each.not_established:
            reasons.setdefault(each.not_established, []).append(NAMES[each.method])
    return [f"{target.name}: {', '.join(methods)} not established: {why}." for why, methods in reasons.items()]


def _agreement(pen: Pen, report: ShiftReport) -> RenderableType:
    verdict, agreement = report.verdict, report.agreement
    reasons = f": {', '.join(verdict.reasons)}" if verdict.reasons else ""
    return section(
        pen,
        "Agreement with the verdict",
        "",
        line(
            pen.say(verdict.verdict, f"bold {COLOURS[verdict.verdict]}"),
            pen.say(f"{reasons}; {verdict.origin}, {verdict.n_images} images, tensor {verdict.tensor}"),
        ),
        line(
            pen.say(agreement.outcome, f"bold {_COLOURS.get(agreement.outcome, '')}".strip()),
            pen.say(f": {agreement.sentence}"),
        ),
    )
