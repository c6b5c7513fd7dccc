"""Compare a candidate with its reference. Both models run on the same images.

Comes in: two models. May import: measure, report and what is below them.
"""

from . import document, pipelines  # they register how a comparison is shown
from .baseline import Baseline
from .index_report import IndexOptions, Required
from .judge import CompareReport, FirstBaseline
from .run import CompareOptions, compare
from .stored import VectorsReport
