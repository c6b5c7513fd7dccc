"""What a comparison adds up over the images of both models, and how alike two representations are.

Sums in bounded memory; linear CKA and cosines between images; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array, Bools, Counts, Float32s
from robustcheck_onnx.checker.statistics import GROUPS, OUTLIER_SD, standardise, usable_rows
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.checker.text import bound_text, percent_text
from robustcheck_onnx.thresholds.frozen import Frozen

TIED = 1e-6  # difference of two cosines that float32 rows and a baseline's seven decimals can make
KEPT_IMAGES = 1024  # rows kept for similarity and matching, the first of the seeded order: memory stays bounded
# Debiased CKA up to which two representations are unrelated. Real CLIP sets paired with another image's vector: SD 0.03
# and at most 0.11 over 50 images, 0.02 and 0.06 over 80. Noise of each feature's own SD leaves 0.77 and more. Networks
# that were not made from each other have 0.07 to 0.86 on the same images: this finds what shares next to nothing.
UNRELATED_CKA = 0.1
KEPT_CKA = 0.7  # debiased CKA that a PASS needs; benchmarks/chimeras.py shows what has more and less (docs/compare.md)


@dataclass
class Side:
    """One model's sums over the images: `state.State`, and how often each feature is far out, by group.

    far: (2, group, feature) number of images with z > 4, with z < −4 (float64).
    rows: the first `KEPT_IMAGES` representations, each scaled to length √feature, float32; one array a batch.
    """

    state: sums.State
    far: Array = field(init=False)
    rows: list[Float32s] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.far = np.zeros((2, GROUPS, self.state.n_features))

    @property
    def kept_rows(self) -> Array:
        """(image, feature) float64."""
        width = self.state.n_features
        return np.concatenate(self.rows or [np.zeros((0, width), np.float32)]).astype(np.float64)

    def mean_z(self, index: int) -> float:
        """Return the mean of a feature's z over the images."""
        return float(self.state.powers[0, :, index].sum() / self.state.n)

    def usual_side(self, index: int) -> int:
        """Return the side of a feature's mean z, 0 for plus and 1 for minus: the first axis of `far`."""
        return int(self.mean_z(index) < 0)

    def share(self, index: int, where: int) -> float:
        """Return the share of the images in which a feature is beyond 4 SD on one side."""
        return float(self.far[where, :, index].sum() / self.state.n)

    def add(self, h: Array, keys: Counts) -> None:
        """Add usable representations (image, feature) and the keys of their images."""
        sums.update(self.state, h, keys)
        if not len(h):
            return
        z, groups = standardise(h), keys % GROUPS
        np.add.at(self.far[0], groups, z > OUTLIER_SD)
        np.add.at(self.far[1], groups, z < -OUTLIER_SD)
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
    predicted: Counts | None = None
    """(2, class) how often candidate and reference predict each class; None without predictions"""


def update(pair: Pair, h_candidate: npt.ArrayLike, h_reference: npt.ArrayLike, keys: npt.ArrayLike) -> Bools:
    """Add the representations of the same images, in place; tell which of them counted, (image,).

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
    usable = [usable_rows(h).usable for _, h in pairs]
    both = usable[0] & usable[1]
    for (side, h), own in zip(pairs, usable, strict=True):
        side.add(h[both], key[both])
        sums.update(side.state, h[~own], key[~own])  # counts them, adds nothing
    return np.asarray(both)


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
    width = np.asarray(candidate).shape[1]
    counts = np.stack([np.bincount(top[top >= 0], minlength=width) for top in (a, b)])
    pair.predicted = counts if pair.predicted is None else pair.predicted + counts


def chance_agreement(pair: Pair) -> float:
    """Compute the share of images on which independent predictions with these class frequencies would agree.

    Σ_k p_k q_k with the shares of both models' predictions, as in Cohen's kappa (Cohen 1960, "A coefficient of
    agreement for nominal scales"); 0 without predictions.
    """
    if pair.predicted is None:
        return 0.0
    ours, theirs = pair.predicted / pair.n_predicted
    return float(ours @ theirs)


def _top1(scores: npt.ArrayLike) -> Counts:
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


class Similarity(Frozen):
    """How alike two representations are as wholes: no rotation, no permutation, no width changes it."""

    n_images: int
    cka: float | None
    """linear centred kernel alignment, 0 to 1; with fewer images than features it is too high"""
    cka_debiased: float | None
    """the same from unbiased estimates: about 0 for unrelated representations whatever the number of images"""
    cosine_change: float | None
    """RMS difference of the cosines between images, means included (0 after any rotation); None for one image"""
    same_nearest: float | None = None
    """share of the images whose nearest other image, by cosine, is the same in both; None for one or two images"""

    def is_below(self, limit: float) -> bool:
        """Tell whether the debiased CKA was measured and is less than a limit."""
        return self.cka_debiased is not None and self.cka_debiased < limit

    @property
    def text(self) -> str:
        """Write the two numbers that tell a copy from a mixture."""
        nearest = percent_text(self.same_nearest)
        cka = "–" if self.cka_debiased is None else bound_text(self.cka_debiased, UNRELATED_CKA, KEPT_CKA)
        return f"debiased CKA {cka}, same nearest neighbour in {nearest} of {self.n_images} images"


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
    """(image, image) cosines between representations (image, feature) at the scale of `scaled`."""
    return np.asarray(x @ x.T / x.shape[1], dtype=np.float64)


def similarity_of(k: Array, m: Array) -> Similarity:
    """`similarity` from the cosines between the images, (image, image), of both: CKA needs nothing else."""
    kc, mc = (_centred(gram) for gram in (k, m))
    biased = _alignment(float((kc * mc).sum()), float((kc * kc).sum()), float((mc * mc).sum()), float((k * k).sum()))
    debiased = None
    if len(k) >= 4:
        debiased = _alignment(_hsic(k, m), _hsic(k, k), _hsic(m, m), float((k * k).sum()))
    change = _rms_off_diagonal(k - m) if len(k) > 1 else None
    return Similarity(
        n_images=len(k), cka=biased, cka_debiased=debiased, cosine_change=change, same_nearest=same_nearest(k, m)
    )


def same_nearest(k: Array, m: Array) -> float | None:
    """Return the share of the images whose nearest other image is the same in both.

    Images within `TIED` of the most similar one are nearest together. Then the image counts by the share that both have
    of the images that are nearest in either: 1 in identical representations, about 0 where everything is tied.

    Args:
        k, m: (image, image) cosines, or another similarity, between the same images in two representations.

    Returns:
        0 to 1; None for fewer than three images, of which the nearest is certain.
    """
    if len(k) < 3:
        return None
    others = [np.where(np.eye(len(k), dtype=bool), -np.inf, each) for each in (k, m)]
    ours, theirs = (each >= each.max(axis=1, keepdims=True) - TIED for each in others)
    return float(np.mean((ours & theirs).sum(axis=1) / (ours | theirs).sum(axis=1)))


def cosine_change(x: Array, y: Array) -> float:
    """Root mean square difference of the cosines between images in two representations; no rotation changes them.

    Args:
        x: (image, feature); y: (image, other); at the scale of `scaled`, of at least two images.
    """
    return _rms_off_diagonal(cosines(x) - cosines(y))


def _rms_off_diagonal(change: Array) -> float:
    off = ~np.eye(len(change), dtype=bool)
    return float(np.sqrt(np.mean(change[off] ** 2)))


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
