"""A calibration: what a suite's models need, exporting and measuring what is missing, one result row at a time.

Silent; what happens is told to a callback. Exports run in a process of their own, so that torch is never loaded here
and an export that crashes or runs out of memory fails alone; measuring runs in the engine's processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from robustcheck_onnx.checker import cache, engine, images
from robustcheck_onnx.checker.contract import parse_contract
from robustcheck_onnx.checker.delivery import write_whole
from robustcheck_onnx.checker.engine import Job
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.execution import cpu_name
from robustcheck_onnx.checker.gpu import list_gpus
from robustcheck_onnx.checker.kurtosis import STATISTIC_VERSION
from robustcheck_onnx.checker.onnx_file import file_digest, read_onnx
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds import results
from robustcheck_onnx.thresholds.calibrate import TENSORS
from robustcheck_onnx.thresholds.profile import STATISTICS
from robustcheck_onnx.thresholds.results import Measured, Result, rounded
from robustcheck_onnx.thresholds.suite import CHECKPOINT_SUFFIXES, Entry, Member, Opened

EXPORTERS = {  # source → distributions whose versions decide what is exported
    "open_clip": ("open_clip_torch", "timm", "torchvision"),
    "timm": ("timm", "torchvision"),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "torch": (),
}
EVERY_EXPORT = ("robustcheck-onnx", "torch", "onnx", "onnxscript")
MEASURING = ("robustcheck-onnx", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "Pillow")
BYTES_A_PARAMETER = 4  # float32
EXPORT_END_S = 10  # for an export that is told to end; its temporary files can be gigabytes
RECORD = "export.json"  # beside a cached export, written last: without it the export is not whole
CONTEXT = ("centred_kurtosis", "rms_kurtosis", "max_median_ratio", "zero_share", "negative_share", "spread")

Tell = Callable[[str], None]
"""One line of what happens, without its end."""


@dataclass(frozen=True)
class Settings:
    """What a calibration measures with; the fields mean what they mean to `robustcheck check`."""

    images: str | None
    cache: Path
    seed: int = 0
    max_images: int | None = None
    max_bad: float = 0.01
    device: str = "auto"
    batch_size: int = 32
    engine: str = "local"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Task:
    """One model of the suite: where its ONNX file is or will be, and what its measurement is known by."""

    member: Member
    model: Path
    export: Mapping[str, Any] | None
    """everything that influences the export; None for a ready file"""
    key: str
    """empty with a fault"""
    fault: RobustcheckError | None = None

    @property
    def is_exported(self) -> bool:
        """Whether the ONNX file is there and whole."""
        return self.export is None or ((self.model.parent / RECORD).is_file() and self.model.is_file())


@dataclass(frozen=True)
class Planned:
    """One line of the plan."""

    id: str
    group: str
    label: str
    state: str
    """measured, exported, ready file, to export, or can't"""
    download_bytes: int | None
    """of the weights, at 4 bytes a parameter; 0 when nothing is downloaded, None when not known"""
    disk_bytes: int | None
    """of the ONNX file that will be written; 0 when it is there"""
    passes: int
    estimate_s: float | None
    fault: str


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


# --------------------------------------------------------------------------------------------- what is to do


def cache_folder() -> Path:
    """Where exports are kept unless another place is named: beside the records of checks."""
    return cache.folder() / "exports"


def image_set(settings: Settings) -> tuple[str, int]:
    """Digest and number of the images of a calibration: sha256 over the sorted digests of what the entries hold.

    Raises UsageError, CannotAssessError, EnvironmentFaultError as `images.open_images`.
    """
    source = images.open_images(settings.images, seed=settings.seed, limit=settings.max_images)
    # an image that can't be read is skipped by the run; another in its place is another set
    digests = (source.digest(i) or f"unreadable {source.entries[i].name}" for i in range(len(source)))
    return images.digest_of(digests), len(source)


