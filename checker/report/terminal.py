"""Make the document of a check, and show several models. Pure.

The short report has at most 16 lines at 80 columns; `-v` shows all. The verdict is the last line of both.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from robustcheck_onnx.checker.errors import COMMANDS
from robustcheck_onnx.checker.evidence import OUTLIER_SD
from robustcheck_onnx.checker.text import VERSION, gap_text, number_text, percent_text, quoted, short_checkpoint
from robustcheck_onnx.checker.verdict.gate import BUNDLED_NOTE, HEAD_NOTE, ON_BUNDLED, fallback_note
from robustcheck_onnx.thresholds.profile import DEFINITIONS

from . import forms
from .document import (
    Block,
    Cell,
    Chart,
    Curve,
    Document,
    Facts,
    Section,
    Table,
    Topics,
    Words,
    blocks_of,
    is_noted,
    name,
)
from .forms import (
    SIGNS,
    cautions,
    exit_code_of,
    loosening_text,
    one_line,
    plain_text,
    rank_of,
    step_of,
    verdict_text,
    waiver_text,
    without_model,
)
from .layout import COLOURS, Pen, Ruled, Trimmed, hanging, reason_ids, spaced, table_of
from .record import Failed, Outcome, Report

MAX_FEATURES = 8  # rows
PASSED_STEP = (
    "Check its accuracy, too; hold each later file against this one: "
    "`robustcheck compare NEW.onnx MODEL --images PHOTOS`"
)
BUNDLED_STEP = "Check again on photos of the kind that your model will see: `robustcheck MODEL --images DIR`"


def document_of(report: Report) -> Document:
    """Return the document of a check, for terminal and notebook."""
    verdict, model, images, gate = report.verdict, report.evidence.model, report.evidence.images, report.gate
    usual = {BUNDLED_NOTE, *fallback_note(report.evidence.execution), *([] if verdict.passed else [HEAD_NOTE])}
    remarks = [note for note in report.notes if note not in usual]
    step, explain = BUNDLED_STEP if images.bundled else PASSED_STEP, ""
    if verdict.reasons:
        step, explain = verdict.reasons[0].next_step, f"robustcheck explain {verdict.reasons[0].id}"
    photos = "" if images.bundled else f" --images {quoted(images.source)}"
    n_images = report.evidence.statistics.n_images
    bundled = Cell(ON_BUNDLED.removeprefix("on "), "warn")
    noted = Facts(tuple((Cell("note", "bold"), note) for note in remarks if verdict.passed))
    statistics = Table(("statistic", ">value", "=interval", "=must be", "ok?"), _evidence(report, aligned=False))
    return Document(
        question="check",
        title="",
        subject="",
        model=model,
        facts=(
            name(model.file, "bold"),
            Cell("synthetic" if model.synthetic and not verdict.passed else "", "warn"),
            f"{n_images} of {images.n_available} images",
            bundled if images.bundled else name(images.source),
            name(f"tensor {model.tensor}"),
        ),
        summary=plain_text(verdict, n_images, model.ends_in),
        sections=(Section("", "", (noted, statistics), "brief"), *_whole(report)),
        notes=report.notes,
        limits="",
        version=report.tool_version,
        line=one_line(report),
        verdict=Cell(
            f"{SIGNS[verdict.verdict]} {verdict_text(verdict)}{passed_by(report)}", "pass" if verdict.passed else "warn"
        ),
        exit_code=gate.exit_code if gate else None,
        cautions=tuple(filter(None, [loosening_text(report), *loosened(report)])),
        reasons=verdict.reasons,
        step=step_of(step, model.file, photos, explain, scores=model.rule != "encoder_output"),
        n_hidden=0 if verdict.passed else len(remarks),
    )


def _whole(report: Report) -> Iterator[Section]:
    """Yield the sections of the whole report."""
    model, s, gate = report.evidence.model, report.evidence.statistics, report.gate
    planted = "" if is_noted(report, model.synthetic) else f": {model.synthetic}"
    synthetic = Cell(f"synthetic{planted}" if model.synthetic else "", "warn")
    said = [each for each in (name(model.source), synthetic) if each.text]
    rule = [Facts(((Cell("gate", "bold"), f"exit code {gate.exit_code}: {gate.rule}"),))] if gate else []
    yield Section("", "", (*said, forms.meaning_text(report.verdict), *rule))
    heads = ("statistic", ">value", "=interval", "=threshold", "=clears it?")
    meanings = Facts(tuple((each.name, DEFINITIONS[each.id]) for each in forms.statistics_of(report)))
    evidence = (Table(heads, _evidence(report, aligned=True)), meanings)
    yield Section("Evidence and thresholds", forms.confidence_text(report), evidence)
    yield Section("More numbers", "", (_context(report),), "terminal")
    histogram: Block = "not measured"
    if s.histogram_counts and s.kurtosis_quantiles is not None:
        ends = [number_text(edge) for edge in (s.histogram_edges[0], s.histogram_edges[-1])]
        places = (ends[0], *[""] * (len(s.histogram_counts) - 2), ends[1])
        histogram = Chart("", places, (Curve("", s.histogram_counts, ()),), str(max(s.histogram_counts)))
    median = f"median {number_text(s.kurtosis_quantiles[2])}" if s.kurtosis_quantiles else ""
    yield Section("Kurtosis per image", median, (histogram,), "terminal")
    remark = f"of {s.n_features}; the first three, and all that are beyond {OUTLIER_SD:g} SD in half of the images"
    yield Section("Most extreme features", remark, _features(report), "terminal")
    remark = "by strength; ✓ = shows the outlier features"
    yield Section("Place among the reference sets", remark, _reference(report), "terminal")
    yield Section("What was measured", "", (Topics(blocks_of(report)),))
    yield Section("Limits of the claim", "", (report.claim, *report.profile.limits), "terminal")


def _evidence(report: Report, *, aligned: bool) -> tuple[tuple[Words, ...], ...]:
    """Return the deciding statistics next to their thresholds. aligned: the dashes of the intervals are in line."""
    rows = list[tuple[Words, ...]]()
    statistics = forms.statistics_of(report)
    bounds = [s.bounds(between=" – ").partition(" – ") for s in statistics]
    widest = max((len(low) for low, dash, _ in bounds if dash), default=0) if aligned else 0
    for s, (low, dash, high) in zip(statistics, bounds, strict=True):
        answer = Cell(" ".join(forms.CLEARS[s.clears]), "pass" if s.clears == "yes" else "warn")
        interval = f"{low:>{widest}}{dash}{high}" if dash else low
        rows.append((s.name, Cell(s.value, "bold"), interval, str(s.limits), answer))
    return tuple(rows)


def _context(report: Report) -> Table:
    """Return the numbers that decide nothing, two in a row."""
    s = report.evidence.statistics
    values = [
        *("centred kurtosis", number_text(s.centred_kurtosis), "sparsity (zeros)", percent_text(s.zero_share)),
        *("RMS kurtosis", number_text(s.rms_kurtosis), "negative values", percent_text(s.negative_share)),
        *("max-median ratio", forms.max_median_text(s), "spread over images", percent_text(s.spread)),
        *("effective rank", forms.rank_text(report.evidence.content)),
        *("relative variance", forms.variance_text(report.evidence.content)),
        *itertools.chain(*forms.context_of(report)),
    ]
    cells: list[Words] = [Cell(text, "" if i % 2 else "dim") for i, text in enumerate(values)]
    rows = itertools.zip_longest(*[iter(cells)] * 4, fillvalue="")
    return Table(("", ">", "", ">"), tuple(rows))


def _features(report: Report) -> tuple[Block, ...]:
    features = forms.notable_features(report.evidence.statistics)
    rows = tuple(
        (
            *(Cell(str(each.index), "bold"), percent_text(each.share), percent_text(each.frequency)),
            f"{each.mean_z:+z.1f}",
        )
        for each in features[:MAX_FEATURES]
    )
    more = len(features) - MAX_FEATURES
    table = Table((">feature", ">share of K", f">beyond {OUTLIER_SD:g} SD", ">mean z"), rows)
    return (table if rows else "not measured", *([Cell(f"and {more} more", "dim")] if more > 0 else []))


def _reference(report: Report) -> tuple[Block, ...]:
    s = report.evidence.statistics
    strength = forms.strength_of(s)
    if strength is None or not report.reference:
        return ("not placed: no strength or no table",)
    rows: list[tuple[Words, ...]] = []
    for rank, row, left_out in forms.reference_lines(report.reference, strength):
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
        rows.append(("", Cell(str(rank), "dim"), *numbers, shows, forms.group_text(row.group), name(checkpoint)))
    moves = "K (kurtosis) moves with the image set"
    if widest := forms.widest_kurtosis(report.reference):
        widely, least, most = widest
        moves += f": {widely} reads {number_text(least)} on one, {number_text(most)} on another"
    heads = ("", ">rank", ">strength", ">K", "", "group", "checkpoint")
    return (Table(heads, tuple(rows)), Cell(f"{moves}.", "dim"))


def passed_by(report: Report) -> str:
    """Write why a WARN does not fail the run. It is " (waived)", " (accepted)" or " (let through)"."""
    if report.verdict.passed or exit_code_of(report) != 0 or report.gate is None:
        return ""
    waived = {waiver.reason for waiver in report.gate.waived}
    if all(reason.id in waived for reason in report.verdict.reasons):
        return " (waived)"
    return " (accepted)" if all(r.kind == report.gate.accept for r in report.verdict.reasons) else " (let through)"


def loosened(report: Report) -> Iterator[str]:
    """Write first what lets a WARN through. What no longer does is named, too."""
    gate = report.gate
    if gate is None:
        return
    if not report.verdict.passed and gate.exit_code == 0:
        yield gate.rule
    yield from (f"{w.reason}: {waiver_text(w)}" for w in gate.waived)
    yield from (f"{w.reason}: {waiver_text(w, expired=True)}" for w in gate.expired)


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
    # once what holds for all models: what can loosen the gate, and photos that are not the reader's
    shared = dict.fromkeys(text for o in outcomes if isinstance(o, Report) for text in cautions(o))
    return Trimmed(Group(first, *_marked(pen, shared), spaced([table, *details, *where, last])))


def _marked(pen: Pen, texts: Iterable[str]) -> list[Text]:
    return [pen.say(f"! {text}", "yellow") for text in texts]


def _details(model: str, outcome: Outcome, pen: Pen) -> RenderableType:
    """Name a model, and why it is not a PASS."""
    if isinstance(outcome, Failed):
        write = pen.command if outcome.hint.startswith(COMMANDS) else pen.say
        hint = [write(f"hint: {outcome.hint}", "dim")] if outcome.hint else []
        return Group(pen.name(model, "bold"), hanging([(pen.say("✗", "red"), pen.say(without_model(outcome)))]), *hint)
    plain = plain_text(outcome.verdict, outcome.evidence.statistics.n_images, outcome.evidence.model.ends_in)
    ids = reason_ids(pen, outcome.verdict.reasons)
    return Group(pen.name(model, "bold"), *_marked(pen, loosened(outcome)), pen.say(plain), *ids)


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
