"""Write the forms that pipelines read: JUnit, SARIF, CycloneDX and GitHub's annotations. Pure.

A reason for WARN is a failure, a waived one is skipped, a model that could not be assessed is an error.

A component's hashes are those of files; the verdict and the digests of what it rests on are properties. Without a
model card: its metrics are of a model's performance, which was not measured.
"""

import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Final
from urllib.parse import quote
from xml.etree.ElementTree import Element, tostring

from ..core.verdict.reasons import BELOW_REASONS, RULES
from ..text import VERSION, Fields, as_json, digest_of, number_text, printable
from . import forms, markdown
from .forms import NOT_ASSESSED, FormOptions, cautions, exit_code_of, findings, names_of, path_of, waiver_text
from .record import CLAIM, Failed, Outcome, Report, sha256_set

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
        *("output_changed", "runtime_differs", "unchecked", "little_content"),
    ),
    "images": (
        *("too_few_images", "duplicate_images", "near_duplicate_images", "images_not_varied"),
        *("images_not_photo_like", "representations_alike"),
    ),
}


def write_junit(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one JUnit document. The `time` of the case `assessed` is the wall clock of a model's check, in seconds."""
    del options
    root = Element("testsuites", name="robustcheck")
    for name, outcome in zip(names_of(outcomes), outcomes, strict=True):
        suite = _element("testsuite", name=name)
        if isinstance(outcome, Failed):
            _failed_case(suite, outcome)
        else:
            _assessed(suite, outcome)
        count(suite, errors="error", failures="failure", skipped="skipped")
        root.append(suite)
    count(root, failures="failure", errors="error")  # Jenkins' schema has `skipped` for suites only
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _element(tag: str, text: str = "", **attributes: str) -> Element:
    """Make an XML element with printable text.

    What does not print is escaped, so that nothing is in it that XML can't hold.
    """
    element = Element(tag, {name: printable(value) for name, value in attributes.items()})
    element.text = "\n".join(map(printable, text.split("\n"))) or None
    return element


def count(element: Element, **tags: str) -> None:
    """Count test cases and their results.

    tags: of each count.
    """
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for name, tag in tags.items():
        element.set(name, str(len(list(element.iter(tag)))))
    element.set("time", str(round(sum(float(case.attrib["time"]) for case in cases), 3)))


def _case(suite: Element, group: str, name: str, result: Element | None, wall_s: float = 0) -> None:
    case = _element("testcase", name=name, classname=f"robustcheck.{group}", time=str(round(float(wall_s), 3)))
    case.extend([] if result is None else [result])
    suite.append(case)


def _suite_properties(**values: str) -> Element:
    properties = Element("properties")
    properties.extend(_element("property", name=name, value=value) for name, value in values.items())
    return properties


def _failed_case(suite: Element, failed: Failed) -> None:
    suite.append(_suite_properties(exit_code=str(failed.exit_code)))
    text = f"{forms.NOT_ASSESSED_TITLE} (exit code {failed.exit_code})\nhint: {printable(failed.hint)}"
    _case(suite, "run", "assessed", _element("error", text, message=failed.message, type=NOT_ASSESSED))


def _assessed(suite: Element, report: Report) -> None:
    model = report.evidence.model
    if report.time is not None:
        suite.set("timestamp", printable(report.time.started))
    properties = _suite_properties(
        verdict=report.verdict.verdict,
        kind=report.verdict.kind or "",
        gate=forms.rule_of(report),
        exit_code=str(exit_code_of(report)),
        robustcheck=report.tool_version,
        model=model.file,
        model_digest=model.digest,
        images_digest=report.evidence.images.digest,
        images=str(report.evidence.statistics.n_images),
        cautions="; ".join(cautions(report)),
        preprocessing=forms.pixels_text(report),
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
            _case(suite, group, name, _case_result(by_id[name]) if name in by_id else missing)
            reported.add(name)
    for name, finding in by_id.items():  # every reason has a test case, whether the lists above hold it or not
        if name not in reported:
            _case(suite, "other", name, _case_result(finding))
    lines = cautions(report)
    if forms.is_stopped(report):
        lines.insert(0, f"{forms.STOPPED}: {forms.rule_of(report)}")
    if lines:  # viewers show the output of a suite, and not its properties
        suite.append(_element("system-out", "\n".join(lines)))


def _statistics(suite: Element, report: Report, by_id: dict[str, forms.Finding]) -> set[str]:
    """Add a test case for each statistic. Returns the ids of the reasons that these cases report."""
    reported: set[str] = set()
    for s in forms.statistics_of(report):
        reason = {"no": BELOW_REASONS[s.id], "straddles": "undecided", "not measured": "not_measurable"}.get(s.clears)
        result: Element | None = None
        if reason in by_id:
            result = _case_result(by_id[reason])
            reported.add(reason)
        elif reason is not None:
            text = "the verdict rests on other reasons" if s.clears == "straddles" else RULES[reason].title
            numbers = f"{number_text(s.interval.estimate)} ({s.bounds()}), threshold {s.must_be}"
            result = _element("skipped", message=f"{s.name} {numbers}: {text}", type=s.clears)
        _case(suite, "statistics", s.id, result)
    return reported


def _case_result(finding: forms.Finding) -> Element:
    reason = finding.reason
    if finding.waiver is not None:
        return _element("skipped", message=f"{waiver_text(finding.waiver)} ({reason.seen})", type=reason.id)
    text = f"{forms.finding_text(finding)}\nKind: {reason.kind}\nNext step: {reason.next_step}"
    return _element("failure", text, message=f"{finding.title}: {reason.seen}", type=reason.id)


SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
Node = Fields


def write_sarif(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one run. A model that could not be assessed is a notification and a result of level error.

    The result next to the notification is there because code-scanning services read results only: without it, a run
    that failed would close all findings of the model, which reads as a PASS.
    """
    return document(outcomes, options, "robustcheck/")


def document(outcomes: Sequence[Outcome], options: FormOptions, category: str) -> str:
    """Write the SARIF document under a category.

    An upload replaces what was uploaded under its category before, nothing else.
    """
    results = [r for name, outcome in _named(outcomes) for r in _results(outcome, options, name)]
    failed = [o for o in outcomes if isinstance(o, Failed)]
    invocation: Node = {"executionSuccessful": not failed, "exitCode": max(map(exit_code_of, outcomes), default=70)}
    if decided := [forms.rule_of(outcome) for outcome in outcomes if isinstance(outcome, Report)]:
        stopped = f"{forms.STOPPED}: " if invocation["exitCode"] == 1 else ""
        invocation["exitCodeDescription"] = f"{stopped}{'; '.join(decided)}"
    if failed:
        invocation["toolExecutionNotifications"] = [
            {
                "level": "error",
                "message": {"text": _error_text(o)},
                "descriptor": {"id": NOT_ASSESSED},
                "locations": [_location(o, options)],
            }
            for o in failed
        ]
    if texts := forms.all_cautions(outcomes):
        invocation["toolConfigurationNotifications"] = [{"level": "note", "message": {"text": text}} for text in texts]
    rules = _rules()
    driver = {
        "name": "robustcheck",
        "version": VERSION,
        "shortDescription": {"text": "Release gate for image encoders"},
        "fullDescription": {"text": CLAIM},
        "rules": rules,
        "notifications": rules[-1:],  # could not assess
    }
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": category},
        "invocations": [invocation],
        "results": results,
        "properties": {"models": [_model(outcome, options) for outcome in outcomes]},
    }
    return as_json({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _named(outcomes: Sequence[Outcome]) -> Iterable[tuple[str, Outcome]]:
    """Pair each outcome with what precedes its messages. It is the model's name where there are several."""
    names = [f"{name}: " for name in names_of(outcomes)] if len(outcomes) > 1 else [""]
    return zip(names, outcomes, strict=False)


def _rules() -> list[Node]:
    """List all reasons of this version. Whether they occur does not matter."""
    entries = [(name, rule.title, rule.explanation, rule.next_step) for name, rule in RULES.items()]
    entries.append((NOT_ASSESSED, forms.NOT_ASSESSED_TITLE, forms.NOT_ASSESSED_HELP, "Follow the hint, and run again."))
    return [
        {
            "id": name,
            "shortDescription": {"text": title},
            "fullDescription": {"text": explanation},
            "help": {"text": f"{explanation}\n\nNext step: {step}"},
            "defaultConfiguration": {"level": "error" if name == NOT_ASSESSED else "warning"},
        }
        for name, title, explanation, step in entries
    ]


def _results(outcome: Outcome, options: FormOptions, name: str) -> list[Node]:
    """Write the results of one model. name precedes each message, to distinguish several models."""
    if isinstance(outcome, Failed):
        return [_result(outcome, options, NOT_ASSESSED, "error", _error_text(outcome))]
    results = []
    for finding in findings(outcome):
        reason = finding.reason
        text = f"{name}{finding.title}: {printable(reason.seen)}\nNext step: {reason.next_step}"
        if finding.expired:
            text += f"\n{waiver_text(finding.expired, expired=True)}"
        level = "error" if forms.is_stopped(outcome) and not finding.waiver else "warning"
        result = _result(outcome, options, printable(reason.id), level, text)
        result["properties"] = {"kind": reason.kind}
        if finding.waiver:
            justification = waiver_text(finding.waiver)
            result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": justification}]
        results.append(result)
    return results


def _result(outcome: Outcome, options: FormOptions, rule: str, level: str, text: str) -> Node:
    path = path_of(outcome, options)
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": text},
        "locations": [_location(outcome, options)],
        "partialFingerprints": {"primaryLocationLineHash": f"{forms.fingerprint(path, rule)[:16]}:1"},
    }


def _location(outcome: Outcome, options: FormOptions) -> Node:
    uri = _uri(path_of(outcome, options))
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}


def _uri(path: str) -> str:
    """Write the path as a URI reference (RFC 3986). Bytes that are not text are quoted as bytes."""
    if forms.is_address(path):
        escaped = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
        quoted = quote(forms.name_bytes(escaped), safe="/:?=&%#@+,;~")
        return re.sub(r"(//[^/]*)%5B([0-9A-Fa-f:.]+)%5D", r"\1[\2]", quoted, count=1)  # an address of IPv6
    quoted = quote(forms.name_bytes(path))
    return f"file://{'' if quoted.startswith('/') else '/'}{quoted}" if PurePath(path).is_absolute() else quoted


def _error_text(failed: Failed) -> str:
    hint = f"\nhint: {printable(failed.hint)}" if failed.hint else ""
    return f"{forms.NOT_ASSESSED_TITLE}: {printable(failed.message)}{hint}"


def _model(outcome: Outcome, options: FormOptions) -> Node:
    place = _uri(path_of(outcome, options))
    if isinstance(outcome, Failed):
        return {"uri": place, "verdict": None, "exitCode": outcome.exit_code}
    return {"uri": place, "exitCode": exit_code_of(outcome)} | _facts(outcome)


def _facts(report: Report) -> Node:
    return {
        "verdict": report.verdict.verdict,
        "kind": report.verdict.kind,
        "gate": forms.rule_of(report),
        "cautions": cautions(report),
        "preprocessing": forms.pixels_text(report),
        "digest": printable(report.evidence.model.digest),
        "imagesDigest": printable(report.evidence.images.digest),
        "profile": printable(report.verdict.profile_id),
        "profileDigest": printable(report.verdict.profile_digest),
    }


MAX_ANNOTATIONS = 10  # of each kind: GitHub shows no more for a step
SUMMARY_BYTES = 1024 * 1024  # GitHub drops a longer summary whole
_CUT = "\n\n*The rest is cut: GitHub takes 1 MiB for a step. `-o markdown=FILE` writes the whole report.*\n"


def commands(outcomes: Sequence[Outcome], options: FormOptions) -> list[str]:
    """Write one command per reason and per error.

    A reason that stops the run is an error, one that a waiver accepts a notice, any other a warning. A model without a
    verdict is an error.

    Notices also say what can loosen the gate, and that the photos were the bundled ones.

    At most MAX_ANNOTATIONS of a kind; the last one says then how many more there are. Without line breaks.
    """
    kinds: dict[str, list[tuple[str, str, str]]] = {"error": [], "warning": [], "notice": []}
    for name, outcome in _named(outcomes):
        path = printable(path_of(outcome, options))
        if isinstance(outcome, Failed):
            hint = f"; hint: {outcome.hint}" if outcome.hint else ""
            # before the reasons, of which GitHub shows some
            kinds["error"].insert(0, (path, "robustcheck: could not assess", printable(outcome.message + hint)))
            continue
        for caution in cautions(outcome):
            kinds["notice"].append((path, "robustcheck", f"{name}{caution}"))
        for f in findings(outcome):
            stopped = f"{forms.STOPPED} · " if forms.is_stopped(outcome) else ""
            title = f"robustcheck {stopped}{outcome.verdict.verdict} · {f.reason.kind}: {f.title}"
            words = f"{name}{forms.finding_text(f)}. Next step: {f.reason.next_step}"
            kind = "error" if stopped else "warning"
            kinds["notice" if f.waiver else kind].append((path, title, words))
    lines = []
    for kind, of_kind in kinds.items():
        fits = of_kind if len(of_kind) <= MAX_ANNOTATIONS else of_kind[: MAX_ANNOTATIONS - 1]
        lines += [_command(kind, *parts) for parts in fits]
        if rest := len(of_kind) - len(fits):
            lines.append(f"::{kind} title=robustcheck::and {rest} more; the report names all")
    return lines


def _command(kind: str, path: str, title: str, words: str) -> str:
    return f"::{kind} file={_property(path)},line=1,title={_property(title)}::{_data(words)}"


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")


def summary(outcomes: Sequence[Outcome], options: FormOptions, room: int = SUMMARY_BYTES) -> str:
    """Write the Markdown report in limited size.

    It has fewer than `room` bytes of UTF-8: all lines, or a part that ends with a note.

    Empty where not even that sentence fits.
    """
    return cut(markdown.write_markdown(outcomes, options), room)


def cut(full: str, room: int) -> str:
    """Cut a Markdown report as `summary`."""
    if len(full.encode()) < room:
        return full
    left = room - len(_CUT.encode()) - 1
    if left < 0:
        return ""
    head = full.encode()[:left].decode("utf-8", "ignore")
    return head[: head.rfind("\n") + 1].rstrip("\n") + _CUT


BOM_SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"
SERIALS: Final = uuid.UUID("5c3b9a4e-70a5-4c7e-9f0e-0d2f6c1f8a37")
"""Drawn once: the space of names in which a document's digest gives its serial number"""


def write_cyclonedx(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the bill of materials. The same outcomes give the same bytes, so its serial number is made of the rest.

    A model without a verdict is a component with its error, and without hashes.
    """
    del options
    tool = {"type": "application", "name": "robustcheck", "version": VERSION}
    metadata: Fields = {"tools": {"components": [tool]}}
    started = [outcome.time.started for outcome in outcomes if isinstance(outcome, Report) and outcome.time]
    if started:
        metadata["timestamp"] = min(started)
    components = [_component(number, outcome) for number, outcome in enumerate(outcomes, 1)]
    rest = {"version": 1, "metadata": metadata, "components": components}
    serial = uuid.uuid5(SERIALS, digest_of(rest))
    head = {"$schema": BOM_SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6"}
    return as_json(head | {"metadata": metadata, "serialNumber": f"urn:uuid:{serial}"} | rest)


def _component(number: int, outcome: Outcome) -> Fields:
    name = printable(PurePath(forms.model_of(outcome)).name) or "model"
    component: Fields = {"type": "machine-learning-model", "bom-ref": f"robustcheck-model-{number}", "name": name}
    if isinstance(outcome, Failed):
        facts = [("verdict", "ERROR"), ("exit_code", outcome.exit_code), ("error", outcome.message)]
        return component | {"properties": _bom_properties([*facts, ("hint", outcome.hint)])}
    model = outcome.evidence.model
    if model.file_digest:  # none of a report of an early version
        component["hashes"] = _hashes(model.file_digest)
    if model.external_digests:
        component["components"] = [
            {"type": "file", "name": printable(file), "hashes": _hashes(digest)}
            for file, digest in model.external_digests.items()
        ]
    return component | {"properties": _bom_properties(_bom_facts(outcome))}


def _bom_facts(report: Report) -> list[tuple[str, object]]:
    evidence, reasons = report.evidence, findings(report)
    return [
        ("verdict", report.verdict.verdict),
        ("kind", report.verdict.kind),
        ("exit_code", exit_code_of(report)),
        *(("reason", finding.reason.id) for finding in reasons),
        *(("waived", finding.reason.id) for finding in reasons if finding.waiver),
        *(("caution", caution) for caution in cautions(report)),
        ("preprocessing", forms.pixels_text(report)),
        ("claim", report.claim),
        ("model_digest", evidence.model.digest),
        ("images_digest", evidence.images.digest),
        ("images", evidence.statistics.n_images),
        ("profile", report.verdict.profile_id),
        ("profile_digest", report.verdict.profile_digest),
        ("result_digest", report.binding.result_digest if report.binding else None),
    ]


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256_set(digest)["sha256"]}]


def _bom_properties(facts: Iterable[tuple[str, object]]) -> list[dict[str, str]]:
    """List the facts that have a value. A name may come again, as of several reasons."""
    return [
        {"name": f"robustcheck:{name}", "value": printable(str(value))}
        for name, value in facts
        if value not in (None, "")
    ]
