"""The report for people: what was decided, why, what to do next, and what it rests on.

Pure: a report in, a rich renderable out; nothing is printed here."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from robustcheck_onnx.checker.evidence import Interval, OutlierFeature
from robustcheck_onnx.checker.statistics import OUTLIER_SD, TOP_FEATURES
from robustcheck_onnx.checker.text import (
    bars,
    bound_text,
    count_text,
    gap_text,
    name_text,
    number_text,
    percent_text,
    sentence_text,
    short_checkpoint,
)
from robustcheck_onnx.checker.verdict import NAMES, RULES
from robustcheck_onnx.thresholds.profile import STATISTICS

from . import words
from .facts import (
    _noted,
    terminal_execution,
    terminal_images,
    terminal_model,
    terminal_preprocessing,
    terminal_profile,
    terminal_tensor,
)
from .layout import INDENT, Flow, Pen, Trimmed, columns, hanging, line, section
from .record import Report

BAR_ROWS = 4
MAX_FEATURES = 8  # rows
MAX_LIMITS = 2  # of the profile, beside the claim; all with `verbose`

_SIGN = {"PASS": "✓", "WARN": "▲"}
_COLOUR = {"PASS": "green", "WARN": "yellow"}
_CLEARS: dict[words.Clears, tuple[str, str]] = {
    "yes": ("✓ yes", "green"),
    "no": ("✗ no", "yellow"),
    "straddles": ("~ straddles", "yellow"),
    "not measured": ("? unknown", "yellow"),
}


def render(report: Report, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """The report for a terminal or a text file, laid out for the width of the console that prints it.

    Args:
        report: what to show.
        ascii_only: no character above 127, for output that is not Unicode.
        verbose: full digests, every preprocessing field, the whole reference table and all limits too.

    Returns:
        Lines without trailing blanks, none wider than the console (60 columns or more).
    """
    pen = Pen(ascii_only)
    sections = [
        _headline(report, pen),
        *_reasons(report, pen),
        *_notes(report, pen),
        *_gate(report, pen),
        Flow((_evidence(report, pen), _histogram(report, pen), _features(report, pen, verbose))),
        _reference(report, pen, verbose),
        _measured(report, pen, verbose),
        _limits(report, pen, verbose),
    ]
    return Trimmed(Group(*(line for section in sections for line in (Text(), section))))


def one_line(report: Report) -> str:
    """The verdict in one line, for logs and tables of many models: "WARN model.onnx: rectified"."""
    reasons = ", ".join(reason.id for reason in report.verdict.reasons)
    file = name_text(report.evidence.model.file, ascii_only=False)
    return f"{report.verdict.verdict} {file}" + (f": {reasons}" if reasons else "")


def _headline(report: Report, pen: Pen) -> RenderableType:
    verdict, model = report.verdict.verdict, report.evidence.model
    colour = _COLOUR[verdict]
    rule = Rule(
        line(pen.say("━━ ", colour), pen.say(f"{_SIGN[verdict]} {verdict}{_passed_by(report)}", f"bold {colour}")),
        characters=sentence_text("━", pen.ascii_only),
        style=colour,
        align="left",
    )
    planted = "" if _noted(report, model.synthetic) else f": {model.synthetic}"
    synthetic = pen.say(f"synthetic{planted}" if model.synthetic else "", "yellow")
    what = pen.facts([pen.name(model.file, "bold"), pen.name(model.source), synthetic])
    below = Group(what, pen.name(model.digest, "dim"), pen.prose(words.meaning_text(report.verdict)))
    return Group(rule, Padding(below, (0, 0, 0, INDENT)))


def _passed_by(report: Report) -> str:
    """What to add to a WARN that does not fail the run."""
    if report.verdict.verdict == "PASS" or report.gate is None or report.gate.exit_code != 0:
        return ""
    waived = {waiver.reason for waiver in report.gate.waived}
    return " (waived)" if all(r.id in waived for r in report.verdict.reasons) else " (let through)"


def _reasons(report: Report, pen: Pen) -> list[RenderableType]:
    rows: list[tuple[Text, Text]] = []
    owner: dict[str, str] = {}  # next step → the first reason that names it
    for reason in report.verdict.reasons:
        rule = RULES.get(reason.id)
        first = owner.setdefault(reason.next_step, reason.id)
        step = reason.next_step if first == reason.id else f"The same as for {first}."
        title = line(pen.say(f"{rule.title}  " if rule else "", "bold"), pen.say(reason.id, "dim"))
        next_step = pen.say(f"→ {step}")
        next_step.highlight_regex(r"`[^`]*`", "cyan")
        rows += [(pen.say("✗", "yellow"), title), (Text(), pen.say(reason.seen)), (Text(), next_step)]
    if not rows:
        return []
    remark = "`robustcheck explain REASON` tells more"
    return [section(pen, "Reasons and next steps", remark, hanging(rows))]


def _notes(report: Report, pen: Pen) -> list[RenderableType]:
    rows = [(pen.say("note", "bold"), pen.say(note)) for note in report.notes]
    return [hanging(rows)] if rows else []


def _gate(report: Report, pen: Pen) -> list[RenderableType]:
    """What the command made of the verdict; nothing from Python, where there is no gate."""
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
    s, thresholds = report.evidence.statistics, report.profile.thresholds
    bounds = {name: _bounds(getattr(s, name), thresholds[name].minimum) for name in STATISTICS}
    widest = max(len(low) for low, _ in bounds.values())
    table = columns(pen, "statistic", ">value", "=interval", "=threshold", "=clears it?")
    for name in STATISTICS:
        interval, minimum = getattr(s, name), thresholds[name].minimum
        low, high = bounds[name]
        word, colour = _CLEARS[words.clears(interval, minimum)]
        table.add_row(
            pen.say(NAMES[name]),
            pen.say("–" if interval.estimate is None else number_text(interval.estimate), "bold"),
            pen.say(f"{low:>{widest}} – {high}" if low and high else "not measured"),
            pen.say(f"> {minimum:g}"),
            pen.say(word, colour),
        )
    remark = f"{100 * (1 - s.alpha):g} % confidence for all together"
    return section(pen, "Evidence and thresholds", remark, table, Text(), _context(report, pen))


def _bounds(interval: Interval, minimum: float) -> tuple[str, str]:
    """Both bounds as text; empty where there are none."""
    if interval.low is None or interval.high is None:
        return "", ""
    return bound_text(interval.low, minimum), bound_text(interval.high, minimum)


def _context(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    values = [
        ("centred kurtosis", number_text(s.centred_kurtosis)),
        ("sparsity (zeros)", percent_text(s.zero_share)),
        ("RMS kurtosis", number_text(s.rms_kurtosis)),
        ("negative values", percent_text(s.negative_share)),
        ("max-median ratio", words.max_median_text(s)),
        ("spread over images", percent_text(s.spread)),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(overflow="fold")
        grid.add_column(overflow="fold", justify="right")
    cells = [(pen.say(label, "dim"), pen.say(value)) for label, value in values]
    for i in (0, 2, 4):
        grid.add_row(*(text for pair in cells[i : i + 2] for text in pair))
    return grid


def _histogram(report: Report, pen: Pen) -> RenderableType:
    s = report.evidence.statistics
    title = "Kurtosis per image"
    if not s.histogram_counts or s.kurtosis_quantiles is None:
        return section(pen, title, "", pen.say("not measured"))
    top = str(max(s.histogram_counts))
    labels = [top, *[""] * (BAR_ROWS - 1)]
    lines = [
        line(pen.say(f"{label:>{len(top)}} │", "dim"), pen.say(row, "cyan"))
        for label, row in zip(labels, bars(s.histogram_counts, BAR_ROWS), strict=True)
    ]
    low, high = (number_text(edge) for edge in (s.histogram_edges[0], s.histogram_edges[-1]))
    gap = max(len(s.histogram_counts) - len(low), len(high) + 1)
    lines.append(pen.say(f"{0:>{len(top)}} └{'─' * len(s.histogram_counts)}", "dim"))
    lines.append(pen.say(f"{'':>{len(top)}}  {low}{high:>{gap}}", "dim"))
    return section(pen, title, f"median {number_text(s.kurtosis_quantiles[2])}", *lines)


def _features(report: Report, pen: Pen, verbose: bool) -> RenderableType:
    s = report.evidence.statistics
    persistent = len(s.persistent)
    # the strongest three make up the top-3 share; of the others only the persistent ones say something
    wanted = [f for rank, f in enumerate(s.features) if verbose or f.persistent or rank < TOP_FEATURES]
    shown = wanted[:MAX_FEATURES]
    title = "Outlier features"
    remark = f"{persistent or 'none'} persistent, of {count_text(s.n_features, 'feature')}"
    if not shown:
        return section(pen, title, remark, pen.say("not measured"))
    table = columns(pen, ">feature", ">share of K", f">beyond {OUTLIER_SD:g} SD", ">mean z", "persistent")
    for feature in shown:
        table.add_row(*_feature_row(feature, pen))
    more = len(wanted) - len(shown)
    return section(pen, title, remark, table, *([pen.say(f"and {more} more", "dim")] if more else []))


def _feature_row(feature: OutlierFeature, pen: Pen) -> list[Text]:
    return [
        pen.say(str(feature.index), "bold" if feature.persistent else ""),
        pen.say(percent_text(feature.share)),
        pen.say(percent_text(feature.frequency)),
        pen.say(f"{feature.mean_z:+z.1f}"),
        pen.say("✓ yes", "green") if feature.persistent else pen.say("– no"),
    ]


def _reference(report: Report, pen: Pen, verbose: bool) -> RenderableType:
    s = report.evidence.statistics
    ratio = s.persistence_ratio.estimate
    title = "Place among the reference sets"
    remark = "by persistence ratio; ✓ = shows the indication"
    if ratio is None or not report.reference:
        return section(pen, title, remark, pen.say("not placed: no persistence ratio or no table"))
    table = columns(pen, "", ">rank", ">ratio", ">K", "", "group", "checkpoint")
    for rank, row, left_out in words.placed(report.reference, ratio, everything=verbose):
        if left_out:
            gap = pen.say(gap_text(left_out), "dim")
            table.add_row(Text(), pen.say("…", "dim"), Text(), Text(), Text(), Text(), gap)
        if row is None:
            own = (str(rank), number_text(ratio), number_text(s.kurtosis.estimate))
            table.add_row(pen.say("▶"), *(pen.say(t) for t in own), Text(), pen.say("this model"), style="bold")
            continue
        # what comes after a comma, how it was finetuned, takes a second line; its group says that it was
        checkpoint = row.checkpoint if verbose else short_checkpoint(row.checkpoint).partition(", ")[0]
        detail = f"  {row.images}; {row.source}" if verbose else ""
        table.add_row(
            Text(),
            pen.say(str(rank), "dim"),
            pen.say(number_text(row.persistence_ratio)),
            pen.say(number_text(row.kurtosis)),
            pen.say("✓", "green") if row.shows_outlier_features else pen.say("–", "dim"),
            pen.say(words.group_text(row.group)),
            line(pen.name(checkpoint), pen.say(detail, "dim")),
        )
    moves = "K (kurtosis) moves with the image set"
    if widest := words.widest_kurtosis(report.reference):
        name, least, most = widest
        moves += f": {name} reads {number_text(least)} on one, {number_text(most)} on another"
    return section(pen, title, remark, table, pen.say(f"{moves}.", "dim"))


def _measured(report: Report, pen: Pen, verbose: bool) -> RenderableType:
    blocks = [
        ("model", terminal_model(report, pen)),
        ("tensor", terminal_tensor(report, pen)),
        ("preprocessing", terminal_preprocessing(report, pen, verbose)),
        ("images", terminal_images(report, pen, verbose)),
        ("ran on", terminal_execution(report, pen)),
        ("judged by", terminal_profile(report, pen, verbose)),
    ]
    if report.published is not None:
        context = f"{report.published.sentence} Context only: it decides nothing."
        blocks.insert(1, ("published", [pen.say(context)]))
    rows = [(pen.say(f"{'' if i else label} ", "dim"), text) for label, texts in blocks for i, text in enumerate(texts)]
    return section(pen, "What was measured", "", hanging(rows))


def _limits(report: Report, pen: Pen, verbose: bool) -> RenderableType:
    limits = list(report.profile.limits)
    if not verbose:  # the sentence on the other verdict is not about this report
        other = "PASS" if report.verdict.verdict == "WARN" else "WARN"
        limits = [limit for limit in limits if not limit.startswith(f"{other} ")][:MAX_LIMITS]
    rows = [(pen.say("•"), pen.prose(text)) for text in (report.claim, *limits)]
    hidden = len(report.profile.limits) - len(limits)
    more = f"{hidden} more with --verbose" if hidden else ""
    return section(pen, "Limits of the claim", more, hanging(rows))
