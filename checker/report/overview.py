"""Lay out the table of several models in the terminal. Pure."""

import itertools
from collections.abc import Sequence

from rich.console import Group, RenderableType

from .. import text as texts
from ..errors import COMMANDS
from .document import Cell, Words, name, verdict_cell
from .record import Failed, Outcome
from .terminal import STYLES, Pen, Ruled, Trimmed, _marked, hanging, reason_ids, spaced, table_of
from .words import SIGNS, STOPPED, all_cautions, counts_text, loosened, plain_text, rank_of, without_model


def render_several(
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
    table = table_of(pen, ("=verdict", "model", ">images", ">seconds"), itertools.starmap(_row, rows))
    details = [_details(model, each, pen) for model, each in rows if isinstance(each, Failed) or not each.passed]
    where = [Group(*(pen.name(place) for place in places))] if places else []
    word = {0: "PASS", 1: "WARN"}.get(code, "ERROR")
    stopped = f" · {STOPPED}" if code == 1 else ""
    said = f"{SIGNS[word]} {len(outcomes)} models: {counts_text(outcomes)}{stopped} · exit code {code}"
    last = Ruled(pen, said, STYLES["fail" if code else "pass"])
    first = pen.say(f"robustcheck {texts.VERSION}", "dim")
    # once what holds for all models: what can loosen the gate, and photos that are not the reader's
    return Trimmed(Group(first, *_marked(pen, all_cautions(outcomes)), spaced([table, *details, *where, last])))


def _details(model: str, outcome: Outcome, pen: Pen) -> RenderableType:
    """Name a model, and why it is not a PASS."""
    if isinstance(outcome, Failed):
        write = pen.command if outcome.hint.startswith(COMMANDS) else pen.say
        hint = [write(f"hint: {outcome.hint}", "dim")] if outcome.hint else []
        said = hanging([(pen.say("✗", "red"), pen.say(without_model(outcome)))])
        return Group(pen.name(model, "bold"), said, *hint)
    plain = plain_text(outcome.verdict, outcome.evidence.statistics, outcome.evidence.model.ends_in)
    ids = reason_ids(pen, outcome.verdict.reasons)
    return Group(pen.name(model, "bold"), *_marked(pen, loosened(outcome)), pen.say(plain), *ids)


def _row(model: str, outcome: Outcome) -> tuple[Words, ...]:
    none = Cell("–", "dim")
    if isinstance(outcome, Failed):
        return Cell(f"✗ error {outcome.exit_code}", "fail"), name(model), none, none
    seconds = none if outcome.time is None else f"{outcome.time.wall_s:.1f}"
    return verdict_cell(outcome), name(model), str(outcome.evidence.images.n_usable), seconds
