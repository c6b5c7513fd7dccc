"""The record of `robustcheck directions`, and its document. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ....thresholds.records import Frozen, ReprArgs
from ...core.evidence import Execution, ImageFacts, Interval, PreprocessingFacts
from ...core.statistics.intervals import Accuracy
from ...report import frames
from ...report.document import (
    Cell,
    Chart,
    Column,
    Document,
    Facts,
    Section,
    Table,
    TableRow,
    document_of,
    facts_of_run,
    image_rows,
    measured,
    name,
)
from ...report.document import Series as Line
from ...report.record import ModelRead, Time
from ...report.shown import Shown
from ...text import Texts, count_text, interval_text, number_text, percent_text
from ..shift.predicted import bounds_text
from ..shift.robustness import SetResult, Shifted
from .records import Analysis, Outliers

if TYPE_CHECKING:
    import pandas as pd

NORMALISER = "singular value / sum of all singular values × mean over images of |cos(direction, representation)|"
CLAIM = (
    "Information, not a verdict. Importance and pruning of directions are an analysis of Crabbé et al. (arXiv "
    "2310.13040). The abstract of its first version, of 2023, says that up to 80 % of the directions of robust CLIP "
    "models can be pruned without harm; that of the final version does not. No threshold is known that tells robust "
    "models from others, and the paper's own normaliser of the importance is not known to us. The numbers hold for "
    "this head and these images."
)


class HeadModel(ModelRead):
    """The model and its head."""

    head: str
    """where the head's weights come from"""
    n_classes: int
    n_features: int
    score_difference: float | None
    """largest relative difference between W·h + b and the model's own class output, up to a softmax or a sigmoid; None:
    the head is not the model's own"""


