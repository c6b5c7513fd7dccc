"""Compare the numbers of two models over the same images. Pure.

Sums in bounded memory; linear CKA and cosines between images. A feature was kept, moved, rotated, lost …
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from ....thresholds.profile import STATISTICS, Frozen, Profile, Statistic
from ...arrays import Array, Bools, Counts, Float32s, float64
from ...core.evidence import OUTLIER_SD, Evidence, Interval, OutlierFeature, Statistics
from ...core.statistics import definitions, intervals
from ...core.statistics import state as sums
from ...core.verdict.rule import Verdict, judge
from ...text import bound_text, frozen, percent_text

KEEPS: tuple[Statistic, ...] = ("strength", "kurtosis", "persistence_ratio", "top3_share", "outlier_frequency")
"""What shows the outlier features, and must be kept where the profile asks for it; the signs only say that the
thresholds apply."""
Keeps = Literal["kept", "shrank", "undecided", "not required"]
TIED = 1e-6  # difference of two cosines that float32 rows and a baseline's seven decimals can make
MAX_ROWS = 1024  # rows kept for similarity and matching, the first of the seeded order: memory stays bounded
# Debiased CKA up to which two representations are unrelated. Real CLIP sets paired with another image's vector: SD 0.03
# and at most 0.11 over 50 images, 0.02 and 0.06 over 80. Noise of each feature's own SD leaves 0.77 and more. Networks
# that were not made from each other have 0.07 to 0.86 on the same images: this finds what shares next to nothing.
UNRELATED_CKA = 0.1
# What a PASS needs besides the outlier features: benchmarks/results/chimeras.md shows what has more and less of each
MIN_CKA = 0.7  # debiased CKA
MIN_SAME_NEAREST = 0.5  # share of the images
MIN_NEAREST_DISTANCE = 0.9  # `nearest_distance`
NEEDED = f"at least {MIN_CKA:g}, {100 * MIN_SAME_NEAREST:g} % and {MIN_NEAREST_DISTANCE:g} are needed"


@dataclass
class Side:
    """One model's sums over the images. They are `state.State`, and how often each feature is far out, by group.

    far: (2, group, feature) number of images with z > 4, with z < −4 (float64).
    rows: the first `MAX_ROWS` representations, float32; one array a batch.
    """

    state: sums.State
    far: Array = field(init=False)
    rows: list[Float32s] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.far = np.zeros((2, sums.GROUPS, self.state.n_features))

    @property
    def vectors(self) -> Float32s:
        """(image, feature) the kept representations."""
        return np.concatenate([np.zeros((0, self.state.n_features), np.float32), *self.rows])

    @property
    def scaled_rows(self) -> Array:
        """(image, feature) float64, each scaled to length √feature."""
        return scaled(self.vectors)

    def mean_z(self, index: int) -> float:
        """Return the mean z of a feature over images."""
        return float(self.state.powers[0, :, index].sum() / self.state.n)

    def usual_side(self, index: int) -> int:
        """Return the side of a feature's mean z. It is 0 for plus and 1 for minus: the first axis of `far`."""
        return int(self.mean_z(index) < 0)

    def share(self, index: int, where: int) -> float:
        """Return how often a feature is far out.

        It is the share of the images in which it is beyond 4 SD on one side.
        """
        return float(self.far[where, :, index].sum() / self.state.n)

    def add(self, h: Array, keys: Counts) -> None:
        """Add usable representations (image, feature), with image keys."""
        sums.update(self.state, h, keys)
        if not len(h):
            return
        z, groups = definitions.standardise(h), keys % sums.GROUPS
        np.add.at(self.far[0], groups, z > OUTLIER_SD)
        np.add.at(self.far[1], groups, z < -OUTLIER_SD)
        room = MAX_ROWS - sum(map(len, self.rows))
        if room > 0:
            self.rows.append(h[:room].astype(np.float32))


