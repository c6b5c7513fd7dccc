"""Make the document of a verification. It shows each check, the proof of the numbers, and the exit code. Pure."""

from __future__ import annotations

from robustcheck_onnx.checker.report.document import Cell, Document, File, Section, Table
from robustcheck_onnx.checker.text import name_text

from .run import Verification

_SIGNS = {
    "agrees": Cell("✓ agrees", "pass"),
    "differs": Cell("✗ differs", "fail"),
    "not checked": Cell("– not checked", "dim"),
}


def document_of(report: Verification) -> Document:
    """Return a verification's document."""
    result, code = report.result, report.exit_code
    rows = tuple((each.check, _SIGNS[each.status], each.seen) for each in report.findings)
    # where it does not hold, or nothing vouches for it, the rule and the last line say so
    proof = (report.rests_on,) if result.startswith("VERIFIED") else ()
    return Document(
        question="verify",
        title="Verification",
        subject="does a report hold for this model?",
        model=File(report.model),
        facts=(),
        summary=report.says,
        sections=(
            Section("Checks", "", (Table(("=check", "=result", "what was seen"), rows),), "short"),
            Section("What follows", "", (*proof, report.rule), "short"),
        ),
        notes=(),
        limits="",
        version=report.tool_version,
        verdict={0: Cell(f"✓ {result}", "pass"), 1: Cell(f"▲ {result}", "warn"), 3: Cell(f"✗ {result}", "fail")}[code],
        exit_code=code,
        cautions=report.cautions,
        headline=f"{result}. {report.says}",
        remark=f"The numbers are in `{report.report}`.",
        line=f"{result} {name_text(report.report, ascii_only=False)}: {report.rule}",
    )