class DirectionsReport(Shown, Frozen):
    """The directions of a linear head, and pruning them."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    kind: Literal["directions"] = "directions"
    tool_version: str
    model: HeadModel
    n_images: int
    """measured"""
    n_left_out: int
    """images whose representation is constant: it has no direction"""
    shown: Literal["raw"] = "raw"
    """which of the two analyses the short report shows: that of W as it is, as in the paper"""
    raw: Analysis
    centred: Analysis
    """of W less its mean over classes, which softmax and the predicted class can't see"""
    outliers: Outliers
    normaliser: str = NORMALISER
    confidence: float
    """of every interval; normal over images (by the delta method), shares Wilson's"""
    in_distribution: SetResult | None
    """accuracy of the whole head where labels were given"""
    shifted: tuple[Shifted, ...]
    baseline: str
    summary: str
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    notes: Texts
    claim: str = CLAIM
    time: Time | None
    """None where the caller asked for no time block"""

    def __repr_args__(self) -> ReprArgs:
        """Show one line in repr, str and rich."""
        rank = self.raw.effective_rank.estimate
        return [
            ("model", self.model.file),
            ("classes", self.model.n_classes),
            ("features", self.model.n_features),
            ("effective_rank", None if rank is None else round(rank, 2)),
            ("images", self.n_images),
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame, one row per curve point.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        rows: list[frames.Row] = []
        of_raw = [("raw", curve) for curve in self.raw.curves]
        of_centred = [("centred", curve) for curve in self.centred.curves]
        for decomposition, curve in of_raw + of_centred:
            for point in curve.points:
                accuracies = {f"accuracy of {set_name}": each.value for set_name, each in point.accuracy.items()}
                row: frames.Row = {
                    "decomposition": decomposition,
                    "order": curve.order,
                    "percent": point.percent,
                    "kept": point.kept,
                    "importance": point.importance,
                    "same": point.same.value,
                    "same_low": point.same.low,
                    "same_high": point.same.high,
                    "same_confident": point.same_confident.value,
                    **accuracies,
                }
                rows.append(row)
        return frames.frame(rows, "decomposition")


SPECTRUM_POINTS = 11  # of the curve of the importance


@document_of.register(DirectionsReport)
def document_of_directions(report: DirectionsReport) -> Document:
    """Return the document of a head's directions."""
    model = report.model
    images = report.images
    raw = report.raw
    twenty = raw.twenty
    analyses = {"raw": raw, "class mean removed": report.centred}
    first = (count_text(report.n_images, "image"), name(images.source))
    size = f"{model.n_classes} classes × {model.n_features} features"
    difference = "not compared: the head is not the model's own"
    if model.score_difference is not None:
        difference = f"{model.score_difference:.2g}"
    facts = [
        ("Head", model.head),
        ("Acts on", model.tensor),
        ("Difference to the model's own scores", difference),
        ("Images left out", report.n_left_out),
    ]
    importance = [(label, _importance(analysis)) for label, analysis in analyses.items()]
    importance.append(("outlier features", outliers_text(report.outliers)))
    return Document(
        question="directions",
        title="Directions of the head",
        subject="the directions of a classifier's head",
        model=model,
        facts=(*facts_of_run(report, *first), size, name(model.head, "dim")),
        summary=report.summary,
        sections=(
            Section(
                "Same prediction",
                "with the most important 2, 5, 10, 20 to 90 % of the directions",
                (_pruning(raw),),
                "short",
            ),
            Section(
                "Importance of directions",
                "singular value × mean |cos| to the images",
                (Facts(tuple(importance)),),
                "short",
            ),
            Section(
                "Importance together",
                "share of all importance that the most important directions hold",
                (_spectrum(analyses),),
                "page",
            ),
            Section("Pruning", "W as it is", (_table(raw),)),
            Section("Pruning, class mean removed", "W less its mean over classes", (_table(report.centred),)),
            *_accuracies(report),
            Section("Leading directions", report.normaliser, (_leading(report),)),
            measured(report, facts, image_rows(images), report.preprocessing.source),
        ),
        notes=report.notes,
        limits=report.claim,
        version=report.tool_version,
        tiles=(
            ("Directions", raw.n_directions, size),
            ("Effective rank", number_text(raw.effective_rank.estimate), "of the importance"),
            ("Same prediction with 20 %", percent_text(twenty.same.value), "the most important ones"),
            ("Images measured", report.n_images, f"of {images.n_available}"),
        ),
        hint="Information, not a verdict. -v shows tables, notes and limits.",
    )


def outliers_text(outliers: Outliers) -> str:
    """Return what replacing features does, in sentences.

    The features are named, and what becomes of the predictions.
    """
    shown = ", ".join(str(feature.index) for feature in outliers.features)
    more = outliers.n_features - len(outliers.features)
    which = f"Features with |z| > 6 in at least half of the images: {shown}"
    if more:
        which += f" and {more} more"
    if not outliers.persistent:
        which = f"No feature has |z| > 6 in at least half of the images; feature {shown} has most of the kurtosis"
    values = {"mean over images": "the mean", "zero": "zero"}
    effects = []
    for replacement in outliers.replacements:
        changed = replacement.changed
        effects.append(
            f"set to {values[replacement.value]}, {percent_text(changed.value)} of the predictions change "
            f"({bounds_text(changed)} %) and {_percent(replacement.margin_share)} of the margin between the first two "
            "classes goes"
        )
    text = "; ".join(effects)
    return f"{which}. {text[:1].upper()}{text[1:]}."


def _importance(analysis: Analysis) -> str:
    tops = [f"{top.directions}: {percent_text(top.share.estimate)}" for top in analysis.top]
    rank = analysis.effective_rank
    ratio = analysis.participation_ratio
    return (
        f"effective rank {number_text(rank.estimate)} ({interval_text(rank.low, rank.high)}), participation "
        f"ratio {number_text(ratio.estimate)} of {analysis.n_directions}; share of the first {', '.join(tops)}"
    )


def _pruning(analysis: Analysis) -> Chart:
    """Draw the share of the same predictions over the directions kept, with a curve per order."""
    curves = []
    for curve in analysis.curves:
        same = [point.same for point in curve.points[::-1]]
        values = tuple(share.value for share in same)
        texts = tuple(map(percent_text, values))
        bounds: tuple[tuple[float, float], ...] = ()
        if curve.order == "importance":
            bounds = tuple((share.low, share.high) for share in same)
        curves.append(Line(f"by {curve.order}", values, texts, bounds))
    percents = [point.percent for point in analysis.curves[0].points[::-1]]
    return Chart(
        "Share of the images with the same predicted class, by share of the directions kept",
        tuple(f"{percent} %" for percent in percents),
        tuple(curves),
        percent_text(max(curves[0].values)),
        "Share of the images whose predicted class stays the same, by the share of the directions that are kept: the "
        "most important first (coloured, with 95 % Wilson intervals), by singular value (solid), in random order "
        "(dashed).",
        at=tuple(percent / 100 for percent in percents),
    )


def _spectrum(analyses: dict[str, Analysis]) -> Chart:
    """Draw the cumulated importance of the directions, the most important first."""
    shares = np.linspace(0, 1, SPECTRUM_POINTS)
    curves = []
    for label, analysis in analyses.items():
        falling = np.sort(analysis.importances)[::-1]
        total = np.sum(falling)
        sums = np.cumsum([0.0, *falling]) / total
        places = shares * (len(sums) - 1)
        held = np.interp(places, np.arange(len(sums)), sums)
        values = np.minimum(held, 1.0).tolist()
        texts = tuple(map(percent_text, values))
        curves.append(Line(label, tuple(values), texts))
    return Chart(
        "Importance that the most important directions hold together",
        tuple(f"{100 * share:.0f} %" for share in shares),
        tuple(curves),
        "100 %",
        "By their share of all directions: of the weights as they are (coloured), and less their mean over classes.",
        at=tuple(shares.tolist()),
    )


def _table(analysis: Analysis) -> Table:
    by_importance, *others = analysis.curves
    rows: list[TableRow] = []
    for at, point in enumerate(by_importance.points):
        of_others = [percent_text(curve.points[at].same.value) for curve in others]
        row: TableRow = (
            f"{point.percent} %",
            str(point.kept),
            percent_text(point.importance),
            Cell(percent_text(point.same.value), "bold"),
            bounds_text(point.same),
            percent_text(point.same_confident.value),
            *of_others,
        )
        rows.append(row)
    columns = [
        Column("kept", right=True),
        Column("directions", right=True),
        Column("importance", right=True),
        Column("same", right=True),
        Column("interval", no_wrap=True),
        Column("confident", right=True),
    ]
    for curve in others:
        order = "random" if curve.order == "random" else f"by {curve.order}"
        columns.append(Column(order, right=True, wide_only=True))
    keeps = [f"{percent_text(few.share)} by {few.directions} ({few.percent:.0f} %)" for few in analysis.fewest]
    return Table(
        tuple(columns),
        tuple(rows),
        "same: predicted class as with all directions, Wilson intervals; confident: of the half of the images with "
        f"the largest margin between first and second score; kept from there on, in steps of 2 %: {', '.join(keeps)}",
    )


def _accuracies(report: DirectionsReport) -> list[Section]:
    """Show the top-1 accuracy and the effective robustness of each labelled set with fewer directions."""
    if report.in_distribution is None:
        return []
    results = [report.in_distribution, *(s.result for s in report.shifted)]
    of_all = [Cell(_accuracy(result.accuracy), "bold") for result in results]
    rows: list[TableRow] = [("all", *of_all)]
    for point in report.raw.curves[0].points:
        cells = [f"{point.percent} %"]
        for result in results:
            beyond = point.effective_robustness.get(result.name)
            cell = _accuracy(point.accuracy[result.name])
            if beyond:
                cell += f", {beyond.points:+.1f}"
            cells.append(cell)
        rows.append(tuple(cells))
    reasons = [s.not_applicable for s in report.shifted if s.not_applicable]
    legends = []
    if len(reasons) < len(report.shifted):
        legends.append("after a comma: effective robustness, percentage points")
    if reasons:
        legends.append(f"no effective robustness: {'; '.join(dict.fromkeys(reasons))}")
    names = [Column(result.name, right=True) for result in results]
    legend = "; ".join(legends)
    table = Table((Column("kept", right=True), *names), tuple(rows), legend)
    return [Section("Accuracy", "top-1 by directions kept, most important first (Wilson)", (table,))]


def _leading(report: DirectionsReport) -> Table:
    named = [feature.index for feature in report.outliers.features[:3]]
    total = sum(report.raw.importances)
    rows = []
    for direction in report.raw.leading:
        of_all = direction.importance
        values = (of_all.estimate, of_all.low, of_all.high)
        share, low, high = ((value or 0.0) / total for value in values)
        on_named = [f"{value:.2f}" for value in direction.on_features[: len(named)]]
        rows.append(
            (
                str(direction.index + 1),
                number_text(direction.singular_value),
                number_text(direction.cosine),
                percent_text(share),
                f"{100 * low:.1f} – {100 * high:.1f}",
                f"{direction.largest_feature}: {direction.largest_component:.2f}",
                *on_named,
            )
        )
    return Table(
        (
            Column("σ rank", right=True),
            Column("σ", right=True),
            Column("|cos|", right=True),
            Column("importance", right=True),
            Column("interval", no_wrap=True),
            Column("largest", right=True),
            *(Column(f"on {index}", right=True) for index in named),
        ),
        tuple(rows),
        "importance as a share of all; largest: the feature with the largest |component|; on: |component| on a feature "
        "named above (1 = the direction is that feature)",
    )


def _accuracy(accuracy: Accuracy) -> str:
    return f"{percent_text(accuracy.value)} ({bounds_text(accuracy)})"


def _percent(interval: Interval) -> str:
    if interval.estimate is None:
        return "no share"
    return f"{100 * interval.estimate:z.1f} %"
