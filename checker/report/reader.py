"""Read reports and find edits. The predicate of one and the file of its signature are here, too.

It is the predicate of an in-toto statement alone: whoever signs adds the model's file as the subject, and the type.

It is a signed verdict next to its report. Light, for a run that ends early.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from robustcheck_onnx.checker.errors import NEWER, CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.text import (
    HOME,
    SCHEMA_VERSION,
    VERSION,
    as_json,
    error_json,
    once,
    quoted,
    sha256_of,
    short_digest,
)
from robustcheck_onnx.checker.verdict import gate
from robustcheck_onnx.checker.verdict.rule import Verdict, judge
from robustcheck_onnx.thresholds.profile import digest_of as profile_digest_of
from robustcheck_onnx.thresholds.profile import is_version, wrong_statistics

from . import forms
from .forms import FormOptions
from .record import Failed, Outcome, Report, result_digest_of

AGAIN = "robustcheck MODEL.onnx --images PATH -o json=report.json"


def read(path: Path, *, whole: bool = False) -> list[tuple[Report, dict[str, Any]]]:
    """Read the reports of a file. Each comes with its own JSON; it is one report, or one for each of several models.

    A report that was edited is read all the same: see `read_one` and `edits`.

    Raises:
        UsageError: not readable, truncated or no JSON, no report, no binding, of a newer schema or tool.
        CannotAssessError: the document holds only errors; with `whole`, also where it holds an error next to reports.
    """
    try:
        raw = json.loads(path.read_bytes(), object_pairs_hook=once, parse_constant=_no_constant)
    except OSError as fault:
        raise UsageError(f"{path}: report is not readable ({fault.strerror}); it must be a file", AGAIN) from fault
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"{path}: report is not a whole JSON document ({fault}); write it again", AGAIN) from fault
    if not isinstance(raw, dict) or raw.get("tool") != "robustcheck":
        raise UsageError(f"{path}: file is not a report of robustcheck; `-o json=PATH` of a check writes one", AGAIN)
    if not is_version(stated := raw.get("schema_version"), SCHEMA_VERSION):
        hint = AGAIN if stated == 1 else NEWER
        raise UsageError(f"{path}: schema_version is {stated!r}; this robustcheck reads {SCHEMA_VERSION}", hint)
    several = raw.get("reports")
    parts = several if isinstance(several, list) else [raw]
    errors = [part["error"] for part in parts if isinstance(part, dict) and "error" in part]
    reports = [_report(path, part) for part in parts if not (isinstance(part, dict) and "error" in part)]
    if not reports or (whole and errors):
        message = errors[0].get("message") if errors and isinstance(errors[0], dict) else "no report"
        raise CannotAssessError(f"{path}: document reports an error ({message}); check again", AGAIN)
    return reports


def read_one(path: Path) -> Report:
    """Read the report of a one-report file. It must be as a check wrote it.

    Raises as `read`, and:
        UsageError: the file holds several reports.
        CannotAssessError: the report was edited after the check wrote it (`edits`).
    """
    reports = read(path, whole=True)
    if len(reports) != 1:
        raise UsageError(
            f"{path}: document holds {len(reports)} reports; it must hold one", "check the models one by one"
        )
    report, raw = reports[0]
    if faults := edits(report, raw):
        listed = "; ".join(f"{part}: {fault}" for part, fault in faults.items())
        raise CannotAssessError(
            f"{path}: report was edited ({listed}); an edited verdict does not count",
            "robustcheck model.onnx --images photos/ -o json=report.json",
        )
    return report


def edits(report: Report, raw: Mapping[str, Any]) -> dict[str, str]:
    """Find the parts of a report that were edited. Model and images are not needed; parts are report, profile, verdict.

    Checked are its digest, the seal of its profile, and that its evidence gives its verdict. Another tool that computes
    a digest of its own passes; only a signature or a second run vouches for the numbers.

    Args:
        report, raw: from `read`.

    Returns:
        A sentence for each part that does not hold; empty if all hold.
    """
    assert report.binding is not None
    faults: dict[str, str] = {}
    # an older robustcheck may have had fewer fields, and other words for the same reasons
    same_tool = report.tool_version == VERSION
    digest, stated = result_digest_of(raw), report.binding.result_digest
    bound_version = report.binding.versions.get("robustcheck")
    if digest != stated:
        faults["report"] = f"content has {short_digest(digest)}…, the report states {short_digest(stated)}…"
    elif bound_version != report.tool_version:
        faults["report"] = f"tool_version is {report.tool_version}, its binding states {bound_version}"
    elif where := _otherwise(raw, report.model_dump(mode="json"), every_key=same_tool):
        faults["report"] = f"{where} is not written as a check writes it"
    profile = report.profile
    if not profile_digest_of(profile) == profile.digest == report.verdict.profile_digest:
        faults["profile"] = f"{profile.id} was changed after it was sealed"
    try:
        verdict = judge(report.evidence, profile)
    except (KeyError, TypeError, ValueError, ArithmeticError) as fault:
        return faults | {"verdict": f"its evidence can't be judged ({type(fault).__name__})"}
    if '"finding": "warn"' in json.dumps(raw["evidence"].get("detectors")):  # whatever its verdict says
        faults["verdict"] = "a plug-in of an earlier version warned, and none is run any more; check the model again"
    elif (same_tool and verdict != report.verdict) or ruling(verdict) != ruling(report.verdict):
        faults["verdict"] = f"its evidence gives {ruling(verdict)}"
    elif report.gate is not None and not gate.fits(report.gate, report.verdict, words=same_tool):
        faults["verdict"] = f"{ruling(verdict)} does not give exit code {report.gate.exit_code} by its gate"
    return faults


def ruling(verdict: Verdict) -> str:
    """Write a verdict with the ids of its reasons. Example: "WARN (rectified, too_few_images)"."""
    reasons = ", ".join(reason.id for reason in verdict.reasons)
    return f"{verdict.verdict} ({reasons})" if reasons else verdict.verdict


def _otherwise(raw: Any, form: Any, path: str = "", *, every_key: bool) -> str:
    """Find where a JSON value differs from its record. Returns the path; "" if nowhere. True is not 1, nor is 1 1.0.

    every_key: whether the value must have every key that the record has.
    """
    if type(raw) is not type(form):
        return path
    if isinstance(raw, dict):
        if every_key and (missing := form.keys() - raw.keys()):
            return f"{path}.{min(missing)}".removeprefix(".")
        # a key that the record has not is one that earlier versions wrote: it took no part, and any other was refused
        parts = [(raw[name], form[name], f"{path}.{name}".removeprefix(".")) for name in raw if name in form]
    elif isinstance(raw, list):
        if len(raw) != len(form):
            return path
        parts = [(one, other, f"{path}[{index}]") for index, (one, other) in enumerate(zip(raw, form, strict=True))]
    else:
        return "" if raw == form else path
    return next(
        (found for one, other, inner in parts if (found := _otherwise(one, other, inner, every_key=every_key))), ""
    )


def _report(path: Path, raw: Any) -> tuple[Report, dict[str, Any]]:
    if not isinstance(raw, dict) or "document" in raw or "verdict" not in raw:
        raise UsageError(f"{path}: document is not a report of a check; `-o json=PATH` of a check writes one", AGAIN)
    theirs, ours = raw.get("tool_version"), VERSION
    if _release(theirs) > _release(ours):
        raise UsageError(
            f"{path}: tool_version is {theirs}; this is robustcheck {ours}, which can't read reports of newer versions",
            NEWER,
        )
    try:
        report = Report.model_validate(raw)
    except (ValidationError, RecursionError) as fault:
        first = fault.errors(include_url=False)[0] if isinstance(fault, ValidationError) else None
        where = ".".join(str(part) for part in first["loc"]) if first else "content"
        raise UsageError(
            f"{path}: report has a wrong {where} ({first['msg'] if first else 'too deep'}); it must be as written",
            AGAIN,
        ) from fault
    if report.binding is None:
        raise UsageError(f"{path}: report has no binding; only a bound one can be verified", AGAIN)
    if wrong := wrong_statistics(report.profile):
        raise UsageError(f"{path}: its profile: {wrong}", AGAIN)
    return report, raw


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _release(text: object) -> tuple[int, ...]:
    """Return the numbers of a version. One that can't be read counts as newer than all."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9}){0,5})\D.*|(\d{1,9}(?:\.\d{1,9}){0,5})", str(text))
    return tuple(map(int, (match.group(1) or match.group(2)).split("."))) if match else (10**9,)


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


def write_predicate(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the predicate about one model, or its error. `forms.render` refuses several.

    The digest in it is that of the document that `-o json=PATH` writes about this model alone in the same run.
    """
    (outcome,) = outcomes
    if isinstance(outcome, Failed):
        return error_json(outcome.message, outcome.hint, outcome.exit_code)
    return as_json(predicate_of(outcome, sha256_of(forms.write_json([outcome], options).encode())))


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


MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
LARGEST_BYTES: Final = 1 << 20  # of a bundle file; usual ones have some KB


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
        if not bundle.is_file() or bundle.stat().st_size > LARGEST_BYTES:
            return False
        document = json.loads(bundle.read_bytes())
        statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        return bool(document["mediaType"] == MEDIA_TYPE and statement["predicateType"] in KNOWN_TYPES)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # another file
