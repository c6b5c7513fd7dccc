"""The verb `check`, the default command: PASS, or WARN with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustcheck_onnx.checker.cli_parts import (
    Color,
    Debug,
    Device,
    Model,
    Pool,
    PreprocessOption,
    RayAddress,
    Tensor,
    deliver,
    one_of,
    progress_line,
    targets,
)


def check(
    model: Model,
    images: Annotated[
        str | None,
        typer.Option(
            help="In-distribution photos: a folder, a quoted glob, a list (.txt), a manifest (.csv, .jsonl), .tar "
            "shards, .parquet, or preprocessed tensors (.npy, .npz). Default: the bundled photos.",
            metavar="PATH",
        ),
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Use at most so many images.")] = None,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Largest share of images that may be unusable.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of the order in which images are taken.")] = 0,
    preprocess: PreprocessOption = None,
    tensor: Tensor = None,
    pool: Pool = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, max=32, help="Images a forward pass.")] = 32,
    thresholds: Annotated[
        Path | None, typer.Option(help="A threshold profile instead of the default.", metavar="PROFILE.json")
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
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="terminal, json or html, each with =PATH to write a file; repeatable. Without a format on stdout the "
            "terminal report goes there.",
            metavar="FORMAT[=PATH]",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report on stdout unless -o asks for one.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Full digests, all limits.")] = False,
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
    no_time: Annotated[bool, typer.Option("--no-time", help="Leave the time block out of the report.")] = False,
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Check a model: PASS, or WARN with reasons (the default command)."""
    from datetime import UTC, datetime

    from robustcheck_onnx.checker import formats, gate, pipeline, report_terminal

    places = targets(output or [], [model], formats.NAMES)
    one_of("--color", color, ("auto", "always", "never"))
    with progress_line(quiet) as progress:
        result = pipeline.check(
            model,
            images=images,
            max_images=max_images,
            max_bad=max_bad,
            seed=seed,
            preprocess=preprocess,
            tensor=tensor,
            pool=pool,
            device=device,
            batch_size=batch_size,
            thresholds=thresholds,
            engine=engine,
            workers=workers,
            ray_address=ray_address,
            cache=not no_cache,
            progress=progress,
        )
    extra = formats.Options()
    if not no_thumbnails and any(form == "html" for form, _ in places):
        from robustcheck_onnx.checker import thumbnails

        pictures = thumbnails.make([result], images, seed=seed, limit=max_images)
        extra = formats.Options(thumbnails=pictures.uris, missing=pictures.missing)
    answer = gate.decide(result.verdict, str(model), today=datetime.now(UTC).date())
    result = result.model_copy(update={"gate": answer} | ({"time": None} if no_time else {}))
    deliver(
        places,
        lambda form: formats.render(form, [result], extra),
        lambda only_ascii: report_terminal.render(result, ascii_only=only_ascii, verbose=verbose),
        color,
        quiet=quiet,
    )
    return answer.exit_code
