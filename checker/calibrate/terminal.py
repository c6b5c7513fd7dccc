"""What `calibrate` shows: the plan, the summary, why models failed (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.report import Pen, Trimmed, columns, hanging, labelled, line, section, spaced
from robustcheck_onnx.thresholds.profile import Profile

from .plan import Plan, Planned
from .profiles import checkpoint_counts, error_rates, tensors_section, thresholds_section, warnings_of

GB = 1e9
HOUR_S = 3600


def render_plan(plan: Plan, *, ascii_only: bool = False) -> RenderableType:
    """Show what a calibration will do, model by model, and in all."""
    pen = Pen(ascii_only)
    timed = any(row.estimate_s is not None for row in plan.rows)  # else a column of question marks
    table = columns(pen, "model", "=label", "=state", ">download", ">disk", ">passes", *([">time"] if timed else []))
    table.padding = (0, 1, 0, 0)
    for row in plan.rows:
        table.add_row(
            pen.name(row.id),
            pen.say("–" if row.label == "unlabelled" else row.label),
            pen.say(row.state, "yellow" if row.state == "can't" else ""),
            pen.say(_bytes(row.download_bytes)),
            pen.say(_bytes(row.disk_bytes)),
            pen.say(str(row.passes or "–")),
            *([pen.say(_duration(row.estimate_s) if row.passes else "–")] if timed else []),
        )
    faults = [(pen.say("✗", "yellow"), line(pen.name(r.id), pen.say(f": {r.fault}"))) for r in plan.rows if r.fault]
    blocks: list[RenderableType] = [
        section(pen, "Plan", f"{len(plan.rows)} models × {plan.n_images} images, {plan.device}", table),
        section(pen, "In all", "nothing was downloaded, exported or measured", _in_all(plan, pen)),
    ]
    if faults:
        blocks.append(section(pen, "Not known, or not possible", "", hanging(faults)))
    return Trimmed(spaced(blocks))


def _in_all(plan: Plan, pen: Pen) -> RenderableType:
    rows = plan.rows
    states = ", ".join(f"{n} {state}" for state, n in _counts([row.state for row in rows]))
    labels = ", ".join(f"{n} {label}" for label, n in _counts([row.label for row in rows]))
    to_do = [row for row in rows if row.passes]
    facts = [
        ("models", f"{states}; {labels}"),
        ("downloads", _total(to_do, "download_bytes", "at 4 bytes a parameter, half of it for float16 checkpoints")),
        ("disk", f"{_total(to_do, 'disk_bytes', '')}; {plan.free_bytes / GB:.1f} GB are free for {plan.cache}"),
        ("passes", f"{sum(row.passes for row in rows):,} forward passes".replace(",", " ")),
        ("time", f"{_total(to_do, 'estimate_s', '')}; {plan.how_estimated}"),
        ("images", plan.images_digest),
    ]
    return labelled(pen, facts)


def _total(rows: Sequence[Planned], field: str, remark: str) -> str:
    values = [getattr(row, field) for row in rows]
    known = [value for value in values if value is not None]
    show = _duration if field == "estimate_s" else _bytes
    unknown = len(values) - len(known)
    text = show(sum(known)) if known or not values else "not known"
    if unknown and known:
        text += f" and {unknown} models for which it is not known"
    return text + (f" ({remark})" if remark else "")


def _counts(words: Sequence[str]) -> list[tuple[str, int]]:
    return [(word, words.count(word)) for word in dict.fromkeys(words)]


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


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain JSON values."""
    rows = [row.__dict__ | {} for row in plan.rows]
    return {"schema_version": 1, "tool": "robustcheck"} | plan.__dict__ | {"cache": str(plan.cache), "rows": rows}


def render_summary(profile: Profile, *, ascii_only: bool = False) -> RenderableType:
    """Show the short form after a calibration: thresholds and error rates."""
    pen = Pen(ascii_only)
    blocks: list[RenderableType] = [
        Group(*warnings_of(profile, pen), thresholds_section(profile, pen)),
        section(pen, "How often it is wrong", checkpoint_counts(profile.calibration), error_rates(profile, pen)),
    ]
    if profile.calibration.tensors:
        blocks.append(tensors_section(profile, pen))
    return Trimmed(spaced(blocks))


def causes(failed: Mapping[str, RobustcheckError]) -> list[str]:
    """A text for each cause, with the models that it failed: one missing package can fail every model of a suite."""
    names: dict[str, list[str]] = {}
    for name, fault in failed.items():
        names.setdefault(_cause(fault), []).append(name)
    return [
        f"{', '.join(of[:3])}{f' and {len(of) - 3} more' if len(of) > 3 else ''}: {cause}"
        for cause, of in names.items()
    ]


def _cause(fault: RobustcheckError) -> str:
    return f"{fault.message} ({fault.hint})" if fault.hint else fault.message
