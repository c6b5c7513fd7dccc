"""Define the statistics and their bounds as pure functions.

`h` is a batch of representations (image, feature); `z` is `h` standardised per image. `state.py` adds up over images
what is computed here.

How much representations vary between images, and in how many directions, is computed here, too: the other statistics
describe mostly the mean of the representations. A model that has learned hardly more than that mean, as one that was
trained to match another encoder's vectors may have, shows all of them.

There are bounds for statistics that are looked at more than once, for accuracies (`wilson`), and for correlations
(`correlation_bounds`).

A run looks at the evidence at fixed numbers of images (`is_look`), so the batch size never decides where it stops.
`depth` and `share_floor` give lower bounds for such a run: they hold at all of its looks together. `radius` and
`share_bounds` hold at every number of images together. The formulas, and why they hold: docs/statistics.md.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....thresholds.records import Frozen
from ....thresholds.statistics import LOOKS_ALPHA
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
    """Find the representations that can be measured. Non-finite and constant ones must never enter a mean.

    Args:
        h: (image, feature), any float dtype.

    Returns:
        usable, nonfinite (any NaN or infinity in the row), constant (no spread beyond rounding).
    """
    x = float64(h)
    nonfinite: Bools = np.asarray(~np.isfinite(x).all(axis=1))
    safe = np.where(nonfinite[:, None], 0.0, x)
    scale = np.abs(safe).max(axis=1, initial=0.0)
    scaled = safe / np.where(scale > 0, scale, 1.0)[:, None]  # a square of 1e200 would overflow
    constant = ~nonfinite & np.asarray(scaled.std(axis=1) <= MIN_RELATIVE_SD)
    return Usable(~nonfinite & ~constant, nonfinite, constant)


def standardise(h: npt.ArrayLike) -> Array:
    """Standardise each representation over its features. The mean is 0, the biased SD 1.

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
    return float64(centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True)))


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
    """Compute each feature's share in the activation kurtosis. It is mean_i z_ij⁴ / (d·K). They add to 1.

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
    """Compute the squares that `Energies` sums.

    They are h², min(h, 0)², y², min(y, 0)² of each image, with y_ij = z_ij − median_j z_i.

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
    c4 = np.maximum(m4 - 4 * m3 * m1 + 6 * m2 * m1**2 - 3 * m1**4, 0.0)
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
    """Compute the negative energies without some features. One is computed from h, one from y (`Energies`).

    Args:
        energy: (..., feature) sums of squares.
        left_out: these features.

    Returns:
        Each (...,); NaN where nothing is left.
    """
    rest = np.ones(energy.h.shape[-1], dtype=bool)
    rest[left_out] = False
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            energy.h_negative[..., rest].sum(axis=-1) / energy.h[..., rest].sum(axis=-1),
            energy.y_negative[..., rest].sum(axis=-1) / energy.y[..., rest].sum(axis=-1),
        )


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
    return float64(x / np.sqrt(np.sum(x**2, axis=1, keepdims=True)))


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
    share = float(np.sum((u - u.mean(axis=0)) ** 2)) / len(u)
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
    shares = energy[energy > SAME * energy.sum()] / energy.sum()
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


CONFIDENCE = 0.95  # of every interval of an accuracy or a correlation
FIRST_LOOK = 50  # images; the least that a profile asks for, unless it asks for more
LOOK_EVERY = 16  # images between two later looks
TUNED_FOR = 50  # images at which the bounds are tightest: those of the first look
SMALL_SAMPLE = 2.0  # widening by 1 + 2/√n: normal theory is asymptotic (simulated)
HORIZON = 288  # images at the last look that `CRITICAL` is for
BEYOND = 0.1  # share of it for all n that are not between the first look and the horizon
NO_SKEWNESS = 1e-6  # below it the skewed and the plain quantile differ by less than 1e-5
CRITICAL = 2.3273  # P(a standard Brownian motion ever exceeds this times √n, n a look to the horizon) = 0.045


def is_look(n: int, first: int = FIRST_LOOK) -> bool:
    """Return whether a run looks at `n` images.

    It looks at the evidence at the first look, then at multiples of 16 usable images.
    """
    return n == first or (n > first and n % LOOK_EVERY == 0)


