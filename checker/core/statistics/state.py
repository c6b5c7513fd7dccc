"""Add up representations and compute their statistics, with bounds.

A state takes memory O(groups · features) and one number per image. Two states merge in any order to the same up to
rounding, so batches, workers and machines can be added up.

`measure` and `Accumulator` are for representations that the caller has. They give numbers with intervals, and no
verdict: that also needs the model, its preprocessing and the sanity of the images, which `check` looks at; `judge` is
for those who bring all of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....thresholds.profile import load
from ....thresholds.statistics import ENERGIES, LOOKS_ALPHA, Bounds, Statistic
from ...arrays import Array, Bools, Counts, Indices, SupportsArray, as_array
from ...errors import CannotAssessError, UsageError
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
        TypeError: no array; the message names the type.
        UsageError: another shape or dtype.
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
            TypeError: no array; the message names the type.
            UsageError: another shape, width or dtype; nothing was added.
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
            TypeError: `other` is none.
            UsageError: the numbers of features differ.
        """
        if not isinstance(other, Accumulator):
            raise TypeError(f"other: type is {type_name(other)}; it must be an Accumulator")
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


@dataclass
class State:
    """The sums over images. Those of the jackknife are separate for each of `GROUPS` groups of images."""

    n_features: int
    n_nonfinite: int = 0
    n_constant: int = 0

    def __post_init__(self) -> None:
        d = self.n_features
        self.sizes = np.zeros(GROUPS)
        self.powers = np.zeros((4, GROUPS, d))  # sums of z, z², z³, z⁴
        self.energies = np.zeros((4, GROUPS, d))  # sums of h², min(h, 0)², y², min(y, 0)²: `definitions.energies`
        self.total = np.zeros(d)  # sum of h
        self.far_above = np.zeros(d)  # images with z > 4
        self.far_below = np.zeros(d)  # images with z < −4
        self.zeros = 0
        self.below_zero = 0
        self.max_median_sum = 0.0
        self.per_image: list[Array] = []
        self.first_top: Indices | None = None  # the strongest features at the first look

    @property
    def n(self) -> int:
        """Count the images measured so far. Non-finite and constant ones are left out."""
        return int(self.sizes.sum())


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
    before = state.n
    if before < FIRST_LOOK <= before + len(z):  # at the same image, whatever the batches are
        added = z[: FIRST_LOOK - before] ** 4
        first = state.powers[3].sum(axis=0) + added.sum(axis=0)
        state.first_top = definitions.top_features(first)
    powers = np.empty((4, *z.shape))
    powers[0] = z
    for k in range(1, 4):
        np.multiply(powers[k - 1], z, out=powers[k])
    _add_to_groups(state.powers, groups, powers)
    per_image = powers[3].mean(axis=1)
    state.per_image.append(per_image)
    np.add.at(state.sizes, groups, 1.0)
    _add_to_groups(state.energies, groups, np.stack(definitions.energies(x, z)))
    state.far_above += (z > OUTLIER_SD).sum(axis=0)
    state.far_below += (z < -OUTLIER_SD).sum(axis=0)
    state.total += x.sum(axis=0)
    state.zeros += int((x == 0).sum())
    state.below_zero += int((x < 0).sum())
    state.max_median_sum += float(definitions.max_median_ratio(x).sum())
    return MeasuredBatch(rows.usable, z, per_image)


def _add_to_groups(sums: Array, groups: Counts, values: Array) -> None:
    """Add the values of images, (4, image, feature), to the sums of their groups, (4, group, feature)."""
    for image, group in enumerate(groups):  # np.add.at takes nine times as long for rows
        sums[:, group] += values[:, image]


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
    for name in vars(out).keys() - {"n_features", "first_top"}:
        setattr(out, name, getattr(a, name) + getattr(b, name))
    if not (a.n and b.n):
        out.first_top = a.first_top if a.n else b.first_top
    return out


