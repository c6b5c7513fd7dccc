"""The verb `directions`: which directions of a classifier's head weigh most, and what is left without the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Baseline, Images, MaxImagesOfEach, Model, one_of
from ..panels import IMAGES, MODEL
from ..question import Call, question


@question("directions", images=(Images, None), max_images=(MaxImagesOfEach, 300))
def directions(
    call: Call,
    model: Model,
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
    baseline: Baseline = "timm",
    head: Annotated[
        Path | None,
        typer.Option(
            help="Weights of a linear head on the representation, instead of the model's own: .npy (class, feature), "
            "or .safetensors with weight and bias. --tensor and --pool may only be given with it.",
            metavar="FILE",
            rich_help_panel=MODEL,
        ),
    ] = None,
) -> int:
    """Show the important directions of a head, and what pruning costs.

    Information, not a gate: the exit code is 0 when it was measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.directions import run
    from robustcheck_onnx.thresholds.published import SOURCES

    one_of("--baseline", baseline, SOURCES)
    call.reads(model, head)
    with call.measuring(model) as options:
        result = run.directions(
            model,
            head=head,
            labelled=inside,
            shifted=shifted or (),
            classes=classes or (),
            baseline=baseline,
            **options,
        )
    call.answer(result)
    return 0
