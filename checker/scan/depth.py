"""Compute outlier features of one tensor over images. The graph gives rows of numbers.

What is kept are sums and counts: nothing grows with the number of images.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from robustcheck_onnx.checker.arrays import Array
from robustcheck_onnx.checker.statistics import PERSISTENT_SHARE, TOP_FEATURES
from robustcheck_onnx.thresholds.frozen import Frozen

from .taps import MIN_RELATIVE_VARIANCE, Tap

MASSIVE_VALUE = 100.0  # Sun et al. 2024, "Massive Activations in LLMs"
MASSIVE_RATIO = 1000.0  # × the median |value| of the hidden state; the same
OUTLIER_VARIANCE = 36.0  # z² of 6 SD
NAMED = 16  # features or places named of one tensor; the numbers next to them count all


class PersistentFeature(Frozen):
    """A feature that is extreme in most rows.

    |z| > 6 in at least half of the measured rows (tokens or positions of all images).
    """

    feature: int
    frequency: float
    """share of the rows in which it is beyond 6 SD"""
    kurtosis_share: float
    """its part of the sum of z⁴ over all features"""


class Place(Frozen):
    """A feature at a token or position."""

    feature: int
    token: int | None
    """index of the token; of a map: of the cell, row by row; None for a vector"""
    where: str
    """the same in words; empty for a vector"""
    frequency: float
    """share of the images"""


class FixedOutlier(Place):
    """The one place of the largest |z|. It is beyond 6 SD, in at least half of the images."""

    largest_z: float
    """SD, over all images"""


class MassiveActivation(Place):
    """A massive activation.

    |value| > 100 and at least 1000 × the median |value| of the image's tensor (Sun et al. 2024). 2024).
    """

    value: float
    """the largest in size, with its sign"""
    over_median: float
    """the largest ratio"""


class LayerStatistics(Frozen):
    """The statistics of one tensor. z is a row of features standardised over the features."""

    n_images: int
    n_rows: int
    """rows of features: images × measured tokens or positions, constant ones left out"""
    n_not_finite: int
    """images left out because a value is not finite"""
    n_constant: int
    """images left out because no row has any spread"""
    kurtosis: float | None
    """mean over images of the mean over rows of mean_j z_j⁴"""
    kurtosis_se: float | None
    """standard error over images; None with one image"""
    class_token_kurtosis: float | None
    mean_token_kurtosis: float | None
    """of the mean over all tokens or positions"""
    rms_kurtosis: float | None
    """mean_j s_j⁴ / (mean_j s_j²)², s_j² the mean of z_j² over rows (He et al. 2024)"""
    top3_share: float | None
    """part of the sum of z⁴ that its three largest features have"""
    n_persistent: int
    persistent: tuple[PersistentFeature, ...]
    """the most frequent first"""
    n_class_token_persistent: int
    class_token_persistent: tuple[PersistentFeature, ...]
    """the same over class tokens alone; kurtosis_share as over all rows"""
    fixed_outlier: FixedOutlier | None
    max_median_ratio: float | None
    """mean over images of the mean over rows of max_j |h_j| / median_j |h_j|; None where most rows have median 0"""
    largest_value: float | None
    """largest |h| of any image and position"""
    massive: tuple[MassiveActivation, ...]
    """the most frequent first"""
    n_massive: int
    """places where there is one in some image"""

    @property
    def has_outliers(self) -> bool:
        """Whether some feature is persistent."""
        return self.n_persistent > 0


class Depth:
    """Sums over images for one tap."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.n_images = self.n_not_finite = self.n_constant = 0
        self._rows = 0.0
        self._z2, self._z4, self._beyond, self._class_beyond = np.zeros((4, tap.features))
        self._sums: dict[str, float] = dict.fromkeys(
            ("kurtosis", "kurtosis²", "class_kurtosis", "n_class", "mean_kurtosis", "n_mean", "ratio", "n_ratio"), 0.0
        )
        self._n_ratio_rows = 0.0
        self._tops: Counter[tuple[int, int]] = Counter()
        self._largest_z2: dict[tuple[int, int], float] = {}
        self._massive: Counter[tuple[int, int]] = Counter()
        self._massive_sizes: dict[tuple[int, int], tuple[float, float]] = {}
        self._largest_value = 0.0

    def update(self, rows: npt.ArrayLike) -> None:
        """Add images.

        Args:
            rows: (image, number) float32 or float64 as `taps.add_scan` gives them, pieces as `Tap.fields`
                names them.
        """
        rows = np.asarray(rows)
        least_variance = MIN_RELATIVE_VARIANCE[TensorProto.DOUBLE if rows.dtype == np.float64 else TensorProto.FLOAT]
        values = rows.astype(np.float64)
        finite = np.isfinite(values).all(axis=1)
        self.n_not_finite += int((~finite).sum())
        values = values[finite]
        ends = np.cumsum(list(self.tap.fields.values()))[:-1]
        row = dict(zip(self.tap.fields, np.split(values, ends, axis=1), strict=True))
        n_rows = (row["kurtosis"] > 0).sum(axis=1)  # 0 stands for a constant one; any other is ≥ 1
        usable = n_rows > 0
        self.n_constant += int((~usable).sum())
        row, n_rows = {name: piece[usable] for name, piece in row.items()}, n_rows[usable]
        count = len(n_rows)
        self.n_images += count
        if not count:
            return
        self._rows += float(n_rows.sum())
        kurtosis = row["kurtosis"].sum(axis=1) / n_rows
        self._sums["kurtosis"] += float(kurtosis.sum())
        self._sums["kurtosis²"] += float((kurtosis**2).sum())
        if self.tap.class_token:
            self._add_kurtosis("class", row["kurtosis"][:, 0])
        if self.tap.positions:
            self._add_kurtosis("mean", _kurtosis(row["mean"], least_variance))
        has_median = row["median"] > 0
        ratios = np.divide(row["most"], row["median"], out=np.zeros_like(row["most"]), where=has_median).sum(axis=1)
        n_ratios = has_median.sum(axis=1)
        has_ratio = n_ratios > 0
        self._sums["ratio"] += float((ratios[has_ratio] / n_ratios[has_ratio]).sum())
        self._sums["n_ratio"] += float(has_ratio.sum())
        self._n_ratio_rows += float(n_ratios.sum())
        self._z2 += row["z2"].sum(axis=0)
        self._z4 += row["z4"].sum(axis=0)
        self._beyond += row["beyond"].sum(axis=0)
        if self.tap.class_token:
            self._class_beyond += row["class_beyond"].sum(axis=0)
        self._place_outliers(row)
        self._place_massive(row)

    def _add_kurtosis(self, name: str, values: Array) -> None:
        self._sums[f"{name}_kurtosis"] += float(values.sum())
        self._sums[f"n_{name}"] += float((values > 0).sum())

    def _place_outliers(self, row: dict[str, Array]) -> None:
        for by_feature, by_token in zip(row["feature_z2"], row["token_z2"], strict=True):
            top, features = by_feature.max(), np.flatnonzero(by_feature == by_feature.max())
            tokens = np.flatnonzero(by_token == by_token.max())
            if top > OUTLIER_VARIANCE and 1 in {len(features), len(tokens)}:  # else which of them meet is not known
                place = (int(features[0]), int(tokens[0]))
                self._tops[place] += 1
                self._largest_z2[place] = max(self._largest_z2.get(place, 0.0), float(top))

    def _place_massive(self, row: dict[str, Array]) -> None:
        size = row["value"]
        signed = np.where(row["highest"] == size, size, -size) if "highest" in row else size
        self._largest_value = max(self._largest_value, float(size.max()))
        # where the median is 0 (most of a rectified map), a ratio to it says nothing
        median = np.median(row["median"], axis=1, keepdims=True)
        massive = (size > MASSIVE_VALUE) & (size >= MASSIVE_RATIO * median) & (median > 0)
        for image, rank in np.argwhere(massive):
            place = (int(row["value_feature"][image, rank]), int(row["value_token"][image, rank]))
            value, ratio = float(signed[image, rank]), float(size[image, rank] / median[image, 0])
            self._massive[place] += 1
            before = self._massive_sizes.get(place, (0.0, 0.0))
            self._massive_sizes[place] = (max(before[0], value, key=abs), max(before[1], ratio))

    def statistics(self) -> LayerStatistics:
        """What the images add up to."""
        n, rows, sums = self.n_images, self._rows, self._sums
        kurtosis = sums["kurtosis"] / n if n else None
        spread = max(sums["kurtosis²"] / n - kurtosis**2, 0.0) if kurtosis is not None else 0.0
        s2 = self._z2 / rows if rows else self._z2
        shares = self._z4 / self._z4.sum() if rows else self._z4
        persistent = _persistent(self._beyond, rows, shares)
        of_class = _persistent(self._class_beyond, n, shares)
        massive = [
            MassiveActivation(
                feature=place[0],
                token=self._token(place),
                where=place_text(self.tap, place[1]),
                frequency=count / n,
                value=self._massive_sizes[place][0],
                over_median=self._massive_sizes[place][1],
            )
            for place, count in sorted(self._massive.items(), key=lambda item: (-item[1], item[0]))
        ]
        return LayerStatistics(
            n_images=n,
            n_rows=round(rows),
            n_not_finite=self.n_not_finite,
            n_constant=self.n_constant,
            kurtosis=kurtosis,
            kurtosis_se=(spread / (n - 1)) ** 0.5 if n > 1 else None,
            class_token_kurtosis=_over(sums["class_kurtosis"], sums["n_class"]) if self.tap.class_token else None,
            mean_token_kurtosis=_over(sums["mean_kurtosis"], sums["n_mean"]) if self.tap.positions else None,
            rms_kurtosis=float(np.mean(s2**2) / np.mean(s2) ** 2) if rows else None,
            top3_share=float(np.sort(shares)[::-1][:TOP_FEATURES].sum()) if rows else None,
            n_persistent=len(persistent),
            persistent=tuple(persistent[:NAMED]),
            n_class_token_persistent=len(of_class),
            class_token_persistent=tuple(of_class[:NAMED]),
            fixed_outlier=self._fixed_outlier(),
            max_median_ratio=(
                _over(sums["ratio"], sums["n_ratio"])
                if n and self._n_ratio_rows >= 0.5 * n * self.tap.n_medians
                else None
            ),
            largest_value=self._largest_value if n else None,
            massive=tuple(massive[:NAMED]),
            n_massive=len(massive),
        )

    def _fixed_outlier(self) -> FixedOutlier | None:
        place, count = max(self._tops.items(), key=lambda item: (item[1], item[0]), default=((0, 0), 0))
        if not count or count < PERSISTENT_SHARE * self.n_images:
            return None
        return FixedOutlier(
            feature=place[0],
            token=self._token(place),
            where=place_text(self.tap, place[1]),
            frequency=count / self.n_images,
            largest_z=self._largest_z2[place] ** 0.5,
        )

    def _token(self, place: tuple[int, int]) -> int | None:
        return place[1] if self.tap.positions else None


