"""What became of each outlier feature of the reference in the candidate: kept, moved, rotated, lost …; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import Array
from robustcheck_onnx.checker.evidence import OutlierFeature, Statistics
from robustcheck_onnx.checker.statistics import correlation_bounds
from robustcheck_onnx.thresholds.frozen import Frozen

from .pairs import Pair, Side, cosine_change

# r over images that a feature under the same index must keep, by the lower bound. 15 real CLIP and SigLIP sets of 82 to
# 300 images: rounded to 8 bits 0.999 and more, with noise of half the feature's own SD 0.89 to 0.95, of its whole SD
# 0.70 to 0.81; paired with another image's vector −0.13 to 0.14. The best of all features of another network on the
# same images reaches 0.24 to 0.71 (14 pairs).
KEPT_CORRELATION = 0.5
SAME_FEATURE = 0.9  # |r| over images; the largest of 1,024 unrelated features over 64 images reaches about 0.45
SAME_DIRECTION = 0.9  # share of a feature's energy on held-out images that one direction must give back
# RMS change of the cosines between images. Real CLIP embeddings: rotated and rounded to 8 bits 0.0006, rotated with
# 10 % noise 0.008; with the outlier features taken out 0.037 (the weakest encoder) to 0.35.
SAME_COSINES = 0.02
FEW_IMAGES = 16  # below, correlations say nothing: no feature is kept, and none is looked for elsewhere
LISTED = 16  # features whose fate is reported

Fate = Literal["kept", "moved", "rotated", "uncorrelated", "undecided", "lost"]


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
    """share of the feature's energy (variance and mean) on held-out images that one direction of length 1 in the
    candidate's space gives back (`direction_share`); None where it was not needed. Near 1 for anything constant, so
    "rotated" rests on `Similarity.cosine_change` too"""


class Carrying(NamedTuple):
    """The features that a model's indication rests on, and whether they are persistent outlier features."""

    features: tuple[OutlierFeature, ...]
    persistent: bool


def carrying(statistics: Statistics) -> Carrying:
    """The persistent outlier features, at most `LISTED`; without any, the strongest feature."""
    if statistics.persistent:
        return Carrying(statistics.persistent[:LISTED], True)
    return Carrying(statistics.features[:1], False)