def tasks(suite: Opened, settings: Settings, images_digest: str) -> tuple[Task, ...]:
    """The suite's models as tasks; a file that can't be read is a task with a fault."""
    measuring = {
        "images": images_digest,
        "seed": settings.seed,
        "max_bad": settings.max_bad,
        "device": settings.device,
        "statistic_version": STATISTIC_VERSION,
        "alpha": profiles.load().alpha,
        "versions": _versions(MEASURING),
    }
    return tuple(_task(suite.folder, member, settings.cache, measuring) for member in suite.members)


def _task(folder: Path, member: Member, cache: Path, measuring: Mapping[str, Any]) -> Task:
    entry = member.entry
    if entry.model is not None:
        path = folder / entry.model
        try:
            file = read_onnx(path)
            given = {"preprocessing": _digest_of(folder, entry.preprocessing)}
        except RobustcheckError as fault:
            return Task(member, path, None, "", fault)
        digests = [file.model_digest, *(part.digest for part in file.external)]
        return Task(member, path, None, _key({**measuring, "model": digests, **given}))
    try:
        export = _export_inputs(folder, entry)
    except EnvironmentFaultError as fault:
        return Task(member, cache, {}, "", fault)
    key = _key(export)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", member.id)[:100]
    return Task(member, cache / key[:24] / f"{name}.onnx", export, _key({**measuring, "export": key}))


def _export_inputs(folder: Path, entry: Entry) -> dict[str, Any]:
    """Everything that influences an export: what is asked for, the files that are read, the versions."""
    assert entry.source is not None
    weights = weights_path(folder, entry)
    inputs: dict[str, Any] = {
        "source": entry.source,
        "name": entry.name,
        "weights": entry.weights if weights is None else _digest_of(folder, str(weights)),
        "random_weights": entry.random_weights,
        "preprocessing": _digest_of(folder, entry.preprocessing),
        "head": entry.head,
        "versions": _versions((*EVERY_EXPORT, *EXPORTERS[entry.source])),
    }
    if str(entry.name).startswith("local-dir:"):
        place = folder / str(entry.name).partition(":")[2]
        inputs["files"] = {path.name: file_digest(path) for path in sorted(place.glob("*")) if path.is_file()}
    if entry.source == "torch":
        module = folder / (str(entry.name).partition(":")[0].replace(".", "/") + ".py")
        inputs["code"] = file_digest(module) if module.is_file() else ""
    return inputs


def weights_path(folder: Path, entry: Entry) -> Path | None:
    """The checkpoint file that an entry names, or None where its weights are a library's tag."""
    if not entry.weights:
        return None
    path = folder / entry.weights
    named = "/" in entry.weights or path.suffix in CHECKPOINT_SUFFIXES
    return path if named or path.is_file() else None


def _digest_of(folder: Path, name: str | None) -> str:
    if not name:
        return ""
    path = folder / name
    if not path.is_file():
        raise EnvironmentFaultError(f"{path}: file is missing; the suite names it", f"place it at {path}")
    return file_digest(path)


