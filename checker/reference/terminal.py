"""What `robustcheck reference` shows: published effective robustness and measured statistics, as table, JSON or CSV.

Pure: rows in, a rich renderable or text out. None of it is evidence about a model that is being checked.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from robustcheck_onnx.checker.report import Pen, Trimmed, columns, hanging, line, section, spaced
from robustcheck_onnx.checker.text import number_text, page, range_text, short_checkpoint
from robustcheck_onnx.thresholds import published as tables
from robustcheck_onnx.thresholds.effective_robustness import expected_accuracy
from robustcheck_onnx.thresholds.published import IMAGENET, MEAN_SHIFTS, SHIFT_WORDS, SHIFTS

from .rows import Row, counted, reference_rows

SCHEMA = "robustcheck.reference/1"
WIDE = 140  # columns from which every shift has a column; narrower, their mean alone
AT_MOST = 20  # rows that are shown unless all are asked for
EXTRAPOLATED = "*"

_GROUPS = {
    "zero_shot_clip": "zero-shot",
    "finetuned_clip": "finetuned",
    "imagenet_finetuned_clip": "ImageNet ft",
    "in1k_only": "ImageNet-1k",
    "in1k_distilled": "distilled",
    "in1k_ssl": "self-sup.",
    "self_supervised": "self-sup.",
    "robust_intervention": "intervention",
    "low_accuracy_cnn": "subsampled",
}
_EXTRAPOLATED = f"{EXTRAPOLATED} extrapolated: ImageNet accuracy below 55 %, or outside what that line was fitted on."
_POINTS = (
    "mean: published effective robustness in percentage points (accuracy beyond the line of models trained on "
    "ImageNet-1k only), over ImageNet-V2, Sketch, R and A; each of them, and ObjectNet: `robustcheck reference NAME`, "
    f"or {WIDE} columns."
)
_MEASURED = (
    "K, K/Kc: activation kurtosis and persistence ratio, measured on published representations, smallest to largest "
    "over the image sets; in parentheses where no set was used for the thresholds."
)
_HEADERS = (
    "n × d: images × features; K, K/Kc: activation kurtosis and persistence ratio; top-3: share of the kurtosis that "
    "the three strongest features carry; neg.: negative energy."
)
_CONTEXT = f"Context: none of it decides a verdict. Sources: {page('published')}."


@dataclass(frozen=True)
class _Table:
    """A line a row: where it is narrow, with the mean over the shifts alone, and long names are cut."""

    rows: Sequence[Row]
    pen: Pen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        pen, wide = self.pen, options.max_width >= WIDE
        grouped = wide and len({row.entry.group for row in self.rows}) > 1
        shifts = SHIFTS if wide else ()
        headers = ["=checkpoint", *(["=group"] if grouped else []), ">IN"]
        headers += [f">{'ObjN' if shift == 'objectnet' else SHIFT_WORDS[shift]} " for shift in shifts]
        headers += [">mean ", ">K", ">K/Kc"]
        table = columns(pen, *headers)
        lines = []
        for row in self.rows:
            cells = [pen.say(_group(row), "dim")] if grouped else []
            cells.append(pen.say(_percent(row.entry.accuracy.get(IMAGENET))))
            cells += [_points_cell(row, shift, pen) for shift in shifts]
            cells.append(_mean_cell(row, pen))
            cells += [_range_cell(row, statistic, pen) for statistic in ("kurtosis", "persistence_ratio")]
            lines.append(cells)
        widths = [max(len(text) for text in column) for column in zip(headers[1:], *lines, strict=True)]
        room = max(options.max_width - sum(width + 2 for width in widths), 8)
        for row, cells in zip(self.rows, lines, strict=True):
            table.add_row(_cut(_checkpoint(row, pen), room, pen), *cells)
        yield table


def render_table(rows: Sequence[Row], *, at_most: int | None = None, ascii_only: bool = False) -> RenderableType:
    """Lay out rows as a table, a line each, with its legend, for the width of the console that prints it.

    at_most: rows to show; None = all. Below the table it is said how many are left out.
    Returns lines without trailing blanks, none wider than the console (60 columns or more).
    """
    pen, shown = Pen(ascii_only), rows[:at_most]
    legend = [_POINTS]
    if any(row.entry.extrapolated for row in shown):
        legend.append(_EXTRAPOLATED)
    if any(row.measured for row in shown):
        legend.append(_MEASURED)
    notes = [pen.say(text, "dim") for text in (*legend, _CONTEXT)]
    more = [pen.say("--all shows every row", "bold")] if len(shown) < len(rows) else []
    remark = f"{len(shown)} of {len(reference_rows())} rows; IN: ImageNet top-1 in per cent"
    return Trimmed(section(pen, "Reference suite", remark, _Table(shown, pen), *more, Text(), *notes))


def render_one(row: Row, *, ascii_only: bool = False) -> RenderableType:
    """Show all of one row: accuracies beside what its ImageNet accuracy leads one to expect, and measured sets."""
    pen, entry = Pen(ascii_only), row.entry
    size = f"{entry.image_size_px} px" if entry.image_size_px else ""
    head = pen.facts(
        [pen.name(entry.name, "bold"), pen.say(entry.library), pen.say(f"group {entry.group}"), pen.say(size)]
    )
    blocks: list[RenderableType] = [head, _published(row, pen)]
    if row.measured:
        remark = "statistics of published representations of these weights"
        measured = (_measured(row, pen), Text(), pen.say(_HEADERS, "dim"), Text(), _measured_sources(row, pen))
        blocks.append(section(pen, "Measured", remark, *measured))
    return Trimmed(spaced(blocks))


def render_named(rows: Sequence[Row], *, at_most: int | None = None, ascii_only: bool = False) -> RenderableType:
    """Show what `robustcheck reference NAME` found: one checkpoint in detail (at every size), or a table of several."""
    if len({(row.entry.library, row.entry.name) for row in rows}) > 1:
        return render_table(rows, at_most=at_most, ascii_only=ascii_only)
    return spaced(render_one(row, ascii_only=ascii_only) for row in rows)


def _published(row: Row, pen: Pen) -> RenderableType:
    entry = row.entry
    if not entry.accuracy:
        return pen.say("No accuracies of this checkpoint are in the published tables.")
    table = columns(pen, "top-1 in per cent", ">accuracy", ">expected", ">effective robustness", ">residual SD")
    table.add_row(pen.say("ImageNet"), pen.say(_percent(entry.accuracy.get(IMAGENET))))
    for shift in SHIFTS:
        if shift not in entry.accuracy:
            table.add_row(pen.say(SHIFT_WORDS[shift]), pen.say("–"))
            continue
        cells = [pen.say(SHIFT_WORDS[shift]), pen.say(_percent(entry.accuracy[shift]))]
        if shift in entry.effective_robustness_pp:
            baseline = tables.baselines()[shift]
            cells += [
                pen.say(_percent(float(expected_accuracy(entry.accuracy[IMAGENET], baseline)))),
                _points_cell(row, shift, pen),
                pen.say(f"{baseline.residual_sd_pp:.1f}", "dim"),
            ]
        table.add_row(*cells)
    table.add_row(pen.say("mean V2, Sketch, R, A"), Text(), Text(), _mean_cell(row, pen))
    notes = [
        "Expected: what models trained on ImageNet-1k only reach at this ImageNet accuracy (Taori et al. 2020). "
        "Effective robustness and residual SD: percentage points."
    ]
    if entry.extrapolated:
        notes.append(_EXTRAPOLATED)
    notes.append(f"Source: {entry.source}")
    remark = "not measured by robustcheck; decides no verdict"
    return section(pen, "Published", remark, table, Text(), *(pen.say(note, "dim") for note in notes))


def _measured(row: Row, pen: Pen) -> RenderableType:
    table = columns(pen, "set", ">n × d", ">K", ">K/Kc", ">top-3", ">neg.", "outlier features")
    for s in row.measured:
        values = (s.kurtosis, s.persistence_ratio, s.top3_share, s.negative_energy)
        table.add_row(
            pen.name(s.set),
            pen.say(f"{s.n}×{s.d}"),
            *(pen.say(number_text(value)) for value in values),
            pen.say(s.persistent_outlier_features or "none"),
        )
    return table


def _measured_sources(row: Row, pen: Pen) -> RenderableType:
    lines = []
    for s in row.measured:
        why = pen.say(f" (not used for the thresholds: {s.excluded})" if s.excluded else "")
        lines.append((pen.say("•"), line(pen.name(f"{s.set}: {s.checkpoint}"), why, pen.name(f"; {s.source}", "dim"))))
    return hanging(lines)


def _checkpoint(row: Row, pen: Pen) -> Text:
    entry = row.entry
    name = entry.name if entry.library else short_checkpoint(entry.model)
    remark = f" {entry.image_size_px}px" if entry.image_size_px else " testbed" if entry.library == "testbed" else ""
    return line(pen.name(name), pen.say(remark, "dim"))


def _cut(name: Text, room: int, pen: Pen) -> Text:
    """The name, cut where it is longer than its column."""
    return name if len(name) <= room else line(name[: room - 3], pen.say("…"))


def _points_cell(row: Row, shift: str, pen: Pen) -> Text:
    value = row.entry.effective_robustness_pp.get(shift)
    return _pp(value, shift in row.entry.extrapolated, pen)


def _mean_cell(row: Row, pen: Pen) -> Text:
    text = _pp(row.entry.mean_pp, any(shift in row.entry.extrapolated for shift in MEAN_SHIFTS), pen)
    text.stylize("bold")
    return text


def _pp(value: float | None, extrapolated: bool, pen: Pen) -> Text:
    """Write percentage points with their sign, and a blank where there is no mark, so that the digits line up."""
    mark = EXTRAPOLATED if extrapolated else " "
    return pen.say("– " if value is None else f"{value:+.1f}{mark}", "dim" if value is None else "")


def _range_cell(row: Row, statistic: str, pen: Pen) -> Text:
    fitting = counted(row, statistic)
    values = fitting or [getattr(s, statistic) for s in row.measured]
    if not values:
        return pen.say("–", "dim")
    text = range_text(number_text(min(values)), number_text(max(values)), between="–")
    return pen.say(text if fitting else f"({text})", "" if fitting else "dim")


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{100 * accuracy:.1f}"


def _group(row: Row) -> str:
    return _GROUPS.get(row.entry.group, row.entry.group.replace("_", " "))


def to_json(rows: Sequence[Row]) -> str:
    """Write rows, baselines and sources as one JSON document: points with two decimals, null for what is unknown."""
    document = {
        "schema": SCHEMA,
        "tool": "robustcheck",
        "note": "published accuracies and what follows from them; context, decides no verdict",
        "sources": tables.sources(),
        "baselines": {shift: baseline.model_dump() for shift, baseline in tables.baselines().items()},
        "rows": [_document(row) for row in rows],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _document(row: Row) -> dict[str, Any]:
    e = row.entry
    return {
        "library": e.library or None,
        "model": e.model,
        "weights": e.weights or None,
        "group": e.group,
        "image_size_px": e.image_size_px,
        "accuracy": {name: e.accuracy.get(name) for name in (IMAGENET, *SHIFTS)},
        "effective_robustness_pp": {shift: _rounded(e.effective_robustness_pp.get(shift)) for shift in SHIFTS},
        "effective_robustness_mean_pp": _rounded(e.mean_pp),
        "extrapolated": [shift for shift in SHIFTS if shift in e.extrapolated],
        "source": e.source or None,
        "measured": [
            {
                "set": s.set,
                "checkpoint": s.checkpoint,
                "n_images": s.n,
                "n_features": s.d,
                "kurtosis": s.kurtosis,
                "persistence_ratio": s.persistence_ratio,
                "top3_share": s.top3_share,
                "negative_energy": s.negative_energy,
                "persistent_outlier_features": [int(index) for index in s.persistent_outlier_features.split()],
                "excluded": s.excluded or None,
                "source": s.source,
            }
            for s in row.measured
        ],
    }


def to_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV, one line a row, with the columns of the JSON document.

    Of several measured sets it holds the smallest and largest value of those that take part in fitting thresholds.
    """
    out = io.StringIO()
    lines = [_csv_line(row) for row in rows]
    writer = csv.DictWriter(out, list(_csv_line(reference_rows()[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _csv_line(row: Row) -> dict[str, Any]:
    document = _document(row)
    line: dict[str, Any] = {name: document[name] for name in ("library", "model", "weights", "group", "image_size_px")}
    line |= document["accuracy"]
    line |= {f"er_{shift}_pp": value for shift, value in document["effective_robustness_pp"].items()}
    line |= {"er_mean_pp": document["effective_robustness_mean_pp"], "extrapolated": " ".join(document["extrapolated"])}
    for statistic in ("kurtosis", "persistence_ratio"):
        values = counted(row, statistic)
        line |= {f"{statistic}_min": min(values, default=None), f"{statistic}_max": max(values, default=None)}
    line |= {"measured_sets": " ".join(s.set for s in row.measured), "source": document["source"]}
    return line


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, tables.DECIMALS)
