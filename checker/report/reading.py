"""Read records from files, and find what was edited in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...thresholds import read_bytes
from ...thresholds.profile import digest_of as profile_digest_of
from ...thresholds.profile import wrong_statistics
from ...thresholds.records import earlier_version, is_version, unique_keys
from ..core.verdict.rule import Verdict
from ..errors import NEWER, CannotAssessError, UsageError
from ..text import SCHEMA_VERSION, VERSION, Fields, around, short_digest
from .record import AnyBound, Bound, result_digest_of

LARGEST_REPORT_BYTES = 1 << 26  # of a document: the report of one model has 80 KB


AGAIN = "robustcheck MODEL.onnx --images PATH -o json=report.json"


def read_bound(
    path: Path, kinds: Mapping[str, type[AnyBound]], *, refuse_errors: bool = False
) -> list[tuple[AnyBound, Fields]]:
    """Read the reports of a file. Each comes with its own JSON; it is one report, or one for each of several models.

    A report that was edited is read all the same: see `read_one` and `edits`.

    kinds: the records that are read, by their field `document`; that of a check has none.

    Raises:
        UsageError: not readable, truncated or no JSON, no report, no binding, of a newer schema or tool.
        CannotAssessError: the document holds only errors; with `refuse_errors`, if it holds any error.
    """
    try:
        raw = json.loads(
            read_bytes(path, LARGEST_REPORT_BYTES), object_pairs_hook=unique_keys, parse_constant=_no_constant
        )
    except OSError as fault:
        raise UsageError(f"{path}: report is not readable ({fault.strerror}); it must be a file", AGAIN) from fault
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"{path}: report is not a whole JSON document ({fault}); write it again", AGAIN) from fault
    if not isinstance(raw, dict) or raw.get("tool") != "robustcheck":
        raise UsageError(f"{path}: file is not a report of robustcheck; `-o json=PATH` of a check writes one", AGAIN)
    if (document := str(raw.get("document", ""))) not in kinds:
        needed = "a check or a comparison" if "compare" in kinds else "a check"
        raise UsageError(f"{path}: document is {document[:99]}, not a report of {needed}", AGAIN)
    if not is_version(stated := raw.get("schema_version"), SCHEMA_VERSION):
        made_by = ""
        hint = NEWER
        if stated == 1:
            made_by = "; an earlier version made it"
            hint = AGAIN
        raise UsageError(
            f"{path}: schema_version is {stated!r}{made_by}; this robustcheck reads {SCHEMA_VERSION}", hint
        )
    several = raw.get("reports")
    parts = several if isinstance(several, list) else [raw]
    errors = []
    reports = []
    for part in parts:
        if isinstance(part, dict) and "error" in part:
            errors.append(part["error"])
        else:
            reports.append(_report(path, part, kinds))
    if not reports or (refuse_errors and errors):
        message: object = "no report"
        if errors and isinstance(errors[0], dict):
            message = errors[0].get("message")
        raise CannotAssessError(f"{path}: document reports an error ({message}); check again", AGAIN)
    return reports


def only_one(path: Path, kinds: Mapping[str, type[AnyBound]]) -> AnyBound:
    """Read the record of a one-record file, as robustcheck wrote it.

    Raises as `read_bound`, and:
        UsageError: the file holds several reports.
        CannotAssessError: the report was edited after the check wrote it (`edits`).
    """
    reports = read_bound(path, kinds, refuse_errors=True)
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


def edits(report: Bound, raw: Mapping[str, Any]) -> dict[str, str]:
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
    digest = result_digest_of(raw)
    stated = report.binding.result_digest
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
        verdict = report.judged_again()
    except (LookupError, TypeError, ValueError, ArithmeticError) as fault:
        return faults | {"verdict": f"its evidence can't be judged ({type(fault).__name__})"}
    if (same_tool and verdict != report.verdict) or ruling(verdict) != ruling(report.verdict):
        faults["verdict"] = f"its evidence gives {ruling(verdict)}"
    elif not report.has_own_gate(words=same_tool):
        code = report.gate.exit_code if report.gate else 0
        faults["verdict"] = f"{ruling(verdict)} does not give exit code {code} by its gate"
    return faults


def ruling(verdict: Verdict) -> str:
    """Write a verdict with the ids of its reasons. Example: "WARN (one_sided, too_few_images)"."""
    reasons = ", ".join(reason.id for reason in verdict.reasons)
    return verdict.verdict + around(" (", reasons, ")")


def _otherwise(raw: Any, form: Any, path: str = "", *, every_key: bool) -> str:
    """Find where a JSON value differs from its record. Returns the path; "" if nowhere. True is not 1, nor is 1 1.0.

    every_key: whether the value must have every key that the record has.
    """
    if type(raw) is not type(form):
        return path
    if isinstance(raw, dict):
        if every_key and (missing := form.keys() - raw.keys()):
            return f"{path}.{min(missing)}".removeprefix(".")
        parts = {f"{path}.{name}".removeprefix("."): (raw[name], form[name]) for name in raw}
    elif isinstance(raw, list):
        if len(raw) != len(form):
            return path
        pairs = zip(raw, form, strict=True)
        parts = {f"{path}[{index}]": pair for index, pair in enumerate(pairs)}
    else:
        return "" if raw == form else path
    for inner, (one, other) in parts.items():
        if place := _otherwise(one, other, inner, every_key=every_key):
            return place
    return ""


def _report(path: Path, raw: Any, kinds: Mapping[str, type[AnyBound]]) -> tuple[AnyBound, Fields]:
    kind = None
    if isinstance(raw, dict) and "verdict" in raw:
        kind = kinds.get(str(raw.get("document", "")))
    if kind is None:
        raise UsageError(f"{path}: document is not a report of a check; `-o json=PATH` of a check writes one", AGAIN)
    theirs = raw.get("tool_version")
    ours = VERSION
    if _release(theirs) > _release(ours):
        raise UsageError(
            f"{path}: tool_version is {theirs}; this is robustcheck {ours}, which can't read reports of newer versions",
            NEWER,
        )
    try:
        report = kind.model_validate(raw)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        rule = f"it must be as written{earlier_version(fault)}"
        raise UsageError(f"{path}: report has a wrong {where} ({first['msg']}); {rule}", AGAIN) from fault
    except RecursionError as fault:
        raise UsageError(f"{path}: report has a wrong content (too deep); it must be as written", AGAIN) from fault
    if report.binding is None:
        raise UsageError(f"{path}: report has no binding; only a bound one can be verified", AGAIN)
    if wrong := wrong_statistics(report.profile):
        raise UsageError(f"{path}: its profile: {wrong}", AGAIN)
    return report, raw


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _release(text: object) -> tuple[int, ...]:
    """Return the numbers of a version. One that can't be read counts as newer than all."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9}){0,5})(\D.*)?", str(text))
    return tuple(map(int, match[1].split("."))) if match else (10**9,)
