"""Compute the statistics, their bounds, and mergeable sums. NumPy only.

Comes in: representations (image, feature), float. May import: evidence (the records it fills), text, errors.
"""

from robustcheck_onnx.checker.evidence import CONTENT_IMAGES, OUTLIER_SD, TOP_FEATURES

from .accumulate import Accumulator, measure
from .definitions import (
    PERSISTENT_SHARE,
    STATISTIC_VERSION,
    effective_rank,
    relative_variance,
    standardise,
    unit_rows,
    usable_rows,
)
from .intervals import (
    CONFIDENCE,
    FIRST_LOOK,
    LOOK_EVERY,
    Accuracy,
    correlation_bounds,
    grouped_jackknife_sd,
    is_look,
    wilson,
    wilson_bounds,
)
from .state import GROUPS, MAX_FEATURES, Measured, jackknife
