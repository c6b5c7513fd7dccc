"""Did a candidate keep what made its reference pass? Two models on the same images, compared as pure functions.

`compare_run.py` runs the models; `report_compare.py` shows the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker import kurtosis, sequential
from robustcheck_onnx.checker import state as sums
from robustcheck_onnx.checker.delivery import as_json
from robustcheck_onnx.checker.evidence import Evidence, Interval, OutlierFeature, Statistics
from robustcheck_onnx.checker.reasons import NAMES, RULES, number_text
from robustcheck_onnx.checker.report import Time
from robustcheck_onnx.checker.verdict import Reason, Verdict
from robustcheck_onnx.thresholds.frozen import Frozen
from robustcheck_onnx.thresholds.profile import STATISTICS, Profile, Statistic

Array = npt.NDArray[np.float64]

KEEPS: tuple[Statistic, ...] = ("kurtosis", "persistence_ratio", "top3_share", "outlier_frequency")
"""What shows the outlier features, and must be kept; negative energy only says that the thresholds apply."""
TOLERANCE = 0.2  # share of a statistic that may be lost: one checkpoint's K moves more between image sets
SAME_FEATURE = 0.9  # |r| over images; the largest of 1,024 unrelated features over 64 images reaches about 0.45
SAME_DIRECTION = 0.9  # share of a feature's energy on held-out images that one direction must give back
# RMS change of the cosines between images. Real CLIP embeddings: rotated and rounded to 8 bits 0.0006, rotated with
# 10 % noise 0.008; with the outlier features taken out 0.037 (the weakest encoder) to 0.35.
SAME_COSINES = 0.02
FEW_IMAGES = 16  # below, features are not looked for elsewhere: correlations say nothing
KEPT_IMAGES = 1024  # rows kept for similarity and matching, the first of the seeded order: memory stays bounded
LISTED = 16  # features whose fate is told

Fate = Literal["kept", "moved", "rotated", "lost"]
Keeps = Literal["kept", "shrank", "undecided", "not required"]


@dataclass
class Side:
    """One model's sums over the images: `state.State`, and how often each feature is far out, by group.

    far: (2, group, feature) number of images with z > 4, with z < −4 (float64).
    rows: the first `KEPT_IMAGES` representations, each scaled to length √feature, float32; one array a batch.
    """

    state: sums.State
    far: Array = field(init=False)
    rows: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.far = np.zeros((2, sums.GROUPS, self.state.n_features))

    @property
    def kept_rows(self) -> Array:
        """(image, feature) float64."""
        width = self.state.n_features
        return np.concatenate(self.rows or [np.zeros((0, width), np.float32)]).astype(np.float64)

    def add(self, h: Array, keys: npt.NDArray[np.int64]) -> None:
        """Add usable representations (image, feature) and the keys of their images."""
        sums.update(self.state, h, keys)
        if not len(h):
            return
        z, groups = kurtosis.standardise(h), keys % sums.GROUPS
        np.add.at(self.far[0], groups, z > kurtosis.FREQUENT_SD)
        np.add.at(self.far[1], groups, z < -kurtosis.FREQUENT_SD)
        room = KEPT_IMAGES - sum(map(len, self.rows))
        if room > 0:
            self.rows.append(scaled(h[:room]).astype(np.float32))


@dataclass
class Pair:
    """Candidate and reference over the same images, and how often they predict the same class."""

    candidate: Side
    reference: Side
    n_predicted: int = 0
    n_agreeing: int = 0


def update(pair: Pair, h_candidate: npt.ArrayLike, h_reference: npt.ArrayLike, keys: npt.ArrayLike) -> None:
    """Add the representations of the same images, in place.

    A pair counts only where both can be measured; what can't is counted at its own model.

    Args:
        pair: the sums so far.
        h_candidate, h_reference: (image, feature), any float dtype; the widths may differ.
        keys: (image,) integers that fix each image's jackknife group (`state.update`), the same for both.
    """
    key = np.asarray(keys, dtype=np.int64)
    pairs = [
        (pair.candidate, np.asarray(h_candidate, np.float64)),
        (pair.reference, np.asarray(h_reference, np.float64)),
    ]
    usable = [kurtosis.usable_rows(h).usable for _, h in pairs]
    both = usable[0] & usable[1]
    for (side, h), own in zip(pairs, usable, strict=True):
        side.add(h[both], key[both])
        sums.update(side.state, h[~own], key[~own])  # counts them, adds nothing


def add_predictions(pair: Pair, candidate: npt.ArrayLike, reference: npt.ArrayLike) -> None:
    """Count the images of a batch on which both models have the same largest class score, in place.

    Args:
        pair: the counts so far.
        candidate, reference: (image, class) scores of equal width. A tie for the largest score, or a NaN, is no
            prediction and agrees with nothing.
    """
    a, b = _top1(candidate), _top1(reference)
    pair.n_predicted += len(a)
    pair.n_agreeing += int(((a == b) & (a >= 0)).sum())


def _top1(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    x = np.asarray(scores, dtype=np.float64)
    known = np.asarray(~np.isnan(x).any(axis=1))
    x = np.where(known[:, None], x, 0.0)
    alone = (x == x.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(known & alone, x.argmax(axis=1), -1)


def scaled(h: npt.ArrayLike) -> Array:
    """Representations (image, feature) scaled to length √feature each: a rotation of h rotates them too."""
    x = np.asarray(h, dtype=np.float64)
    x = x / np.abs(x).max(axis=1, keepdims=True)  # safe from overflow in the squares
    return np.asarray(x / np.sqrt(np.mean(x**2, axis=1, keepdims=True)), dtype=np.float64)


# ---------------------------------------------------------------------------------------------- statistics


class StatisticChange(Frozen):
    """One statistic of both models, and what became of it."""

    name: Statistic
    candidate: float | None
    reference: float | None
    difference: Interval
    """candidate − reference"""
    ratio: Interval
    """candidate / reference; None where either is not positive or the widths differ"""
    keeps: Keeps


class Jackknife(NamedTuple):
    """A statistic over all images, and without each group of them that is not empty (group,)."""

    whole: float
    without: Array


@dataclass(frozen=True)
class LeftOut:
    """Every deciding statistic with each group of images left out in turn: all that `changes` needs of a model."""

    n_features: int
    sizes: Array
    """(all groups,) images of each"""
    values: Mapping[Statistic, Jackknife]

    @property
    def n(self) -> int:
        """Images."""
        return int(self.sizes.sum())


def changes(
    candidate: LeftOut, reference: LeftOut, alpha: float, tolerance: float, *, paired: bool = True
) -> tuple[StatisticChange, ...]:
    """Difference and ratio of each deciding statistic, with confidence intervals.

    Paired: the delete-a-group jackknife (`sequential.grouped_jackknife_sd`) of the difference, and of the difference of
    the logarithms, over the same groups of images in both models, so that what the images do to both cancels. The
    intervals are those of `sequential.radius`: they hold at every number of images at once, so running again with more
    images is no cheating. `alpha` is shared by the statistics (Bonferroni).

    The outlier frequency's spread is at least that of one image more that only the candidate has far out and one that
    only the reference has (Agresti and Min 2005 add half an image to each of the four cells): "in every image" of both
    is no certainty.

    Args:
        candidate, reference: over the same images if `paired`, over any images else: then the squares of the two
            half-widths add.
        alpha: error rate of all differences together, and of all ratios together.
        tolerance: share of the reference's value that may be lost, 0 to 1.

    Raises:
        ValueError: paired, and the groups hold other numbers of images.
    """
    if paired and not np.array_equal(candidate.sizes, reference.sizes):
        raise ValueError("the groups of candidate and reference hold other numbers of images; they are not paired")
    share = alpha / len(STATISTICS)
    same_width = candidate.n_features == reference.n_features
    out = []
    for name in STATISTICS:
        a, b = candidate.values[name], reference.values[name]
        floors = [0.0, 0.0]
        if name == "outlier_frequency":
            n = min(candidate.n, reference.n)
            discordant = math.sqrt(2 / (n + 2))
            lower = min(a.whole, b.whole)
            floors = [discordant, discordant / lower if lower > 0 else math.nan]

        def bounds(
            of: Callable[[npt.ArrayLike], Array],
            a: Jackknife = a,
            b: Jackknife = b,
            floor: float = 0.0,
        ) -> tuple[float, float]:
            with np.errstate(divide="ignore", invalid="ignore"):
                whole = [float(of(each.whole)) for each in (a, b)]
                without = [of(each.without) for each in (a, b)]
                change = whole[0] - whole[1]
                if paired:
                    sizes = candidate.sizes[candidate.sizes > 0]
                    sd = sequential.grouped_jackknife_sd(change, without[0] - without[1], sizes)
                    return change, sequential.radius(candidate.n, max(sd, floor), share)
                half = [
                    sequential.radius(
                        side.n,
                        max(sequential.grouped_jackknife_sd(w, o, side.sizes[side.sizes > 0]), floor),
                        share,
                    )
                    for side, w, o in zip((candidate, reference), whole, without, strict=True)
                ]
                return change, math.hypot(*half)

        difference, difference_radius = bounds(lambda x: np.asarray(x, np.float64), floor=floors[0])
        logarithm, radius = bounds(lambda x: np.log(np.asarray(x, np.float64)), floor=floors[1])
        apart = _interval(difference, difference - difference_radius, difference + difference_radius)
        ratio = _ratio(logarithm, radius) if same_width else Interval(estimate=None, low=None, high=None)
        out.append(
            StatisticChange(
                name=name,
                candidate=_finite(a.whole),
                reference=_finite(b.whole),
                difference=apart,
                ratio=ratio,
                keeps=_keeps(ratio, apart, b.whole, tolerance) if name in KEEPS and same_width else "not required",
            )
        )
    return tuple(out)


def _keeps(ratio: Interval, difference: Interval, reference: float, tolerance: float) -> Keeps:
    """By the ratio; where there is none (a frequency of 0 has no logarithm), by the difference."""
    if ratio.low is not None and ratio.low >= 1 - tolerance:
        return "kept"
    if ratio.high is not None and ratio.high < 1 - tolerance:
        return "shrank"
    if ratio.high is None and difference.high is not None and difference.high < -tolerance * reference:
        return "shrank"
    return "undecided"


def _ratio(logarithm: float, radius: float) -> Interval:
    if not math.isfinite(logarithm):
        return Interval(estimate=None, low=None, high=None)
    with np.errstate(over="ignore"):
        values = [float(np.exp(logarithm + step)) for step in (0.0, -radius, radius)]
    return _interval(*values)


def _interval(estimate: float, low: float, high: float) -> Interval:
    if not math.isfinite(estimate):
        return Interval(estimate=None, low=None, high=None)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Interval(estimate=estimate, low=None, high=None)
    return Interval(estimate=estimate, low=low, high=high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def left_out(side: Side) -> LeftOut:
    """The deciding statistics as `state.statistics` has them, over all images and without each group of them."""
    state = side.state
    filled = state.sizes > 0
    sizes, n = state.sizes[filled], float(state.n)
    powers, energies = state.powers.sum(axis=1), state.energies.sum(axis=1)
    top = kurtosis.top_features(powers[3])
    whole = kurtosis.moments(n, powers, kurtosis.Energies(*energies), top)
    with np.errstate(divide="ignore", invalid="ignore"):
        without = kurtosis.moments(
            n - sizes,
            powers[:, None, :] - state.powers[:, filled],
            kurtosis.Energies(*(energies[:, None, :] - state.energies[:, filled])),
            top,
        )
        strongest = int(top[0])
        counts = side.far[_usual_side(state, strongest)][filled, strongest]
        frequency = Jackknife(float(counts.sum() / n), (counts.sum() - counts) / (n - sizes))
    values = {
        name: frequency
        if name == "outlier_frequency"
        else Jackknife(float(getattr(whole, name)), np.asarray(getattr(without, name)))
        for name in STATISTICS
    }
    return LeftOut(state.n_features, state.sizes.copy(), values)


def _usual_side(state: sums.State, index: int) -> int:
    """0 where a feature's mean z is positive, 1 where it is negative: the first axis of `Side.far`."""
    return 0 if state.powers[0, :, index].sum() >= 0 else 1


