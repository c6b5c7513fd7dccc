"""The verb `compare`: did a candidate keep what made its reference pass?"""

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
    NoTime,
    PreprocessOption,
    ProviderOption,
    Quiet,
    Seed,
    Timeout,
    Verbose,
    completing,
    limits_of,
    run_options,
)
from ..output import check_extra, deliver, destinations_of, measuring
from ..panels import OUTPUT, VERDICT


def _forms() -> Sequence[str]:
    """The forms of `-o`, for a shell that completes them."""
    from robustcheck_onnx.checker.compare import forms

    return ("terminal", *forms.FORMS)


def compare(
    ctx: typer.Context,
    candidate: Annotated[
        Path, typer.Argument(help="The ONNX file to release.", metavar="CANDIDATE.onnx", show_default=False)
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(help="The model that it was made from.", metavar="REFERENCE.onnx", show_default=False),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Instead of REFERENCE.onnx: the file that --write-baseline of an earlier release wrote.",
            metavar="FILE",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option(
            help="Write the candidate's numbers, to compare later releases with; needs no reference.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    images: Images = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Largest share of each statistic of the reference that may be lost, from 0 to below 1.",
            metavar="SHARE",
            rich_help_panel=VERDICT,
        ),
    ] = 0.2,
    max_images: MaxImages = 1000,
    max_bad: MaxBad = 0.01,
    seed: Seed = 0,
    preprocess: PreprocessOption = None,
    device: Device = "auto",
    provider_option: ProviderOption = None,
    batch_size: BatchSize = 32,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            help="Judge by this threshold profile. Default: the packaged one.",
            metavar="PROFILE",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="terminal, json, junit, markdown, sarif or html; with =PATH into a file. May be given several times.",
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
    """Compare a model with the one that it was made from: PASS or WARN.

    For finetuned, pruned, quantised or converted models. PASS when the candidate passes the check by itself and has
    kept the outlier features that made the reference pass.
    """
    from robustcheck_onnx.checker.compare import baseline as baselines
    from robustcheck_onnx.checker.compare import compare as compare_models
    from robustcheck_onnx.checker.compare import forms, terminal
    from robustcheck_onnx.checker.errors import UsageError
    from robustcheck_onnx.checker.report import FormOptions
    from robustcheck_onnx.checker.storage import write_whole

    if reference is None and baseline is None and write_baseline is None:
        raise UsageError(
            "REFERENCE.onnx is missing; a candidate is compared with a model or a baseline",
            "robustcheck compare candidate.onnx reference.onnx",
        )
    reads = [path for path in (candidate, reference, baseline, thresholds) if path is not None]
    destinations = destinations_of(output or [], reads, ("terminal", *forms.FORMS))
    if write_baseline is not None:
        models = reads[:2] if reference is not None else reads[:1]
        check_extra("--write-baseline", write_baseline, models, destinations, "baseline.json")
    with measuring(destinations, candidate, quiet) as progress:
        result = compare_models(
            candidate,
            reference,
            baseline=baseline,
            tolerance=tolerance,
            thresholds=thresholds,
            limits=limits_of(timeout, max_memory, max_model_size),
            progress=progress,
            **run_options(ctx),
        )
    if no_time:
        result = result.model_copy(update={"time": None})
    if write_baseline is not None and result.next_baseline is not None:
        write_whole(write_baseline, baselines.to_json(result.next_baseline))
    deliver(
        destinations,
        lambda form: forms.render(form, result, FormOptions()),
        partial(terminal.render, result, verbose=verbose > 0),
        color,
        quiet=quiet,
        line=terminal.one_line(result),
    )
    return 0 if result.verdict.verdict == "PASS" else 1
