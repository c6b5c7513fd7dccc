"""Mergeable state → frozen evidence: sums over images in, numbers with their bounds out, no opinion.

The state is O(groups · feature) and one number an image; two states merge exactly (up to rounding), in any
order, so batches, workers and machines can be added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker import kurtosis, sequential
from robustcheck_onnx.checker.frozen import Frozen
from robustcheck_onnx.checker.imageset import ImageSetFacts
from robustcheck_onnx.checker.preprocess import Preprocessing

GROUPS = 50  # jackknife groups: at the smallest set that can PASS (50 images) each image is its own group
HISTOGRAM_BINS = 24  # bins of the per-image kurtosis in the report
LISTED_FEATURES = 8  # features named in the evidence, strongest first

Array = npt.NDArray[np.float64]


class Interval(Frozen):
    """An estimate with the bounds that the verdict uses. None = it could not be measured."""

    estimate: float | None
    low: float | None
    high: float | None


class OutlierFeature(Frozen):
    """One feature that carries much of the activation kurtosis."""

    index: int
    share: float
    """share of the activation kurtosis, 0–1"""
    frequency: float
    """share of the images in which abs(z) > 6, 0–1"""
    mean_z: float
    """mean over images of z (SD units); its sign is the feature's sign"""
    persistent: bool
    """frequency ≥ 0.5: a persistent outlier feature"""
    relative_sd: float | None
    """SD over images of the raw value / its absolute mean; 0 = a constant, None = mean 0"""


class Statistics(Frozen):
    """The measured numbers (definitions: docs/statistics.md)."""

    statistic_version: int
    n_images: int
    n_nonfinite: int
    n_constant: int
    n_features: int
    alpha: float
    """error rate of the four intervals together, at all looks together"""
    kurtosis: Interval
    persistence_ratio: Interval
    top3_share: Interval
    negative_energy: Interval
    centred_kurtosis: float | None
    rms_kurtosis: float | None
    max_median_ratio: float | None
    """None where a median is 0"""
    zero_share: float | None
    negative_share: float | None
    spread: float | None
    """share of the z energy outside the top three features that varies between images; near 0 = all alike"""
    kurtosis_quantiles: tuple[float, float, float, float, float] | None
    """5, 25, 50, 75, 95 % of the per-image kurtosis"""
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]
    features: tuple[OutlierFeature, ...]
    """the features with the largest shares and every persistent outlier feature, strongest first"""

    @property
    def persistent(self) -> tuple[OutlierFeature, ...]:
        """The persistent outlier features."""
        return tuple(f for f in self.features if f.persistent)


class ModelFacts(Frozen):
    """The model that was measured and the tensor that was read."""

    file: str
    digest: str
    external_digests: dict[str, str]
    size_bytes: int
    opset: dict[str, int]
    producer: str
    tensor: str
    rule: str
    """encoder_output | head_input | pooled | logits | user"""
    pool: str
    """none | spatial_mean | token_cls | token_mean"""
    ends_in: str
    """what produces the representation: linear, normalisation, activation:Relu, …"""
    why: str
    tensor_assumed: bool
    random_weights: bool | None
    """None: no contract says"""
    source: str
    """what the contract says the model is; empty without a contract"""
    synthetic: str
    """what was planted by hand, as the contract says; empty for a real model"""
    batch_difference: float | None
    """largest relative difference of a representation between batches; None = not checked"""
    output_difference: float | None
    """largest relative difference of the model's own output with and without the added output"""


class PreprocessingFacts(Frozen):
    """What was done to the pixels, and who said so."""

    preprocessing: Preprocessing
    source: Literal["contract", "sidecar", "user", "assumed", "tensors"]
    fields: tuple[tuple[str, str, str], ...]
    """(field, value, where it came from)"""


class ImageFacts(Frozen):
    """The calibration images."""

    source: str
    bundled: bool
    n_available: int
    n_read: int
    n_skipped: int
    skipped: tuple[tuple[str, str], ...]
    """(name, reason), the first few"""
    notes: dict[str, int]
    """how many images were converted, by what was done"""
    digest: str
    seed: int
    sanity: ImageSetFacts


