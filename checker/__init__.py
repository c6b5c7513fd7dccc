"""Reads an ONNX file, measures the evidence, judges it. Never imports torch; opens no connection but to a Ray cluster.

from robustcheck_onnx.checker import check

report = check("model.onnx", images="photos/")
report.verdict.verdict, report.verdict.reasons
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcheck_onnx.checker.evidence import Evidence
    from robustcheck_onnx.checker.integrations.assertions import VerdictError, assert_robust
    from robustcheck_onnx.checker.measure import Progress
    from robustcheck_onnx.checker.pipeline import check
    from robustcheck_onnx.checker.report import Report
    from robustcheck_onnx.checker.verdict import Reason, Verdict, judge

# ONNX Runtime starts its telemetry when it is imported, and leaves a session file in the temporary folder; later calls
# only stop its events. A user who sets the variable decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Evidence": "evidence",
    "Progress": "measure",
    "Reason": "verdict",
    "Report": "report",
    "Verdict": "verdict",
    "VerdictError": "integrations.assertions",
    "assert_robust": "integrations.assertions",
    "check": "pipeline",
    "judge": "verdict",
}

__all__ = ["Evidence", "Progress", "Reason", "Report", "Verdict", "VerdictError", "assert_robust", "check", "judge"]


def __getattr__(name: str) -> Any:
    """Import on first use: `robustcheck --help` must not wait for ONNX Runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 # see above

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
