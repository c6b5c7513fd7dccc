"""The verb `check`, the default command: PASS, or WARN with reasons."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustcheck_onnx.checker.errors import UsageError

from ..options import (
    BatchSize,
    Color,
    Debug,
    Device,
    MaxBad,
    MaxImagesOrAll,
    NoTime,
    Pool,
    PreprocessOption,
    Quiet,
    RayAddress,
    Seed,
    Tensor,
    one_of,
)
from ..output import ascii_only, console_for

if TYPE_CHECKING:
    from ..settings import Resolved


def check(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="ONNX files, folders (all .onnx files below) or quoted globs; several: one after the other.",
            metavar="MODEL.onnx...",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="In-distribution photos: a folder, a quoted glob, a list (.txt), a manifest (.csv, .jsonl), .tar "
            "shards, .parquet, or preprocessed tensors (.npy, .npz). Default: the bundled photos.",
            metavar="PATH",
        ),
    ] = None,
    max_images: MaxImagesOrAll = None,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
    preprocess: PreprocessOption = None,
    tensor: Tensor = None,
    pool: Pool = None,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    thresholds: Annotated[
        str | None, typer.Option(help="A threshold profile instead of the default.", metavar="PROFILE.json")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local stops as soon as the evidence decides; ray spreads huge image sets over the devices of a Ray "
            "cluster and measures every image (extra `ray`)."
        ),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray: so many workers. Default: one a GPU, else one for every 4 cores.")
    ] = None,
    ray_address: RayAddress = None,
    fail_on: Annotated[
        str, typer.Option(help="warn: WARN exits with 1. never: a verdict exits with 0; an error never does.")
    ] = "warn",
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Short for --fail-on never.")] = False,
    accept: Annotated[
        str | None,
        typer.Option(
            help="not_applicable: WARN exits with 0 where every reason is of that kind: the thresholds do not hold for "
            "this model. No other kind can be accepted.",
            metavar="KIND",
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="terminal, json, junit, sarif, markdown, html, openmetrics, modelcard, csv or gitlab, each with =PATH "
            "to write a file; repeatable. Without a format on stdout the terminal report goes there. "
            "{model} in PATH: one file for each model.",
            metavar="FORMAT[=PATH]",
        ),
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(
            help="Sign the report of -o json=PATH with this private key, a PEM file as for `robustcheck sign`; the "
            "signature goes to PATH's name with .sigstore.json (extra `sign`). A WARN is signed as a WARN.",
            metavar="KEY",
        ),
    ] = None,
    quiet: Quiet = 0,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            max=2,
            help="The whole report, of several models too. -vv: also the log, on stderr.",
        ),
    ] = 0,
    log_file: Annotated[
        str | None, typer.Option(help="Append what is done, and when, to this file.", metavar="FILE")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Measure, whatever an earlier run of the same check found.")
    ] = False,
    no_thumbnails: Annotated[
        bool,
        typer.Option(
            "--no-thumbnails",
            help="html: names instead of small copies of the most and least extreme calibration photos. With the "
            "copies, whoever gets the page sees those photos.",
        ),
    ] = False,
    no_ci: Annotated[
        bool, typer.Option("--no-ci", help="On GitHub Actions: no annotations, nothing in the step's summary.")
    ] = False,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="Run this installed plug-in too (docs/detectors.md); repeatable. It can add a WARN, never take one "
            "away.",
            metavar="NAME",
        ),
    ] = None,
    no_time: NoTime = False,
    color: Color = "auto",
    config_file: Annotated[
        str | None,
        typer.Option(
            "--config",
            help="Settings from this file. Default: the nearest robustcheck.toml, or pyproject.toml with "
            "[tool.robustcheck], from the current folder upward.",
            metavar="FILE",
        ),
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="No settings from a file or from ROBUSTCHECK_… variables.")
    ] = False,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Show each setting, its value and its source; check nothing.")
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Refuse URLs of other machines (docs/remote.md); so does ROBUSTCHECK_OFFLINE=1."
        ),
    ] = False,
    debug: Debug = False,
) -> int:
    """Check models: PASS, or WARN with reasons (the default command)."""
    from .. import check_run, settings

    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in ctx.params.items()
        if name in settings.Settings.model_fields
        and (source := ctx.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    }
    if exit_zero:
        if given.get("fail_on", "never") != "never":
            raise UsageError("--fail-on is warn; --exit-zero says never", "leave out one of them")
        given["fail_on"] = "never"
    one_of("--fail-on", given.get("fail_on", "warn"), ("warn", "never"))
    if "accept" in given:
        one_of("--accept", given["accept"], ("not_applicable",))
    if show_settings and models:
        raise UsageError(
            f"MODEL.onnx is {models[0]}; --show-settings checks no model, and its exit code 0 is no PASS",
            "robustcheck check --show-settings",
        )
    if not models and not show_settings:
        raise UsageError("MODEL.onnx is missing; robustcheck check needs it", "robustcheck check --help")
    resolved = settings.resolve(given, os.environ, file=config_file, isolated=isolated)
    if show_settings:
        return _show_settings(resolved, given.get("output", ()))
    return check_run.run(resolved, models or [], ctx.obj, debug=debug)


def _show_settings(resolved: Resolved, output: Sequence[str]) -> int:
    """Write each setting, its value and its source to stdout."""
    from rich.console import Group

    from robustcheck_onnx.checker.report import Pen, Trimmed, columns
    from robustcheck_onnx.checker.text import as_json

    from .. import settings

    form = output[-1] if output else "terminal"
    one_of("--output", form, ("terminal", "json"))
    document = settings.settings_json(resolved)
    if form == "json":
        sys.stdout.write(as_json(document))
        return 0
    console = console_for(resolved.settings.color)
    pen = Pen(ascii_only(console))
    table = columns(pen, "=setting", "value", "source")
    for key, entry in document["settings"].items():
        value, source = entry["value"], entry["source"]
        text = settings.value_text(key, value)
        table.add_row(pen.say(key), pen.name(text), pen.name(source, "dim" if source == settings.DEFAULT else "bold"))
    where = f"file: {resolved.file}" if resolved.file else "file: none"
    console.print(Trimmed(Group(table, pen.name(where))))
    return 0
