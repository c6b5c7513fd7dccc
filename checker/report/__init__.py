"""The report: one record and all its forms. It is pure, thumbnails apart.

Comes in: a `Report`, or what failed. May import: verdict, statistics, evidence, text, thresholds. One file a form.
"""

from __future__ import annotations

from .forms import FormOptions, one_model
from .github import SUMMARY_BYTES
from .layout import (
    COLOURS,
    INDENT,
    Pen,
    Ruled,
    Trimmed,
    bar_chart,
    bullets,
    columns,
    hanging,
    labelled,
    line,
    noted,
    notes,
    reasons,
    section,
    spaced,
    verdict_line,
)
from .outcome import cautions, exit_code_of
from .reader import edits, read, read_one, ruling
from .record import (
    CLAIM,
    Binding,
    Clock,
    Failed,
    Judged,
    ModelRead,
    NoTruth,
    Outcome,
    ReferenceRow,
    Report,
    Settings,
    Time,
    json_schema,
    sealed,
)
from .terminal import reason_ids, step_lines
from .words import SIGNS, meaning_text, verdict_text
