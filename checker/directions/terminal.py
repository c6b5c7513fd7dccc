"""Show what fewer directions leave of the predictions."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.report import (
    Pen,
    Trimmed,
    bar_chart,
    columns,
    headline,
    labelled,
    noted,
    section,
    spaced,
)
from robustcheck_onnx.checker.statistics import Accuracy
from robustcheck_onnx.checker.text import (
    count_text,
    interval_text,
    name_text,
    number_text,
    percent_text,
)

from .records import Analysis, DirectionsReport, Outliers

WIDE = 100  # columns from which the other orders are next to the order by importance
PLOT_ROWS = 4
BAR = 4  # columns of a bar


def render(report: DirectionsReport, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Render the short report, or the whole. It fits the width of the console; the summary is last."""
    pen = Pen(ascii_only)
    blocks: list[RenderableType] = [_headline(pen, report), _curve(pen, report.raw), _facts(pen, report)]
    if verbose:
        blocks += [
            _Table(pen, report.raw, "Pruning", "W as it is"),
            _Table(pen, report.centred, "Pruning, class mean removed", "W less its mean over classes"),
            *_accuracies(pen, report),
            _leading(pen, report),
            *noted(pen, report.notes),
            section(pen, "Limits", "", pen.prose(report.claim)),
        ]
    else:
        blocks.append(pen.say("Information, not a verdict. -v shows tables, notes and limits.", "dim"))
    return Trimmed(spaced([*blocks, pen.say(report.summary, "bold")]))


def one_line(report: DirectionsReport) -> str:
    """Write what was found in one line, for `-q`."""
    return f"{name_text(report.model.file, ascii_only=False)}: {report.summary}"


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
        f"{percent_text(each.changed.value)} of the predictions change ({_bounds(each.changed)} %) and "
        f"{_percent(each.margin_share)} of the margin between the first two classes goes"
        for each in outliers.replacements
    )
    return f"{which} {effects[:1].upper()}{effects[1:]}."


def _headline(pen: Pen, report: DirectionsReport) -> RenderableType:
    model, first = report.model, [pen.say(count_text(report.n_images, "image")), pen.name(report.images.source)]
    return Group(
        *headline(pen, "Directions of the head", model, report.execution, report.time, first=first),
        pen.say(f"{model.n_classes} classes × {model.n_features} features, ", "dim") + pen.name(model.head, "dim"),
    )


def _curve(pen: Pen, analysis: Analysis) -> RenderableType:
    points = analysis.curves[0].points[::-1]
    counts = [round(1000 * point.same.value) for point in points]
    top = percent_text(max(point.same.value for point in points))
    ends = (f"{points[0].percent} %", f"{points[-1].percent} %")
    lines = bar_chart(pen, counts, PLOT_ROWS, top=top, ends=ends, width=BAR)
    return section(pen, "Same prediction", "with the most important 2, 5, 10, 20 to 90 % of the directions", *lines)


def _facts(pen: Pen, report: DirectionsReport) -> RenderableType:
    rows = []
    for name, analysis in (("raw", report.raw), ("class mean removed", report.centred)):
        tops = ", ".join(f"{top.directions}: {percent_text(top.share.estimate)}" for top in analysis.top)
        rank, ratio = analysis.effective_rank, analysis.participation_ratio
        rows.append(
            (
                name,
                f"effective rank {number_text(rank.estimate)} ({interval_text(rank.low, rank.high)}), participation "
                f"ratio {number_text(ratio.estimate)} of {analysis.n_directions}; share of the first {tops}",
            )
        )
    rows.append(("outlier features", outliers_text(report.outliers)))
    return section(pen, "Importance of directions", "singular value × mean |cos| to the images", labelled(pen, rows))


