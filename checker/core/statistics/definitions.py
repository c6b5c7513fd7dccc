"""Define the statistics as pure functions.

`h` is a batch of representations (image, feature); `z` is `h` standardised per image. `state.py` adds up over images
what is computed here.

How much representations vary between images, and in how many directions, is computed here, too: the other statistics
describe mostly the mean of the representations. A model that has learned hardly more than that mean, as one that was
trained to match another encoder's vectors may have, shows all of them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...arrays import Array, Bools, Indices, float64
from ..evidence import TOP_FEATURES

STATISTIC_VERSION = 2  # raise it whenever a definition below changes: thresholds hold for one version only
PERSISTENT_SHARE = 0.5  # share of the images in which a persistent outlier feature is beyond OUTLIER_SD, on one side
MIN_RELATIVE_SD = 1e-9  # SD / max|h| below which a representation counts as constant (float64 rounding is 1e-16)


class Usable(NamedTuple):
    """The rows of a batch that can be measured. The three boolean arrays (image,) exclude each other."""

    usable: Bools
    nonfinite: Bools
    constant: Bools


def usable_rows(h: npt.ArrayLike) -> Usable:
    """Find the representations that can be measured: non-finite and constant ones must never enter a mean.

    Args:
        h: (image, feature), any float dtype.

    Returns:
        usable, nonfinite (any NaN or infinity in the row), constant (no spread beyond rounding).
    """
    x = float64(h)
    nonfinite: Bools = np.asarray(~np.isfinite(x).all(axis=1))
    safe = np.where(nonfinite[:, None], 0.0, x)
    scale = np.abs(safe).max(axis=1, initial=0.0)
    divisor = np.where(scale > 0, scale, 1.0)
    scaled = safe / divisor[:, None]  # a square of 1e200 would overflow
    constant = ~nonfinite & np.asarray(scaled.std(axis=1) <= MIN_RELATIVE_SD)
    return Usable(~nonfinite & ~constant, nonfinite, constant)


def standardise(h: npt.ArrayLike) -> Array:
    """Standardise each representation over its features, to mean 0 and biased SD 1.

    z_ij = (h_ij − mean_j h_i) / sd_j h_i; equals `scipy.stats.zscore(h, axis=1)`.

    Args:
        h: (image, feature), finite, not constant (see `usable_rows`); any float dtype.

    Returns:
        z: (image, feature) float64.

    Raises:
        ValueError: a row is constant or not finite.

    >>> standardise([[1.0, 2.0, 3.0]]).round(3).tolist()
    [[-1.225, 0.0, 1.225]]
    """
    x = float64(h)
    if not usable_rows(x).usable.all():
        raise ValueError("a representation is constant or not finite; it has no kurtosis")
    x = x / np.abs(x).max(axis=1, keepdims=True)  # scale-free, and safe from overflow in the squares
    centred = x - x.mean(axis=1, keepdims=True)
    variance = np.mean(centred**2, axis=1, keepdims=True)
    return float64(centred / np.sqrt(variance))


def max_median_ratio(h: npt.ArrayLike) -> Array:
    """Divide each representation's largest by its median absolute value. See He et al. 2024.

    Args:
        h: (image, feature), finite; any float dtype.

    Returns:
        (image,) float64; infinity where the median is 0 (more than half of a rectified vector is zero).
    """
    a = np.abs(float64(h))
    with np.errstate(divide="ignore"):
        return float64(a.max(axis=1) / np.median(a, axis=1))


class Moments(NamedTuple):
    """The statistics that are functions of sums over images.

    Each is a scalar, or (group,) where the sums that went in had a leading group axis.
    """

    kurtosis: Array
    centred_kurtosis: Array
    persistence_ratio: Array
    top3_share: Array
    strength: Array
    rms_kurtosis: Array
    negative_energy: Array
    negative_z_energy: Array


def shares_of_kurtosis(sum_z4: npt.ArrayLike) -> Array:
    """Compute each feature's share in the activation kurtosis, mean_i z_ij⁴ / (d·K); the shares add to 1.

    Args:
        sum_z4: (..., feature) sums of z⁴ over images.

    Returns:
        (..., feature) float64.
    """
    s4 = float64(sum_z4)
    return float64(s4 / s4.sum(axis=-1, keepdims=True))


def top_features(sum_z4: Array) -> Indices:
    """Find the features with the largest kurtosis shares. The strongest is first; ties go to the smaller index.

    Args:
        sum_z4: (feature,) sums of z⁴ over images.
    """
    return np.argsort(-sum_z4, kind="stable")[:TOP_FEATURES]


class Energies(NamedTuple):
    """The sums of squares and of negative squares.

    Images are summed up, (..., feature) remains; y is z less each image's median.
    """

    h: Array
    h_negative: Array
    y: Array
    y_negative: Array


def energies(h: Array, z: Array) -> tuple[Array, Array, Array, Array]:
    """Compute the squares that `Energies` sums, h², min(h, 0)², y², min(y, 0)², with y_ij = z_ij − median_j z_i.

    The median, unlike the mean, does not move when an outlier feature grows, and no offset, no scale moves y's sign.

    Args:
        h: (image, feature) representations; z: the same, standardised.

    Returns:
        Four arrays (image, feature).
    """
    y = z - np.median(z, axis=1, keepdims=True)
    return h**2, np.minimum(h, 0.0) ** 2, y**2, np.minimum(y, 0.0) ** 2


def moments(n: npt.ArrayLike, powers: Array, energy: Energies, top: Indices) -> Moments:
    """Turn per-feature sums into the model's statistics. Formulas: docs/statistics.md.

    K = mean_ij z⁴ · Kc = mean_ij (z − z̄_j)⁴ / (mean_ij (z − z̄_j)²)², z̄_j the mean over images ·
    persistence ratio = K / Kc · top-3 share = the three largest shares in K · strength = K × top-3 share ·
    R = mean_j s_j⁴ / (mean_j s_j²)² with s_j² = mean_i z_ij² (He et al. 2024, on z) ·
    negative energy = Σ min(h, 0)² / Σ h² without the three features of the largest share in K, and the same of
    y_ij = z_ij − median_j z_i (`energies`).

    Args:
        n: number of images: scalar or (group,).
        powers: (4, ..., feature) sums of z, z², z³, z⁴ over images.
        energy: (..., feature) sums of squares.
        top: the features of the largest shares over all images (`top_features`). Parts of the images must leave out
            the same features as the whole, or near-ties would make the jackknife jump.

    Returns:
        Moments. Degenerate: where every image has the same representation, Kc is 0/0; the ratio is then
        infinite in truth and reported as NaN, so that no comparison with a threshold holds.
        With three features or fewer there is nothing left for the negative energy: NaN.
    """
    count = float64(n)[..., None]
    m1, m2, m3, m4 = powers / count
    kurtosis = m4.mean(axis=-1)
    # |z| is at most √d, so these raw moments lose at most d²·1e-16: the centring is exact enough in float64.
    c2 = np.maximum(m2 - m1**2, 0.0)
    fourth = m4 - 4 * m3 * m1 + 6 * m2 * m1**2 - 3 * m1**4
    c4 = np.maximum(fourth, 0.0)
    spread = c2.mean(axis=-1)
    varies = spread > 1e-12  # z has second moment 1: below this all images have the same representation
    safe_spread = np.where(varies, spread, 1.0)
    centred = np.where(varies, c4.mean(axis=-1) / safe_spread**2, np.nan)
    share = m4[..., top].sum(axis=-1) / m4.sum(axis=-1)
    negative, negative_z = negative_energies(energy, top)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Moments(
            kurtosis=kurtosis,
            centred_kurtosis=centred,
            persistence_ratio=kurtosis / centred,
            top3_share=share,
            strength=kurtosis * share,
            rms_kurtosis=np.mean(m2**2, axis=-1) / m2.mean(axis=-1) ** 2,
            negative_energy=negative,
            negative_z_energy=negative_z,
        )


def negative_energies(energy: Energies, left_out: Indices) -> tuple[Array, Array]:
    """Compute the negative energies of h and of y (`Energies`) without some features.

    Args:
        energy: (..., feature) sums of squares.
        left_out: these features.

    Returns:
        Each (...,); NaN where nothing is left.
    """
    rest = np.ones(energy.h.shape[-1], dtype=bool)
    rest[left_out] = False
    h, h_negative, y, y_negative = (part[..., rest].sum(axis=-1) for part in energy)
    with np.errstate(invalid="ignore", divide="ignore"):
        return h_negative / h, y_negative / y


SAME = 1e-12  # share of the energy below which nothing varies: float64 rounding of a Gram matrix is 1e-16 · rows


def unit_rows(h: npt.ArrayLike) -> Array:
    """Scale each representation to length 1.

    Args:
        h: (image, feature), finite, no row all zero; any float dtype.

    Returns:
        (image, feature) float64.

    >>> unit_rows([[3.0, 4.0]]).round(12).tolist()
    [[0.6, 0.8]]
    """
    x = float64(h)
    x = x / np.abs(x).max(axis=1, keepdims=True, initial=0.0)  # safe from overflow in the squares
    energy = np.sum(x**2, axis=1, keepdims=True)
    return float64(x / np.sqrt(energy))


def relative_variance(h: npt.ArrayLike) -> float:
    """Measure the share of energy that varies between images.

    Σ_i |u_i − ū|² / Σ_i |u_i|² = 1 − |ū|², u_i = h_i / |h_i|, ū the mean over images.

    Args:
        h: (image, feature), finite, no row all zero; any float dtype.

    Returns:
        0 to 1. Degenerate: 0 where all representations point the same way, and for fewer than two images.

    >>> round(relative_variance([[2.0, 0.0], [0.0, 5.0]]), 12)
    0.5
    >>> relative_variance([[1.0, 2.0], [2.0, 4.0]])
    0.0
    """
    u = unit_rows(h)
    if len(u) < 2:
        return 0.0
    centred = u - u.mean(axis=0)
    share = float(np.sum(centred**2)) / len(u)
    return share if share > SAME else 0.0


def effective_rank(h: npt.ArrayLike) -> float:
    """Measure in how many directions representations vary.

    exp(−Σ_k p_k ln p_k), p_k = σ_k² / Σ σ², σ the singular values of the L2-normalised representations less their mean:
    of n images at most min(n − 1, feature). The effective rank of Roy and Vetterli 2007 ("The effective rank: a measure
    of effective dimensionality") takes p_k = σ_k / Σ σ; RankMe (Garrido et al., ICML 2023) takes that of embeddings
    that are neither centred nor normalised. Here the squares: shares of the variance, which few small directions do not
    raise; and centred, since the mean is what must not count.

    Args:
        h: (image, feature), finite, no row all zero; any float dtype.

    Returns:
        1 or more. Degenerate: 0 where nothing varies, and for fewer than two images.

    >>> round(effective_rank([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), 9)
    2.0
    >>> effective_rank([[1.0, 2.0], [2.0, 4.0]])
    0.0
    """
    u = unit_rows(h)
    if relative_variance(u) == 0:
        return 0.0
    centred = u - u.mean(axis=0)
    energy = np.linalg.eigvalsh(centred @ centred.T)  # σ² by the Gram matrix: images are few, features many
    total = energy.sum()
    shares = energy[energy > SAME * total] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def mean_of_rest(h: npt.ArrayLike) -> float:
    """Measure which share of the energy outside of the three strongest features their mean holds.

    Σ_(i≠k) r_i·r_k / ((n − 1) Σ_i |r_i|²), r_i the L2-normalised representation without the three features of the
    largest shares in K: E[r]·E[r] / E[r·r], with the product of means taken over pairs of different images, so that
    sampling adds nothing on average.

    An uncentred singular value decomposition of the representations puts their mean along its first feature, so
    nothing of it is left for the rest. Where training made the outlier features, the mean lies along many features
    (docs/dev/decisions/made-basis.md).

    Args:
        h: (image, feature), finite, no row constant; any float dtype.

    Returns:
        0 to 1. Degenerate: 0 for fewer than two images, with three features or fewer, and where the estimate is not
        positive.

    >>> mean_of_rest([[1.0, -0.5, 0.5, -1.0, 9.0]] * 2)
    1.0
    >>> mean_of_rest([[1.0, -0.5, 0.0, 0.0, 9.0], [-1.0, 0.5, 0.0, 0.0, 9.0]])
    0.0
    """
    u = unit_rows(h)
    top = top_features((standardise(u) ** 4).sum(axis=0))
    rest = np.delete(u, top, axis=1)
    energy = float(np.sum(rest**2))
    of_pairs = float(np.sum(rest.sum(axis=0) ** 2)) - energy
    return of_pairs / ((len(u) - 1) * energy) if of_pairs > 0 else 0.0
