"""Lay out a verification for the terminal.

It shows each check with its result, the proof of the numbers, and the exit code (pure).
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from robustcheck_onnx.checker.report.document import Cell
from robustcheck_onnx.checker.report.layout import INDENT, Pen, Ruled, Trimmed, table_of
from robustcheck_onnx.checker.text import name_text

from .run import Verification

_SIGNS = {
    "agrees": Cell("✓ agrees", "pass"),
    "differs": Cell("✗ differs", "fail"),
    "not checked": Cell("– not checked", "dim"),
}


def one_line(verification: Verification) -> str:
    """Write the result in one line, for `-q`."""
    return f"{verification.result} {name_text(verification.report, ascii_only=False)}: {verification.rule}"


def render(verification: Verification, *, ascii_only: bool = False) -> RenderableType:
    """Lay out the verification for the console's width. The result and exit code come last."""
    pen = Pen(ascii_only)
    sign, colour = {0: ("✓", "green"), 1: ("▲", "yellow"), 3: ("✗", "red")}[verification.exit_code]
    rows = [(each.check, _SIGNS[each.status], each.seen) for each in verification.findings]
    table = table_of(pen, ("=check", "=result", "what was seen"), rows)
    return Trimmed(
        Group(
            pen.say(verification.says),
            *(pen.say(f"! {caution}", "yellow") for caution in verification.cautions),
            Text(),
            Padding(table, (0, 0, 0, INDENT)),
            Text(),
            # where it does not hold, or nothing vouches for it, the rule and the last line say so
            *([pen.say(verification.rests_on)] if verification.result.startswith("VERIFIED") else []),
            pen.say(verification.rule),
            Text(),
            Ruled(pen, f"{sign} {verification.result} · exit code {verification.exit_code}", colour),
        )
    )
