"""Reports read back from a file that anybody may have written or changed: every part is checked."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.thresholds.profile import STATISTICS

from .record import Report

AGAIN = "robustcheck MODEL.onnx --images PATH -o json=report.json"


def read(path: Path, *, whole: bool = False) -> list[tuple[Report, dict[str, Any]]]:
    """Read the reports in a file, one or those of a document of several models, each with its JSON as it stands there.

    Raises:
        UsageError: not readable, truncated or no JSON, no report, no binding, of a newer schema or tool.
        CannotAssessError: the document holds errors only; with `whole`, also of one beside its reports.
    """
    try:
        raw = json.loads(path.read_bytes(), object_pairs_hook=_once, parse_constant=_no_constant)
    except OSError as fault:
        raise UsageError(f"{path}: report is not readable ({fault.strerror}); it must be a file", AGAIN) from fault
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"{path}: report is no whole JSON document ({fault}); write it again", AGAIN) from fault
    if not isinstance(raw, dict) or raw.get("tool") != "robustcheck":
        raise UsageError(f"{path}: file is no report of robustcheck; `-o json=PATH` of a check writes one", AGAIN)
    if raw.get("schema_version") != 1:
        raise UsageError(
            f"{path}: schema_version is {raw.get('schema_version')!r}; this robustcheck reads 1",
            "pip install --upgrade robustcheck-onnx",
        )
    several = raw.get("reports")
    parts = several if isinstance(several, list) else [raw]
    errors = [part["error"] for part in parts if isinstance(part, dict) and "error" in part]
    reports = [_report(path, part) for part in parts if not (isinstance(part, dict) and "error" in part)]
    if not reports or (whole and errors):
        error = errors[0].get("message") if errors and isinstance(errors[0], dict) else "no report"
        raise CannotAssessError(f"{path}: document tells of an error ({error}); check again", AGAIN)
    return reports


def _report(path: Path, raw: Any) -> tuple[Report, dict[str, Any]]:
    if not isinstance(raw, dict) or "document" in raw or "verdict" not in raw:
        raise UsageError(f"{path}: document is no report of a check; `-o json=PATH` of a check writes one", AGAIN)
    theirs, ours = raw.get("tool_version"), version("robustcheck-onnx")
    if _release(theirs) > _release(ours):
        raise UsageError(
            f"{path}: tool_version is {theirs}; this is robustcheck {ours}, which can't know what a newer one means",
            "pip install --upgrade robustcheck-onnx",
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
    if missing := [name for name in STATISTICS if name not in report.profile.thresholds]:
        raise UsageError(f"{path}: its profile lacks {', '.join(missing)}; all six thresholds are needed", AGAIN)
    return report, raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key twice: readers differ in which of the two values they take."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands in it twice")
    return out


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _release(text: object) -> tuple[int, ...]:
    """Return the numbers of a version; one that can't be read counts as newer than all."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9}){0,5})\D.*|(\d{1,9}(?:\.\d{1,9}){0,5})", str(text))
    return tuple(map(int, (match.group(1) or match.group(2)).split("."))) if match else (10**9,)
