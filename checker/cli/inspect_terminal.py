"""What `inspect` and `doctor` show: renderables, and the same content as JSON values; pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.model import ModelFile, show_shape
from robustcheck_onnx.checker.report import Pen, Trimmed, columns, hanging, line, reasons, section, spaced
from robustcheck_onnx.checker.runtime import Finding
from robustcheck_onnx.checker.text import error_json
from robustcheck_onnx.checker.verdict import steps_text

from .inspection import CanPass, Inspection, cannot_open

INSPECT_SCHEMA = "robustcheck.inspect/2"
# reasons that an option of the call takes away
MENDED_BY_OPTIONS = (
    *("assumed_preprocessing", "preprocessing_against_contract", "assumed_tensor"),
    *("normalised_twice", "unusual_pixels"),
)
DOCTOR_SCHEMA = "robustcheck.doctor/1"
_SIGNS = {"ok": ("✓", "green"), "warn": ("▲", "yellow"), "fail": ("✗", "red")}


def render_inspect(found: Inspection, *, ascii_only: bool = False) -> RenderableType:
    """What would be measured of a model and why, laid out for the width of the console that prints it."""
    model, preprocessing = found.model, found.preprocessing
    pen, chosen, head, image = Pen(ascii_only), model.representation, model.head, model.image_input
    size = f"{image.height or '?'} by {image.width or '?'} px (height by width)"
    blocks = [
        section(pen, "Representation", "what the check reads", _rows(pen, {
            "tensor": chosen.tensor,
            "shape": show_shape(chosen.shape) + ("" if chosen.pool == "none" else " before pooling"),
            "rule": chosen.rule + (", assumed: the graph does not say" if chosen.assumed else ""),
            "pool": chosen.pool,
            "ends in": str(chosen.ends_in),
            "why": chosen.why,
        })),
        section(pen, "Alternatives", "set one with --tensor NAME", _table(
            pen, ("tensor", "made by", "rule", "what it is"),
            [(c.tensor, c.op, c.rule, c.why) for c in model.candidates if c.tensor != chosen.tensor],
        )),
        section(pen, "Head", "" if head else "none found", _rows(pen, {
            "layer": head.op,
            "weight": show_shape(head.weight_shape),
            "classes": str(head.classes or "unknown"),
            "class scores": model.class_output or "no output",
        } if head else {})),
        section(pen, "Image input", "", _rows(pen, {
            "name": image.name,
            "layout": f"{image.layout} {image.dtype}",
            "size": size,
            "batch": str(image.batch or "any"),
            **({"scaled inside": steps_text(model.scaling)} if model.scaling else {}),
        })),
        section(pen, "Preprocessing", "and where each value comes from", _table(
            pen, ("field", "value", "source"), preprocessing.fields,
        )) if preprocessing else section(pen, "Preprocessing", "", pen.say(f"not known: {found.why_not_known}")),
        section(pen, "File", "", _rows(pen, {
            "size": f"{model.size_bytes} bytes" + (", external data included" if model.external else ""),
            "digest": model.digest,
            **({"model file": model.model_digest} if model.external else {}),
            **{f"data {file.location}": f"{file.size_bytes} bytes, {file.digest}" for file in model.external},
            "opsets": ", ".join(f"{domain} {number}" for domain, number in model.opsets.items()),
            "IR version": str(model.ir_version),
            "precision": model.precision,
            "producer": model.producer or "not named",
            "contract": _contract(model),
        })),
    ]  # fmt: skip
    parts: list[RenderableType] = [pen.name(str(model.path), "bold")]
    for block in blocks:
        parts += [Text(), block]
    return Trimmed(Group(*parts, Text(), _answer(pen, found.can_pass)))


def render_unopened(path: Path, fault: RobustcheckError, *, ascii_only: bool = False) -> RenderableType:
    """That a file which can't be opened can't pass, and why."""
    pen = Pen(ascii_only)
    return Trimmed(Group(pen.name(str(path), "bold"), Text(), _answer(pen, cannot_open(path, fault))))


def _answer(pen: Pen, can_pass: CanPass) -> Group:
    """Say in one line whether the file can pass; else why not and what would, of the reason that is hardest to mend.

    Several reasons stand in a block before it.
    """
    words = "yes: the thresholds are for models like this one; the numbers decide"
    words += f"; {can_pass.note}" if can_pass.note else ""
    if can_pass.reasons:
        reason = min(can_pass.reasons, key=lambda each: each.id in MENDED_BY_OPTIONS)
        words = f"{can_pass.answer}, because {reason.seen}"
        if step := reason.next_step:
            # a sentence of the rule, else a command
            words += f"; what helps: {step[0].lower() + step[1:].rstrip('.') if step[0].isupper() else step}"
    several = reasons(pen, can_pass.reasons) if len(can_pass.reasons) > 1 else []
    return spaced([*several, line(pen.say("Can this file pass? ", "bold"), pen.say(words))])


def inspect_json(found: Inspection) -> dict[str, Any]:
    """The content of `render_inspect` as JSON values."""
    model, preprocessing = found.model, found.preprocessing
    chosen, head, image = model.representation, model.head, model.image_input
    return {
        "schema": INSPECT_SCHEMA,
        "file": str(model.path),
        "digest": model.digest,
        "model_digest": model.model_digest,
        "external": [
            {"location": file.location, "size_bytes": file.size_bytes, "digest": file.digest} for file in model.external
        ],
        "size_bytes": model.size_bytes,
        "opsets": dict(model.opsets),
        "ir_version": model.ir_version,
        "producer": model.producer,
        "precision": model.precision,
        "representation": {
            "tensor": chosen.tensor,
            "shape": None if chosen.shape is None else list(chosen.shape),
            "rule": chosen.rule,
            "pool": chosen.pool,
            "ends_in": str(chosen.ends_in),
            "why": chosen.why,
            "assumed": chosen.assumed,
        },
        "alternatives": [
            {"tensor": c.tensor, "op": c.op, "rule": c.rule, "why": c.why}
            for c in model.candidates
            if c.tensor != chosen.tensor
        ],
        "head": head and {"op": head.op, "weight_shape": list(head.weight_shape), "classes": head.classes},
        "class_output": model.class_output,
        "image_input": {
            "name": image.name,
            "layout": image.layout,
            "dtype": image.dtype,
            "batch": image.batch,
            "height": image.height,
            "width": image.width,
        },
        "scaling": None if model.scaling is None else model.scaling.model_dump(mode="json"),
        "outputs": [
            {"name": o.name, "dtype": o.dtype, "shape": None if o.shape is None else list(o.shape)}
            for o in model.outputs
        ],
        "preprocessing": preprocessing
        and [{"field": field, "value": value, "source": source} for field, value, source in preprocessing.fields],
        "preprocessing_not_known": found.why_not_known or None,
        "contract": None if model.contract is None else model.contract.model_dump(mode="json"),
        "profile": {"id": found.profile.id, "digest": found.profile.digest},
        "can_pass": _answer_json(found.can_pass),
    }


def unopened_json(path: Path, fault: RobustcheckError) -> dict[str, Any]:
    """The content of `render_unopened` as JSON values: an error document of a run, and the answer."""
    error = json.loads(error_json(fault.message, fault.hint, fault.exit_code))
    return {"schema": INSPECT_SCHEMA, "file": str(path), **error, "can_pass": _answer_json(cannot_open(path, fault))}


def _answer_json(can_pass: CanPass) -> dict[str, Any]:
    reasons = [reason.model_dump() for reason in can_pass.reasons]
    return {"answer": can_pass.answer, "reasons": reasons, "note": can_pass.note or None}


def render_doctor(findings: Sequence[Finding], *, ascii_only: bool = False) -> RenderableType:
    """Findings about the environment, each with what to type, and how many are faults."""
    pen = Pen(ascii_only)
    rows: list[tuple[Text, Text]] = []
    for finding in findings:
        sign, colour = _SIGNS[finding.status]
        rows.append((pen.say(f"{sign} {finding.status}", colour), line(
            pen.say(finding.check, "bold"), pen.say(f"  {finding.detail}"),
        )))  # fmt: skip
        if finding.fix:
            rows.append((Text(), line(pen.say("type: ", "dim"), pen.name(finding.fix, "cyan"))))
    counts = {status: sum(finding.status == status for finding in findings) for status in _SIGNS}
    summary = ", ".join(f"{number} {status}" for status, number in counts.items())
    return Trimmed(Group(pen.say("Environment", "bold"), hanging(rows), Text(), pen.say(summary)))


def doctor_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON values."""
    return {"schema": DOCTOR_SCHEMA, "findings": [finding.model_dump(mode="json") for finding in findings]}


def _rows(pen: Pen, rows: dict[str, str]) -> Table:
    return hanging([(pen.say(label, "dim"), pen.name(value)) for label, value in rows.items()])


def _table(pen: Pen, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> RenderableType:
    if not rows:
        return pen.say("none")
    table = columns(pen, *headers)
    for row in rows:
        # the last cell is a sentence, the others are names
        table.add_row(*(pen.name(cell) for cell in row[:-1]), pen.say(row[-1]))
    return table


def _contract(model: ModelFile) -> str:
    if model.contract is None:
        return "none: the tensor was found by rule"
    source = model.contract.source
    trained = ", random weights" if source.random_weights else ""
    planted = f", synthetic: {source.synthetic}" if source.synthetic else ""
    matched = "" if source.matched_to is None else f", trained to match: {source.matched_to}"
    said = f"{source.library} {source.name} {source.weights}{trained}{planted}{matched}"
    return f"schema {model.contract.schema_version}; {said}"
