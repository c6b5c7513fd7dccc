"""Show verdict, statistics side by side, and outlier features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text

from robustcheck_onnx.checker.report.layout import (
    COLOURS,
    Pen,
    Trimmed,
    columns,
    hanging,
    labelled,
    notes,
    reasons,
    section,
    spaced,
    verdict_line,
)
from robustcheck_onnx.checker.report.terminal import measured, reason_ids
from robustcheck_onnx.checker.report.words import verdict_text
from robustcheck_onnx.checker.text import (
    name_text,
    number_text,
    percent_text,
)
from robustcheck_onnx.checker.verdict.notes import BUNDLED_NOTE, ON_BUNDLED, fallback_note

from .changes import StatisticChange
from .forms import as_side
from .judge import Colour, Compared, CompareReport, feature_row, plain_text, statistic_row
from .pairs import KEPT_CKA, FeatureFate

_COLOURS: dict[Colour, str] = {"pass": "green", "warn": "yellow", "muted": "dim"}


def render(report: CompareReport, *, ascii_only: bool = False, verbose: bool = False) -> RenderableType:
    """Render the short report, or the whole.

    It fits the width of the console that prints it; the verdict comes last.
    """
    pen = Pen(ascii_only)
    usual = {BUNDLED_NOTE, *fallback_note(report.candidate.evidence.execution)}
    said = [note for note in report.notes if verbose or note not in usual]
    sides = hanging([(pen.say(f"{name} ", "dim"), _side(pen, side, verbose=verbose)) for name, side in _sides(report)])
    answer = pen.say(plain_text(report), "bold")
    if verbose:
        blocks = [
            answer,
            sides,
            *reasons(pen, report.verdict.reasons),
            *notes(pen, said),
            _statistics(pen, report, report.statistics),
            _features(pen, report),
            _whole(pen, report),
            *_index(pen, report, verbose=True),
            *(measured(as_side(report, side), pen, f"The {name}") for name, side in _sides(report)),
            pen.prose(report.claim, "dim"),
        ]
    else:
        deciding = [each for each in report.statistics if each.keeps != "not required"]
        whole = [pen.say(f"as a whole: {report.similarity.text}")] if report.similarity else []
        found = report.verdict.reasons
        if report.verdict.kind == "absent":  # what was lost comes before what a check of the candidate alone says
            found = tuple(sorted(found, key=lambda each: each.kind != "other_signal"))
        steps = [
            text
            for each in found[:1]
            for text in (pen.say(f"→ {each.next_step}"), pen.command(f"  robustcheck explain {each.id}"))
        ]
        table = Group(
            *([_statistics(pen, report, deciding)] if deciding else []),
            *whole,
            *reason_ids(pen, found),
            *_index(pen, report, verbose=False),
        )
        blocks = [Group(answer, *steps), Group(sides, *notes(pen, said)), table]
    last = verdict_line(pen, report.verdict, report.exit_code, report.index_words)
    last = replace(last, colour=COLOURS[report.colour])
    photos = [pen.say(f"! {ON_BUNDLED}", "yellow")] if report.candidate.evidence.images.bundled else []
    return Trimmed(Group(pen.say(f"robustcheck {report.tool_version}", "dim"), *photos, spaced([*blocks, last])))


def _index(pen: Pen, report: CompareReport, *, verbose: bool) -> list[RenderableType]:
    """Return the index verdict, with its numbers if verbose."""
    if (index := report.index) is None:
        return []
    plain = pen.say(index.plain, "green" if index.verdict == "compatible" else "yellow")
    rows = labelled(pen, [(f"{label} ", text) for label, text in index.rows()])
    return [section(pen, "Index of vectors", f"{index.n_images} photos in both", plain, rows) if verbose else plain]


def one_line(report: CompareReport) -> str:
    """Write the verdict in one line, for `-q`."""
    reasons = ", ".join(reason.id for reason in report.verdict.reasons)
    file = name_text(report.candidate.evidence.model.file, ascii_only=False)
    photos = f" ({ON_BUNDLED})" if report.candidate.evidence.images.bundled else ""
    index = f"; {report.index.plain}" if report.index and "index" in report.required else ""
    return f"{verdict_text(report.verdict)} {file}{photos}" + (f": {reasons}" if reasons else "") + index


def _sides(report: CompareReport) -> tuple[tuple[str, Compared], ...]:
    return ("candidate", report.candidate), ("baseline" if report.baseline else "reference", report.reference)


def _side(pen: Pen, side: Compared, *, verbose: bool) -> Text:
    model = side.evidence.model
    return pen.facts(
        [
            pen.name(model.file, "bold"),
            pen.name(model.source if verbose else ""),
            pen.say(side.evidence.execution.precision),
            pen.say(f"by itself {side.verdict.verdict}", COLOURS[side.verdict.verdict]),
        ]
    )


@dataclass(frozen=True)
class _Fitting:
    """A renderable in a wide and a narrow form. The wide one is used where there is room for it."""

    wide: RenderableType
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        fits = Measurement.get(console, options.update(max_width=1000), self.wide).maximum <= options.max_width
        yield self.wide if fits else self.narrow


def _statistics(pen: Pen, report: CompareReport, changes: Sequence[StatisticChange]) -> RenderableType:
    table = columns(pen, "statistic", ">candidate", ">reference", "ratio", "=kept?")
    for row in map(statistic_row, changes):
        table.add_row(
            pen.say(row.name),
            pen.say(row.candidate, "bold"),
            pen.say(row.reference),
            pen.say(row.bounds),
            pen.say(f"{row.sign} {row.word}".strip(), _COLOURS[row.colour]),
        )
    least = 100 * (1 - report.tolerance)
    remark = (
        f"{report.n_images} images, {'paired' if report.paired else 'not paired'}; "
        f"{least:g} % must be kept, {100 * (1 - report.alpha):g} % confidence together"
    )
    return section(pen, "Statistics", remark, *([table] if changes else []))


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
    row = feature_row(each)
    r = "" if each.correlation is None or each.to is None else f" (r = {each.correlation:+.2f})"
    first, *others = row[:6]
    return (
        pen.say(first, "bold"),
        *map(pen.say, others),
        pen.say(f"{row.sign} {row.word}{r}", _COLOURS[row.colour]),
    )


def _whole(pen: Pen, report: CompareReport) -> RenderableType:
    similarity, classes = report.similarity, report.agreement
    if similarity is None:
        none = pen.say("not compared: the baseline's images, or their order, are not the candidate's", "dim")
        return section(pen, "As a whole", "", none)
    rows = [
        ("alike ", similarity.text),
        ("linear CKA ", f"{number_text(similarity.cka)} before it is debiased"),
        (
            "cosines between images ",
            f"changed by {number_text(similarity.cosine_change)} (root mean square; a rotation changes none)",
        ),
    ]
    if classes is not None:
        bounds = f"{100 * classes.low:.1f} to {100 * classes.high:.1f} %, Wilson {100 * classes.confidence:g} %"
        by_chance = f"{100 * classes.chance:.1f} % by chance"
        rows.append(
            ("same top-1 class ", f"{percent_text(classes.value)} of {classes.n} images ({bounds}; {by_chance})")
        )
    remark = f"PASS needs a debiased CKA of {KEPT_CKA:g}, and classes that agree more than by chance"
    return section(pen, "As a whole", remark, labelled(pen, rows))
