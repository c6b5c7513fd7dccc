"""Plan a calibration. What is to do for each model, sizes and time are found, and shown."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError, install_hint
from robustcheck_onnx.checker.report.document import Cell, Words, name
from robustcheck_onnx.checker.report.layout import Pen, Trimmed, hanging, labelled, line, section, spaced, table_of
from robustcheck_onnx.checker.runtime.session import cpu_name, list_gpus, parse_device
from robustcheck_onnx.checker.text import count_text
from robustcheck_onnx.thresholds.tables import Result

from .run import Settings, Task, done

BYTES_A_PARAMETER = 4  # float32
GB = 1e9
HOUR_S = 3600


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
    sizes = _sizes([task for task in work if task.is_to_export])
    to_measure = [task.member.id for task in work if not done(task, rows)]
    if missing := [package for each in to_measure if (package := sizes.get(each, {}).get("missing"))]:
        raise EnvironmentFaultError(  # once for all models
            f"{len(missing)} of {count_text(len(to_measure), 'model')} can't be planned: how large they are is known "
            f"only with {', '.join(sorted(set(missing)))} installed",
            install_hint("export"),
        )
    device = device_name(settings.options.device)
    rate, how = _rate(rows, device)
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
    gpus = list_gpus() if parse_device(device).is_gpu else ()
    return gpus[0].name if gpus else cpu_name()


def _rate(rows: Sequence[Result], device: str) -> tuple[float | None, str]:
    """Return seconds per image and byte of model.

    It is the median of the models measured on a device, with its origin.
    """
    one_each = {row.id: row for row in rows if row.execution.get("device") == device and row.wall_s > 0}
    rates = sorted(row.wall_s / row.n_images / row.size_bytes for row in one_each.values() if row.n_images)
    if not rates:
        return None, "no model was measured on this device yet: measure one and plan again"
    spread = rates[-1] / rates[0]
    return float(np.median(rates)), (
        f"from {len(rates)} models measured on this device in one process, by their size; their rates differ up to "
        f"{spread:.1f}-fold, and exporting is not included"
    )


def _sizes(work: Sequence[Task]) -> dict[str, dict[str, Any]]:
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
    known = [value for value in values if value is not None]
    if not known and values:
        return "not known"
    unknown = len(values) - len(known)
    return show(sum(known)) + (f" and {unknown} models for which it is not known" if unknown else "")


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
