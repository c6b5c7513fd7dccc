"""Outcomes for the tests of the report's forms: a PASS, WARNs, a waived one, one that failed; hostile names."""

from __future__ import annotations

from datetime import date
from importlib import import_module
from typing import Any

from robustcheck_onnx.checker.report.record import Failed, Report
from robustcheck_onnx.checker.verdict.gate import Waiver, decide

HOSTILE = (
    "=cmd|'/C calc'!A1 \"<b>&amp;\n\r\t`x` **y** [z](http://a) 100%, :: $m$ @all #1 \x1b[31m \u202e \udcff é😀.onnx"
)
TODAY = date(2026, 11, 24)


def made() -> Any:
    """tests/test_report_terminal.py, whose reports are made up."""
    return import_module("test_report_terminal")


def gated(report: Report, *, waived: tuple[str, ...] = (), expired: tuple[str, ...] = (), **changes: Any) -> Report:
    """The report as the command makes it: with the gate's answer."""
    model = report.evidence.model.model_copy(update=changes)
    report = report.model_copy(update={"evidence": report.evidence.model_copy(update={"model": model})})
    waivers = [
        Waiver(reason=r, because="known <since> May", owner="vision team", expires=date(2026, month, 30))
        for month, reasons in ((12, waived), (10, expired))
        for r in reasons
    ]
    gate = decide(report.verdict, report.evidence.model.file, waivers=waivers, today=TODAY)
    return report.model_copy(update={"gate": gate})


def failed(model: str = HOSTILE, message: str = "m.onnx: model is not readable; it must be ONNX") -> Failed:
    return Failed(model=model, message=message, hint="robustcheck inspect m.onnx", exit_code=3)