# ------------------------------------------------------------------------------------------------ features


class FeatureFate(Frozen):
    """What became of one outlier feature of the reference."""

    index: int
    mean_z: float
    frequency: float
    """share of the images in which it is beyond 4 SD on its usual side, in the reference"""
    persistent: bool
    """beyond 6 SD in at least half of the images; else it is the strongest feature of a reference without such"""
    fate: Fate
    to: int | None
    """the candidate's feature, where kept or moved"""
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
    the share of images in which the reference's is. moved: another feature is, and correlates with it over the images
    (|r| ≥ `SAME_FEATURE`; a negative r turns the side), and did not stand out like that in the reference already: two
    outlier features of one encoder can correlate at −1. rotated: no single feature is, but the cosines between images
    are the reference's (`SAME_COSINES`), as after any rotation, and one direction gives the feature back
    (`direction_share` ≥ `SAME_DIRECTION`; alone it would say little, for any constant is easily given back).
    lost: none of these.

    Args:
        pair: candidate and reference over the same images.
        reference: the reference's statistics; its `features` are looked for.
        tolerance: share of the images, 0 to 1, that a feature may lose.
    """
    ours, theirs = pair.candidate, pair.reference
    n, same_width = ours.state.n, ours.state.n_features == theirs.state.n_features
    x, y = ours.kept_rows, theirs.kept_rows
    features, persistent = carrying(reference)
    enough = len(x) >= FEW_IMAGES
    r = correlations(x, y[:, [f.index for f in features]]) if enough else None

    def share(side: Side, index: int, where: int) -> float:
        return float(side.far[where, :, index].sum() / n)

    def stands_out(index: int, where: int, before: float) -> bool:
        return before > 0 and share(ours, index, where) >= (1 - tolerance) * before

    places = [_usual_side(theirs.state, f.index) for f in features]
    before = [share(theirs, f.index, place) for f, place in zip(features, places, strict=True)]
    kept = [
        same_width and stands_out(f.index, place, was) for f, place, was in zip(features, places, before, strict=True)
    ]
    claimed = {f.index for f, is_kept in zip(features, kept, strict=True) if is_kept}
    turned_only = len(x) > 1 and cosine_change(x, y) <= SAME_COSINES

    def stayed(index: int, where: int) -> bool:
        """Whether the candidate's feature is what the reference has under the same index, and stands out there."""
        return (
            same_width
            and share(theirs, index, where) >= (1 - tolerance) * share(ours, index, where)
            and float(correlations(x[:, [index]], y[:, [index]])[0, 0]) >= SAME_FEATURE
        )

    out = []
    for column, (feature, place, was, is_kept) in enumerate(zip(features, places, before, kept, strict=True)):
        fate: Fate = "kept" if is_kept else "lost"
        to = feature.index if is_kept else None
        explained = None
        correlated = None if r is None else int(np.argmax(np.abs(r[:, column])))
        if not is_kept and r is not None:
            for other in map(int, np.argsort(-np.abs(r[:, column]), kind="stable")):
                if abs(r[other, column]) < SAME_FEATURE:
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
                candidate_mean_z=None if shown is None else float(ours.state.powers[0, :, shown].sum() / n),
                candidate_frequency=None
                if shown is None
                else max(share(ours, shown, 0), share(ours, shown, 1))
                if fate == "moved"
                else share(ours, shown, place),
                correlation=None if r is None or correlated is None else float(r[correlated, column]),
                correlated=correlated,
                explained=explained,
            )
        )
    return tuple(out)


