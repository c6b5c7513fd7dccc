"""Arrays in, numbers out: the statistics' definitions, their bounds, and sums that merge. NumPy only.

Comes in: representations (image, feature), float. May import: evidence (the records it fills), text, errors.
"""

from __future__ import annotations

from .definitions import (
    FREQUENT_SD,
    OUTLIER_SD,
    PERSISTENT_SHARE,
    STATISTIC_VERSION,
    TOP_FEATURES,
    Energies,
    moments,
    standardise,
    top_features,
    usable_rows,
)
from .intervals import (
    CONFIDENCE,
    LOOK_EVERY,
    Accuracy,
    Difference,
    difference,
    grouped_jackknife_sd,
    is_correct,
    next_look,
    wilson,
)
from .state import GROUPS, Measured

__all__ = [
    "CONFIDENCE",
    "FREQUENT_SD",
    "GROUPS",
    "LOOK_EVERY",
    "OUTLIER_SD",
    "PERSISTENT_SHARE",
    "STATISTIC_VERSION",
    "TOP_FEATURES",
    "Accuracy",
    "Difference",
    "Energies",
    "Measured",
    "difference",
    "grouped_jackknife_sd",
    "is_correct",
    "moments",
    "next_look",
    "standardise",
    "top_features",
    "usable_rows",
    "wilson",
]
