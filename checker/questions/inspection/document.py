"""Make the document of an inspection. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ...core.evidence import GraphScaling
from ...core.model.layers import show_shape
from ...core.verdict.notes import int8_notes
from ...core.verdict.pixels import steps_text
from ...core.verdict.rule import Reason
from ...report.document import Block, Cell, Column, Document, Facts, File, Section, Table, TableRow, document_of, name
from ...report.words import step_of
from ...text import VERSION, Fields, quoted
from .run import Inspected

MENDED_BY_OPTIONS = {
    "assumed_preprocessing": "--preprocess",
    "assumed_tensor": "--tensor or --pool",
    **dict.fromkeys(("preprocessing_against_contract", "normalised_twice", "unusual_pixels"), "another --preprocess"),
}
"""by reason: the option of the call that takes it away"""
_ANSWERS = {
    "yes": Cell("✓ can pass", "pass"),
    "no": Cell("✗ can't pass", "warn"),
    "unknown": Cell("? not known", "warn"),
}


@document_of.register(Inspected)
def document_of_inspection(report: Inspected) -> Document:
    """Return an inspection's document. The next step is of the reason that is hardest to remove."""
    facts = report.facts
    can_pass = report.can_pass
    answer = _ANSWERS[can_pass.answer]
    words = "yes: the thresholds are for models like this one; the numbers decide"
    step = ("", "")
    hint = "-v shows all"
    if can_pass.note:
        words += f"; {can_pass.note}"
    if can_pass.reasons:
        hardest = min(can_pass.reasons, key=lambda reason: reason.id in MENDED_BY_OPTIONS)
        hint = ""
        words = f"{can_pass.answer}, because {hardest.seen}"
        if hardest.id in MENDED_BY_OPTIONS:
            mended_by = [MENDED_BY_OPTIONS[reason.id] for reason in can_pass.reasons]
            options = " and ".join(dict.fromkeys(mended_by))
            words = f"only with {options}, because {hardest.seen}"
            answer = Cell(f"▲ needs {options}", "warn")
        step = step_of(hardest.next_step, report.file, scores=facts.get("class_output") is not None)
    is_read = "representation" in facts
    reasons = [_with_file(reason, report.file) for reason in can_pass.reasons if is_read]
    return Document(
        question="inspect",
        title="Inspection",
        subject="what a check would measure, and whether the file can pass",
        model=File(report.file, report.digest),
        facts=(),
        summary=f"Can this file pass? {words}",
        sections=tuple(_sections(facts)) if is_read else (),
        notes=tuple(int8_notes(facts.get("saturating_pairs"))),
        notes_in_short=True,
        limits="",
        version=VERSION,
        verdict=answer,
        reasons=tuple(reasons),
        step=step,
        remark="Nothing was measured: `robustcheck check` gives the verdict.",
        hint=hint,
    )


def _with_file(reason: Reason, file: str) -> Reason:
    """Return a reason whose commands name the file."""
    # a file's own name may have the word, too
    step = re.sub(r"(robustcheck (?:\w+ )*)MODEL(?=[ `])", lambda match: match[1] + quoted(file), reason.next_step)
    return reason.model_copy(update={"next_step": step})


def _sections(facts: Fields) -> Iterator[Section]:
    """Yield what was read, topic by topic."""
    image = facts["image_input"]
    size = f"{image['height'] or '?'} by {image['width'] or '?'} px"
    values = facts["preprocessing"]
    sources = f"not known: {facts['preprocessing_not_known']}"
    preprocessing: Block = Cell(sources)
    remark = ""
    if values:
        value_sources = [row["source"].removesuffix(" (scaled)") for row in values]
        sources = f"from {', '.join(dict.fromkeys(value_sources))}"
        cells = [tuple(map(name, row.values())) for row in values]
        preprocessing = Table((Column("field"), Column("value"), Column("source")), tuple(cells))
        remark = "and where each value comes from"
    yield _decisive(facts["representation"], f"{size}, {sources}")
    yield _representation(facts["representation"])
    alternatives: Block = "none"
    if facts["alternatives"]:
        rows = tuple(map(_alternative, facts["alternatives"]))
        alternatives = Table((Column("tensor"), Column("made by"), Column("rule"), Column("what it is")), rows)
    yield Section("Alternatives", "set one with --tensor NAME", (alternatives,))
    yield _head(facts)
    yield _image_input(image, size, facts["scaling"])
    yield Section("Preprocessing", remark, (preprocessing,))
    yield Section("File", "", (_rows(_file(facts)),))


