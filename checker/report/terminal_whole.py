"""Lay out the full report for people (`-v`).

It shows why it was decided so, what to do next, and all that it rests on; pure.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.evidence import OUTLIER_SD, OutlierFeature
from robustcheck_onnx.checker.text import (
    gap_text,
    number_text,
    percent_text,
    short_checkpoint,
)
from robustcheck_onnx.thresholds.profile import DEFINITIONS

from . import words
from .facts import Fact, blocks_of, speed_text
from .layout import (
    Flow,
    Pen,
    bar_chart,
    columns,
    hanging,
    line,
    notes,
    reasons,
    section,
)
from .record import Report

BAR_ROWS = 4
MAX_FEATURES = 8  # rows


def blocks(report: Report, pen: Pen) -> list[RenderableType]:
    """Lay out all parts of the report. The verdict is not among them: it comes last."""
    return [
        _model(report, pen),
        *reasons(pen, report.verdict.reasons, command_style="cyan"),
        *notes(pen, report.notes),
        *_gate(report, pen),
        Flow((_evidence(report, pen), _histogram(report, pen), _features(report, pen))),
        _reference(report, pen),
        _measured(report, pen),
        _limits(report, pen),
    ]


def _model(report: Report, pen: Pen) -> RenderableType:
    model = report.evidence.model
    planted = "" if _noted(report, model.synthetic) else f": {model.synthetic}"
    synthetic = pen.say(f"synthetic{planted}" if model.synthetic else "", "yellow")
    what = pen.facts([pen.name(model.file, "bold"), pen.name(model.source), synthetic])
    return Group(what, pen.name(model.digest, "dim"), pen.prose(words.meaning_text(report.verdict)))


def _noted(report: Report, text: str) -> bool:
    """Return whether a note contains this text."""
    return any(text in note for note in report.notes)


def _gate(report: Report, pen: Pen) -> list[RenderableType]:
    """Show exit code, rule and waivers. A report from Python has no gate and no block."""
    gate = report.gate
    if gate is None:
        return []
    rows = [(pen.say("gate", "bold"), pen.say(f"exit code {gate.exit_code}: {gate.rule}"))]
    rows += [
        (pen.say(label, "bold"), pen.say(f"{w.reason}, {until} {w.expires} by {w.owner}: {w.because}"))
        for label, until, waivers in (("waived", "until", gate.waived), ("expired", "waived until", gate.expired))
        for w in waivers
    ]
    return [hanging(rows)]


def _evidence(report: Report, pen: Pen) -> RenderableType:
    statistics = words.statistics_of(report)
    bounds = [s.bounds(between=" – ").partition(" – ") for s in statistics]
    widest = max((len(low) for low, dash, _ in bounds if dash), default=0)  # so that the dashes stand in line
    table = columns(pen, "statistic", ">value", "=interval", "=threshold", "=clears it?")
    for s, (low, dash, high) in zip(statistics, bounds, strict=True):
        sign, word = words.CLEARS[s.clears]
        table.add_row(
            pen.say(s.name),
            pen.say(s.value, "bold"),
            pen.say(f"{low:>{widest}}{dash}{high}" if dash else low),
            pen.say(str(s.limits)),
            pen.say(f"{sign} {word}", "green" if s.clears == "yes" else "yellow"),
        )
    remark = words.confidence_text(report)
    meanings = hanging((pen.say(f"{s.name}:", "dim"), pen.say(DEFINITIONS[s.id])) for s in statistics)
    return section(pen, "Evidence and thresholds", remark, table, meanings, Text(), _context(report, pen))


def _context(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    values = [
        ("centred kurtosis", number_text(s.centred_kurtosis)),
        ("sparsity (zeros)", percent_text(s.zero_share)),
        ("RMS kurtosis", number_text(s.rms_kurtosis)),
        ("negative values", percent_text(s.negative_share)),
        ("max-median ratio", words.max_median_text(s)),
        ("spread over images", percent_text(s.spread)),
        ("effective rank", words.rank_text(report.evidence.content)),
        ("relative variance", words.variance_text(report.evidence.content)),
        *words.context_of(report),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(overflow="fold")
        grid.add_column(overflow="fold", justify="right")
    cells = [(pen.say(label, "dim"), pen.say(value)) for label, value in values]
    for i in range(0, len(cells), 2):
        grid.add_row(*(text for pair in cells[i : i + 2] for text in pair))
    return grid


def _histogram(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    title = "Kurtosis per image"
    if not s.histogram_counts or s.kurtosis_quantiles is None:
        return section(pen, title, "", pen.say("not measured"))
    low, high = (number_text(edge) for edge in (s.histogram_edges[0], s.histogram_edges[-1]))
    top = str(max(s.histogram_counts))
    lines = bar_chart(pen, s.histogram_counts, BAR_ROWS, top=top, ends=(low, high))
    return section(pen, title, f"median {number_text(s.kurtosis_quantiles[2])}", *lines)


def _features(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    features = words.notable_features(s)
    title = "Most extreme features"
    remark = f"of {s.n_features}; the first three, and all that are beyond {OUTLIER_SD:g} SD in half of the images"
    if not features:
        return section(pen, title, remark, pen.say("not measured"))
    table = columns(pen, ">feature", ">share of K", f">beyond {OUTLIER_SD:g} SD", ">mean z")
    for feature in features[:MAX_FEATURES]:
        table.add_row(*_feature_row(feature, pen))
    more = len(features) - MAX_FEATURES
    return section(pen, title, remark, table, *([pen.say(f"and {more} more", "dim")] if more > 0 else []))


def _feature_row(feature: OutlierFeature, pen: Pen) -> list[Text]:
    return [
        pen.say(str(feature.index), "bold"),
        pen.say(percent_text(feature.share)),
        pen.say(percent_text(feature.frequency)),
        pen.say(f"{feature.mean_z:+z.1f}"),
    ]


def _reference(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    strength = words.strength_of(s)
    title = "Place among the reference sets"
    remark = "by strength; ✓ = shows the outlier features"
    if strength is None or not report.reference:
        return section(pen, title, remark, pen.say("not placed: no strength or no table"))
    table = columns(pen, "", ">rank", ">strength", ">K", "", "group", "checkpoint")
    for rank, row, left_out in words.reference_lines(report.reference, strength):
        if left_out:
            gap = pen.say(gap_text(left_out), "dim")
            table.add_row(Text(), pen.say("…", "dim"), Text(), Text(), Text(), Text(), gap)
        if row is None:
            own = (str(rank), number_text(strength), number_text(s.kurtosis.estimate))
            table.add_row(pen.say("▶"), *(pen.say(t) for t in own), Text(), pen.say("this model"), style="bold")
            continue
        # what comes after a comma, how it was finetuned, takes a second line; its group says that it was
        checkpoint = short_checkpoint(row.checkpoint).partition(", ")[0]
        table.add_row(
            Text(),
            pen.say(str(rank), "dim"),
            pen.say(number_text(row.strength)),
            pen.say(number_text(row.kurtosis)),
            pen.say("✓", "green") if row.shows_outlier_features else pen.say("–", "dim"),
            pen.say(words.group_text(row.group)),
            pen.name(checkpoint),
        )
    moves = "K (kurtosis) moves with the image set"
    if widest := words.widest_kurtosis(report.reference):
        name, least, most = widest
        moves += f": {name} reads {number_text(least)} on one, {number_text(most)} on another"
    return section(pen, title, remark, table, pen.say(f"{moves}.", "dim"))


def _measured(report: Report, pen: Pen) -> RenderableType:
    below = {
        "model": [pen.name(f"{file} {digest}") for file, digest in report.evidence.model.external_digests.items()],
        "preprocessing": _fields(report, pen),
        "images": _skipped_and_converted(report, pen),
        "ran on": _fallback_and_time(report, pen),
    }
    blocks = [
        (
            block.label,
            [pen.facts([_fact(fact, pen) for fact in (*block.facts, *block.more)]), *below.get(block.label, [])],
        )
        for block in blocks_of(report)
    ]
    if report.published is not None:
        context = f"{report.published.sentence} Context only: it decides nothing."
        blocks.insert(1, ("published", [pen.say(context)]))
    rows = [(pen.say(f"{'' if i else label} ", "dim"), text) for label, texts in blocks for i, text in enumerate(texts)]
    return section(pen, "What was measured", "", hanging(rows))


def _fact(fact: Fact, pen: Pen) -> Text:
    text = pen.say(fact.short) if fact.kind == "text" else pen.name(fact.short)
    return line(pen.say(fact.caution, "yellow"), text)


def _fields(report: Report, pen: Pen) -> list[Text]:
    """List every field of the preprocessing. It comes with its source."""
    p = report.evidence.preprocessing
    if p.source == "tensors":
        return []
    return [
        line(pen.say(f"{field}: ", "dim"), pen.name(value), pen.say(f" ({where})", "dim"))
        for field, value, where in p.fields
    ]


def _skipped_and_converted(report: Report, pen: Pen) -> list[Text]:
    images, lines = report.evidence.images, []
    noted = all(_noted(report, name) for name, _ in images.skipped)
    if images.n_skipped and not noted:
        listed = [line(pen.name(name), pen.say(f" ({why})")) for name, why in images.skipped]
        if images.n_skipped > len(listed):
            listed.append(pen.say(f"and {images.n_skipped - len(listed)} more"))
        lines.append(line(pen.say(f"{images.n_skipped} skipped: ", "yellow"), pen.say(", ").join(listed)))
    if images.notes:
        lines.append(pen.say("converted: " + ", ".join(f"{what} {n}" for what, n in images.notes.items())))
    return lines


def _fallback_and_time(report: Report, pen: Pen) -> list[Text]:
    reason, time, lines = report.evidence.execution.fallback_reason, report.time, []
    if reason and not _noted(report, reason):
        lines.append(line(pen.say("fallback: ", "yellow"), pen.say(reason)))
    if time is not None:
        speed = ", ".join(text for text in (f"{number_text(time.wall_s)} s", speed_text(time)) if text)
        lines.append(pen.say(f"{time.started}, {speed}"))
    return lines


def _limits(report: Report, pen: Pen) -> RenderableType:
    rows = [(pen.say("•"), pen.prose(text)) for text in (report.claim, *report.profile.limits)]
    return section(pen, "Limits of the claim", "", hanging(rows))
