"""Lay out the report for people.

It has at most 16 lines at 80 columns, or all (`-v`); the verdict is the last line of both.

Pure: a report comes in, a rich renderable goes out; nothing is printed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.errors import COMMANDS
from robustcheck_onnx.checker.text import count_text, name_text, quoted
from robustcheck_onnx.checker.verdict.notes import BUNDLED_NOTE, HEAD_NOTE, ON_BUNDLED, fallback_note
from robustcheck_onnx.checker.verdict.rule import Reason

from . import terminal_whole, words
from .layout import Pen, Trimmed, columns, line, notes, spaced, verdict_line
from .outcome import exit_code_of, loosening_text, waiver_text
from .record import Report

LISTED = 6  # reasons that a short report names
PASSED_STEP = (
    "Check its accuracy, too; hold each later file against this one: "
    "`robustcheck compare NEW.onnx MODEL --images PHOTOS`"
)
WITHOUT_SCORES = "Measure it on its own task, or compare it with its original. To waive it: `robustcheck init`"
BUNDLED_STEP = "Check again on photos of the kind that your model will see: `robustcheck MODEL --images DIR`"


def render(report: Report, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Lay out the report for a terminal or file. It has the width of the console that prints it.

    Args:
        report: what to show.
        ascii_only: no character above 127, for output that is not Unicode.
        verbose: the whole report instead of the short one.

    Returns:
        Lines without trailing blanks, none wider than the console (60 columns or more); the last one is the verdict.
    """
    pen = Pen(ascii_only)
    blocks = terminal_whole.blocks(report, pen) if verbose else _short(report, pen)
    exit_code = None if report.gate is None else report.gate.exit_code
    last = verdict_line(pen, report.verdict, exit_code, passed_by(report))
    first = pen.say(f"robustcheck {report.tool_version}", "dim")  # distinguishes our own files from others
    body = [spaced([*blocks, last])] if verbose else [spaced(blocks), last]
    return Trimmed(Group(first, *settings_line(report, pen), *body))


def one_line(report: Report) -> str:
    """Write the verdict in one line. `-q` and logs show it: "WARN · absent model.onnx: too_weak"."""
    reasons = ", ".join(reason.id for reason in report.verdict.reasons)
    file = name_text(report.evidence.model.file, ascii_only=False)
    photos = f" ({ON_BUNDLED})" if report.evidence.images.bundled else ""
    return f"{words.verdict_text(report.verdict)} {file}{photos}" + (f": {reasons}" if reasons else "")


def passed_by(report: Report) -> str:
    """Write why a WARN does not fail the run. It is " (waived)", " (accepted)" or " (let through)"."""
    if report.verdict.passed or exit_code_of(report) != 0 or report.gate is None:
        return ""
    waived = {waiver.reason for waiver in report.gate.waived}
    if all(reason.id in waived for reason in report.verdict.reasons):
        return " (waived)"
    return " (accepted)" if all(r.kind == report.gate.accept for r in report.verdict.reasons) else " (let through)"


def _short(report: Report, pen: Pen) -> list[RenderableType]:
    verdict = report.verdict
    usual = {BUNDLED_NOTE, *fallback_note(report.evidence.execution), *([] if verdict.passed else [HEAD_NOTE])}
    remarks = [note for note in report.notes if note not in usual]
    plain = words.plain_text(verdict, report.evidence.statistics.n_images, report.evidence.model.ends_in)
    answer = [*loosened(report, pen), pen.say(plain, "bold"), *_next_step(report, pen)]
    table = [_what(report, pen), *(notes(pen, remarks) if verdict.passed else []), _evidence(report, pen)]
    return [Group(*answer), Group(*table, *reason_ids(pen, verdict.reasons, len(remarks)))]


def _next_step(report: Report, pen: Pen) -> list[Text]:
    """Write what to do next."""
    verdict, explain = report.verdict, ""
    if verdict.passed:
        step = BUNDLED_STEP if report.evidence.images.bundled else PASSED_STEP
    else:
        first = verdict.reasons[0]
        step, explain = first.next_step, f"robustcheck explain {first.id}"
    model, images = report.evidence.model, report.evidence.images
    photos = "" if images.bundled else f" --images {quoted(images.source)}"
    return step_lines(pen, step, model.file, photos, explain, scores=model.rule != "encoder_output")


