"""Keep what a calibration measured in its results table, one row per model and tensor."""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ....thresholds import read_bytes, results
from ....thresholds.results import TENSORS, BoundedStatistic, Result, rounded
from ....thresholds.statistics import STATISTICS
from ....thresholds.suite import Member, OpenedSuite
from ...core.evidence import Evidence
from ...core.measure.job import Outcome
from ...errors import EnvironmentFaultError, UsageError
from ...outside.storage.documents import write_atomically
from ...text import Fields, Texts, quoted
from .task import MEASURING, Task, versions_of

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
    current = []
    stale = []
    for row in rows:
        if keys.get(row.id, row.key) == row.key:
            current.append(row)
        else:
            stale.append(row)
    if stale:
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
    if not task.key:
        return ()
    own = {row.tensor: row for row in rows if row.id == task.member.id and row.key == task.key}
    for row in own.values():
        if not own.keys() >= set(row.tensors):
            return ()
    return tuple(own[tensor] for tensor in sorted(own))


def rows_of(suite: OpenedSuite, task: Task, outcome: Outcome) -> list[Result]:
    """Make the rows of a model that was measured, one per tensor."""
    tensors = tuple(tensor or TENSORS[0] for tensor in outcome.job.tensors)
    measured = zip(tensors, outcome.evidence, strict=True)
    return [_row(suite, task, tensor, tensors, evidence, outcome.wall_s) for tensor, evidence in measured]


def _row(suite: OpenedSuite, task: Task, tensor: str, tensors: Texts, evidence: Evidence, wall_s: float) -> Result:
    """Make the row of one of the `tensors` that were measured together."""
    model = evidence.model
    images = evidence.images
    numbers = evidence.statistics
    statistics = {}
    for name in STATISTICS:
        ends = {end: rounded(value) for end, value in getattr(numbers, name)}
        statistics[name] = BoundedStatistic(**ends)
    return Result(
        id=task.member.id,
        tensor=tensor,
        tensors=tensors,
        **labels_of(suite, task.member),
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


def labels_of(suite: OpenedSuite, member: Member) -> Fields:
    """Return the fields of a row that come from the suite, not from the measurement."""
    pp = member.effective_robustness_pp
    return {
        "checkpoint": member.checkpoint,
        "group": member.entry.group,
        "label": member.label,
        "hard_case": member.entry.hard_case,
        "effective_robustness_pp": None if pp is None else round(pp, 2),
        "suite": suite.suite.name,
        "suite_digest": suite.digest,
    }


def relabelled(rows: Iterable[Result], suite: OpenedSuite) -> tuple[Result, ...]:
    """Return the rows with the suite's current labels."""
    labels = {member.id: labels_of(suite, member) for member in suite.members}
    return tuple(row.model_copy(update=labels[row.id]) for row in rows if row.id in labels)
