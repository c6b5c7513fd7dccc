"""The verb `scan`: outlier features at the end of every block of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from robustcheck_onnx.checker.cli_parts import (
    Color,
    Debug,
    Device,
    Model,
    Pool,
    PreprocessOption,
    Tensor,
    deliver,
    one_of,
    progress_line,
    targets,
)


def scan(
    model: Model,
    images: Annotated[
        str | None,
        typer.Option(help="In-distribution photos, as for a check. Default: the bundled photos.", metavar="PATH"),
    ] = None,
    max_images: Annotated[int, typer.Option(min=1, help="Use at most so many images.")] = 64,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Largest share of images that may be unusable.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of the order in which images are taken.")] = 0,
    preprocess: PreprocessOption = None,
    tensor: Tensor = None,
    pool: Pool = None,
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this tensor instead of the ends of blocks found by rule; repeatable.", metavar="TENSOR"
        ),
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, max=32, help="Images a forward pass.")] = 8,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output", "-o", help="terminal or json, each with =PATH to write a file.", metavar="FORMAT[=PATH]"
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report on stdout unless -o asks for one.")] = False,
    no_time: Annotated[bool, typer.Option("--no-time", help="Leave the time block out of the report.")] = False,
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show outlier features through the depth of a model: at the end of every block, and at the representation.

    Information, not a gate: the exit code is 0 when it was measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker import cli_process, report_scan, scan_records
    from robustcheck_onnx.checker import scan as scanning

    one_of("--color", color, ("auto", "always", "never"))
    places = targets(output or [], [model])
    cli_process.mark_unfinished(places, str(model))
    with progress_line(quiet) as progress:
        result = scanning.scan(
            model,
            images_at=images,
            max_images=max_images,
            max_bad=max_bad,
            seed=seed,
            preprocess=preprocess,
            tensor=tensor,
            pool=pool,
            blocks=block or (),
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
    if no_time:
        result = result.model_copy(update={"time": None})
    deliver(
        places,
        lambda _form: scan_records.to_json(result),
        lambda only_ascii: report_scan.render(result, ascii_only=only_ascii),
        color,
        quiet=quiet,
    )
    return 0
