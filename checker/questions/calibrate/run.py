"""Export and measure the models of a calibration.

Each export runs in a process of its own, so that this one never loads torch and survives an export that crashes or runs
out of memory. Measuring runs in the engine's processes. What is done, and what was done, go to callbacks.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ....thresholds import profile as profiles
from ....thresholds.results import TENSORS, Result
from ....thresholds.suite import OpenedSuite
from ...core.measure.job import Job, Outcome
from ...core.model.contract import parse_contract
from ...core.model.file import read_onnx
from ...core.progress import LOG, Tell, TellLine, tell_stage
from ...errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from ...outside.storage.documents import write_atomically
from ...outside.workers import run_jobs
from .table import append, done, rows_of
from .task import RECORD, CalibrationSettings, Task, cache_folder, weights_path

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
    failed = {}
    todo = []
    for task in work:
        if task.fault is not None:
            failed[task.member.id] = task.fault
        elif not done(task, rows):
            todo.append(task)
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
            job = _job(suite.folder, task, settings)
            jobs.setdefault(job, []).append(task)
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
            new = rows_of(suite, task, outcome)
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
        record = json.dumps(dict(task.export or {}), indent=1, sort_keys=True)
        write_atomically(cache / RECORD, f"{record}\n")
        return
    if process.returncode < 0:
        signal = -process.returncode
        message = f"{task.member.id}: export was ended by signal {signal}; often for lack of memory"
        raise CannotAssessError(message, "free -h")
    lines = stderr.strip().splitlines() or ["the export said nothing"]
    labelled = dict(line.partition(": ")[::2] for line in lines)
    kind = {2: UsageError, 4: EnvironmentFaultError}.get(process.returncode, CannotAssessError)
    message = labelled.get("error", lines[-1][:200])
    again = shlex.join(["robustcheck", *arguments])
    raise kind(message, labelled.get("hint", again))


def _export_arguments(folder: Path, task: Task) -> list[str]:
    """Return the command line of `robustcheck export` for a model."""
    entry = task.member.entry
    out = str(task.model.resolve())
    arguments = ["export", str(entry.source), str(entry.name), "-o", out]
    if entry.weights:
        checkpoint = weights_path(folder, entry)
        weights = entry.weights if checkpoint is None else str(checkpoint.resolve())
        arguments += ["--weights", weights]
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
        named = [tensor for tensor in TENSORS if tensor in contract.tensors]
        tensors = tuple(None if tensor == TENSORS[0] else tensor for tensor in named)
    preprocess = None
    if entry.model is not None and entry.preprocessing:
        preprocess = str(folder / entry.preprocessing)
    options = settings.options.model_copy(update={"preprocess": preprocess})
    return Job(task.model, options, tensors)
