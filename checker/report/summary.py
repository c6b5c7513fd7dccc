"""The summary of several models: one line each, the worst first. Pure: outcomes in, a rich renderable out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

from robustcheck_onnx.checker.text import number_text
from robustcheck_onnx.checker.verdict import RULES

from .layout import INDENT, Pen, Trimmed, columns
from .outcome import exit_code_of, without_model
from .record import Failed, Outcome, Report

WIDE = 108  # columns beside the indent; from there on a reason's title, images and seconds stand in the table
OTHERS = 58  # columns of all but the model's path in a narrower table; with the rest for it no reason's id is divided


def render(
    outcomes: Sequence[Outcome],
    *,
    models: Sequence[str],
    meaning: str,
    places: Sequence[str] = (),
    ascii_only: bool = False,
) -> RenderableType:
    """Lay out the table, the exit code with its meaning, and where reports went.

    Args:
        outcomes: in the order of the call; those of one rank stay in it.
        models: their paths as they were given, in the same order.
        meaning: the exit code of all together and what it means.
        places: one line each, what was written where.
        ascii_only: no character above 127.
    """
    pen = Pen(ascii_only)
    table = _Table(pen, tuple(sorted(zip(models, outcomes, strict=True), key=lambda pair: _rank(pair[1]))))
    lines = [pen.say(meaning, "bold"), *(pen.name(place) for place in places)]
    return Trimmed(Group(Text(), Padding(Group(table, Text(), *lines), (0, 0, 0, INDENT))))


@dataclass(frozen=True)
class _Table:
    """A table with one row for each model; a narrow screen leaves out what the reports say too."""

    pen: Pen
    rows: tuple[tuple[str, Outcome], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        wide = options.max_width >= WIDE
        more = (">images", ">seconds") if wide else ()
        table = columns(self.pen, "=verdict", "model", "main reason", ">kurtosis", *more)
        if not wide:
            table.columns[1].max_width = max(options.max_width - OTHERS, 1)
        for model, outcome in self.rows:
            table.add_row(*_row(model, outcome, self.pen, wide=wide)[: len(table.columns)])
        yield table


def _rank(outcome: Outcome) -> tuple[int, bool]:
    """Sort the worst first: by exit code, then a WARN that does not fail the run before a PASS."""
    return -exit_code_of(outcome), isinstance(outcome, Report) and outcome.verdict.verdict == "PASS"


def _row(model: str, outcome: Outcome, pen: Pen, *, wide: bool) -> tuple[Text, ...]:
    none = pen.say("–", "dim")
    if isinstance(outcome, Failed):
        message = pen.say(without_model(outcome))
        return pen.say(f"✗ error {outcome.exit_code}", "red"), pen.name(model), message, none, none, none
    images, kurtosis = outcome.evidence.images, outcome.evidence.statistics.kurtosis.estimate
    return (
        _verdict(outcome, pen),
        pen.name(model),
        pen.say(_main_reason(outcome, titled=wide)),
        none if kurtosis is None else pen.say(number_text(kurtosis)),
        pen.say(str(images.n_read - images.n_skipped)),
        none if outcome.time is None else pen.say(f"{outcome.time.wall_s:.1f}"),
    )


def _verdict(report: Report, pen: Pen) -> Text:
    if report.verdict.verdict == "PASS":
        return pen.say("✓ PASS", "green")
    # a WARN that lets the run through is still a WARN
    passed_by = " (let through)" if exit_code_of(report) == 0 else ""
    return pen.say(f"▲ WARN{passed_by}", "yellow")


def _main_reason(report: Report, *, titled: bool) -> str:
    """Name the first reason that nobody has waived, else the first, and count the others. titled: with its title."""
    reasons = [reason.id for reason in report.verdict.reasons]
    if not reasons:
        return ""
    waived = {waiver.reason for waiver in report.gate.waived} if report.gate is not None else set()
    not_waived = [reason for reason in reasons if reason not in waived]
    main = (not_waived or reasons)[0]
    rule = RULES.get(main) if titled else None
    more = f" (+{len(reasons) - 1})" if len(reasons) > 1 else ""
    return f"{main}{more}" + (f": {rule.title}" if rule else "") + ("" if not_waived else ", waived")