@dataclass
class Pair:
    """Candidate and reference over the same images. How often they predict the same class is counted, too."""

    candidate: Side
    reference: Side
    predicted: list[Counts] = field(default_factory=list)
    """(2, image) the class that candidate and reference predict; −1: none"""
    images: list[tuple[str, str]] = field(default_factory=list)
    """name and digest of each image of the kept rows"""


def update(pair: Pair, h_candidate: npt.ArrayLike, h_reference: npt.ArrayLike, keys: npt.ArrayLike) -> Bools:
    """Add the representations of the same images, in place. Returns which of them counted, (image,).

    A pair counts only where both can be measured; what can't is counted at its own model.

    Args:
        pair: the sums so far.
        h_candidate, h_reference: (image, feature), any float dtype; the widths may differ.
        keys: (image,) integers that fix each image's jackknife group (`state.update`), the same for both.
    """
    key = np.asarray(keys, dtype=np.int64)
    pairs = [(pair.candidate, float64(h_candidate)), (pair.reference, float64(h_reference))]
    usable = [definitions.usable_rows(h).usable for _, h in pairs]
    both = usable[0] & usable[1]
    for (side, h), own in zip(pairs, usable, strict=True):
        side.add(h[both], key[both])
        sums.update(side.state, h[~own], key[~own])  # counts them, adds nothing
    return np.asarray(both)


class ClassAgreement(Frozen):
    """The share of images with the same predicted class. It has a Wilson score interval."""

    n: int
    n_same: int
    value: float
    low: float
    high: float
    confidence: float
    chance: float
    """share on which independent predictions with these class frequencies would agree"""


def add_predictions(pair: Pair, candidate: npt.ArrayLike, reference: npt.ArrayLike) -> None:
    """Add the predicted classes of the same images, in place.

    Args:
        pair: the classes so far.
        candidate, reference: (image, class) scores of equal width. A tie for the largest score, or a NaN, is not
            a prediction and agrees with nothing.
    """
    tops = []
    for scores in (float64(candidate), float64(reference)):
        is_alone = (scores == scores.max(axis=1, keepdims=True)).sum(axis=1) == 1
        tops.append(np.where(is_alone, scores.argmax(axis=1), -1))
    pair.predicted.append(np.stack(tops))


def agreement(pair: Pair) -> ClassAgreement | None:
    """Compare the predicted classes. None without any.

    By chance Σ_k p_k q_k agree, with the shares of both models' predictions, as in Cohen's kappa (Cohen 1960, "A
    coefficient of agreement for nominal scales").
    """
    if not pair.predicted:
        return None
    ours, theirs = both = np.hstack(pair.predicted)
    p, q = (np.bincount(classes[classes >= 0], minlength=both.max() + 1) / len(classes) for classes in both)
    same = intervals.wilson(int(((ours == theirs) & (ours >= 0)).sum()), len(ours))
    bounds = {"value": same.value, "low": same.low, "high": same.high, "confidence": intervals.CONFIDENCE}
    return ClassAgreement(n=same.n, n_same=same.n_correct, chance=float(p @ q), **bounds)


def scaled(h: npt.ArrayLike) -> Array:
    """Scale representations (image, feature) to length √feature. A rotation of h rotates them too."""
    x = float64(h)
    x = x / np.abs(x).max(axis=1, keepdims=True)  # safe from overflow in the squares
    return float64(x / np.sqrt(np.mean(x**2, axis=1, keepdims=True)))


