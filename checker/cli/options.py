"""The table of options of a check, and the options that verbs share.

A row gives type, default, help, metavar, panel, and what the option can do to the gate, which decides whether a
settings file may set it. Made from it: typer's parameters (`parameter`), the record of settings, the keys of a file and
its variables, what `--strict` refuses, the file that `init` writes, and the table in docs/settings.md. Every module of
verbs imports this one, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from difflib import get_close_matches
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, get_origin, get_type_hints

import typer

from ..errors import UsageError
from ..text import FORM_OF, Texts, frozen

if TYPE_CHECKING:
    from ..core.options import Options
    from ..core.verdict.gate import Waiver
    from ..outside.isolation import Limits


IMAGES = "Images"
MODEL = "Model"
VERDICT = "Verdict"
OUTPUT = "Output"
SPEED = "Speed"
LIMITS = "Limits"
CI = "CI"
VECTORS = "Index of vectors"
UNDERSTAND = "Look closer"
THRESHOLDS = "Thresholds"
EVIDENCE = "Sign and register"
SET_UP = "Set-up"
FORMATS = ("terminal", "json")
Values = dict[str, Any]
Words = Sequence[str]
Variables = Mapping[str, str]
"""environment variables by name"""
Several = list[str] | None
"""of an option that may be given several times"""
PLACEHOLDER = "{model}"  # in a report's path: the model's name without its suffix
TIMEOUT_S = 7200.0  # of one model, unless another is given
Power = Literal["loosens", "hands over", "harmless", "only typed"]
"""loosens: it can let a model through that the defaults stop. hands over: it has a key vouch. Both are refused by
`--strict`. harmless: it moves no verdict. only typed: no settings file may set it"""
LOOSENS: Final = "loosens"
HANDS_OVER: Final = "hands over"
HARMLESS: Final = "harmless"
ONLY_TYPED: Final = "only typed"


def option(help: str, metavar: str | None = None, panel: str | None = None, *names: str, **more: Any) -> Any:
    """Return an option as typer has it. metavar: None for a flag, whose help then shows no type."""
    return typer.Option(*names, help=help, metavar=metavar or "", rich_help_panel=panel, **more)


def argument(help: str, metavar: str, *, show_default: bool = False, **more: Any) -> Any:
    """Return an argument as typer has it."""
    return typer.Argument(help=help, metavar=metavar, show_default=show_default, **more)


class Row(NamedTuple):
    """An option of the table."""

    default: Any
    help: str
    metavar: str | None
    """the name of its value; None for a flag"""
    panel: str
    power: Power
    """what it can do to the gate"""
    why: str
    """why it can do that; of one that is only typed, what to do instead"""
    names: Texts
    """as they are typed; none: the one that typer makes of the field's name"""
    about: str
    """its line in the file of `init`"""
    example: object
    """its value there; None: the default"""
    pattern: str | None
    """of its value in a file"""
    more: Values
    """for typer.Option"""


def row(
    default: Any,
    help: str,
    metavar: str | None,
    panel: str,
    power: Power,
    why: str,
    *names: str,
    about: str | None = None,
    example: object = None,
    pattern: str | None = None,
    **more: Any,
) -> Any:
    """Return a field of the table."""
    entry = Row(default, help, metavar, panel, power, why, names, about or help, example, pattern, more)
    return field(default=default, metadata={"row": entry})


PDF: Final = "-o report.html, and print that page as a PDF"


def one_of(option: str, value: str, valid: Words) -> None:
    """Refuse a value that is not a valid choice. Raises UsageError with the closest one."""
    if value not in valid:
        near = get_close_matches(value.lower(), valid, 1)
        hint = f"{option} {(near or valid)[0]}"
        if value.lower().endswith("pdf"):
            hint = PDF
        elif "." in value and not near:
            hint = f"the suffix chooses the form: {', '.join(FORM_OF)}"
        raise UsageError(f"{option} is {value!r}; it must be one of {', '.join(valid)}", hint)


def device_of(device: str, options: Words) -> str:
    """Return the device with its provider's options, as the record of a run has it.

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


def _size(text: str) -> int:
    """Read a number of bytes, written as 8GiB or 500MB."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as fault:
        raise typer.BadParameter(f"{text!r} is not a size; write it as 8GiB or 500MB") from fault


