"""The verb `calibrate`. It fits thresholds to a suite of models, or to what was measured of them before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.text import as_json, page, printable

from ..options import MODEL, OUTPUT, SPEED, VERDICT, Output, Several, one_of, option
from ..output import ascii_only, check_target, console_for, progress_line
from . import AS_FOR_A_CHECK, Call, takes

if TYPE_CHECKING:
    from robustcheck_onnx.checker.calibrate.run import Settings
    from robustcheck_onnx.thresholds.profile import Profile
    from robustcheck_onnx.thresholds.suite import Opened
    from robustcheck_onnx.thresholds.tables import Result


TENSORS = ("auto", "representation", "pooled")
Failures = dict[str, RobustcheckError]
"""by model: why it has no row"""


@takes(
    *("images", "max_images", "max_bad", "seed", "device", "provider_option", "batch_size", "color", "timeout"),
    *("max_memory", "quiet", "debug"),
    images=AS_FOR_A_CHECK,
    quiet={"help": "No progress."},
    timeout={"help": "Longest time that the measurement of one model may take. Default: no limit."},
    suite=option("The models: a suite file (TOML), or paper, the packaged one.", "SUITE", MODEL),
    out=option("The profile to write.", "PROFILE.json", OUTPUT, "--out"),
    results=option(
        "Keep what was measured in this table; later runs continue from it. Default: OUT with .results.jsonl.",
        "TABLE.jsonl",
        OUTPUT,
    ),
    plan=option("Show what would be done and how large it is; do nothing.", None, OUTPUT),
    from_evidence=option(
        "Fit to a table of results, without any model. May be given several times.", "TABLE.jsonl", MODEL
    ),
    from_reference=option("Write the default profile again, from the packaged reference table.", None, MODEL),
    tensor=option(
        "What to fit to: representation, pooled, or auto (the one that separates robust models from others better).",
        "TENSOR",
        MODEL,
    ),
    profile_id=option("The profile's id. Default: the name of OUT.", "ID", OUTPUT, "--id"),
    allow_missing=option("Write a profile even if models failed; it says which.", None, VERDICT),
    engine=option("local: processes of this machine. ray: a Ray cluster (extra `ray`).", "ENGINE", SPEED),
    workers=option("Worker processes. Default: 1; with ray, one for each device.", "N", SPEED, min=1),
    ray_address=option(
        "HOST:PORT of a running Ray cluster, or auto. Default: a cluster on this machine.", "ADDRESS", SPEED
    ),
    cache=option("Folder for exported models. Default: robustcheck/exports in your cache folder.", "FOLDER", OUTPUT),
)
def calibrate(
    call: Call,
    suite: str | None = None,
    out: Path | None = None,
    results: Path | None = None,
    plan: bool = False,
    from_evidence: Several = None,
    from_reference: bool = False,
    tensor: str = "auto",
    profile_id: str = "",
    allow_missing: bool = False,
    engine: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    cache: Path | None = None,
    output: Output = "terminal",
) -> int:
    """Fit thresholds to a suite of models, or to earlier measurements."""
    from robustcheck_onnx.checker.calibrate import run
    from robustcheck_onnx.checker.storage.stores import write_whole
    from robustcheck_onnx.thresholds.calibrate import default_profile
    from robustcheck_onnx.thresholds.profile import PACKAGED, to_json
    from robustcheck_onnx.thresholds.suite import open_suite
    from robustcheck_onnx.thresholds.tables import table_text

    one_of("--tensor", tensor, TENSORS)
    one_of("--engine", engine, ("local", "ray"))
    if (suite is not None or bool(from_evidence)) == from_reference:
        raise UsageError(
            "--suite, --from-evidence and --from-reference: one is needed, and only --suite and --from-evidence go "
            "together",
            "robustcheck calibrate --suite paper --images photos/ --plan",
        )
    if plan and (from_evidence or from_reference):
        raise UsageError("--plan is for a suite; tables need no model", "robustcheck calibrate --suite paper --plan")
    if out is None and not plan:
        raise UsageError("--out is missing; a calibration writes a profile", "--out profile.json")
    if out is not None:
        check_target(out, [Path(name) for name in (*(from_evidence or ()), suite or "") if name])
    failed: Failures = {}
    if from_reference:
        profile = default_profile(table_text())
    else:
        name = profile_id or (out.stem if out else "plan")
        if name in PACKAGED:  # the ids of packaged profiles are names, too
            known = ", ".join(PACKAGED)
            raise UsageError(f"--id is {name!r}; {known} are ids of packaged profiles", "--id mine-1")
        with _usage_errors(f"{page('calibration')} shows a suite file"):
            opened = None if suite is None else open_suite(suite)
        table = results or (out and out.with_suffix(".results.jsonl"))
        if from_evidence:
            table, (rows, failed) = Path(from_evidence[0]), _measured_before(from_evidence, opened)
        else:
            assert opened is not None
            settings = run.Settings(
                options=call.settings.options,
                cache=cache or run.cache_folder(),
                engine=engine,
                workers=workers,
                address=ray_address,
                limits=replace(call.settings, timeout=call.settings.timeout or 0).limits,  # by default it may take long
            )
            if plan:
                return _plan(opened, settings, table, output, call)
            assert out is not None
            assert table is not None
            run.check_labels(opened)
            if table.resolve() == out.resolve():
                raise UsageError(f"{out}: --results and --out are one file; they must be two", "leave out --results")
            check_target(table, [Path(suite or "")])
            rows, failed = _measured(opened, settings, table, call.settings.quiet)
        _refuse_failed(failed, out, table, allow_missing)
        profile = _fitted(rows, name, tensor, failed, opened)
    assert out is not None
    write_whole(out, to_json(profile))
    return _finish(profile, failed, out, output, call.settings.color)


def _measured(opened: Opened, settings: Settings, table: Path, quiet: int) -> tuple[tuple[Result, ...], Failures]:
    """Measure a suite. Returns the rows of its models, and the errors of those that failed."""
    from robustcheck_onnx.checker.calibrate import run
    from robustcheck_onnx.checker.calibrate.terminal import refuse_unknown
    from robustcheck_onnx.checker.isolation import tell_stage

    with progress_line(quiet, opened.suite.name) as progress:
        tell_stage(progress, "reading images and models")
        digest, _ = run.image_set(settings)
        work = run.tasks(opened, settings, digest)
        refuse_unknown(work)
        rows = run.open_table(table, work)
        tell = (lambda _line: None) if quiet else _write_line
        failed = run.measure(opened, work, rows, settings, table, tell, progress)
    return run.relabelled([row for task in work for row in run.done(task, rows)], opened), failed


@contextmanager
def _usage_errors(hint: str = "") -> Iterator[None]:
    """Turn a bad suite or table into UsageError. `hint` is for a fault that has none."""
    from robustcheck_onnx.thresholds.suite import SuiteError
    from robustcheck_onnx.thresholds.tables import ResultsError

    try:
        yield
    except (ResultsError, SuiteError) as fault:
        raise UsageError(str(fault), fault.hint or hint) from fault


def _write_line(text: str) -> None:
    """Write a line to stderr. The line of progress stays below it."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def _plan(opened: Opened, settings: Settings, table: Path | None, output: str, call: Call) -> int:
    from robustcheck_onnx.checker.calibrate import run
    from robustcheck_onnx.checker.calibrate.terminal import plan, plan_json, render_plan
    from robustcheck_onnx.thresholds.tables import read

    digest, n_images = run.image_set(settings)
    work = run.tasks(opened, settings, digest)
    rows: list[Result] = []
    if table is not None and table.exists():
        with _usage_errors():
            rows = read(table)
    made = plan(work, rows, settings, n_images, digest)
    call.show(output, lambda: as_json(plan_json(made)), partial(render_plan, made))
    return 0


