"""Show outlier features through depth. There are a plot, a table and lists. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from robustcheck_onnx.checker.report import Pen, Trimmed, bar_chart, columns, hanging, headline, noted, section, spaced
from robustcheck_onnx.checker.text import (
    count_text,
    name_text,
    number_text,
    percent_text,
    range_text,
)

from .records import Layer, LayerStatistics, Place, ScanReport

IN_A_LIST = 8  # features or places named in a list

_ByName = dict[str, list[tuple[int, float, float]]]
"""By the name of a feature, or of a feature at a place: layer number, share of the rows or images, largest value."""


class FeatureList(NamedTuple):
    """The features, or the places, of one kind."""

    title: str
    remark: str
    """what the shares are of, and how many are left out"""
    rows: tuple[tuple[str, str], ...]
    """name, and its layers with their shares; at most IN_A_LIST, those in most layers first"""


def features_through_depth(report: ScanReport) -> tuple[FeatureList, ...]:
    """List features with layers, tokens and positions. There is a list for each kind."""
    persistent: _ByName = defaultdict(list)
    of_class_token: _ByName = defaultdict(list)
    fixed: _ByName = defaultdict(list)
    massive: _ByName = defaultdict(list)
    for number, layer in enumerate(report.layers, 1):
        measured = layer.statistics
        for by_name, features in (
            (persistent, measured.persistent),
            (of_class_token, measured.class_token_persistent),
        ):
            for each in features:
                by_name[f"feature {each.feature}"].append((number, each.frequency, 0.0))
        if measured.fixed_outlier is not None:
            outlier = measured.fixed_outlier
            fixed[_place(outlier)].append((number, outlier.frequency, outlier.largest_z))
        for place in measured.massive:
            massive[_place(place)].append((number, place.frequency, place.value))
    lists = []
    for title, remark, by_name, largest in (
        ("Persistent outlier features", "beyond 6 SD, share of the tokens or positions", persistent, ""),
        ("Persistent in class tokens", "beyond 6 SD, share of the images", of_class_token, ""),
        ("Largest |z| at one place", "in at least half of the images", fixed, ", up to {:.3g} SD"),
        ("Massive activations", "share of the images", massive, ", largest value {:.4g}"),
    ):
        if by_name:
            longest = sorted(by_name.items(), key=lambda item: -len(item[1]))[:IN_A_LIST]
            rows = tuple((name, _layers_text(layers, largest)) for name, layers in longest)
            lists.append(FeatureList(title, _more(remark, len(by_name)), rows))
    return tuple(lists)


def _place(place: Place) -> str:
    return f"feature {place.feature}" + (f", {place.where}" if place.where else "")


def _layers_text(layers: Sequence[tuple[int, float, float]], largest: str) -> str:
    """Return layers, share of rows, and largest value."""
    numbers, shares, values = zip(*layers, strict=True)
    return f"{_layers(numbers)}, {_shares(shares)}" + largest.format(max(values, key=abs))


def _more(remark: str, count: int) -> str:
    return f"{remark}; {IN_A_LIST} of {count}, the others in JSON" if count > IN_A_LIST else remark


def _layers(numbers: Sequence[int]) -> str:
    """Return layer numbers with runs joined: layers 3–10, 12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    named = ", ".join("–".join(map(str, run)) for run in runs)
    return f"layer {named}" if len(numbers) == 1 else f"layers {named}"


def _shares(shares: Sequence[float]) -> str:
    return range_text(percent_text(min(shares)), percent_text(max(shares)), between=" – ")


def persistent_text(measured: LayerStatistics, named: int = 3) -> str:
    """Return the layer's persistent outlier features. The most frequent comes first; "–" where there is none."""
    if not measured.n_persistent:
        return "–"
    more = measured.n_persistent - named
    first = ", ".join(str(each.feature) for each in measured.persistent[:named])
    return f"{first} + {more} more" if more > 0 else first


WIDE = 110  # columns from which tensor names are in the table
PLOT_ROWS = 4
NOTHING = "–"