def place_text(tap: Tap, token: int) -> str:
    """Return a token or cell in words. Empty for a vector.

    >>> place_text(Tap("t", "map", 8, (16, 4)), 5)
    'rows 2–3, column 1'
    """
    if not tap.positions:
        return ""
    if len(tap.positions) == 1:
        return "class token" if tap.class_token and token == 0 else f"token {token}"
    parts: list[str] = []
    for axis, index in zip(("row", "column"), divmod(token, tap.measured[1]), strict=True):
        at = len(parts)
        first = index * tap.strides[at]
        last = min(first + tap.strides[at], tap.positions[at]) - 1
        parts.append(f"{axis} {first}" if first == last else f"{axis}s {first}–{last}")
    return ", ".join(parts)


def _persistent(beyond: Array, rows: float, shares: Array) -> list[PersistentFeature]:
    persistent = np.flatnonzero((beyond >= PERSISTENT_SHARE * rows) & (beyond > 0))
    ranked = sorted(persistent, key=lambda feature: (-beyond[feature], feature))
    return [
        PersistentFeature(
            feature=int(feature), frequency=float(beyond[feature] / rows), kurtosis_share=float(shares[feature])
        )
        for feature in ranked
    ]


def _kurtosis(values: Array, least_variance: float) -> Array:
    """Return the activation kurtosis of (image, feature).

    It is 0 of a constant one: variance / mean² up to `least_variance`.
    """
    mean = values.mean(axis=1, keepdims=True)
    squares = (values - mean) ** 2
    variance = squares.mean(axis=1, keepdims=True)
    z2 = np.divide(squares, variance, out=np.zeros_like(squares), where=variance > least_variance * mean**2)
    kurtosis: Array = (z2**2).mean(axis=1)
    return kurtosis


def _over(total: float, count: float) -> float | None:
    return total / count if count else None
