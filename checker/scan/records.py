"""The records of a scan, its summary and notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from robustcheck_onnx.checker.evidence import Execution, ImageFacts, PreprocessingFacts
from robustcheck_onnx.checker.report import notebook
from robustcheck_onnx.checker.report.document import Shown
from robustcheck_onnx.checker.report.record import ModelRead, Time
from robustcheck_onnx.checker.text import count_text
from robustcheck_onnx.thresholds.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LIMITS = (
    "Information, not a verdict: robustcheck check judges the representation alone. Outlier features of tokens or "
    "positions inside a network do not tell effective robustness: DeiT-III, trained with labels only, has outlier "
    "tokens; DINOv3, trained without text, has constant large features that its last norm scales down; registers take "
    "outlier tokens out of OpenCLIP at unchanged accuracy (Darcet et al. 2024)."
)


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
        """Whether some feature is persistent."""
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


class ScanModel(ModelRead):
    """The model of a scan."""

    rule: str
    """how blocks were found: residual, stages or named"""
    n_left_out: int
    """ends of blocks that could not be read, such as rows that are not images"""
    output_difference: float
    """largest relative difference of representation and class scores with and without the appended nodes"""
    output_unchanged: bool


class ScanReport(Shown, Frozen):
    """The outlier features through the depth of a model."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    kind: Literal["scan"] = "scan"
    tool_version: str
    model: ScanModel
    layers: tuple[Layer, ...]
    """in the order of the graph; the representation last"""
    begins: int | None
    """index of the first layer with a persistent outlier feature"""
    summary: str
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    notes: tuple[str, ...]
    limits: str = LIMITS
    time: Time | None
    """None where the caller asked for no time block"""

    def __repr_args__(self) -> list[tuple[str, object]]:
        """Show one line in repr, str and rich."""
        begins = None if self.begins is None else self.begins + 1
        n_images = self.images.n_usable
        return [("model", self.model.file), ("layers", len(self.layers)), ("begins", begins), ("images", n_images)]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame, one row per layer. Layers are in the order of the graph, numbered from 1.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        columns = {"n_images", "kurtosis", "kurtosis_se", "top3_share", "n_persistent", "max_median_ratio"}
        rows: list[notebook.Row] = [
            {
                "layer": index,
                **layer.model_dump(include={"kind", "tensor", "width"}),
                **layer.statistics.model_dump(include=columns),
            }
            for index, layer in enumerate(self.layers, 1)
        ]
        return notebook.frame(rows, "layer")

    def plot(self) -> Figure:
        """Plot kurtosis and top-3 share over depth.

        Returns:
            A figure of matplotlib: the last value of a notebook's cell, or `.savefig(PATH)`.

        Raises:
            EnvironmentFaultError: matplotlib (the extra `plot`) is not installed.
        """
        measured = [(layer.statistics, layer.kind) for layer in self.layers]
        points = [notebook.Point(s.kurtosis, s.kurtosis_se, s.top3_share, s.n_persistent, kind) for s, kind in measured]
        counts = f"{count_text(len(points), 'layer')} · {count_text(self.images.n_usable, 'image')}"
        return notebook.depth_figure(f"scan · {PurePath(self.model.file).name} · {counts}", points)


def summary(layers: Sequence[Layer], begins: int | None) -> str:
    """Where outlier features begin, in words."""
    n_images = max(layer.statistics.n_images for layer in layers)
    of_class = next((i for i, layer in enumerate(layers) if layer.statistics.n_class_token_persistent), None)
    text = f"No layer has a persistent outlier feature on these {n_images} images."
    if begins is not None:
        first = layers[begins].statistics
        of = ("", "tokens of ", "positions of ")[len(layers[begins].positions)]
        features = _first(first.persistent, first.n_persistent, f"{of}{first.n_images} images")
        text = f"{_named(layers, begins)} is the first with a persistent outlier feature: {features}."
    if of_class is not None and (begins is None or of_class < begins):
        class_token = layers[of_class].statistics
        features = _first(class_token.class_token_persistent, class_token.n_class_token_persistent, "images")
        text += f" In the class token alone it is {_named(layers, of_class, lower=True)}: {features}."
    return text


def _named(layers: Sequence[Layer], index: int, *, lower: bool = False) -> str:
    layer = layers[index]
    if layer.kind == "representation":
        return ("the" if lower else "The") + f" representation ({layer.tensor})"
    return ("layer" if lower else "Layer") + f" {index + 1} of {len(layers)} ({layer.kind}, {layer.tensor})"


def _first(features: Sequence[PersistentFeature], count: int, rows: str) -> str:
    more = f" and {count - 1} more" if count > 1 else ""
    return f"feature {features[0].feature}{more}, beyond 6 SD in {100 * features[0].frequency:.0f} % of the {rows}"
