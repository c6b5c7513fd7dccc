"""Make the document of an inspection. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustcheck_onnx.checker.evidence import GraphScaling
from robustcheck_onnx.checker.model.ends import show_shape
from robustcheck_onnx.checker.report.document import Cell, Document, Facts, File, Section, Table, Words, name
from robustcheck_onnx.checker.report.words import step_of
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.verdict.pixels import steps_text

from .run import Inspected

# reasons that an option of the call takes away
MENDED_BY_OPTIONS = (
    *("assumed_preprocessing", "preprocessing_against_contract", "assumed_tensor"),
    *("normalised_twice", "unusual_pixels"),
)
_ANSWERS = {
    "yes": Cell("✓ can pass", "pass"),
    "no": Cell("✗ can't pass", "warn"),
    "unknown": Cell("? not known", "warn"),
}


def document_of(report: Inspected) -> Document:
    """Return an inspection's document. The next step is of the reason that is hardest to remove."""
    facts, can_pass = report.facts, report.can_pass
    words, step = "yes: the thresholds are for models like this one; the numbers decide", ("", "")
    words += f"; {can_pass.note}" if can_pass.note else ""
    if can_pass.reasons:
        reason = min(can_pass.reasons, key=lambda each: each.id in MENDED_BY_OPTIONS)
        words = f"{can_pass.answer}, because {reason.seen}"
        step = step_of(reason.next_step, report.file, scores=facts.get("class_output") is not None)
    is_read = "representation" in facts
    return Document(
        question="inspect",
        title="Inspection",
        subject="what a check would measure, and whether the file can pass",
        model=File(report.file, report.digest),
        facts=(),
        summary=f"Can this file pass? {words}",
        sections=_sections(facts) if is_read else (),
        notes=(),
        limits="",
        version=VERSION,
        verdict=_ANSWERS[can_pass.answer],
        reasons=can_pass.reasons if is_read else (),
        step=step,
        remark="Nothing was measured: `robustcheck check` gives the verdict.",
        hint="" if can_pass.reasons else "-v shows all",
    )


def _sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    chosen, head, image, contract = (facts[key] for key in ("representation", "head", "image_input", "contract"))
    scaling, external, values = facts["scaling"], facts["external"], facts["preprocessing"]
    size, shape = f"{image['height'] or '?'} by {image['width'] or '?'} px", show_shape(chosen["shape"])
    unknown = f"not known: {facts['preprocessing_not_known']}"
    sources = ", ".join(dict.fromkeys(row["source"].removesuffix(" (scaled)") for row in values or ()))
    others = tuple(
        (*(name(other[key]) for key in ("tensor", "op", "rule")), other["why"]) for other in facts["alternatives"]
    )
    fields = tuple(tuple(map(name, row.values())) for row in values or ())
    return (
        Section("Decisive facts", "", (_rows({
            "tensor": f"{chosen['tensor']} {shape}, {chosen['rule']}, ends in {chosen['ends_in']}",
            "why": chosen["why"],
            "preprocessing": f"{size}, {f'from {sources}' if values else unknown}",
        }),), "brief"),
        Section("Representation", "what the check reads", (_rows({
            "tensor": chosen["tensor"],
            "shape": shape + ("" if chosen["pool"] == "none" else " before pooling"),
            "rule": chosen["rule"] + (", assumed: the graph does not show it" if chosen["assumed"] else ""),
            "pool": chosen["pool"],
            "ends in": chosen["ends_in"],
            "why": chosen["why"],
        }),)),
        Section("Alternatives", "set one with --tensor NAME", (
            Table(("tensor", "made by", "rule", "what it is"), others) if others else "none",
        )),
        Section("Head", "" if head else "none found", (_rows({
            "layer": head["op"],
            "weight": show_shape(head["weight_shape"]),
            "classes": str(head["classes"] or "unknown"),
            "class scores": facts["class_output"] or "no output",
        } if head else {}),)),
        Section("Image input", "", (_rows({
            "name": image["name"],
            "layout": f"{image['layout']} {image['dtype']}",
            "size": f"{size} (height by width)",
            "batch": str(image["batch"] or "any"),
            "scaled inside": steps_text(GraphScaling.model_validate(scaling)) if scaling else "",
        }),)),
        Section("Preprocessing", "and where each value comes from" if values else "", (
            Table(("field", "value", "source"), fields) if values else unknown,
        )),
        Section("File", "", (_rows({
            "size": f"{facts['size_bytes']} bytes" + (", external data included" if external else ""),
            "digest": facts["digest"],
            "model file": facts["model_digest"] if external else "",
            **{f"data {each['location']}": f"{each['size_bytes']} bytes, {each['digest']}" for each in external},
            "opsets": ", ".join(f"{domain} {number}" for domain, number in facts["opsets"].items()),
            "IR version": str(facts["ir_version"]),
            "precision": facts["precision"],
            "producer": facts["producer"] or "not named",
            "contract": _contract(contract) if contract else "none: the tensor was found by rule",
        }),)),
    )  # fmt: skip


def _rows(rows: Mapping[str, str]) -> Facts:
    return Facts(tuple[tuple[Words, Words], ...]((label, name(value)) for label, value in rows.items()))


def _contract(contract: Mapping[str, Any]) -> str:
    source = contract["source"]
    trained = ", random weights" if source["random_weights"] else ""
    planted = f", synthetic: {source['synthetic']}" if source["synthetic"] else ""
    matched = "" if source["matched_to"] is None else f", trained to match: {source['matched_to']}"
    said = f"{source['library']} {source['name']} {source['weights']}{trained}{planted}{matched}"
    return f"schema {contract['schema_version']}; {said}"
