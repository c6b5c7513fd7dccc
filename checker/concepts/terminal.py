"""Show concepts next to chance, and their directions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from robustcheck_onnx.checker.report import Pen, Trimmed, bar_chart, columns, hanging, headline, noted, section, spaced
from robustcheck_onnx.checker.text import count_text, name_text, number_text

from .records import Concept, ConceptsReport, ap_text

SHORT = 10  # concepts in the short report
IN_A_LIST = 12  # directions, and concepts that were not judged
PLOT_ROWS = 3


def render(report: ConceptsReport, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Render the short report, or the whole. It fits the width of the console; how many are established is last."""
    pen = Pen(ascii_only)
    notes = noted(pen, report.notes)
    blocks = [
        Group(pen.say(report.claim, "bold"), *_headline(pen, report)),
        _concepts(pen, report, len(report.concepts) if verbose else SHORT),
    ]
    if verbose:
        blocks += [
            _chance(pen, report),
            *_directions(pen, report),
            *_not_judged(pen, report),
            *notes,
            section(pen, "Limits", "", pen.prose(report.limits)),
        ]
    else:
        left_out = len(report.not_judged)
        few = f"{count_text(left_out, 'concept')} not judged. " if left_out else ""
        blocks += [*notes, pen.say(f"{few}-v shows all, and limits.", "dim")]
    return Trimmed(spaced([*blocks, pen.say(report.summary, "bold")]))


def one_line(report: ConceptsReport) -> str:
    """Return how many concepts are established, in one line."""
    return (
        f"{name_text(report.model.file, ascii_only=False)}: {report.n_established} of {len(report.concepts)} concepts "
        f"established, {report.n_encoded} with AP ≥ {report.encoded_ap:g}; not an indicator of robustness"
    )


def _headline(pen: Pen, report: ConceptsReport) -> list[Text]:
    images = report.images
    first = [
        pen.say(count_text(images.n_read - images.n_skipped, "image")),
        pen.name(report.concept_set.source),
        pen.say(f"{report.directions.n} directions, both signs"),
    ]
    return [
        *headline(pen, "Concepts", report.model, report.execution, report.time, first=first),
        pen.say(report.directions.source, "dim"),
    ]


def _concepts(pen: Pen, report: ConceptsReport, n_shown: int) -> RenderableType:
    table = columns(pen, "concept", ">images", ">AP", ">chance", ">needed", ">p", ">directions", "=best", "=")
    for each in report.concepts[:n_shown]:
        best = each.best[0]
        table.add_row(
            pen.name(each.name),
            pen.say(str(each.n_images)),
            pen.say(ap_text(each.ap), "bold"),
            pen.say(ap_text(each.chance[1])),
            pen.say("none" if each.needed is None else ap_text(each.needed)),
            pen.say(number_text(each.p, 2)),
            pen.say(str(each.n_directions)),
            pen.say(f"{'+' if best.sign > 0 else '−'}{best.direction}"),
            _found(pen, each),
        )
    more = len(report.concepts) - n_shown
    rest = [pen.say(f"and {count_text(more, 'concept')} more", "dim")] if more > 0 else []
    legend = pen.prose(
        f"AP: the best average precision of a direction; chance: 95 % of {report.chance.shuffles} shuffles stay at or "
        "below; needed: what is beyond chance, corrected over concepts; directions: those that tell it",
        "dim",
    )
    return section(pen, "Concepts", "next to what shuffled labels give", table, *rest, Text(), legend)


def _found(pen: Pen, concept: Concept) -> Text:
    if concept.established:
        return pen.say("established", "green")
    return pen.say("within chance", "yellow") if concept.encoded else pen.say("–", "dim")


def _chance(pen: Pen, report: ConceptsReport) -> RenderableType:
    chance = report.chance
    charts = [
        line_
        for words, counts in (
            (f"{count_text(chance.shuffles, 'shuffle')} of all concepts", chance.shuffled),
            ("concepts as they are", chance.measured),
        )
        for line_ in (
            pen.say(words, "dim"),
            *bar_chart(pen, counts, PLOT_ROWS, top=str(max(counts)), ends=("0", "1"), width=2),
        )
    ]
    remark = f"best AP, bins of {chance.edges[1]:g}; seed {chance.seed}"
    return section(pen, "Chance", remark, *charts, Text(), pen.prose(chance.correction + ".", "dim"))


def _directions(pen: Pen, report: ConceptsReport) -> list[RenderableType]:
    facts = report.directions
    if not facts.telling:
        return []
    rows = [(pen.say(f"{each.direction}"), _names(pen, each.concepts)) for each in facts.telling[:IN_A_LIST]]
    if (more := facts.n_telling - len(rows)) > 0:
        rows.append((pen.say(""), pen.say(f"and {count_text(more, 'direction')} more", "dim")))
    remark = f"{facts.n_telling} of {facts.n} tell a concept, {facts.n_polysemantic} tell several"
    return [section(pen, "Directions", remark, hanging(rows))]


def _not_judged(pen: Pen, report: ConceptsReport) -> list[RenderableType]:
    if not report.not_judged:
        return []
    rows = [(pen.name(each.name), pen.say(each.reason)) for each in report.not_judged[:IN_A_LIST]]
    if (more := len(report.not_judged) - len(rows)) > 0:
        rows.append((pen.say(""), pen.say(f"and {count_text(more, 'concept')} more", "dim")))
    return [section(pen, "Not judged", "", hanging(rows))]


def _names(pen: Pen, names: Sequence[str]) -> Text:
    return pen.say(", ").join(pen.name(name) for name in names)
