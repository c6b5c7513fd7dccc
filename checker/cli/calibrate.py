"""Fit thresholds to a suite of models, as the verb `calibrate`.

The verb imports it when it is called.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ...thresholds.from_results import CannotFitError, fitted_profile
from ...thresholds.profile import PACKAGED, Profile, to_json
from ...thresholds.results import Result, ResultsError, joined, read
from ...thresholds.suite import OpenedSuite, SuiteError, open_suite
from ..core.progress import tell_stage
from ..errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from ..outside.storage.documents import write_atomically
from ..questions.calibrate.plan import plan, plan_json, refuse_unknown, render_plan
from ..questions.calibrate.run import measure
from ..questions.calibrate.table import done, open_table, relabelled
from ..questions.calibrate.task import CalibrationSettings, check_labels, image_set, tasks
from ..questions.calibrate.terminal import causes, render_summary
from ..text import as_json, page, printable
from .output import ascii_only, console_for
from .progress import progress_line

Failures = dict[str, RobustcheckError]
"""by model: why it has no row"""
Measured = tuple[tuple[Result, ...], Failures]
"""the rows of models, and why others have none"""


def open_named(suite: str | None, name: str) -> OpenedSuite | None:
    """Open a suite, for a profile of this id. Raises UsageError."""
    if name in PACKAGED:  # the ids of packaged profiles are names, too
        ids = ", ".join(PACKAGED)
        raise UsageError(f"--id is {name!r}; {ids} are ids of packaged profiles", "--id mine-1")
    with _usage_errors(f"{page('calibration')} shows a suite file"):
        return None if suite is None else open_suite(suite)


def show_plan(opened: OpenedSuite, settings: CalibrationSettings, table: Path | None, show: Callable[..., None]) -> int:
    """Show what a calibration would do."""
    digest, n_images = image_set(settings)
    work = tasks(opened, settings, digest)
    rows: list[Result] = []
    if table is not None and table.exists():
        with _usage_errors():
            rows = read(table)
    calibration = plan(work, rows, settings, n_images, digest)
    show(lambda: as_json(plan_json(calibration)), partial(render_plan, calibration))
    return 0


def measured(opened: OpenedSuite, settings: CalibrationSettings, table: Path, quiet: int) -> Measured:
    """Measure a suite. Returns the rows of its models, and the errors of those that failed."""
    with progress_line(quiet, opened.suite.name) as progress:
        tell_stage(progress, "reading images and models")
        digest, _ = image_set(settings)
        work = tasks(opened, settings, digest)
        refuse_unknown(work)
        rows = open_table(table, work)
        tell = (lambda _line: None) if quiet else _write_line
        failed = measure(opened, work, rows, settings, table, tell, progress)
    measured_rows = [row for task in work for row in done(task, rows)]
    return relabelled(measured_rows, opened), failed


def measured_before(tables: list[str], opened: OpenedSuite | None) -> Measured:
    """Return the rows of results tables.

    Of a suite they are those of its models, with its labels; a model without a row has an error.
    """
    with _usage_errors("robustcheck calibrate --help"):
        rows = joined([(path, read(path)) for path in map(Path, tables)])
    if opened is None:
        return rows, {}
    check_labels(opened)
    measured = {row.id for row in rows}
    failed: dict[str, RobustcheckError] = {
        member.id: CannotAssessError(f"no row of {member.id} is in the tables", "robustcheck calibrate --suite …")
        for member in opened.members
        if member.id not in measured
    }
    return relabelled(rows, opened), failed


def fitted(rows: tuple[Result, ...], name: str, tensor: str, failed: Failures, opened: OpenedSuite | None) -> Profile:
    """Fit a profile to rows. Raises CannotAssessError."""
    try:
        with _usage_errors():
            return fitted_profile(
                joined([(Path("results"), rows)]),
                id=name,
                tensor=tensor,
                missing={key: fault.message for key, fault in failed.items()},
                labels=" ".join(opened.suite.labels.meaning.split()) if opened else "",
                suite_known=opened is not None,
            )
    except CannotFitError as fault:
        raise CannotAssessError(
            f"{name}: {fault}", "add models with and without published robustness to the suite, or more images"
        ) from fault


def refuse_failed(failed: Failures, out: Path, table: Path | None, allow_missing: bool) -> None:
    """Refuse to write a profile where models failed. With `allow_missing`, they are listed on stderr instead."""
    if allow_missing or not failed:
        for name, fault in failed.items():
            _write_line(f"missing {causes({name: fault})[0]}")
        return
    codes = [fault.exit_code for fault in failed.values()]
    kind = EnvironmentFaultError if 4 in codes else CannotAssessError
    why = "; ".join(causes(failed))
    raise kind(
        f"{out}: profile is not written, as {len(failed)} models could not be measured: {why}",
        f"the other rows are in {table}: run it again for the missing ones, or with --allow-missing",
    )


def write_profile(profile: Profile, failed: Failures, out: Path, output: str, color: str) -> int:
    """Write a profile, and report it."""
    write_atomically(out, to_json(profile))
    if output == "json":
        missing = {name: fault.message for name, fault in failed.items()}
        written = {"profile": str(out), "id": profile.id, "digest": profile.digest, "missing": missing}
        sys.stdout.write(as_json({"schema_version": 1, "tool": "robustcheck"} | written))
        return 0
    console = console_for(color)
    console.print(f"wrote {out}: profile {profile.id} {profile.digest}", markup=False, soft_wrap=True)
    console.print()
    console.print(render_summary(profile, ascii_only=ascii_only(console)))
    console.print(f"\nrobustcheck profiles show {out}", markup=False, soft_wrap=True)
    return 0


@contextmanager
def _usage_errors(hint: str = "") -> Iterator[None]:
    """Turn a bad suite or table into UsageError. `hint` is for a fault that has none."""
    try:
        yield
    except (ResultsError, SuiteError) as fault:
        raise UsageError(str(fault), fault.hint or hint) from fault


def _write_line(text: str) -> None:
    """Write a line to stderr. The line of progress stays below it."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()
