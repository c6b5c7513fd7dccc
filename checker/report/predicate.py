"""Write the predicate form and name its type. It attests one model, for tools that sign. Pure.

It is the predicate of an in-toto statement alone: whoever signs adds the model's file as the subject, and the type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from robustcheck_onnx.checker.text import HOME, as_json, error_json, sha256_of

from . import json
from .forms import FormOptions
from .record import Failed, Outcome, Report, result_digest_of

WITHOUT_HOME: Final = "urn:uuid:1af3a2e2-647e-495d-b4d2-9de74380a850"
"""The name while HOME is empty. A UUID is a URI that belongs to whoever drew it: it claims no address of anybody, and
no other kind of predicate can have it. Drawn once; what was signed under it stays valid."""
EARLIER: Final = "https://robustcheck-onnx.invalid/attestation/verdict-1"  # in signatures of versions before


def type_under(home: str) -> str:
    """Return the predicate type of a project. `home` is the address of its repository; empty: nowhere yet.

    >>> type_under("https://example.org/robustcheck/")
    'https://example.org/robustcheck/attestation/verdict/v1'
    """
    return f"{home.rstrip('/')}/attestation/verdict/v1" if home else WITHOUT_HOME


PREDICATE_TYPE: Final = type_under(HOME)
KNOWN_TYPES: Final = (PREDICATE_TYPE, WITHOUT_HOME, EARLIER)
"""Types of statements that are read; the first one is written"""
HOME_NOTE: Final = (
    ""
    if HOME
    else f"HOME in checker/text.py is not set, so the predicate type is {WITHOUT_HOME}; once it is set, one under the "
    "project's address follows, and what is signed now stays valid"
)
"""What signing says; empty once HOME is set"""


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the predicate about one model, or its error. `forms.render` refuses several.

    The digest in it is that of the document that `-o json=PATH` writes about this model alone in the same run.
    """
    (outcome,) = outcomes
    if isinstance(outcome, Failed):
        return error_json(outcome.message, outcome.hint, outcome.exit_code)
    return as_json(predicate_of(outcome, sha256_of(json.render([outcome], options).encode())))


def predicate_of(report: Report, report_digest: str) -> dict[str, Any]:
    """Return what is attested.

    It is the verdict, and the digests of all that it rests on; the same report gives the same predicate.

    Args:
        report: sealed.
        report_digest: sha256:… of the file that holds the report, every byte of it.
    """
    evidence, bound = report.evidence, report.binding
    result = bound.result_digest if bound else result_digest_of(report.model_dump(mode="json"))
    return {
        "tool": {"name": report.tool, "version": report.tool_version},  # first: `storage.stores.OURS`
        "verdict": report.verdict.verdict,
        "reasons": [reason.id for reason in report.verdict.reasons],
        "report": {"digest": sha256_set(report_digest)},
        "result": {"digest": sha256_set(result)},
        "profile": {"id": report.profile.id, "digest": sha256_set(report.profile.digest)},
        "images": {"digest": sha256_set(evidence.images.digest), "count": evidence.statistics.n_images},
        "time": report.time.started if report.time else None,
    }


def sha256_set(digest: str) -> dict[str, str]:
    """Write a `sha256:…` digest as in-toto does."""
    return {"sha256": digest.removeprefix("sha256:")}