def usual_share(side: Side, index: int) -> float:
    """Share of the images in which a feature is beyond 4 SD on its usual side."""
    return float(side.far[_usual_side(side.state, index), :, index].sum() / side.state.n)


def fates_by_index(
    candidate: Side, features: Sequence[tuple[OutlierFeature, float]], persistent: bool, tolerance: float
) -> tuple[FeatureFate, ...]:
    """`fates` against a reference of which only numbers are known: kept under the same index, else lost.

    Args:
        candidate: its sums; as wide as the reference.
        features: the reference's, each with the share of images in which it is beyond 4 SD on its usual side.
        persistent: whether they are persistent outlier features.
        tolerance: as for `fates`.
    """
    state = candidate.state
    out = []
    for feature, before in features:
        mean = float(state.powers[0, :, feature.index].sum() / state.n)
        place = 0 if feature.mean_z >= 0 else 1
        now = float(candidate.far[place, :, feature.index].sum() / state.n)
        kept = before > 0 and now >= (1 - tolerance) * before
        out.append(
            FeatureFate(
                index=feature.index,
                mean_z=feature.mean_z,
                frequency=before,
                persistent=persistent,
                fate="kept" if kept else "lost",
                to=feature.index if kept else None,
                candidate_mean_z=mean,
                candidate_frequency=now,
                correlation=None,
                correlated=None,
                explained=None,
            )
        )
    return tuple(out)


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


