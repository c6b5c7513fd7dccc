"""The indication that PASS is about, in one definition: labels, rule, reports and documentation mean this by it."""

from __future__ import annotations

from .profile import Statistic
from .reference import TWO_SIDED, Reference

DEFINITION = (
    "strong (its three strongest features make up a kurtosis of 4 or more; ordinary features give about 0.1), "
    "persistent "
    "(the strongest feature is beyond 4 SD on its usual side in at least half of the images) and two-sided (at least a "
    "third of the energy lies on either side of zero, and of each image's median, without the three strongest features)"
)
LEAST: dict[Statistic, float] = {"strength": 4.0, "outlier_frequency": 0.5, "two_sidedness": TWO_SIDED}
"""Round numbers within the gaps of the reference table. A set is labelled by its estimates; a verdict needs bounds
beyond thresholds that are fitted in those gaps (`fit.py`), so it is the stricter of the two."""


def shows_indication(row: Reference) -> bool:
    """Tell whether a set of representations shows the indication, by its estimates."""
    return all(getattr(row, name) >= least for name, least in LEAST.items())
