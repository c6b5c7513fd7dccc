"""Did a candidate keep what its reference had? Both models run on the same images.

Comes in: two models. May import: measure, report and what is below them.
"""

from __future__ import annotations

from .baseline import Baseline
from .judge import CompareReport, FirstBaseline
from .run import CompareOptions, compare
