"""What `robustcheck verify` shows: each check with its result, the proof of the numbers, and the exit code (pure)."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from robustcheck_onnx.checker.report import INDENT, Pen, Trimmed, columns, line

from .run import Verification

_SIGNS = {"agrees": ("✓ agrees", "green"), "differs": ("✗ differs", "red"), "not checked": ("– not checked", "dim")}


def render(verification: Verification, *, ascii_only: bool = False) -> RenderableType:
    """Lay out the verification for the width of the console that prints it."""
    pen = Pen(ascii_only)
    head = {0: ("✓ VERIFIED", "green"), 1: ("▲ VERIFIED, but WARN", "yellow"), 3: ("✗ DOES NOT HOLD", "red")}
    result, colour = head[verification.exit_code]
    if verification.exit_code == 0 and verification.verdict == "WARN":
        result = "✓ VERIFIED, WARN waived"
    if verification.exit_code == 1 and verification.verdict == "PASS":
        result = "▲ NOT VERIFIED: nothing but the report vouches for it"
    table = columns(pen, "=check", "=result", "what was seen")
    for finding in verification.findings:
        sign, style = _SIGNS[finding.status]
        table.add_row(pen.say(finding.check), pen.say(sign, style), pen.say(finding.seen))
    verdict = " ".join([verification.verdict, *([f"({', '.join(verification.reasons)})"] * bool(verification.reasons))])
    return Trimmed(
        Group(
            line(pen.say(result, f"bold {colour}"), pen.say(f"  {verification.report} says {verdict}", "dim")),
            Text(),
            Padding(table, (0, 0, 0, INDENT)),
            Text(),
            pen.say(verification.rests_on),
            pen.say(f"exit {verification.exit_code}: {verification.rule}"),
        )
    )
