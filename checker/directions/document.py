"""Make the document of a head's directions. It has curves and tables. Pure."""

from __future__ import annotations

import numpy as np

from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.report.document import (
    Cell,
    Chart,
    Curve,
    Document,
    Facts,
    Section,
    Table,
    Words,
    facts_of_run,
    measured,
    name,
)
from robustcheck_onnx.checker.shift.records import bounds_text
from robustcheck_onnx.checker.statistics import Accuracy
from robustcheck_onnx.checker.text import count_text, interval_text, number_text, percent_text

from .records import Analysis, DirectionsReport, Outliers

SPECTRUM_POINTS = 11  # of the curve of the importance


def document_of(report: DirectionsReport) -> Document:
    """Return the document of a head's directions."""
    model, images, raw = report.model, report.images, report.raw
    twenty = next(point for point in raw.curves[0].points if point.percent == 20)
    analyses = {"raw": raw, "class mean removed": report.centred}
    first = (count_text(report.n_images, "image"), name(images.source))
    not_compared, difference = "not compared: the head is not the model's own", model.score_difference
    facts = [
        ("Head", model.head),
        ("Acts on", model.tensor),
        ("Difference to the model's own scores", not_compared if difference is None else f"{difference:.2g}"),
        ("Images left out", report.n_left_out),
    ]
    run = [("Images", images.source), ("Digest", images.digest), ("Seed", images.seed)]
    importance = (
        *((label, _importance(each)) for label, each in analyses.items()),
        ("outlier features", outliers_text(report.outliers)),
    )
    return Document(
        question="directions",
        title="Directions of the head",
        subject="the directions of a classifier's head",
        model=model,
        facts=(
            *facts_of_run(model, report.execution, report.time, *first),
            f"{model.n_classes} classes × {model.n_features} features",
            name(model.head, "dim"),
        ),
        summary=report.summary,
        sections=(
            Section(
                "Same prediction",
                "with the most important 2, 5, 10, 20 to 90 % of the directions",
                (_pruning(raw),),
                "short",
            ),
            Section(
                "Importance of directions", "singular value × mean |cos| to the images", (Facts(importance),), "short"
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
            measured(facts, run, report.preprocessing.source, report.execution, report.time),
        ),
        notes=report.notes,
        limits=report.claim,
        version=report.tool_version,
        tiles=(
            ("Directions", raw.n_directions, f"{model.n_classes} classes × {model.n_features} features"),
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
    which = f"Features with |z| > 6 in at least half of the images: {shown}" + (f" and {more} more." if more else ".")
    if not outliers.persistent:
        which = f"No feature has |z| > 6 in at least half of the images; feature {shown} has most of the kurtosis."
    effects = "; ".join(
        f"set to {'the mean' if each.value == 'mean over images' else 'zero'}, "
        f"{percent_text(each.changed.value)} of the predictions change ({bounds_text(each.changed)} %) and "
        f"{_percent(each.margin_share)} of the margin between the first two classes goes"
        for each in outliers.replacements
    )
    return f"{which} {effects[:1].upper()}{effects[1:]}."


def _importance(analysis: Analysis) -> str:
    tops = ", ".join(f"{top.directions}: {percent_text(top.share.estimate)}" for top in analysis.top)
    rank, ratio = analysis.effective_rank, analysis.participation_ratio
    return (
        f"effective rank {number_text(rank.estimate)} ({interval_text(rank.low, rank.high)}), participation "
        f"ratio {number_text(ratio.estimate)} of {analysis.n_directions}; share of the first {tops}"
    )


def _pruning(analysis: Analysis) -> Chart:
    """Draw the share of the same predictions. It is over the directions kept; there is a curve per order."""
    curves = []
    for curve in analysis.curves:
        same = [point.same for point in curve.points[::-1]]
        values = tuple(each.value for each in same)
        bounds = tuple((each.low, each.high) for each in same) if curve.order == "importance" else ()
        curves.append(Curve(f"by {curve.order}", values, tuple(map(percent_text, values)), bounds))
    kept = [point.percent for point in analysis.curves[0].points[::-1]]
    return Chart(
        "Share of the images with the same predicted class, by share of the directions kept",
        tuple(f"{percent} %" for percent in kept),
        tuple(curves),
        percent_text(max(curves[0].values)),
        "Share of the images whose predicted class stays the same, by the share of the directions that are kept: the "
        "most important first (coloured, with 95 % Wilson intervals), by singular value (solid), in random order "
        "(dashed).",
        at=tuple(percent / 100 for percent in kept),
    )


def _spectrum(analyses: dict[str, Analysis]) -> Chart:
    """Draw the cumulated importance of the directions. The most important come first."""
    kept = np.linspace(0, 1, SPECTRUM_POINTS)
    curves = []
    for label, analysis in analyses.items():
        falling = np.sort(analysis.importances)[::-1]
        held = np.concatenate([[0.0], np.cumsum(falling) / np.sum(falling)])
        values = np.minimum(np.interp(kept * (len(held) - 1), np.arange(len(held)), held), 1.0).tolist()
        curves.append(Curve(label, tuple(values), tuple(map(percent_text, values))))
    return Chart(
        "Importance that the most important directions hold together",
        tuple(f"{100 * share:.0f} %" for share in kept),
        tuple(curves),
        "100 %",
        "By their share of all directions: of the weights as they are (coloured), and less their mean over classes.",
        at=tuple(kept.tolist()),
    )


def _table(analysis: Analysis) -> Table:
    by_importance, *others = analysis.curves
    rows: tuple[tuple[Words, ...], ...] = tuple(
        (
            *(f"{point.percent} %", str(point.kept), percent_text(point.importance)),
            *(Cell(percent_text(point.same.value), "bold"), bounds_text(point.same)),
            percent_text(point.same_confident.value),
            *(percent_text(curve.points[at].same.value) for curve in others),
        )
        for at, point in enumerate(by_importance.points)
    )
    keeps = ", ".join(
        f"{percent_text(each.share)} by {each.directions} ({each.percent:.0f} %)" for each in analysis.fewest
    )
    return Table(
        (
            *(">kept", ">directions", ">importance", ">same", "=interval", ">confident"),
            *(f"?>{curve.order if curve.order == 'random' else f'by {curve.order}'}" for curve in others),
        ),
        rows,
        "same: predicted class as with all directions, Wilson intervals; confident: of the half of the images with "
        f"the largest margin between first and second score; kept from there on, in steps of 2 %: {keeps}",
    )


def _accuracies(report: DirectionsReport) -> list[Section]:
    """Show top-1 on each labelled set.

    It is with fewer directions, most important first, and with effective robustness.
    """
    if report.in_distribution is None:
        return []
    results = [report.in_distribution, *(each.result for each in report.shifted)]
    rows: list[tuple[Words, ...]] = [("all", *(Cell(_accuracy(result.accuracy), "bold") for result in results))]
    for point in report.raw.curves[0].points:
        cells = [f"{point.percent} %"]
        for result in results:
            beyond = point.effective_robustness.get(result.name)
            cells.append(_accuracy(point.accuracy[result.name]) + (f", {beyond.points:+.1f}" if beyond else ""))
        rows.append(tuple(cells))
    reasons = [each.not_applicable for each in report.shifted if each.not_applicable]
    legends = ["after a comma: effective robustness, percentage points"] if len(reasons) < len(report.shifted) else []
    legends += [f"no effective robustness: {'; '.join(dict.fromkeys(reasons))}"] if reasons else []
    table = Table((">kept", *(f">{result.name}" for result in results)), tuple(rows), "; ".join(legends))
    return [Section("Accuracy", "top-1 by directions kept, most important first (Wilson)", (table,))]


def _leading(report: DirectionsReport) -> Table:
    named = [feature.index for feature in report.outliers.features[:3]]
    total = sum(report.raw.importances)
    rows: list[tuple[Words, ...]] = []
    for each in report.raw.leading:
        of_all = each.importance
        share, low, high = ((value or 0.0) / total for value in (of_all.estimate, of_all.low, of_all.high))
        rows.append(
            (
                *(str(each.index + 1), number_text(each.singular_value), number_text(each.cosine)),
                *(percent_text(share), f"{100 * low:.1f} – {100 * high:.1f}"),
                f"{each.largest_feature}: {each.largest_component:.2f}",
                *(f"{value:.2f}" for value in each.on_features[: len(named)]),
            )
        )
    return Table(
        (
            *(">σ rank", ">σ", ">|cos|", ">importance", "=interval", ">largest"),
            *(f">on {index}" for index in named),
        ),
        tuple(rows),
        "importance as a share of all; largest: the feature with the largest |component|; on: |component| on a feature "
        "named above (1 = the direction is that feature)",
    )


def _accuracy(accuracy: Accuracy) -> str:
    return f"{percent_text(accuracy.value)} ({bounds_text(accuracy)})"


def _percent(interval: Interval) -> str:
    return "no share" if interval.estimate is None else f"{100 * interval.estimate:z.1f} %"
