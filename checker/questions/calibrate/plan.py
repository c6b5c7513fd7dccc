"""Plan a calibration: what will be downloaded, exported and measured, and how long it takes."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from ....thresholds.results import Result
from ...errors import EnvironmentFaultError, UsageError, install_hint
from ...report.document import Cell, Column, Words, name
from ...report.terminal import Pen, Trimmed, hanging, labelled, line, section, spaced, table_of
from ...text import Fields, count_text, frozen
from .table import done
from .task import CalibrationSettings, Task

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
class CalibrationPlan:
    """What a calibration will do."""

    n_images: int
    images_digest: str
    cache: Path
    free_bytes: int
    device: str
    rows: tuple[Planned, ...]
    how_estimated: str


def plan(
    work: Sequence[Task], rows: Sequence[Result], settings: CalibrationSettings, n_images: int, digest: str
) -> CalibrationPlan:
    """Plan a calibration; nothing is downloaded, exported or measured.

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
    asked = [sizes[model] for model in to_measure if model in sizes]
    if missing := [size["missing"] for size in asked if size.get("missing")]:
        raise EnvironmentFaultError(  # once for all models
            f"{len(missing)} of {count_text(len(to_measure), 'model')} can't be planned: how large they are is known "
            f"only with {', '.join(sorted(set(missing)))} installed",
            install_hint("export"),
        )
    device = device_name(settings.options.device)
    rate, how = _speed(rows, device)
    planned = []
    for task in work:
        size = sizes.get(task.member.id, {})
        n_passes = n_images if task.member.id in to_measure else 0
        planned.append(_planned(task, size, n_passes, rate))
    folders = (settings.cache, *settings.cache.parents)
    there = next(filter(Path.is_dir, folders))
    free_bytes = shutil.disk_usage(there).free
    return CalibrationPlan(n_images, digest, settings.cache, free_bytes, device, tuple(planned), how)


def _planned(task: Task, size: Fields, n_passes: int, rate: float | None) -> Planned:
    """Plan one model.

    Args:
        task: of the model.
        size: its numbers of parameters, as the exporters count them, or why they are not known.
        n_passes: images to run through it; 0 where it was measured before.
        rate: seconds per image and byte of model.
    """
    entry = task.member.entry
    fault = task.fault.message if task.fault else size.get("unknown", "")
    download_bytes: int | None = 0
    disk_bytes: int | None = 0
    model_bytes = _float32_bytes(size.get("vision_parameters"))
    if fault:
        state = "can't"
        n_passes = 0
    elif n_passes == 0:
        state = "measured"
    elif not task.is_exported:
        state = "to export"
        disk_bytes = model_bytes
        if not entry.random_weights and entry.source != "torch":
            download_bytes = _float32_bytes(size.get("parameters"))
    else:
        state = "ready file" if task.export is None else "exported"
        files = (Path(f"{task.model}{end}") for end in ("", ".data"))
        model_bytes = sum(file.stat().st_size for file in files if file.is_file())
    estimate_s = None
    if rate and model_bytes and n_passes:
        estimate_s = rate * model_bytes * n_passes
    return Planned(
        id=task.member.id,
        group=entry.group,
        label=task.member.label,
        state=state,
        download_bytes=download_bytes,
        disk_bytes=disk_bytes,
        passes=n_passes,
        estimate_s=estimate_s,
        fault=fault or size.get("fault", ""),
    )


def _float32_bytes(n_parameters: int | None) -> int | None:
    if n_parameters is None:
        return None
    return n_parameters * BYTES_A_PARAMETER


def device_name(device: str) -> str:
    """Return the name of the selected device as evidence has it; for auto, that of the GPU if there is one."""
    from ...core.runtime.devices import cpu_name, list_gpus, parse_device  # noqa: PLC0415

    if parse_device(device).is_gpu and (gpus := list_gpus()):
        return gpus[0].name
    return cpu_name()


def _speed(rows: Sequence[Result], device: str) -> tuple[float | None, str]:
    """Return seconds per image and byte of model, the median of the models measured on a device, with its origin."""
    by_id = {row.id: row for row in rows if row.execution.get("device") == device and row.wall_s > 0}
    rates = sorted(row.wall_s / row.n_images / row.size_bytes for row in by_id.values() if row.n_images)
    if not rates:
        return None, "no model was measured on this device yet: measure one and plan again"
    how = (
        f"from {len(rates)} models measured on this device in one process, by their size; their rates differ up to "
        f"{rates[-1] / rates[0]:.1f}-fold, and exporting is not included"
    )
    return statistics.median(rates), how


