"""Sum what the nodes of a scan compute of a tensor: sums and counts, which do not grow with the images."""

from collections import defaultdict
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ...arrays import Array
from ...core.evidence import TOP_FEATURES
from ...core.statistics.definitions import PERSISTENT_SHARE
from ...text import Fields
from .layer import FixedOutlier, LayerStatistics, MassiveActivation, PersistentFeature

Shape = tuple[int, ...]
GRID = 8
"""A feature map is measured at every ⌈edge/8⌉-th row and column, at most 8 × 8 positions. The largest values are taken
over all positions, and placed in one of the 8 × 8 cells."""
MEDIAN_TOKENS = 8  # evenly spaced tokens or positions an image that the medians are taken over: sorting is slow
LARGEST = 3  # features of an image that the largest values are named of
OUTLIER_SD = 6.0  # SD of a row; Bondarenko et al. 2023, Dettmers et al. 2022: their rows are tokens, too
MIN_RELATIVE_VARIANCE: dict[int, float] = {TensorProto.FLOAT: 1e-12, TensorProto.DOUBLE: 1e-18}
"""variance / mean² up to which a row counts as constant: ten times the rounding and more, squared"""


class Tap(NamedTuple):
    """A tensor to measure, and its axes.

    form: vector (image, feature), tokens (image, token, feature), tokens_first (token, image, feature), map (image,
    feature, height, width) or map_last (image, height, width, feature).
    """

    tensor: str
    form: str
    features: int
    positions: Shape
    """tokens; or height and width; empty for a vector"""
    class_token: bool = False
    """whether the first token is the class token"""
    rectified: bool = False
    """whether no value is below 0 (the output of a Relu)"""
    kind: str = ""
    """of the block that it ends"""

    @property
    def strides(self) -> Shape:
        """Return the step between measured positions, for each axis of positions."""
        if len(self.positions) != 2:
            return (1,) * len(self.positions)
        return tuple(ceil(n / GRID) for n in self.positions)

    @property
    def measured(self) -> Shape:
        """Return the number of measured positions, for each axis of positions."""
        pairs = zip(self.positions, self.strides, strict=True)
        return tuple(ceil(n / step) for n, step in pairs)

    @property
    def n_measured(self) -> int:
        """Return the number of rows of features that an image gives."""
        return int(np.prod(self.measured, dtype=int))

    @property
    def median_step(self) -> int:
        """Return the step between rows that medians are taken over."""
        return ceil(self.n_measured / MEDIAN_TOKENS)

    @property
    def fields(self) -> dict[str, int]:
        """Return name and length of a row's pieces, in order."""
        features = self.features
        large = min(LARGEST, features)
        medians = ceil(self.n_measured / self.median_step)
        pieces = {
            "kurtosis": self.n_measured,  # of each measured token; 0 where constant
            "token_z2": self.n_measured,  # largest z² of each
            "median": medians,  # of |h| of a token, of the tokens that medians are taken over
            "most": medians,  # the largest |h| of the same tokens
            "value_feature": large,  # the features with the largest |h|
            "value": large,  # that |h|
            "value_token": large,  # where, among the measured ones; of a map: the cell that begins there
            "feature_z2": features,  # largest z² of each feature
            "z2": features,  # sums over the measured tokens
            "z4": features,
            "beyond": features,  # number of tokens with |z| > 6
        }
        if not self.rectified:
            pieces["highest"] = large  # largest h of the same features
        if self.positions:
            pieces["mean"] = features  # over all tokens
        if self.class_token:
            pieces["class_beyond"] = features  # of the first token
        return pieces

    @property
    def n_numbers(self) -> int:
        """Return the length of a row."""
        return sum(self.fields.values())


MASSIVE_VALUE = 100.0  # Sun et al. 2024, "Massive Activations in LLMs"
MASSIVE_RATIO = 1000.0  # × the median |value| of the hidden state; the same
NAMED = 16  # features or places named of one tensor; the numbers next to them count all
SUMMED = ("z2", "z4", "beyond", "class_beyond")  # pieces of a row with a number per feature that are added up

Spot = tuple[int, int]
"""a feature, and a token or cell"""


