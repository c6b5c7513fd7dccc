"""Show profiles: a list, one, or a summary."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.report.document import Cell, name
from robustcheck_onnx.checker.report.layout import INDENT, Pen, Trimmed, hanging, labelled, section, spaced, table_of
from robustcheck_onnx.checker.text import count_text, number_text, page, percent_text, short_digest
from robustcheck_onnx.checker.verdict.reasons import NAMES
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.profile import DEFINITIONS, Calibration, Profile

MAX_NAMES = 6  # sets named in one line
_BOUNDS = {
    "looks": "each lower bound by itself, at the looks of a run",
    "each": "each lower bound by itself",
    "together": "all bounds together",
}


def render_profile(profile: Profile, *, ascii_only: bool = False, where: str = "") -> RenderableType:
    """Render a profile as a page.

    It has what the profile rests on, how often it is wrong, what it holds for, its limits.
    """
    pen, c = Pen(ascii_only), profile.calibration
    title = pen.facts([pen.name(profile.id, "bold"), pen.name(profile.digest, "dim"), pen.name(where)])
    excluded = dict.fromkeys(why for _, why in c.excluded)
    rests_on = [
        ("few", c.few),
        ("labels", c.labels),
        ("suite", f"{c.suite} {short_digest(c.suite_digest)}" if c.suite else ""),
        ("table", f"{c.table}, {c.table_digest}"),
        ("images", c.images),
        ("measured", c.date),
        ("spread", c.spread),
        ("rule", c.rule),
        ("command", c.command),
        (
            "left out",
            "; ".join(f"{why} ({_names([name for name, of in c.excluded if of == why])})" for why in excluded),
        ),
        ("missing", "; ".join(f"{name}: {why}" for name, why in c.missing)),
    ]
    holds_for = [
        ("tensor", f"{profile.tensor}: {', '.join(profile.tensor_rules)}; pooled by {', '.join(profile.pools)}"),
        ("that ends in", ", ".join(map(str, profile.ends))),
        ("width", f"{profile.min_features} to {profile.max_features} features"),
        ("images", f"at least {profile.min_images} varied ones"),
        ("bounds", f"{100 * (1 - profile.alpha):g} % confidence for {_BOUNDS[profile.bounds]}"),
        ("preprocessing", profile.preprocessing),
        ("statistics", f"version {profile.statistic_version} ({page('statistics')})"),
    ]
    by_training = [
        (
            one.training.replace("_", "-"),
            f"{one.n_passing} of {count_text(one.n, 'set')} pass"
            + (f"; otherwise {_names(one.otherwise)}" if one.otherwise else ""),
        )
        for one in c.by_training
    ]
    nearest = [(f"× {one.factor:.2f}", f"{one.set}, by {NAMES[one.statistic]}") for one in c.nearest]
    remark = f"factor below the lowest passing set; {c.n_traps} traps included"
    kinds = ("Compared with the kind of training", "the label that the sources give", by_training)
    near = ("Nearest without the outlier features", remark, nearest)
    return Trimmed(
        spaced(
            [
                Group(title, *(Padding(text, (0, 0, 0, INDENT)) for text in warnings_of(profile, pen))),
                section(pen, "Rests on", _checkpoints(c), labelled(pen, rests_on)),
                *_findings(profile, pen, "each checkpoint left out in turn"),
                *(section(pen, head, remark, labelled(pen, rows)) for head, remark, rows in (kinds, near) if rows),
                *_tensors(profile, pen),
                section(pen, "Holds for", "anything else is WARN", labelled(pen, holds_for)),
                section(pen, "Limits", "", hanging([(pen.say("•"), pen.prose(text)) for text in profile.limits])),
            ]
        )
    )


def warnings_of(profile: Profile, pen: Pen) -> list[Text]:
    """Return the warnings about a profile, one per line.

    It was changed by hand, is not complete, or is looser than the default.
    """
    missing = len(profile.calibration.missing)
    warnings = {
        "no longer the default": profiles.WHY_LEFT.get(profile.id),
        "changed by hand": profile.edited,
        "not complete": f"{missing} models of its suite were not measured" if missing else "",
        "looser than the default profile": "; ".join(profiles.looser_than(profile, profiles.load())),
    }
    return [pen.say(f"! {what}: {text}", "yellow") for what, text in warnings.items() if text]


def _checkpoints(c: Calibration) -> str:
    """Count the checkpoints and sets behind a profile."""
    return (
        f"{count_text(c.n_checkpoints, 'checkpoint')}: {c.n_with_checkpoints} with, {c.n_without_checkpoints} "
        f"without ({count_text(c.n_sets, 'set')})"
    )


def _findings(profile: Profile, pen: Pen, remark: str) -> list[RenderableType]:
    """Render the thresholds and the rates of errors. Each has its gap; the fit left the checkpoints out in turn."""
    rows = [
        (
            *(NAMES[each], Cell(str(profile.limits_of(each)), "bold")),
            *(f"≤ {number_text(gap.highest_without)}", f"≥ {number_text(gap.lowest_with)}"),
        )
        for each in profile.deciding
        if (gap := profile.thresholds[each])
    ]
    table = table_of(pen, ("statistic", "=threshold", "=without", "=with"), rows)
    meanings = labelled(pen, [(f"{NAMES[name]}:", DEFINITIONS[name]) for name in profile.deciding])
    legend = "without, with: the gap that a threshold lies in, of the sets that its statistic turns away best."
    c = profile.calibration
    rates = [
        (
            "false PASS",
            "" if c.rates else _rate(c.left_out_false_pass, c.n_without_checkpoints, c.false_pass_upper),
        ),
        *(
            ("PASS of" if i == 0 else "", f"{one.of}: {one.n_wrong} of {one.n}, at most {percent_text(one.upper)}")
            for i, one in enumerate(c.rates)
        ),
        ("false WARN", _rate(c.left_out_false_warn, c.n_with_checkpoints, c.false_warn_upper)),
        (
            "not left out",
            f"without {_names(c.not_left_out)} there is no fit; not counted in the rates" if c.not_left_out else "",
        ),
        ("missed", f"{_names(c.missed)}: with the label, but without a pass" if c.missed else ""),
        ("hard cases", "; ".join(f"{name}: {what}" for name, what in c.hard_cases)),
        ("unlabelled", f"{_names(c.unlabelled_passing)} would pass" if c.unlabelled_passing else ""),
        *(("family out" if i == 0 else "", f"{group}: {what}") for i, (group, what) in enumerate(c.family_out)),
    ]
    return [
        section(pen, "Thresholds", "", table, pen.say(legend, "dim"), Text(), meanings),
        section(pen, "How often it is wrong", remark, labelled(pen, rates)),
    ]


def _rate(wrong: Sequence[str], n: int, upper: float) -> str:
    named = f" ({_names(wrong)})" if wrong else ""
    return (
        f"{count_text(len(wrong), 'set')} of {count_text(n, 'checkpoint')}{named}; at most "
        f"{percent_text(upper)} with 95 % confidence (Clopper–Pearson)"
    )


def _tensors(profile: Profile, pen: Pen) -> list[RenderableType]:
    """Render the compared tensors, the chosen one in bold. There is nothing where none were compared."""
    if not profile.calibration.tensors:
        return []
    rows = [
        (
            Cell(f"{one.tensor} (chosen)", "bold") if one.tensor == profile.tensor else one.tensor,
            *(f"{one.n_passing} of {one.n_with}", f"{one.left_out_false_pass} of {one.n_without}"),
            *(f"{one.left_out_false_warn} of {one.n_with}", "–" if one.gap is None else f"× {one.gap:.2f}"),
        )
        for one in profile.calibration.tensors
    ]
    table = table_of(pen, ("tensor", ">pass", ">false PASS", ">false WARN", ">gap"), rows)
    faults = [pen.say(f"{one.tensor}: {one.fault}", "dim") for one in profile.calibration.tensors if one.fault]
    legend = "false PASS, false WARN: each checkpoint left out in turn. gap: of the nearest set without."
    return [section(pen, "Tensors compared", "", table, *faults, pen.say(legend, "dim"))]


def _names(names: Sequence[str], most: int = MAX_NAMES) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def render_list(named: Sequence[tuple[str, Profile]], *, ascii_only: bool = False) -> RenderableType:
    """Show profiles in a table. named: (name or file, profile)."""
    pen = Pen(ascii_only)
    rows = [
        (
            *(name(file, "bold"), name(each.id)),
            *(str(each.calibration.n_with_checkpoints), str(each.calibration.n_without_checkpoints)),
            *(f"≤ {percent_text(each.calibration.false_pass_upper)}", name(short_digest(each.digest))),
        )
        for file, each in named
    ]
    table = table_of(pen, ("profile", "=id", ">with", ">without", ">false PASS", "=digest"), rows)
    remarks = [(pen.name(file), text) for file, each in named for text in warnings_of(each, pen)]
    legend = "with, without: checkpoints it was fitted to. false PASS: 95 % bound, each checkpoint left out in turn."
    more: list[RenderableType] = [Text(), hanging(remarks)] if remarks else []
    return Trimmed(section(pen, "Profiles", "", table, *more, Text(), pen.say(legend, "dim")))


def render_summary(profile: Profile, *, ascii_only: bool = False) -> RenderableType:
    """Render the short form: thresholds and error rates."""
    pen = Pen(ascii_only)
    thresholds, rates = _findings(profile, pen, _checkpoints(profile.calibration))
    first = Group(*warnings_of(profile, pen), thresholds)
    return Trimmed(spaced([first, rates, *_tensors(profile, pen)]))


def causes(failed: Mapping[str, RobustcheckError]) -> list[str]:
    """Return one text per cause, with its failed models. One missing package can fail every model of a suite."""
    names: dict[str, list[str]] = {}
    for model, fault in failed.items():
        cause = f"{fault.message} ({fault.hint})" if fault.hint else fault.message
        names.setdefault(cause, []).append(model)
    return [f"{_names(of, 3)}: {cause}" for cause, of in names.items()]
