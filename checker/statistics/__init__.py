"""The statistics: their definitions, their confidence bounds, and sums over images that can be merged. NumPy only.

Comes in: representations (image, feature), float. May import: evidence (the records it fills), text, errors.
"""

from __future__ import annotations

from .definitions import (
    FREQUENT_SD,
    OUTLIER_SD,
    PERSISTENT_SHARE,
    STATISTIC_VERSION,
    TOP_FEATURES,
    standardise,
    usable_rows,
)
from .intervals import (
    CONFIDENCE,
    LOOK_EVERY,
    Accuracy,
    grouped_jackknife_sd,
    wilson,
)
from .state import GROUPS, Measured, jackknife

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
    "Measured",
    "grouped_jackknife_sd",
    "jackknife",
    "standardise",
    "usable_rows",
    "wilson",
]