def _sizes(work: Sequence[Task]) -> dict[str, Fields]:
    """Return each model's size by id, as the exporters know it without loading (`sizes` in exporters/run.py)."""
    if not work:
        return {}
    asked = []
    for task in work:
        entry = task.member.entry
        export = task.export or {}
        tag = entry.weights
        if entry.random_weights or str(export["weights"]).startswith("sha256:"):
            tag = None
        asked.append([entry.source, entry.name, tag])
    with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:
        question = Path(folder, "asked.json")
        answer = Path(folder, "answers.json")
        question.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "robustcheck_onnx.exporters.run", str(question), str(answer)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own module
        if ended.returncode or not answer.is_file():
            lines = ended.stderr.strip().splitlines() or ["no word"]
            fault = f"sizes are not known: {lines[-1][:200]}"
            return {task.member.id: {"fault": fault} for task in work}
        answers = json.loads(answer.read_text(encoding="utf-8"))
    ids = [task.member.id for task in work]
    return dict(zip(ids, answers, strict=True))


def refuse_unknown(work: Sequence[Task]) -> None:
    """Raise UsageError, with the nearest names, for the first model or tag that its library does not have."""
    for member, size in _sizes([task for task in work if task.is_to_export]).items():
        if size.get("unknown"):
            message, _, hint = str(size["unknown"]).rpartition("; ")
            raise UsageError(f"suite entry {member}: {message}", hint)


def render_plan(plan: CalibrationPlan, *, ascii_only: bool = False) -> RenderableType:
    """Render what a calibration will do, model by model and in all."""
    pen = Pen(ascii_only)
    timed = any(row.estimate_s is not None for row in plan.rows)  # else a column of question marks
    rows: list[list[Words]] = []
    mark = pen.say("✗", "yellow")
    faults = []
    for row in plan.rows:
        label = "–" if row.label == "unlabelled" else row.label
        state = Cell(row.state, "warn" if row.state == "can't" else "")
        download = _bytes(row.download_bytes)
        disk = _bytes(row.disk_bytes)
        cells: list[Words] = [name(row.id), label, state, download, disk, str(row.passes or "–")]
        if timed:
            cells.append(_duration(row.estimate_s) if row.passes else "–")
        rows.append(cells)
        if row.fault:
            text = line(pen.name(row.id), pen.say(f": {row.fault}"))
            faults.append((mark, text))
    columns = [
        Column("model"),
        Column("label", no_wrap=True),
        Column("state", no_wrap=True),
        Column("download", right=True),
        Column("disk", right=True),
        Column("passes", right=True),
    ]
    if timed:
        columns.append(Column("time", right=True))
    table = table_of(pen, columns, rows)
    table.padding = (0, 1, 0, 0)
    to_do = [row for row in plan.rows if row.passes]
    states = _counted(row.state for row in plan.rows)
    labels = _counted(row.label for row in plan.rows)
    downloads = _total(_bytes, [row.download_bytes for row in to_do])
    disk = _total(_bytes, [row.disk_bytes for row in to_do])
    time = _total(_duration, [row.estimate_s for row in to_do])
    n_passes = sum(row.passes for row in plan.rows)
    passes = f"{n_passes:,}".replace(",", " ")
    in_all = [
        ("models", f"{states}; {labels}"),
        ("downloads", f"{downloads} (at 4 bytes a parameter, half of it for float16 checkpoints)"),
        ("disk", f"{disk}; {plan.free_bytes / GB:.1f} GB are free for {plan.cache}"),
        ("passes", f"{passes} forward passes"),
        ("time", f"{time}; {plan.how_estimated}"),
        ("images", plan.images_digest),
    ]
    blocks: list[RenderableType] = [
        section(pen, "Plan", f"{len(plan.rows)} models × {plan.n_images} images, {plan.device}", table),
        section(pen, "In all", "nothing was downloaded, exported or measured", labelled(pen, in_all)),
    ]
    if faults:
        blocks.append(section(pen, "Not known, or not possible", "", hanging(faults)))
    return Trimmed(spaced(blocks))


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{n} {word}" for word, n in Counter(words).items())


def _total(show: Callable[[Any], str], values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers and values:
        return "not known"
    text = show(sum(numbers))
    if n_unknown := len(values) - len(numbers):
        text += f" and {n_unknown} models for which it is not known"
    return text


def _bytes(n: int | None) -> str:
    if n is None:
        return "?"
    if n == 0:
        return "–"
    return f"{n / GB:.2f} GB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / HOUR_S:.1f} h"


def plan_json(plan: CalibrationPlan) -> Fields:
    """Return the plan as plain JSON values."""
    rows = [vars(row) for row in plan.rows]
    return {"schema_version": 1, "tool": "robustcheck", **vars(plan), "cache": str(plan.cache), "rows": rows}
