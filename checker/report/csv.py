"""The CSV form (RFC 4180): a row for each model and statistic, one row for a model without a verdict; pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from robustcheck_onnx.checker.text import VERSION, printable

from .forms import FormOptions
from .outcome import cautions, exit_code_of, findings, model_of
from .record import Failed, Outcome, Report
from .words import statistics_of

COLUMNS = (
    *("robustcheck_version", "model", "verdict", "kind", "exit_code", "reasons", "waived", "cautions", "error", "hint"),
    *("statistic", "estimate", "low", "high", "threshold", "clears"),
    *("images", "features", "model_digest", "images_digest", "profile", "profile_digest", "started", "wall_s"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""what a spreadsheet takes for the start of a formula"""


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write lines that end in CR LF; the first names the columns, and what could not be measured is an empty cell."""
    del options
    file = io.StringIO()
    rows = csv.DictWriter(file, COLUMNS, restval="", quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n")
    rows.writeheader()
    for outcome in outcomes:
        cells = _error(outcome) if isinstance(outcome, Failed) else _rows(outcome)
        rows.writerows({column: _cell(value) for column, value in row.items()} for row in cells)
    return file.getvalue()


def _cell(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would run as a formula; numbers stay numbers."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _error(failed: Failed) -> list[dict[str, object]]:
    return [
        {
            "robustcheck_version": VERSION,
            "model": failed.model,
            "verdict": "ERROR",
            "exit_code": failed.exit_code,
            "error": failed.message,
            "hint": failed.hint,
        }
    ]


def _rows(report: Report) -> list[dict[str, object]]:
    evidence, reasons = report.evidence, findings(report)
    common: dict[str, object] = {
        "robustcheck_version": report.tool_version,
        "model": model_of(report),
        "verdict": report.verdict.verdict,
        "kind": report.verdict.kind,
        "exit_code": exit_code_of(report),
        "reasons": " ".join(f.reason.id for f in reasons),
        "waived": " ".join(f.reason.id for f in reasons if f.waiver),
        "cautions": "; ".join(cautions(report)),
        "images": evidence.statistics.n_images,
        "features": evidence.statistics.n_features,
        "model_digest": evidence.model.digest,
        "images_digest": evidence.images.digest,
        "profile": report.verdict.profile_id,
        "profile_digest": report.verdict.profile_digest,
        "started": report.time.started if report.time else None,
        "wall_s": report.time.wall_s if report.time else None,
    }
    return [
        common
        | {
            "statistic": s.id,
            "estimate": s.interval.estimate,
            "low": s.interval.low,
            "high": s.interval.high,
            "threshold": s.minimum,
            "clears": s.clears,
        }
        for s in statistics_of(report)
    ]
