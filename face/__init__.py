"""Look for outlier features in a vision encoder.

The encoder is an ONNX file. Outlier features are an indication of robustness to distribution shift.

import robustcheck_onnx as rc

report = rc.check("model.onnx", "photos/")
report.passed, report.reasons

Functions return records and print nothing. A name is imported when it is first used: `import robustcheck_onnx` alone
loads neither ONNX Runtime nor NumPy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names as in _HOMES, for type checkers
    from robustcheck_onnx.checker.compare import Baseline as Baseline
    from robustcheck_onnx.checker.compare import CompareOptions as CompareOptions
    from robustcheck_onnx.checker.compare import CompareReport as CompareReport
    from robustcheck_onnx.checker.compare import FirstBaseline as FirstBaseline
    from robustcheck_onnx.checker.compare import IndexOptions as IndexOptions
    from robustcheck_onnx.checker.compare import Required as Required
    from robustcheck_onnx.checker.compare import compare as compare
    from robustcheck_onnx.checker.concepts.directions import ConceptsReport as ConceptsReport
    from robustcheck_onnx.checker.concepts.run import concepts as concepts
    from robustcheck_onnx.checker.directions.document import DirectionsReport as DirectionsReport
    from robustcheck_onnx.checker.directions.run import directions as directions
    from robustcheck_onnx.checker.errors import CannotAssessError as CannotAssessError
    from robustcheck_onnx.checker.errors import EnvironmentFaultError as EnvironmentFaultError
    from robustcheck_onnx.checker.errors import RobustcheckError as RobustcheckError
    from robustcheck_onnx.checker.errors import UsageError as UsageError
    from robustcheck_onnx.checker.evidence import Evidence as Evidence
    from robustcheck_onnx.checker.evidence import Interval as Interval
    from robustcheck_onnx.checker.evidence import RunOptions as RunOptions
    from robustcheck_onnx.checker.evidence import Statistics as Statistics
    from robustcheck_onnx.checker.images.source import Images as Images
    from robustcheck_onnx.checker.inspection import Inspected as Inspected
    from robustcheck_onnx.checker.inspection import inspect as inspect
    from robustcheck_onnx.checker.integrations.assertions import AssertRobust as AssertRobust
    from robustcheck_onnx.checker.integrations.assertions import IndexVerdictError as IndexVerdictError
    from robustcheck_onnx.checker.integrations.assertions import VerdictError as VerdictError
    from robustcheck_onnx.checker.integrations.assertions import assert_robust as assert_robust
    from robustcheck_onnx.checker.integrations.assertions import assert_same_index as assert_same_index
    from robustcheck_onnx.checker.integrations.mlflow_log import gate_model_version as gate_model_version
    from robustcheck_onnx.checker.integrations.mlflow_log import log_report as log_report
    from robustcheck_onnx.checker.isolation import Limits as Limits
    from robustcheck_onnx.checker.isolation import Progress as Progress
    from robustcheck_onnx.checker.model.addresses import Model as Model
    from robustcheck_onnx.checker.pipeline import CheckOptions as CheckOptions
    from robustcheck_onnx.checker.pipeline import check as check
    from robustcheck_onnx.checker.report.record import Report as Report
    from robustcheck_onnx.checker.representations import Representations as Representations
    from robustcheck_onnx.checker.representations import load_representations as load_representations
    from robustcheck_onnx.checker.scan.document import ScanReport as ScanReport
    from robustcheck_onnx.checker.scan.run import scan as scan
    from robustcheck_onnx.checker.shift.run import Several as Several
    from robustcheck_onnx.checker.shift.run import ShiftReport as ShiftReport
    from robustcheck_onnx.checker.shift.run import measure_shift as measure_shift
    from robustcheck_onnx.checker.statistics.state import Accumulator as Accumulator
    from robustcheck_onnx.checker.statistics.state import measure as measure
    from robustcheck_onnx.checker.verdict.rule import Reason as Reason
    from robustcheck_onnx.checker.verdict.rule import Verdict as Verdict
    from robustcheck_onnx.checker.verdict.rule import judge as judge
    from robustcheck_onnx.checker.verify.run import Verification as Verification
    from robustcheck_onnx.checker.verify.run import verify as verify
    from robustcheck_onnx.thresholds.profile import Profile as Profile

    __version__: str

# ONNX Runtime starts its telemetry when it is imported, and leaves a session file in the temporary folder; later calls
# only stop its events. A user who sets the variable decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {  # name → module of robustcheck_onnx.checker
    name: module
    for module, names in {
        "compare": "Baseline compare CompareOptions CompareReport FirstBaseline IndexOptions Required",
        "concepts.directions": "ConceptsReport",
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
__all__ = [*_HOMES, "Profile", "__version__"]  # noqa: PLE0604 # strings, all of them


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
