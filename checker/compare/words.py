"""Words and records that several forms of a comparison share; pure."""

from __future__ import annotations

from typing import Literal

from robustcheck_onnx.checker.report import Report

from .changes import Keeps
from .fates import Fate
from .judge import Compared, CompareReport

Colour = Literal["pass", "warn", "muted"]

KEEPS: dict[Keeps, tuple[str, str, Colour]] = {
    "kept": ("✓", "kept", "pass"),
    "shrank": ("✗", "shrank", "warn"),
    "undecided": ("?", "undecided", "warn"),
    "not required": ("", "–", "muted"),
}
"""Sign, word and colour of what became of a statistic."""

FATES: dict[Fate, tuple[str, str, Colour]] = {
    "kept": ("✓", "kept", "pass"),
    "moved": ("→", "moved", "warn"),
    "rotated": ("✗", "rotated away", "warn"),
    "uncorrelated": ("✗", "another one", "warn"),
    "undecided": ("?", "undecided", "warn"),
    "lost": ("✗", "lost", "warn"),
}
"""The same of an outlier feature."""


def reference_name(report: CompareReport) -> str:
    """Return the file that the candidate was compared with: the reference, or the baseline that stands for it."""
    return report.baseline or report.reference.evidence.model.file


def as_side(report: CompareReport, side: Compared) -> Report:
    """Return one side as the report of a check, with the comparison's verdict, notes and claim instead of its own."""
    return Report(
        tool_version=report.tool_version,
        verdict=report.verdict,
        notes=(*report.notes, f"compared with {reference_name(report)}"),
        evidence=side.evidence,
        profile=report.profile,
        reference=(),
        claim=report.claim,
        time=report.time,
    )
