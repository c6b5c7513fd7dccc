"""Looks for outlier features in a vision encoder, an ONNX file: an indication of robustness to distribution shift.

import robustcheck_onnx as rc

report = rc.check("model.onnx", images="photos/")
report.verdict.verdict, report.verdict.reasons

Functions return records and print nothing. A name is imported when it is first used: `import robustcheck_onnx` alone
loads neither ONNX Runtime nor NumPy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names as in _HOMES, for type checkers
    from robustcheck_onnx.checker.compare import Baseline as Baseline
    from robustcheck_onnx.checker.compare import CompareReport as CompareReport
    from robustcheck_onnx.checker.compare import compare as compare
    from robustcheck_onnx.checker.concepts import ConceptsReport as ConceptsReport
    from robustcheck_onnx.checker.concepts import concepts as concepts
    from robustcheck_onnx.checker.directions import DirectionsReport as DirectionsReport
    from robustcheck_onnx.checker.directions import directions as directions
    from robustcheck_onnx.checker.errors import CannotAssessError as CannotAssessError
    from robustcheck_onnx.checker.errors import EnvironmentFaultError as EnvironmentFaultError
    from robustcheck_onnx.checker.errors import RobustcheckError as RobustcheckError
    from robustcheck_onnx.checker.errors import UsageError as UsageError
    from robustcheck_onnx.checker.evidence import Evidence as Evidence
    from robustcheck_onnx.checker.evidence import Interval as Interval
    from robustcheck_onnx.checker.evidence import Statistics as Statistics
    from robustcheck_onnx.checker.integrations.assertions import AssertRobust as AssertRobust
    from robustcheck_onnx.checker.integrations.assertions import VerdictError as VerdictError
    from robustcheck_onnx.checker.integrations.assertions import assert_robust as assert_robust
    from robustcheck_onnx.checker.integrations.mlflow_log import gate_model_version as gate_model_version
    from robustcheck_onnx.checker.integrations.mlflow_log import log_report as log_report
    from robustcheck_onnx.checker.measure import Progress as Progress
    from robustcheck_onnx.checker.pipeline import CheckOptions as CheckOptions
    from robustcheck_onnx.checker.pipeline import check as check
    from robustcheck_onnx.checker.report import Report as Report
    from robustcheck_onnx.checker.representations import Representations as Representations
    from robustcheck_onnx.checker.representations import load_representations as load_representations
    from robustcheck_onnx.checker.scan import ScanReport as ScanReport
    from robustcheck_onnx.checker.scan import scan as scan
    from robustcheck_onnx.checker.shift import ShiftReport as ShiftReport
    from robustcheck_onnx.checker.shift import measure_shift as measure_shift
    from robustcheck_onnx.checker.statistics import Accumulator as Accumulator
    from robustcheck_onnx.checker.statistics import measure as measure
    from robustcheck_onnx.checker.verdict import Reason as Reason
    from robustcheck_onnx.checker.verdict import Verdict as Verdict
    from robustcheck_onnx.checker.verdict import judge as judge
    from robustcheck_onnx.checker.verify import Verification as Verification
    from robustcheck_onnx.checker.verify import verify as verify

    __version__: str

# ONNX Runtime starts its telemetry when it is imported, and leaves a session file in the temporary folder; later calls
# only stop its events. A user who sets the variable decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {  # name → module of robustcheck_onnx.checker
    "Accumulator": "statistics",
    "AssertRobust": "integrations.assertions",
    "Baseline": "compare",
    "CannotAssessError": "errors",
    "CheckOptions": "pipeline",
    "CompareReport": "compare",
    "ConceptsReport": "concepts",
    "DirectionsReport": "directions",
    "EnvironmentFaultError": "errors",
    "Evidence": "evidence",
    "Interval": "evidence",
    "Progress": "measure",
    "Reason": "verdict",
    "Report": "report",
    "Representations": "representations",
    "RobustcheckError": "errors",
    "ScanReport": "scan",
    "ShiftReport": "shift",
    "Statistics": "evidence",
    "UsageError": "errors",
    "Verdict": "verdict",
    "Verification": "verify",
    "VerdictError": "integrations.assertions",
    "assert_robust": "integrations.assertions",
    "check": "pipeline",
    "compare": "compare",
    "concepts": "concepts",
    "directions": "directions",
    "gate_model_version": "integrations.mlflow_log",
    "judge": "verdict",
    "load_representations": "representations",
    "log_report": "integrations.mlflow_log",
    "measure": "statistics",
    "measure_shift": "shift",
    "scan": "scan",
    "verify": "verify",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 # strings, all of them


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # for a type checker every name would exist, and be Any

    def __getattr__(name: str) -> object:
        """Import a name on first use."""
        import importlib  # noqa: PLC0415 # only when something is used

        if name == "__version__":
            return importlib.import_module(f"{__name__}.checker.text").VERSION
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.checker.{_HOMES[name]}"), name)
