"""The record of a scan, and its document. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import compress
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from ....thresholds.records import Frozen, ReprArgs
from ...core.evidence import Execution, ImageFacts, PreprocessingFacts
from ...report import figures, frames
from ...report.document import (
    Cell,
    Chart,
    Column,
    Document,
    Facts,
    Section,
    Series,
    Table,
    TableRow,
    document_of,
    facts_of_run,
    image_rows,
    measured,
    name,
)
from ...report.record import ModelRead, Time
from ...report.shown import Shown
from ...text import Texts, count_text, number_text, percent_text, range_text
from .layer import Layer, Place, persistent_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LIMITS = (
    "Information, not a verdict: robustcheck check judges the representation alone. Outlier features of tokens or "
    "positions inside a network do not tell effective robustness: DeiT-III, trained with labels only, has outlier "
    "tokens; DINOv3, trained without text, has constant large features that its last norm scales down; registers take "
    "outlier tokens out of OpenCLIP at unchanged accuracy (Darcet et al. 2024)."
)


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
    notes: Texts
    limits: str = LIMITS
    time: Time | None
    """None where the caller asked for no time block"""

    def __repr_args__(self) -> ReprArgs:
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
        rows = []
        for index, layer in enumerate(self.layers, 1):
            end = layer.model_dump(include={"kind", "tensor", "width"})
            statistics = layer.statistics.model_dump(include=columns)
            rows.append({"layer": index, **end, **statistics})
        return frames.frame(rows, "layer")

    def plot(self) -> Figure:
        """Plot kurtosis and top-3 share over depth.

        Returns:
            A figure of matplotlib: the last value of a notebook's cell, or `.savefig(PATH)`.

        Raises:
            EnvironmentFaultError: matplotlib (the extra `plot`) is not installed.
        """
        file = PurePath(self.model.file).name
        n_layers = count_text(len(self.layers), "layer")
        n_images = count_text(self.images.n_usable, "image")
        return _depth_figure(f"scan · {file} · {n_layers} · {n_images}", self.layers)


def _depth_figure(title: str, layers: Sequence[Layer]) -> Figure:
    """Draw a scan over depth: the kurtosis, and the share of the three strongest features.

    Args:
        title: model and images.
        layers: in the order of the graph; the representation last.
    """
    drawing, (kurtosis, share) = figures.figure(title, 2)
    statistics = [layer.statistics for layer in layers]
    places = range(1, len(layers) + 1)
    values = [figures.NAN if s.kurtosis is None else s.kurtosis for s in statistics]
    errors = [0.0 if s.kurtosis_se is None else s.kurtosis_se for s in statistics]
    spread = "mean over images ± its SE"
    kurtosis.errorbar(places, values, errors, color=figures.WITH, marker=".", zorder=1, label=spread)
    shares = [figures.NAN if s.top3_share is None else s.top3_share for s in statistics]
    share.plot(places, shares, color=figures.WITH, marker=".", zorder=1)
    with_outliers = [s.has_outliers for s in statistics]
    marked = list(compress(places, with_outliers))
    if marked:
        for axes, heights in ((kurtosis, values), (share, shares)):
            tops = list(compress(heights, with_outliers))
            axes.scatter(marked, tops, color=figures.OWN, marker="D", zorder=2, label="persistent outlier features")
    kurtosis.set(title="activation kurtosis", ylabel="kurtosis")
    low, high = kurtosis.get_ylim()
    if low <= 0 or high / low > 3:
        figures.plain_logarithm(kurtosis, "y")
    share.set(title="share of the three strongest features", ylabel="share of z⁴", ylim=(0, 1.05))
    for axes in (kurtosis, share):
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(f"layer (1 to {len(layers)}; the last is the {layers[-1].kind})")
    kurtosis.legend(fontsize="small")
    return drawing


IN_A_LIST = 8  # features or places named in a list
_ByName = dict[str, list[tuple[int, float, float]]]
"""By the name of a feature, or of a feature at a place: layer number, share of the rows or images, largest value."""


@document_of.register(ScanReport)
def document_of_scan(report: ScanReport) -> Document:
    """Return a scan's document."""
    model = report.model
    images = report.images
    layers = report.layers
    statistics = [layer.statistics for layer in layers]
    kurtosis = [number_text(s.kurtosis, missing="–") for s in statistics]
    n_images = images.n_usable
    values = tuple(s.kurtosis or 0.0 for s in statistics)
    with_outliers = tuple(s.has_outliers for s in statistics)
    numbers = range(1, len(layers) + 1)
    hints = [f"{layer.kind}, {layer.tensor}: {value}" for layer, value in zip(layers, kurtosis, strict=True)]
    chart = Chart(
        "Kurtosis of each layer",
        tuple(map(str, numbers)),
        (Series("kurtosis", values, tuple(hints)),),
        top=number_text(max(values)),
        caption="Mean over rows of features; below, the number of the layer.",
        marked=with_outliers,
        mark="persistent outlier feature, beyond 6 SD in at least half of the rows",
    )
    facts = [
        ("Representation", model.tensor),
        ("Blocks found by", model.rule),
        ("Blocks that could not be read", model.n_left_out),
        ("Change of the model's output", f"{model.output_difference:.2g}"),
    ]
    return Document(
        question="scan",
        title="Outlier features through depth",
        subject="outlier features through the depth of a model",
        model=model,
        facts=facts_of_run(report, count_text(n_images, "image"), name(images.source)),
        summary=report.summary,
        sections=(
            Section("Kurtosis", "mean over rows of features, by layer", (chart,), "short"),
            Section("Layers", "", (_layers(report),)),
            *_features(report),
            measured(report, facts, image_rows(images), report.preprocessing.source),
        ),
        notes=report.notes,
        limits=report.limits,
        version=report.tool_version,
        tiles=(
            ("Layers measured", len(layers), "ends of blocks, and the representation"),
            ("With persistent outlier features", sum(with_outliers), f"of {len(layers)}"),
            ("Kurtosis of the last layer", kurtosis[-1], layers[-1].kind),
            ("Images measured", max(s.n_images for s in statistics), f"of {images.n_available}"),
        ),
        hint="Information, not a verdict. -v shows each layer, notes and limits.",
    )


