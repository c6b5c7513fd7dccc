"""Accuracy on labelled shifted images beside the verdict.

Comes in: a model with a head and labelled image sets. May import: measure, report and what is below them.
"""

from __future__ import annotations

from .records import ShiftReport, to_json
from .run import measure_shift

__all__ = ["ShiftReport", "measure_shift", "to_json"]
