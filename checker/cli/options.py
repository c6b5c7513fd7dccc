"""The options that several verbs share: type, name, help, metavar, and what each can do to the gate.

A verb writes `seed: Seed = 0`, so the default stays with the verb. An option of one verb is defined in its module.
Every module of verbs imports this one, so it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, cast

import typer

from robustcheck_onnx.checker.errors import UsageError

if TYPE_CHECKING:
    from robustcheck_onnx.checker.evidence import GivenOptions
    from robustcheck_onnx.checker.limits import Limits


OPTIONS = "Options"
IMAGES, MODEL, VERDICT, OUTPUT, SPEED, LIMITS, CI = "Images", "Model", "Verdict", "Output", "Speed", "Limits", "CI"
OPTION_PANELS = (OPTIONS, IMAGES, MODEL, VERDICT, OUTPUT, SPEED, LIMITS, CI)
FIRST, UNDERSTAND, THRESHOLDS, EVIDENCE, SET_UP = "Commands", "Look closer", "Thresholds", "Sign and register", "Set-up"
VERB_PANELS = (FIRST, UNDERSTAND, THRESHOLDS, EVIDENCE, SET_UP)


Power = Literal["loosens", "hands over", "harmless"]


class Rule(NamedTuple):
    """What a setting can do to the gate."""

    power: Power
    """loosens: it can let a model through that the defaults stop. hands over: it has a key vouch.
    Both are refused by `--strict`. harmless: it moves no verdict"""
    why: str


LOOSENS: Final = "loosens"
HANDS_OVER: Final = "hands over"
HARMLESS: Final = "harmless"
POWERS: Final[Mapping[str, Rule]] = {
    "images": Rule(LOOSENS, "photos can be chosen that flatter a model"),
    "max-images": Rule(LOOSENS, "fewer images show less"),
    "max-bad": Rule(LOOSENS, "more images may be left out; a smaller share than the default loosens nothing"),
    "seed": Rule(LOOSENS, "other images come first"),
    "preprocess": Rule(LOOSENS, "the model gets other pixels than its file says"),
    "tensor": Rule(LOOSENS, "another tensor is measured"),
    "pool": Rule(LOOSENS, "another representation is measured"),
    "device": Rule(LOOSENS, "another provider than cpu and cuda may compute less exactly"),
    "provider-option": Rule(LOOSENS, "the provider may compute less exactly, in half precision for example"),
    "batch-size": Rule(LOOSENS, "a model is tried with other numbers of images at once; with 1, alone"),
    "thresholds": Rule(LOOSENS, "another profile judges"),
    "fail-on": Rule(LOOSENS, "WARN exits with 0"),
    "accept": Rule(LOOSENS, "a kind of WARN exits with 0"),
    "output": Rule(
        HARMLESS, "a file's outputs stay in its folder, in place of nothing but our own reports; none is a template"
    ),
    "sign": Rule(HANDS_OVER, "a key vouches for the verdict"),
    "quiet": Rule(HARMLESS, "less is shown"),
    "verbose": Rule(HARMLESS, "more is shown"),
    "no-thumbnails": Rule(HARMLESS, "less is shown"),
    "no-time": Rule(HARMLESS, "less is shown"),
    "color": Rule(HARMLESS, "the same is shown"),
    "log-file": Rule(HARMLESS, "a file's log stays in its folder, behind nothing but our own log"),
    "no-ci": Rule(HARMLESS, "less is shown"),
    "timeout": Rule(HARMLESS, "a run can only end earlier, as an error"),
    "max-memory": Rule(HARMLESS, "a run can only end earlier, as an error"),
    "max-model-size": Rule(HARMLESS, "a run can only end earlier, as an error"),
    "waivers": Rule(LOOSENS, "a WARN exits with 0"),
}
"""by key: every setting"""


FORMATS = ("terminal", "json")
PLACEHOLDER = "{model}"  # in a report's path: the model's name without its suffix
TIMEOUT_S = 7200.0  # of one model, unless another is given


def one_of(option: str, value: str, valid: Sequence[str]) -> None:
    """Raise UsageError with the closest choice unless the value is one of the valid ones."""
    if value not in valid:
        import difflib

        near = difflib.get_close_matches(value.lower(), valid, 1)
        raise UsageError(
            f"{option} is {value!r}; it must be one of {', '.join(valid)}",
            f"{option} {near[0] if near else valid[0]}",
        )


def run_options(ctx: typer.Context) -> GivenOptions:
    """Take what moves the numbers of a run out of the options that a verb was called with. Raises as `device_of`."""
    from robustcheck_onnx.checker.evidence import Options

    given = {name: value for name, value in ctx.params.items() if name in Options.model_fields}
    return cast("GivenOptions", given | {"device": device_of(given["device"], ctx.params["provider_option"] or ())})


def device_of(device: str, options: Sequence[str]) -> str:
    """The device with the options of its provider behind it, as the record of a run has it.

    Raises UsageError for an option that is not KEY=VALUE.
    """
    for option in options:
        key, sign, value = option.partition("=")
        if not (key.isidentifier() and sign and value) or "," in option or "=" in value:
            raise UsageError(
                f"--provider-option is {option!r}; it must be KEY=VALUE, without a comma",
                "--device cuda --provider-option use_tf32=1",
            )
    return ",".join((device, *options))


def limits_of(
    timeout_s: float | None, memory_bytes: int | None, model_bytes: int | None, *, is_long: bool = False
) -> Limits:
    """The limits of each child process, from `--timeout`, `--max-memory` and `--max-model-size`. Raises as `Limits`.

    is_long: a run that is meant to take long; it has no limit of time by default.
    """
    from robustcheck_onnx.checker.limits import Limits

    if timeout_s is None:
        timeout_s = None if is_long else TIMEOUT_S
    return Limits(timeout_s or None, memory_bytes, model_bytes)


SaveRepresentations = Annotated[
    str | None,
    typer.Option(
        help="Also write the measured representations to this file (.npz). "
        "robustcheck_onnx.load_representations reads it.",
        metavar="FILE",
        rich_help_panel=OUTPUT,
    ),
]


def _size(text: str) -> int:
    """A number of bytes, such as 8GiB or 500MB, read as settings files are."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as fault:
        raise typer.BadParameter(f"{text!r} is no size; write it as 8GiB or 500MB") from fault