class Similarity(Frozen):
    """The similarity of two whole representations. No rotation, no permutation, no width changes it."""

    n_images: int
    cka: float | None
    """linear centred kernel alignment, 0 to 1; with fewer images than features it is too high"""
    cka_debiased: float | None
    """the same from unbiased estimates: about 0 for unrelated representations whatever the number of images"""
    cosine_change: float | None
    """RMS difference of the cosines between images, means included (0 after any rotation); None for one image"""
    same_nearest: float | None = None
    """share of the images whose nearest other image, by cosine, is the same in both; None for one or two images"""
    nearest_distance: float | None = None
    """mean of 1 − cosine to each image's nearest other image, relative to all others, candidate / reference; None for
    one or two images, and where those of the reference are alike"""

    def is_below(self, limit: float) -> bool:
        """Whether the measured debiased CKA is below a limit."""
        return self.cka_debiased is not None and self.cka_debiased < limit

    @property
    def is_changed(self) -> bool:
        """Whether one of the three numbers that were measured is below what a PASS needs."""
        measured = (self.cka_debiased, self.same_nearest, self.nearest_distance)
        needed = (MIN_CKA, MIN_SAME_NEAREST, MIN_NEAREST_DISTANCE)
        return any(value is not None and value < least for value, least in zip(measured, needed, strict=True))

    @property
    def text(self) -> str:
        """Return CKA and same neighbours as text. These two numbers distinguish a copy from a mixture."""
        nearest = percent_text(self.same_nearest)
        cka = "–" if self.cka_debiased is None else bound_text(self.cka_debiased, UNRELATED_CKA, MIN_CKA)
        return f"debiased CKA {cka}, same nearest neighbour in {nearest} of {self.n_images} images"

    @property
    def distance_text(self) -> str:
        """Return the distance of the nearest neighbours as text. It distinguishes a copy from a collapse."""
        distance = bound_text(self.nearest_distance, MIN_NEAREST_DISTANCE)
        return f"nearest neighbours {distance} times as far away, relative to all others"


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
    return similarity_of(cosines(x), cosines(y))


def cosines(x: Array) -> Array:
    """Return the cosines between representations, (image, image).

    Given are (image, feature) at the scale of `scaled`.
    """
    return float64(x @ x.T / x.shape[1])


def similarity_of(k: Array, m: Array) -> Similarity:
    """Return the similarity from cosines, (image, image), of both. CKA needs nothing else."""
    kc, mc = (_centred(gram) for gram in (k, m))
    biased = _alignment(float((kc * mc).sum()), float((kc * kc).sum()), float((mc * mc).sum()), float((k * k).sum()))
    debiased = None
    if len(k) >= 4:
        debiased = _alignment(_hsic(k, m), _hsic(k, k), _hsic(m, m), float((k * k).sum()))
    change = _rms_off_diagonal(k - m) if len(k) > 1 else None
    return Similarity(
        n_images=len(k),
        cka=biased,
        cka_debiased=debiased,
        cosine_change=change,
        same_nearest=same_nearest(k, m),
        nearest_distance=nearest_distance(k, m),
    )


def unrelated(similarity: Similarity | None, agreement: ClassAgreement | None) -> Iterator[str]:
    """Return how the two models are unrelated.

    The candidate then has no more to do with the reference than a model made by itself.

    Agreement at chance says something only where full agreement would have been told from chance.
    """
    if similarity is not None and similarity.is_below(UNRELATED_CKA):
        yield f"{similarity.text}; a CKA of {UNRELATED_CKA:g} is needed"
    if agreement is not None and agreement.low <= agreement.chance < intervals.wilson(agreement.n, agreement.n).low:
        yield (
            f"both predict the same class on {agreement.n_same} of {agreement.n} images (lower bound "
            f"{100 * agreement.low:.1f} %); by chance it would be {100 * agreement.chance:.1f} %"
        )


def same_nearest(k: Array, m: Array) -> float | None:
    """Return the share of images with the same nearest image.

    Images within `TIED` of the most similar one are nearest together. Then the image counts by the share that both have
    of the images that are nearest in either: 1 in identical representations, about 0 where everything is tied.

    Args:
        k, m: (image, image) cosines, or another similarity, between the same images in two representations.

    Returns:
        0 to 1; None for fewer than three images, of which the nearest is certain.
    """
    if len(k) < 3:
        return None
    others = [np.where(np.eye(len(k), dtype=bool), -np.inf, matrix) for matrix in (k, m)]
    ours, theirs = (matrix >= matrix.max(axis=1, keepdims=True) - TIED for matrix in others)
    return float(np.mean((ours & theirs).sum(axis=1) / (ours | theirs).sum(axis=1)))


