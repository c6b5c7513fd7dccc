"""The verb `calibrate`: thresholds from a suite of models, or from what was measured of them before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.text import printable

from ..options import BatchSize, Color, Debug, Device, Images, MaxBad, MaxImagesOrAll, Output, RayAddress, Seed, one_of
from ..output import ascii_only, console_for, print_report
from . import profiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robustcheck_onnx.checker.calibrate import Settings
    from robustcheck_onnx.thresholds.profile import Profile
    from robustcheck_onnx.thresholds.results import Result
    from robustcheck_onnx.thresholds.suite import Opened


TENSORS = ("auto", "representation", "pooled")


def calibrate(
    suite: Annotated[
        str | None,
        typer.Option(help="Suite file (TOML, docs/calibration.md), or paper: the packaged one.", metavar="SUITE"),
    ] = None,
    images: Images = None,
    out: Annotated[Path | None, typer.Option("--out", help="The profile to write.", metavar="PROFILE.json")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Table of result rows, added to. Default: OUT with .results.jsonl.", metavar="TABLE.jsonl"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and how large it is; do nothing.")] = (
        False
    ),
    from_evidence: Annotated[
        list[str] | None,
        typer.Option(help="Fit to this results table, without any model; repeatable.", metavar="TABLE.jsonl"),
    ] = None,
    from_reference: Annotated[
        bool, typer.Option("--from-reference", help="Write the default profile, from the packaged reference table.")
    ] = False,
    tensor: Annotated[str, typer.Option(help="Fit to: representation, pooled, or auto (what parts better).")] = "auto",
    profile_id: Annotated[str, typer.Option("--id", help="The profile's id. Default: the name of OUT.")] = "",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Write a profile although models failed; it says which.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local (processes) or ray (extra `ray`).")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes. Default: 1; ray: one a device.")] = None,
    ray_address: RayAddress = None,
    device: Device = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Folder for exports. Default: exports/ in the cache folder.", metavar="DIR")
    ] = None,
    max_images: MaxImagesOrAll = None,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    output: Output = "terminal",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Fit a threshold profile to the models of a suite, or to what was measured of them before."""
    from robustcheck_onnx.checker.calibrate import check_labels, open_table, refuse_unknown, relabelled, tasks
    from robustcheck_onnx.checker.calibrate import run as calibration
    from robustcheck_onnx.checker.calibrate import table as calibration_table
    from robustcheck_onnx.checker.storage import write_whole
    from robustcheck_onnx.thresholds import reference
    from robustcheck_onnx.thresholds.calibrate import default_profile
    from robustcheck_onnx.thresholds.profile import to_json

    from .. import output as delivery

    one_of("--tensor", tensor, TENSORS)
    one_of("--engine", engine, ("local", "ray"))
    _check_call(suite, from_evidence, from_reference, plan, out)
    if out is not None:
        delivery.check_target(out, [Path(name) for name in (*(from_evidence or ()), suite or "") if name])
    if from_reference:
        assert out is not None
        made = default_profile(reference.table_text())
        write_whole(out, to_json(made))
        return _finish(made, {}, out, output, color)
    name = profile_id or (out.stem if out else "plan")
    profiles.check_id(name)
    opened = None if suite is None else _opened(suite)
    if from_evidence:
        return _refit(from_evidence, opened, name, tensor, out, allow_missing, output, color)
    assert opened is not None
    settings = tasks.Settings(
        images=images,
        cache=cache or tasks.cache_folder(),
        seed=seed,
        max_images=max_images,
        max_bad=max_bad,
        device=device,
        batch_size=batch_size,
        engine=engine,
        workers=workers,
        address=ray_address,
    )
    table = results or (out.with_suffix(".results.jsonl") if out else None)
    if plan:
        return _plan(opened, settings, table, output, color)
    assert out is not None
    assert table is not None
    check_labels(opened)
    if table.resolve() == out.resolve():
        raise UsageError(f"{out}: --results and --out are one file; they must be two", "leave out --results")
    delivery.check_target(table, [Path(suite or "")])
    digest, _ = tasks.image_set(settings)
    work = tasks.tasks(opened, settings, digest)
    refuse_unknown(work)
    rows = open_table(table, work)
    failed = calibration.measure(opened, work, rows, settings, table, Teller(quiet))
    used = relabelled([row for task in work for row in calibration_table.done(task, rows)], opened)
    _refuse_failed(failed, out, table, allow_missing)
    made = _fitted(used, name, tensor, {key: fault.message for key, fault in failed.items()}, opened)
    write_whole(out, to_json(made))
    return _finish(made, failed, out, output, color)


def _check_call(suite: str | None, tables: list[str] | None, reference: bool, plan: bool, out: Path | None) -> None:
    if sum((suite is not None or bool(tables), reference)) != 1:
        raise UsageError(
            "--suite, --from-evidence and --from-reference say what to fit to; one of them is needed, and only a "
            "suite goes with --from-evidence",
            "robustcheck calibrate --suite paper --images photos/ --plan",
        )
    if plan and (tables or reference):
        raise UsageError("--plan is for a suite; tables need no model", "robustcheck calibrate --suite paper --plan")
    if out is None and not plan:
        raise UsageError("--out is missing; a calibration writes a profile", "--out profile.json")


def _opened(spec: str) -> Opened:
    from robustcheck_onnx.thresholds.suite import SuiteError, open_suite

    try:
        return open_suite(spec)
    except SuiteError as fault:
        raise UsageError(str(fault), fault.hint or "docs/calibration.md shows a suite file") from fault


