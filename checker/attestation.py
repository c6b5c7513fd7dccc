"""A verdict as an in-toto statement: what a policy engine reads, and what a signature covers; pure."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcheck_onnx.checker.report import Report

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://robustcheck-onnx.invalid/attestation/verdict-1"  # a name, not an address
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def statement(report: Report, report_digest: str) -> dict[str, Any]:
    """The statement about one report; the same report gives the same statement.

    Its subjects are the model's file and each file of external weights, by name and sha256.

    Args:
        report: with a binding.
        report_digest: sha256:… of the file that holds the report, every byte of it.
    """
    assert report.binding is not None
    evidence = report.evidence
    files = [(PurePath(evidence.model.file).name, evidence.model.file_digest), *evidence.model.external_digests.items()]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": _sha256(digest)} for name, digest in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "verdict": report.verdict.verdict,
            "reasons": [reason.id for reason in report.verdict.reasons],
            "report": {"digest": _sha256(report_digest)},
            "result": {"digest": _sha256(report.binding.result_digest)},
            "profile": {"id": report.profile.id, "digest": _sha256(report.profile.digest)},
            "images": {"digest": _sha256(evidence.images.digest), "count": evidence.statistics.n_images},
            "tool": {"name": report.tool, "version": report.tool_version},
            "time": report.time.started if report.time else None,
        },
    }


def differences(signed: bytes, expected: dict[str, Any]) -> tuple[str, ...]:
    """What a signed payload says otherwise than the statement about this report, in words; empty if nothing."""
    try:
        found = json.loads(signed)
    except (ValueError, RecursionError):
        return ("it is no JSON",)
    if not isinstance(found, dict):
        return ("it is no statement",)
    out = [
        f"its {key} is another one"
        for key in ("_type", "predicateType", "subject")
        if found.get(key) != expected[key]
    ]  # fmt: skip
    theirs, ours = found.get("predicate"), expected["predicate"]
    if not isinstance(theirs, dict):
        return (*out, "it has no predicate")
    out += [f"its {key} is {_shown(theirs.get(key))}" for key in ours if theirs.get(key) != ours[key]]
    if not out and found != expected:
        out.append("it says more than the report does")
    return tuple(out)


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest.removeprefix("sha256:")}


def _shown(value: object) -> str:
    return json.dumps(value)[:100]
