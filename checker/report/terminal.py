"""Lay out a check for people: short, whole (`-v`), and several models. Pure.

It has at most 16 lines at 80 columns, or all (`-v`); the verdict is the last line of both.

Pure: a report comes in, a rich renderable goes out; nothing is printed here.

It shows why it was decided so, what to do next, and all that it rests on; pure.

The worst is first, then come each WARN's reasons. Pure: outcomes in, a rich renderable out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.errors import COMMANDS
from robustcheck_onnx.checker.evidence import OUTLIER_SD
from robustcheck_onnx.checker.text import (
    VERSION,
    gap_text,
    name_text,
    number_text,
    percent_text,
    printable,
    quoted,
    short_checkpoint,
)
from robustcheck_onnx.checker.verdict.notes import BUNDLED_NOTE, HEAD_NOTE, ON_BUNDLED, fallback_note
from robustcheck_onnx.thresholds.profile import DEFINITIONS

from . import words
from .document import Cell, Words, blocks_of, is_noted, name
from .forms import cautions, exit_code_of, loosening_text, rank_of, waiver_text, without_model
from .layout import (
    COLOURS,
    Flow,
    Pen,
    Ruled,
    Trimmed,
    bar_chart,
    hanging,
    labelled,
    line,
    listed,
    measured,
    notes,
    reason_ids,
    reasons,
    section,
    spaced,
    steps,
    table_of,
    verdict_line,
)
from .record import Failed, Outcome, Report
from .words import SIGNS, plain_text, step_of, verdict_text

BAR_ROWS = 4
MAX_FEATURES = 8  # rows


def whole(report: Report, pen: Pen) -> list[RenderableType]:
    """Lay out all parts of the report. The verdict is not among them: it comes last."""
    return [
        _model(report, pen),
        *reasons(pen, report.verdict.reasons, command_style="cyan"),
        *notes(pen, report.notes),
        *_gate(report, pen),
        Flow((_evidence_whole(report, pen), _histogram(report, pen), _features(report, pen))),
        _reference(report, pen),
        section(pen, "What was measured", "", measured(pen, blocks_of(report))),
        _limits(report, pen),
    ]


def _model(report: Report, pen: Pen) -> RenderableType:
    model = report.evidence.model
    planted = "" if is_noted(report, model.synthetic) else f": {model.synthetic}"
    synthetic = pen.say(f"synthetic{planted}" if model.synthetic else "", "yellow")
    what = pen.facts([pen.name(model.file, "bold"), pen.name(model.source), synthetic])
    return Group(what, pen.name(model.digest, "dim"), pen.prose(words.meaning_text(report.verdict)))


def _gate(report: Report, pen: Pen) -> list[RenderableType]:
    """Show exit code, rule and waivers. A report from Python has no gate and no block."""
    gate = report.gate
    if gate is None:
        return []
    rows = [(Cell("gate", "bold"), f"exit code {gate.exit_code}: {gate.rule}")]
    rows += [
        (Cell(label, "bold"), f"{w.reason}, {until} {w.expires} by {w.owner}: {w.because}")
        for label, until, waivers in (("waived", "until", gate.waived), ("expired", "waived until", gate.expired))
        for w in waivers
    ]
    return [listed(pen, rows)]


def _evidence_whole(report: Report, pen: Pen) -> RenderableType:
    statistics = words.statistics_of(report)
    bounds = [s.bounds(between=" – ").partition(" – ") for s in statistics]
    widest = max((len(low) for low, dash, _ in bounds if dash), default=0)  # so that the dashes stand in line
    rows = [
        (
            *(s.name, Cell(s.value, "bold"), f"{low:>{widest}}{dash}{high}" if dash else low, str(s.limits)),
            _answer(s),
        )
        for s, (low, dash, high) in zip(statistics, bounds, strict=True)
    ]
    table = table_of(pen, ("statistic", ">value", "=interval", "=threshold", "=clears it?"), rows)
    remark = words.confidence_text(report)
    meanings = labelled(pen, ((f"{s.name}:", DEFINITIONS[s.id]) for s in statistics))
    return section(pen, "Evidence and thresholds", remark, table, meanings, Text(), _context(report, pen))


def _context(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    values = [
        ("centred kurtosis", number_text(s.centred_kurtosis)),
        ("sparsity (zeros)", percent_text(s.zero_share)),
        ("RMS kurtosis", number_text(s.rms_kurtosis)),
        ("negative values", percent_text(s.negative_share)),
        ("max-median ratio", words.max_median_text(s)),
        ("spread over images", percent_text(s.spread)),
        ("effective rank", words.rank_text(report.evidence.content)),
        ("relative variance", words.variance_text(report.evidence.content)),
        *words.context_of(report),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(overflow="fold")
        grid.add_column(overflow="fold", justify="right")
    cells = [(pen.say(label, "dim"), pen.say(value)) for label, value in values]
    for i in range(0, len(cells), 2):
        grid.add_row(*(text for pair in cells[i : i + 2] for text in pair))
    return grid


def _histogram(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    title = "Kurtosis per image"
    if not s.histogram_counts or s.kurtosis_quantiles is None:
        return section(pen, title, "", pen.say("not measured"))
    low, high = (number_text(edge) for edge in (s.histogram_edges[0], s.histogram_edges[-1]))
    top = str(max(s.histogram_counts))
    lines = bar_chart(pen, s.histogram_counts, BAR_ROWS, top=top, ends=(low, high))
    return section(pen, title, f"median {number_text(s.kurtosis_quantiles[2])}", *lines)


def _features(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    features = words.notable_features(s)
    title = "Most extreme features"
    remark = f"of {s.n_features}; the first three, and all that are beyond {OUTLIER_SD:g} SD in half of the images"
    if not features:
        return section(pen, title, remark, pen.say("not measured"))
    rows = [
        (
            *(Cell(str(each.index), "bold"), percent_text(each.share), percent_text(each.frequency)),
            f"{each.mean_z:+z.1f}",
        )
        for each in features[:MAX_FEATURES]
    ]
    table = table_of(pen, (">feature", ">share of K", f">beyond {OUTLIER_SD:g} SD", ">mean z"), rows)
    more = len(features) - MAX_FEATURES
    return section(pen, title, remark, table, *([pen.say(f"and {more} more", "dim")] if more > 0 else []))


def _reference(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    strength = words.strength_of(s)
    title = "Place among the reference sets"
    remark = "by strength; ✓ = shows the outlier features"
    if strength is None or not report.reference:
        return section(pen, title, remark, pen.say("not placed: no strength or no table"))
    rows: list[tuple[Words, ...]] = []
    for rank, row, left_out in words.reference_lines(report.reference, strength):
        if left_out:
            rows.append(("", Cell("…", "dim"), *[""] * 4, Cell(gap_text(left_out), "dim")))
        if row is None:
            own = ("▶", str(rank), number_text(strength), number_text(s.kurtosis.estimate), "", "this model", "")
            rows.append(tuple(Cell(each, "bold") for each in own))
            continue
        # what comes after a comma, how it was finetuned, takes a second line; its group says that it was
        checkpoint = short_checkpoint(row.checkpoint).partition(", ")[0]
        shows = Cell("✓", "pass") if row.shows_outlier_features else Cell("–", "dim")
        numbers = (number_text(row.strength), number_text(row.kurtosis))
        rows.append(("", Cell(str(rank), "dim"), *numbers, shows, words.group_text(row.group), name(checkpoint)))
    table = table_of(pen, ("", ">rank", ">strength", ">K", "", "group", "checkpoint"), rows)
    moves = "K (kurtosis) moves with the image set"
    if widest := words.widest_kurtosis(report.reference):
        widely, least, most = widest
        moves += f": {widely} reads {number_text(least)} on one, {number_text(most)} on another"
    return section(pen, title, remark, table, pen.say(f"{moves}.", "dim"))


def _limits(report: Report, pen: Pen) -> RenderableType:
    rows = [(pen.say("•"), pen.prose(text)) for text in (report.claim, *report.profile.limits)]
    return section(pen, "Limits of the claim", "", hanging(rows))


PASSED_STEP = (
    "Check its accuracy, too; hold each later file against this one: "
    "`robustcheck compare NEW.onnx MODEL --images PHOTOS`"
)
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
    blocks = whole(report, pen) if verbose else _short(report, pen)
    exit_code = None if report.gate is None else report.gate.exit_code
    last = verdict_line(pen, report.verdict, exit_code, passed_by(report))
    first = pen.say(f"robustcheck {report.tool_version}", "dim")  # distinguishes our own files from others
    body = [spaced([*blocks, last])] if verbose else [spaced(blocks), last]
    loosening = [pen.say(f"! {text}", "yellow") for text in [loosening_text(report)] if text]
    return Trimmed(Group(first, *loosening, *body))


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
    return steps(pen, *step_of(step, model.file, photos, explain, scores=model.rule != "encoder_output"))


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
    rows = [
        (s.name, Cell(s.value, "bold"), s.bounds(between=" – "), str(s.limits), _answer(s))
        for s in words.statistics_of(report)
    ]
    return table_of(pen, ("statistic", ">value", "=interval", "=must be", "ok?"), rows)


def _answer(statistic: words.JudgedStatistic) -> Cell:
    return Cell(" ".join(words.CLEARS[statistic.clears]), "pass" if statistic.clears == "yes" else "warn")


def line_of(outcome: Outcome) -> str:
    """Write an outcome in one line, for `-q`. It has verdict, model, reasons, or the error."""
    if isinstance(outcome, Failed):
        return printable(f"ERROR {outcome.model}: {without_model(outcome)}")
    return one_line(outcome)


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


def _details(model: str, outcome: Outcome, pen: Pen) -> RenderableType:
    """Name a model, and why it is not a PASS."""
    if isinstance(outcome, Failed):
        write = pen.command if outcome.hint.startswith(COMMANDS) else pen.say
        hint = [write(f"hint: {outcome.hint}", "dim")] if outcome.hint else []
        return Group(pen.name(model, "bold"), hanging([(pen.say("✗", "red"), pen.say(without_model(outcome)))]), *hint)
    plain = plain_text(outcome.verdict, outcome.evidence.statistics.n_images, outcome.evidence.model.ends_in)
    ids = reason_ids(pen, outcome.verdict.reasons)
    return Group(pen.name(model, "bold"), *loosened(outcome, pen), pen.say(plain), *ids)


def _row(model: str, outcome: Outcome) -> tuple[Words, ...]:
    none = Cell("–", "dim")
    if isinstance(outcome, Failed):
        return Cell(f"✗ error {outcome.exit_code}", "fail"), name(model), none, none
    images, verdict, time = outcome.evidence.images, outcome.verdict, outcome.time
    said = f"{SIGNS[verdict.verdict]} {verdict_text(verdict)}{passed_by(outcome)}"
    return (
        *(Cell(said, "pass" if verdict.passed else "warn"), name(model), str(images.n_usable)),
        none if time is None else f"{time.wall_s:.1f}",
    )
