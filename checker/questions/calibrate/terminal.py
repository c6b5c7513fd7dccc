"""Plan a calibration; show plans and profiles in a terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ....thresholds import profile as profiles
from ....thresholds.profile import Calibration, Profile
from ....thresholds.statistics import DEFINITIONS
from ...core.verdict.reasons import NAMES
from ...errors import EnvironmentFaultError, RobustcheckError, UsageError, install_hint
from ...report.document import Cell, Words, name
from ...report.terminal import INDENT, Pen, Trimmed, hanging, labelled, line, section, spaced, table_of
from ...text import Fields, count_text, frozen, number_text, page, percent_text, short_digest

if TYPE_CHECKING:
    from ....thresholds.results import Result
    from .run import Settings, Task

BYTES_A_PARAMETER = 4  # float32
GB = 1e9
HOUR_S = 3600


@frozen
class Planned:
    """One line of the plan."""

    id: str
    group: str
    label: str
    state: str
    """measured, exported, ready file, to export, or can't"""
    download_bytes: int | None
    """size of the weights at 4 bytes a parameter; 0 where nothing is downloaded, None where not known"""
    disk_bytes: int | None
    """size of the ONNX file to write; 0 where it is there, None where not known"""
    passes: int
    """images to run through the model"""
    estimate_s: float | None
    fault: str
    """why the model can't be measured, or why its size is not known; else empty"""


@frozen
class Plan:
    """What a calibration will do."""

    n_images: int
    images_digest: str
    cache: Path
    free_bytes: int
    device: str
    rows: tuple[Planned, ...]
    how_estimated: str


def plan(work: Sequence[Task], rows: Sequence[Result], settings: Settings, n_images: int, digest: str) -> Plan:
    """Make the plan of a calibration. Nothing is downloaded, exported or measured.

    Exporters count the sizes in a process of their own; times are estimated from rows measured on this device.

    Args:
        work: the suite's tasks.
        rows: what was measured before.
        settings: what the calibration measures with.
        n_images, digest: of its image set.

    Raises EnvironmentFaultError where a library that knows models of the suite is not installed.
    """
    from .run import done  # noqa: PLC0415 # takes ONNX Runtime; to show a profile takes none

    sizes = _sizes([task for task in work if task.is_to_export])
    to_measure = [task.member.id for task in work if not done(task, rows)]
    if missing := [package for model in to_measure if (package := sizes.get(model, {}).get("missing"))]:
        raise EnvironmentFaultError(  # once for all models
            f"{len(missing)} of {count_text(len(to_measure), 'model')} can't be planned: how large they are is known "
            f"only with {', '.join(sorted(set(missing)))} installed",
            install_hint("export"),
        )
    device = device_name(settings.options.device)
    rate, how = _speed(rows, device)
    planned = []
    for task in work:
        member, size = task.member, sizes.get(task.member.id, {})
        fault = task.fault.message if task.fault else size.get("unknown", "")
        if fault:
            state = "can't"
        elif done(task, rows):
            state = "measured"
        elif not task.is_exported:
            state = "to export"
        else:
            state = "ready file" if task.export is None else "exported"
        to_export, to_do = state == "to export", state not in ("can't", "measured")
        vision, total = (
            None if (n := size.get(name)) is None else n * BYTES_A_PARAMETER
            for name in ("vision_parameters", "parameters")
        )
        files = [file for end in ("", ".data") if (file := Path(f"{task.model}{end}")).is_file()]
        model_bytes = sum(file.stat().st_size for file in files) if task.is_exported and not fault else vision
        downloads = to_export and not member.entry.random_weights and member.entry.source != "torch"
        planned.append(
            Planned(
                id=member.id,
                group=member.entry.group,
                label=member.label,
                state=state,
                download_bytes=total if downloads else 0,
                disk_bytes=vision if to_export else 0,
                passes=n_images if to_do else 0,
                estimate_s=rate * model_bytes * n_images if rate and model_bytes and to_do else None,
                fault=fault or size.get("fault", ""),
            )
        )
    there = next(folder for folder in (settings.cache, *settings.cache.parents) if folder.is_dir())
    return Plan(n_images, digest, settings.cache, shutil.disk_usage(there).free, device, tuple(planned), how)