class Teller:
    """Writes lines of progress to stderr, unless it is to be quiet."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, text: str) -> None:
        """Write one line."""
        if not self.quiet:
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()


def _plan(opened: Opened, settings: Settings, table: Path | None, output: str, color: str) -> int:
    from robustcheck_onnx.checker.calibrate import plan as calibration_plan
    from robustcheck_onnx.checker.calibrate import plan_json, render_plan, tasks
    from robustcheck_onnx.checker.text import as_json
    from robustcheck_onnx.thresholds import results

    digest, n_images = tasks.image_set(settings)
    work = tasks.tasks(opened, settings, digest)
    rows: list[Result] = []
    if table is not None and table.exists():
        try:
            rows = results.read(table)
        except results.ResultsError as fault:
            raise UsageError(str(fault), fault.hint) from fault
    made = calibration_plan.plan(work, rows, settings, n_images, digest)
    if output == "json":
        sys.stdout.write(as_json(plan_json(made)))
    else:
        print_report(lambda only_ascii: render_plan(made, ascii_only=only_ascii), color)
    return 0


def _refit(
    tables: list[str],
    opened: Opened | None,
    name: str,
    tensor: str,
    out: Path | None,
    allow_missing: bool,
    output: str,
    color: str,
) -> int:
    from robustcheck_onnx.checker.calibrate import check_labels, relabelled
    from robustcheck_onnx.checker.storage import write_whole
    from robustcheck_onnx.thresholds import results
    from robustcheck_onnx.thresholds.profile import to_json

    assert out is not None
    try:
        rows = results.joined([(Path(table), results.read(Path(table))) for table in tables])
    except results.ResultsError as fault:
        raise UsageError(str(fault), fault.hint or "robustcheck calibrate --help") from fault
    failed: dict[str, RobustcheckError] = {}
    if opened is not None:
        check_labels(opened)
        have = {row.id for row in rows}
        failed = {
            member.id: CannotAssessError(f"no row of {member.id} is in the tables", "robustcheck calibrate --suite …")
            for member in opened.members
            if member.id not in have
        }
        rows = relabelled(rows, opened)
        _refuse_failed(failed, out, Path(tables[0]), allow_missing)
    made = _fitted(rows, name, tensor, {key: fault.message for key, fault in failed.items()}, opened)
    write_whole(out, to_json(made))
    return _finish(made, failed, out, output, color)


def _fitted(
    rows: tuple[Result, ...], name: str, tensor: str, missing: dict[str, str], opened: Opened | None
) -> Profile:
    from robustcheck_onnx.thresholds.make_profile import CannotFitError, fitted_profile
    from robustcheck_onnx.thresholds.results import ResultsError, joined

    try:
        return fitted_profile(
            joined([(Path("results"), rows)]),
            id=name,
            tensor=tensor,
            missing=missing,
            labels=" ".join(opened.suite.labels.meaning.split()) if opened else "",
            suite_known=opened is not None,
        )
    except ResultsError as fault:
        raise UsageError(str(fault), fault.hint) from fault
    except CannotFitError as fault:
        raise CannotAssessError(
            f"{name}: {fault}", "add models with and without published robustness to the suite, or more images"
        ) from fault


def causes(failed: Mapping[str, RobustcheckError]) -> list[str]:
    """Why models failed, each cause once: one package that is missing can fail every model of a suite."""
    names: dict[str, list[str]] = {}
    for name, fault in failed.items():
        names.setdefault(_cause(fault), []).append(name)
    return [
        f"{', '.join(of[:3])}{f' and {len(of) - 3} more' if len(of) > 3 else ''}: {cause}"
        for cause, of in names.items()
    ]


def _cause(fault: RobustcheckError) -> str:
    return f"{fault.message} ({fault.hint})" if fault.hint else fault.message


def _refuse_failed(failed: dict[str, RobustcheckError], out: Path, table: Path, allow_missing: bool) -> None:
    """A calibration with failed models must not look complete: no profile, unless it was allowed to say so itself."""
    if not failed:
        return
    if allow_missing:
        for name, fault in failed.items():
            Teller(False)(f"missing {name}: {_cause(fault)}")
        return
    kind = EnvironmentFaultError if any(fault.exit_code == 4 for fault in failed.values()) else CannotAssessError
    raise kind(
        f"{out}: profile is not written, as {len(failed)} models could not be measured: {'; '.join(causes(failed))}",
        f"the other rows are in {table}: run it again for the missing ones, or with --allow-missing",
    )


def _finish(made: Profile, failed: dict[str, RobustcheckError], out: Path, output: str, color: str) -> int:
    from robustcheck_onnx.checker.calibrate import render_summary
    from robustcheck_onnx.checker.text import as_json

    if output == "json":
        sys.stdout.write(
            as_json(
                {
                    "schema_version": 1,
                    "tool": "robustcheck",
                    "profile": str(out),
                    "id": made.id,
                    "digest": made.digest,
                    "missing": {name: fault.message for name, fault in failed.items()},
                }
            )
        )
        return 0
    console = console_for(color)
    console.print(f"wrote {out}: profile {made.id} {made.digest}", markup=False, soft_wrap=True)
    console.print()
    console.print(render_summary(made, ascii_only=ascii_only(console)))
    console.print(f"\nrobustcheck profiles show {out}", markup=False, soft_wrap=True)
    return 0
