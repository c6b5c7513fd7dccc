"""Write the SARIF 2.1.0 form. It is one run, a rule per reason id, and a result per reason and model; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from robustcheck_onnx.checker.text import VERSION, as_json, printable
from robustcheck_onnx.checker.verdict.reasons import RULES

from .forms import FormOptions
from .outcome import (
    NOT_ASSESSED,
    NOT_ASSESSED_HELP,
    NOT_ASSESSED_TITLE,
    cautions,
    exit_code_of,
    findings,
    fingerprint,
    is_address,
    name_bytes,
    names_of,
    path_of,
    rule_of,
    waiver_text,
)
from .record import CLAIM, Failed, Outcome, Report

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
Node = dict[str, Any]


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one run. A model that could not be assessed is a notification and a result of level error.

    The result next to the notification is there because code-scanning services read results only: without it, a run
    that failed would close all findings of the model, which reads as a PASS.
    """
    return document(outcomes, options, "robustcheck/")


def document(outcomes: Sequence[Outcome], options: FormOptions, category: str) -> str:
    """Write the SARIF document under a category.

    An upload replaces what was uploaded under its category before, nothing else.
    """
    names = [f"{name}: " for name in names_of(outcomes)] if len(outcomes) > 1 else [""]
    results = [r for name, outcome in zip(names, outcomes, strict=False) for r in _results(outcome, options, name)]
    failed = [o for o in outcomes if isinstance(o, Failed)]
    invocation: Node = {"executionSuccessful": not failed, "exitCode": max(map(exit_code_of, outcomes), default=70)}
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
    said = dict.fromkeys(text for o in outcomes if isinstance(o, Report) for text in cautions(o))
    if said:
        invocation["toolConfigurationNotifications"] = [{"level": "note", "message": {"text": text}} for text in said]
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


def _rules() -> list[Node]:
    """List all reasons of this version. Whether they occur does not matter."""
    known = [(name, rule.title, rule.explanation, rule.next_step) for name, rule in RULES.items()]
    known.append((NOT_ASSESSED, NOT_ASSESSED_TITLE, NOT_ASSESSED_HELP, "Do what the hint says, and run again."))
    return [
        {
            "id": name,
            "shortDescription": {"text": title},
            "fullDescription": {"text": explanation},
            "help": {"text": f"{explanation}\n\nNext step: {step}"},
            "defaultConfiguration": {"level": "error" if name == NOT_ASSESSED else "warning"},
        }
        for name, title, explanation, step in known
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
        result = _result(outcome, options, printable(reason.id), "warning", text)
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
        "partialFingerprints": {"primaryLocationLineHash": f"{fingerprint(path, rule)[:16]}:1"},
    }


def _location(outcome: Outcome, options: FormOptions) -> Node:
    uri = _uri(path_of(outcome, options))
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}


def _uri(path: str) -> str:
    """Write the path as a URI reference (RFC 3986). Bytes that are not text are quoted as bytes."""
    if is_address(path):
        escaped = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
        quoted = quote(name_bytes(escaped), safe="/:?=&%#@+,;~")
        return re.sub(r"(//[^/]*)%5B([0-9A-Fa-f:.]+)%5D", r"\1[\2]", quoted, count=1)  # an address of IPv6
    quoted = quote(name_bytes(path))
    return f"file://{'' if quoted.startswith('/') else '/'}{quoted}" if PurePath(path).is_absolute() else quoted


def _error_text(failed: Failed) -> str:
    hint = f"\nhint: {printable(failed.hint)}" if failed.hint else ""
    return f"{NOT_ASSESSED_TITLE}: {printable(failed.message)}{hint}"


def _model(outcome: Outcome, options: FormOptions) -> Node:
    place = _uri(path_of(outcome, options))
    if isinstance(outcome, Failed):
        return {"uri": place, "verdict": None, "exitCode": outcome.exit_code}
    return {"uri": place, "exitCode": exit_code_of(outcome)} | _facts(outcome)


def _facts(report: Report) -> Node:
    return {
        "verdict": report.verdict.verdict,
        "kind": report.verdict.kind,
        "gate": rule_of(report),
        "cautions": cautions(report),
        "digest": printable(report.evidence.model.digest),
        "imagesDigest": printable(report.evidence.images.digest),
        "profile": printable(report.verdict.profile_id),
        "profileDigest": printable(report.verdict.profile_digest),
    }
