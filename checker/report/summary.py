"""Summarise several models, one line each.

The worst is first, then come each WARN's reasons. Pure: outcomes in, a rich renderable out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from robustcheck_onnx.checker.errors import COMMANDS
from robustcheck_onnx.checker.text import VERSION, printable

from . import terminal
from .layout import COLOURS, Pen, Ruled, Trimmed, columns, hanging, spaced
from .outcome import cautions, rank_of, without_model
from .record import Failed, Outcome, Report
from .words import SIGNS, plain_text, verdict_text


def one_line(outcome: Outcome) -> str:
    """Write an outcome in one line, for `-q`. It has verdict, model, reasons, or the error."""
    if isinstance(outcome, Failed):
        return printable(f"ERROR {outcome.model}: {without_model(outcome)}")
    return terminal.one_line(outcome)


def render(
    outcomes: Sequence[Outcome],
    *,
    models: Sequence[str],
    code: int,
    places: Sequence[str] = (),
    ascii_only: bool = False,
) -> RenderableType:
    """Lay out the table, reasons, places and exit code.

    Reasons are of each WARN and error, places where reports went, and the exit code is last.

    Args:
        outcomes: in the order of the call; those of one rank stay in it.
        models: their paths as they were given, in the same order.
        code: the exit code of all together.
        places: one line each, what was written where.
        ascii_only: no character above 127.
    """
    pen = Pen(ascii_only)
    rows = sorted(zip(models, outcomes, strict=True), key=lambda pair: rank_of(pair[1]))
    table = columns(pen, "=verdict", "model", ">images", ">seconds")
    for model, outcome in rows:
        table.add_row(*_row(model, outcome, pen))
    details = [_details(model, outcome, pen) for model, outcome in rows if not _passed(outcome)]
    where = [Group(*(pen.name(place) for place in places))] if places else []
    counts = Counter("ERROR" if isinstance(o, Failed) else o.verdict.verdict for o in outcomes)
    said = ", ".join(f"{counts[word]} {word}" for word in SIGNS if counts[word])
    word = {0: "PASS", 1: "WARN"}.get(code, "ERROR")
    last = Ruled(pen, f"{SIGNS[word]} {len(outcomes)} models: {said} · exit code {code}", COLOURS.get(word, "red"))
    first = pen.say(f"robustcheck {VERSION}", "dim")
    return Trimmed(Group(first, *_cautions(outcomes, pen), spaced([table, *details, *where, last])))


def _cautions(outcomes: Sequence[Outcome], pen: Pen) -> list[Text]:
    """Write once what holds for all models.

    Reported are what can loosen the gate, and photos that are not the reader's.
    """
    texts = dict.fromkeys(text for o in outcomes if isinstance(o, Report) for text in cautions(o))
    return [pen.say(f"! {text}", "yellow") for text in texts]


def _passed(outcome: Outcome) -> bool:
    return isinstance(outcome, Report) and outcome.passed


def _details(model: str, outcome: Outcome, pen: Pen) -> RenderableType:
    """Name a model, and why it is not a PASS."""
    if isinstance(outcome, Failed):
        write = pen.command if outcome.hint.startswith(COMMANDS) else pen.say
        hint = [write(f"hint: {outcome.hint}", "dim")] if outcome.hint else []
        return Group(pen.name(model, "bold"), hanging([(pen.say("✗", "red"), pen.say(without_model(outcome)))]), *hint)
    plain = plain_text(outcome.verdict, outcome.evidence.statistics.n_images, outcome.evidence.model.ends_in)
    ids = terminal.reason_ids(pen, outcome.verdict.reasons)
    return Group(pen.name(model, "bold"), *terminal.loosened(outcome, pen), pen.say(plain), *ids)


def _row(model: str, outcome: Outcome, pen: Pen) -> tuple[Text, ...]:
    none = pen.say("–", "dim")
    if isinstance(outcome, Failed):
        return pen.say(f"✗ error {outcome.exit_code}", "red"), pen.name(model), none, none
    images, verdict, time = outcome.evidence.images, outcome.verdict, outcome.time
    words = f"{SIGNS[verdict.verdict]} {verdict_text(verdict)}{terminal.passed_by(outcome)}"
    return (
        pen.say(words, COLOURS[verdict.verdict]),
        pen.name(model),
        pen.say(str(images.n_read - images.n_skipped)),
        none if time is None else pen.say(f"{time.wall_s:.1f}"),
    )