def nearest_distance(k: Array, m: Array) -> float | None:
    """Return how far away each image's nearest other image is in k, in comparison with m.

    Far away as 1 − cosine, relative to all other images: outlier features that grew bring all images closer alike, and
    a collapse brings those of one kind closer.

    Args:
        k, m: (image, image) cosines between the same images in two representations.

    Returns:
        The ratio of k's value to m's; None for fewer than three images, and where that of m is not above rounding.
    """
    if len(k) < 3:
        return None
    off = ~np.eye(len(k), dtype=bool)
    ours, theirs = ((1 - np.where(off, x, -1).max(axis=1).mean()) / max(1 - x[off].mean(), TIED) for x in (k, m))
    return float(ours / theirs) if theirs > TIED else None


def procrustes(x: Array, y: Array) -> Array:
    """Rotate x onto y as well as any orthogonal map can. Return x R, (image, feature).

    The R with RᵀR = 1 that minimises ‖x R − y‖ (Schönemann 1966), equal to scipy.linalg.orthogonal_procrustes(x, y).
    With fewer images than features R is not unique; x R is. Of other widths R is the part of an orthogonal map.
    """
    (_, rx), (qy, ry) = np.linalg.qr(x.T), np.linalg.qr(y.T)
    u, _, vt = np.linalg.svd(rx @ ry.T, full_matrices=False)
    return np.asarray(rx.T @ u @ vt @ qy.T)


def _rms_off_diagonal(change: Array) -> float:
    """Return the root mean square of a difference of two `cosines`. No rotation changes these."""
    off = ~np.eye(len(change), dtype=bool)
    return float(np.sqrt(np.mean(change[off] ** 2)))


def _centred(gram: Array) -> Array:
    middle = gram.mean(axis=0)
    return float64(gram - middle - middle[:, None] + middle.mean())  # symmetric


def _alignment(product: float, first: float, second: float, scale: float) -> float | None:
    if min(first, second) <= 1e-14 * scale:  # what rounding leaves of representations that are all the same
        return None
    return min(product / math.sqrt(first * second), 1.0)


