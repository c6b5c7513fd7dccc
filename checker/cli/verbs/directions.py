"""The verb `directions`: which directions of a classifier's head weigh most, and what is left without the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..options import (
    BatchSize,
    Color,
    Debug,
    Device,
    Images,
    MaxBad,
    MaxMemory,
    MaxModelSize,
    Model,
    NoTime,
    Pool,
    PreprocessOption,
    ProviderOption,
    Quiet,
    Seed,
    Tensor,
    Timeout,
    Verbose,
    completing,
    limits_of,
    one_of,
    run_options,
)
from ..output import deliver, destinations_of, measuring
from ..panels import IMAGES, MODEL, OUTPUT, VERDICT


def _forms() -> Sequence[str]:
    """The forms of `-o`, for a shell that completes them."""
    from robustcheck_onnx.checker.directions import forms

    return ("terminal", *forms.FORMS)


def directions(
    ctx: typer.Context,
    model: Model,
    images: Images = None,
    inside: Annotated[
        str | None,
        typer.Option(
            "--in",
            help="Images with labels, as of `robustcheck shift`: accuracy is measured, too. Without --images, "
            "everything is measured on them.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    shifted: Annotated[
        list[str] | None,
        typer.Option(
            help="A shifted set with labels, as of `robustcheck shift`. May be given several times.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="What labels mean, as of `robustcheck shift`.", metavar="[NAME=]MAP", rich_help_panel=IMAGES),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            help="Published models that effective robustness is measured against: timm or testbed.",
            metavar="NAME",
            rich_help_panel=VERDICT,
        ),
    ] = "timm",
    max_images: Annotated[
        int,
        typer.Option(min=1, help="Stop after this many images of each set.", metavar="N", rich_help_panel=IMAGES),
    ] = 300,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
    head: Annotated[
        Path | None,
        typer.Option(
            help="Weights of a linear head on the representation, instead of the model's own: .npy (class, feature), "
            "or .safetensors with weight and bias. --tensor and --pool may only be given with it.",
            metavar="FILE",
            rich_help_panel=MODEL,
        ),
    ] = None,
    preprocess: PreprocessOption = None,
    tensor: Tensor = None,
    pool: Pool = None,
    device: Device = "auto",
    provider_option: ProviderOption = None,
    batch_size: BatchSize = 32,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="terminal, json or html; with =PATH into a file. May be given several times.",
            metavar="FORMAT[=PATH]",
            autocompletion=completing(_forms),
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
    no_time: NoTime = False,
    color: Color = "auto",
    timeout: Timeout = None,
    max_memory: MaxMemory = None,
    max_model_size: MaxModelSize = None,
    debug: Debug = False,
) -> int:
    """Show the important directions of a head, and what pruning costs.

    Information, not a gate: the exit code is 0 when it was measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.directions import forms, terminal
    from robustcheck_onnx.checker.directions import run as measuring_directions
    from robustcheck_onnx.thresholds.baselines import SOURCES

    one_of("--baseline", baseline, SOURCES)
    destinations = destinations_of(output or [], [model, *([head] if head else [])], ("terminal", *forms.FORMS))
    with measuring(destinations, model, quiet) as progress:
        result = measuring_directions.directions(
            model,
            head=head,
            labelled=inside,
            shifted=shifted or (),
            classes=classes or (),
            baseline=baseline,
            limits=limits_of(timeout, max_memory, max_model_size),
            progress=progress,
            **run_options(ctx),
        )
    if no_time:
        result = result.model_copy(update={"time": None})
    deliver(
        destinations,
        lambda form: forms.render(form, result),
        partial(terminal.render, result, verbose=verbose > 0),
        color,
        quiet=quiet,
        line=terminal.one_line(result),
    )
    return 0
