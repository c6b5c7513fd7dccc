"""The verb `compare`: did a candidate keep what made its reference pass?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustcheck_onnx.checker.cli_parts import (
    Color,
    Debug,
    Device,
    PreprocessOption,
    ascii_only,
    console_for,
    one_of,
    plain,
    progress_line,
    targets,
)


def compare(
    candidate: Annotated[
        Path, typer.Argument(help="The ONNX file to release.", metavar="CANDIDATE.onnx", show_default=False)
    ],
    reference: Annotated[
        Path, typer.Argument(help="The one that it was made from.", metavar="REFERENCE.onnx", show_default=False)
    ],
    images: Annotated[
        str | None,
        typer.Option(help="In-distribution photos, as for a check. Default: the bundled photos.", metavar="PATH"),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Share of each statistic of the reference that may be lost, 0 or more, below 1.")
    ] = 0.2,
    max_images: Annotated[int, typer.Option(min=1, help="Use at most so many images.")] = 1000,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Largest share of images that may be unusable.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of the order in which images are taken.")] = 0,
    preprocess: PreprocessOption = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, max=32, help="Images a forward pass.")] = 32,
    thresholds: Annotated[
        Path | None, typer.Option(help="A threshold profile instead of the default.", metavar="PROFILE.json")
    ] = None,
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
    """Compare a finetuned, pruned, quantised or converted model with what it was made from: PASS or WARN.

    PASS when the candidate passes the check by itself and has kept the outlier features that made the reference pass.
    """
    from robustcheck_onnx.checker import compare as pairs
    from robustcheck_onnx.checker import compare_run, delivery, report_compare

    one_of("--color", color, ("auto", "always", "never"))
    places = targets(output or [], [candidate, reference])
    with progress_line(quiet) as progress:
        result = compare_run.compare(
            candidate,
            reference,
            images=images,
            tolerance=tolerance,
            preprocess=preprocess,
            device=device,
            seed=seed,
            max_images=max_images,
            max_bad=max_bad,
            batch_size=batch_size,
            thresholds=thresholds,
            progress=progress,
        )
    if no_time:
        result = result.model_copy(update={"time": None})
    for form, path in places:
        if path is not None:
            text = pairs.to_json(result) if form == "json" else plain(report_compare.render(result))
            delivery.write_whole(path, text)
    on_stdout = [form for form, path in places if path is None]
    if on_stdout == ["json"]:
        sys.stdout.write(pairs.to_json(result))
    elif on_stdout or not quiet:
        console = console_for(color)
        console.print(report_compare.render(result, ascii_only=ascii_only(console)))
    return 0 if result.verdict.verdict == "PASS" else 1