def radius(n: int, influence_sd: float, alpha: float) -> float:
    """Compute the half-width of a mean's confidence sequence. It is asymptotic, and valid at every n at once.

    σ̂ · √( 2(nρ² + 1) / (n²ρ²) · log(√(nρ² + 1) / α) ), two-sided
    (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2021, "Time-uniform central limit theory and asymptotic
    confidence sequences", eq. 5), with ρ² = (−2 log α + log(1 − 2 log α)) / n* tuned for n* = TUNED_FOR images,
    times 1 + SMALL_SAMPLE/√n (ours).

    Args:
        n: number of images, at least 1.
        influence_sd: SD over images of what is averaged; for a smooth statistic, of its influence function
            (√n times its standard error).
        alpha: two-sided error rate over all n together.

    Returns:
        The half-width; infinity where the SD is not known (NaN).
    """
    if not math.isfinite(influence_sd):
        return math.inf
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / TUNED_FOR
    a = n * rho2 + 1
    sequence = math.sqrt(2 * a / (n * n * rho2) * math.log(math.sqrt(a) / alpha))
    return influence_sd * sequence * (1 + SMALL_SAMPLE / math.sqrt(n))


def depth(n: int, influence_sd: float, skewness: float, *, of_energies: bool = False) -> float:
    """Compute the distance from estimate to lower bound. The run looks at fixed n.

    From the first look to the horizon σ̂/√n · (3/q)·(∛(1 + q·(z − q/6)) − 1) with z = CRITICAL · (1 + SMALL_SAMPLE/√n):
    a flat group-sequential boundary (Pocock 1977; the constant by recursive integration, Armitage, McPherson, Rowe
    1969), the skewness removed by Hall's cubic transformation (Hall 1992, "On the removal of skewness by
    transformation"). At other n `radius` at the rest of the error rate. For energies at every n the same with the z
    of `radius`: a few images of large norm can be most of them.

    Args:
        n: number of images, at least 1.
        influence_sd: as for `radius`.
        skewness: q, of the estimate itself (`grouped_jackknife`): for a mean the images' skewness over √n.
        of_energies: whether the statistic is a share of the energy.

    Returns:
        The distance; infinity where the SD or the skewness is not known (NaN).
    """
    if not (of_energies or FIRST_LOOK <= n <= HORIZON):
        return radius(n, influence_sd, BEYOND * LOOKS_ALPHA)
    if not math.isfinite(influence_sd + skewness):
        return math.inf
    root, q = math.sqrt(n), skewness
    z = root * radius(n, 1.0, LOOKS_ALPHA) if of_energies else CRITICAL * (1 + SMALL_SAMPLE / root)
    skewed = 3 / q * float(np.cbrt(1 + q * (z - q / 6)) - 1) if abs(q) > NO_SKEWNESS else z
    return influence_sd / root * skewed


def share_floor(count: int, n: int) -> float:
    """Compute the lower bound of a Bernoulli rate. The run looks at fixed n.

    From the first look to the horizon the p with P(X ≥ count | n, p) = 1 − Φ(CRITICAL): one-sided Clopper–Pearson at
    the level of one look. At other n that of `share_bounds` at the rest of the error rate.
    """
    if not FIRST_LOOK <= n <= HORIZON:
        return share_bounds(count, n, BEYOND * LOOKS_ALPHA)[0]
    level, k = NormalDist().cdf(-CRITICAL), np.arange(count, n + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(count, n + 1)])

    def is_too_low(p: float) -> bool:
        return float(np.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p)).sum()) < level

    return 0.0 if count == 0 else _edge(count / n, 0.0, is_too_low)