class Execution(Frozen):
    """Where the model really ran, as the session says."""

    requested: str
    provider: str
    nodes: dict[str, int]
    """nodes of the graph by execution provider"""
    onnxruntime: str
    device: str
    threads: int
    precision: str
    fallback: str
    """why the asked-for provider was not used; empty if it was"""


class Evidence(Frozen):
    """Everything measured in one run: the only input of the verdict beside the threshold profile."""

    statistics: Statistics
    model: ModelFacts
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    stopped: Literal["decided", "all images", "image limit"]


@dataclass
class State:
    """Sums over images, in `GROUPS` groups by the image's position in the seeded order."""

    n_features: int
    n_nonfinite: int = 0
    n_constant: int = 0

    def __post_init__(self) -> None:
        d = self.n_features
        self.sizes = np.zeros(GROUPS)
        self.powers = np.zeros((4, GROUPS, d))  # sums of z, z², z³, z⁴
        self.energy = np.zeros((GROUPS, d))  # sum of h²
        self.negative = np.zeros((GROUPS, d))  # sum of min(h, 0)²
        self.total = np.zeros(d)  # sum of h
        self.beyond = np.zeros(d)  # images with abs(z) > 6
        self.zeros = 0
        self.below_zero = 0
        self.max_median_sum = 0.0
        self.positions: list[npt.NDArray[np.int64]] = []
        self.per_image: list[Array] = []

    @property
    def n(self) -> int:
        """Images measured so far (non-finite and constant ones are not)."""
        return int(self.sizes.sum())


def update(state: State, h: npt.ArrayLike, positions: npt.ArrayLike) -> None:
    """Add a batch of representations to the state, in place.

    Args:
        state: the sums so far.
        h: (image, feature) representations of any float dtype; non-finite and constant rows are counted, not used.
        positions: (image,) each image's position in the seeded order of the whole run; fixes its group.

    Raises:
        ValueError: the width is not the state's.
    """
    x = np.asarray(h, dtype=np.float64)
    where = np.asarray(positions, dtype=np.int64)
    if x.ndim != 2 or x.shape[1] != state.n_features:
        raise ValueError(f"representations have shape {x.shape}; expected (image, {state.n_features})")
    rows = kurtosis.usable_rows(x)
    state.n_nonfinite += int(rows.nonfinite.sum())
    state.n_constant += int(rows.constant.sum())
    x, where = x[rows.usable], where[rows.usable]
    if not len(x):
        return
    z = kurtosis.standardise(x)
    groups = where % GROUPS
    power = np.ones_like(z)
    for k in range(4):
        power = power * z
        np.add.at(state.powers[k], groups, power)
    state.per_image.append(power.mean(axis=1))
    state.positions.append(where)
    np.add.at(state.sizes, groups, 1.0)
    np.add.at(state.energy, groups, x**2)
    np.add.at(state.negative, groups, np.minimum(x, 0.0) ** 2)
    state.total += x.sum(axis=0)
    state.beyond += (np.abs(z) > kurtosis.OUTLIER_SD).sum(axis=0)
    state.zeros += int((x == 0).sum())
    state.below_zero += int((x < 0).sum())
    state.max_median_sum += float(kurtosis.max_median_ratio(x).sum())


def merge(a: State, b: State) -> State:
    """Add two states over disjoint images; associative and commutative up to rounding.

    Raises:
        ValueError: the widths differ.
    """
    if a.n_features != b.n_features:
        raise ValueError(f"states have {a.n_features} and {b.n_features} features; they cannot be merged")
    out = State(a.n_features, a.n_nonfinite + b.n_nonfinite, a.n_constant + b.n_constant)
    for name in ("sizes", "powers", "energy", "negative", "total", "beyond"):
        setattr(out, name, getattr(a, name) + getattr(b, name))
    out.zeros = a.zeros + b.zeros
    out.below_zero = a.below_zero + b.below_zero
    out.max_median_sum = a.max_median_sum + b.max_median_sum
    out.positions = a.positions + b.positions
    out.per_image = a.per_image + b.per_image
    return out


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(estimate: float, radius: float, floor: float, ceiling: float) -> Interval:
    if not np.isfinite(estimate):
        return Interval(estimate=None, low=None, high=None)
    if not np.isfinite(radius):
        return Interval(estimate=float(estimate), low=None, high=None)
    return Interval(
        estimate=float(estimate),
        low=float(max(estimate - radius, floor)),
        high=float(min(estimate + radius, ceiling)),
    )


