"""The names of the statistics, what each one is, and where their bounds hold."""

from typing import Literal, get_args

Statistic = Literal[
    "strength",
    "kurtosis",
    "persistence_ratio",
    "top3_share",
    "outlier_frequency",
    "negative_energy",
    "negative_z_energy",
    "two_sidedness",
]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
"""All that are measured; a profile names those that decide."""
DECIDING: tuple[Statistic, ...] = ("strength", "outlier_frequency", "two_sidedness")
"""Those that decide."""
ENERGIES: tuple[Statistic, ...] = ("negative_energy", "negative_z_energy")
Bounds = Literal["each", "looks"]
"""Where the deciding bounds hold: at every number of images, or at the looks of a run. Each lower bound has a
profile's alpha to itself."""
LOOKS_ALPHA = 0.05
"""The alpha that bounds at the looks of a run are made for (docs/statistics.md)."""
SHARPER: tuple[Bounds, ...] = ("each", "looks")
DEFINITIONS: dict[Statistic, str] = {
    "strength": "how far the three most extreme features stand out from the others: ordinary features give less than "
    "1, the reference sets with outlier features 5 to 165",
    "outlier_frequency": "share of the images in which the most extreme feature is extreme, always on the same side "
    "(beyond 4 SD): 1 is every image",
    "two_sidedness": "how evenly the other features spread over positive and negative values: 0.5 is evenly, 0 is one "
    "sign only, as after a ReLU",
    "kurtosis": "the published statistic: the fourth moment of an image's features (3 for Gaussian ones), mean over "
    "images",
    "persistence_ratio": "kurtosis over the kurtosis that is left without each feature's mean over the images",
    "top3_share": "share of the kurtosis that the three strongest features make up, 0 to 1",
    "negative_energy": "share of the energy of the representation below zero, without the three strongest features",
    "negative_z_energy": "the same about each image's median",
}
"""Each statistic in a sentence, for every report; the formulas are in docs/statistics.md."""