def device_name(device: str) -> str:
    """Return the name of the selected device. It is as evidence has it; for auto the GPU, if there is one."""
    from ...core.runtime.devices import cpu_name, list_gpus, parse_device  # noqa: PLC0415

    gpus = list_gpus() if parse_device(device).is_gpu else ()
    return gpus[0].name if gpus else cpu_name()


def _speed(rows: Sequence[Result], device: str) -> tuple[float | None, str]:
    """Return seconds per image and byte of model.

    It is the median of the models measured on a device, with its origin.
    """
    by_id = {row.id: row for row in rows if row.execution.get("device") == device and row.wall_s > 0}
    rates = sorted(row.wall_s / row.n_images / row.size_bytes for row in by_id.values() if row.n_images)
    if not rates:
        return None, "no model was measured on this device yet: measure one and plan again"
    spread = rates[-1] / rates[0]
    return (rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2, (
        f"from {len(rates)} models measured on this device in one process, by their size; their rates differ up to "
        f"{spread:.1f}-fold, and exporting is not included"
    )


def _sizes(work: Sequence[Task]) -> dict[str, Fields]:
    """Return each model's size by id. The exporters know it without loading (`sizes` in exporters/run.py)."""
    if not work:
        return {}
    asked = []
    for entry, export in ((task.member.entry, task.export or {}) for task in work):
        is_tag = not (entry.random_weights or str(export["weights"]).startswith("sha256:"))
        asked.append([entry.source, entry.name, entry.weights if is_tag else None])
    with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answers.json"
        question.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "robustcheck_onnx.exporters.run", str(question), str(answer)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own module
        if ended.returncode or not answer.is_file():
            last_line = (ended.stderr.strip().splitlines() or ["no word"])[-1][:200]
            return {t.member.id: {"fault": f"sizes are not known: {last_line}"} for t in work}
        answers = json.loads(answer.read_text(encoding="utf-8"))
    return {t.member.id: size for t, size in zip(work, answers, strict=True)}


def refuse_unknown(work: Sequence[Task]) -> None:
    """Raise UsageError for the first unknown model or tag.

    Its library does not have it; the nearest names are given.
    """
    for member, size in _sizes([task for task in work if task.is_to_export]).items():
        if size.get("unknown"):
            message, _, hint = str(size["unknown"]).rpartition("; ")
            raise UsageError(f"suite entry {member}: {message}", hint)


def render_plan(plan: Plan, *, ascii_only: bool = False) -> RenderableType:
    """Render what a calibration will do. It is shown model by model, and in all."""
    pen, rows = Pen(ascii_only), plan.rows
    timed = any(row.estimate_s is not None for row in rows)  # else a column of question marks
    cells: list[tuple[Words, ...]] = [
        (
            *(name(row.id), "–" if row.label == "unlabelled" else row.label),
            Cell(row.state, "warn" if row.state == "can't" else ""),
            *(_bytes(row.download_bytes), _bytes(row.disk_bytes), str(row.passes or "–")),
            *([_duration(row.estimate_s) if row.passes else "–"] if timed else []),
        )
        for row in rows
    ]
    heads = ("model", "=label", "=state", ">download", ">disk", ">passes", *([">time"] if timed else []))
    table = table_of(pen, heads, cells)
    table.padding = (0, 1, 0, 0)
    to_do = [row for row in rows if row.passes]
    downloads, disk = (
        _total(_bytes, [getattr(row, field) for row in to_do]) for field in ("download_bytes", "disk_bytes")
    )
    states, labels = (
        ", ".join(f"{n} {word}" for word, n in Counter(words).items())
        for words in ([row.state for row in rows], [row.label for row in rows])
    )
    in_all = [
        ("models", f"{states}; {labels}"),
        ("downloads", f"{downloads} (at 4 bytes a parameter, half of it for float16 checkpoints)"),
        ("disk", f"{disk}; {plan.free_bytes / GB:.1f} GB are free for {plan.cache}"),
        ("passes", f"{sum(row.passes for row in rows):,} forward passes".replace(",", " ")),
        ("time", f"{_total(_duration, [row.estimate_s for row in to_do])}; {plan.how_estimated}"),
        ("images", plan.images_digest),
    ]
    faults = [(pen.say("✗", "yellow"), line(pen.name(r.id), pen.say(f": {r.fault}"))) for r in rows if r.fault]
    blocks: list[RenderableType] = [
        section(pen, "Plan", f"{len(rows)} models × {plan.n_images} images, {plan.device}", table),
        section(pen, "In all", "nothing was downloaded, exported or measured", labelled(pen, in_all)),
    ]
    if faults:
        blocks.append(section(pen, "Not known, or not possible", "", hanging(faults)))
    return Trimmed(spaced(blocks))


def _total(show: Callable[[Any], str], values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers and values:
        return "not known"
    unknown = len(values) - len(numbers)
    return show(sum(numbers)) + (f" and {unknown} models for which it is not known" if unknown else "")


def _bytes(n: int | None) -> str:
    if n is None:
        return "?"
    return "–" if n == 0 else f"{n / GB:.2f} GB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR_S else f"{seconds / HOUR_S:.1f} h"


def plan_json(plan: Plan) -> Fields:
    """Return the plan as plain JSON values."""
    rows = [row.__dict__ | {} for row in plan.rows]
    return {"schema_version": 1, "tool": "robustcheck"} | plan.__dict__ | {"cache": str(plan.cache), "rows": rows}


MAX_NAMES = 6  # sets named in one line
_BOUNDS = {
    "looks": "each lower bound by itself, at the looks of a run",
    "each": "each lower bound by itself",
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
    """Return the warnings about a profile that is not complete, or looser than the default, one per line."""
    missing = len(profile.calibration.missing)
    warnings = {
        "not complete": f"{missing} models of its suite were not measured" if missing else "",
        "looser than the default profile": "; ".join(profiles.looser_than(profile, profiles.load())),
    }
    return [pen.say(f"! {label}: {text}", "yellow") for label, text in warnings.items() if text]


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
            *(NAMES[statistic], Cell(f"> {gap.minimum:g}", "bold")),
            *(f"≤ {number_text(gap.highest_without)}", f"≥ {number_text(gap.lowest_with)}"),
        )
        for statistic in profile.deciding
        if (gap := profile.thresholds[statistic])
    ]
    table = table_of(pen, ("statistic", "=threshold", "=without", "=with"), rows)
    meanings = labelled(pen, [(f"{NAMES[name]}:", DEFINITIONS[name]) for name in profile.deciding])
    legend = "without, with: the gap that a threshold lies in, of the sets that its statistic turns away best."
    c = profile.calibration
    rates = [
        ("false PASS", "" if c.rates else _rate(c.left_out_false_pass, c.n_without_checkpoints, c.false_pass_upper)),
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
        ("hard cases", "; ".join(f"{name}: {text}" for name, text in c.hard_cases)),
        ("unlabelled", f"{_names(c.unlabelled_passing)} would pass" if c.unlabelled_passing else ""),
        *(("family out" if i == 0 else "", f"{group}: {text}") for i, (group, text) in enumerate(c.family_out)),
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
            *(name(file, "bold"), name(profile.id)),
            *(str(profile.calibration.n_with_checkpoints), str(profile.calibration.n_without_checkpoints)),
            *(f"≤ {percent_text(profile.calibration.false_pass_upper)}", name(short_digest(profile.digest))),
        )
        for file, profile in named
    ]
    table = table_of(pen, ("profile", "=id", ">with", ">without", ">false PASS", "=digest"), rows)
    remarks = [(pen.name(file), text) for file, profile in named for text in warnings_of(profile, pen)]
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
