"""Follow a reference's outlier features into its candidate. Pure."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from ....thresholds.records import Frozen
from ...arrays import Array, float64
from ...core.evidence import Statistics
from ...core.statistics import intervals
from ...text import frozen
from .pairs import LISTED, Side, decisive_features
from .similarity import MIN_CKA, procrustes, similarity

# r over images that a feature under the same index must keep, by the lower bound. 15 real CLIP and SigLIP sets of 82 to
# 300 images: rounded to 8 bits 0.999 and more, with noise of half the feature's own SD 0.89 to 0.95, of its whole SD
# 0.70 to 0.81; paired with another image's vector −0.13 to 0.14. The best of all features of another network on the
# same images reaches 0.24 to 0.71 (14 pairs).
MIN_CORRELATION = 0.5
SAME_FEATURE = 0.9  # |r| over images; the largest of 1,024 unrelated features over 64 images reaches about 0.45
SAME_DIRECTION = 0.9  # share of a feature's energy that the best rotation must give back


# RMS change of the cosines between images. Real CLIP embeddings: rotated and rounded to 8 bits 0.0006, rotated with
# 10 % noise 0.008; with the outlier features taken out 0.037 (the weakest encoder) to 0.35.
SAME_COSINES = 0.02


# Median cosine of an image's two vectors from which they were not rotated. 21 real sets: after a rotation at most 0.03;
# after any other change with the same cosines between images (an outlier feature removed or × 0.9, 5 or 6 bits) 0.97
SAME_VECTORS = 0.9
WEAKER = 0.5  # share of the images that a feature must keep to be called weaker, and not lost
FEW_IMAGES = 16  # below, correlations say nothing: no feature is kept, and none is looked for elsewhere
Fate = Literal["kept", "moved", "rotated", "uncorrelated", "undecided", "weaker", "lost"]


class FeatureFate(Frozen):
    """What became of one outlier feature of the reference."""

    index: int
    mean_z: float
    frequency: float
    """share of the images in which it is beyond 4 SD on its usual side, in the reference"""
    persistent: bool
    """beyond 4 SD on its usual side in at least half of the images; else the strongest of a reference without such"""
    fate: Fate
    to: int | None
    """the candidate's feature, where one stands out: kept, moved, uncorrelated or undecided"""
    candidate_mean_z: float | None
    """of the candidate's feature `to`, else of the one with the same index; None for another width"""
    candidate_frequency: float | None
    correlation: float | None
    """over images, with the candidate's feature `to`, else with the most correlated one; None for few images"""
    correlated: int | None
    """that feature"""
    explained: float | None
    """share of the feature's energy (variance and mean) that the best rotation of the candidate gives back
    (`procrustes`); None where it was not needed. A rotation fits few images well, so
    "rotated" rests on `Similarity.cosine_change` too"""


FeatureFates = tuple[FeatureFate, ...]