def share_bounds(count: int, n: int, alpha: float) -> tuple[float, float]:
    """Compute a confidence sequence for a Bernoulli rate. It is exact, and valid at every n at once.

    All p with B(1 + s, 1 + n − s) / (p^s (1 − p)^(n − s)) ≤ 1/α, s = count: the likelihood ratio of the uniform
    mixture against p is a martingale of mean 1 under p, so it ever exceeds 1/α with probability α at most (Ville).
    Robbins 1970, "Statistical methods related to the law of the iterated logarithm"; Howard, Ramdas, McAuliffe, Sekhon
    2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences", section 3 (beta-binomial mixture).

    Args:
        count: of the n that are so, 0 to n.
        n: number of images, at least 1.
        alpha: two-sided error rate over all n together; above 0, below 1.

    Returns:
        Lower and upper bound, 0 to 1; 0 where count is 0, 1 where it is n.

    Raises:
        ValueError: count is not within 0 to n, or n is 0.

    >>> [round(bound, 3) for bound in share_bounds(64, 64, 0.05)]
    [0.894, 1.0]
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"count is {count} of {n}; it must be between 0 and n, and n at least 1")
    mixture = math.lgamma(1 + count) + math.lgamma(1 + n - count) - math.lgamma(2 + n)

    def beyond(p: float) -> bool:
        """Return whether the martingale exceeds 1/α at p."""
        log_likelihood = (count * math.log(p) if count else 0.0) + ((n - count) * math.log1p(-p) if n > count else 0.0)
        return mixture - log_likelihood > -math.log(alpha)

    estimate = count / n
    return (0.0 if count == 0 else _edge(estimate, 0.0, beyond)), (1.0 if count == n else _edge(estimate, 1.0, beyond))


def _edge(inside: float, outside: float, is_beyond: Callable[[float], bool]) -> float:
    """Find the end of an interval, rounded outwards. It lies between a value inside and one outside."""
    for _ in range(60):  # bisection: 2^-60 is below float precision
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_beyond(middle) else (middle, outside)
    return outside


def grouped_jackknife_sd(estimate: float, without: Array, sizes: Array) -> float:
    """Compute √n times the delete-a-group jackknife standard error (`grouped_jackknife`)."""
    return grouped_jackknife(estimate, without, sizes)[0]


def grouped_jackknife(estimate: float, without: Array, sizes: Array) -> tuple[float, float]:
    """Compute a delete-a-group jackknife. It gives √n times the standard error, and the skewness of the estimate.

    Var = (1/g) Σ_j (p_j − θ_J)² / (h_j − 1), p_j = h_j·θ − (h_j − 1)·θ_(j), h_j = n/m_j,
    θ_J = g·θ − Σ_j (1 − m_j/n)·θ_(j) (Busing, Meijer, van der Leeden 1999,
    "Delete-m jackknife for unequal m"). For a mean and groups of one image it equals the sample SD (ddof=1).
    q = Σ_j r_j³ / (Σ_j r_j²)^1.5, r_j = (p_j − θ_J)/h_j: what each group moves the estimate by (ours).

    Args:
        estimate: the statistic over all images.
        without: (group,) the statistic without each group.
        sizes: (group,) number of images of each group, each at least 1.

    Returns:
        The SD of the influence function, and q; NaN with fewer than two groups or any undefined value.
    """
    if len(sizes) < 2 or not math.isfinite(estimate) or not np.isfinite(without).all():
        return math.nan, math.nan
    n = sizes.sum()
    h = n / sizes
    pseudo = h * estimate - (h - 1) * without
    jackknifed = len(sizes) * estimate - np.sum((1 - sizes / n) * without)
    moved = (pseudo - jackknifed) / h
    variance, scale = np.mean((pseudo - jackknifed) ** 2 / (h - 1)), np.sum(moved**2) ** 1.5
    return float(np.sqrt(n * variance)), float(np.sum(moved**3) / scale) if scale else 0.0


class Accuracy(Frozen):
    """The top-1 accuracy with its Wilson score interval."""

    n: int
    n_correct: int
    value: float
    low: float
    high: float


def wilson(n_correct: int, n: int, confidence: float = CONFIDENCE) -> Accuracy:
    """Compute a share of correct predictions. It comes with its Wilson score interval.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), z the two-sided normal quantile (Wilson 1927; recommended for
    small n and p near 0 or 1 by Brown, Cai, DasGupta 2001). Equal to scipy.stats.binomtest(n_correct, n)
    .proportion_ci(confidence, method="wilson"). Raises ValueError unless 0 ≤ n_correct ≤ n and n ≥ 1.

    >>> wilson(0, 10).low, round(wilson(0, 10).high, 4)
    (0.0, 0.2775)
    """
    if not 0 <= n_correct <= n or n < 1:
        raise ValueError(f"n_correct is {n_correct} of {n}; it must be between 0 and n, and n at least 1")
    low, high = wilson_bounds(n_correct / n, n, confidence)
    return Accuracy(n=n, n_correct=n_correct, value=n_correct / n, low=low, high=high)


def wilson_bounds(p: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Wilson score interval of a share p of n."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # rounding must not leave the estimate outside its own interval
    return 0.0 if p == 0 else min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p)


def correlation_bounds(r: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Compute the interval of a Pearson correlation. By Fisher's z it is tanh(artanh r ± z/√(n − 3)) (Fisher 1921).

    Equal to scipy.stats.pearsonr(x, y).confidence_interval(confidence). Heavy tails make it too narrow around a strong
    correlation, not around 0 (for independent features the variance of r is about 1/n whatever their distribution).

    Args:
        r: over n images, −1 to 1.
        n: number of images.
        confidence: two-sided.

    Returns:
        Lower and upper bound; −1 and 1 with three images or fewer, r itself at −1 or 1.
    """
    if n <= 3:
        return -1.0, 1.0
    if abs(r) >= 1:
        return r, r
    half = NormalDist().inv_cdf(0.5 + confidence / 2) / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
