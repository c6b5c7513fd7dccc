"""The JUnit form: a test suite for each model, a test case for each check; pure.

A reason for WARN is a failure, a waived one is skipped, a model that could not be assessed is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import SubElement, tostring

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from robustcheck_onnx.checker.text import number_text, printable
from robustcheck_onnx.checker.verdict import RULES

from .forms import FormOptions
from .outcome import (
    NOT_ASSESSED,
    NOT_ASSESSED_TITLE,
    Finding,
    cautions,
    finding_text,
    findings,
    names_of,
    rule_of,
    waiver_text,
)
from .record import Failed, Outcome, Report
from .words import statistics_of

# What a check looks at beside the deciding statistics, by what it asks; each reason is a test case of its own, so that
# a pipeline's history shows when it came and went.
GROUPS = {
    "comparable": (
        *("other_statistic_version", "untrained", "assumed_preprocessing", "preprocessing_against_contract"),
        *("normalised_twice", "unusual_pixels"),
        *("assumed_tensor", "tensor_not_calibrated", "end_not_calibrated", "width_not_calibrated"),
    ),
    "sound": (
        *("nonfinite_representations", "constant_representations", "constant_feature", "batch_dependent"),
        *("output_changed", "unchecked", "little_content"),
    ),
    "images": (
        *("too_few_images", "duplicate_images", "near_duplicate_images", "images_not_varied"),
        *("images_not_photo_like", "representations_alike"),
    ),
}
_BELOW = {
    "kurtosis": "low_kurtosis",
    "persistence_ratio": "no_persistent_outlier_features",
    "top3_share": "no_persistent_outlier_features",
    "outlier_frequency": "no_persistent_outlier_features",
    "negative_energy": "rectified",
    "negative_z_energy": "rectified",
}


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one document; the `time` of the case `assessed` is the wall clock of a model's whole check, in seconds."""
    del options
    document = JUnitXml("robustcheck")
    for name, outcome in zip(names_of(outcomes), outcomes, strict=True):
        suite = TestSuite(name)
        if isinstance(outcome, Failed):
            _failed(suite, outcome)
        else:
            _assessed(suite, outcome)
        suite.update_statistics()  # type: ignore[no-untyped-call]
        document.append(suite)  # type: ignore[no-untyped-call]
    document.update_statistics()  # type: ignore[no-untyped-call]
    root = document._elem
    root.attrib.pop("skipped", None)  # Jenkins' schema has it for suites only
    text: str = tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _case(suite: TestSuite, group: str, name: str, result: Error | Failure | Skipped | None, wall_s: float = 0) -> None:
    case = TestCase(name, f"robustcheck.{group}", round(wall_s, 3))
    if result is not None:
        case.result = [result]
    suite.add_testcase(case)


def _failed(suite: TestSuite, failed: Failed) -> None:
    suite.add_property("exit_code", str(failed.exit_code))
    error = Error(printable(failed.message), NOT_ASSESSED)
    error.text = f"{NOT_ASSESSED_TITLE} (exit code {failed.exit_code})\nhint: {printable(failed.hint)}"
    _case(suite, "run", "assessed", error)


def _assessed(suite: TestSuite, report: Report) -> None:
    model = report.evidence.model
    for name, value in (
        ("verdict", report.verdict.verdict),
        ("kind", report.verdict.kind or ""),
        ("gate", rule_of(report)),
        ("robustcheck", report.tool_version),
        ("model", model.file),
        ("model_digest", model.digest),
        ("images_digest", report.evidence.images.digest),
        ("images", str(report.evidence.statistics.n_images)),
        ("cautions", "; ".join(cautions(report))),
        ("profile", report.verdict.profile_id),
        ("profile_digest", report.verdict.profile_digest),
        ("claim", " ".join((report.claim, *report.profile.limits))),
    ):
        suite.add_property(name, printable(value))
    if report.time is not None:
        suite.timestamp = report.time.started
    _case(suite, "run", "assessed", None, report.time.wall_s if report.time else 0)
    by_id = {finding.reason.id: finding for finding in findings(report)}
    reported = _statistics(suite, report, by_id)
    unmeasured = {
        name
        for name, value in (("batch_dependent", model.batch_difference), ("output_changed", model.output_difference))
        if value is None
    }
    for group, ids in GROUPS.items():
        for name in ids:
            missing = Skipped("not measured", "unchecked") if name in unmeasured else None
            _case(suite, group, name, _result(by_id[name]) if name in by_id else missing)
            reported.add(name)
    for name, finding in by_id.items():  # every reason has a test case, whether the lists above hold it or not
        if name not in reported:
            _case(suite, "other", printable(name), _result(finding))
    if said := cautions(report):  # viewers show the output of a suite, and not its properties
        SubElement(suite._elem, "system-out").text = "\n".join(said)


def _statistics(suite: TestSuite, report: Report, by_id: dict[str, Finding]) -> set[str]:
    """Add a case for each statistic and return the ids of the reasons that these cases report."""
    reported: set[str] = set()
    for s in statistics_of(report):
        reason = {"no": _BELOW[s.id], "straddles": "undecided", "not measured": "not_measurable"}.get(s.clears)
        result: Failure | Skipped | None = None
        if reason in by_id:
            result = _result(by_id[reason])
            reported.add(reason)
        elif reason is not None:
            text = "the verdict rests on other reasons" if s.clears == "straddles" else RULES[reason].title
            numbers = f"{number_text(s.interval.estimate)} ({s.bounds()}), threshold {s.limits}"
            result = Skipped(f"{s.name} {numbers}: {text}", s.clears)
        _case(suite, "statistics", s.id, result)
    return reported


def _result(finding: Finding) -> Failure | Skipped:
    if finding.waiver is not None:
        return Skipped(f"{waiver_text(finding.waiver)} ({printable(finding.reason.seen)})", finding.reason.id)
    failure = Failure(f"{finding.title}: {printable(finding.reason.seen)}", printable(finding.reason.id))
    failure.text = f"{finding_text(finding)}\nKind: {finding.reason.kind}\nNext step: {finding.reason.next_step}"
    return failure
