"""Write JUnit. A reason for WARN is a failure, a waived one is skipped, a model without a verdict is an error. Pure."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, tostring

from ..core.verdict.kinds import BELOW_REASONS
from ..core.verdict.reasons import RULES
from ..text import number_text, printable
from .model_names import FormOptions, names_of
from .numbers import statistics_of
from .preprocessing import pixels_text
from .record import Bound, Failed, Outcome, Outcomes
from .words import (
    NOT_ASSESSED,
    NOT_ASSESSED_TITLE,
    STOPPED,
    GatedReason,
    cautions,
    exit_code_of,
    finding_text,
    findings,
    is_stopped,
    rule_of,
    waiver_text,
)

# What a check looks at next to the deciding statistics, by what it asks; each reason is a test case of its own, so that
# a pipeline's history shows when it came and went.
GROUPS = {
    "comparable": (
        "other_statistic_version",
        "untrained",
        "assumed_preprocessing",
        "preprocessing_against_contract",
        "normalised_twice",
        "unusual_pixels",
        "assumed_tensor",
        "tensor_not_calibrated",
        "end_not_calibrated",
        "width_not_calibrated",
    ),
    "sound": (
        "nonfinite_representations",
        "constant_representations",
        "constant_feature",
        "batch_dependent",
        "output_changed",
        "runtime_differs",
        "unchecked",
        "little_content",
    ),
    "images": (
        "too_few_images",
        "duplicate_images",
        "near_duplicate_images",
        "images_not_varied",
        "images_not_photo_like",
        "representations_alike",
    ),
}


def write_junit(outcomes: Outcomes, options: FormOptions) -> str:
    """Write one JUnit document. The `time` of the case `assessed` is the wall clock of a model's check, in seconds."""
    named = zip(names_of(outcomes), outcomes, strict=True)
    return junit_of([suite_of(name, outcome) for name, outcome in named])


def suite_of(name: str, outcome: Outcome) -> Element:
    """Make the test suite of one outcome."""
    suite = element("testsuite", name=name)
    if isinstance(outcome, Failed):
        _failed_case(suite, outcome)
    else:
        _assessed(suite, outcome)
    return suite


def junit_of(suites: Sequence[Element]) -> str:
    """Write the JUnit document of test suites, with their counts."""
    root = Element("testsuites", name="robustcheck")
    for suite in suites:
        _count(suite, errors="error", failures="failure", skipped="skipped")
        root.append(suite)
    _count(root, failures="failure", errors="error")  # Jenkins' schema has `skipped` for suites only
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def element(tag: str, text: str = "", **attributes: str) -> Element:
    """Make an XML element with printable text.

    What does not print is escaped, so that nothing is in it that XML can't hold.
    """
    made = Element(tag, {name: printable(value) for name, value in attributes.items()})
    made.text = "\n".join(map(printable, text.split("\n"))) or None
    return made


def _count(element: Element, **tags: str) -> None:
    """Count test cases and their results.

    tags: of each count.
    """
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for name, tag in tags.items():
        element.set(name, str(len(list(element.iter(tag)))))
    wall_s = sum(float(case.attrib["time"]) for case in cases)
    element.set("time", str(round(wall_s, 3)))


def case_of(group: str, name: str, result: Element | None, wall_s: float = 0) -> Element:
    """Make a test case. result: why it did not pass."""
    case = element("testcase", name=name, classname=f"robustcheck.{group}", time=str(round(float(wall_s), 3)))
    if result is not None:
        case.append(result)
    return case


def _suite_properties(**values: str) -> Element:
    properties = Element("properties")
    properties.extend(element("property", name=name, value=value) for name, value in values.items())
    return properties


def _failed_case(suite: Element, failed: Failed) -> None:
    suite.append(_suite_properties(exit_code=str(failed.exit_code)))
    text = f"{NOT_ASSESSED_TITLE} (exit code {failed.exit_code})\nhint: {printable(failed.hint)}"
    error = element("error", text, message=failed.message, type=NOT_ASSESSED)
    suite.append(case_of("run", "assessed", error))


def _assessed(suite: Element, report: Bound) -> None:
    model = report.evidence.model
    verdict = report.verdict
    wall_s = 0.0
    if report.time is not None:
        suite.set("timestamp", printable(report.time.started))
        wall_s = report.time.wall_s
    properties = _suite_properties(
        verdict=verdict.verdict,
        kind=verdict.kind or "",
        gate=rule_of(report),
        exit_code=str(exit_code_of(report)),
        robustcheck=report.tool_version,
        model=model.file,
        model_digest=model.digest,
        images_digest=report.evidence.images.digest,
        images=str(report.evidence.statistics.n_images),
        cautions="; ".join(cautions(report)),
        preprocessing=pixels_text(report.evidence.preprocessing),
        profile=verdict.profile_id,
        profile_digest=verdict.profile_digest,
        claim=" ".join((report.claim, *report.profile.limits)),
    )
    suite.append(properties)
    suite.append(case_of("run", "assessed", None, wall_s))
    unreported = {finding.reason.id: _case_result(report, finding) for finding in findings(report)}
    _statistics(suite, report, unreported)
    differences = {"batch_dependent": model.batch_difference, "output_changed": model.output_difference}
    for group, ids in GROUPS.items():
        for name in ids:
            result = unreported.pop(name, None)
            if result is None and name in differences and differences[name] is None:
                result = element("skipped", message="not measured", type="unchecked")
            suite.append(case_of(group, name, result))
    # every reason has a test case, whether the lists above hold it or not
    suite.extend(case_of("other", name, result) for name, result in unreported.items())
    lines = cautions(report)
    if is_stopped(report):
        lines.insert(0, f"{STOPPED}: {rule_of(report)}")
    if lines:  # viewers show the output of a suite, and not its properties
        suite.append(element("system-out", "\n".join(lines)))


def _statistics(suite: Element, report: Bound, unreported: dict[str, Element]) -> None:
    """Add a test case for each statistic, and take out the results of reasons that these cases report."""
    reported: set[str] = set()
    for s in statistics_of(report):
        reason = {"no": BELOW_REASONS[s.id], "straddles": "undecided", "not measured": "not_measurable"}.get(s.clears)
        result: Element | None = None
        if reason in unreported:
            result = unreported[reason]
            reported.add(reason)
        elif reason is not None:
            text = "the verdict rests on other reasons" if s.clears == "straddles" else RULES[reason].title
            estimate = f"{s.name} {number_text(s.interval.estimate)}"
            message = f"{estimate} ({s.bounds()}), threshold {s.must_be}: {text}"
            result = element("skipped", message=message, type=s.clears)
        suite.append(case_of("statistics", s.id, result))
    for reason in reported:
        del unreported[reason]


def _case_result(report: Bound, finding: GatedReason) -> Element:
    reason = finding.reason
    if finding.waiver is not None:
        message = f"{waiver_text(finding.waiver)} ({reason.seen})"
        return element("skipped", message=message, type=reason.id)
    text = f"{finding_text(finding)}\nKind: {reason.kind}\nNext step: {reason.next_step}"
    tag = "failure" if report.is_required else "skipped"
    message = f"{reason.title}: {reason.seen}"
    return element(tag, text, message=message, type=reason.id)
