"""The verb `concepts`: the concepts of a labelled set that single directions of a representation tell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import MaxImagesOrAll, Model
from ..panels import IMAGES, MODEL
from ..question import Call, question


@question("concepts", max_images=(MaxImagesOrAll, None))
def concepts(
    call: Call,
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
) -> int:
    """Count the concepts that single directions tell, beside chance.

    A direction of the representation tells a concept where it ranks the images that have it before the others. The
    number of concepts is not an indicator of robustness. Information, not a gate: the exit code is 0 when it was
    measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.concepts import run

    call.reads(model, head, Path(concept_set) if Path(concept_set).is_file() else None)
    with call.measuring(model) as options:
        result = run.concepts(
            model,
            concept_set,
            of=of,
            head=head,
            min_positives=min_positives,
            min_coverage=min_coverage,
            shuffles=shuffles,
            **options,
        )
    call.answer(result)
    return 0
