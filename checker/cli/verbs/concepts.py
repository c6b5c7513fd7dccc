"""The verb `concepts`: the concepts of a labelled set that single directions of a representation tell."""

from __future__ import annotations

from collections.abc import Sequence
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
    MaxImagesOrAll,
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
    run_options,
)
from ..output import deliver, destinations_of, measuring
from ..panels import IMAGES, MODEL, OUTPUT

if TYPE_CHECKING:
    from robustcheck_onnx.checker.evidence import RunOptions


def _forms() -> Sequence[str]:
    """The forms of `-o`, for a shell that completes them."""
    from robustcheck_onnx.checker.concepts import forms

    return ("terminal", *forms.FORMS)


def concepts(
    ctx: typer.Context,
    model: Model,
    concept_set: Annotated[
        str,
        typer.Option(
            "--concepts",
            help="A folder of folders named after concepts, a manifest (.csv, .jsonl) with the columns path and "
            "concept (and perhaps score), or a Broden-layout folder.",
            metavar="SET",
            rich_help_panel=IMAGES,
        ),
    ],
    of: Annotated[
        str | None,
        typer.Option(
            help="Directions: head (right singular vectors of its weight), features, or axes (principal axes of these "
            "images). Default: head where there is one, else axes.",
            metavar="WHAT",
            rich_help_panel=MODEL,
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            help="Take the head from a file: .npy or .safetensors with its weight, (class, feature).",
            metavar="FILE",
            rich_help_panel=MODEL,
        ),
    ] = None,
    min_positives: Annotated[
        int,
        typer.Option(
            min=2,
            help="Judge a concept that at least so many images have, and as many do not.",
            metavar="N",
            rich_help_panel=IMAGES,
        ),
    ] = 10,
    min_coverage: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of a Broden mask from which a concept is present; 0: any pixel.",
            metavar="SHARE",
            rich_help_panel=IMAGES,
        ),
    ] = 0.0,
    shuffles: Annotated[
        int,
        typer.Option(
            min=19, help="How often labels are shuffled to see what chance gives.", metavar="N", rich_help_panel=IMAGES
        ),
    ] = 200,
    max_images: MaxImagesOrAll = None,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
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
    """Count the concepts that single directions tell, beside chance.

    A direction of the representation tells a concept where it ranks the images that have it before the others. The
    number of concepts is not an indicator of robustness. Information, not a gate: the exit code is 0 when it was
    measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.concepts import concepts as measure_concepts
    from robustcheck_onnx.checker.concepts import forms, terminal

    reads = [model, *([head] if head else []), *([Path(concept_set)] if Path(concept_set).is_file() else [])]
    destinations = destinations_of(output or [], reads, ("terminal", *forms.FORMS))
    with measuring(destinations, model, quiet) as progress:
        result = measure_concepts(
            model,
            concept_set,
            of=of,
            head=head,
            min_positives=min_positives,
            min_coverage=min_coverage,
            shuffles=shuffles,
            limits=limits_of(timeout, max_memory, max_model_size),
            progress=progress,
            **cast("RunOptions", run_options(ctx)),  # its images have another name
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
