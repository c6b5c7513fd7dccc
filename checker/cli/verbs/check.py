"""The verb `check`, the default command: PASS, or WARN with reasons."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustcheck_onnx.checker.errors import UsageError

from ..options import (
    CI,
    IMAGES,
    OUTPUT,
    VERDICT,
    BatchSize,
    Color,
    Debug,
    Device,
    MaxBad,
    MaxImagesOrAll,
    MaxMemory,
    MaxModelSize,
    NoTime,
    Offline,
    Pool,
    PreprocessOption,
    ProviderOption,
    Quiet,
    SaveRepresentations,
    Seed,
    Tensor,
    Timeout,
    completing,
    one_of,
)
from ..output import ascii_only, console_for

if TYPE_CHECKING:
    from ..settings import Resolved


def _forms() -> Sequence[str]:
    """The forms of `-o`, for a shell that completes them."""
    from robustcheck_onnx.checker.report import forms

    return forms.OUTPUTS


def check(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="ONNX files, folders (every .onnx file below), quoted globs, or addresses: hf://org/repo, "
            "models:/name/3 and others. The last place may be the photos, as for --images.",
            metavar="MODEL.onnx...",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="In-distribution photos: a folder, a quoted glob, a list (.txt), a manifest (.csv, .jsonl), .tar "
            "shards, .parquet, preprocessed tensors (.npy, .npz), or the word bundled. Default: the bundled photos, "
            "which are not yours.",
            metavar="PATH",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    max_images: MaxImagesOrAll = None,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
    preprocess: PreprocessOption = None,
    tensor: Tensor = None,
    pool: Pool = None,
    device: Device = "auto",
    provider_option: ProviderOption = None,
    batch_size: BatchSize = 32,
    thresholds: Annotated[
        str | None,
        typer.Option(
            help="Judge by this threshold profile. Default: the packaged one.",
            metavar="PROFILE",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            help="warn: a WARN exits with 1. never: every verdict exits with 0; an error never does.",
            metavar="WHEN",
            rich_help_panel=VERDICT,
        ),
    ] = "warn",
    accept: Annotated[
        str | None,
        typer.Option(
            help="not_applicable: a WARN exits with 0 where every reason is of that kind (the thresholds do not hold "
            "for this model). No other kind can be accepted.",
            metavar="KIND",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    waivers_file: Annotated[
        str | None,
        typer.Option(
            "--waivers",
            help="Read the waivers from this file, and none from a settings file.",
            metavar="FILE",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="A file, in the form of its suffix: .json, .html, .xml (JUnit), .md, .sarif or .txt. Or a form: "
            "terminal, json, junit, sarif, markdown, html, openmetrics, modelcard, gitlab, predicate, cyclonedx, or "
            "template=FILE.j2; with =PATH into a file. May be repeated. {model} in a path: one file per model. The "
            "terminal report goes to stdout unless another form does. --json is -o json.",
            metavar="FORMAT[=PATH]",
            autocompletion=completing(_forms),
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(
            help="Sign the report of -o json=PATH with this private key (PEM); the signature is written beside it, "
            "with .sigstore.json at the end (extra `sign`). A WARN is signed as a WARN.",
            metavar="KEY",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    save_representations: SaveRepresentations = None,
    quiet: Quiet = 0,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            max=2,
            help="The whole report of every model. -vv: also the log, on stderr.",
            rich_help_panel=OUTPUT,
        ),
    ] = 0,
    log_file: Annotated[
        str | None,
        typer.Option(help="Append to this file what is done, and when.", metavar="FILE", rich_help_panel=OUTPUT),
    ] = None,
    no_thumbnails: Annotated[
        bool,
        typer.Option(
            "--no-thumbnails",
            help="html: names instead of small copies of your photos, which everyone who gets the page can see.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    no_ci: Annotated[
        bool,
        typer.Option(
            "--no-ci", help="On GitHub Actions: no annotations, and no summary of the step.", rich_help_panel=CI
        ),
    ] = False,
    no_time: NoTime = False,
    color: Color = "auto",
    timeout: Timeout = None,
    max_memory: MaxMemory = None,
    max_model_size: MaxModelSize = None,
    config_file: Annotated[
        str | None,
        typer.Option(
            "--config",
            help="Read settings from this file. Default: the nearest robustcheck.toml, or pyproject.toml with "
            "[tool.robustcheck], in this folder or one above.",
            metavar="FILE",
            rich_help_panel=CI,
        ),
    ] = None,
    isolated: Annotated[
        bool,
        typer.Option("--isolated", help="Read no settings file and no ROBUSTCHECK_… variables.", rich_help_panel=CI),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="For a pipeline that checks what it does not trust: only the command line may loosen the gate, no "
            "settings file and no variable. Needs --images, and -- before the models.",
            rich_help_panel=CI,
        ),
    ] = False,
    show_settings: Annotated[
        bool,
        typer.Option(
            "--show-settings",
            help="Show each setting, its value and where it comes from; check nothing.",
            rich_help_panel=CI,
        ),
    ] = False,
    offline: Offline = False,
    debug: Debug = False,
) -> int:
    """Check models: PASS, or WARN with reasons. The default command."""
    from robustcheck_onnx.checker import isolation
    from robustcheck_onnx.checker.limits import MAX_MODEL_SIZE

    if show_settings and models:
        raise UsageError(
            f"MODEL.onnx is {models[0]}; --show-settings checks no model, and its exit code 0 is no PASS",
            "robustcheck check --show-settings",
        )
    if show_settings and strict:
        raise UsageError(
            "--show-settings is given with --strict, with which exit code 0 is a verdict's alone; it checks no model",
            "robustcheck check --show-settings",
        )
    if not models and not show_settings:
        raise UsageError("MODEL.onnx is missing; robustcheck check needs it", "robustcheck check --help")
    if isolated:
        os.environ.pop(MAX_MODEL_SIZE, None)  # the child would heed it
    with isolation.Wall() if models else contextlib.nullcontext() as wall:
        from .. import check_run  # while the child process starts
        from .. import models as places
        from ..settings import refuse_loosening

        if models:
            models, place = places.split_images(models, images_typed=images is not None, strict=strict)
            ctx.params["images"] = place or images
        resolved = _resolved(ctx, file=config_file, isolated=isolated, waivers_file=waivers_file)
        if wall is None:
            return _show_settings(resolved, (output or [])[-1:])
        if strict:
            refuse_loosening(resolved, ctx.obj.line)
        return check_run.run(resolved, models or [], ctx.obj, wall, save_representations, strict=strict, debug=debug)


def _resolved(ctx: typer.Context, *, file: str | None, isolated: bool, waivers_file: str | None) -> Resolved:
    """The settings, with those of the command line above all others."""
    from .. import settings

    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in ctx.params.items()
        if name in settings.Settings.model_fields
        and (source := ctx.get_parameter_source(name)) is not None
        and (source.name == "COMMANDLINE" or (name == "images" and value))  # they may be an argument
    }
    one_of("--fail-on", given.get("fail_on", "warn"), ("warn", "never"))
    if "accept" in given:
        one_of("--accept", given["accept"], ("not_applicable",))
    return settings.resolve(given, os.environ, file=file, isolated=isolated, waivers_file=waivers_file)


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
