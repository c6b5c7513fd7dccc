"""Show threshold profiles in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ....thresholds import profile as profiles
from ....thresholds.profile import Calibration, Profile, Trained
from ....thresholds.statistics import DEFINITIONS
from ...core.verdict.kinds import NAMES
from ...errors import RobustcheckError
from ...report.document import Cell, Column, TableRow, Words, name
from ...report.terminal import INDENT, Pen, Trimmed, hanging, labelled, section, spaced, table_of
from ...text import count_text, first_of, number_text, page, percent_text, short_digest

Rows = list[tuple[str, str]]
"""label and text of each line"""
MAX_NAMES = 6  # sets named in one line
_BOUNDS = {
    "looks": "each lower bound by itself, at the looks of a run",
    "each": "each lower bound by itself",
}


def render_profile(profile: Profile, *, ascii_only: bool = False, where: str = "") -> RenderableType:
    """Render a profile: what it rests on, how often it is wrong, what it holds for, its limits."""
    pen = Pen(ascii_only)
    fit = profile.calibration
    title = pen.facts([pen.name(profile.id, "bold"), pen.name(profile.digest, "dim"), pen.name(where)])
    warnings = [Padding(text, (0, 0, 0, INDENT)) for text in warnings_of(profile, pen)]
    rests_on = labelled(pen, _rests_on(fit))
    blocks = [
        Group(title, *warnings),
        section(pen, "Rests on", _checkpoints(fit), rests_on),
        *_findings(profile, pen, "each checkpoint left out in turn"),
    ]
    if fit.by_training:
        rows = [(one.training.replace("_", "-"), _passing(one)) for one in fit.by_training]
        remark = "the label that the sources give"
        blocks.append(section(pen, "Compared with the kind of training", remark, labelled(pen, rows)))
    if fit.nearest:
        rows = [(f"× {one.factor:.2f}", f"{one.set}, by {NAMES[one.statistic]}") for one in fit.nearest]
        remark = f"factor below the lowest passing set; {fit.n_traps} traps included"
        blocks.append(section(pen, "Nearest without the outlier features", remark, labelled(pen, rows)))
    blocks += _tensors(profile, pen)
    blocks.append(section(pen, "Holds for", "anything else is WARN", labelled(pen, _holds_for(profile))))
    limits = [(pen.say("•"), pen.prose(text)) for text in profile.limits]
    blocks.append(section(pen, "Limits", "", hanging(limits)))
    return Trimmed(spaced(blocks))


def _rests_on(fit: Calibration) -> Rows:
    by_reason: dict[str, list[str]] = {}
    for checkpoint, why in fit.excluded:
        by_reason.setdefault(why, []).append(checkpoint)
    suite = ""
    if fit.suite:
        suite = f"{fit.suite} {short_digest(fit.suite_digest)}"
    left_out = [f"{why} ({_names(names)})" for why, names in by_reason.items()]
    return [
        ("few", fit.few),
        ("labels", fit.labels),
        ("suite", suite),
        ("table", f"{fit.table}, {fit.table_digest}"),
        ("images", fit.images),
        ("measured", fit.date),
        ("spread", fit.spread),
        ("rule", fit.rule),
        ("command", fit.command),
        ("left out", "; ".join(left_out)),
        ("missing", "; ".join(_pairs(fit.missing))),
    ]


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Write pairs of a name and a text."""
    return [f"{name}: {text}" for name, text in pairs]


def _passing(one: Trained) -> str:
    passing = f"{one.n_passing} of {count_text(one.n, 'set')} pass"
    if one.otherwise:
        return f"{passing}; otherwise {_names(one.otherwise)}"
    return passing


