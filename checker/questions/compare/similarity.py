"""How alike two representations of the same images are. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ....thresholds.records import Frozen
from ...arrays import Array, Bools, Floats, float64
from ...core.statistics.definitions import unit_rows
from ...text import bound_text, percent_text

TIED = 1e-6  # difference of two cosines that float32 rows and a baseline's seven decimals can make


# Debiased CKA up to which two representations are unrelated. Real CLIP sets paired with another image's vector: SD 0.03
# and at most 0.11 over 50 images, 0.02 and 0.06 over 80. Noise of each feature's own SD leaves 0.77 and more. Networks
# that were not made from each other have 0.07 to 0.86 on the same images: this finds what shares next to nothing.
UNRELATED_CKA = 0.1


# What a PASS needs besides the outlier features: studies/results/chimeras.md shows what has more and less of each
MIN_CKA = 0.7  # debiased CKA
MIN_SAME_NEAREST = 0.5  # share of the images
MIN_NEAREST_DISTANCE = 0.9  # `nearest_distance`
NEEDED = f"at least {MIN_CKA:g}, {100 * MIN_SAME_NEAREST:g} % and {MIN_NEAREST_DISTANCE:g} are needed"


def scaled(h: npt.ArrayLike) -> Array:
    """Scale representations (image, feature) to length √feature. A rotation of h rotates them too."""
    x = float64(h)
    x = x / np.abs(x).max(axis=1, keepdims=True)  # safe from overflow in the squares
    mean_square = np.mean(x**2, axis=1, keepdims=True)
    return float64(x / np.sqrt(mean_square))


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
        """Return as text the two numbers that distinguish a copy from a mixture: CKA and same neighbours."""
        nearest = percent_text(self.same_nearest)
        cka = "–" if self.cka_debiased is None else bound_text(self.cka_debiased, UNRELATED_CKA, MIN_CKA)
        return f"debiased CKA {cka}, same nearest neighbour in {nearest} of {self.n_images} images"

    @property
    def distance_text(self) -> str:
        """Return as text what distinguishes a copy from a collapse: the distance of the nearest neighbours."""
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
    """Return the cosines, (image, image), between representations (image, feature) at the scale of `scaled`."""
    return float64(x @ x.T / x.shape[1])


def similarity_of(k: Array, m: Array) -> Similarity:
    """Return the similarity from cosines, (image, image), of both. CKA needs nothing else."""
    scale = _product(k, k)
    biased = _alignment(_centred(k), _centred(m), _product, scale)
    debiased = None
    if len(k) >= 4:
        debiased = _alignment(k, m, _hsic, scale)
    change = _rms_off_diagonal(k - m) if len(k) > 1 else None
    return Similarity(
        n_images=len(k),
        cka=biased,
        cka_debiased=debiased,
        cosine_change=change,
        same_nearest=same_nearest(k, m),
        nearest_distance=nearest_distance(k, m),
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
    ours = _nearest(k)
    theirs = _nearest(m)
    n_in_both = (ours & theirs).sum(axis=1)
    n_in_either = (ours | theirs).sum(axis=1)
    return float(np.mean(n_in_both / n_in_either))


def _nearest(cosines: Array) -> Bools:
    """Return which images are nearest to each image, (image, image)."""
    others = np.where(np.eye(len(cosines), dtype=bool), -np.inf, cosines)
    largest = others.max(axis=1, keepdims=True)
    return np.asarray(others >= largest - TIED)


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
    theirs = _relative_distance(m)
    if theirs <= TIED:
        return None
    return _relative_distance(k) / theirs


def _relative_distance(cosines: Array) -> float:
    """Return the mean of 1 − cosine to each image's nearest other image, relative to all other images."""
    off = ~np.eye(len(cosines), dtype=bool)
    nearest = np.where(off, cosines, -1).max(axis=1)
    usual = max(1 - cosines[off].mean(), TIED)
    return float((1 - nearest.mean()) / usual)


def procrustes(x: Array, y: Array) -> Array:
    """Rotate x onto y as well as any orthogonal map can. Return x R, (image, feature).

    The R with RᵀR = 1 that minimises ‖x R − y‖ (Schönemann 1966), equal to scipy.linalg.orthogonal_procrustes(x, y).
    With fewer images than features R is not unique; x R is. Of other widths R is the part of an orthogonal map.
    """
    _, rx = np.linalg.qr(x.T)
    qy, ry = np.linalg.qr(y.T)
    u, _, vt = np.linalg.svd(rx @ ry.T, full_matrices=False)
    return np.asarray(rx.T @ u @ vt @ qy.T)


def _rms_off_diagonal(change: Array) -> float:
    """Return the root mean square of a difference of two `cosines`. No rotation changes these."""
    off = ~np.eye(len(change), dtype=bool)
    return float(np.sqrt(np.mean(change[off] ** 2)))


def _centred(gram: Array) -> Array:
    middle = gram.mean(axis=0)
    return float64(gram - middle - middle[:, None] + middle.mean())  # symmetric


def _alignment(k: Array, m: Array, product: Callable[[Array, Array], float], scale: float) -> float | None:
    """Return the cosine of the angle between two matrices by a product; None where one of them does not vary."""
    first = product(k, k)
    second = product(m, m)
    if min(first, second) <= 1e-14 * scale:  # what rounding leaves of representations that are all the same
        return None
    return min(product(k, m) / math.sqrt(first * second), 1.0)


def _product(k: Array, m: Array) -> float:
    return float((k * m).sum())


def _hsic(k: Array, m: Array) -> float:
    """Return n(n − 3) times the unbiased HSIC of Song et al.; the factor cancels."""
    n = len(k)
    k = k - np.diag(np.diag(k))
    m = m - np.diag(np.diag(m))
    k_rows = k.sum(axis=1)
    m_rows = m.sum(axis=1)
    of_totals = k_rows.sum() * m_rows.sum() / ((n - 1) * (n - 2))
    of_rows = 2 / (n - 2) * (k_rows @ m_rows)
    return float(_product(k, m) + of_totals - of_rows)


def cosine(x: Array, y: Array) -> Array:
    """Return the cosine of each pair of vectors (image, feature)."""
    return np.asarray(np.einsum("ij,ij->i", unit_rows(x), unit_rows(y)))


def lengths(x: Floats) -> Floats:
    """Return the Euclidean length of each vector of (image, feature)."""
    squares = np.einsum("ij,ij->i", x, x)
    if x.dtype == np.float32 and not ((squares > 1e-30) & (squares < 1e30)).all():
        return lengths(x.astype(np.float64))  # whose squares neither vanish nor overflow
    return np.asarray(np.sqrt(squares))
