"""The indication that PASS is about, in one definition: labels, rule, reports and documentation mean this by it."""

from __future__ import annotations

from collections.abc import Mapping

from .profile import ENERGIES, Statistic

DEFINITION = (
    "signed (at least a third of the energy lies on either side of zero, and of each image's median, without the three "
    "strongest features), strong (activation kurtosis of 7.5 or more; Gaussian features have 3), persistent (1.5 times "
    "the kurtosis that is left without each feature's mean, or more; and the strongest feature is beyond 4 SD on one "
    "side in at least half of the images) and carried by few features (a third of the kurtosis or more by three)"
)
LEAST: dict[Statistic, float] = {
    "kurtosis": 7.5,
    "persistence_ratio": 1.5,
    "top3_share": 1 / 3,
    "outlier_frequency": 0.5,
    "negative_energy": 1 / 3,
    "negative_z_energy": 1 / 3,
}
"""Round numbers within the gaps of the reference table. A set is labelled by its estimates; a verdict needs bounds
beyond thresholds that are fitted in those gaps (`fit.py`), so it is the stricter of the two."""


def on_either_side(name: Statistic, value: float) -> float:
    """The value as limits see it: of an energy below zero, the smaller of the shares on either side.

    >>> round(on_either_side("negative_energy", 0.96), 2), on_either_side("kurtosis", 8.9)
    (0.04, 8.9)
    """
    return min(value, 1 - value) if name in ENERGIES else value


def shows_indication(estimates: Mapping[Statistic, float]) -> bool:
    """Tell whether a set of representations shows the indication, by its estimates."""
    return all(on_either_side(name, estimates[name]) >= least for name, least in LEAST.items())
