"""Add up representations and compute their statistics, with bounds.

A state takes memory O(groups · features) and one number per image. Two states merge in any order to the same up to
rounding, so batches, workers and machines can be added up.

`measure` and `Accumulator` are for representations that the caller has. They give numbers with intervals, and no
verdict: that also needs the model, its preprocessing and the sanity of the images, which `check` looks at; `judge` is
for those who bring all of it.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....thresholds.profile import load
from ....thresholds.statistics import ENERGIES, LOOKS_ALPHA, Bounds, Statistic
from ...arrays import Array, Bools, Counts, Indices, SupportsArray, as_array
from ...calls import public
from ...errors import CallError, CannotAssessError, UsageError
from ...text import type_name
from ..evidence import OUTLIER_SD, Interval, OutlierFeature, Statistics
from . import definitions
from .intervals import FIRST_LOOK, depth, grouped_jackknife, radius, share_bounds, share_floor

GROUPS = 128  # jackknife groups; by digest, so that 64 images fill about 50 of them
HISTOGRAM_BINS = 24  # bins of the per-image kurtosis in the report
SAME_KURTOSIS = 1e-9  # relative: images that differ by less differ by rounding only
SAME_REPRESENTATION = 1e-6  # the same of one representation computed in two batches, in float32
COMPARED = 1000  # order statistics of the kurtosis that are compared: with more, real encoders' values get too close
MAX_FEATURES = 16384  # widest vision representation in use is below 5,000; wider means an unpooled map
SHARING = 6  # upper bounds: strength, persistence, and the four shares of which the two-sidedness is the smallest
LISTED_FEATURES = 8  # features named in the evidence, strongest first
SUBJECT = "representations"
VECTORS = (
    'rc.check("model.onnx", "photos/") runs a model on photos; save_representations="rows.npz" keeps its vectors, '
    'for rc.measure(rc.load_representations("rows.npz"))'
)
"""what to do with a path where vectors are needed"""


@public(VECTORS)
def measure(representations: SupportsArray) -> Statistics:
    """Measure the statistics of representations. Their intervals hold at every number of images.

    There is no verdict without a model: `check` gives one.

    Args:
        representations: (image, feature), real numbers of any dtype: a NumPy array, or a tensor of torch or another
            library (`__array__` or DLPack; on a GPU too). One row an image; at most 16,384 features.

    Returns:
        The numbers of `report.evidence.statistics`, without a unit. Rows that are not finite, or constant over the
        features, are counted in `n_nonfinite` and `n_constant` and not used. With one row there are estimates and no
        bounds (None).

    Raises:
        UsageError: no array, but a path, for example; another shape or dtype.
        CannotAssessError: no row is finite and not constant.
    """
    accumulator = Accumulator()
    accumulator.update(representations)
    return accumulator.result()


class Accumulator:
    """The statistics of representations, added batch by batch. A training or evaluation loop can call it.

    It keeps sums, 8 kB a feature, and 8 bytes an image; it can be pickled.

    Intervals hold at every number of images at once, so a loop may look at `result()` as often as it likes. There is no
    verdict without a model.
    """

    def __init__(self) -> None:
        self._state: State | None = None

    @property
    def n(self) -> int:
        """Count the images measured so far, but for those that are not finite or constant."""
        return 0 if self._state is None else self._state.n

    def update(self, batch: SupportsArray) -> None:
        """Add a batch; its memory is not kept.

        Args:
            batch: as in `measure`, of the width of the first batch. No image at all, (0, feature), adds nothing.

        Raises:
            UsageError: no array; another shape, width or dtype; nothing was added.
        """
        rows = _rows(batch)
        if self._state is None:
            self._state = State(rows.shape[1])
        elif rows.shape[1] != self._state.n_features:
            raise UsageError(
                f"{SUBJECT}: number of features is {rows.shape[1]}; before it was {self._state.n_features}"
            )
        update(self._state, rows, [_key(row) for row in rows])

    def merge(self, other: Accumulator) -> Accumulator:
        """Return the sum of two accumulators over different images, perhaps of other processes. Both stay as they are.

        Raises:
            UsageError: `other` is not an Accumulator; the numbers of features differ.
        """
        if not isinstance(other, Accumulator):
            raise CallError(f"other: type is {type_name(other)}; it must be an Accumulator")
        states = [part._state for part in (self, other) if part._state is not None]
        widths = [state.n_features for state in states]
        if len(set(widths)) > 1:
            raise UsageError(f"{SUBJECT}: numbers of features are {widths[0]} and {widths[1]}; they must be the same")
        merged = type(self)()
        for state in states:
            merged._state = merge(merged._state or State(state.n_features), state)
        return merged

    def result(self) -> Statistics:
        """Return the statistics of all images so far, with intervals. More batches may follow.

        Returns:
            As `measure`.

        Raises:
            CannotAssessError: no image so far, or none that is finite and not constant.
        """
        if self._state is None or self._state.n == 0:
            n_bad = 0 if self._state is None else self._state.n_nonfinite + self._state.n_constant
            raise CannotAssessError(f"{SUBJECT}: number that is finite and not constant is 0 of {n_bad}; one is needed")
        return statistics(self._state, load().alpha, "each")  # these hold at every number of images

    def __repr__(self) -> str:
        width = "" if self._state is None else f", {self._state.n_features} features"
        return f"<Accumulator: {self.n} images{width}>"


def _rows(batch: SupportsArray) -> npt.NDArray[np.float64]:
    """Return checked rows (image, feature)."""
    if isinstance(batch, (str, os.PathLike)):
        raise CallError(f"{SUBJECT}: type is {type_name(batch)}; they must be an array, not a path", VECTORS)
    array = as_array(batch, SUBJECT)
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{SUBJECT}: dtype is {array.dtype}; they must be real numbers")
    if array.ndim != 2 or array.shape[1] == 0:
        hint = "pool it to one row per image first" if array.ndim > 2 else "one row an image: h[None] for a single one"
        raise UsageError(f"{SUBJECT}: shape is {array.shape}; it must be (image, feature)", hint)
    if array.shape[1] > MAX_FEATURES:
        raise UsageError(
            f"{SUBJECT}: number of features is {array.shape[1]}; more than {MAX_FEATURES} is an unpooled map",
            "pool it to one row per image first",
        )
    return array.astype(np.float64)


def _key(row: npt.NDArray[np.float64]) -> int:
    """Return the row's jackknife group, from its content.

    Copies of one image come into one group, and count as one there.
    """
    return int.from_bytes(hashlib.sha256((row + 0.0).tobytes()).digest()[-4:], "big")  # no minus before a zero


class State:
    """A plain accumulator of images: counts, sums over images, and the kurtosis of each image.

    h is a representation, z the same standardised, y is z less its median (docs/statistics.md). What the jackknife
    needs is summed for each of `GROUPS` groups of images.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.n_nonfinite = 0  # images left out
        self.n_constant = 0  # images left out
        self.group_sizes = np.zeros(GROUPS)  # (group,) number of images
        self.z_powers = np.zeros((4, GROUPS, n_features))  # (power, group, feature): sums of z, z², z³, z⁴
        self.energies = np.zeros((4, GROUPS, n_features))  # the same of h², min(h, 0)², y², min(y, 0)²
        self.sum_h = np.zeros(n_features)
        self.n_above = np.zeros(n_features)  # images with z > 4, by feature
        self.n_below = np.zeros(n_features)  # images with z < −4, by feature
        self.n_zero = 0  # values of h that are 0, over images and features
        self.n_negative = 0  # values of h below 0
        self.sum_max_median = 0.0  # of the max-median ratio of each image
        self.kurtosis: list[Array] = []  # (image,) of each batch: mean_j z⁴
        self.first_top: Indices | None = None  # the strongest features at the first look; None before it

    @property
    def n(self) -> int:
        """Count the images measured so far. Non-finite and constant ones are left out."""
        return int(self.group_sizes.sum())


