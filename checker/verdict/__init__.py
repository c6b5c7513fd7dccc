"""From evidence to a verdict, its reasons, and what the gate makes of them; pure.

Comes in: `Evidence` and a threshold profile. May import: evidence, text, errors, thresholds.
"""

from __future__ import annotations

from .foreseen import foreseen
from .gate import FailOn, Gate, Waiver
from .notes import execution_notes, image_notes, model_notes, notes_of, skipped_note
from .pixels import steps_text
from .reasons import KINDS, NAMES, RULES, Kind
from .rule import SAME_NUMBERS, Reason, Verdict, decided, inside, judge, outside

__all__ = [
    "KINDS",
    "NAMES",
    "RULES",
    "SAME_NUMBERS",
    "FailOn",
    "Gate",
    "Kind",
    "Reason",
    "Verdict",
    "Waiver",
    "decided",
    "execution_notes",
    "foreseen",
    "image_notes",
    "inside",
    "judge",
    "model_notes",
    "notes_of",
    "outside",
    "skipped_note",
    "steps_text",
]
