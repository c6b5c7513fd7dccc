"""What a scan measured of the layers: the records, and in words where outlier features begin. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ....thresholds.records import Frozen

NAMED = 3  # features in a cell of the table


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
    """The one place of the largest |z|, beyond 6 SD in at least half of the images."""

    largest_z: float
    """SD, over all images"""


class MassiveActivation(Place):
    """A massive activation.

    |value| > 100 and at least 1000 × the median |value| of the image's tensor (Sun et al. 2024).
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
        """Return whether some feature is persistent."""
        return self.n_persistent > 0


class Layer(Frozen):
    """The end of one block, measured."""

    kind: str
    """stem, stage, attention, mlp, convolution, named, or representation (see docs/questions.md)"""
    tensor: str
    form: str
    """vector, tokens, tokens_first, map (features before positions) or map_last"""
    width: int
    """features"""
    positions: tuple[int, ...]
    """tokens; or height and width; empty for a vector"""
    measured: tuple[int, ...]
    """positions at which rows of features are measured"""
    class_token: bool
    statistics: LayerStatistics


def summary(layers: Sequence[Layer], begins: int | None) -> str:
    """Return in words where outlier features begin."""
    n_images = max(layer.statistics.n_images for layer in layers)
    of_class = [index for index, layer in enumerate(layers) if layer.statistics.n_class_token_persistent]
    text = f"No layer has a persistent outlier feature on these {n_images} images."
    if begins is not None:
        first = layers[begins].statistics
        of = ("", "tokens of ", "positions of ")[len(layers[begins].positions)]
        rows = f"{of}{first.n_images} images"
        features = _first(first.persistent, first.n_persistent, rows)
        layer = _named(layers, begins)
        text = f"{layer[:1].upper()}{layer[1:]} is the first with a persistent outlier feature: {features}."
    if of_class and (begins is None or of_class[0] < begins):
        class_token = layers[of_class[0]].statistics
        features = _first(class_token.class_token_persistent, class_token.n_class_token_persistent, "images")
        text += f" In the class token alone it is {_named(layers, of_class[0])}: {features}."
    return text


def _named(layers: Sequence[Layer], index: int) -> str:
    layer = layers[index]
    if layer.kind == "representation":
        return f"the representation ({layer.tensor})"
    return f"layer {index + 1} of {len(layers)} ({layer.kind}, {layer.tensor})"


def _first(features: Sequence[PersistentFeature], count: int, rows: str) -> str:
    first = features[0]
    more = f" and {count - 1} more" if count > 1 else ""
    return f"feature {first.feature}{more}, beyond 6 SD in {100 * first.frequency:.0f} % of the {rows}"


def persistent_text(measured: LayerStatistics) -> str:
    """Return the layer's persistent outlier features, the most frequent first, or "–" where there is none."""
    if not measured.n_persistent:
        return "–"
    more = measured.n_persistent - NAMED
    named = [str(feature.feature) for feature in measured.persistent[:NAMED]]
    first = ", ".join(named)
    if more > 0:
        return f"{first} + {more} more"
    return first
