"""Exports and measures the models of a calibration that have no result row yet, one at a time.

Each export runs in a process of its own, so that this one never loads torch and survives an export that crashes or runs
out of memory. Measuring runs in the engine's processes. What is done, and what was done, go to callbacks.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.measure import Job, Progress, run_jobs, tell_stage
from robustcheck_onnx.checker.model import parse_contract, properties, read_onnx
from robustcheck_onnx.checker.storage.write import write_whole
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.results import TENSORS, Result
from robustcheck_onnx.thresholds.suite import Opened

from .table import append, done, row_of
from .tasks import RECORD, Settings, Task, cache_folder, weights_path

EXPORT_END_S = 10  # time for a terminated export to remove its temporary files, which can be gigabytes

Tell = Callable[[str], None]
"""Called with a line about what was done, without a line end."""


def check_engine(settings: Settings) -> None:
    """Raise what the engine would raise, before hours of exporting: Ray missing or not reachable, a wrong device."""
    job = Job(Path("none.onnx"), settings.options)
    run_jobs(
        (job,),
        profiles.load(),
        engine=settings.engine,
        workers=settings.workers,
        address=settings.address,
        limits=settings.limits,
    )


def measure(
    suite: Opened,
    work: Sequence[Task],
    rows: list[Result],
    settings: Settings,
    table: Path,
    tell: Tell,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, RobustcheckError]:
    """Export and measure every model that has no rows yet; its rows are added to the table as soon as it is measured.

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
        UsageError, EnvironmentFaultError: as `check_engine`, or the table can't be written.
    """
    check_engine(settings)
    failed = {task.member.id: task.fault for task in work if task.fault is not None}
    todo = [task for task in work if task.fault is None and not done(task, rows)]
    tell(f"{len(work)} models: {len(work) - len(todo) - len(failed)} measured before, {len(todo)} to do")
    jobs: dict[Job, list[Task]] = {}
    for number, task in enumerate(todo, 1):
        try:
            if not task.is_exported:
                tell_stage(progress, f"exporting model {number} of {len(todo)}, {task.member.id}")
                _export(suite.folder, task)
            jobs.setdefault(_job(suite.folder, task, settings), []).append(task)
        except RobustcheckError as fault:
            failed[task.member.id] = fault
            tell(f"failed {task.member.id}: {fault.message}")
    n_done = 0
    tell_stage(progress, f"measuring, 0 of {len(jobs)} models done")
    for outcome in (
        run_jobs(
            tuple(jobs),
            profiles.load(),
            engine=settings.engine,
            workers=settings.workers,
            address=settings.address,
            limits=settings.limits,
        )
        if jobs
        else ()
    ):
        n_done += 1
        tell_stage(progress, f"measuring, {n_done} of {len(jobs)} models done")
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

    Raises UsageError, CannotAssessError, EnvironmentFaultError with the exporter's message and hint.
    """
    entry, cache = task.member.entry, task.model.parent
    assert entry.source is not None
    assert entry.name is not None
    try:
        if cache.is_relative_to(cache_folder()):
            cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{cache}: cache folder can't be made ({fault.strerror}); exports are kept there", "--cache FOLDER"
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
    command = [sys.executable, "-P", "-m", "robustcheck_onnx.checker", "export", *call]
    # the user's own code (source torch) is found beside the suite
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
        write_whole(cache / RECORD, json.dumps(dict(task.export or {}), indent=1, sort_keys=True) + "\n")
        return
    labelled = {line.partition(": ")[0]: line.partition(": ")[2] for line in stderr.splitlines()}
    message = labelled.get("error", (stderr.strip().splitlines() or ["the export said nothing"])[-1][:200])
    hint = labelled.get("hint", shlex.join(["robustcheck", "export", *call]))
    if process.returncode < 0:
        message = f"{task.member.id}: export was ended by signal {-process.returncode}; often for lack of memory"
        hint = "free -h"
    kind = {2: UsageError, 4: EnvironmentFaultError}.get(process.returncode, CannotAssessError)
    raise kind(message, hint)


def _job(folder: Path, task: Task, settings: Settings) -> Job:
    """The job that measures all tensors that the model's contract names; without a contract, the one found by rule."""
    entry = task.member.entry
    file = read_onnx(task.model)
    contract = parse_contract(properties(file.proto.metadata_props, str(task.model)), str(task.model))
    tensors: tuple[str | None, ...] = (None,)
    if contract is not None:
        # None: the representation by rule, as a check finds it; the other by its name
        tensors = tuple(None if t == TENSORS[0] else t for t in TENSORS if t in contract.tensors)
    ready = entry.model is not None and entry.preprocessing
    preprocess = str(folder / str(entry.preprocessing)) if ready else None
    return Job(task.model, settings.options.model_copy(update={"preprocess": preprocess}), tensors)