class Jackknife(NamedTuple):
    """The statistics of all images and without each group. Only groups that have images count."""

    sums: Array
    """(4, feature) sums of z, z², z³, z⁴ over all images"""
    energies: Array
    """(4, feature) sums of h², min(h, 0)², y², min(y, 0)² over all images"""
    top: Indices
    """the features of the largest shares in K, strongest first"""
    sizes: Array
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
        state: sums over at least one image.
    """
    filled = state.sizes > 0
    sizes = state.sizes[filled]
    sums = state.powers.sum(axis=1)
    energies = state.energies.sum(axis=1)
    top = definitions.top_features(sums[3])
    powers_without = sums[:, None, :] - state.powers[:, filled]
    energies_without = energies[:, None, :] - state.energies[:, filled]
    with np.errstate(divide="ignore", invalid="ignore"):
        without = definitions.moments(state.n - sizes, powers_without, definitions.Energies(*energies_without), top)
    overall = definitions.moments(state.n, sums, definitions.Energies(*energies), top)
    everything = np.concatenate([energies[:, None, :], energies_without], axis=1)
    first_top = top if state.first_top is None else state.first_top
    negative = definitions.negative_energies(definitions.Energies(*everything), first_top)
    return Jackknife(sums, energies, top, sizes, overall, without, negative)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(estimate: float, low: float, high: float, ceiling: float) -> Interval:
    if not np.isfinite(estimate):
        return Interval(estimate=None, low=None, high=None)
    if not np.isfinite(low):
        return Interval(estimate=float(estimate), low=None, high=None)
    return Interval(estimate=float(estimate), low=float(max(low, 0.0)), high=float(min(high, ceiling)))


def statistics(state: State, alpha: float, bounds: Bounds = "each") -> Statistics:
    """Turn the state into measured numbers with bounds.

    Every bound holds at every number of images at once (`radius`; the frequency's exactly,
    `share_bounds`). K's spread comes from the per-image kurtosis, the others' from a delete-a-group
    jackknife over the state's groups.

    Args:
        state: sums over at least one image.
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
    per_image = np.sort(np.concatenate(state.per_image))  # in an order that the order of the images does not change
    sums, energies, top, sizes, overall, without, negative = jackknife(state)
    levels = (alpha, alpha / SHARING)

    def distances(sd: float, skewness: float, *, of_energies: bool) -> tuple[float, float]:
        low, high = (radius(n, sd, level) for level in levels)
        if bounds == "looks":
            low = depth(n, sd, skewness, of_energies=of_energies)
        return low, high

    def bounded(name: Statistic, ceiling: float) -> Interval:
        estimate = float(getattr(overall, name))
        sd, skewness = grouped_jackknife(estimate, getattr(without, name), sizes)
        if name == "kurtosis":
            sd = float(per_image.std(ddof=1)) if n > 1 else float("nan")
        low, high = distances(sd, skewness, of_energies=name in ENERGIES)
        return _interval(estimate, estimate - low, estimate + high, ceiling)

    def two_sided() -> Interval:
        """Return the smallest of four shares, with the smallest of their bounds."""
        sides = []
        for share, *others in negative:
            sd, skewness = grouped_jackknife(float(share), np.array(others), sizes)
            for side, q in ((share, skewness), (1 - share, -skewness)):
                low, high = distances(sd, q, of_energies=True)
                sides.append((side, side - low, side + high))
        estimate, low, high = np.min(sides, axis=0)
        return _interval(estimate, low, high, 0.5)

    counts, edges = _histogram(per_image)
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
        outlier_frequency=_frequency(state, sums, int(top[0]), levels, bounds),
        negative_energy=bounded("negative_energy", 1.0),
        negative_z_energy=bounded("negative_z_energy", 1.0),
        two_sidedness=two_sided(),
        centred_kurtosis=_finite(float(overall.centred_kurtosis)),
        rms_kurtosis=_finite(float(overall.rms_kurtosis)),
        max_median_ratio=_finite(state.max_median_sum / n),
        zero_share=state.zeros / (n * d),
        negative_share=state.below_zero / (n * d),
        spread=_spread(np.delete(sums, top, axis=1) / n),
        distinct_share=_distinct_share(per_image),
        kurtosis_quantiles=np.quantile(per_image, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
        histogram_edges=edges.tolist(),
        histogram_counts=counts.tolist(),
        features=_features(state, sums, energies[0]),
    )


def _histogram(per_image: Array) -> tuple[Array, Array]:
    """Return the counts and edges of a histogram of the kurtosis per image."""
    low = per_image.min()
    high = per_image.max()
    if high - low <= SAME_KURTOSIS * high:  # numpy can't part a range of a few roundings
        low -= 0.5
        high += 0.5
    return np.histogram(per_image, bins=HISTOGRAM_BINS, range=(low, high))


def _spread(means: Array) -> float | None:
    """Return the share of variance over images in the features' energy. `means`: rows of z, z², …; two are used."""
    m1, m2 = means[:2]
    if not m2.sum() > 0:
        return None
    variance = np.maximum(m2 - m1**2, 0)
    return float(variance.sum()) / float(m2.sum())


def _distinct_share(per_image: Array) -> float:
    """Return the share of different values among at most `COMPARED` evenly spaced ones of sorted values."""
    n = len(per_image)
    places = np.linspace(0, n - 1, min(n, COMPARED)).round()
    values = per_image[places.astype(np.int64)]
    differs = np.diff(values) > SAME_REPRESENTATION * values[1:]
    return float(1 + differs.sum()) / len(values)


def _far(state: State, sums: Array) -> Array:
    """Count per feature the images beyond 4 SD, (feature,). Only the feature's usual side counts, that of its mean."""
    return np.where(sums[0] >= 0, state.far_above, state.far_below)


def _frequency(state: State, sums: Array, strongest: int, levels: tuple[float, float], bounds: Bounds) -> Interval:
    """Return how often the strongest feature is beyond 4 SD on its usual side."""
    count = int(_far(state, sums)[strongest])
    n = state.n
    if n < 2:
        return Interval(estimate=count / n, low=None, high=None)
    low, _ = share_bounds(count, n, levels[0])
    _, high = share_bounds(count, n, levels[1])
    if bounds == "looks":
        low = share_floor(count, n)
    return Interval(estimate=count / n, low=low, high=high)


def _features(state: State, sums: Array, energy: Array) -> tuple[OutlierFeature, ...]:
    n = state.n
    shares = definitions.shares_of_kurtosis(sums[3])
    frequency = _far(state, sums) / n
    mean_h = state.total / n
    sd_h = np.sqrt(np.maximum(energy / n - mean_h**2, 0.0))
    is_persistent = frequency >= definitions.PERSISTENT_SHARE
    features = []
    for rank, j in enumerate(np.argsort(-shares, kind="stable")):
        if rank >= LISTED_FEATURES and not is_persistent[j]:
            continue
        feature = OutlierFeature(
            index=int(j),
            share=float(shares[j]),
            frequency=float(frequency[j]),
            mean_z=float(sums[0, j] / n),
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
