"""Lay out the table of several models in the terminal. Pure."""

import itertools
from collections.abc import Sequence

from rich.console import Group, RenderableType

from .. import text as texts
from ..errors import COMMANDS
from .document import Cell, Column, TableRow, Words, name, verdict_cell
from .record import Failed, Outcome, Outcomes
from .terminal import STYLES, Pen, Ruled, framed, hanging, marked, reason_ids, table_of
from .words import SIGNS, STOPPED, all_cautions, counts_text, loosened, plain_text, rank_of, without_model, word_of


def render_several(
    outcomes: Outcomes,
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
    table = table_of(
        pen,
        (Column("verdict", no_wrap=True), Column("model"), Column("images", right=True), Column("seconds", right=True)),
        itertools.starmap(_row, rows),
    )
    blocks: list[RenderableType] = [table]
    blocks += [_details(model, each, pen) for model, each in rows if word_of(each) != "PASS"]
    if places:
        blocks.append(Group(*map(pen.name, places)))
    word = {0: "PASS", 1: "WARN"}.get(code, "ERROR")
    counts = counts_text(outcomes)
    if code == 1:
        counts += f" · {STOPPED}"
    answer = f"{SIGNS[word]} {len(outcomes)} models: {counts} · exit code {code}"
    blocks.append(Ruled(pen, answer, STYLES["fail" if code else "pass"]))
    # once what holds for all models: what can loosen the gate, and photos that are not the reader's
    return framed(pen, texts.VERSION, all_cautions(outcomes), blocks)


def _details(model: str, outcome: Outcome, pen: Pen) -> RenderableType:
    """Name a model, and why it is not a PASS."""
    if isinstance(outcome, Failed):
        write = pen.command if outcome.hint.startswith(COMMANDS) else pen.say
        error = pen.say(without_model(outcome))
        parts: list[RenderableType] = [pen.name(model, "bold"), hanging([(pen.say("✗", "red"), error)])]
        if outcome.hint:
            parts.append(write(f"hint: {outcome.hint}", "dim"))
        return Group(*parts)
    evidence = outcome.evidence
    plain = plain_text(outcome.verdict, evidence.statistics, evidence.model.ends_in)
    ids = reason_ids(pen, outcome.verdict.reasons)
    lines = marked(pen, loosened(outcome))
    return Group(pen.name(model, "bold"), *lines, pen.say(plain), *ids)


def _row(model: str, outcome: Outcome) -> TableRow:
    none = Cell("–", "dim")
    if isinstance(outcome, Failed):
        return Cell(f"✗ error {outcome.exit_code}", "fail"), name(model), none, none
    n_images = str(outcome.evidence.images.n_usable)
    seconds: Words = none
    if outcome.time is not None:
        seconds = f"{outcome.time.wall_s:.1f}"
    return verdict_cell(outcome), name(model), n_images, seconds
