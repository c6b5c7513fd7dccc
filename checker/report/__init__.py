"""The report: one record, and each form in which it is handed over; pure (thumbnails apart).

Comes in: a `Report`, or what failed. May import: verdict, statistics, evidence, text, thresholds. One file a form.
"""

from __future__ import annotations

from .forms import Options, one_model
from .github import SUMMARY_BYTES
from .layout import INDENT, Pen, Trimmed, columns, hanging, line, section
from .markdown import MARK, code, measured, reasons, text
from .outcome import exit_code_of, findings
from .reader import edits, read, read_one, ruling
from .record import (
    CLAIM,
    Binding,
    Failed,
    Outcome,
    Placed,
    Report,
    Settings,
    Time,
    json_schema,
    result_digest_of,
    sealed,
)
from .words import meaning_text

__all__ = [
    "CLAIM",
    "INDENT",
    "MARK",
    "SUMMARY_BYTES",
    "Binding",
    "Failed",
    "Options",
    "Outcome",
    "Pen",
    "Placed",
    "Report",
    "Settings",
    "Time",
    "Trimmed",
    "code",
    "columns",
    "edits",
    "exit_code_of",
    "findings",
    "hanging",
    "json_schema",
    "line",
    "meaning_text",
    "measured",
    "one_model",
    "read",
    "read_one",
    "reasons",
    "result_digest_of",
    "ruling",
    "sealed",
    "section",
    "text",
]
