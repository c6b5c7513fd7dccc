"""The verb `scan`: outlier features at the end of every block of a model."""

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
    MaxImages,
    MaxMemory,
    MaxModelSize,
    Model,
    NoTime,
    Pool,
    PreprocessOption,
    ProviderOption,
    Quiet,
    SaveRepresentations,
    Seed,
    Tensor,
    Timeout,
    Verbose,
    completing,
    limits_of,
    run_options,
)
from ..output import check_extra, deliver, destinations_of, measuring
from ..panels import MODEL, OUTPUT


def _forms() -> Sequence[str]:
    """The forms of `-o`, for a shell that completes them."""
    from robustcheck_onnx.checker.scan import forms

    return ("terminal", *forms.FORMS)


def scan(
    ctx: typer.Context,
    model: Model,
    images: Images = None,
    max_images: MaxImages = 64,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
    preprocess: PreprocessOption = None,
    tensor: Tensor = None,
    pool: Pool = None,
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this tensor instead of the ends of blocks found by rule. May be given several times.",
            metavar="TENSOR",
            rich_help_panel=MODEL,
        ),
    ] = None,
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
    save_representations: SaveRepresentations = None,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
    no_time: NoTime = False,
    color: Color = "auto",
    timeout: Timeout = None,
    max_memory: MaxMemory = None,
    max_model_size: MaxModelSize = None,
    debug: Debug = False,
) -> int:
    """Show outlier features block by block through the depth of a model.

    Information, not a gate: the exit code is 0 when it was measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.scan import forms, terminal
    from robustcheck_onnx.checker.scan import run as scanning

    destinations = destinations_of(output or [], [model], ("terminal", *forms.FORMS))
    if save_representations is not None:
        check_extra("--save-representations", Path(save_representations), [model], destinations, "rows.npz")
    with measuring(destinations, model, quiet) as progress:
        result = scanning.scan(
            model,
            blocks=block or (),
            save_representations=save_representations,
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