def cosine_change(x: Array, y: Array) -> float:
    """Root mean square difference of the cosines between images in two representations; no rotation changes them.

    Args:
        x: (image, feature); y: (image, other); at the scale of `scaled`, of at least two images.
    """
    off = ~np.eye(len(x), dtype=bool)
    change = (x @ x.T / x.shape[1] - y @ y.T / y.shape[1])[off]
    return float(np.sqrt(np.mean(change**2)))


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


# ---------------------------------------------------------------------------------------------- similarity


class Similarity(Frozen):
    """How alike two representations are as wholes: no rotation, no permutation, no width changes it."""

    n_images: int
    cka: float | None
    """linear centred kernel alignment, 0 to 1; with fewer images than features it is too high"""
    cka_debiased: float | None
    """the same from unbiased estimates: about 0 for unrelated representations whatever the number of images"""
    cosine_change: float | None
    """RMS difference of the cosines between images, means included (0 after any rotation); None for one image"""


class Agreement(Frozen):
    """On how many images both models predict the same class (Wilson score interval)."""

    n: int
    n_same: int
    value: float
    low: float
    high: float
    confidence: float


def similarity(x: Array, y: Array) -> Similarity:
    """Linear CKA of two representations of the same images.

    ⟨K, L⟩ / (‖K‖ ‖L‖) with K = HXXᵀH, L = HYYᵀH, H centring over images: equal to ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of the
    centred X, Y (Kornblith, Norouzi, Lee, Hinton 2019, "Similarity of Neural Network Representations Revisited").
    Debiased: each product replaced by the unbiased estimate of HSIC (Song, Smola, Gretton, Bedo, Borgwardt 2012,
    "Feature Selection via Dependence Maximization"), since with fewer images than features even unrelated
    representations have a CKA near 1.

    Args:
        x: (image, feature); y: (image, other); at the scale of `scaled`, so that no image's length weighs.

    Returns:
        None where a representation does not vary, and, debiased, with fewer than four images.
    """
    k, m = x @ x.T, y @ y.T
    kc, mc = (_centred(gram) for gram in (k, m))
    biased = _alignment(float((kc * mc).sum()), float((kc * kc).sum()), float((mc * mc).sum()), float((k * k).sum()))
    debiased = None
    if len(x) >= 4:
        debiased = _alignment(_hsic(k, m), _hsic(k, k), _hsic(m, m), float((k * k).sum()))
    change = cosine_change(x, y) if len(x) > 1 else None
    return Similarity(n_images=len(x), cka=biased, cka_debiased=debiased, cosine_change=change)