def fates(pair: Pair, reference: Statistics, tolerance: float) -> tuple[FeatureFate, ...]:
    """Look for each outlier feature of the reference in the candidate.

    kept: the candidate's feature of the same index is beyond 4 SD, on the same side, in at least (1 − tolerance) of
    the share of images in which the reference's is, and correlates with it over the images (lower bound of r ≥
    `KEPT_CORRELATION`): any model whose representations have the reference's mean stands out there too. moved: another
    feature is, and correlates with it over the images (|r| ≥ `SAME_FEATURE`; a negative r turns the side), and did not
    stand out like that in the reference already: two outlier features of one encoder can correlate at −1. rotated: no
    single feature is, but the cosines between images are the reference's (`SAME_COSINES`), as after any rotation, and
    one direction gives the feature back (`direction_share` ≥ `SAME_DIRECTION`; alone it would say little, for any
    constant is easily given back).
    uncorrelated: the same index stands out, and its r is below the limit (upper bound). undecided: it stands out, and
    the interval of r contains the limit, or there are fewer than `FEW_IMAGES` images, or one of the two does not vary.
    lost: none of these.

    Args:
        pair: candidate and reference over the same images.
        reference: the reference's statistics; its `features` are looked for.
        tolerance: share of the images, 0 to 1, that a feature may lose.
    """
    ours, theirs = pair.candidate, pair.reference
    same_width = ours.state.n_features == theirs.state.n_features
    x, y = ours.kept_rows, theirs.kept_rows
    features, persistent = carrying(reference)
    enough = len(x) >= FEW_IMAGES
    r = correlations(x, y[:, [f.index for f in features]]) if enough else None

    def stands_out(index: int, where: int, before: float) -> bool:
        return before > 0 and ours.share(index, where) >= (1 - tolerance) * before

    places = [theirs.usual_side(f.index) for f in features]
    before = [theirs.share(f.index, place) for f, place in zip(features, places, strict=True)]
    by_index: list[Fate] = [
        correlated_fate(x[:, f.index], y[:, f.index]) if same_width and stands_out(f.index, place, was) else "lost"
        for f, place, was in zip(features, places, before, strict=True)
    ]
    claimed = {f.index for f, fate in zip(features, by_index, strict=True) if fate == "kept"}
    turned_only = len(x) > 1 and cosine_change(x, y) <= SAME_COSINES

    def stayed(index: int, where: int) -> bool:
        """Whether the candidate's feature is what the reference has under the same index, and stands out there."""
        return (
            same_width
            and theirs.share(index, where) >= (1 - tolerance) * ours.share(index, where)
            and float(correlations(x[:, [index]], y[:, [index]])[0, 0]) >= SAME_FEATURE
        )

    out = []
    for column, (feature, place, was, found) in enumerate(zip(features, places, before, by_index, strict=True)):
        fate, to = found, None if found == "lost" else feature.index
        explained = None
        correlated = None if r is None else int(np.argmax(np.abs(r[:, column])))
        if fate != "kept" and r is not None:
            for other in map(int, np.argsort(-np.abs(r[:, column]), kind="stable")):
                if abs(r[other, column]) < SAME_FEATURE:
                    if fate == "lost":
                        explained = direction_share(x, y[:, feature.index])
                        if turned_only and explained is not None and explained >= SAME_DIRECTION:
                            fate = "rotated"
                    break
                turned = place if r[other, column] > 0 else 1 - place
                if other not in claimed and stands_out(other, turned, was) and not stayed(other, turned):
                    fate, to = "moved", other
                    claimed.add(to)
                    break
        if to is not None and r is not None:
            correlated = to
        shown = to if to is not None else (feature.index if same_width else None)
        out.append(
            FeatureFate(
                index=feature.index,
                mean_z=feature.mean_z,
                frequency=was,
                persistent=persistent,
                fate=fate,
                to=to,
                candidate_mean_z=None if shown is None else ours.mean_z(shown),
                candidate_frequency=None
                if shown is None
                else max(ours.share(shown, 0), ours.share(shown, 1))
                if fate == "moved"
                else ours.share(shown, place),
                correlation=None if r is None or correlated is None else float(r[correlated, column]),
                correlated=correlated,
                explained=explained,
            )
        )
    return tuple(out)


def correlated_fate(x: Array, y: Array) -> Fate:
    """Tell by its correlation over the images what a feature is that stands out under the same index.

    Args:
        x, y: (image,) of the candidate and of the reference, at the scale of `scaled`.

    Returns:
        kept, uncorrelated or undecided (see `fates`).
    """
    r = float(correlations(x[:, None], y[:, None])[0, 0])
    if len(x) < FEW_IMAGES or r == 0.0:  # exactly 0: one of them does not vary
        return "undecided"
    low, high = correlation_bounds(r, len(x))
    return "kept" if low >= KEPT_CORRELATION else "uncorrelated" if high < KEPT_CORRELATION else "undecided"