def _hsic(k: Array, m: Array) -> float:
    """Return n(n − 3) times the unbiased HSIC. It is that of Song et al.; the factor cancels."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    rows = k.sum(axis=1), m.sum(axis=1)
    total = rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2))
    return float((k * m).sum() + total - 2 / (n - 2) * (rows[0] @ rows[1]))


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
LISTED = 16  # features whose fate is reported
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


def decisive_features(statistics: Statistics) -> tuple[OutlierFeature, ...]:
    """Return the persistent outlier features. They are at most `LISTED`; without any, the strongest feature."""
    return statistics.persistent[:LISTED] or statistics.features[:1]


class Compared(Frozen):
    """One of the two models. It is as a check over these images would show it."""

    evidence: Evidence
    verdict: Verdict
    carrying: tuple[int, ...]
    """indices of its outlier features, strongest first; of its strongest feature where it has none"""

    @classmethod
    def of(cls, evidence: Evidence, profile: Profile) -> Compared:
        """Judge a model by itself."""
        indices = tuple(feature.index for feature in decisive_features(evidence.statistics))
        return cls(evidence=evidence, verdict=judge(evidence, profile), carrying=indices)


def follow_features(
    ours: Side,
    theirs: Side | None,
    reference: Statistics,
    tolerance: float,
    frequencies: Sequence[float] = (),
    values: Array | None = None,
) -> tuple[FeatureFate, ...]:
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
    x, same_width = ours.scaled_rows, ours.state.n_features == reference.n_features
    look = _Search(ours, theirs, tolerance, x, x if theirs is None else theirs.scaled_rows)
    features = decisive_features(reference)
    places = [int(f.mean_z < 0) for f in features]
    if theirs is not None:
        frequencies = [theirs.share(f.index, place) for f, place in zip(features, places, strict=True)]
        values = look.y[:, [f.index for f in features]]
    r = correlations(x, values) if values is not None and len(x) >= FEW_IMAGES else None
    by_index = list[Fate]()
    for column, (feature, place, was) in enumerate(zip(features, places, frequencies, strict=True)):
        fate: Fate = "lost"
        if same_width:
            there: Fate = "undecided" if values is None else correlated_fate(x[:, feature.index], values[:, column])
            if look.stands_out(feature.index, place, was):
                fate = there
            elif there == "kept" and ours.share(feature.index, place) >= WEAKER * was > 0:
                fate = "weaker"
        by_index.append(fate)
    claimed = {f.index for f, fate in zip(features, by_index, strict=True) if fate == "kept"}
    out = []
    for column, (feature, place, was, initial) in enumerate(zip(features, places, frequencies, by_index, strict=True)):
        fate, to, explained = initial, None if initial == "lost" else feature.index, None
        correlated = None if r is None else feature.index if theirs is None else int(np.abs(r[:, column]).argmax())
        if r is not None and theirs is not None and fate != "kept":
            other = look.moved(r[:, column], place, was, claimed)
            if other is not None:
                fate, to = "moved", other
                claimed.add(other)
            # not where every feature of the candidate correlates with it: no rotation is needed then
            elif (
                fate in ("weaker", "lost")
                and look.recovered is not None
                and (np.abs(r[:, column]) < SAME_FEATURE).any()
            ):
                explained = float(look.recovered[feature.index])
                if explained >= SAME_DIRECTION:
                    fate, to = "rotated", None
        if to is not None and r is not None:
            correlated = to
        shown = feature.index if to is None and same_width else to
        sides = (0, 1) if fate == "moved" else (place,)
        out.append(
            FeatureFate(
                index=feature.index,
                mean_z=feature.mean_z,
                frequency=was,
                persistent=feature.persistent,
                fate=fate,
                to=to,
                candidate_mean_z=None if shown is None else ours.mean_z(shown),
                candidate_frequency=None if shown is None else max(ours.share(shown, side) for side in sides),
                correlation=None if r is None or correlated is None else float(r[correlated, column]),
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
        return before > 0 and self.ours.share(index, where) >= (1 - self.tolerance) * before

    @cached_property
    def recovered(self) -> Array | None:
        """(feature,) the share of its energy that the best rotation gives back. None where nothing was rotated.

        A rotation changes the vectors and not the cosines between images, so it does not change the CKA either. By
        chance cosines can be alike, too: those between images of two unrelated encoders of many features.
        """
        x, y = self.x, self.y
        alike = similarity(x, y)
        is_same = x.shape == y.shape and np.median((x * y).mean(axis=1)) >= SAME_VECTORS
        if is_same or (alike.cosine_change or 0) > SAME_COSINES or alike.is_below(MIN_CKA):
            return None
        return np.asarray(1 - np.sum((procrustes(x, y) - y) ** 2, axis=0) / np.sum(y**2, axis=0))

    def moved(self, r: Array, place: int, was: float, claimed: Container[int]) -> int | None:
        """Return the candidate's feature that a feature of the reference became. The most correlated one, or None.

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
        return (
            self.x.shape == self.y.shape
            and self.theirs is not None
            and self.theirs.share(index, where) >= (1 - self.tolerance) * self.ours.share(index, where)
            and float(correlations(self.x[:, [index]], self.y[:, [index]])[0, 0]) >= SAME_FEATURE
        )


