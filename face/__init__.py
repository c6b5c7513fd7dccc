"""Look for outlier features in a vision encoder.

The encoder is an ONNX file. Robust CLIP encoders have outlier features; whether they predict robustness is not known.

import robustcheck_onnx as rc

report = rc.check("model.onnx", "photos/")
report.passed, report.reasons

Functions return records and print nothing. A name is imported when it is first used: `import robustcheck_onnx` alone
loads neither ONNX Runtime nor NumPy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names as in _HOMES and __all__, for type checkers
    from robustcheck_onnx.checker.compare import (
        Baseline,
        CompareOptions,
        CompareReport,
        FirstBaseline,
        IndexOptions,
        Required,
        VectorsReport,
        compare,
    )
    from robustcheck_onnx.checker.concepts.document import ConceptsReport
    from robustcheck_onnx.checker.concepts.run import concepts
    from robustcheck_onnx.checker.directions.document import DirectionsReport
    from robustcheck_onnx.checker.directions.run import directions
    from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
    from robustcheck_onnx.checker.evidence import Evidence, Interval, RunOptions, Statistics
    from robustcheck_onnx.checker.images.source import Images
    from robustcheck_onnx.checker.inspection import Inspected, inspect
    from robustcheck_onnx.checker.integrations.assertions import (
        AssertRobust,
        IndexVerdictError,
        VerdictError,
        assert_robust,
        assert_same_index,
    )
    from robustcheck_onnx.checker.integrations.mlflow_log import gate_model_version, log_report
    from robustcheck_onnx.checker.isolation import Limits, Progress
    from robustcheck_onnx.checker.model.addresses import Model
    from robustcheck_onnx.checker.pipeline import CheckOptions, check
    from robustcheck_onnx.checker.report.record import Report
    from robustcheck_onnx.checker.representations import Representations, load_representations
    from robustcheck_onnx.checker.scan.document import ScanReport
    from robustcheck_onnx.checker.scan.run import scan
    from robustcheck_onnx.checker.shift.run import Several, ShiftReport, measure_shift
    from robustcheck_onnx.checker.statistics.state import Accumulator, measure
    from robustcheck_onnx.checker.verdict.rule import Reason, Verdict, judge
    from robustcheck_onnx.checker.verify.run import Verification, verify
    from robustcheck_onnx.thresholds.profile import Profile

    __version__: str

# ONNX Runtime starts its telemetry when it is imported, and leaves a session file in the temporary folder; later calls
# only stop its events. A user who sets the variable decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {  # name → module of robustcheck_onnx.checker
    name: module
    for module, names in {
        "compare": "Baseline compare CompareOptions CompareReport FirstBaseline IndexOptions Required VectorsReport",
        "concepts.document": "ConceptsReport",
        "concepts.run": "concepts",
        "directions.document": "DirectionsReport",
        "directions.run": "directions",
        "errors": "CannotAssessError EnvironmentFaultError RobustcheckError UsageError",
        "evidence": "Evidence Interval RunOptions Statistics",
        "images.source": "Images",
        "inspection": "inspect Inspected",
        "integrations.assertions": "assert_robust assert_same_index AssertRobust IndexVerdictError VerdictError",
        "integrations.mlflow_log": "gate_model_version log_report",
        "isolation": "Limits Progress",
        "model.addresses": "Model",
        "pipeline": "check CheckOptions",
        "report.record": "Report",
        "representations": "load_representations Representations",
        "scan.document": "ScanReport",
        "scan.run": "scan",
        "shift.run": "measure_shift Several ShiftReport",
        "statistics.state": "Accumulator measure",
        "verdict.rule": "judge Reason Verdict",
        "verify.run": "Verification verify",
    }.items()
    for name in names.split()
}
__all__ = [
    "Accumulator", "AssertRobust", "Baseline", "CannotAssessError", "CheckOptions", "CompareOptions", "CompareReport",
    "ConceptsReport", "DirectionsReport", "EnvironmentFaultError", "Evidence", "FirstBaseline", "Images",
    "IndexOptions", "IndexVerdictError", "Inspected", "Interval", "Limits", "Model", "Profile", "Progress", "Reason",
    "Report", "Representations", "Required", "RobustcheckError", "RunOptions", "ScanReport", "Several", "ShiftReport",
    "Statistics", "UsageError", "VectorsReport", "Verdict", "VerdictError", "Verification", "__version__",
    "assert_robust", "assert_same_index", "check", "compare", "concepts", "directions", "gate_model_version",
    "inspect", "judge", "load_representations", "log_report", "measure", "measure_shift", "scan", "verify",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # for a type checker every name would exist, and be Any

    def __getattr__(name: str) -> object:
        """Import a name on first use."""
        import importlib  # noqa: PLC0415 # only when something is used

        if name == "__version__":
            return importlib.import_module(f"{__name__}.checker.text").VERSION
        if name == "Profile":
            return importlib.import_module(f"{__name__}.thresholds.profile").Profile
        if name not in _HOMES:
            more = "; the exporters' function is robustcheck_onnx.exporters.run.run" * name.startswith("export")
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{more}")
        return getattr(importlib.import_module(f"{__name__}.checker.{_HOMES[name]}"), name)
