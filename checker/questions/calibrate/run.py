"""Export and measure the models of a calibration. The results table is kept here.

Each export runs in a process of its own, so that this one never loads torch and survives an export that crashes or runs
out of memory. Measuring runs in the engine's processes. What is done, and what was done, go to callbacks.

There is a task per model. Its key is a digest of everything that influences the numbers: weights, export, images,
settings, versions.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import platformdirs

from ....thresholds import profile as profiles
from ....thresholds import read_bytes, results
from ....thresholds.results import TENSORS, BoundedStatistic, Result, rounded
from ....thresholds.statistics import STATISTICS
from ....thresholds.suite import CHECKPOINT_SUFFIXES, Member, OpenedSuite, SuiteEntry
from ...core.evidence import Evidence, Options
from ...core.images.source import digest_of_set
from ...core.measure.job import Job, Outcome
from ...core.model.contract import parse_contract
from ...core.model.file import read_onnx
from ...core.model.watched import file_digest
from ...core.progress import LOG, Tell, TellLine, tell_stage
from ...core.statistics.definitions import STATISTIC_VERSION
from ...errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from ...outside.image_sets.open import open_images
from ...outside.isolation import NO_LIMITS, Limits
from ...outside.storage.documents import write_atomically
from ...outside.workers import run_jobs
from ...text import VERSION, Fields, frozen, quoted

EXPORTERS = {  # source → distributions whose versions decide what is exported
    "open_clip": ("open_clip_torch", "timm", "torchvision"),
    "timm": ("timm", "torchvision"),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "torch": (),
}
EVERY_EXPORT = ("torch", "onnx", "onnxscript")
MEASURING = ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "Pillow")
RECORD = "export.json"  # next to a cached export and written after it: without it the export is not complete


@frozen
class CalibrationSettings:
    """What a calibration measures with, and where it keeps exports."""

    options: Options
    cache: Path
    engine: str = "local"
    workers: int | None = None
    address: str | None = None
    limits: Limits = NO_LIMITS
    """of the measurement of each model; with Ray only the time"""


@frozen
class Task:
    """One model of the suite, which may have to be exported first, and the key of its measurement."""

    member: Member
    model: Path
    export: Fields | None
    """everything that influences the export; None for a ready file"""
    key: str
    """identifies the measurement; empty with a fault"""
    fault: RobustcheckError | None = None

    @property
    def is_exported(self) -> bool:
        """Return whether the ONNX file is there and complete."""
        return self.export is None or (self.model.with_name(RECORD).is_file() and self.model.is_file())

    @property
    def is_to_export(self) -> bool:
        """Return whether the ONNX file has to be exported first."""
        return not (self.fault or self.is_exported)


def cache_folder() -> Path:
    """Return the default folder of exports, from which a calibration that was killed goes on."""
    return platformdirs.user_cache_path("robustcheck") / "exports"


def check_labels(suite: OpenedSuite) -> None:
    """Raise UsageError unless the suite has both labels: nothing could be fitted to one."""
    for label in ("present", "absent"):
        if not any(member.label == label for member in suite.members):
            raise UsageError(
                f"suite {suite.suite.name}: number of models labelled {label} is 0; a fit needs models of both labels",
                "add models, or look at the labels: robustcheck calibrate --plan",
            )


def image_set(settings: CalibrationSettings) -> tuple[str, int]:
    """Return the sha256 over the sorted digests of a calibration's images, and their number.

    Raises UsageError, CannotAssessError, EnvironmentFaultError as `images.open_images`.
    """
    options = settings.options
    source = open_images(options.images, seed=options.seed, limit=options.max_images)
    # an unreadable image is skipped by the run, but the set with a readable one in its place is another set
    digests = (source.digest(i) or f"unreadable {source.entries[i].name}" for i in range(len(source)))
    return digest_of_set(digests), len(source)


def tasks(suite: OpenedSuite, settings: CalibrationSettings, images_digest: str) -> tuple[Task, ...]:
    """Return the tasks of a suite. A model whose files can't be read becomes a task with a fault."""
    options = settings.options
    measuring = {
        "images": images_digest,
        "seed": options.seed,
        "max_bad": options.max_bad,
        "device": options.device,
        "statistic_version": STATISTIC_VERSION,
        "alpha": profiles.load().alpha,
        "versions": versions_of(MEASURING),
    }
    return tuple(_task(suite.folder, member, settings.cache, measuring) for member in suite.members)


