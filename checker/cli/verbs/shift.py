"""The verb `shift`: accuracy under a distribution shift, measured with labels or predicted without."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Baseline, MaxImagesOfEach, Model, one_of
from ..output import check_extra
from ..panels import IMAGES, OUTPUT, VERDICT
from ..question import Call, question


@question("shift", forms=("terminal", "json"), without=("tensor", "pool"), max_images=(MaxImagesOfEach, None))
def shift(
    call: Call,
    model: Model,
    inside: Annotated[
        str,
        typer.Option(
            "--in",
            help="In-distribution images with labels: a folder of class folders, or a manifest (.csv, .jsonl) with a "
            "column label. imagenet=PATH says that it is ImageNet.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ],
    shifted: Annotated[
        list[str] | None,
        typer.Option(
            help="A shifted set, with labels too. v2=, sketch=, r=, a= and objectnet= name the known ones. May be "
            "given several times.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A set without labels: accuracy on it is predicted from the model's scores. May be given several "
            "times.",
            metavar="[NAME=]PATH",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(help="Further sets of the one kind that is given.", metavar="[NAME=]PATH…", show_default=False),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="What labels mean: imagenet, imagenet-r, imagenet-a, names (of the file's contract), sorted (class "
            "folders in order), or a JSON file that maps labels to class indices. With NAME= for one set only. "
            "Default: synset ids, indices and class names are recognised.",
            metavar="[NAME=]MAP",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    baseline: Baseline = "timm",
    report: Annotated[
        Path | None,
        typer.Option(
            help="JSON report of a check of this model. Default: the check runs on the images of --in.",
            metavar="REPORT.json",
            rich_help_panel=VERDICT,
        ),
    ] = None,
    suite_entry: Annotated[
        Path | None,
        typer.Option(
            help="Also write the accuracies as a model of a suite file (TOML).",
            metavar="ENTRY.toml",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> int:
    """Measure accuracy on shifted images, or predict it without labels.

    Information, not a gate: the exit code is 0 when it was measured, whatever came out, and never 1.
    """
    from robustcheck_onnx.checker.errors import CannotAssessError
    from robustcheck_onnx.checker.shift import measure_shift
    from robustcheck_onnx.checker.storage.write import write_whole
    from robustcheck_onnx.thresholds.published import SOURCES

    from .. import ending

    one_of("--baseline", baseline, SOURCES)
    labelled, unlabelled = _with_further(shifted or [], target or [], more or [])
    call.reads(model, report)
    if suite_entry is not None:
        check_extra(
            "--suite-entry", suite_entry, [model, *([report] if report else [])], call.destinations, "entry.toml"
        )
    with call.measuring(model) as options:
        result = measure_shift(
            model,
            inside,
            labelled,
            target=unlabelled,
            classes=classes or (),
            baseline=baseline,
            report=report,
            **options,
        )
    call.answer(result)
    if suite_entry is not None:
        try:
            entry = call.terminal.suite_entry(result, suite_entry.resolve().parent)
        except CannotAssessError as fault:  # the report stands: an error document must not take its place
            ending.say(f"{suite_entry}: {fault.message}", fault.hint)
            return fault.exit_code
        write_whole(suite_entry, entry)
    return 0


def _with_further(shifted: list[str], targets: list[str], more: list[str]) -> tuple[list[str], list[str]]:
    """Add the words that follow an option's first set to the sets of that option.

    Raises UsageError where both options are given: which of them the words follow is not known here.
    """
    from robustcheck_onnx.checker.errors import UsageError

    if more and shifted and targets:
        raise UsageError(
            f"{more[0]}: set is given without an option; with both --shifted and --target each set needs its own",
            f"--shifted {more[0]}, or --target {more[0]}",
        )
    return (shifted, targets + more) if targets else (shifted + more, targets)
