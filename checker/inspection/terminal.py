"""Shows the document of `inspect`; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.evidence import GraphScaling
from robustcheck_onnx.checker.model.ends import show_shape
from robustcheck_onnx.checker.report.document import Cell, name
from robustcheck_onnx.checker.report.layout import Pen, Trimmed, line, listed, reasons, section, spaced, table_of
from robustcheck_onnx.checker.report.terminal import reason_ids, step_lines
from robustcheck_onnx.checker.verdict.pixels import steps_text

from .run import CanPass

# reasons that an option of the call takes away
MENDED_BY_OPTIONS = (
    *("assumed_preprocessing", "preprocessing_against_contract", "assumed_tensor"),
    *("normalised_twice", "unusual_pixels"),
)


def render_inspect(document: Mapping[str, Any], *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Lay out an inspection for the terminal. The answer comes first.

    Nothing was measured yet.

    document: of `inspect_json` or `unopened_json`.
    verbose: everything that the document holds, and each reason in words.
    """
    pen, can_pass = Pen(ascii_only), CanPass.model_validate(document["can_pass"])
    head = [pen.name(document["file"], "bold"), *_answer(pen, can_pass, document)]
    if "representation" not in document:
        return Trimmed(Group(*head))
    if verbose:
        return Trimmed(spaced([Group(*head), *_blocks(pen, document), *reasons(pen, can_pass.reasons)]))
    rest = reason_ids(pen, can_pass.reasons) or [pen.say("-v shows all", "dim")]
    return Trimmed(spaced([Group(*head), Group(_short(pen, document), *rest)]))


def _short(pen: Pen, document: Mapping[str, Any]) -> RenderableType:
    """Lay out the few facts that decide."""
    chosen, image, values = (document[key] for key in ("representation", "image_input", "preprocessing"))
    where = f"from {', '.join(dict.fromkeys(row['source'].removesuffix(' (scaled)') for row in values or ()))}"
    where = where if values else f"not known: {document['preprocessing_not_known']}"
    return _rows(pen, {
        "tensor": f"{chosen['tensor']} {show_shape(chosen['shape'])}, {chosen['rule']}, ends in {chosen['ends_in']}",
        "why": chosen["why"],
        "preprocessing": f"{image['height'] or '?'} by {image['width'] or '?'} px, {where}",
    })  # fmt: skip


def _blocks(pen: Pen, document: Mapping[str, Any]) -> list[RenderableType]:
    chosen, head, image = (document[key] for key in ("representation", "head", "image_input"))
    size = f"{image['height'] or '?'} by {image['width'] or '?'} px (height by width)"
    scaling, external = document["scaling"], document["external"]
    return [
        section(pen, "Representation", "what the check reads", _rows(pen, {
            "tensor": chosen["tensor"],
            "shape": show_shape(chosen["shape"]) + ("" if chosen["pool"] == "none" else " before pooling"),
            "rule": chosen["rule"] + (", assumed: the graph does not show it" if chosen["assumed"] else ""),
            "pool": chosen["pool"],
            "ends in": chosen["ends_in"],
            "why": chosen["why"],
        })),
        section(pen, "Alternatives", "set one with --tensor NAME", _table(
            pen, ("tensor", "made by", "rule", "what it is"),
            [tuple(other[key] for key in ("tensor", "op", "rule", "why")) for other in document["alternatives"]],
        )),
        section(pen, "Head", "" if head else "none found", _rows(pen, {
            "layer": head["op"],
            "weight": show_shape(head["weight_shape"]),
            "classes": str(head["classes"] or "unknown"),
            "class scores": document["class_output"] or "no output",
        } if head else {})),
        section(pen, "Image input", "", _rows(pen, {
            "name": image["name"],
            "layout": f"{image['layout']} {image['dtype']}",
            "size": size,
            "batch": str(image["batch"] or "any"),
            **({"scaled inside": steps_text(GraphScaling.model_validate(scaling))} if scaling else {}),
        })),
        section(pen, "Preprocessing", "and where each value comes from", _table(
            pen, ("field", "value", "source"), [tuple(row.values()) for row in document["preprocessing"]],
        )) if document["preprocessing"] else section(
            pen, "Preprocessing", "", pen.say(f"not known: {document['preprocessing_not_known']}")
        ),
        section(pen, "File", "", _rows(pen, {
            "size": f"{document['size_bytes']} bytes" + (", external data included" if external else ""),
            "digest": document["digest"],
            **({"model file": document["model_digest"]} if external else {}),
            **{f"data {each['location']}": f"{each['size_bytes']} bytes, {each['digest']}" for each in external},
            "opsets": ", ".join(f"{domain} {number}" for domain, number in document["opsets"].items()),
            "IR version": str(document["ir_version"]),
            "precision": document["precision"],
            "producer": document["producer"] or "not named",
            "contract": _contract(document["contract"]),
        })),
    ]  # fmt: skip


def _answer(pen: Pen, can_pass: CanPass, document: Mapping[str, Any]) -> list[Text]:
    """Write whether the file can pass. The next step is of the reason that is hardest to remove."""
    words, step = "yes: the thresholds are for models like this one; the numbers decide", ""
    words += f"; {can_pass.note}" if can_pass.note else ""
    if can_pass.reasons:
        reason = min(can_pass.reasons, key=lambda each: each.id in MENDED_BY_OPTIONS)
        words, step = f"{can_pass.answer}, because {reason.seen}", reason.next_step
    answer = line(pen.say("Can this file pass? ", "bold"), pen.say(words))
    scores = document.get("class_output") is not None
    return [answer, *(step_lines(pen, step, document["file"], scores=scores) if step else [])]


def _rows(pen: Pen, rows: dict[str, str]) -> Table:
    return listed(pen, ((Cell(label, "dim"), name(value)) for label, value in rows.items()))


def _table(pen: Pen, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> RenderableType:
    # the last cell is a sentence, the others are names
    return table_of(pen, headers, ((*map(name, row[:-1]), row[-1]) for row in rows)) if rows else pen.say("none")


def _contract(contract: Mapping[str, Any] | None) -> str:
    if contract is None:
        return "none: the tensor was found by rule"
    source = contract["source"]
    trained = ", random weights" if source["random_weights"] else ""
    planted = f", synthetic: {source['synthetic']}" if source["synthetic"] else ""
    matched = "" if source["matched_to"] is None else f", trained to match: {source['matched_to']}"
    said = f"{source['library']} {source['name']} {source['weights']}{trained}{planted}{matched}"
    return f"schema {contract['schema_version']}; {said}"