def render(report: ScanReport, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Render the short report, or the whole. It fits the width of the console; where outlier features begin is last."""
    pen = Pen(ascii_only)
    blocks = [_headline(pen, report), _Plot(pen, report.layers)]
    if verbose:
        blocks += [
            _Table(pen, report),
            *_features_through_depth(pen, report),
            *noted(pen, report.notes),
            section(pen, "Limits", "", pen.prose(report.limits)),
        ]
    else:
        blocks.append(pen.say("Information, not a verdict. -v shows each layer, notes and limits.", "dim"))
    return Trimmed(spaced([*blocks, pen.say(report.summary, "bold")]))


def one_line(report: ScanReport) -> str:
    """Return where outlier features begin, in one line."""
    return f"{name_text(report.model.file, ascii_only=False)}: {report.summary}"


def _headline(pen: Pen, report: ScanReport) -> RenderableType:
    run, images = report.execution, report.images
    first = [pen.say(count_text(images.n_read - images.n_skipped, "image")), pen.name(images.source)]
    title, runtime = "Outlier features through depth", f"ONNX Runtime {run.runtime}"
    return Group(*headline(pen, title, report.model, run, report.time, first=first, runtime=runtime))


@dataclass(frozen=True)
class _Plot:
    """Bars of the kurtosis of each layer. Marks are at layers that have persistent outlier features."""

    pen: Pen
    layers: tuple[Layer, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        pen = self.pen
        values = [layer.statistics.kurtosis or 0.0 for layer in self.layers]
        marks = [layer.statistics.has_outliers for layer in self.layers]
        top = number_text(max(values))
        room = max(options.max_width - len(top) - 6, 8)
        step = -(-len(values) // room)  # layers a bar stands for
        wide = max(1, min(3, room // len(values)))  # columns of a bar
        values = [max(values[i : i + step]) for i in range(0, len(values), step)]
        marks = [any(marks[i : i + step]) for i in range(0, len(marks), step)]
        signs = "".join(("▲" if mark else " ") * wide for mark in marks) if any(marks) else ""
        counts, ends = [round(1000 * value) for value in values], ("1", str(len(self.layers)))
        lines = bar_chart(pen, counts, PLOT_ROWS, top=top, ends=ends, width=wide, marks=signs)
        remark = "mean over rows of features, by layer"
        if any(marks):
            remark += "; ▲ persistent outlier feature"
        if step > 1:
            remark += f"; a bar is the largest of {step} layers"
        yield section(pen, "Kurtosis", remark, *lines)


@dataclass(frozen=True)
class _Table:
    """A table with one row per layer. Tensor names are shown where they fit."""

    pen: Pen
    report: ScanReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        pen, wide = self.pen, options.max_width >= WIDE
        headers = [">layer", "=kind", *(["tensor"] if wide else []), ">width", *([">tokens"] if wide else [])]
        has_class = any(layer.class_token for layer in self.report.layers)
        headers += [">kurtosis", *([">class", ">mean"] if wide and has_class else [">mean"] if wide else [])]
        table = columns(pen, *headers, ">RMS", "persistent", ">max/med", ">massive")
        for number, layer in enumerate(self.report.layers, 1):
            measured = layer.statistics
            cells = [pen.say(str(number)), pen.say(layer.kind)]
            if wide:
                cells.append(pen.name(layer.tensor))
            cells.append(pen.say(str(layer.width)))
            if wide:
                cells.append(pen.say("×".join(map(str, layer.positions)) or NOTHING))
            cells.append(_number(pen, measured.kurtosis))
            if wide and has_class:
                cells.append(_number(pen, measured.class_token_kurtosis))
            if wide:
                cells.append(_number(pen, measured.mean_token_kurtosis))
            cells += [
                _number(pen, measured.rms_kurtosis),
                pen.say(persistent_text(measured), "yellow" if measured.has_outliers else ""),
                _number(pen, measured.max_median_ratio),
                pen.say(str(measured.n_massive or NOTHING)),
            ]
            table.add_row(*cells)
        remark = "" if wide else f"tensor names: from {WIDE} columns on, and in JSON"
        legend = (
            "kurtosis, RMS, persistent (|z| > 6 in at least half of the rows) over the features of each token or "
            "position"
            + ("; class, mean: kurtosis of the class token and of the mean over all" if wide and has_class else "")
            + ("; mean: kurtosis of the mean over all positions" if wide and not has_class else "")
            + "; max/med: largest over median |value|, – where the median is 0"
            + "; massive: places with |value| > 100 and 1000 × the median"
        )
        yield section(pen, "Layers", remark, table, Text(), pen.prose(legend, "dim"))


def _number(pen: Pen, value: float | None) -> Text:
    return pen.say(number_text(value, missing=NOTHING))


def _features_through_depth(pen: Pen, report: ScanReport) -> list[RenderableType]:
    """Render features with layers, tokens and positions. There is a section for each kind."""
    return [
        section(pen, each.title, each.remark, hanging((pen.say(name), pen.say(text)) for name, text in each.rows))
        for each in features_through_depth(report)
    ]