def _task(folder: Path, member: Member, cache: Path, measuring: Fields) -> Task:
    entry = member.entry
    if entry.model is not None:
        path = folder / entry.model
        try:
            file = read_onnx(path)
            preprocessing = _digest_of(folder, entry.preprocessing)
        except RobustcheckError as fault:
            return Task(member, path, None, "", fault)
        digests = [file.file_digest, *(part.digest for part in file.external)]
        return Task(member, path, None, _key({**measuring, "model": digests, "preprocessing": preprocessing}))
    try:
        export = _export_inputs(folder, entry)
    except EnvironmentFaultError as fault:
        return Task(member, cache, {}, "", fault)
    key = _key(export)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", member.id)[:100]
    return Task(member, cache / key[:24] / f"{name}.onnx", export, _key({**measuring, "export": key}))


def _export_inputs(folder: Path, entry: SuiteEntry) -> Fields:
    """Return everything that influences an export: its arguments, the files that it reads, the versions."""
    assert entry.source is not None
    weights = weights_path(folder, entry)
    inputs: Fields = {
        "source": entry.source,
        "name": entry.name,
        "weights": entry.weights if weights is None else _digest_of(folder, str(weights)),
        "random_weights": entry.random_weights,
        "preprocessing": _digest_of(folder, entry.preprocessing),
        "head": entry.head,
        "versions": versions_of((*EVERY_EXPORT, *EXPORTERS[entry.source])),
    }
    before, _, after = str(entry.name).partition(":")
    if before == "local-dir":
        files = [path for path in sorted((folder / after).glob("*")) if path.is_file()]
        inputs["files"] = {path.name: file_digest(path) for path in files}
    if entry.source == "torch":
        module = folder / (before.replace(".", "/") + ".py")
        inputs["code"] = file_digest(module) if module.is_file() else ""
    return inputs


def weights_path(folder: Path, entry: SuiteEntry) -> Path | None:
    """Return the checkpoint file of an entry, or None where its weights are a library's tag."""
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


def _key(content: Fields) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of this package and of those of the others that are installed."""
    versions = {"robustcheck-onnx": VERSION}
    for name in names:
        with suppress(metadata.PackageNotFoundError):  # one of the two ONNX Runtime wheels, or an exporter
            versions[name] = metadata.version(name)
    return versions


CONTEXT = ("centred_kurtosis", "rms_kurtosis", "max_median_ratio", "zero_share", "negative_share", "spread")
OF_MODEL = (
    "size_bytes",
    "external_digests",
    "source",
    "random_weights",
    "synthetic",
    "rule",
    "pool",
    "ends_in",
    "batch_difference",
    "output_difference",
)
OF_STATISTICS = ("n_features", "n_images", "statistic_version", "alpha", "n_nonfinite", "n_constant")
"""fields of a row that are those of the evidence's model and statistics"""
EXPORT_END_S = 10  # time for a terminated export to remove its temporary files, which can be gigabytes


def measure(
    suite: OpenedSuite,
    work: Sequence[Task],
    rows: list[Result],
    settings: CalibrationSettings,
    table: Path,
    tell: TellLine,
    progress: Tell | None = None,
) -> dict[str, RobustcheckError]:
    """Export and measure every model without rows, and add its rows to the table as soon as it is measured.

    Args:
        suite, work: the suite and its tasks.
        rows: those of the table; new ones are appended to this list.
        settings: what to measure with.
        table: the results table.
        tell: called with a line for each model that was measured or failed.
        progress: called with what is done now.

    Returns:
        The error of each model that failed, by id.

    Raises:
        UsageError, EnvironmentFaultError: Ray is missing or not reachable, a wrong device, or the table can't be
            written.
    """
    _run((Job(Path("none.onnx"), settings.options),), settings)  # raises what the engine would, before the exports
    failed = {task.member.id: task.fault for task in work if task.fault is not None}
    todo = [task for task in work if task.fault is None and not done(task, rows)]
    n_before = len(work) - len(todo) - len(failed)
    tell(f"{len(work)} models: {n_before} measured before, {len(todo)} to do")
    jobs: dict[Job, list[Task]] = {}

    def fail(task: Task, fault: RobustcheckError) -> None:
        failed[task.member.id] = fault
        tell(f"failed {task.member.id}: {fault.message}")

    for number, task in enumerate(todo, 1):
        try:
            if not task.is_exported:
                tell_stage(progress, f"exporting model {number} of {len(todo)}, {task.member.id}")
                _export(suite.folder, task)
            jobs.setdefault(_job(suite.folder, task, settings), []).append(task)
        except RobustcheckError as fault:
            fail(task, fault)
    tell_stage(progress, f"measuring, 0 of {len(jobs)} models done")
    outcomes = _run(tuple(jobs), settings, tell) if jobs else ()
    for n_done, outcome in enumerate(outcomes, 1):
        tell_stage(progress, f"measuring, {n_done} of {len(jobs)} models done")
        for task in jobs[outcome.job]:
            if outcome.error is not None:
                fail(task, outcome.error)
                continue
            new = [
                row_of(suite, task, tensor or TENSORS[0], outcome.job.tensors, evidence, outcome.wall_s)
                for tensor, evidence in zip(outcome.job.tensors, outcome.evidence, strict=True)
            ]
            append(table, new)
            rows.extend(new)
            tell(f"measured {task.member.id}: {new[0].n_images} images in {outcome.wall_s:.1f} s")
    return failed