def follow_features(
    ours: Side,
    theirs: Side | None,
    reference: Statistics,
    tolerance: float,
    frequencies: Sequence[float] = (),
    values: Array | None = None,
) -> FeatureFates:
    """Find each outlier feature of the reference in the candidate.

    kept: the candidate's feature of the same index is beyond 4 SD, on the same side, in at least (1 − tolerance) of
    the share of images in which the reference's is, and correlates with it over the images (lower bound of r ≥
    `MIN_CORRELATION`): any model whose representations have the reference's mean stands out there too. moved: another
    feature is, and correlates with it over the images (|r| ≥ `SAME_FEATURE`; a negative r turns the side), and did not
    stand out like that in the reference already: two outlier features of one encoder can correlate at −1. rotated: no
    single feature is, but the cosines between images are the reference's (`SAME_COSINES`), as after any rotation, and
    the best rotation gives the feature back (`SAME_DIRECTION`; alone it would say little, for a rotation fits few
    images well). Nor is it rotated where the vectors are the reference's (`SAME_VECTORS`), or are so by chance
    (`MIN_CKA`, which a rotation does not change).
    uncorrelated: the same index stands out, and its r is below the limit (upper bound). undecided: it stands out, and
    the interval of r contains the limit, or there are fewer than `FEW_IMAGES` images, or one of the two does not vary.
    weaker: the same index correlates with it as for kept, and is beyond 4 SD on the same side at least half as often
    (`WEAKER`). lost: none of these.

    Args:
        ours: the candidate.
        theirs: the reference over the same images. None where only numbers of it are known, in a baseline of the same
            width: then features are looked for under the same index alone.
        reference: the reference's statistics; its `features` are looked for.
        tolerance: share of the images, 0 to 1, that a feature may lose.
        frequencies: of the features in a baseline: share of the images beyond 4 SD on the usual side.
        values: (image, feature) of these at the scale of `scaled`, on the images of `ours`; None where the baseline
            saw other images: then nothing is kept.
    """
    x = ours.scaled_rows
    same_width = ours.state.n_features == reference.n_features
    y = x if theirs is None else theirs.scaled_rows
    look = _Search(ours, theirs, tolerance, x, y)
    features = decisive_features(reference)
    places = [int(f.mean_z < 0) for f in features]
    if theirs is not None:
        frequencies = [theirs.share(f.index, place) for f, place in zip(features, places, strict=True)]
        values = y[:, [f.index for f in features]]
    r = None
    if values is not None and len(x) >= FEW_IMAGES:
        r = correlations(x, values)
    by_index = list[Fate]()
    claimed = set()
    for column, (feature, place, was) in enumerate(zip(features, places, frequencies, strict=True)):
        fate: Fate = "lost"
        if same_width:
            there: Fate = "undecided"
            if values is not None:
                there = correlated_fate(x[:, feature.index], values[:, column])
            if look.stands_out(feature.index, place, was):
                fate = there
            elif there == "kept" and ours.share(feature.index, place) >= WEAKER * was > 0:
                fate = "weaker"
        if fate == "kept":
            claimed.add(feature.index)
        by_index.append(fate)
    out = []
    for column, (feature, place, was, initial) in enumerate(zip(features, places, frequencies, by_index, strict=True)):
        fate = initial
        to = None if initial == "lost" else feature.index
        explained = None
        correlated = None if r is None else feature.index
        if r is not None and theirs is not None and fate != "kept":
            r_of_feature = r[:, column]
            strength = np.abs(r_of_feature)
            correlated = int(strength.argmax())
            other = look.moved(r_of_feature, place, was, claimed)
            if other is not None:
                fate = "moved"
                to = other
                claimed.add(other)
            # not where every feature of the candidate correlates with it: no rotation is needed then
            elif fate in ("weaker", "lost") and look.recovered is not None and (strength < SAME_FEATURE).any():
                explained = float(look.recovered[feature.index])
                if explained >= SAME_DIRECTION:
                    fate = "rotated"
                    to = None
        if to is not None and r is not None:
            correlated = to
        r_there = None
        if r is not None and correlated is not None:
            r_there = float(r[correlated, column])
        shown = feature.index if to is None and same_width else to
        sides = [0, 1] if fate == "moved" else [place]
        mean_z_now = None
        frequency_now = None
        if shown is not None:
            mean_z_now = ours.mean_z(shown)
            frequency_now = max(ours.share(shown, side) for side in sides)
        out.append(
            FeatureFate(
                index=feature.index,
                mean_z=feature.mean_z,
                frequency=was,
                persistent=feature.persistent,
                fate=fate,
                to=to,
                candidate_mean_z=mean_z_now,
                candidate_frequency=frequency_now,
                correlation=r_there,
                correlated=correlated,
                explained=explained,
            )
        )
    return tuple(out)


