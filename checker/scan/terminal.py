"""What `robustcheck scan` shows: outlier features through depth, as a plot and a table (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from robustcheck_onnx.checker.report import Pen, Trimmed, columns, hanging, line, section
from robustcheck_onnx.checker.text import bars, count_text, number_text, percent_text, short_digest, short_provider

from .depth import LayerStatistics, Place
from .records import Layer, ScanReport

WIDE = 110  # columns from which tensor names stand in the table
PLOT_ROWS = 4
IN_A_CELL = 3  # features named in a cell of the table
IN_A_LIST = 8  # features or places named below it
NOTHING = "–"

Key = TypeVar("Key")
Value = TypeVar("Value")


def render(report: ScanReport, *, ascii_only: bool = False) -> RenderableType:
    """The report, laid out for the width of the console that prints it."""
    pen = Pen(ascii_only)
    blocks = [
        _headline(pen, report),
        section(pen, "Where outlier features begin", "", pen.say(report.summary)),
        _Plot(pen, report.layers),
        _Table(pen, report),
        *_found(pen, report),
        *([section(pen, "Notes", "", _bullets(pen, report.notes))] if report.notes else []),
        section(pen, "Limits", "", pen.prose(report.limits)),
    ]
    spaced: list[RenderableType] = []
    for block in blocks:
        spaced += [block, Text()]
    return Trimmed(Group(*spaced[:-1]))


def _headline(pen: Pen, report: ScanReport) -> RenderableType:
    run, seen, model = report.execution, report.images, report.model
    facts = [
        pen.say(count_text(seen.n_read - seen.n_skipped, "image")),
        pen.name(seen.source),
        pen.name(short_digest(model.digest)),
        pen.say(f"{run.requested} → {short_provider(run.providers[0])}"),
        pen.say(f"ONNX Runtime {run.runtime}"),
    ]
    if report.time is not None:
        facts.append(pen.say(f"{number_text(report.time.wall_s)} s"))
    lines = [
        line(pen.say("Outlier features through depth", "bold"), pen.say("  "), pen.name(model.file)),
        pen.facts(facts),
    ]
    if model.source:
        lines.insert(1, pen.name(model.source, "dim"))
    return Group(*lines)


@dataclass(frozen=True)
class _Plot:
    """Kurtosis through depth as bars, and where features are persistent."""

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
        heights = bars([round(1000 * value) for value in values], PLOT_ROWS)
        lines = [
            line(
                pen.say(f"{label:>{len(top)}} │", "dim"),
                pen.say("".join(sign * wide for sign in row), "cyan"),
            )
            for label, row in zip([top, *[""] * (PLOT_ROWS - 1)], heights, strict=True)
        ]
        lines.append(pen.say(f"{'0':>{len(top)}} └{'─' * (wide * len(values))}", "dim"))
        if any(marks):
            signs = "".join(("▲" if mark else " ") * wide for mark in marks)
            lines.append(line(pen.say(" " * (len(top) + 2)), pen.say(signs, "yellow")))
        last = str(len(self.layers))
        gap = max(wide * len(values) - 1, len(last) + 1)
        lines.append(pen.say(f"{'':>{len(top)}}  1{last:>{gap}}", "dim"))
        remark = "mean over rows of features, by layer"
        if any(marks):
            remark += "; ▲ persistent outlier feature"
        if step > 1:
            remark += f"; a bar is the largest of {step} layers"
        yield section(pen, "Kurtosis", remark, *lines)


@dataclass(frozen=True)
class _Table:
    """One row a layer; tensor names where they fit."""

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
            found = layer.statistics
            cells = [pen.say(str(number)), pen.say(layer.kind)]
            if wide:
                cells.append(pen.name(layer.tensor))
            cells.append(pen.say(str(layer.width)))
            if wide:
                cells.append(pen.say("×".join(map(str, layer.positions)) or NOTHING))
            cells.append(_number(pen, found.kurtosis))
            if wide and has_class:
                cells.append(_number(pen, found.class_token_kurtosis))
            if wide:
                cells.append(_number(pen, found.mean_token_kurtosis))
            cells += [
                _number(pen, found.rms_kurtosis),
                pen.say(_persistent(found), "yellow" if found.has_outliers else ""),
                _number(pen, found.max_median_ratio),
                pen.say(str(found.n_massive or NOTHING)),
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


def _persistent(found: LayerStatistics) -> str:
    if not found.n_persistent:
        return NOTHING
    named = ", ".join(str(each.feature) for each in found.persistent[:IN_A_CELL])
    more = found.n_persistent - IN_A_CELL
    return f"{named} + {more} more" if more > 0 else named


def _number(pen: Pen, value: float | None) -> Text:
    return pen.say(NOTHING if value is None else number_text(value))


def _found(pen: Pen, report: ScanReport) -> list[RenderableType]:
    """Which features at which layers, tokens and positions."""
    features: dict[int, list[tuple[int, float]]] = defaultdict(list)
    of_class: dict[int, list[tuple[int, float]]] = defaultdict(list)
    fixed: dict[tuple[int, str], list[tuple[int, float, float]]] = defaultdict(list)
    massive: dict[tuple[int, str], list[tuple[int, float, float]]] = defaultdict(list)
    for number, layer in enumerate(report.layers, 1):
        found = layer.statistics
        for each in found.persistent:
            features[each.feature].append((number, each.frequency))
        for each in found.class_token_persistent:
            of_class[each.feature].append((number, each.frequency))
        if found.fixed_outlier is not None:
            fixed[_key(found.fixed_outlier)].append(
                (number, found.fixed_outlier.frequency, found.fixed_outlier.largest_z)
            )
        for place in found.massive:
            massive[_key(place)].append((number, place.frequency, place.value))
    sections: list[RenderableType] = []
    for title, remark, seen in (
        ("Persistent outlier features", "beyond 6 SD, share of the tokens or positions", features),
        ("Persistent in class tokens", "beyond 6 SD, share of the images", of_class),
    ):
        if seen:
            rows = [
                (
                    pen.say(f"feature {feature}"),
                    pen.say(f"{_layers([each[0] for each in at])}, {_shares([share for _, share in at])}"),
                )
                for feature, at in _longest(seen)
            ]
            sections.append(section(pen, title, _more(remark, len(seen)), hanging(rows)))
    for title, remark, found_at, unit in (
        ("Largest |z| at one place", "in at least half of the images", fixed, "up to {:.3g} SD"),
        ("Massive activations", "share of the images", massive, "largest value {:.4g}"),
    ):
        if found_at:
            rows = [
                (
                    pen.say(f"feature {feature}{f', {where}' if where else ''}"),
                    pen.say(
                        f"{_layers([each[0] for each in at])}, {_shares([share for _, share, _ in at])}, "
                        + unit.format(max((value for _, _, value in at), key=abs))
                    ),
                )
                for (feature, where), at in _longest(found_at)
            ]
            sections.append(section(pen, title, _more(remark, len(found_at)), hanging(rows)))
    return sections


def _key(place: Place) -> tuple[int, str]:
    return place.feature, place.where


def _longest(seen: dict[Key, list[Value]]) -> list[tuple[Key, list[Value]]]:
    return sorted(seen.items(), key=lambda item: -len(item[1]))[:IN_A_LIST]


def _more(remark: str, count: int) -> str:
    return f"{remark}; {IN_A_LIST} of {count}, the others in JSON" if count > IN_A_LIST else remark


def _layers(numbers: Sequence[int]) -> str:
    """Runs of layer numbers: layers 3–10, 12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    named = ", ".join("–".join(map(str, run)) for run in runs)
    return f"layer {named}" if len(numbers) == 1 else f"layers {named}"


def _shares(shares: Sequence[float]) -> str:
    low, high = percent_text(min(shares)), percent_text(max(shares))
    return low if low == high else f"{low} – {high}"


def _bullets(pen: Pen, sentences: Sequence[str]) -> RenderableType:
    return hanging([(pen.say("•"), pen.say(sentence)) for sentence in sentences])
