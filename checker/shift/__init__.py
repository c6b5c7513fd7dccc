"""Accuracy on labelled shifted images beside the verdict.

Comes in: a model with a head and labelled image sets. May import: measure, report and what is below them.
"""

from __future__ import annotations

from . import call, labels, robustness
from .records import SetResult, Shifted, ShiftReport, to_json
from .run import measure_shift

__all__ = ["SetResult", "ShiftReport", "Shifted", "call", "labels", "measure_shift", "robustness", "to_json"]