class MeasuredBatch(NamedTuple):
    """The numbers of each image of a batch. `update` computed them."""

    usable: Bools
    """(image,) whether the image is finite and not constant"""
    z: Array
    """(usable image, feature)"""
    kurtosis: Array
    """(usable image,)"""


def update(state: State, h: npt.ArrayLike, keys: npt.ArrayLike) -> MeasuredBatch:
    """Add a batch of representations, in place.

    Args:
        state: the sums so far.
        h: (image, feature) representations of any float dtype; non-finite and constant rows are counted, not used.
        keys: (image,) integers that fix each image's jackknife group. Taken from its digest they make the bounds
            independent of order, and put copies of one image into one group, where they count as one.

    Returns:
        The batch's standardised representations and their kurtosis; no rows where no image is usable.

    Raises:
        ValueError: the width is not the state's.
    """
    x = np.asarray(h, dtype=np.float64)
    groups = np.asarray(keys, dtype=np.int64) % GROUPS
    if x.ndim != 2 or x.shape[1] != state.n_features:
        raise ValueError(f"representations have shape {x.shape}; expected (image, {state.n_features})")
    rows = definitions.usable_rows(x)
    state.n_nonfinite += int(rows.nonfinite.sum())
    state.n_constant += int(rows.constant.sum())
    x = x[rows.usable]
    groups = groups[rows.usable]
    if not len(x):
        return MeasuredBatch(rows.usable, x, np.empty(0))
    z = definitions.standardise(x)
    z_powers = np.empty((4, *z.shape))
    z_powers[0] = z
    for k in range(1, 4):
        np.multiply(z_powers[k - 1], z, out=z_powers[k])
    kurtosis = z_powers[3].mean(axis=1)
    if state.n < FIRST_LOOK <= state.n + len(z):
        state.first_top = _top_at_first_look(state, z)
    np.add.at(state.group_sizes, groups, 1.0)
    _add_to_groups(state.z_powers, groups, z_powers)
    _add_to_groups(state.energies, groups, np.stack(definitions.energies(x, z)))
    state.sum_h += x.sum(axis=0)
    state.n_above += (z > OUTLIER_SD).sum(axis=0)
    state.n_below += (z < -OUTLIER_SD).sum(axis=0)
    state.n_zero += int((x == 0).sum())
    state.n_negative += int((x < 0).sum())
    state.sum_max_median += float(definitions.max_median_ratio(x).sum())
    state.kurtosis.append(kurtosis)
    return MeasuredBatch(rows.usable, z, kurtosis)


