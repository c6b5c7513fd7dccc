"""The verb `shift`: accuracy under a distribution shift, measured with labels or predicted without."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..options import (
    BatchSize,
    Color,
    Debug,
    Device,
    MaxBad,
    MaxMemory,
    MaxModelSize,
    Model,
    NoTime,
    Outputs,
    PreprocessOption,
    ProviderOption,
    Quiet,
    Seed,
    Timeout,
    Verbose,
    limits_of,
    one_of,
    run_options,
)
from ..output import check_extra, deliver, destinations_of, measuring
from ..panels import IMAGES, OUTPUT, VERDICT

if TYPE_CHECKING:
    from robustcheck_onnx.checker.evidence import RunOptions


def shift(
    ctx: typer.Context,
    model: Model,
    inside: Annotated[
        str,
        typer.Option(
            "--in",
            help="In-distribution images with labels: a folder of class folders, or a manifest (.csv, .jsonl) with a "
            "column label. imagenet=PATH says that it is ImageNet.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ],
    shifted: Annotated[
        list[str] | None,
        typer.Option(
            help="A shifted set, with labels too. v2=, sketch=, r=, a= and objectnet= name the known ones. May be "
            "given several times.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A set without labels: accuracy on it is predicted from the model's scores. May be given several "
            "times.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(help="Further sets of the one kind that is given.", metavar="[NAME=]PATH…", show_default=False),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="What labels mean: imagenet, imagenet-r, imagenet-a, names (of the file's contract), sorted (class "
            "folders in order), or a JSON file that maps labels to class indices. With NAME= for one set only. "
            "Default: synset ids, indices and class names are recognised.",
            metavar="[NAME=]MAP",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            help="Published models that effective robustness is measured against: timm or testbed.",
            metavar="NAME",
            rich_help_panel=VERDICT,
        ),
    ] = "timm",
    report: Annotated[
        Path | None,
        typer.Option(
            help="JSON report of a check of this model. Default: the check runs on the images of --in.",
            metavar="REPORT.json",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    suite_entry: Annotated[
        Path | None,
        typer.Option(
            help="Also write the accuracies as a model of a suite file (TOML).",
            metavar="ENTRY.toml",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    max_images: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after this many images of each set.", metavar="N", rich_help_panel=IMAGES),
    ] = None,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
    preprocess: PreprocessOption = None,
    device: Device = "auto",
    provider_option: ProviderOption = None,
    batch_size: BatchSize = 32,
    output: Outputs = None,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
    no_time: NoTime = False,
    color: Color = "auto",
    timeout: Timeout = None,
    max_memory: MaxMemory = None,
    max_model_size: MaxModelSize = None,
    debug: Debug = False,
) -> int:
    """Measure accuracy on shifted images, or predict it without labels.

    Information, not a gate: the exit code is 0 when it was measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.errors import CannotAssessError
    from robustcheck_onnx.checker.shift import measure_shift, terminal, to_json
    from robustcheck_onnx.checker.storage import write_whole
    from robustcheck_onnx.thresholds.baselines import SOURCES

    from .. import ending

    one_of("--baseline", baseline, SOURCES)
    labelled, unlabelled = _with_further(shifted or [], target or [], more or [])
    reads = [model, *([report] if report else [])]
    destinations = destinations_of(output or [], reads)
    if suite_entry is not None:
        check_extra("--suite-entry", suite_entry, reads, destinations, "entry.toml")
    with measuring(destinations, model, quiet) as progress:
        result = measure_shift(
            model,
            inside,
            labelled,
            target=unlabelled,
            classes=classes or (),
            baseline=baseline,
            report=report,
            limits=limits_of(timeout, max_memory, max_model_size),
            progress=progress,
            **cast("RunOptions", run_options(ctx)),  # its images have another name
        )
    if no_time:
        result = result.model_copy(update={"time": None})
    deliver(
        destinations,
        lambda _form: to_json(result),
        partial(terminal.render, result, verbose=verbose > 0),
        color,
        quiet=quiet,
        line=terminal.one_line(result),
    )
    if suite_entry is not None:
        try:
            entry = terminal.suite_entry(result, suite_entry.resolve().parent)
        except CannotAssessError as fault:  # the report stands: an error document must not take its place
            ending.say(f"{suite_entry}: {fault.message}", fault.hint)
            return fault.exit_code
        write_whole(suite_entry, entry)
    return 0


def _with_further(shifted: list[str], targets: list[str], more: list[str]) -> tuple[list[str], list[str]]:
    """Add the words that follow an option's first set to the sets of that option.

    Raises UsageError where both options are given: which of them the words follow is not known here.
    """
    from robustcheck_onnx.checker.errors import UsageError

    if more and shifted and targets:
        raise UsageError(
            f"{more[0]}: set is given without an option; with both --shifted and --target each set needs its own",
            f"--shifted {more[0]}, or --target {more[0]}",
        )
    return (shifted, targets + more) if targets else (shifted + more, targets)
