"""The verb `compare`: did a candidate keep what made its reference pass?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Images, MaxImages
from ..output import check_extra
from ..panels import OUTPUT, VERDICT
from ..question import Call, question


@question(
    "compare",
    forms=("terminal", "json", "junit", "markdown", "sarif", "html"),
    without=("tensor", "pool"),
    images=(Images, None),
    max_images=(MaxImages, 1000),
)
def compare(
    call: Call,
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
    tolerance: Annotated[
        float,
        typer.Option(
            help="Largest share of each statistic of the reference that may be lost, from 0 to below 1.",
            metavar="SHARE",
            rich_help_panel=VERDICT,
        ),
    ] = 0.2,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            help="Judge by this threshold profile. Default: the packaged one.",
            metavar="PROFILE",
            rich_help_panel=VERDICT,
        ),
    ] = None,
) -> int:
    """Compare a model with the one that it was made from: PASS or WARN.

    For finetuned, pruned, quantised or converted models. Without a reference --write-baseline alone gives no verdict: 0
    is not a PASS. PASS when the candidate passes the check by itself and has
    kept the outlier features that made the reference pass.
    """
    from robustcheck_onnx.checker.compare import FirstBaseline
    from robustcheck_onnx.checker.compare import baseline as baselines
    from robustcheck_onnx.checker.compare import compare as compare_models
    from robustcheck_onnx.checker.errors import UsageError
    from robustcheck_onnx.checker.storage.write import write_whole

    if reference is None and baseline is None and write_baseline is None:
        raise UsageError(
            "REFERENCE.onnx is missing; a candidate is compared with a model or a baseline",
            "robustcheck compare candidate.onnx reference.onnx",
        )
    if reference is None and baseline is None and call.outputs:
        raise UsageError("nothing is compared, so there is no report for --output", "leave out --output")
    call.reads(candidate, reference, baseline, thresholds)
    if write_baseline is not None:
        models = [candidate, *([reference] if reference else [])]
        check_extra("--write-baseline", write_baseline, models, call.destinations, "baseline.json")
    with call.measuring(candidate) as options:
        result = compare_models(
            candidate, reference, baseline=baseline, tolerance=tolerance, thresholds=thresholds, **options
        )
    if write_baseline is not None and result.next_baseline is not None:
        write_whole(write_baseline, baselines.to_json(result.next_baseline))
    if isinstance(result, FirstBaseline):
        call.say(f"wrote {write_baseline}; nothing was compared, so there is no verdict")
        return 0
    call.answer(result)
    return 0 if result.verdict.verdict == "PASS" else 1
