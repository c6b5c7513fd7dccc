"""Which features of a representation are outlier features, and whether the head uses them; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array, Floats, Indices
from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.statistics import PERSISTENT_SHARE, definitions

from .decompose import Z

OUTLIER_SD = 6.0  # Bondarenko et al. 2023, "Quantizable Transformers"; Dettmers et al. 2022, LLM.int8
LISTED = 8  # outlier features that are named, those with the largest share of the kurtosis first


@dataclass(frozen=True)
class OutlierFeatures:
    """The features that are set to something else."""

    indices: Indices
    """persistent outlier features, the largest share of the activation kurtosis first; the one feature with the
    largest share where none is persistent"""
    persistent: bool
    frequencies: Array
    """(feature of `indices`,) share of the images in which |z| > 6"""
    shares: Array
    """(feature of `indices`,) share of the activation kurtosis"""


def outlier_features(h: Floats) -> OutlierFeatures:
    """Find the features with |z| > 6 in at least half of the images.

    h: (image, feature), finite and not constant (`definitions.usable_rows`).
    """
    z = definitions.standardise(h)
    frequency = (np.abs(z) > OUTLIER_SD).mean(axis=0)
    share = definitions.shares_of_kurtosis((z**4).sum(axis=0))
    by_share = np.argsort(-share, kind="stable")
    persistent = by_share[frequency[by_share] >= PERSISTENT_SHARE]
    chosen = persistent if len(persistent) else by_share[:1]
    return OutlierFeatures(chosen, bool(len(persistent)), frequency[chosen], share[chosen])


def replaced(h: Array, features: Indices, values: npt.ArrayLike) -> Array:
    """A copy of h in which some features have one value in every image.

    h: (image, feature); values: one for each of `features`, or one for all.
    """
    out = h.copy()
    out[:, features] = values
    return out


def margin_share(given: Array, margins: Array) -> Interval:
    """What features give of the margins: the sum over images of what they give over the sum of the margins.

    The interval is normal over images (delta method of a ratio of means).

    Args:
        given: (image,) Σ_j (W_aj − W_bj)·(h_j − r_j), over the features j, with a and b the classes of the largest and
            the second score and r_j what h_j is replaced by.
        margins: (image,) the first score less the second.

    Returns:
        Nothing measured where all margins are 0. Below 0 where the features speak against the predictions; above 1
        where the rest of the representation does.
    """
    mean, n = float(margins.mean()), len(margins)
    if mean <= 0:
        return Interval(estimate=None, low=None, high=None)
    share = float(given.mean()) / mean
    half = Z * float((given - share * margins).std(ddof=1)) / mean / n**0.5
    return Interval(estimate=share, low=share - half, high=share + half)
