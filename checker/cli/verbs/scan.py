"""The verb `scan`: outlier features at the end of every block of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Images, MaxImages, Model, SaveRepresentations
from ..output import check_extra
from ..panels import MODEL
from ..question import Call, question


@question("scan", images=(Images, None), max_images=(MaxImages, 64))
def scan(
    call: Call,
    model: Model,
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this tensor instead of the ends of blocks found by rule. May be given several times.",
            metavar="TENSOR",
            rich_help_panel=MODEL,
        ),
    ] = None,
    save_representations: SaveRepresentations = None,
) -> int:
    """Show outlier features block by block through the depth of a model.

    Information, not a gate: the exit code is 0 when it was measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.scan import run

    call.reads(model)
    if save_representations is not None:
        check_extra("--save-representations", Path(save_representations), [model], call.destinations, "rows.npz")
    with call.measuring(model) as options:
        result = run.scan(model, blocks=block or (), save_representations=save_representations, **options)
    call.answer(result)
    return 0
