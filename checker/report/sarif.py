"""Write SARIF, for code-scanning services. Pure."""

import re
from pathlib import PurePath
from urllib.parse import quote

from ..core.verdict.reasons import RULES
from ..text import VERSION, Fields, as_json, printable
from .model_names import FormOptions, _named, fingerprint, is_address, name_bytes, path_of
from .preprocessing import pixels_text
from .record import CLAIM, Bound, Failed, Outcome, Outcomes
from .words import (
    NOT_ASSESSED,
    NOT_ASSESSED_HELP,
    NOT_ASSESSED_TITLE,
    STOPPED,
    _error_text,
    all_cautions,
    cautions,
    exit_code_of,
    findings,
    is_stopped,
    rule_of,
    waiver_text,
)

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def write_sarif(outcomes: Outcomes, options: FormOptions) -> str:
    """Write one run. A model that could not be assessed is a notification and a result of level error.

    The result next to the notification is there because code-scanning services read results only: without it, a run
    that failed would close all findings of the model, which reads as a PASS.
    """
    return sarif_of(run_of(outcomes, options, "robustcheck/"))


def sarif_of(run: Fields) -> str:
    """Write the SARIF document of a run."""
    return as_json({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def run_of(outcomes: Outcomes, options: FormOptions, category: str) -> Fields:
    """Return the run about some outcomes.

    category: of the upload, which replaces what was uploaded under the same category before, and nothing else.
    """
    results = [r for name, outcome in _named(outcomes) for r in _results(outcome, options, name)]
    failed = [o for o in outcomes if isinstance(o, Failed)]
    exit_code = max(map(exit_code_of, outcomes), default=70)
    invocation: Fields = {"executionSuccessful": not failed, "exitCode": exit_code}
    if decided := [rule_of(outcome) for outcome in outcomes if isinstance(outcome, Bound)]:
        stopped = f"{STOPPED}: " if exit_code == 1 else ""
        invocation["exitCodeDescription"] = f"{stopped}{'; '.join(decided)}"
    if failed:
        invocation["toolExecutionNotifications"] = [_notification(outcome, options) for outcome in failed]
    if texts := all_cautions(outcomes):
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
    return {
        "tool": {"driver": driver},
        "automationDetails": {"id": category},
        "invocations": [invocation],
        "results": results,
        "properties": {"models": [_model(outcome, options) for outcome in outcomes]},
    }


def _notification(failed: Failed, options: FormOptions) -> Fields:
    return {
        "level": "error",
        "message": {"text": _error_text(failed)},
        "descriptor": {"id": NOT_ASSESSED},
        "locations": [_location(failed, options)],
    }


def _rules() -> list[Fields]:
    """List all reasons of this version. Whether they occur does not matter."""
    rules = []
    for name, rule in RULES.items():
        advice = f"{rule.explanation}\n\nNext step: {rule.next_step}"
        rules.append(rule_node(name, rule.title, rule.explanation, advice))
    advice = f"{NOT_ASSESSED_HELP}\n\nNext step: Follow the hint, and run again."
    error = rule_node(NOT_ASSESSED, NOT_ASSESSED_TITLE, NOT_ASSESSED_HELP, advice, "error")
    return [*rules, error]


def rule_node(name: str, title: str, explanation: str, advice: str, level: str = "warning") -> Fields:
    """Return a rule that results refer to."""
    return {
        "id": name,
        "shortDescription": {"text": title},
        "fullDescription": {"text": explanation},
        "help": {"text": advice},
        "defaultConfiguration": {"level": level},
    }


def _results(outcome: Outcome, options: FormOptions, name: str) -> list[Fields]:
    """Write the results of one model. name precedes each message, to distinguish several models."""
    if isinstance(outcome, Failed):
        return [result_of(outcome, options, NOT_ASSESSED, "error", _error_text(outcome))]
    results = []
    for finding in findings(outcome):
        reason = finding.reason
        seen = f"{reason.title}: {printable(reason.seen)}"
        text = f"{name}{seen}\nNext step: {reason.next_step}"
        if finding.expired:
            text += f"\n{waiver_text(finding.expired, expired=True)}"
        level = "warning"
        if is_stopped(outcome) and not finding.waiver:
            level = "error"
        if not outcome.is_required:
            level = "note"
        result = result_of(outcome, options, printable(reason.id), level, text)
        result["properties"] = {"kind": reason.kind}
        if finding.waiver:
            justification = waiver_text(finding.waiver)
            result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": justification}]
        results.append(result)
    return results


def result_of(outcome: Outcome, options: FormOptions, rule: str, level: str, text: str) -> Fields:
    """Return a result about a model's file."""
    path = path_of(outcome, options)
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": text},
        "locations": [_location(outcome, options)],
        "partialFingerprints": {"primaryLocationLineHash": f"{fingerprint(path, rule)[:16]}:1"},
    }


def _location(outcome: Outcome, options: FormOptions) -> Fields:
    uri = _uri(path_of(outcome, options))
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}


def _uri(path: str) -> str:
    """Write the path as a URI reference (RFC 3986). Bytes that are not text are quoted as bytes."""
    if is_address(path):
        escaped = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
        quoted = quote(name_bytes(escaped), safe="/:?=&%#@+,;~")
        return re.sub(r"(//[^/]*)%5B([0-9A-Fa-f:.]+)%5D", r"\1[\2]", quoted, count=1)  # an address of IPv6
    quoted = quote(name_bytes(path))
    if not PurePath(path).is_absolute():
        return quoted
    return f"file:///{quoted.removeprefix('/')}"


def _model(outcome: Outcome, options: FormOptions) -> Fields:
    place = _uri(path_of(outcome, options))
    if isinstance(outcome, Failed):
        return {"uri": place, "verdict": None, "exitCode": outcome.exit_code}
    return {"uri": place, "exitCode": exit_code_of(outcome)} | _facts(outcome)


def _facts(report: Bound) -> Fields:
    return {
        "verdict": report.verdict.verdict,
        "kind": report.verdict.kind,
        "gate": rule_of(report),
        "cautions": cautions(report),
        "preprocessing": pixels_text(report.evidence.preprocessing),
        "digest": printable(report.evidence.model.digest),
        "imagesDigest": printable(report.evidence.images.digest),
        "profile": printable(report.verdict.profile_id),
        "profileDigest": printable(report.verdict.profile_digest),
    }
