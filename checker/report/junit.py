"""Write the JUnit form. A model is a test suite, a check a test case; pure.

A reason for WARN is a failure, a waived one is skipped, a model that could not be assessed is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, tostring

from robustcheck_onnx.checker.text import number_text, printable
from robustcheck_onnx.checker.verdict.reasons import RULES, below_reasons

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

# What a check looks at next to the deciding statistics, by what it asks; each reason is a test case of its own, so that
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


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one JUnit document. The `time` of the case `assessed` is the wall clock of a model's check, in seconds."""
    del options
    root = Element("testsuites", name="robustcheck")
    for name, outcome in zip(names_of(outcomes), outcomes, strict=True):
        suite = _element("testsuite", name=name)
        if isinstance(outcome, Failed):
            _failed(suite, outcome)
        else:
            _assessed(suite, outcome)
        _count(suite, errors="error", failures="failure", skipped="skipped")
        root.append(suite)
    _count(root, failures="failure", errors="error")  # Jenkins' schema has `skipped` for suites only
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _element(tag: str, text: str = "", **attributes: str) -> Element:
    """Make an XML element with printable text.

    What does not print is escaped, so that nothing is in it that XML can't hold.
    """
    element = Element(tag, {name: printable(value) for name, value in attributes.items()})
    element.text = "\n".join(map(printable, text.split("\n"))) or None
    return element


def _count(element: Element, **tags: str) -> None:
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for name, tag in tags.items():
        element.set(name, str(len(list(element.iter(tag)))))
    element.set("time", str(round(sum(float(case.attrib["time"]) for case in cases), 3)))


def _case(suite: Element, group: str, name: str, result: Element | None, wall_s: float = 0) -> None:
    case = _element("testcase", name=name, classname=f"robustcheck.{group}", time=str(round(float(wall_s), 3)))
    case.extend([] if result is None else [result])
    suite.append(case)


def _properties(**values: str) -> Element:
    properties = Element("properties")
    properties.extend(_element("property", name=name, value=value) for name, value in values.items())
    return properties


def _failed(suite: Element, failed: Failed) -> None:
    suite.append(_properties(exit_code=str(failed.exit_code)))
    text = f"{NOT_ASSESSED_TITLE} (exit code {failed.exit_code})\nhint: {printable(failed.hint)}"
    _case(suite, "run", "assessed", _element("error", text, message=failed.message, type=NOT_ASSESSED))


def _assessed(suite: Element, report: Report) -> None:
    model = report.evidence.model
    if report.time is not None:
        suite.set("timestamp", printable(report.time.started))
    properties = _properties(
        verdict=report.verdict.verdict,
        kind=report.verdict.kind or "",
        gate=rule_of(report),
        robustcheck=report.tool_version,
        model=model.file,
        model_digest=model.digest,
        images_digest=report.evidence.images.digest,
        images=str(report.evidence.statistics.n_images),
        cautions="; ".join(cautions(report)),
        profile=report.verdict.profile_id,
        profile_digest=report.verdict.profile_digest,
        claim=" ".join((report.claim, *report.profile.limits)),
    )
    suite.append(properties)
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
            missing = _element("skipped", message="not measured", type="unchecked") if name in unmeasured else None
            _case(suite, group, name, _result(by_id[name]) if name in by_id else missing)
            reported.add(name)
    for name, finding in by_id.items():  # every reason has a test case, whether the lists above hold it or not
        if name not in reported:
            _case(suite, "other", name, _result(finding))
    if said := cautions(report):  # viewers show the output of a suite, and not its properties
        suite.append(_element("system-out", "\n".join(said)))


def _statistics(suite: Element, report: Report, by_id: dict[str, Finding]) -> set[str]:
    """Add a test case for each statistic. Returns the ids of the reasons that these cases report."""
    reported: set[str] = set()
    below = below_reasons(report.profile)
    for s in statistics_of(report):
        reason = {"no": below[s.id], "straddles": "undecided", "not measured": "not_measurable"}.get(s.clears)
        result: Element | None = None
        if reason in by_id:
            result = _result(by_id[reason])
            reported.add(reason)
        elif reason is not None:
            text = "the verdict rests on other reasons" if s.clears == "straddles" else RULES[reason].title
            numbers = f"{number_text(s.interval.estimate)} ({s.bounds()}), threshold {s.limits}"
            result = _element("skipped", message=f"{s.name} {numbers}: {text}", type=s.clears)
        _case(suite, "statistics", s.id, result)
    return reported


def _result(finding: Finding) -> Element:
    reason = finding.reason
    if finding.waiver is not None:
        return _element("skipped", message=f"{waiver_text(finding.waiver)} ({reason.seen})", type=reason.id)
    text = f"{finding_text(finding)}\nKind: {reason.kind}\nNext step: {reason.next_step}"
    return _element("failure", text, message=f"{finding.title}: {reason.seen}", type=reason.id)