def step_lines(pen: Pen, step: str, model: str, photos: str = "", explain: str = "", *, scores: bool) -> list[Text]:
    """Write a next step in words and a command. The command works as it is printed.

    Args:
        pen: writes in the characters that the output can show.
        step: of a reason, or the hint of an error.
        model: for MODEL in the command.
        photos: the option that names the photos, for a command that has it.
        explain: the command of a step that has none.
        scores: whether the model gives class scores, which its accuracy is measured by.

    >>> print(*step_lines(Pen(True), "Do: `robustcheck MODEL --images PHOTOS`", "a", " --images MODELS/", scores=True))
    -> Do:   robustcheck a --images MODELS/
    """
    if "robustcheck shift" in step and not scores:
        step = WITHOUT_SCORES
    if step.startswith(COMMANDS):
        return [line(pen.say("→ "), pen.command(step))]
    prose, command = step_of(step)
    names = {"MODEL": quoted(model), " --images PHOTOS": photos}  # each may hold the other's word
    command = re.sub("|".join(names), lambda word: names[word[0]], command) or explain
    return [pen.say(f"→ {prose}"), *([pen.command(f"  {command}")] if command else [])]


def step_of(text: str) -> tuple[str, str]:
    """Split a next step into words and command. Without a command, it is the first sentence.

    >>> step_of("Look at it: `robustcheck inspect MODEL -v`. Or not.")
    ('Look at it:', 'robustcheck inspect MODEL -v')
    >>> step_of("Export it again. Or not.")
    ('Export it again.', '')
    """
    found = re.match(r"(.*?:) `(robustcheck [^`]*)`", text)
    first, stop, _ = text.partition(". ")
    return (found[1], found[2]) if found else (first + stop.strip(), "")


def reason_ids(pen: Pen, reasons: Sequence[Reason], n_notes: int = 0) -> list[Text]:
    """Write the ids of the reasons for WARN. There is no line where there is none."""
    if not reasons:
        return []
    more = len(reasons) - LISTED
    notes = f" and {count_text(n_notes, 'note')}" if n_notes else ""
    text = f"✗ {', '.join(each.id for each in reasons[:LISTED])}{f' and {more} more' if more > 0 else ''}"
    return [line(pen.say(text, "yellow"), pen.say(f"  -v explains them{notes}", "dim"))]


def settings_line(report: Report, pen: Pen) -> list[Text]:
    """Write which settings can loosen the gate. Their source is named; without any there is no line."""
    text = loosening_text(report)
    return [pen.say(f"! {text}", "yellow")] if text else []


def loosened(report: Report, pen: Pen) -> Iterator[Text]:
    """Write first what lets a WARN through. What no longer does is named, too."""
    gate = report.gate
    if gate is None:
        return
    if not report.verdict.passed and gate.exit_code == 0:
        yield pen.say(f"! {gate.rule}", "yellow")
    yield from (pen.say(f"! {w.reason}: {waiver_text(w)}", "yellow") for w in gate.waived)
    yield from (pen.say(f"! {w.reason}: {waiver_text(w, expired=True)}", "yellow") for w in gate.expired)


def _what(report: Report, pen: Pen) -> Text:
    """Name the model, images and measured tensor, in a line."""
    model, images = report.evidence.model, report.evidence.images
    return pen.facts(
        [
            pen.name(model.file, "bold"),
            pen.say("synthetic" if model.synthetic and not report.verdict.passed else "", "yellow"),
            pen.say(f"{report.evidence.statistics.n_images} of {images.n_available} images"),
            pen.say(ON_BUNDLED.removeprefix("on "), "yellow") if images.bundled else pen.name(images.source),
            line(pen.say("tensor "), pen.name(model.tensor)),
        ]
    )


def _evidence(report: Report, pen: Pen) -> Table:
    """Lay out the deciding statistics next to their thresholds."""
    table = columns(pen, "statistic", ">value", "=interval", "=must be", "ok?")
    for s in words.statistics_of(report):
        sign, word = words.CLEARS[s.clears]
        colour = "green" if s.clears == "yes" else "yellow"
        cells = [pen.say(s.name), pen.say(s.value, "bold"), pen.say(s.bounds(between=" – ")), pen.say(str(s.limits))]
        table.add_row(*cells, pen.say(f"{sign} {word}", colour))
    return table