def _holds_for(profile: Profile) -> Rows:
    return [
        ("tensor", f"{profile.tensor}: {', '.join(profile.tensor_rules)}; pooled by {', '.join(profile.pools)}"),
        ("that ends in", ", ".join(map(str, profile.ends))),
        ("width", f"{profile.min_features} to {profile.max_features} features"),
        ("images", f"at least {profile.min_images} varied ones"),
        ("bounds", f"{100 * (1 - profile.alpha):g} % confidence for {_BOUNDS[profile.bounds]}"),
        ("preprocessing", profile.preprocessing),
        ("statistics", f"version {profile.statistic_version} ({page('statistics')})"),
    ]


def warnings_of(profile: Profile, pen: Pen) -> list[Text]:
    """Return the warnings about a profile that is not complete, or looser than the default, one per line."""
    warnings = []
    if missing := profile.calibration.missing:
        warnings.append(f"not complete: {len(missing)} models of its suite were not measured")
    if looser := profiles.looser_than(profile, profiles.load()):
        warnings.append(f"looser than the default profile: {'; '.join(looser)}")
    return [pen.say(f"! {text}", "yellow") for text in warnings]


def _checkpoints(c: Calibration) -> str:
    """Count the checkpoints and sets behind a profile."""
    return (
        f"{count_text(c.n_checkpoints, 'checkpoint')}: {c.n_with_checkpoints} with, {c.n_without_checkpoints} "
        f"without ({count_text(c.n_sets, 'set')})"
    )


def _findings(profile: Profile, pen: Pen, remark: str) -> list[RenderableType]:
    """Render the thresholds, each with its gap, and the rates of errors, with the checkpoints left out in turn."""
    rows = []
    for statistic in profile.deciding:
        if gap := profile.thresholds[statistic]:
            threshold = Cell(f"> {gap.minimum:g}", "bold")
            highest_without = f"≤ {number_text(gap.highest_without)}"
            lowest_with = f"≥ {number_text(gap.lowest_with)}"
            rows.append((NAMES[statistic], threshold, highest_without, lowest_with))
    table = table_of(
        pen,
        (
            Column("statistic"),
            Column("threshold", no_wrap=True),
            Column("without", no_wrap=True),
            Column("with", no_wrap=True),
        ),
        rows,
    )
    definitions = [(f"{NAMES[name]}:", DEFINITIONS[name]) for name in profile.deciding]
    meanings = labelled(pen, definitions)
    rates = labelled(pen, _error_rates(profile.calibration))
    legend = "without, with: the gap that a threshold lies in, of the sets that its statistic turns away best."
    return [
        section(pen, "Thresholds", "", table, pen.say(legend, "dim"), Text(), meanings),
        section(pen, "How often it is wrong", remark, rates),
    ]


def _error_rates(fit: Calibration) -> Rows:
    passing = [f"{one.of}: {one.n_wrong} of {one.n}, at most {percent_text(one.upper)}" for one in fit.shown_rates]
    rates = _under("PASS of", passing)
    if not rates:
        false_pass = _rate(fit.left_out_false_pass, fit.n_without_checkpoints, fit.false_pass_upper)
        rates.append(("false PASS", false_pass))
    false_warn = _rate(fit.left_out_false_warn, fit.n_with_checkpoints, fit.false_warn_upper)
    rates.append(("false WARN", false_warn))
    if fit.not_left_out:
        text = f"without {_names(fit.not_left_out)} there is no fit; not counted in the rates"
        rates.append(("not left out", text))
    if fit.missed:
        rates.append(("missed", f"{_names(fit.missed)}: with the label, but without a pass"))
    rates.append(("hard cases", "; ".join(_pairs(fit.hard_cases))))
    if fit.unlabelled_passing:
        rates.append(("unlabelled", f"{_names(fit.unlabelled_passing)} would pass"))
    return rates + _under("family out", _pairs(fit.family_out))


def _under(label: str, texts: Sequence[str]) -> Rows:
    """Return rows of which the first alone has the label."""
    labels = chain([label], repeat(""))
    return list(zip(labels, texts, strict=False))


