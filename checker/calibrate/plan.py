"""The plan of a calibration: what is to do for each model, the size of files, and an estimate of the time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError, install_hint
from robustcheck_onnx.checker.runtime import cpu_name, list_gpus, parse_device
from robustcheck_onnx.checker.text import count_text
from robustcheck_onnx.thresholds.results import Result

from .table import done
from .tasks import Settings, Task

BYTES_A_PARAMETER = 4  # float32


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
    """Make the plan of a calibration; nothing is downloaded, exported or measured.

    Exporters count the sizes in a process of their own; times are estimated from rows measured on this device.

    Args:
        work: the suite's tasks.
        rows: what was measured before.
        settings: what the calibration measures with.
        n_images, digest: of its image set.

    Raises EnvironmentFaultError where a library that knows models of the suite is not installed.
    """
    sizes = _sizes([t for t in work if t.export is not None and not t.fault and not t.is_exported])
    _refuse_missing([task for task in work if not done(task, rows)], sizes)
    device = device_name(settings.options.device)
    rate, how = _rate(rows, device)
    planned = []
    for task in work:
        member, size = task.member, sizes.get(task.member.id, {})
        vision = size.get("vision_parameters")
        fault = task.fault.message if task.fault else size.get("unknown", "")
        measured, exported = bool(done(task, rows)), task.is_exported
        state = "to export"
        if fault:
            state = "can't"
        elif measured:
            state = "measured"
        elif exported:
            state = "exported" if task.export is not None else "ready file"
        model_bytes = _bytes_on_disk(task.model) if exported and not fault else (vision or 0) * BYTES_A_PARAMETER
        to_do = state in ("to export", "exported", "ready file")
        known = model_bytes > 0 and rate is not None
        downloads = state == "to export" and not member.entry.random_weights and task.member.entry.source != "torch"
        total = size.get("parameters")
        planned.append(
            Planned(
                id=member.id,
                group=member.entry.group,
                label=member.label,
                state=state,
                download_bytes=(None if total is None else total * BYTES_A_PARAMETER) if downloads else 0,
                disk_bytes=(None if vision is None else vision * BYTES_A_PARAMETER) if state == "to export" else 0,
                passes=n_images if to_do else 0,
                estimate_s=rate * model_bytes * n_images if rate is not None and known and to_do else None,
                fault=fault or size.get("fault", ""),
            )
        )
    return Plan(n_images, digest, settings.cache, _free_bytes(settings.cache), device, tuple(planned), how)


def _refuse_missing(to_do: Sequence[Task], sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise EnvironmentFaultError once for all models whose library is not installed."""
    missing = [package for task in to_do if (package := sizes.get(task.member.id, {}).get("missing"))]
    if missing:
        packages = ", ".join(sorted(set(missing)))
        raise EnvironmentFaultError(
            f"{len(missing)} of {count_text(len(to_do), 'model')} can't be planned: how large they are is known only "
            f"with {packages} installed",
            install_hint("export"),
        )


def device_name(device: str) -> str:
    """The name, as evidence has it, of the device that `--device` selects; for auto the GPU, if there is one."""
    gpus = list_gpus() if parse_device(device).is_gpu else ()
    return gpus[0].name if gpus else cpu_name()


def _rate(rows: Sequence[Result], device: str) -> tuple[float | None, str]:
    """Seconds for an image and a byte of model, the median of the models measured on a device, and its origin."""
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
    """By id: what the exporters say of each model's size without loading it (`sizes` in exporters/run.py)."""
    if not work:
        return {}
    asked = [[t.member.entry.source, t.member.entry.name, _tag(t)] for t in work]
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


def _tag(task: Task) -> str | None:
    entry = task.member.entry
    assert task.export is not None
    return None if entry.random_weights or str(task.export["weights"]).startswith("sha256:") else entry.weights


def refuse_unknown(work: Sequence[Task]) -> None:
    """Raise UsageError for the first model or tag that its library does not have, with the nearest names."""
    for name, size in _sizes([t for t in work if t.export is not None and not t.fault and not t.is_exported]).items():
        if size.get("unknown"):
            message, _, hint = str(size["unknown"]).rpartition("; ")
            raise UsageError(f"suite entry {name}: {message}", hint)


def _bytes_on_disk(model: Path) -> int:
    return sum(path.stat().st_size for path in (model, model.with_name(model.name + ".data")) if path.is_file())


def _free_bytes(folder: Path) -> int:
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