def statistics(state: State, alpha: float) -> Statistics:
    """Turn the state into the measured numbers with their bounds.

    The four intervals share `alpha` (Bonferroni) and hold at every number of images at once
    (`sequential.radius`). K's spread comes from the per-image kurtosis, the others' from a delete-a-group
    jackknife over the state's groups.

    Args:
        state: sums over at least one image.
        alpha: error rate of the four intervals together.

    Raises:
        ValueError: no image was measured.
    """
    n, d = state.n, state.n_features
    if n == 0:
        raise ValueError("no image was measured")
    order = np.argsort(np.concatenate(state.positions), kind="stable")
    per_image = np.concatenate(state.per_image)[order]
    sums = state.powers.sum(axis=1)
    energy, negative = state.energy.sum(axis=0), state.negative.sum(axis=0)
    whole = kurtosis.moments(n, *sums, energy, negative)

    filled = state.sizes > 0
    sizes = state.sizes[filled]
    if len(sizes) > 1:
        without = kurtosis.moments(
            n - sizes,
            *(sums[:, None, :] - state.powers[:, filled]),
            energy - state.energy[filled],
            negative - state.negative[filled],
        )

    def bounds(name: str, ceiling: float) -> Interval:
        estimate = float(getattr(whole, name))
        if name == "kurtosis":
            sd = float(per_image.std(ddof=1)) if n > 1 else float("nan")
        elif len(sizes) > 1:
            sd = sequential.grouped_jackknife_sd(estimate, getattr(without, name), sizes)
        else:
            sd = float("nan")
        return _interval(estimate, sequential.radius(n, sd, alpha / 4), 0.0, ceiling)

    counts, edges = np.histogram(per_image, bins=HISTOGRAM_BINS)
    m1, m2 = sums[0] / n, sums[1] / n
    rest = np.ones(d, dtype=bool)
    rest[np.argsort(sums[3])[-kurtosis.TOP_FEATURES :]] = False
    rest_energy = float(m2[rest].sum())
    return Statistics(
        statistic_version=kurtosis.STATISTIC_VERSION,
        n_images=n,
        n_nonfinite=state.n_nonfinite,
        n_constant=state.n_constant,
        n_features=d,
        alpha=alpha,
        kurtosis=bounds("kurtosis", float(d)),
        persistence_ratio=bounds("persistence_ratio", float("inf")),
        top3_share=bounds("top3_share", 1.0),
        negative_energy=bounds("negative_energy", 1.0),
        centred_kurtosis=_finite(float(whole.centred_kurtosis)),
        rms_kurtosis=_finite(float(whole.rms_kurtosis)),
        max_median_ratio=_finite(state.max_median_sum / n),
        zero_share=state.zeros / (n * d),
        negative_share=state.below_zero / (n * d),
        spread=float(np.maximum(m2 - m1**2, 0)[rest].sum()) / rest_energy if rest_energy > 0 else None,
        kurtosis_quantiles=tuple(float(q) for q in np.quantile(per_image, [0.05, 0.25, 0.5, 0.75, 0.95])),
        histogram_edges=tuple(float(e) for e in edges),
        histogram_counts=tuple(int(c) for c in counts),
        features=_features(state, sums, energy),
    )


def _features(state: State, sums: Array, energy: Array) -> tuple[OutlierFeature, ...]:
    n = state.n
    shares = kurtosis.shares_of_kurtosis(sums[3])
    frequency = state.beyond / n
    mean_h = state.total / n
    sd_h = np.sqrt(np.maximum(energy / n - mean_h**2, 0.0))
    by_share = np.argsort(-shares, kind="stable")
    persistent = frequency >= kurtosis.PERSISTENT_SHARE
    listed = [j for rank, j in enumerate(by_share) if rank < LISTED_FEATURES or persistent[j]]
    return tuple(
        OutlierFeature(
            index=int(j),
            share=float(shares[j]),
            frequency=float(frequency[j]),
            mean_z=float(sums[0, j] / n),
            persistent=bool(persistent[j]),
            relative_sd=_finite(float(sd_h[j] / abs(mean_h[j]))) if mean_h[j] != 0 else None,
        )
        for j in listed
    )