def _key(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # one of the two ONNX Runtime wheels, or an exporter that this machine lacks
    return found


def done(task: Task, rows: Iterable[Result]) -> tuple[Result, ...]:
    """The rows of a task that count: all tensors of one pass with the task's key, or none."""
    own = {row.tensor: row for row in rows if task.key and (row.id, row.key) == (task.member.id, task.key)}
    complete = own and all(set(row.tensors) <= set(own) for row in own.values())
    return tuple(own[tensor] for tensor in sorted(own)) if complete else ()


# ------------------------------------------------------------------------------------------------- the plan


def plan(work: Sequence[Task], rows: Sequence[Result], settings: Settings, n_images: int, digest: str) -> Plan:
    """What is to do, how large it is, and how long it may take; nothing is downloaded, exported or measured.

    Sizes are counted by the exporters in a process of their own; times follow from rows measured on this device.
    """
    sizes = _sizes([t for t in work if t.export is not None and not t.fault and not t.is_exported])
    here = device_name(settings.device)
    rate, how = _rate(rows, here)
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
    return Plan(n_images, digest, settings.cache, _free_bytes(settings.cache), here, tuple(planned), how)


def device_name(device: str) -> str:
    """The name of what `--device` will run on, as evidence has it; of auto the GPU, if there is one."""
    gpus = () if device == "cpu" else list_gpus()
    return gpus[0].name if gpus else cpu_name()


def _rate(rows: Sequence[Result], device: str) -> tuple[float | None, str]:
    """Seconds an image and byte of model, the median over models measured on this device, and how it came about."""
    one_each = {row.id: row for row in rows if row.execution.get("device") == device and row.wall_s > 0}
    rates = sorted(row.wall_s / row.n_images / row.size_bytes for row in one_each.values() if row.n_images)
    if not rates:
        return None, "no model was measured on this device yet: measure one and plan again"
    spread = rates[-1] / rates[0]
    return float(np.median(rates)), (
        f"from {len(rates)} models measured on this device, one process, by their size; by that rule they differ "
        f"{spread:.1f}-fold among themselves, and exporting is not in it"
    )


def _sizes(work: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """What the exporters know of the models' sizes without loading them, by id."""
    if not work:
        return {}
    asked = [[t.member.entry.source, t.member.entry.name, _tag(t)] for t in work]
    with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answers.json"
        question.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "robustcheck_onnx.exporters.sizes", str(question), str(answer)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own module
        if ended.returncode or not answer.is_file():
            said = (ended.stderr.strip().splitlines() or ["no word"])[-1][:200]
            return {t.member.id: {"fault": f"sizes are not known: {said}"} for t in work}
        answers = json.loads(answer.read_text(encoding="utf-8"))
    return {t.member.id: found for t, found in zip(work, answers, strict=True)}


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


# -------------------------------------------------------------------------------------------------- the loop


def open_table(path: Path, work: Sequence[Task]) -> list[Result]:
    """The rows of a results table, and the table made ready for more.

    A torn last line is cut off. Rows of the suite's models with another key were measured with other weights, images or
    versions; one model and tensor has one row, so they go into a table beside (`superseded`), and nothing is lost.

    Raises UsageError: the table is not one. EnvironmentFaultError: it can't be written.
    """
    if not path.exists():
        return []
    try:
        rows = results.read(path)
    except results.ResultsError as fault:
        raise UsageError(str(fault), fault.hint) from fault
    keys = {task.member.id: task.key for task in work}
    kept = [row for row in rows if keys.get(row.id, row.key) == row.key]
    if stale := [row for row in rows if keys.get(row.id, row.key) != row.key]:
        append(superseded(path), stale)
    whole = "".join(results.to_line(row) for row in kept)
    if path.read_text(encoding="utf-8") != whole:
        write_whole(path, whole)
    return kept


def superseded(path: Path) -> Path:
    """Where rows go that a newer measurement replaces."""
    return path.with_name(f"{path.stem}.superseded{path.suffix}")


def append(path: Path, rows: Sequence[Result]) -> None:
    """Add rows to the table in one write, on the disk when this returns.

    Raises EnvironmentFaultError: no space, or no right to write.
    """
    text = "".join(results.to_line(row) for row in rows)
    try:
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{path}: result row is not written ({fault.strerror}); what was measured before is kept",
            f"df -h {shlex.quote(str(path.parent))}",
        ) from fault


def check_engine(settings: Settings) -> None:
    """Raise what the engine would, before hours of exporting: Ray missing or not reachable, a device it won't take."""
    job = Job(Path("none.onnx"), device=settings.device)
    engine.run((job,), profiles.load(), engine=settings.engine, workers=settings.workers, address=settings.address)


def measure(
    suite: Opened, work: Sequence[Task], rows: list[Result], settings: Settings, table: Path, tell: Tell
) -> dict[str, RobustcheckError]:
    """Export and measure what has no row yet; each model's rows are in the table as soon as it is measured.

    Args:
        suite, work: the suite and its tasks.
        rows: those of the table; new ones are added.
        settings: what to measure with.
        table: the results table.
        tell: is told what happens.

    Returns:
        The models that failed, by id.
    """
    check_engine(settings)
    failed = {task.member.id: task.fault for task in work if task.fault is not None}
    todo = [task for task in work if task.fault is None and not done(task, rows)]
    tell(f"{len(work)} models: {len(work) - len(todo) - len(failed)} measured before, {len(todo)} to do")
    jobs: dict[Job, list[Task]] = {}
    for number, task in enumerate(todo, 1):
        try:
            if not task.is_exported:
                tell(f"export {number}/{len(todo)} {task.member.id}")
                _export(suite.folder, task)
            jobs.setdefault(_job(suite.folder, task, settings), []).append(task)
        except RobustcheckError as fault:
            failed[task.member.id] = fault
            tell(f"failed {task.member.id}: {fault.message}")
    for outcome in (
        engine.run(
            tuple(jobs),
            profiles.load(),
            engine=settings.engine,
            workers=settings.workers,
            address=settings.address,
        )
        if jobs
        else ()
    ):
        for task in jobs[outcome.job]:
            if outcome.error is not None:
                failed[task.member.id] = outcome.error
                tell(f"failed {task.member.id}: {outcome.error.message}")
                continue
            new = [
                row_of(suite, task, tensor or TENSORS[0], outcome.job.tensors, evidence, outcome.wall_s)
                for tensor, evidence in zip(outcome.job.tensors, outcome.evidence, strict=True)
            ]
            append(table, new)
            rows.extend(new)
            tell(f"measured {task.member.id}: {new[0].n_images} images in {outcome.wall_s:.1f} s")
    return failed


def _export(folder: Path, task: Task) -> None:
    """Export one model in a process of its own, into the cache.

    Raises UsageError, CannotAssessError, EnvironmentFaultError with the exporter's words.
    """
    entry, where = task.member.entry, task.model.parent
    assert entry.source is not None
    assert entry.name is not None
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{where}: cache folder can't be made ({fault.strerror}); exports are kept there", "--cache FOLDER"
        ) from fault
    call = [entry.source, entry.name, "-o", str(task.model.resolve())]
    weights = weights_path(folder, entry)
    if entry.weights:
        call += ["--weights", entry.weights if weights is None else str(weights.resolve())]
    if entry.random_weights:
        call.append("--random-weights")
    if entry.preprocessing:
        call += ["--preprocessing", str((folder / entry.preprocessing).resolve())]
    if entry.head:
        call += ["--head", entry.head]
    command = [sys.executable, "-P", "-m", "robustcheck_onnx.checker.cli", "export", *call]
    # the user's own code (source torch) is found beside the suite
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            _, stderr = process.communicate()
        except BaseException:
            process.terminate()  # it takes its unfinished files with it
            try:
                process.wait(EXPORT_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if process.returncode == 0:
        write_whole(where / RECORD, json.dumps(dict(task.export or {}), indent=1, sort_keys=True) + "\n")
        return
    said = {line.partition(": ")[0]: line.partition(": ")[2] for line in stderr.splitlines()}
    message = said.get("error", (stderr.strip().splitlines() or ["it said nothing"])[-1][:200])
    hint = said.get("hint", shlex.join(["robustcheck", "export", *call]))
    if process.returncode < 0:
        message = f"{task.member.id}: export was ended by signal {-process.returncode}; too little memory does that"
        hint = "free -h"
    kind = {2: UsageError, 4: EnvironmentFaultError}.get(process.returncode, CannotAssessError)
    raise kind(message, hint)


def _job(folder: Path, task: Task, settings: Settings) -> Job:
    """The task's model with all its tensors that a contract names; without a contract, the one found by rule."""
    entry = task.member.entry
    file = read_onnx(task.model)
    contract = parse_contract({p.key: p.value for p in file.proto.metadata_props}, str(task.model))
    named: tuple[str | None, ...] = (None,)
    if contract is not None:
        # the representation by rule, as a check finds it; the other by its name
        named = tuple(None if t == TENSORS[0] else t for t in TENSORS if t in contract.tensors)
    ready = entry.model is not None and entry.preprocessing
    return Job(
        model=task.model,
        images=settings.images,
        tensors=named,
        preprocess=str(folder / str(entry.preprocessing)) if ready else None,
        device=settings.device,
        seed=settings.seed,
        max_images=settings.max_images,
        max_bad=settings.max_bad,
        batch_size=settings.batch_size,
    )


def row_of(
    suite: Opened, task: Task, tensor: str, tensors: Sequence[str | None], evidence: Evidence, wall_s: float
) -> Result:
    """Evidence as a row of the results table."""
    member, s, model = task.member, evidence.statistics, evidence.model
    intervals = {name: getattr(s, name) for name in STATISTICS}
    return Result(
        id=member.id,
        tensor=tensor,
        tensors=tuple(t or TENSORS[0] for t in tensors),
        **labels_of(member),
        suite=suite.suite.name,
        suite_digest=suite.digest,
        key=task.key,
        file=Path(model.file).name,
        size_bytes=model.size_bytes,
        model_digest=model.digest,
        external_digests=model.external_digests,
        source=model.source,
        export=dict(task.export or {}),
        random_weights=model.random_weights,
        synthetic=model.synthetic,
        graph_tensor=model.tensor,
        rule=model.rule,
        pool=model.pool,
        ends_in=model.ends_in,
        n_features=s.n_features,
        batch_difference=model.batch_difference,
        output_difference=model.output_difference,
        preprocessing=evidence.preprocessing.preprocessing.model_dump(mode="json"),
        preprocessing_source=evidence.preprocessing.source,
        images_digest=evidence.images.digest,
        n_images=s.n_images,
        n_varied=evidence.images.sanity.n_varied,
        n_skipped=evidence.images.n_skipped,
        image_findings=tuple(finding.id for finding in evidence.images.sanity.findings),
        seed=evidence.images.seed,
        statistic_version=s.statistic_version,
        alpha=s.alpha,
        n_nonfinite=s.n_nonfinite,
        n_constant=s.n_constant,
        statistics={
            name: Measured(estimate=rounded(i.estimate), low=rounded(i.low), high=rounded(i.high))
            for name, i in intervals.items()
        },
        context={name: rounded(getattr(s, name)) for name in CONTEXT},
        persistent=tuple(feature.index for feature in s.persistent),
        versions=_versions(MEASURING),
        execution=evidence.execution.model_dump(mode="json"),
        date=datetime.now(UTC).date().isoformat(),
        wall_s=round(wall_s, 3),
    )


def labels_of(member: Member) -> dict[str, Any]:
    """The fields of a row that come from the suite, not from the measurement."""
    pp = member.effective_robustness_pp
    return {
        "checkpoint": member.checkpoint,
        "group": member.entry.group,
        "label": member.label,
        "hard_case": member.entry.hard_case,
        "effective_robustness_pp": None if pp is None else round(pp, 2),
    }


def relabelled(rows: Iterable[Result], suite: Opened) -> tuple[Result, ...]:
    """The rows of the suite's models, with the labels that the suite has now."""
    members = {member.id: member for member in suite.members}
    return tuple(
        row.model_copy(update={**labels_of(members[row.id]), "suite": suite.suite.name, "suite_digest": suite.digest})
        for row in rows
        if row.id in members
    )


def check_labels(suite: Opened) -> None:
    """Raise UsageError for a suite without a model on either side: nothing could be fitted to it."""
    for label in ("present", "absent"):
        if not any(member.label == label for member in suite.members):
            raise UsageError(
                f"suite {suite.suite.name}: number of models labelled {label} is 0; a fit needs both sides",
                "add models, or look at the labels: robustcheck calibrate --plan",
            )


__all__ = ["Plan", "Planned", "Settings", "Task", "measure", "plan", "tasks"]