def _decisive(chosen: Fields, preprocessing: str) -> Section:
    """Return the few facts that the short forms show."""
    shape = show_shape(chosen["shape"])
    rows = {
        "tensor": f"{chosen['tensor']} {shape}, {chosen['rule']}, ends in {chosen['ends_in']}",
        "why": chosen["why"],
        "preprocessing": preprocessing,
    }
    return Section("Decisive facts", "", (_rows(rows),), "brief")


def _representation(chosen: Fields) -> Section:
    shape = show_shape(chosen["shape"])
    if chosen["pool"] != "none":
        shape += " before pooling"
    rule = chosen["rule"]
    if chosen["assumed"]:
        rule += ", assumed: the graph does not show it"
    rows = {
        "tensor": chosen["tensor"],
        "shape": shape,
        "rule": rule,
        "pool": chosen["pool"],
        "ends in": chosen["ends_in"],
        "why": chosen["why"],
    }
    return Section("Representation", "what the check reads", (_rows(rows),))


def _alternative(candidate: Fields) -> TableRow:
    """Return the row of a tensor that could be measured in place of the chosen one."""
    names = [name(candidate[key]) for key in ("tensor", "op", "rule")]
    return (*names, candidate["why"])


def _head(facts: Fields) -> Section:
    head = facts["head"]
    remark = "none found"
    rows = {}
    if head:
        remark = ""
        rows = {
            "layer": head["op"],
            "weight": show_shape(head["weight_shape"]),
            "classes": str(head["classes"] or "unknown"),
            "class scores": facts["class_output"] or "no output",
        }
    return Section("Head", remark, (_rows(rows),))


def _image_input(image: Fields, size: str, scaling: Fields | None) -> Section:
    rows = {
        "name": image["name"],
        "layout": f"{image['layout']} {image['dtype']}",
        "size": f"{size} (height by width)",
        "batch": str(image["batch"] or "any"),
        "scaled inside": "",
    }
    if scaling:
        rows["scaled inside"] = steps_text(GraphScaling.model_validate(scaling))
    return Section("Image input", "", (_rows(rows),))


def _file(facts: Fields) -> dict[str, str]:
    """Return the file, its data outside of it, where it was fetched, and what its contract says."""
    rows = {}
    if origin := facts.get("origin"):
        rows["fetched from"] = f"{origin['address']} at {origin['revision']}, {origin['file']}"
    rows["size"] = f"{facts['size_bytes']} bytes"
    rows["digest"] = facts["digest"]
    if facts["external"]:
        rows["size"] += ", external data included"
        rows["model file"] = facts["model_digest"]
    for data in facts["external"]:
        rows[f"data {data['location']}"] = f"{data['size_bytes']} bytes, {data['digest']}"
    opsets = [f"{domain} {number}" for domain, number in facts["opsets"].items()]
    contract = "none: the tensor was found by rule"
    if facts["contract"]:
        contract = _contract(facts["contract"])
    return rows | {
        "opsets": ", ".join(opsets),
        "IR version": str(facts["ir_version"]),
        "precision": facts["precision"],
        "producer": facts["producer"] or "not named",
        "contract": contract,
    }


def _contract(contract: Fields) -> str:
    source = contract["source"]
    origin = f"{source['library']} {source['name']} {source['weights']}"
    if source["random_weights"]:
        origin += ", random weights"
    if source["synthetic"]:
        origin += f", synthetic: {source['synthetic']}"
    if source["matched_to"] is not None:
        origin += f", trained to match: {source['matched_to']}"
    return f"schema {contract['schema_version']}; {origin}"


def _rows(rows: Mapping[str, str]) -> Facts:
    """Return labels and values as lines in which each value is a name."""
    cells = [(label, name(value)) for label, value in rows.items()]
    return Facts(tuple(cells))