def _top_at_first_look(state: State, z: Array) -> Indices:
    """Find the strongest features of the first `FIRST_LOOK` images, of which the last are in z (image, feature)."""
    missing = z[: FIRST_LOOK - state.n] ** 4
    return definitions.top_features(state.z_powers[3].sum(axis=0) + missing.sum(axis=0))


def _add_to_groups(by_group: Array, groups: Counts, values: Array) -> None:
    """Add the values of images, (4, image, feature), to the sums of their groups, (4, group, feature)."""
    for image, group in enumerate(groups):  # np.add.at takes nine times as long for rows
        by_group[:, group] += values[:, image]


def merge(a: State, b: State) -> State:
    """Add two states over disjoint images, associatively and commutatively up to rounding.

    Which images came first is not known of the sum. So its two-sidedness leaves out the features that are the strongest
    in all of its images, not those of a first look, unless one of the two is empty.

    Raises:
        ValueError: the widths differ.
    """
    if a.n_features != b.n_features:
        raise ValueError(f"states have {a.n_features} and {b.n_features} features; they cannot be merged")
    out = State(a.n_features)
    for name in vars(out).keys() - {"n_features", "first_top"}:  # numbers and arrays are added, lists joined
        setattr(out, name, getattr(a, name) + getattr(b, name))
    if not (a.n and b.n):
        out.first_top = a.first_top if a.n else b.first_top
    return out


class Jackknife(NamedTuple):
    """The statistics of all images and without each group. Only groups that have images count."""

    z_powers: Array
    """(4, feature) sums of z, z², z³, z⁴ over all images"""
    energies: Array
    """(4, feature) sums of h², min(h, 0)², y², min(y, 0)² over all images"""
    top: Indices
    """the features of the largest shares in K, strongest first"""
    group_sizes: Array
    """(group,) number of images of each group"""
    overall: definitions.Moments
    """scalars"""
    without: definitions.Moments
    """each (group,); NaN where no image is left"""
    negative: tuple[Array, Array]
    """negative energy, and that of z, without the strongest features of the first look: (1 + group,), all images first
    (`two_sidedness`)"""