def fates_by_index(
    candidate: Side,
    features: Sequence[tuple[OutlierFeature, float]],
    values: Array | None,
    persistent: bool,
    tolerance: float,
) -> tuple[FeatureFate, ...]:
    """`fates` against a reference of which only numbers are known: features are looked for under the same index alone.

    Args:
        candidate: its sums; as wide as the reference.
        features: the reference's, each with the share of images in which it is beyond 4 SD on its usual side.
        values: (image, feature) of these features at the scale of `scaled`, on the images of `candidate.kept_rows`;
            None where the reference saw other images: then nothing is kept.
        persistent: whether they are persistent outlier features.
        tolerance: as for `fates`.
    """
    rows = candidate.kept_rows
    out = []
    for column, (feature, before) in enumerate(features):
        now = candidate.share(feature.index, int(feature.mean_z < 0))
        fate: Fate = "lost"
        r = None
        if values is not None and len(rows) >= FEW_IMAGES:
            r = float(correlations(rows[:, [feature.index]], values[:, [column]])[0, 0])
        if before > 0 and now >= (1 - tolerance) * before:
            fate = "undecided" if values is None else correlated_fate(rows[:, feature.index], values[:, column])
        out.append(
            FeatureFate(
                index=feature.index,
                mean_z=feature.mean_z,
                frequency=before,
                persistent=persistent,
                fate=fate,
                to=None if fate == "lost" else feature.index,
                candidate_mean_z=candidate.mean_z(feature.index),
                candidate_frequency=now,
                correlation=r,
                correlated=None if r is None else feature.index,
                explained=None,
            )
        )
    return tuple(out)


def new_features(candidate: Statistics, reference_fates: tuple[FeatureFate, ...]) -> tuple[int, ...]:
    """The candidate's persistent outlier features that none of the reference's features became."""
    known = {fate.to for fate in reference_fates}
    return tuple(f.index for f in candidate.persistent[:LISTED] if f.index not in known)


def correlations(x: Array, y: Array) -> Array:
    """Pearson's r over images of every feature of x with every one of y; 0 where either does not vary.

    Args:
        x: (image, feature); y: (image, other).

    Returns:
        (feature, other), −1 to 1.
    """
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    sizes = [np.sqrt((v**2).sum(axis=0)) for v in (a, b)]
    # a constant column leaves rounding of its own size behind
    flat = [s <= 1e-6 * np.sqrt((v**2).sum(axis=0)) for s, v in zip(sizes, (x, y), strict=True)]
    a, b = (np.where(f, 0.0, v / np.where(f, 1.0, s)) for v, s, f in zip((a, b), sizes, flat, strict=True))
    return np.asarray(np.clip(a.T @ b, -1.0, 1.0), dtype=np.float64)


def direction_share(x: Array, y: Array) -> float | None:
    """How much of a feature one direction of length 1 in another representation gives back.

    On one half of the images, the q with ‖q‖ ≤ 1 that minimises ‖y − x q‖² (least squares, with the multiplier of the
    bound found by bisection); on the other half, 1 − ‖y − x q‖² / ‖y‖², not centred: variance and mean. A rotation
    keeps lengths, so it gives a feature back along such a q; without the bound a small constant could be blown up into
    an outlier feature that is gone.

    Args:
        x: (image, feature), y: (image,), at the scale of `scaled`.

    Returns:
        At most 1, may be negative; None with fewer than `FEW_IMAGES` images or y = 0.
    """
    if len(x) < FEW_IMAGES or not (y**2).sum() > 0:
        return None
    fit, held = np.arange(0, len(x), 2), np.arange(1, len(x), 2)
    values, vectors = np.linalg.eigh(x[fit] @ x[fit].T)
    values = np.maximum(values, 0.0)
    c = vectors.T @ y[fit]
    floor = 1e-10 * values.max(initial=1e-300)  # directions below it are rounding: least squares leaves them out

    def length(multiplier: float) -> float:
        return float(np.sum(np.where(values > floor, values * c**2 / (values + multiplier + floor) ** 2, 0.0)))

    low, high = 0.0, 1.0
    while length(high) > 1:
        high *= 4
    if length(0.0) > 1:
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if length(middle) > 1 else (low, middle)
    else:
        high = 0.0
    weights = vectors @ np.where(values > floor, c / (values + high + floor), 0.0)
    rest = y[held] - x[held] @ (x[fit].T @ weights)
    energy = float((y[held] ** 2).sum())
    return 1 - float((rest**2).sum()) / energy if energy > 0 else None