def _only(option: str, *valid: str) -> Callable[[str], str]:
    """The callback of an option that takes only these words; it raises UsageError."""

    def checked(value: str) -> str:
        one_of(option, value, valid)
        return value

    return checked


# What is measured:

Model = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL.onnx", show_default=False, readable=False)]
Tensor = Annotated[
    str | None,
    typer.Option(
        help="Measure this tensor of the graph instead of the one found by rule.",
        metavar="NAME",
        rich_help_panel=MODEL,
    ),
]
Pool = Annotated[
    str | None,
    typer.Option(
        help="How a map or tokens become one vector: none, cls, mean, token_cls, token_mean or spatial_mean.",
        metavar="POOL",
        rich_help_panel=MODEL,
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        help="How pixels become inputs: clip, imagenet, or a JSON file. Overrides what the model's file or a "
        "file beside it says.",
        metavar="WHAT",
        rich_help_panel=MODEL,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        help="In-distribution photos, as for a check. Default: the bundled photos.",
        metavar="PATH",
        rich_help_panel=IMAGES,
    ),
]
_MAX_IMAGES = typer.Option(min=1, help="Stop after this many images.", metavar="N", rich_help_panel=IMAGES)
MaxImages = Annotated[int, _MAX_IMAGES]
MaxImagesOrAll = Annotated[int | None, _MAX_IMAGES]
MaxImagesOfEach = Annotated[
    int | None,
    typer.Option(min=1, help="Stop after this many images of each set.", metavar="N", rich_help_panel=IMAGES),
]
MaxBad = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Largest share of images that may be unusable, such as 0.01.",
        metavar="SHARE",
        rich_help_panel=IMAGES,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Images are taken in a random order; another number gives another order.",
        metavar="N",
        rich_help_panel=IMAGES,
    ),
]

# How it is measured:

Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:N or tensorrt; or another execution provider of the installed ONNX Runtime, such "
        "as openvino. auto takes an NVIDIA GPU if there is one that works.",
        metavar="DEVICE",
        rich_help_panel=SPEED,
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        help="An option of that execution provider, as ONNX Runtime names it. May be given several times.",
        metavar="KEY=VALUE",
        rich_help_panel=SPEED,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1, max=32, help="Images that the model gets at once, 1 to 32.", metavar="N", rich_help_panel=SPEED
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of a running Ray cluster, or auto. Default: a cluster on this machine.",
        metavar="ADDRESS",
        rich_help_panel=SPEED,
    ),
]

