"""Accuracy on labelled shifted images next to the verdict.

Comes in: a model with a head and labelled image sets. May import: measure, report and what is below them.
"""

from __future__ import annotations

from . import labels, robustness, sets
from .records import SetResult, Shifted, ShiftReport
from .run import Several, measure_shift
