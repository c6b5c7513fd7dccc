"""Make the document of concepts. It has a table, chance and directions. Pure."""

from __future__ import annotations

from robustcheck_onnx.checker.report.document import (
    Cell,
    Chart,
    Curve,
    Document,
    Facts,
    Section,
    Table,
    Words,
    facts_of_run,
    measured,
    name,
)
from robustcheck_onnx.checker.text import count_text, name_text, number_text

from .records import ChanceFacts, Concept, ConceptsReport, ap_text

SHORT = 10  # concepts in the short report
ON_A_PAGE = 50  # directions


def document_of(report: ConceptsReport) -> Document:
    """Return the document of a concept set."""
    model, images, chance, directions = report.model, report.images, report.chance, report.directions
    n_images, left_out = images.n_usable, len(report.not_judged)
    first = (count_text(n_images, "image"), name(report.concept_set.source))
    table = Table(
        ("concept", ">images", ">AP", ">chance", ">needed", ">p", ">directions", "=best", "=found"),
        tuple(map(_concept, report.concepts)),
        f"AP: the best average precision of a direction; chance: 95 % of {chance.shuffles} shuffles stay at or below; "
        "needed: what is beyond chance, corrected over concepts; directions: how many detect it",
        most=SHORT,
    )
    facts = [
        ("Representation", model.tensor),
        ("Features", model.n_features),
        ("Directions", directions.source),
    ]
    run = [
        ("Concept set", report.concept_set.source),
        ("Rule", report.concept_set.rule),
        ("Digest of the images", images.digest),
        ("Seed", images.seed),
    ]
    return Document(
        question="concepts",
        title="Concepts",
        subject="concepts along single directions; their number is not an indicator of robustness",
        model=model,
        facts=(
            *facts_of_run(model, report.execution, report.time, *first),
            f"{directions.n} directions, both signs",
            Cell(directions.source, "dim"),
        ),
        summary=report.summary,
        sections=(
            Section("Concepts", "next to what shuffled labels give", (table,), "short"),
            Section(
                "Chance",
                f"best AP, bins of {chance.edges[1]:g}; seed {chance.seed}",
                (
                    _histogram(f"{count_text(chance.shuffles, 'shuffle')} of all concepts", chance, chance.shuffled),
                    _histogram("concepts as they are", chance, chance.measured),
                    f"{chance.correction}.",
                ),
            ),
            *_directions(report),
            *([Section("Not judged", "", (_not_judged(report),))] if left_out else []),
            measured(facts, run, report.preprocessing.source, report.execution, report.time),
        ),
        notes=report.notes,
        limits=report.limits,
        version=report.tool_version,
        line=f"{name_text(model.file, ascii_only=False)}: {report.n_established} of {len(report.concepts)} concepts "
        f"established, {report.n_encoded} with AP ≥ {report.encoded_ap:g}; not an indicator of robustness",
        tiles=(
            ("Established", report.n_established, "AP of 0.9 or more, and beyond chance"),
            ("Reach AP 0.9", report.n_encoded, f"of {len(report.concepts)} judged"),
            (
                "Directions that tell one",
                directions.n_telling,
                f"of {directions.n}; {directions.n_polysemantic} tell several",
            ),
            ("Images measured", n_images, f"{report.concept_set.n_without} without any concept"),
        ),
        hint=(f"{count_text(left_out, 'concept')} not judged. " if left_out else "") + "-v shows all, and limits.",
        claim=report.claim,
        notes_in_short=True,
    )


def _concept(each: Concept) -> tuple[Words, ...]:
    best = each.best[0]
    found = Cell("within chance", "warn") if each.encoded else Cell("–", "dim")
    return (
        *(name(each.name), str(each.n_images), Cell(ap_text(each.ap), "bold"), ap_text(each.chance[1])),
        "none" if each.needed is None else ap_text(each.needed),
        *(number_text(each.p, 2), str(each.n_directions), f"{'+' if best.sign > 0 else '−'}{best.direction}"),
        Cell("established", "pass") if each.established else found,
    )


def _histogram(title: str, chance: ChanceFacts, counts: tuple[int, ...]) -> Chart:
    edges = [f"{edge:g}" for edge in chance.edges]
    last = len(counts) - 1
    names = tuple(edge if i in (0, last // 2 + 1) else "" for i, edge in enumerate(edges[:last]))
    texts = tuple(f"AP {low} to {high}: {n}" for low, high, n in zip(edges, edges[1:], counts, strict=False))
    return Chart(title, (*names, edges[-1]), (Curve(title, counts, texts),), str(max(counts)))


def _directions(report: ConceptsReport) -> list[Section]:
    facts = report.directions
    rows = tuple((str(each.direction), name(", ".join(each.concepts))) for each in facts.telling[:ON_A_PAGE])
    more = f"; {facts.n_telling - ON_A_PAGE} more in JSON" if facts.n_telling > ON_A_PAGE else ""
    remark = f"{facts.n_telling} of {facts.n} tell a concept, {facts.n_polysemantic} tell several{more}"
    return [Section("Directions", remark, (Facts(rows),))] if rows else []


def _not_judged(report: ConceptsReport) -> Facts:
    return Facts(tuple((name(each.name), each.reason) for each in report.not_judged))
