"""Look for outlier features in a vision encoder.

The encoder is an ONNX file. PASS means that the model shows the outlier features of robust CLIP
encoders, and does not prove robustness.

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
    from robustcheck_onnx.checker.core.evidence import Evidence, Interval, Statistics
    from robustcheck_onnx.checker.core.options import RunOptions
    from robustcheck_onnx.checker.core.progress import Progress
    from robustcheck_onnx.checker.core.statistics.state import Accumulator, measure
    from robustcheck_onnx.checker.core.verdict.rule import Reason, Verdict, judge
    from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
    from robustcheck_onnx.checker.outside.addresses import Model
    from robustcheck_onnx.checker.outside.image_sets.open import Images
    from robustcheck_onnx.checker.outside.isolation import Limits
    from robustcheck_onnx.checker.outside.representations import Representations, load_representations
    from robustcheck_onnx.checker.questions.check import CheckOptions, check
    from robustcheck_onnx.checker.questions.compare import (
        Baseline,
        CompareOptions,
        CompareReport,
        FirstBaseline,
        IndexOptions,
        Required,
        VectorsReport,
        compare,
    )
    from robustcheck_onnx.checker.questions.concepts.document import ConceptsReport
    from robustcheck_onnx.checker.questions.concepts.run import concepts
    from robustcheck_onnx.checker.questions.directions.document import DirectionsReport
    from robustcheck_onnx.checker.questions.directions.run import directions
    from robustcheck_onnx.checker.questions.inspection import Inspected, inspect
    from robustcheck_onnx.checker.questions.scan.document import ScanReport
    from robustcheck_onnx.checker.questions.scan.run import scan
    from robustcheck_onnx.checker.questions.shift.document import ShiftReport
    from robustcheck_onnx.checker.questions.shift.run import Several, measure_shift
    from robustcheck_onnx.checker.report.check import Report
    from robustcheck_onnx.checker.trust.integrations.assertions import (
        AssertRobust,
        IndexVerdictError,
        VerdictError,
        assert_robust,
        assert_same_index,
    )
    from robustcheck_onnx.checker.trust.integrations.mlflow_log import gate_model_version, log_report
    from robustcheck_onnx.checker.trust.verify.run import Verification, verify
    from robustcheck_onnx.thresholds.profile import Profile

    __version__: str

# ONNX Runtime starts its telemetry when it is imported, and leaves a session file in the temporary folder; later calls
# only stop its events. A user who sets the variable decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {  # name → module of robustcheck_onnx.checker
    name: module
    for module, names in {
        "core.evidence": "Evidence Interval Statistics",
        "core.options": "RunOptions",
        "core.progress": "Progress",
        "core.statistics.state": "Accumulator measure",
        "core.verdict.rule": "judge Reason Verdict",
        "errors": "CannotAssessError EnvironmentFaultError RobustcheckError UsageError",
        "outside.addresses": "Model",
        "outside.image_sets.open": "Images",
        "outside.isolation": "Limits",
        "outside.representations": "load_representations Representations",
        "questions.check": "check CheckOptions",
        "questions.compare": "Baseline compare CompareOptions CompareReport FirstBaseline IndexOptions Required "
        "VectorsReport",
        "questions.concepts.document": "ConceptsReport",
        "questions.concepts.run": "concepts",
        "questions.directions.document": "DirectionsReport",
        "questions.directions.run": "directions",
        "questions.inspection": "inspect Inspected",
        "questions.scan.document": "ScanReport",
        "questions.scan.run": "scan",
        "questions.shift.document": "ShiftReport",
        "questions.shift.run": "measure_shift Several",
        "report.check": "Report",
        "trust.integrations.assertions": "assert_robust assert_same_index AssertRobust IndexVerdictError VerdictError",
        "trust.integrations.mlflow_log": "gate_model_version log_report",
        "trust.verify.run": "Verification verify",
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