def correlated_fate(x: Array, y: Array) -> Fate:
    """Return the fate of a feature at the same index. It stands out there, and its correlation over the images decides.

    Args:
        x, y: (image,) of the candidate and of the reference, at the scale of `scaled`.

    Returns:
        kept, uncorrelated or undecided (see `follow_features`).
    """
    r = float(correlations(x[:, None], y[:, None])[0, 0])
    if len(x) < FEW_IMAGES or r == 0.0:  # exactly 0: one of them does not vary
        return "undecided"
    low, high = intervals.correlation_bounds(r, len(x))
    return "kept" if low >= MIN_CORRELATION else "uncorrelated" if high < MIN_CORRELATION else "undecided"


def new_features(candidate: Statistics, features: tuple[FeatureFate, ...]) -> tuple[int, ...]:
    """Return the candidate's new persistent outlier features. None of the reference's features became them."""
    indices = {fate.to for fate in features}
    return tuple(f.index for f in candidate.persistent[:LISTED] if f.index not in indices)


def correlations(x: Array, y: Array) -> Array:
    """Return Pearson's r of every pair of features.

    It is over images, of every feature of x with every one of y; 0 where either does not vary.

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
        units.append(np.where(flat, 0.0, centred / np.where(flat, 1.0, size)))
    a, b = units
    return float64(np.clip(a.T @ b, -1.0, 1.0))


class StatisticChange(Frozen):
    """One statistic of both models, and its change."""

    name: Statistic
    candidate: float | None
    reference: float | None
    difference: Interval
    """candidate − reference"""
    ratio: Interval
    """candidate / reference; None where either is not positive or the widths differ"""
    keeps: Keeps
    """`not required`: shown as context, its interval at the same level as those that must be kept"""


@frozen
class ModelJackknife:
    """Every statistic of one model, with jackknife values. This is all that `changes` needs."""

    n_features: int
    sizes: Array
    """(all groups,) images of each"""
    values: Mapping[Statistic, Array]
    """(1 + group,) the statistic over all images, and with each group that is not empty left out in turn"""

    @property
    def n(self) -> int:
        """Images."""
        return int(self.sizes.sum())


def required_by(profile: Profile) -> tuple[Statistic, ...]:
    """Return the statistics whose value must be kept.

    They show outlier features in the reference and decide a check.
    """
    return tuple(name for name in KEEPS if name in profile.deciding)


def changes(
    candidate: ModelJackknife,
    reference: ModelJackknife,
    required: Sequence[Statistic],
    alpha: float,
    tolerance: float,
    *,
    paired: bool = True,
) -> tuple[StatisticChange, ...]:
    """Difference and ratio of each statistic, with confidence intervals.

    Paired: the delete-a-group jackknife (`intervals.grouped_jackknife`) of the difference, and of the difference
    of the logarithms, over the same groups of images in both models, so that what the images do to both cancels. The
    intervals are those of `intervals.radius`: they hold at every number of images at once, so running again with more
    images is not cheating. `alpha` is shared by the required statistics (Bonferroni).

    The outlier frequency's spread is at least that of one image more that only the candidate has far out and one that
    only the reference has (Agresti and Min 2005 add half an image to each of the four cells): "in every image" of both
    is not certain.

    Args:
        candidate, reference: over the same images if `paired`, over any images else: then the squares of the two
            half-widths add.
        required: of which 1 − tolerance must be kept (`required_by`), at least one; the others are context.
        alpha: error rate of the required ratios together, and of their differences together.
        tolerance: share of the reference's value that may be lost, 0 to 1.

    Raises:
        ValueError: paired, and the groups hold other numbers of images.
    """
    if paired and not np.array_equal(candidate.sizes, reference.sizes):
        raise ValueError("the groups of candidate and reference hold other numbers of images; they are not paired")
    share, missing = alpha / len(required), Interval(estimate=None, low=None, high=None)
    same_width = candidate.n_features == reference.n_features
    out = []
    for name in STATISTICS:
        a, b = candidate.values[name], reference.values[name]
        floor, lower = 0.0, 1.0
        if name == "outlier_frequency":
            floor, lower = math.sqrt(2 / (min(candidate.n, reference.n) + 2)), float(min(a[0], b[0]))

        def bounds(a: Array, b: Array, floor: float) -> tuple[float, float, float]:
            parts = [(candidate, a - b)] if paired else [(candidate, a), (reference, b)]
            spreads = [
                max(intervals.grouped_jackknife(x[0], x[1:], side.sizes[side.sizes > 0])[0], floor) for side, x in parts
            ]
            radii = (intervals.radius(side.n, sd, share) for (side, _), sd in zip(parts, spreads, strict=True))
            change, radius = float(a[0] - b[0]), math.hypot(*radii)
            return change, change - radius, change + radius

        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            difference = _interval(*bounds(a, b, floor))
            logarithms = bounds(np.log(a), np.log(b), floor / lower if lower > 0 else math.nan)
            is_measured = same_width and math.isfinite(logarithms[0])
            ratio = _interval(*np.exp(logarithms)) if is_measured else missing
        out.append(
            StatisticChange(
                name=name,
                candidate=_finite(a[0]),
                reference=_finite(b[0]),
                difference=difference,
                ratio=ratio,
                keeps=_keeps(ratio, difference, b[0], tolerance) if name in required and same_width else "not required",
            )
        )
    return tuple(out)


def _keeps(ratio: Interval, difference: Interval, reference: float, tolerance: float) -> Keeps:
    """Return whether a statistic was kept.

    The ratio decides; where there is none (a frequency of 0 has no logarithm), the difference.
    """
    if ratio.low is not None and ratio.low >= 1 - tolerance:
        return "kept"
    if ratio.high is not None and ratio.high < 1 - tolerance:
        return "shrank"
    if ratio.high is None and difference.high is not None and difference.high < -tolerance * reference:
        return "shrank"
    return "undecided"


def smallest_losses(change: StatisticChange, tolerance: float) -> tuple[float, float] | None:
    """Return the smallest losses of a kept statistic that would have been answered by undecided, and by shrank.

    With w half the width of the interval of log(ratio): a measured loss x is not kept where (1 − x) exp(−w) is below
    1 − tolerance, and shrank where (1 − x) exp(w) is.

    Args:
        change: of the statistic; its interval is taken to be as wide at another loss.
        tolerance: share of the reference's value that may be lost.

    Returns:
        Two shares of the reference's value. None where the statistic was not kept, or need not be.
    """
    low, high = change.ratio.low, change.ratio.high
    if change.keeps != "kept" or low is None or high is None:
        return None
    factor = math.sqrt(high / low)
    return max(0.0, 1 - (1 - tolerance) * factor), 1 - (1 - tolerance) / factor


def _interval(estimate: float, low: float, high: float) -> Interval:
    if not math.isfinite(estimate) or not (math.isfinite(low) and math.isfinite(high)):
        return Interval(estimate=_finite(estimate), low=None, high=None)
    return Interval(estimate=estimate, low=low, high=high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def jackknife_of(side: Side) -> ModelJackknife:
    """Compute the statistics with and without each group. All images are as in `state.statistics`."""
    state = side.state
    groups = sums.jackknife(state)
    strongest = int(groups.top[0])
    counts = side.far[side.usual_side(strongest)][state.sizes > 0, strongest]
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency = np.append(counts.sum() / state.n, (counts.sum() - counts) / (state.n - groups.sizes))
    negative = np.stack(groups.negative)
    apart = {"outlier_frequency": frequency, "two_sidedness": np.minimum(negative, 1 - negative).min(axis=0)}
    values = {
        name: apart[name] if name in apart else np.append(getattr(groups.overall, name), getattr(groups.without, name))
        for name in STATISTICS
    }
    return ModelJackknife(state.n_features, state.sizes.copy(), values)