class Depth:
    """Sums over images for one tap."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.n_images = self.n_not_finite = self.n_constant = 0
        self._features = {name: np.zeros(tap.features) for name in SUMMED}
        self._sums: dict[str, float] = defaultdict(float)
        self._tops: dict[Spot, tuple[int, float]] = {}
        """images whose largest |z| is there, and the largest z²"""
        self._massive: dict[Spot, tuple[int, float, float]] = {}
        """images with a massive activation there, the largest value and the largest ratio"""
        self._largest_value = 0.0

    def update(self, rows: npt.ArrayLike) -> None:
        """Add images.

        Args:
            rows: (image, number) float32 or float64 as `add_scan` gives them, pieces as `Tap.fields`
                names them.
        """
        rows = np.asarray(rows)
        is_finite = np.isfinite(rows).all(axis=1)
        finite = rows[is_finite].astype(np.float64)
        ends = np.cumsum(list(self.tap.fields.values()))
        pieces = np.split(finite, ends[:-1], axis=1)
        row = dict(zip(self.tap.fields, pieces, strict=True))
        usable = (row["kurtosis"] > 0).any(axis=1)  # 0 stands for a constant one; any other is ≥ 1
        row = {name: piece[usable] for name, piece in row.items()}
        count = int(usable.sum())
        self.n_images += count
        self.n_not_finite += len(rows) - len(finite)
        self.n_constant += len(finite) - count
        if not count:
            return
        n_rows = (row["kurtosis"] > 0).sum(axis=1)
        kurtosis = row["kurtosis"].sum(axis=1) / n_rows
        has_median = row["median"] > 0
        ratios = np.zeros_like(row["most"])
        np.divide(row["most"], row["median"], out=ratios, where=has_median)
        n_ratios = has_median.sum(axis=1)
        has_ratio = n_ratios > 0
        numbers = {
            "rows": n_rows,
            "kurtosis": kurtosis,
            "kurtosis²": kurtosis**2,
            "ratio": ratios.sum(axis=1)[has_ratio] / n_ratios[has_ratio],
            "n_ratio": has_ratio,
            "ratio_rows": n_ratios,
        }
        if self.tap.class_token:
            of_class = row["kurtosis"][:, 0]
            numbers |= {"class": of_class, "n_class": of_class > 0}
        if self.tap.positions:
            kind = TensorProto.DOUBLE if rows.dtype == np.float64 else TensorProto.FLOAT
            of_mean = _kurtosis(row["mean"], MIN_RELATIVE_VARIANCE[kind])
            numbers |= {"mean": of_mean, "n_mean": of_mean > 0}
        for name, values in numbers.items():
            self._sums[name] += float(np.sum(values))
        for name in self._features.keys() & row:
            self._features[name] += row[name].sum(axis=0)
        self._place_outliers(row)
        self._place_massive(row)

    def _place_outliers(self, row: dict[str, Array]) -> None:
        for by_feature, by_token in zip(row["feature_z2"], row["token_z2"], strict=True):
            top = by_feature.max()
            features = np.flatnonzero(by_feature == top)
            tokens = np.flatnonzero(by_token == by_token.max())
            if top > OUTLIER_SD**2 and 1 in {len(features), len(tokens)}:  # else which of them meet is not known
                place = (int(features[0]), int(tokens[0]))
                count, largest = self._tops.get(place, (0, 0.0))
                largest = max(largest, float(top))
                self._tops[place] = (count + 1, largest)

    def _place_massive(self, row: dict[str, Array]) -> None:
        size = row["value"]
        signed = size
        if "highest" in row:
            signed = np.where(row["highest"] == size, size, -size)
        self._largest_value = max(self._largest_value, float(size.max()))
        # where the median is 0 (most of a rectified map), a ratio to it says nothing
        median = np.median(row["median"], axis=1, keepdims=True)
        stands_out = (size >= MASSIVE_RATIO * median) & (median > 0)
        for image, rank in np.argwhere(stands_out & (size > MASSIVE_VALUE)):
            feature = int(row["value_feature"][image, rank])
            token = int(row["value_token"][image, rank])
            value = float(signed[image, rank])
            ratio = size[image, rank] / median[image, 0]
            count, most, highest = self._massive.get((feature, token), (0, 0.0, 0.0))
            most = max(most, value, key=abs)
            highest = max(highest, float(ratio))
            self._massive[feature, token] = (count + 1, most, highest)

    def statistics(self) -> LayerStatistics:
        """Return what the images add up to."""
        n = self.n_images
        sums = self._sums
        rows = sums["rows"]
        kurtosis = _over(sums["kurtosis"], n)
        error = None
        if kurtosis is not None and n > 1:
            variance = sums["kurtosis²"] / n - kurtosis**2
            error = (max(variance, 0.0) / (n - 1)) ** 0.5
        z4 = self._features["z4"]
        shares = z4 / (z4.sum() or 1.0)
        rms_kurtosis = None
        top3_share = None
        if rows:
            s2 = self._features["z2"] / rows
            rms_kurtosis = float(np.mean(s2**2) / np.mean(s2) ** 2)
            top3_share = float(np.sort(shares)[::-1][:TOP_FEATURES].sum())
        persistent = _persistent(self._features["beyond"], rows, shares)
        of_class = _persistent(self._features["class_beyond"], n, shares)
        massive = []
        most_frequent = sorted(self._massive.items(), key=lambda item: (-item[1][0], item[0]))
        for spot, (count, value, ratio) in most_frequent[:NAMED]:
            place = self._place(spot, count)
            massive.append(MassiveActivation(**place, value=value, over_median=ratio))
        max_median_ratio = None
        n_medians = n * self.tap.fields["median"]
        if sums["ratio_rows"] >= 0.5 * n_medians:
            max_median_ratio = _over(sums["ratio"], sums["n_ratio"])
        return LayerStatistics(
            n_images=n,
            n_rows=round(rows),
            n_not_finite=self.n_not_finite,
            n_constant=self.n_constant,
            kurtosis=kurtosis,
            kurtosis_se=error,
            class_token_kurtosis=_over(sums["class"], sums["n_class"]),
            mean_token_kurtosis=_over(sums["mean"], sums["n_mean"]),
            rms_kurtosis=rms_kurtosis,
            top3_share=top3_share,
            n_persistent=len(persistent),
            persistent=tuple(persistent[:NAMED]),
            n_class_token_persistent=len(of_class),
            class_token_persistent=tuple(of_class[:NAMED]),
            fixed_outlier=self._fixed_outlier(),
            max_median_ratio=max_median_ratio,
            largest_value=self._largest_value if n else None,
            massive=tuple(massive),
            n_massive=len(self._massive),
        )

    def _fixed_outlier(self) -> FixedOutlier | None:
        if not self._tops:
            return None
        spot, (count, z2) = max(self._tops.items(), key=lambda item: (item[1][0], item[0]))
        if count < PERSISTENT_SHARE * self.n_images:
            return None
        return FixedOutlier(**self._place(spot, count), largest_z=z2**0.5)

    def _place(self, spot: Spot, count: int) -> Fields:
        """Return the fields of a `Place`."""
        feature, token = spot
        return {
            "feature": feature,
            "token": token if self.tap.positions else None,
            "where": place_text(self.tap, token),
            "frequency": count / self.n_images,
        }


def place_text(tap: Tap, token: int) -> str:
    """Return a token or cell in words, empty for a vector.

    >>> place_text(Tap("t", "map", 8, (16, 4)), 5)
    'rows 2–3, column 1'
    """
    if not tap.positions:
        return ""
    if len(tap.positions) == 1:
        return "class token" if tap.class_token and token == 0 else f"token {token}"
    parts = []
    cells = divmod(token, tap.measured[1])
    for axis, index, step, n in zip(("row", "column"), cells, tap.strides, tap.positions, strict=True):
        first = index * step
        last = min(first + step, n) - 1
        if first == last:
            parts.append(f"{axis} {first}")
        else:
            parts.append(f"{axis}s {first}–{last}")
    return ", ".join(parts)


def _persistent(beyond: Array, rows: float, shares: Array) -> list[PersistentFeature]:
    persistent = []
    least = max(PERSISTENT_SHARE * rows, 1)
    for feature in map(int, np.argsort(-beyond, kind="stable")):
        if beyond[feature] >= least:
            frequency = float(beyond[feature] / rows)
            share = float(shares[feature])
            persistent.append(PersistentFeature(feature=feature, frequency=frequency, kurtosis_share=share))
    return persistent


def _kurtosis(values: Array, least_variance: float) -> Array:
    """Return the activation kurtosis of (image, feature), 0 of a constant one: variance / mean² ≤ `least_variance`."""
    mean = values.mean(axis=1, keepdims=True)
    squares = (values - mean) ** 2
    variance = squares.mean(axis=1, keepdims=True)
    has_spread = variance > least_variance * mean**2
    z2 = np.zeros_like(squares)
    np.divide(squares, variance, out=z2, where=has_spread)
    return np.asarray((z2**2).mean(axis=1))


def _over(total: float, count: float) -> float | None:
    return total / count if count else None