def completing(forms: Callable[[], Words] = lambda: FORMATS) -> Callable[[str], list[str]]:
    """Return the completion of `-o` for shells: the forms that a word may become."""
    return lambda incomplete: [form for form in forms() if form.startswith(incomplete)]


def _forms() -> Words:
    from ..report import forms

    return forms.OUTPUTS


@frozen
class Settings:
    """The options of a check."""

    # fmt: off

    images: str | None = row(
        None, "In-distribution photos: a folder, a quoted glob, a list (.txt), a manifest (.csv, .jsonl), .tar "
        "shards, .parquet, preprocessed tensors (.npy, .npz), or the word bundled. Default: the bundled photos, "
        "which are not yours.", "PATH", IMAGES, LOOSENS, "photos can be chosen that flatter a model",
        about="In-distribution photos, or bundled. Default: the bundled photos.", example="photos/",
    )
    max_images: int | None = row(
        None, "Stop after this many images.", "N", IMAGES, LOOSENS, "fewer images show less",
        about="Stop after this many images. Default: all.", example=500, min=1,
    )
    max_bad: float = row(
        0.01, "Largest share of images that may be unusable, such as 0.01.", "SHARE", IMAGES, LOOSENS,
        "more images may be left out; a smaller share than the default loosens nothing",
        about="Largest share of images that may be unusable, 0 to 1.", min=0, max=1,
    )
    seed: int = row(
        0, "Random order of the images; another number gives another order.", "N", IMAGES, LOOSENS,
        "other images come first",
    )
    preprocess: str | None = row(
        None, "How pixels become inputs: clip, imagenet, or a JSON file. Overrides what the model's file or a "
        "file next to it contains.", "WHAT", MODEL, LOOSENS, "the model gets other pixels than its file asks for",
        about="clip, imagenet or a JSON file. Default: that of the model or a sidecar.", example="clip",
    )
    tensor: str | None = row(
        None, "Measure this tensor of the graph instead of the one that the rule chooses.", "NAME", MODEL, LOOSENS,
        "another tensor is measured", about="Tensor to measure. Default: the one that the rule chooses.",
        example="image_embedding",
    )
    pool: str | None = row(
        None, "How a map or tokens become one vector: none, cls, mean, token_cls, token_mean or spatial_mean.", "POOL",
        MODEL, LOOSENS, "another representation is measured", about="How to pool it. Default: by rule.", example="none",
    )
    device: str = row(
        "auto",
        "auto, cpu, cuda, cuda:N or tensorrt; or another execution provider of the installed ONNX Runtime, such as "
        "openvino. auto takes an NVIDIA GPU if there is one that works.", "DEVICE", SPEED, LOOSENS,
        "another provider than cpu and cuda may compute less exactly",
        about="auto, cpu, cuda, cuda:N, tensorrt or another execution provider.", pattern="^[^,]*$",
    )
    provider_option: Texts = row(
        (), "An option of that execution provider, as ONNX Runtime names it. May be given several times.", "KEY=VALUE",
        SPEED, LOOSENS, "the provider may compute less exactly, in half precision for example",
        about="KEY=VALUE: options of that provider. Default: none.", example=("use_tf32=1",),
    )
    batch_size: int = row(
        32, "Batch size, 1 to 32.", "N", SPEED, LOOSENS,
        "a model is tried with other numbers of images at once; with 1, alone",
        about="Images at once, 1 to 32.", min=1, max=32,
    )
    arithmetic: Literal["machine", "exact"] | None = row(
        None, "Whose int8 sums the verdict is about. machine: those of this machine, whatever others compute. exact: "
        "those of a CPU on which int8 sums do not saturate (VNNI, ARM). Default: those of this machine; WARN where "
        "exact sums could change the verdict.", "WHOSE", MODEL, ONLY_TYPED,
        "it says which machine a verdict is about",
        about="machine or exact. Default: this machine; WARN where exact sums could change the verdict.",
    )
    thresholds: str | None = row(
        None, "Judge by this threshold profile. Default: the packaged one.", "PROFILE", VERDICT, LOOSENS,
        "another profile judges", about="A threshold profile. Default: the packaged one.", example="default",
    )
    fail_on: Literal["warn", "never"] = row(
        "warn", "warn: a WARN exits with 1. never: every verdict exits with 0; an error never does.", "WHEN", VERDICT,
        LOOSENS, "WARN exits with 0", about="warn: WARN exits with 1. never: a verdict exits with 0.",
    )
    accept: Literal["not_applicable"] | None = row(
        None, "not_applicable: a WARN exits with 0 where every reason is of that kind (the thresholds do not hold "
        "for this model). No other kind can be accepted.", "KIND", VERDICT, LOOSENS, "a kind of WARN exits with 0",
        about="not_applicable: WARN exits with 0 where every reason is of that kind.", example="not_applicable",
    )
    output: Texts = row(
        (), "A file, in the form of its suffix: .json, .html, .xml (JUnit), .md, .sarif or .txt. Or a form: "
        "terminal, json, junit, sarif, markdown, html, openmetrics, modelcard, gitlab, predicate, cyclonedx, or "
        "template=FILE.j2; with =PATH into a file. May be repeated. {model} in a path: one file per model. The "
        "terminal report goes to stdout unless another form does. --json is -o json. Two runs at once need two files.",
        "FORMAT[=PATH]", OUTPUT,
        HARMLESS,
        "a file's outputs stay in its folder and replace only our own reports; none is a template",
        "--output", "-o", about="FORMAT or FORMAT=PATH, as -o. Default: the terminal report.",
        example=("terminal", "json=report.json"), autocompletion=completing(_forms),
    )
    sign: str | None = row(
        None, "Sign the report of -o json=PATH with this private key (PEM); the signature is written next to it, "
        "with .sigstore.json at the end (extra `sign`). A WARN is signed as a WARN.", "KEY", OUTPUT, HANDS_OVER,
        "a key vouches for the verdict", about="Private key that signs the JSON report; see --sign. Default: none.",
        example="key.pem",
    )
    save_representations: str | None = row(
        None, "Also write the measured representations to this file (.npz). "
        "In Python, load_representations reads it.", "FILE", OUTPUT, ONLY_TYPED, "it is for the command line",
    )
    quiet: int = row(
        0, "One line per model instead of the report, and no progress. -qq: no output.", None, OUTPUT, HARMLESS,
        "less is shown", "--quiet", "-q", about="1: one line per model. 2: nothing on stdout.", count=True, max=2,
    )
    verbose: int = row(
        0, "The whole report of every model. -vv: also the log, on stderr.", None, OUTPUT, HARMLESS, "more is shown",
        "--verbose", "-v", about="1: the whole report. 2: also the log.", count=True, max=2,
    )
    log_file: str | None = row(
        None, "Append a log with times to this file.", "FILE", OUTPUT, HARMLESS,
        "a file's log stays in its folder, and is appended only to our own log",
        about="Append a log with times to this file. Default: none.", example="robustcheck.log",
    )
    no_thumbnails: bool = row(
        False, "html: names instead of small copies of your photos, which everyone who gets the page can see.", None,
        OUTPUT, HARMLESS, "less is shown", about="html: no small copies of your photos.",
    )
    no_time: bool = row(
        False, "Leave out how long it took, so that two reports can be compared.", None, OUTPUT, HARMLESS,
        "less is shown", about="Leave out how long it took.",
    )
    color: Literal["auto", "always", "never"] = row(
        "auto", "auto, always or never. auto: on a terminal, unless NO_COLOR is set.", "WHEN", OUTPUT, HARMLESS,
        "the same is shown", about="auto, always or never.",
    )
    debug: bool = row(
        False, "Show a traceback with an error.", None, OUTPUT, ONLY_TYPED, "it is for the command line"
    )
    no_ci: bool = row(
        False, "On GitHub Actions: no annotations, and no summary of the step.", None, CI, HARMLESS, "less is shown",
        about="No annotations for the CI system that runs the check.",
    )
    timeout: float | None = row(
        None, "Longest time that one model may take; 0: no limit. Default: two hours.", "SECONDS", LIMITS, HARMLESS,
        "a run can only end earlier, as an error",
        about="Seconds that one model may take; 0: no limit. Default: 7200.", example=600, min=0,
    )
    max_memory: int | None = row(
        None, "Most memory that the process of one model may take, such as 8GiB (Linux). Default: no limit.", "SIZE",
        LIMITS, HARMLESS, "a run can only end earlier, as an error",
        about="Memory that one model may take, as 8GiB. Default: no limit.", example="8GiB", parser=_size,
    )
    max_model_size: int | None = row(
        None, "Largest size of a model with its external data, such as 2GiB. Default: no limit.", "SIZE", LIMITS,
        HARMLESS, "a run can only end earlier, as an error",
        about="Largest size of a model with its external data, as 2GiB. Default: no limit.", example="2GiB",
        parser=_size,
    )
    config: str | None = row(
        None, "Read settings from this file. Default: the nearest robustcheck.toml, or pyproject.toml with a "
        "table tool.robustcheck, in this folder or one above.", "FILE", CI, ONLY_TYPED, "it is for the command line",
    )
    isolated: bool = row(
        False, "Read no settings file and no ROBUSTCHECK_* variables.", None, CI, ONLY_TYPED,
        "it is for the command line",
    )
    strict: bool = row(
        False, "For a pipeline that checks what it does not trust: only the command line may loosen the gate, no "
        "settings file and no variable. Needs --images, and -- before the models.", None, CI, ONLY_TYPED,
        "it is for the command line, which says whom it trusts",
    )
    show_settings: bool = row(
        False, "Show each setting, its value and where it comes from; check nothing.", None, CI, ONLY_TYPED,
        "it is for the command line",
    )
    offline: bool = row(  # `process.run` reads it
        False, "Refuse to open connections, as ROBUSTCHECK_OFFLINE=1 does.", None, CI, ONLY_TYPED,
        "set the variable ROBUSTCHECK_OFFLINE=1",
    )
    waivers: tuple[Waiver, ...] = row(
        (), "Read the waivers from this file, and none from a settings file.", "FILE", VERDICT, LOOSENS,
        "a WARN exits with 0", about="Accepted reasons for WARN; in a file only.",
    )


    # fmt: on

    @property
    def options(self) -> Options:
        """Return the options that move the numbers. The profile is not among them. Raises as `device_of`."""
        from ..core.options import Options

        values = {name: getattr(self, name) for name in RUN}
        values["device"] = device_of(self.device, self.provider_option)
        return Options(**values)

    @property
    def limits(self) -> Limits:
        """Return what one model may take. Raises as `Limits`."""
        from ..outside.isolation import Limits

        timeout_s = TIMEOUT_S if self.timeout is None else self.timeout
        return Limits(timeout_s or None, self.max_memory, self.max_model_size)