def _layers(report: ScanReport) -> Table:
    has_class = any(layer.class_token for layer in report.layers)
    rows: list[TableRow] = []
    for number, layer in enumerate(report.layers, 1):
        s = layer.statistics
        of_class = [_number(s.class_token_kurtosis)] if has_class else []
        rows.append(
            (
                str(number),
                layer.kind,
                name(layer.tensor),
                str(layer.width),
                "×".join(map(str, layer.positions)) or "–",
                _number(s.kurtosis),
                *of_class,
                _number(s.mean_token_kurtosis),
                _number(s.rms_kurtosis),
                Cell(persistent_text(s), "warn" if s.has_outliers else ""),
                _number(s.max_median_ratio),
                str(s.n_massive or "–"),
            )
        )
    class_column = []
    means = "mean: kurtosis of the mean over all positions"
    if has_class:
        class_column = [Column("class", right=True, wide_only=True)]
        means = "class, mean: kurtosis of the class token and of the mean over all"
    return Table(
        (
            Column("layer", right=True),
            Column("kind", no_wrap=True),
            Column("tensor", wide_only=True),
            Column("width", right=True),
            Column("tokens", right=True, wide_only=True),
            Column("kurtosis", right=True),
            *class_column,
            Column("mean", right=True, wide_only=True),
            Column("RMS", right=True),
            Column("persistent"),
            Column("max/med", right=True),
            Column("massive", right=True),
        ),
        tuple(rows),
        "kurtosis, RMS, persistent (|z| > 6 in at least half of the rows) over the features of each token or position; "
        f"{means}; max/med: largest over median |value|, – where the median is 0; massive: places with |value| > 100 "
        "and 1000 × the median",
    )


def _number(value: float | None) -> str:
    return number_text(value, missing="–")


def _features(report: ScanReport) -> list[Section]:
    """List features with layers, tokens and positions, in a section for each kind."""
    persistent: _ByName = defaultdict(list)
    of_class_token: _ByName = defaultdict(list)
    fixed: _ByName = defaultdict(list)
    massive: _ByName = defaultdict(list)
    for number, layer in enumerate(report.layers, 1):
        s = layer.statistics
        for by_name, features in ((persistent, s.persistent), (of_class_token, s.class_token_persistent)):
            for feature in features:
                by_name[f"feature {feature.feature}"].append((number, feature.frequency, 0.0))
        if (outlier := s.fixed_outlier) is not None:
            fixed[_place(outlier)].append((number, outlier.frequency, outlier.largest_z))
        for place in s.massive:
            massive[_place(place)].append((number, place.frequency, place.value))
    sections = []
    for title, remark, by_name, largest in (
        ("Persistent outlier features", "beyond 6 SD, share of the tokens or positions", persistent, ""),
        ("Persistent in class tokens", "beyond 6 SD, share of the images", of_class_token, ""),
        ("Largest |z| at one place", "in at least half of the images", fixed, ", up to {:.3g} SD"),
        ("Massive activations", "share of the images", massive, ", largest value {:.4g}"),
    ):
        if not by_name:
            continue
        more = ""
        if len(by_name) > IN_A_LIST:
            more = f"; {IN_A_LIST} of {len(by_name)}, the others in JSON"
        longest = sorted(by_name, key=lambda feature: -len(by_name[feature]))
        rows = [(Cell(feature, "bold"), _in_layers(by_name[feature], largest)) for feature in longest[:IN_A_LIST]]
        facts = Facts(tuple(rows))
        sections.append(Section(title, remark + more, (facts,)))
    return sections


def _place(place: Place) -> str:
    return ", ".join(filter(None, (f"feature {place.feature}", place.where)))


def _in_layers(layers: Sequence[tuple[int, float, float]], largest: str) -> str:
    """Write layers with runs joined, then shares and the largest value: layers 3–10, 12, 50 – 60 %."""
    numbers, shares, values = zip(*layers, strict=True)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    named = ["–".join(map(str, run)) for run in runs]
    lowest = percent_text(min(shares))
    highest = percent_text(max(shares))
    share = range_text(lowest, highest, between=" – ")
    text = f"layer{'s' * (len(numbers) > 1)} {', '.join(named)}, {share}"
    return text + largest.format(max(values, key=abs))