# A report that is read:

ReportFile = Annotated[
    Path, typer.Argument(help="The report of a check, from `-o json=PATH`.", metavar="REPORT.json", show_default=False)
]
ReportImages = Annotated[
    str | None,
    typer.Option(
        help="Where the images of the check are; not needed for the bundled photos.",
        metavar="PATH",
        rich_help_panel=IMAGES,
    ),
]
Rerun = Annotated[
    bool | None,
    typer.Option(
        "--rerun/--no-rerun",
        help="Measure again with the report's settings; every statistic must agree. Default: where the images can be "
        "read. With --no-rerun and no signature a PASS rests on the report alone.",
        show_default=False,
        rich_help_panel=VERDICT,
    ),
]
Elsewhere = Annotated[
    bool,
    typer.Option(
        "--elsewhere",
        help="The report is from another machine or by other versions: a rerun may differ by as much.",
        rich_help_panel=VERDICT,
    ),
]
PublicKey = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of the key that you trust; needs a signature.", metavar="FILE", rich_help_panel=VERDICT
    ),
]
Signature = Annotated[
    Path | None,
    typer.Option(
        help="The signature that `robustcheck sign` or `check --sign` wrote. Default: REPORT.sigstore.json.",
        metavar="FILE",
        rich_help_panel=VERDICT,
    ),
]

# What is shown:


def completing(forms: Callable[[], Sequence[str]] = lambda: FORMATS) -> Callable[[str], list[str]]:
    """What a shell offers for a word of `-o`: the forms that it may become."""
    return lambda incomplete: [form for form in forms() if form.startswith(incomplete)]


Output = Annotated[  # on stdout
    str,
    typer.Option(
        "--output",
        "-o",
        help="terminal or json.",
        metavar="FORMAT",
        callback=_only("--output", *FORMATS),
        autocompletion=completing(),
        rich_help_panel=OUTPUT,
    ),
]
Outputs = Annotated[  # on stdout and in files: `output.destinations_of`
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        help="terminal or json, each with =PATH to write a file; or a file with the suffix .txt or .json.",
        metavar="FORMAT[=PATH]",
        autocompletion=completing(),
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    int,
    typer.Option(
        "--quiet",
        "-q",
        count=True,
        max=2,
        help="One line a model instead of the report, and no progress. -qq: nothing.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, max=1, help="The whole report.", rich_help_panel=OUTPUT)
]
NoTime = Annotated[
    bool,
    typer.Option(
        "--no-time", help="Leave out how long it took, so that two reports can be compared.", rich_help_panel=OUTPUT
    ),
]
Color = Annotated[
    str,
    typer.Option(
        help="auto, always or never. auto: on a terminal, unless NO_COLOR is set.",
        metavar="WHEN",
        callback=_only("--color", "auto", "always", "never"),
        rich_help_panel=OUTPUT,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.", rich_help_panel=OUTPUT)]

# What it may take:

Timeout = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Longest time that one model may take; 0: no limit. Default: two hours.",
        metavar="SECONDS",
        rich_help_panel=LIMITS,
    ),
]
TimeoutIfAsked = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Longest time that the measurement of one model may take. Default: no limit.",
        metavar="SECONDS",
        rich_help_panel=LIMITS,
    ),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        parser=_size,
        help="Most memory that the process of one model may take, such as 8GiB (Linux). Default: no limit.",
        metavar="SIZE",
        rich_help_panel=LIMITS,
    ),
]
MaxModelSize = Annotated[
    int | None,
    typer.Option(
        parser=_size,
        help="Largest size of a model with its external data, such as 2GiB. Default: no limit.",
        metavar="SIZE",
        rich_help_panel=LIMITS,
    ),
]
Offline = Annotated[  # `process.run` reads it
    bool,
    typer.Option("--offline", help="Refuse to open connections, as ROBUSTCHECK_OFFLINE=1 does.", rich_help_panel=CI),
]
Baseline = Annotated[
    str,
    typer.Option(
        help="Published models that effective robustness is measured against: timm or testbed.",
        metavar="NAME",
        rich_help_panel=VERDICT,
    ),
]
