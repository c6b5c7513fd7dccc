"""What `robustcheck compare` shows: verdict, statistics side by side, what became of outlier features (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.report import INDENT, Pen, Trimmed, columns, hanging, line, section
from robustcheck_onnx.checker.text import (
    count_text,
    number_text,
    percent_text,
    sentence_text,
    short_digest,
    short_provider,
)
from robustcheck_onnx.checker.verdict import NAMES, RULES

from .fates import FeatureFate
from .judge import Compared, CompareReport

_MEANING = {
    "PASS": "The candidate has kept what made the reference pass, on the images that were given.",
    "WARN": "That the candidate has kept what made the reference pass was not established on the images that were "
    "given. That is no evidence of fragility.",
}
_SIGN = {"PASS": "✓", "WARN": "▲"}
_COLOUR = {"PASS": "green", "WARN": "yellow"}
_KEEPS = {
    "kept": ("✓ kept", "green"),
    "shrank": ("✗ shrank", "yellow"),
    "undecided": ("? undecided", "yellow"),
    "not required": ("–", "dim"),
}
_FATES = {
    "kept": ("✓ kept", "green"),
    "moved": ("→ moved", "yellow"),
    "rotated": ("✗ rotated away", "yellow"),
    "lost": ("✗ lost", "yellow"),
}


def render(report: CompareReport, *, ascii_only: bool = False) -> RenderableType:
    """The report, laid out for the width of the console that prints it."""
    pen = Pen(ascii_only)
    blocks = [
        _headline(pen, report),
        *([_reasons(pen, report)] if report.verdict.reasons else []),
        *([hanging([(pen.say("note", "bold"), pen.say(note)) for note in report.notes])] if report.notes else []),
        _statistics(pen, report),
        _features(pen, report),
        _whole(pen, report),
        _measured(pen, report),
        pen.prose(report.claim, "dim"),
    ]
    return Trimmed(Group(*(part for block in blocks for part in (Text(), block))))


def _headline(pen: Pen, report: CompareReport) -> RenderableType:
    verdict = report.verdict.verdict
    colour = _COLOUR[verdict]
    rule = Rule(
        line(pen.say("━━ ", colour), pen.say(f"{_SIGN[verdict]} {verdict}", f"bold {colour}")),
        characters=sentence_text("━", pen.ascii_only),
        style=colour,
        align="left",
    )
    sides = hanging(
        [(pen.say(f"{name} ", "dim"), _side(pen, side)) for name, side in _sides(report)],
    )
    return Group(rule, Padding(Group(sides, pen.prose(_MEANING[verdict])), (0, 0, 0, INDENT)))


def _sides(report: CompareReport) -> tuple[tuple[str, Compared], ...]:
    return ("candidate", report.candidate), ("baseline" if report.baseline else "reference", report.reference)


def _side(pen: Pen, side: Compared) -> Text:
    model = side.evidence.model
    return pen.facts(
        [
            pen.name(model.file, "bold"),
            pen.name(model.source),
            pen.say(side.evidence.execution.precision),
            pen.say(f"by itself {side.verdict.verdict}", _COLOUR[side.verdict.verdict]),
        ]
    )


def _reasons(pen: Pen, report: CompareReport) -> RenderableType:
    rows: list[tuple[Text, Text]] = []
    owner: dict[str, str] = {}  # next step → the first reason that names it
    for reason in report.verdict.reasons:
        rule = RULES.get(reason.id)
        first = owner.setdefault(reason.next_step, reason.id)
        step = reason.next_step if first == reason.id else f"The same as for {first}."
        title = line(pen.say(f"{rule.title}  " if rule else "", "bold"), pen.say(reason.id, "dim"))
        rows += [(pen.say("✗", "yellow"), title), (Text(), pen.say(reason.seen)), (Text(), pen.say(f"→ {step}"))]
    return section(pen, "Reasons and next steps", "`robustcheck explain REASON` tells more", hanging(rows))


@dataclass(frozen=True)
class _Fitting:
    """The wide form where there is room for it, else the narrow one."""

    wide: RenderableType
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        fits = Measurement.get(console, options.update(max_width=1000), self.wide).maximum <= options.max_width
        yield self.wide if fits else self.narrow


def _table(pen: Pen, report: CompareReport, headers: tuple[str, ...], *, differences: bool) -> RenderableType:
    table = columns(pen, *headers)
    for each in report.statistics:
        word, colour = _KEEPS[each.keeps]
        table.add_row(
            pen.say(NAMES[each.name]),
            pen.say(_value(each.candidate), "bold"),
            pen.say(_value(each.reference)),
            *([pen.say(_range(each.difference))] if differences else []),
            pen.say(_range(each.ratio)),
            pen.say(word, colour),
        )
    return table


def _statistics(pen: Pen, report: CompareReport) -> RenderableType:
    table = _Fitting(
        _table(
            pen,
            report,
            ("statistic", ">candidate", ">reference", "=difference", "=ratio", "=kept?"),
            differences=True,
        ),
        # differences are in the JSON too
        _table(pen, report, ("statistic", ">new", ">old", "ratio", "=kept?"), differences=False),
    )
    least = 100 * (1 - report.tolerance)
    remark = (
        f"{report.n_images} images, {'paired' if report.paired else 'not paired'}; "
        f"{100 * (1 - report.alpha):g} % confidence together; {least:g} % must be kept"
    )
    return section(pen, "Statistics", remark, table)


def _value(value: float | None) -> str:
    return "–" if value is None else number_text(value)


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "–" if interval.estimate is None else f"{number_text(interval.estimate)} (no bounds)"
    return f"{number_text(interval.low)} to {number_text(interval.high)}"


def _features(pen: Pen, report: CompareReport) -> RenderableType:
    persistent = bool(report.features) and report.features[0].persistent
    remark = "of the reference, and what became of them"
    if not persistent:
        remark = "the reference has no persistent one; its strongest feature, and what became of it"
    wide = columns(pen, ">feature", ">mean z", ">beyond 4 SD", ">in the candidate", ">mean z", ">beyond 4 SD", "")
    narrow = columns(pen, ">feature", ">mean z", ">now", ">mean z", "")
    for each in report.features:
        cells = _feature(pen, each)
        wide.add_row(*cells)
        narrow.add_row(*(cells[place] for place in (0, 1, 3, 4, 6)))  # the shares are in the JSON too
    table = _Fitting(wide, narrow)
    new = ", ".join(map(str, report.new_features))
    more = [pen.say(f"new in the candidate: {new}", "yellow")] if new else []
    return section(pen, "Outlier features", remark, table, *more)


def _feature(pen: Pen, each: FeatureFate) -> tuple[Text, ...]:
    word, colour = _FATES[each.fate]
    shown = each.to is not None or each.candidate_mean_z is not None
    at = "–" if not shown else str(each.to if each.to is not None else each.index)
    r = "" if each.correlation is None or each.to is None else f" (r = {each.correlation:+.2f})"
    return (
        pen.say(str(each.index), "bold"),
        pen.say(f"{each.mean_z:+z.1f}"),
        pen.say(percent_text(each.frequency)),
        pen.say(at),
        pen.say("–" if each.candidate_mean_z is None else f"{each.candidate_mean_z:+z.1f}"),
        pen.say("–" if each.candidate_frequency is None else percent_text(each.candidate_frequency)),
        pen.say(word + r, colour),
    )


def _whole(pen: Pen, report: CompareReport) -> RenderableType:
    found, same = report.similarity, report.agreement
    if found is None:
        return section(
            pen, "As a whole", "", pen.say("not compared: a baseline holds numbers, no representations", "dim")
        )
    rows = [
        ("linear CKA", f"{_value(found.cka)} (debiased {_value(found.cka_debiased)}), {found.n_images} images"),
        (
            "cosines between images",
            f"changed by {_value(found.cosine_change)} (root mean square; a rotation changes none)",
        ),
    ]
    if same is not None:
        rows.append(
            (
                "same top-1 class",
                f"{percent_text(same.value)} of {same.n} images "
                f"({100 * same.low:.1f} to {100 * same.high:.1f} %, Wilson {100 * same.confidence:g} %)",
            )
        )
    grid = hanging([(pen.say(f"{label} ", "dim"), pen.say(text)) for label, text in rows])
    return section(pen, "As a whole", "context: decides nothing by itself", grid)


def _measured(pen: Pen, report: CompareReport) -> RenderableType:
    evidence = report.candidate.evidence
    images, calibration = evidence.images, report.verdict
    rows = [
        (
            f"{name} ",
            pen.facts(
                [
                    pen.name(short_digest(side.evidence.model.digest)),
                    pen.name(side.evidence.model.tensor),
                    pen.say(side.evidence.model.rule),
                    pen.say(count_text(side.evidence.statistics.n_features, "feature")),
                    pen.say(f"preprocessing {side.evidence.preprocessing.source}"),
                    pen.say(short_provider(side.evidence.execution.providers[0])),
                ]
            ),
        )
        for name, side in _sides(report)
    ]
    rows += [
        (
            "images ",
            pen.facts(
                [
                    pen.name(images.source),
                    pen.say(f"{report.n_images} of {images.n_available} measured"),
                    pen.say(f"{images.sanity.n_varied} varied"),
                    pen.name(short_digest(images.digest)),
                ]
            ),
        ),
        (
            "judged by ",
            pen.facts(
                [
                    line(pen.say("profile "), pen.name(calibration.profile_id)),
                    pen.name(short_digest(calibration.profile_digest)),
                    pen.say(f"tolerance {report.tolerance:g}"),
                    pen.say(f"robustcheck {report.tool_version}"),
                ]
            ),
        ),
    ]
    if report.time is not None:
        rows.append(("", pen.say(f"{report.time.started}, {number_text(report.time.wall_s)} s")))
    return section(pen, "What was measured", "", hanging([(pen.say(label, "dim"), text) for label, text in rows]))