def _run(jobs: tuple[Job, ...], settings: CalibrationSettings, tell: TellLine = LOG.warning) -> Iterator[Outcome]:
    return run_jobs(
        jobs,
        profiles.load(),
        engine=settings.engine,
        workers=settings.workers,
        address=settings.address,
        limits=settings.limits,
        tell=tell,
    )


def _export(folder: Path, task: Task) -> None:
    """Export one model into the cache, in its own process.

    Raises UsageError, CannotAssessError, EnvironmentFaultError with the exporter's message and hint.
    """
    cache = task.model.parent
    try:
        if cache.is_relative_to(cache_folder()):
            cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{cache}: cache folder can't be made ({fault.strerror}); exports are kept there", "--cache FOLDER"
        ) from fault
    arguments = _export_arguments(folder, task)
    command = [sys.executable, "-P", "-m", "robustcheck_onnx.checker", *arguments]
    # the user's own code (source torch) is found next to the suite
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            _, stderr = process.communicate()
        except BaseException:
            process.terminate()  # it removes its unfinished files
            try:
                process.wait(EXPORT_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if process.returncode == 0:
        write_atomically(cache / RECORD, json.dumps(dict(task.export or {}), indent=1, sort_keys=True) + "\n")
        return
    if process.returncode < 0:
        signal = -process.returncode
        message = f"{task.member.id}: export was ended by signal {signal}; often for lack of memory"
        raise CannotAssessError(message, "free -h")
    labelled = dict(line.partition(": ")[::2] for line in stderr.splitlines())
    last_line = (stderr.strip().splitlines() or ["the export said nothing"])[-1]
    kind = {2: UsageError, 4: EnvironmentFaultError}.get(process.returncode, CannotAssessError)
    raise kind(labelled.get("error", last_line[:200]), labelled.get("hint", shlex.join(["robustcheck", *arguments])))


def _export_arguments(folder: Path, task: Task) -> list[str]:
    """Return the command line of `robustcheck export` for a model."""
    entry = task.member.entry
    arguments = ["export", str(entry.source), str(entry.name), "-o", str(task.model.resolve())]
    if entry.weights:
        file = weights_path(folder, entry)
        arguments += ["--weights", entry.weights if file is None else str(file.resolve())]
    if entry.random_weights:
        arguments.append("--random-weights")
    if entry.preprocessing:
        arguments += ["--preprocess", str((folder / entry.preprocessing).resolve())]
    if entry.head:
        arguments += ["--head", entry.head]
    return arguments


def _job(folder: Path, task: Task, settings: CalibrationSettings) -> Job:
    """Return the job that measures all contract tensors, or without a contract the one found by rule."""
    entry = task.member.entry
    file = read_onnx(task.model)
    contract = parse_contract(file.proto, str(task.model))
    tensors: tuple[str | None, ...] = (None,)
    if contract is not None:
        # None: the representation by rule, as a check finds it; the other by its name
        tensors = tuple(None if t == TENSORS[0] else t for t in TENSORS if t in contract.tensors)
    preprocess = None
    if entry.model is not None and entry.preprocessing:
        preprocess = str(folder / entry.preprocessing)
    return Job(task.model, settings.options.model_copy(update={"preprocess": preprocess}), tensors)


def open_table(path: Path, work: Sequence[Task]) -> list[Result]:
    """Read a results table and prepare it for new rows.

    An incomplete last line is cut off. A model and tensor has one row, so rows of the suite's models with another key,
    which were measured with other weights, images or versions, are moved into another table (`superseded`).

    Raises UsageError: the file is not a results table. EnvironmentFaultError: it can't be written.
    """
    if not path.exists():
        return []
    try:
        rows = results.read(path)
    except results.ResultsError as fault:
        raise UsageError(str(fault), fault.hint) from fault
    keys = {task.member.id: task.key for task in work}
    current = [row for row in rows if keys.get(row.id, row.key) == row.key]
    if stale := [row for row in rows if keys.get(row.id, row.key) != row.key]:
        append(superseded(path), stale)
    text = "".join(results.to_line(row) for row in current)
    if read_bytes(path, results.LARGEST_BYTES).decode() != text:
        write_atomically(path, text)
    return current


def superseded(path: Path) -> Path:
    """Return the table of the rows that newer measurements replace."""
    return path.with_name(f"{path.stem}.superseded{path.suffix}")


def append(path: Path, rows: Sequence[Result]) -> None:
    """Add rows to the table in one write, and return when they are on the disk.

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
            f"{path}: result row could not be written ({fault.strerror}); what was measured before is kept",
            f"df -h {quoted(path.parent)}",
        ) from fault


def done(task: Task, rows: Iterable[Result]) -> tuple[Result, ...]:
    """Return the rows of a task, one per tensor, or none unless all have the task's key."""
    own = {row.tensor: row for row in rows if task.key and (row.id, row.key) == (task.member.id, task.key)}
    complete = own and all(set(row.tensors) <= set(own) for row in own.values())
    return tuple(own[tensor] for tensor in sorted(own)) if complete else ()


def row_of(
    suite: OpenedSuite, task: Task, tensor: str, tensors: Sequence[str | None], evidence: Evidence, wall_s: float
) -> Result:
    """Make a row of the results table. The evidence is about one of the `tensors` that were measured together."""
    member = task.member
    model = evidence.model
    images = evidence.images
    numbers = evidence.statistics
    statistics = {}
    for name in STATISTICS:
        statistics[name] = BoundedStatistic(**{end: rounded(value) for end, value in getattr(numbers, name)})
    return Result(
        id=member.id,
        tensor=tensor,
        tensors=tuple(t or TENSORS[0] for t in tensors),
        **labels_of(member),
        suite=suite.suite.name,
        suite_digest=suite.digest,
        key=task.key,
        file=Path(model.file).name,
        **{name: getattr(model, name) for name in OF_MODEL},
        model_digest=model.digest,
        export=dict(task.export or {}),
        graph_tensor=model.tensor,
        preprocessing=evidence.preprocessing.preprocessing.model_dump(mode="json"),
        preprocessing_source=evidence.preprocessing.source,
        images_digest=images.digest,
        n_varied=images.sanity.n_varied,
        n_skipped=images.n_skipped,
        image_findings=tuple(finding.id for finding in images.sanity.findings),
        seed=images.seed,
        **{name: getattr(numbers, name) for name in OF_STATISTICS},
        statistics=statistics,
        context={name: rounded(getattr(numbers, name)) for name in CONTEXT},
        persistent=tuple(feature.index for feature in numbers.persistent),
        versions=versions_of(MEASURING),
        execution=evidence.execution.model_dump(mode="json"),
        date=datetime.now(UTC).date().isoformat(),
        wall_s=round(wall_s, 3),
    )


def labels_of(member: Member) -> Fields:
    """Return the fields of a row that come from the suite, not from the measurement."""
    pp = member.effective_robustness_pp
    return {
        "checkpoint": member.checkpoint,
        "group": member.entry.group,
        "label": member.label,
        "hard_case": member.entry.hard_case,
        "effective_robustness_pp": None if pp is None else round(pp, 2),
    }


def relabelled(rows: Iterable[Result], suite: OpenedSuite) -> tuple[Result, ...]:
    """Return the rows with the suite's current labels."""
    labels = {member.id: labels_of(member) for member in suite.members}
    of_suite = {"suite": suite.suite.name, "suite_digest": suite.digest}
    return tuple(row.model_copy(update=labels[row.id] | of_suite) for row in rows if row.id in labels)