def path_of(name: str | None) -> Path | None:
    """Return the path that an option names, if any."""
    return None if name is None else Path(name)


def as_tuples(value: object) -> Any:
    """Return a value of the command line or a file, with tuples for lists."""
    if isinstance(value, list):
        return tuple(map(as_tuples, value))
    if isinstance(value, dict):
        return {key: as_tuples(v) for key, v in value.items()}
    return value


def key_of(name: str) -> str:
    """Return a field's key in a settings file: its option without the dashes."""
    return name.replace("_", "-")


ROWS: Final[Mapping[str, Row]] = {f.name: f.metadata["row"] for f in fields(Settings)}
"""by field"""
RUN: Final = [n for n, row in ROWS.items() if row.panel in (IMAGES, MODEL, SPEED) and n != "provider_option"]
"""those that move a run's numbers; a provider's options are a part of the device"""
FIELDS: Final = {key_of(name): name for name, row in ROWS.items() if row.power != ONLY_TYPED}
"""by key of a settings file, which is the option without its dashes"""
ROWS_BY_KEY: Final = {key: ROWS[name] for key, name in FIELDS.items()}
"""by key: what each setting can do to the gate (`power`), and why"""
TYPES: Final = get_type_hints(Settings, localns={"Waiver": object})


def parameter(name: str, **changed: Any) -> Parameter:
    """Return an option of the table as typer takes it. changed: what a verb has otherwise."""
    of_row = {key: changed.pop(key) for key in Row._fields if key in changed}
    entry = ROWS[name]._replace(**of_row)
    hint = TYPES[name]
    typed = f"--{key_of(name)}"
    more = {**entry.more, **changed}
    if name == "waivers":
        hint = str | None
    elif get_origin(hint) is tuple:
        hint = Several
    names = entry.names or ((typed,) if hint is bool else ())
    info = option(entry.help, entry.metavar, entry.panel, *names, **more)
    default = None if entry.default == () else entry.default
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info])


# What no check has:

Model = Annotated[Path, argument("The ONNX file.", "MODEL.onnx", readable=False)]
Output = Annotated[  # on stdout
    Literal["terminal", "json"],
    option(
        "terminal or json.",
        "FORMAT",
        OUTPUT,
        "--output",
        "-o",
        autocompletion=completing(),
    ),
]