def jackknife(state: State) -> Jackknife:
    """Leave out each group of images in turn. `grouped_jackknife` makes an SD of it.

    Args:
        state: of at least one image.
    """
    filled = state.group_sizes > 0
    group_sizes = state.group_sizes[filled]
    z_powers = state.z_powers.sum(axis=1)
    energies = state.energies.sum(axis=1)
    top = definitions.top_features(z_powers[3])
    overall = definitions.moments(state.n, z_powers, definitions.Energies(*energies), top)
    z_powers_without = z_powers[:, None, :] - state.z_powers[:, filled]
    energies_without = energies[:, None, :] - state.energies[:, filled]
    with np.errstate(divide="ignore", invalid="ignore"):
        n_without = state.n - group_sizes
        without = definitions.moments(n_without, z_powers_without, definitions.Energies(*energies_without), top)
    all_and_without = np.concatenate([energies[:, None, :], energies_without], axis=1)
    first_top = top if state.first_top is None else state.first_top
    negative = definitions.negative_energies(definitions.Energies(*all_and_without), first_top)
    return Jackknife(z_powers, energies, top, group_sizes, overall, without, negative)


def statistics(state: State, alpha: float, bounds: Bounds = "each") -> Statistics:
    """Turn the state into measured numbers with bounds.

    Every bound holds at every number of images at once (`radius`; the frequency's exactly,
    `share_bounds`). K's spread comes from the per-image kurtosis, the others' from a delete-a-group
    jackknife over the state's groups.

    Args:
        state: of at least one image.
        alpha: error rate of the bounds.
        bounds: each: every lower bound has `alpha` to itself, since PASS needs all of them, and the upper ones share
            it, since one below its threshold is enough to stop (docs/dev/decisions/stopping.md);
            looks: as each, for a run that looks at fixed numbers of images (`depth`).

    Raises:
        ValueError: no image was measured; bounds for looks at another alpha than they are made for.
    """
    n = state.n
    d = state.n_features
    if n == 0:
        raise ValueError("no image was measured")
    if bounds == "looks" and alpha != LOOKS_ALPHA:
        raise ValueError(f"alpha is {alpha:g}; bounds at the looks of a run are for {LOOKS_ALPHA:g}")
    kurtosis = np.sort(np.concatenate(state.kurtosis))  # in an order that the order of the images does not change
    parts = jackknife(state)
    margins = Margins(n, alpha, bounds)

    def bounded(name: Statistic, ceiling: float) -> Interval:
        estimate = float(getattr(parts.overall, name))
        sd, skewness = grouped_jackknife(estimate, getattr(parts.without, name), parts.group_sizes)
        if name == "kurtosis":
            sd = float(kurtosis.std(ddof=1)) if n > 1 else float("nan")
        low, high = margins.around(estimate, sd, skewness, of_energies=name in ENERGIES)
        return _interval(estimate, low, high, ceiling)

    counts, edges = _histogram(kurtosis)
    return Statistics(
        statistic_version=definitions.STATISTIC_VERSION,
        n_images=n,
        n_nonfinite=state.n_nonfinite,
        n_constant=state.n_constant,
        n_features=d,
        alpha=alpha,
        bounds=bounds,
        strength=bounded("strength", float(d)),
        kurtosis=bounded("kurtosis", float(d)),
        persistence_ratio=bounded("persistence_ratio", float("inf")),
        top3_share=bounded("top3_share", 1.0),
        outlier_frequency=_outlier_frequency(state, parts, margins),
        negative_energy=bounded("negative_energy", 1.0),
        negative_z_energy=bounded("negative_z_energy", 1.0),
        two_sidedness=_two_sidedness(parts, margins),
        centred_kurtosis=_finite(float(parts.overall.centred_kurtosis)),
        rms_kurtosis=_finite(float(parts.overall.rms_kurtosis)),
        max_median_ratio=_finite(state.sum_max_median / n),
        zero_share=state.n_zero / (n * d),
        negative_share=state.n_negative / (n * d),
        spread=_spread(np.delete(parts.z_powers, parts.top, axis=1) / n),
        distinct_share=_distinct_share(kurtosis),
        kurtosis_quantiles=np.quantile(kurtosis, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
        histogram_edges=edges.tolist(),
        histogram_counts=counts.tolist(),
        features=_features(state, parts),
    )


class Margins(NamedTuple):
    """The margins between an estimate over n images and its bounds: `alpha` and `bounds` as for `statistics`."""

    n: int
    alpha: float
    bounds: Bounds

    def around(self, estimate: float, sd: float, skewness: float, *, of_energies: bool) -> tuple[float, float]:
        """Return the lower and the upper bound of a statistic with this SD and skewness."""
        margin = radius(self.n, sd, self.alpha)
        if self.bounds == "looks":
            margin = depth(self.n, sd, skewness, of_energies=of_energies)
        return estimate - margin, estimate + radius(self.n, sd, self.alpha / SHARING)


def _two_sidedness(parts: Jackknife, margins: Margins) -> Interval:
    """Return the smallest of four shares, with the smallest of their bounds."""
    shares = []
    for negative, *without in parts.negative:
        sd, skewness = grouped_jackknife(float(negative), np.array(without), parts.group_sizes)
        for share, skewness_of_share in ((negative, skewness), (1 - negative, -skewness)):
            low, high = margins.around(share, sd, skewness_of_share, of_energies=True)
            shares.append((share, low, high))
    estimate, low, high = np.min(shares, axis=0)
    return _interval(estimate, low, high, 0.5)


def _outlier_frequency(state: State, parts: Jackknife, margins: Margins) -> Interval:
    """Return the share of the images in which the strongest feature is beyond 4 SD on its usual side."""
    strongest = parts.top[0]
    n = state.n
    n_far = int(_n_far(state, parts)[strongest])
    if n < 2:
        return Interval(estimate=n_far / n, low=None, high=None)
    low, _ = share_bounds(n_far, n, margins.alpha)
    if margins.bounds == "looks":
        low = share_floor(n_far, n)
    _, high = share_bounds(n_far, n, margins.alpha / SHARING)
    return Interval(estimate=n_far / n, low=low, high=high)


def _n_far(state: State, parts: Jackknife) -> Array:
    """Count per feature the images beyond 4 SD, (feature,). Only the feature's usual side counts, that of its mean."""
    return np.where(parts.z_powers[0] >= 0, state.n_above, state.n_below)


def _interval(estimate: float, low: float, high: float, ceiling: float) -> Interval:
    if not np.isfinite(estimate):
        return Interval(estimate=None, low=None, high=None)
    if not np.isfinite(low):
        return Interval(estimate=float(estimate), low=None, high=None)
    return Interval(estimate=float(estimate), low=float(max(low, 0.0)), high=float(min(high, ceiling)))


def _histogram(kurtosis: Array) -> tuple[Array, Array]:
    """Return the counts and edges of a histogram of the kurtosis per image."""
    low = kurtosis.min()
    high = kurtosis.max()
    if high - low <= SAME_KURTOSIS * high:  # numpy can't part a range of a few roundings
        low -= 0.5
        high += 0.5
    return np.histogram(kurtosis, bins=HISTOGRAM_BINS, range=(low, high))


def _spread(means: Array) -> float | None:
    """Return the share of variance over images in the features' energy. `means`: rows of z, z², …; two are used."""
    m1, m2 = means[:2]
    if not m2.sum() > 0:
        return None
    variance = np.maximum(m2 - m1**2, 0)
    return float(variance.sum()) / float(m2.sum())


def _distinct_share(kurtosis: Array) -> float:
    """Return the share of different values among at most `COMPARED` evenly spaced ones of sorted values."""
    n = len(kurtosis)
    places = np.linspace(0, n - 1, min(n, COMPARED)).round()
    values = kurtosis[places.astype(np.int64)]
    differs = np.diff(values) > SAME_REPRESENTATION * values[1:]
    return float(1 + differs.sum()) / len(values)


def _features(state: State, parts: Jackknife) -> tuple[OutlierFeature, ...]:
    """Describe the strongest features and the other persistent ones, strongest first."""
    n = state.n
    shares = definitions.shares_of_kurtosis(parts.z_powers[3])
    frequency = _n_far(state, parts) / n
    is_persistent = frequency >= definitions.PERSISTENT_SHARE
    mean_h = state.sum_h / n
    mean_h2 = parts.energies[0] / n
    sd_h = np.sqrt(np.maximum(mean_h2 - mean_h**2, 0.0))
    features = []
    for rank, j in enumerate(np.argsort(-shares, kind="stable")):
        if rank >= LISTED_FEATURES and not is_persistent[j]:
            continue
        feature = OutlierFeature(
            index=int(j),
            share=float(shares[j]),
            frequency=float(frequency[j]),
            mean_z=float(parts.z_powers[0, j] / n),
            persistent=bool(is_persistent[j]),
            relative_sd=_relative_sd(mean_h[j], sd_h[j]),
        )
        features.append(feature)
    return tuple(features)


def _relative_sd(mean: float, sd: float) -> float | None:
    """Divide an SD by the size of its mean: None for a mean of zero."""
    if sd == 0:  # zero in every image is as constant as any other value
        return 0.0
    return None if mean == 0 else _finite(sd / abs(mean))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