def _centred(gram: Array) -> Array:
    middle = gram.mean(axis=0)
    return np.asarray(gram - middle - middle[:, None] + middle.mean(), dtype=np.float64)  # symmetric


def _alignment(product: float, first: float, second: float, scale: float) -> float | None:
    if min(first, second) <= 1e-14 * scale:  # what rounding leaves of representations that are all the same
        return None
    return min(product / math.sqrt(first * second), 1.0)


def _hsic(k: Array, m: Array) -> float:
    """n(n − 3) times Song et al.'s unbiased HSIC: the factor cancels."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    rows = k.sum(axis=1), m.sum(axis=1)
    whole = rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2))
    return float((k * m).sum() + whole - 2 / (n - 2) * (rows[0] @ rows[1]))


# ------------------------------------------------------------------------------------------ report, verdict


class Compared(Frozen):
    """One of the two models, as a check over these images would see it."""

    evidence: Evidence
    verdict: Verdict
    carrying: tuple[int, ...]
    """indices of its outlier features, strongest first; of its strongest feature where it has none"""


class CompareReport(Frozen):
    """Everything that `robustcheck compare` found."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["compare"] = "compare"
    tool_version: str
    verdict: Verdict
    tolerance: float
    baseline: str = ""
    """the file that stands for the reference; empty where the reference itself was run"""
    paired: bool = True
    """whether both were measured on the same images"""
    n_images: int
    """images on which both models were measured; against a baseline, on which the candidate was"""
    candidate: Compared
    reference: Compared
    statistics: tuple[StatisticChange, ...]
    alpha: float
    """error rate of all ratios together, and of all differences together"""
    features: tuple[FeatureFate, ...]
    new_features: tuple[int, ...]
    """outlier features of the candidate that none of the reference's became"""
    similarity: Similarity | None
    """None against a baseline, which holds no representations"""
    agreement: Agreement | None
    """None unless both have class scores of equal width"""
    notes: tuple[str, ...]
    profile: Profile
    claim: str
    time: Time | None


CLAIM = (
    "PASS says that the candidate passes the check by itself and has kept, on the images that were given, the outlier "
    "features that made the reference pass. They indicate robustness to natural distribution shifts; neither model's "
    "accuracy was measured."
)


def new_features(candidate: Statistics, found: tuple[FeatureFate, ...]) -> tuple[int, ...]:
    """The candidate's persistent outlier features that none of the reference's features became."""
    known = {fate.to for fate in found}
    return tuple(f.index for f in candidate.persistent[:LISTED] if f.index not in known)


