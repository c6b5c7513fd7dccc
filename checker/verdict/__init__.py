"""Turn evidence into a verdict, reasons, and an exit code. All of it is pure.

Comes in: `Evidence` and a threshold profile. May import: evidence, text, errors, thresholds.
"""

from __future__ import annotations

from .gate import Accept, FailOn, Gate, Loosening, Waiver
from .notes import (
    BUNDLED_NOTE,
    HEAD_NOTE,
    ON_BUNDLED,
    execution_notes,
    fallback_note,
    image_notes,
    load_profile,
    memory_note,
    model_notes,
    notes_of,
    skipped_note,
)
from .pixels import steps_text
from .reasons import KINDS, NAMES, RENAMED, RULES, Kind, below_reasons
from .rule import Reason, Verdict, decided, describe, foreseen, inside, judge, limit_of, outside, reason, verdict_for