def _rate(wrong: Sequence[str], n: int, upper: float) -> str:
    named = f" ({_names(wrong)})" if wrong else ""
    return (
        f"{count_text(len(wrong), 'set')} of {count_text(n, 'checkpoint')}{named}; at most "
        f"{percent_text(upper)} with 95 % confidence (Clopper–Pearson)"
    )


def _tensors(profile: Profile, pen: Pen) -> list[RenderableType]:
    """Render the compared tensors, the chosen one in bold, or nothing where none were compared."""
    tensors = profile.calibration.tensors
    if not tensors:
        return []
    rows: list[TableRow] = []
    for one in tensors:
        shown: Words = one.tensor
        if one.tensor == profile.tensor:
            shown = Cell(f"{one.tensor} (chosen)", "bold")
        passing = f"{one.n_passing} of {one.n_with}"
        false_pass = f"{one.left_out_false_pass} of {one.n_without}"
        false_warn = f"{one.left_out_false_warn} of {one.n_with}"
        gap = "–" if one.gap is None else f"× {one.gap:.2f}"
        rows.append((shown, passing, false_pass, false_warn, gap))
    table = table_of(
        pen,
        (
            Column("tensor"),
            Column("pass", right=True),
            Column("false PASS", right=True),
            Column("false WARN", right=True),
            Column("gap", right=True),
        ),
        rows,
    )
    faults = [pen.say(f"{one.tensor}: {one.fault}", "dim") for one in tensors if one.fault]
    legend = "false PASS, false WARN: each checkpoint left out in turn. gap: of the nearest set without."
    return [section(pen, "Tensors compared", "", table, *faults, pen.say(legend, "dim"))]


def _names(names: Sequence[str]) -> str:
    return first_of(names, MAX_NAMES)


def render_list(named: Sequence[tuple[str, Profile]], *, ascii_only: bool = False) -> RenderableType:
    """Show profiles in a table. named: (name or file, profile)."""
    pen = Pen(ascii_only)
    rows: list[TableRow] = []
    for file, profile in named:
        fit = profile.calibration
        n_with = str(fit.n_with_checkpoints)
        n_without = str(fit.n_without_checkpoints)
        false_pass = f"≤ {percent_text(fit.false_pass_upper)}"
        digest = name(short_digest(profile.digest))
        rows.append((name(file, "bold"), name(profile.id), n_with, n_without, false_pass, digest))
    table = table_of(
        pen,
        (
            Column("profile"),
            Column("id", no_wrap=True),
            Column("with", right=True),
            Column("without", right=True),
            Column("false PASS", right=True),
            Column("digest", no_wrap=True),
        ),
        rows,
    )
    blocks: list[RenderableType] = [table]
    remarks = [(pen.name(file), text) for file, profile in named for text in warnings_of(profile, pen)]
    if remarks:
        blocks += [Text(), hanging(remarks)]
    legend = "with, without: checkpoints it was fitted to. false PASS: 95 % bound, each checkpoint left out in turn."
    blocks += [Text(), pen.say(legend, "dim")]
    return Trimmed(section(pen, "Profiles", "", *blocks))


def render_summary(profile: Profile, *, ascii_only: bool = False) -> RenderableType:
    """Render the short form: thresholds and error rates."""
    pen = Pen(ascii_only)
    thresholds, rates = _findings(profile, pen, _checkpoints(profile.calibration))
    first = Group(*warnings_of(profile, pen), thresholds)
    return Trimmed(spaced([first, rates, *_tensors(profile, pen)]))


def causes(failed: Mapping[str, RobustcheckError]) -> list[str]:
    """Return one text per cause, with its failed models: one missing package can fail every model of a suite."""
    names: dict[str, list[str]] = {}
    for model, fault in failed.items():
        cause = fault.message
        if fault.hint:
            cause += f" ({fault.hint})"
        names.setdefault(cause, []).append(model)
    return [f"{first_of(of, 3)}: {cause}" for cause, of in names.items()]
