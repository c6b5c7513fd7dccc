"""The results table of a calibration: makes its rows from evidence, adds them, and says which rows count."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.storage.write import write_whole
from robustcheck_onnx.checker.text import quoted
from robustcheck_onnx.thresholds import results
from robustcheck_onnx.thresholds.profile import STATISTICS
from robustcheck_onnx.thresholds.results import TENSORS, Measured, Result, rounded
from robustcheck_onnx.thresholds.suite import Member, Opened

from .tasks import MEASURING, Task, versions_of

CONTEXT = ("centred_kurtosis", "rms_kurtosis", "max_median_ratio", "zero_share", "negative_share", "spread")


def open_table(path: Path, work: Sequence[Task]) -> list[Result]:
    """Read a results table and make the file ready for new rows.

    An incomplete last line is cut off. A model and tensor has one row, so rows of the suite's models with another key,
    which were measured with other weights, images or versions, are moved into another table (`superseded`).

    Raises UsageError: the file is no results table. EnvironmentFaultError: it can't be written.
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
    whole = "".join(results.to_line(row) for row in current)
    if path.read_text(encoding="utf-8") != whole:
        write_whole(path, whole)
    return current


def superseded(path: Path) -> Path:
    """The table of the rows that newer measurements replace."""
    return path.with_name(f"{path.stem}.superseded{path.suffix}")


def append(path: Path, rows: Sequence[Result]) -> None:
    """Add rows to the table in one write; they are on the disk when this returns.

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
            f"df -h {quoted(path.parent)}",
        ) from fault


def done(task: Task, rows: Iterable[Result]) -> tuple[Result, ...]:
    """The rows of a task, one for each tensor of its pass; none unless all are there with the task's key."""
    own = {row.tensor: row for row in rows if task.key and (row.id, row.key) == (task.member.id, task.key)}
    complete = own and all(set(row.tensors) <= set(own) for row in own.values())
    return tuple(own[tensor] for tensor in sorted(own)) if complete else ()


def row_of(
    suite: Opened, task: Task, tensor: str, tensors: Sequence[str | None], evidence: Evidence, wall_s: float
) -> Result:
    """Make a row of the results table from the evidence about one of the `tensors` that were measured together."""
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
        versions=versions_of(MEASURING),
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
