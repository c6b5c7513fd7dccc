"""Attest a verdict: the predicate of an in-toto statement, and the files of signed ones.

What is attested is the predicate alone: whoever signs adds the model's file as the subject, and the type.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from ...thresholds import read_start
from ..errors import EnvironmentFaultError
from ..text import HOME, Fields, quoted
from .record import Bound, result_digest_of

WITHOUT_HOME = "urn:uuid:1af3a2e2-647e-495d-b4d2-9de74380a850"
"""The name while HOME is empty. A UUID is a URI that belongs to whoever drew it: it claims no address of anybody, and
no other kind of predicate can have it. Drawn once; what was signed under it stays valid."""


def type_under(home: str) -> str:
    """Return the predicate type of a project. `home` is the address of its repository; empty: nowhere yet.

    >>> type_under("https://example.org/robustcheck/")
    'https://example.org/robustcheck/attestation/verdict/v1'
    """
    return f"{home.rstrip('/')}/attestation/verdict/v1" if home else WITHOUT_HOME


PREDICATE_TYPE = type_under(HOME)


PREDICATE_TYPES = (PREDICATE_TYPE, WITHOUT_HOME)
"""Types of statements that are read; the first one is written"""


HOME_NOTE = (
    ""
    if HOME
    else f"HOME in checker/text.py is not set, so the predicate type is {WITHOUT_HOME}; once it is set, one under the "
    "project's address follows, and what is signed now stays valid"
)
"""What signing says; empty once HOME is set"""


def predicate_of(report: Bound, report_digest: str) -> Fields:
    """Return what is attested: the verdict, and the digests of all that it rests on.

    The same report gives the same predicate.

    Args:
        report: sealed.
        report_digest: sha256:… of the file that holds the report, every byte of it.
    """
    evidence = report.evidence
    bound = report.binding
    result = bound.result_digest if bound else result_digest_of(report.model_dump(mode="json"))
    return {
        "tool": {"name": report.tool, "version": report.tool_version},  # first: `storage.documents.OURS`
        "verdict": report.verdict.verdict,
        "reasons": [reason.id for reason in report.verdict.reasons],
        "report": {"digest": sha256_set(report_digest)},
        "result": {"digest": sha256_set(result)},
        "profile": {"id": report.profile.id, "digest": sha256_set(report.profile.digest)},
        "images": {"digest": sha256_set(evidence.images.digest), "count": evidence.statistics.n_images},
        "time": report.time.started if report.time else None,
        **report.attested(),
    }


def sha256_set(digest: str) -> dict[str, str]:
    """Write a `sha256:…` digest as in-toto does."""
    return {"sha256": digest.removeprefix("sha256:")}


MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


LARGEST_BYTES = 1 << 20  # of a bundle file; usual ones have some KB


_PAYLOAD = re.compile(rb'"payload":\s*"([^"]*)"')


def bundle_of(report: Path) -> Path:
    """Return the default file of a report's signature."""
    return report.with_suffix(".sigstore.json")


def remove_verdict(bundle: Path) -> None:
    """Remove a signed verdict's file. Any other file stays.

    Raises EnvironmentFaultError where it can't be removed.
    """
    try:
        if is_verdict(bundle):
            bundle.unlink()
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{bundle}: earlier signature is not removed ({fault.strerror}); it must not stay next to a new report",
            f"ls -ld {quoted(bundle)}",
        ) from fault


def is_verdict(bundle: Path) -> bool:
    """Return whether a file is a signed verdict. Anybody may have signed it. Raises OSError where it can't be read."""
    try:
        if not bundle.is_file():
            return False
        content = read_start(bundle, LARGEST_BYTES)
        payload = _PAYLOAD.search(content)
        statement = base64.b64decode(payload[1]) if payload else b""
    except ValueError:  # the payload is not base64
        return False
    return MEDIA_TYPE.encode() in content and any(f'"{kind}"'.encode() in statement for kind in PREDICATE_TYPES)
