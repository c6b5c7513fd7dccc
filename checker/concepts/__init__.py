"""Which concepts of a labelled set single directions of a representation tell, and what chance would give.

Comes in: a model and a concept set. May import: measure, report and what is below them.
"""

from __future__ import annotations

from .records import ConceptsReport
from .run import concepts