def _measured_before(tables: list[str], opened: Opened | None) -> tuple[tuple[Result, ...], Failures]:
    """Return the rows of results tables.

    Of a suite they are those of its models, with its labels; a model without a row has an error.
    """
    from robustcheck_onnx.checker.calibrate.run import check_labels, relabelled
    from robustcheck_onnx.thresholds.tables import joined, read

    with _usage_errors("robustcheck calibrate --help"):
        rows = joined([(Path(table), read(Path(table))) for table in tables])
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


def _fitted(rows: tuple[Result, ...], name: str, tensor: str, failed: Failures, opened: Opened | None) -> Profile:
    from robustcheck_onnx.thresholds.calibrate import CannotFitError, fitted_profile
    from robustcheck_onnx.thresholds.tables import joined

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


def _refuse_failed(failed: Failures, out: Path | None, table: Path | None, allow_missing: bool) -> None:
    """Refuse to write a profile where models failed. With `allow_missing`, they are listed on stderr instead."""
    from robustcheck_onnx.checker.calibrate.terminal import causes

    if allow_missing or not failed:
        for name, fault in failed.items():
            _write_line(f"missing {causes({name: fault})[0]}")
        return
    kind = EnvironmentFaultError if any(fault.exit_code == 4 for fault in failed.values()) else CannotAssessError
    raise kind(
        f"{out}: profile is not written, as {len(failed)} models could not be measured: {'; '.join(causes(failed))}",
        f"the other rows are in {table}: run it again for the missing ones, or with --allow-missing",
    )


def _finish(made: Profile, failed: Failures, out: Path, output: str, color: str) -> int:
    from robustcheck_onnx.checker.calibrate.terminal import render_summary

    if output == "json":
        missing = {name: fault.message for name, fault in failed.items()}
        written = {"profile": str(out), "id": made.id, "digest": made.digest, "missing": missing}
        sys.stdout.write(as_json({"schema_version": 1, "tool": "robustcheck"} | written))
        return 0
    console = console_for(color)
    console.print(f"wrote {out}: profile {made.id} {made.digest}", markup=False, soft_wrap=True)
    console.print()
    console.print(render_summary(made, ascii_only=ascii_only(console)))
    console.print(f"\nrobustcheck profiles show {out}", markup=False, soft_wrap=True)
    return 0
