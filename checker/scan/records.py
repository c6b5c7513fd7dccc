"""The records of a scan, its summary and notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from robustcheck_onnx.checker.evidence import Execution, ImageFacts, PreprocessingFacts
from robustcheck_onnx.checker.model import ModelFile
from robustcheck_onnx.checker.report import ModelRead, Time, notebook, plots
from robustcheck_onnx.checker.text import count_text, number_text
from robustcheck_onnx.checker.verdict import execution_notes, image_notes, model_notes
from robustcheck_onnx.thresholds.frozen import Frozen

from .depth import LayerStatistics, PersistentFeature
from .taps import GRID

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FEW_IMAGES = 50  # a check needs as many; fewer make persistent features unreliable (docs/statistics.md)
LIMITS = (
    "Information, not a verdict: robustcheck check judges the representation alone. Outlier features of tokens or "
    "positions inside a network do not tell effective robustness: DeiT-III, trained with labels only, has outlier "
    "tokens; DINOv3, trained without text, has constant large features that its last norm scales down; registers take "
    "outlier tokens out of OpenCLIP at unchanged accuracy (Darcet et al. 2024)."
)


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


class ScanReport(Frozen):
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
        n_images = self.images.n_read - self.images.n_skipped
        begins = None if self.begins is None else self.begins + 1
        return [("model", self.model.file), ("layers", len(self.layers)), ("begins", begins), ("images", n_images)]

    def _repr_html_(self) -> str:
        """Show the report in a notebook. It has where outlier features begin, and one row per layer."""
        rows = [
            [
                f"{index}. {layer.kind} {layer.tensor}",
                number_text(layer.statistics.kurtosis, missing="–"),
                number_text(layer.statistics.top3_share, missing="–"),
                str(layer.statistics.n_persistent),
            ]
            for index, layer in enumerate(self.layers, 1)
        ]
        header = ["layer", "kurtosis", "top-3 share", "persistent outlier features"]
        return notebook.block(
            self._title(self.model.file), [self.summary, *self.notes, self.limits], notebook.table(header, rows)
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame, one row per layer. Layers are in the order of the graph, numbered from 1.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        rows: list[notebook.Row] = [
            {
                "layer": index,
                "kind": layer.kind,
                "tensor": layer.tensor,
                "width": layer.width,
                "n_images": layer.statistics.n_images,
                "kurtosis": layer.statistics.kurtosis,
                "kurtosis_se": layer.statistics.kurtosis_se,
                "top3_share": layer.statistics.top3_share,
                "n_persistent": layer.statistics.n_persistent,
                "max_median_ratio": layer.statistics.max_median_ratio,
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
        points = [plots.Point(s.kurtosis, s.kurtosis_se, s.top3_share, s.n_persistent, kind) for s, kind in measured]
        return plots.depth_figure(self._title(PurePath(self.model.file).name), points)

    def _title(self, file: str) -> str:
        n_images = self.images.n_read - self.images.n_skipped
        return f"scan · {file} · {count_text(len(self.layers), 'layer')} · {count_text(n_images, 'image')}"


def summary(layers: Sequence[Layer], begins: int | None) -> str:
    """Where outlier features begin, in words."""
    n_images = max(layer.statistics.n_images for layer in layers)
    of_class = next((i for i, layer in enumerate(layers) if layer.statistics.n_class_token_persistent), None)
    text = f"No layer has a persistent outlier feature on these {n_images} images."
    if begins is not None:
        layer = layers[begins]
        rows = {0: "images", 1: "tokens", 2: "positions"}[len(layer.positions)]
        text = (
            f"{_named(layers, begins)} is the first with a persistent outlier feature: "
            f"{_first(layer.statistics.persistent, layer.statistics.n_persistent, rows)} measured on "
            f"{layer.statistics.n_images} images."
        )
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


def notes_of_scan(
    model: ModelFile,
    facts: ScanModel,
    layers: Sequence[Layer],
    preprocessing: PreprocessingFacts,
    images: ImageFacts,
    execution: Execution,
) -> tuple[str, ...]:
    """What a reader must know next to the numbers."""
    source = model.contract.source if model.contract else None
    notes = model_notes(
        source.synthetic if source else "",
        random_weights=bool(source and source.random_weights),
        preprocessing=preprocessing.source,
        left_out=model.left_out,
    )
    notes += image_notes(images)
    n_good = images.n_read - images.n_skipped
    if n_good < FEW_IMAGES:
        notes.append(f"Only {n_good} images: a feature that persists over few images need not persist over many.")
    notes += [f"Image set: {finding.seen}." for finding in images.sanity.findings]
    if facts.rule == "stages":
        notes.append("No residual block was found: layers are cut where width or resolution changes.")
    if facts.n_left_out:
        what = "1 tensor was" if facts.n_left_out == 1 else f"{facts.n_left_out} tensors were"
        notes.append(f"{what} left out: their axes could not be told apart, or they have too few features.")
    if any(layer.measured != layer.positions for layer in layers):
        notes.append(f"Feature maps are measured at up to {GRID} × {GRID} evenly spaced positions of each image.")
    if n_not_finite := max(layer.statistics.n_not_finite for layer in layers):
        notes.append(f"At some layer {n_not_finite} images were left out: their values are not finite.")
    if not facts.output_unchanged:
        notes.append(
            "The nodes that a scan adds changed the model's own output (relative difference "
            f"{facts.output_difference:.2g}): with them ONNX Runtime fuses layers in another way, so the numbers are "
            "of a slightly different model."
        )
    return (*notes, *execution_notes(execution))