@dataclass(frozen=True)
class _Table:
    """A table with one row per share of directions. The other orders are shown where they fit."""

    pen: Pen
    analysis: Analysis
    title: str
    remark: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        pen, wide = self.pen, options.max_width >= WIDE
        by_importance, *others = self.analysis.curves
        headers = [">kept", ">directions", ">importance", ">same", "=interval", ">confident"]
        table = columns(pen, *headers, *([">by singular value", ">random"] if wide else []))
        for at, point in enumerate(by_importance.points):
            cells = [
                pen.say(f"{point.percent} %"),
                pen.say(str(point.kept)),
                pen.say(percent_text(point.importance)),
                pen.say(percent_text(point.same.value), "bold"),
                pen.say(_bounds(point.same)),
                pen.say(percent_text(point.same_confident.value)),
            ]
            if wide:
                cells += [pen.say(percent_text(curve.points[at].same.value)) for curve in others]
            table.add_row(*cells)
        keeps = ", ".join(
            f"{percent_text(each.share)} by {each.directions} ({each.percent:.0f} %)" for each in self.analysis.fewest
        )
        legend = (
            "same: predicted class as with all directions, Wilson intervals; confident: of the half of the images with "
            f"the largest margin between first and second score; kept from there on, in steps of 2 %: {keeps}"
        )
        yield section(pen, self.title, self.remark, table, Text(), pen.say(legend, "dim"))


def _accuracies(pen: Pen, report: DirectionsReport) -> list[RenderableType]:
    """Render top-1 on each labelled set.

    It is with fewer directions, most important first, and with effective robustness.
    """
    if report.in_distribution is None:
        return []
    results = [report.in_distribution, *(each.result for each in report.shifted)]
    table = columns(pen, ">kept", *(f">{result.name}" for result in results))
    table.add_row(pen.say("all"), *(pen.say(_accuracy(result.accuracy), "bold") for result in results))
    for point in report.raw.curves[0].points:
        cells = []
        for result in results:
            beyond = point.effective_robustness.get(result.name)
            more = "" if beyond is None else f", {beyond.points:+.1f}"
            cells.append(pen.say(_accuracy(point.accuracy[result.name]) + more))
        table.add_row(pen.say(f"{point.percent} %"), *cells)
    reasons = [each.not_applicable for each in report.shifted if each.not_applicable]
    legend = "after a comma: effective robustness, percentage points" if len(reasons) < len(report.shifted) else ""
    if reasons:
        legend = f"{legend}{'; ' if legend else ''}no effective robustness: {'; '.join(dict.fromkeys(reasons))}"
    body: list[RenderableType] = [table, *([Text(), pen.say(legend, "dim")] if legend else [])]
    return [section(pen, "Accuracy", "top-1 by directions kept, most important first (Wilson)", *body)]


def _leading(pen: Pen, report: DirectionsReport) -> RenderableType:
    named = [str(feature.index) for feature in report.outliers.features[:3]]
    table = columns(
        pen, ">σ rank", ">σ", ">|cos|", ">importance", "=interval", ">largest", *(f">on {index}" for index in named)
    )
    total = sum(report.raw.importances)
    for each in report.raw.leading:
        low, high = each.importance.low, each.importance.high
        assert low is not None
        assert high is not None
        table.add_row(
            pen.say(str(each.index + 1)),
            pen.say(number_text(each.singular_value)),
            pen.say(number_text(each.cosine)),
            pen.say(percent_text((each.importance.estimate or 0.0) / total)),
            pen.say(f"{100 * low / total:.1f} – {100 * high / total:.1f}"),
            pen.say(f"{each.largest_feature}: {each.largest_component:.2f}"),
            *(pen.say(f"{value:.2f}") for value in each.on_features[: len(named)]),
        )
    legend = (
        "importance as a share of all; largest: the feature with the largest |component|; on: |component| on a feature "
        "named above (1 = the direction is that feature)"
    )
    return section(pen, "Leading directions", report.normaliser, table, Text(), pen.prose(legend, "dim"))


def _bounds(share: Accuracy) -> str:
    return f"{100 * share.low:.1f} – {100 * share.high:.1f}"


def _accuracy(accuracy: Accuracy) -> str:
    return f"{percent_text(accuracy.value)} ({_bounds(accuracy)})"


def _percent(interval: Interval) -> str:
    return "no share" if interval.estimate is None else f"{100 * interval.estimate:z.1f} %"