def judge_pair(
    candidate: Compared,
    reference: Compared,
    statistics: tuple[StatisticChange, ...],
    features: tuple[FeatureFate, ...],
    tolerance: float,
    profile: Profile,
    stale: Sequence[str] = (),
) -> Verdict:
    """PASS, or WARN with every reason that applies; never PASS where the candidate alone would be WARN.

    A reference that is WARN itself has nothing that could be kept: `reference_without_indication`. Representations of
    another width, or of another tensor rule, are shown and not compared: `not_comparable`.

    Args:
        candidate, reference: both, judged by themselves.
        statistics: from `changes`.
        features: from `fates`.
        tolerance: as for both.
        profile: what they were judged by.
        stale: in which ways the reference, a baseline, was measured otherwise than the candidate.
    """
    seen: dict[str, list[str]] = {}

    def say(reason: str, text: str) -> None:
        seen.setdefault(reason, []).append(text)

    different = _differences(candidate.evidence, reference.evidence)
    if different:
        say("not_comparable", "; ".join(different))
    if stale:
        say("stale_baseline", "; ".join(stale))
    if reference.verdict.verdict == "WARN":
        ids = ", ".join(reason.id for reason in reference.verdict.reasons)
        say("reference_without_indication", f"the reference by itself is WARN: {ids}")
    elif not different:
        _lost(say, statistics, features, tolerance, candidate.evidence.model.rule)
    for reason in candidate.verdict.reasons:
        say(reason.id, f"the candidate by itself: {reason.seen}")
    reasons = tuple(
        Reason(id=name, seen="; ".join(texts), next_step=RULES[name].next_step) for name, texts in seen.items()
    )
    return Verdict(
        verdict="WARN" if reasons else "PASS",
        reasons=reasons,
        profile_id=profile.id,
        profile_digest=profile.digest,
    )


def _differences(candidate: Evidence, reference: Evidence) -> list[str]:
    out = []
    widths = candidate.statistics.n_features, reference.statistics.n_features
    if widths[0] != widths[1]:
        out.append(f"the representations have {widths[0]} and {widths[1]} features")
    kinds = [(e.model.rule, e.model.pool) for e in (candidate, reference)]
    if kinds[0] != kinds[1]:
        ours, theirs = (rule if pool == "none" else f"{rule}, pooled by {pool}" for rule, pool in kinds)
        out.append(f"the candidate's tensor is of the kind {ours}, the reference's of the kind {theirs}")
    return out


def _lost(
    say: Callable[[str, str], None],
    statistics: tuple[StatisticChange, ...],
    features: tuple[FeatureFate, ...],
    tolerance: float,
    rule: str,
) -> None:
    """The reasons that speak of what the reference had."""
    least = number_text(1 - tolerance)
    for keeps, reason in (("shrank", "statistic_shrank"), ("undecided", "undecided")):
        told = [
            f"{NAMES[s.name]} {number_text(s.candidate)} of {number_text(s.reference)} (ratio {_bounds(s.ratio)})"
            for s in statistics
            if s.keeps == keeps
        ]
        if told:
            say(reason, f"at least {least} of the reference's must be kept: {', '.join(told)}")
    by_fate: dict[Fate, list[FeatureFate]] = {"kept": [], "moved": [], "rotated": [], "lost": []}
    for feature in features:
        by_fate[feature.fate].append(feature)
    if lost := by_fate["lost"]:
        say(
            "outlier_feature_lost",
            f"{_named(lost)}: no feature of the candidate takes the place, nor is it a rotated representation",
        )
    # inside a file the head moves along; an encoder's output is read by others, by index
    if (moved := by_fate["moved"]) and rule == "encoder_output":
        where = ", ".join(f"{f.index} is now {f.to} (r = {f.correlation:+.2f})" for f in moved)
        say("representation_permuted", f"the outlier features are there under other indices: {where}")
    if rotated := by_fate["rotated"]:
        shares = ", ".join(f"{100 * (f.explained or 0):.0f} %" for f in rotated)
        say(
            "representation_rotated",
            f"{_named(rotated)}: spread over other features; one direction gives back {shares} of its energy",
        )


def _named(features: list[FeatureFate]) -> str:
    return f"feature{'' if len(features) == 1 else 's'} {', '.join(str(f.index) for f in features)}"


def _bounds(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "not measured"
    return f"{number_text(interval.low)} to {number_text(interval.high)}"


def to_json(report: CompareReport) -> str:
    """The report as one JSON document: numbers finite or null, ending in a newline."""
    return as_json(report.model_dump(mode="json"))