@frozen
class _Search:
    """A search for the reference's features in the candidate. Rows are (image, feature), at the scale of `scaled`."""

    ours: Side
    theirs: Side | None
    tolerance: float
    x: Array
    y: Array  # of the reference; those of the candidate where only numbers of it are known

    def stands_out(self, index: int, where: int, before: float) -> bool:
        """Return whether a candidate's feature is far out nearly as often."""
        least = (1 - self.tolerance) * before
        return before > 0 and self.ours.share(index, where) >= least

    @cached_property
    def recovered(self) -> Array | None:
        """(feature,) the share of its energy that the best rotation gives back. None where nothing was rotated.

        A rotation changes the vectors and not the cosines between images, so it does not change the CKA either. By
        chance cosines can be alike, too: those between images of two unrelated encoders of many features.
        """
        x = self.x
        y = self.y
        alike = similarity(x, y)
        is_same = x.shape == y.shape and np.median((x * y).mean(axis=1)) >= SAME_VECTORS
        if is_same or (alike.cosine_change or 0) > SAME_COSINES or alike.is_below(MIN_CKA):
            return None
        left = procrustes(x, y) - y
        unexplained = np.sum(left**2, axis=0) / np.sum(y**2, axis=0)
        return np.asarray(1 - unexplained)

    def moved(self, r: Array, place: int, was: float, claimed: Container[int]) -> int | None:
        """Return the candidate's most correlated feature that a feature of the reference became, or None.

        r: (feature,) of the candidate's features with it. place, was: its side, and how often it was far out there.
        claimed: features that others became.
        """
        for other in map(int, np.argsort(-np.abs(r), kind="stable")):
            if abs(r[other]) < SAME_FEATURE:
                break
            turned = place if r[other] > 0 else 1 - place
            if other not in claimed and self.stands_out(other, turned, was) and not self._stayed(other, turned):
                return other
        return None

    def _stayed(self, index: int, where: int) -> bool:
        """Return whether a candidate's feature stood out in the reference already."""
        if self.theirs is None or self.x.shape != self.y.shape:
            return False
        before = self.theirs.share(index, where)
        if before < (1 - self.tolerance) * self.ours.share(index, where):
            return False
        return _correlation(self.x[:, index], self.y[:, index]) >= SAME_FEATURE


def correlated_fate(x: Array, y: Array) -> Fate:
    """Return the fate of a feature that stands out at the same index, by its correlation over the images.

    Args:
        x, y: (image,) of the candidate and of the reference, at the scale of `scaled`.

    Returns:
        kept, uncorrelated or undecided (see `follow_features`).
    """
    r = _correlation(x, y)
    if len(x) < FEW_IMAGES or r == 0.0:  # exactly 0: one of them does not vary
        return "undecided"
    low, high = intervals.correlation_bounds(r, len(x))
    if low >= MIN_CORRELATION:
        return "kept"
    if high < MIN_CORRELATION:
        return "uncorrelated"
    return "undecided"


def new_features(candidate: Statistics, features: FeatureFates) -> tuple[int, ...]:
    """Return the candidate's persistent outlier features that none of the reference's features became."""
    indices = {fate.to for fate in features}
    return tuple(f.index for f in candidate.persistent[:LISTED] if f.index not in indices)


def _correlation(x: Array, y: Array) -> float:
    """Return Pearson's r of two features, (image,) each."""
    r = correlations(x[:, None], y[:, None])
    return float(r[0, 0])


def correlations(x: Array, y: Array) -> Array:
    """Return Pearson's r over images, of every feature of x with every one of y; 0 where either does not vary.

    Args:
        x: (image, feature); y: (image, other).

    Returns:
        (feature, other), −1 to 1.
    """
    units = []
    for values in (x, y):
        centred = values - values.mean(axis=0)
        size = np.sqrt((centred**2).sum(axis=0))
        flat = size <= 1e-6 * np.sqrt((values**2).sum(axis=0))  # a constant leaves rounding of its own size behind
        scale = np.where(flat, 1.0, size)
        units.append(np.where(flat, 0.0, centred / scale))
    a, b = units
    return float64(np.clip(a.T @ b, -1.0, 1.0))
