"""The report for people: at most 20 lines at 80 columns, or the whole (`-v`); the verdict is the last line of both.

Pure: a report comes in, a rich renderable goes out; nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.text import name_text, quoted
from robustcheck_onnx.checker.verdict import BUNDLED_NOTE, HEAD_NOTE, ON_BUNDLED, fallback_note

from . import terminal_whole, words
from .layout import Pen, ShortReasons, Trimmed, columns, line, notes, spaced, verdict_line
from .outcome import exit_code_of, loosening_text, waiver_text
from .record import Report

LIMITS = "An indication, not a proof. It says nothing of accuracy: check that first."
"""stands in every short report of a PASS"""


def render(report: Report, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Lay out the report for a terminal or a text file, in the width of the console that prints it.

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
    return Trimmed(Group(_first(report, pen), *settings_line(report, pen), spaced([*blocks, last])))


def one_line(report: Report) -> str:
    """Write the verdict in one line, for `-q` and logs: "WARN · absent model.onnx: too_weak"."""
    reasons = ", ".join(reason.id for reason in report.verdict.reasons)
    file = name_text(report.evidence.model.file, ascii_only=False)
    photos = f" ({ON_BUNDLED})" if report.evidence.images.bundled else ""
    return f"{words.verdict_text(report.verdict)} {file}{photos}" + (f": {reasons}" if reasons else "")


def passed_by(report: Report) -> str:
    """Write what is added to a WARN that does not fail the run: " (waived)", " (accepted)" or " (let through)"."""
    if report.verdict.passed or exit_code_of(report) != 0 or report.gate is None:
        return ""
    waived = {waiver.reason for waiver in report.gate.waived}
    if all(reason.id in waived for reason in report.verdict.reasons):
        return " (waived)"
    return " (accepted)" if all(r.kind == report.gate.accept for r in report.verdict.reasons) else " (let through)"


def _first(report: Report, pen: Pen) -> Text:
    """Write the line that every report starts with: it tells our own files from others."""
    return pen.say(f"robustcheck {report.tool_version}", "dim")


def _short(report: Report, pen: Pen) -> list[RenderableType]:
    verdict = report.verdict
    usual = {BUNDLED_NOTE, HEAD_NOTE, *fallback_note(report.evidence.execution)}
    said = [note for note in report.notes if note not in usual]
    model = report.evidence.model
    plain = words.plain_text(verdict, report.evidence.statistics.n_images, model.ends_in)
    answer = [pen.say(plain, "bold")]
    for step in verdict.reasons[0].next_step.split(". ") if verdict.reasons else ():
        answer.append(pen.say(f"→ {step.replace('MODEL', quoted(model.file)).removesuffix('.')}"))
        answer[-1].highlight_regex(r"`[^`]*`", "cyan")
    below: RenderableType = ShortReasons(pen, verdict.reasons, steps=False)
    if verdict.passed:
        head = [pen.prose(HEAD_NOTE)] if HEAD_NOTE in report.notes else []
        below = Group(*head, pen.prose(LIMITS))
    measured = Group(_what(report, pen), *notes(pen, said), _evidence(report, pen))
    return [Group(*loosened(report, pen), *answer), Group(measured, below)]


def settings_line(report: Report, pen: Pen) -> list[Text]:
    """Say which settings can loosen the gate, and who says so; no line where none does."""
    text = loosening_text(report)
    return [pen.say(f"! {text}", "yellow")] if text else []


def loosened(report: Report, pen: Pen) -> Iterator[Text]:
    """Say first what lets a WARN through, and what no longer does."""
    gate = report.gate
    if gate is None:
        return
    if not report.verdict.passed and gate.exit_code == 0:
        yield pen.say(f"! {gate.rule}", "yellow")
    yield from (pen.say(f"! {w.reason}: {waiver_text(w)}", "yellow") for w in gate.waived)
    yield from (pen.say(f"! {w.reason}: {waiver_text(w, expired=True)}", "yellow") for w in gate.expired)


def _what(report: Report, pen: Pen) -> Text:
    """Name the model, the images and the tensor that was measured, in a line."""
    model, images = report.evidence.model, report.evidence.images
    count = f"{report.evidence.statistics.n_images} of {images.n_available} images"
    where = ON_BUNDLED.removeprefix("on ") if images.bundled else ""
    what = [pen.name(model.file, "bold"), pen.say("synthetic" if model.synthetic else "", "yellow"), pen.say(count)]
    source = pen.say(where, "yellow") if where else pen.name(images.source)
    return pen.facts([*what, source, line(pen.say("tensor "), pen.name(model.tensor))])


def _evidence(report: Report, pen: Pen) -> Table:
    """Lay out the deciding statistics beside their thresholds."""
    table = columns(pen, "statistic", ">value", "=interval", "=must be", "ok?")
    for s in words.statistics_of(report):
        sign, word = words.CLEARS[s.clears]
        colour = "green" if s.clears == "yes" else "yellow"
        cells = [pen.say(s.name), pen.say(s.value, "bold"), pen.say(s.bounds(between=" – ")), pen.say(str(s.limits))]
        table.add_row(*cells, pen.say(f"{sign} {word}", colour))
    return table
