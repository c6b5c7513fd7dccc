"""The options that several verbs share: type, name, help, metavar, and the valid words of some.

A verb writes `seed: Seed = 0`, so the default stays with the verb. An option of one verb is defined in its module.
Every module of verbs imports this one, so it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from robustcheck_onnx.checker.errors import UsageError

if TYPE_CHECKING:
    from robustcheck_onnx.checker.evidence import GivenOptions

FORMATS = ("terminal", "json")


def one_of(option: str, value: str, valid: Sequence[str]) -> None:
    """Raise UsageError with the closest choice unless the value is one of the valid ones."""
    if value not in valid:
        import difflib

        near = difflib.get_close_matches(value, valid, 1)
        raise UsageError(
            f"{option} is {value!r}; it must be one of {', '.join(valid)}",
            f"{option} {near[0] if near else valid[0]}",
        )


def run_options(ctx: typer.Context) -> GivenOptions:
    """Take what moves the numbers of a run out of the options that a verb was called with."""
    from robustcheck_onnx.checker.evidence import Options

    return cast("GivenOptions", {name: value for name, value in ctx.params.items() if name in Options.model_fields})


def _only(option: str, *valid: str) -> Callable[[str], str]:
    """The callback of an option that takes only these words; it raises UsageError."""

    def checked(value: str) -> str:
        one_of(option, value, valid)
        return value

    return checked


# What is measured:

Model = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL.onnx", show_default=False, readable=False)]
Tensor = Annotated[str | None, typer.Option(help="Measure this tensor of the graph instead of the one found by rule.")]
Pool = Annotated[
    str | None,
    typer.Option(help="How to pool: none, cls, mean, token_cls, token_mean or spatial_mean.", metavar="POOL"),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(help="clip, imagenet, or a JSON file; overrides the file's contract and sidecars.", metavar="WHAT"),
]
Images = Annotated[
    str | None,
    typer.Option(help="In-distribution photos, as for a check. Default: the bundled photos.", metavar="PATH"),
]
_MAX_IMAGES = typer.Option(min=1, help="Use at most so many images.")
MaxImages = Annotated[int, _MAX_IMAGES]
MaxImagesOrAll = Annotated[int | None, _MAX_IMAGES]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Largest share of images that may be unusable.")]
Seed = Annotated[int, typer.Option(help="Seed of the order in which images are taken.")]

# How it is measured:

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or tensorrt; auto may fall back to the CPU.")]
BatchSize = Annotated[int, typer.Option(min=1, max=32, help="Images that the model gets at once.")]
RayAddress = Annotated[
    str | None,
    typer.Option(help="HOST:PORT or auto: a running Ray cluster instead of one on this machine.", metavar="ADDRESS"),
]

# A report that is read:

ReportFile = Annotated[
    Path, typer.Argument(help="What `-o json=PATH` of a check wrote.", metavar="REPORT.json", show_default=False)
]
ReportImages = Annotated[
    str | None,
    typer.Option(help="Where the images of the check are; not needed for the bundled photos.", metavar="PATH"),
]
Rerun = Annotated[
    bool | None,
    typer.Option(
        "--rerun/--no-rerun",
        help="Measure again with the report's settings; every statistic must agree. Default: where the images are at "
        "hand. With --no-rerun and no signature a PASS rests on the report alone.",
        show_default=False,
    ),
]
PublicKey = Annotated[
    Path | None, typer.Option(help="PEM file of the key that you trust; needs a signature.", metavar="FILE")
]
Signature = Annotated[
    Path | None,
    typer.Option(
        help="What `robustcheck sign` or `--sign` of a check wrote. Default: REPORT.sigstore.json.", metavar="FILE"
    ),
]

# What is shown:

Output = Annotated[  # on stdout
    str, typer.Option("--output", "-o", help="terminal or json.", callback=_only("--output", *FORMATS))
]
Outputs = Annotated[  # on stdout and in files: `output.destinations_of`
    list[str] | None,
    typer.Option("--output", "-o", help="terminal or json, each with =PATH to write a file.", metavar="FORMAT[=PATH]"),
]
Quiet = Annotated[
    int, typer.Option("--quiet", "-q", count=True, max=2, help="One line a model instead of the report. -qq: nothing.")
]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, max=1, help="The whole report.")]
NoTime = Annotated[bool, typer.Option("--no-time", help="Leave the time block out of the report.")]
Color = Annotated[
    str,
    typer.Option(
        help="auto, always or never (NO_COLOR is honoured).", callback=_only("--color", "auto", "always", "never")
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
