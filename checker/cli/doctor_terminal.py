"""What `doctor` shows: a renderable, and the same content as JSON values; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from robustcheck_onnx.checker.report import Pen, Trimmed, hanging, line
from robustcheck_onnx.checker.runtime import Finding

DOCTOR_SCHEMA = "robustcheck.doctor/1"
_SIGNS = {"ok": ("✓", "green"), "warn": ("▲", "yellow"), "fail": ("✗", "red")}


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
