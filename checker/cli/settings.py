"""The settings of a check: what the command line, the environment and a file set, which counts, and as text.

The command line counts before the environment, that before the file, and that before the default. An unknown key, a
value of a wrong type and an unreadable file end the run: a gate must not run with other settings than were written.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, ConfigDict, Field, ValidationError

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import STOCK, Options
from robustcheck_onnx.checker.limits import Limits
from robustcheck_onnx.checker.storage.places import redact_text
from robustcheck_onnx.checker.text import rule_of
from robustcheck_onnx.checker.verdict import RULES, Accept, FailOn, Loosening, Waiver
from robustcheck_onnx.thresholds.frozen import Frozen
from robustcheck_onnx.thresholds.profile import PACKAGED

from . import vocabulary
from .command_line import CommandLine
from .options import HARMLESS, LOOSENS, POWERS, device_of, limits_of
from .settings_file import CONFIG, SHARED_FILE, TABLE, find_named, read_table, rebased, rebased_outputs

PREFIX = "ROBUSTCHECK_"
OTHER_VARIABLES = (
    CONFIG,
    "ROBUSTCHECK_OFFLINE",
    "ROBUSTCHECK_LOCAL_ROWS",  # `--strict` sets it
    "ROBUSTCHECK_KEY_PASSWORD",  # of `sign` and `--sign`
    "ROBUSTCHECK_MAX_DOWNLOAD_BYTES",
    "ROBUSTCHECK_SHARED",  # benchmarks and tests: where large files are
)
"""Variables that set no setting of a check; any other unknown one that starts with PREFIX is an error."""
DEFAULT, COMMAND_LINE = "default", "command line"
NOT_SETTINGS = {
    "config": "it is for the command line",
    "isolated": "it is for the command line",
    "show-settings": "it is for the command line",
    "debug": "it is for the command line",
    "strict": "it is for the command line, which says whom it trusts",
    "save-representations": "it is for the command line",
    "export": "it is for the command line",
    "log": "it is for the command line",
    "alias": "it is for the command line",
    "offline": "set the variable ROBUSTCHECK_OFFLINE=1",
    "models": "models are named on the command line",
}
"""Options that can't stand in a file, with what to do instead."""
PRESENTATION = (
    *("output", "sign", "quiet", "verbose", "no-time", "color", "log-file", "no-ci", "no-thumbnails"),
    *("timeout", "max-memory", "max-model-size"),
)
"""Settings that change neither a number nor a verdict's exit code; the report names all others."""
EXACT_DEVICES = ("auto", "cpu", "cuda")  # TF32 is off there; TensorRT may take it
LOOK = "robustcheck check --show-settings --isolated  # shows every key"

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def _key(name: str) -> str:
    """The name of a setting in a file: its option without the dashes."""
    return name.replace("_", "-")


class Settings(Frozen):
    """The settings of a check; a key is the option's name. The description is the line that `init` writes."""

    model_config = ConfigDict(alias_generator=_key)

    images: str | None = Field(None, description="In-distribution photos, or bundled. Default: the bundled photos.")
    max_images: Positive | None = Field(None, description="Stop after this many images. Default: all.")
    max_bad: Share = Field(0.01, description="Largest share of images that may be unusable.")
    seed: int = Field(0, description="Images are taken in a random order; another number gives another order.")
    preprocess: str | None = Field(
        None, description="clip, imagenet or a JSON file. Default: what the model or a sidecar says."
    )
    tensor: str | None = Field(None, description="Tensor to measure. Default: the one found by rule.")
    pool: str | None = Field(None, description="How to pool it. Default: by rule.")
    device: Annotated[str, Field(pattern="^[^,]*$")] = Field(
        "auto", description="auto, cpu, cuda, cuda:N, tensorrt or another execution provider."
    )
    provider_option: tuple[str, ...] = Field((), description="KEY=VALUE: options of that provider. Default: none.")
    batch_size: Annotated[int, Field(ge=1, le=32)] = Field(32, description="Images that the model gets at once.")
    thresholds: str | None = Field(None, description="A threshold profile. Default: the packaged one.")
    fail_on: FailOn = Field("warn", description="warn: WARN exits with 1. never: a verdict exits with 0.")
    accept: Accept | None = Field(
        None, description="not_applicable: WARN exits with 0 where every reason is of that kind."
    )
    output: tuple[str, ...] = Field((), description="FORMAT or FORMAT=PATH, as -o. Default: the terminal report.")
    sign: str | None = Field(None, description="Private key that signs the JSON report; see --sign. Default: none.")
    quiet: Annotated[int, Field(ge=0, le=2)] = Field(0, description="1: one line a model. 2: nothing on stdout.")
    verbose: Annotated[int, Field(ge=0, le=2)] = Field(0, description="1: the whole report. 2: also the log.")
    no_thumbnails: bool = Field(False, description="html: no small copies of calibration photos.")
    no_time: bool = Field(False, description="Leave out how long it took.")
    color: Literal["auto", "always", "never"] = Field("auto", description="auto, always or never.")
    log_file: str | None = Field(None, description="Append to this file what is done, and when. Default: none.")
    no_ci: bool = Field(False, description="No annotations for the CI system that runs the check.")
    timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Seconds that one model may take; 0: no limit. Default: 7200."
    )
    max_memory: ByteSize | None = Field(None, description="Memory that one model may take, as 8GiB. Default: no limit.")
    max_model_size: ByteSize | None = Field(
        None, description="Largest size of a model with its external data, as 2GiB. Default: no limit."
    )
    waivers: tuple[Waiver, ...] = Field((), description="Accepted reasons for WARN; in a file only.")

    @property
    def options(self) -> Options:
        """Those that move the numbers, beside the profile."""
        values = {name: getattr(self, name) for name in Options.model_fields}
        return Options(**values | {"device": device_of(self.device, self.provider_option)})

    @property
    def limits(self) -> Limits:
        """What one model may take. Raises as `Limits`."""
        return limits_of(self.timeout, self.max_memory, self.max_model_size)


FIELDS = {_key(name): name for name in Settings.model_fields}
VARIABLES = {PREFIX + name.upper(): _key(name) for name in Settings.model_fields if name != "waivers"}


@dataclass(frozen=True)
class Resolved:
    """The settings that hold, and the source of each."""

    settings: Settings
    sources: Mapping[str, str] = field(default_factory=dict)
    """by key: DEFAULT, COMMAND_LINE, a variable's name, or the file"""
    file: str | None = None
    """the file that was used, as it can be typed"""
    typed: frozenset[str] = frozenset()
    """keys that the command line says, `waivers` of a file that it names among them"""
    in_file: frozenset[str] = frozenset()
    """keys whose value is that of the settings file"""

    def source(self, key: str) -> str:
        """Where a setting came from."""
        return self.sources.get(key, DEFAULT)

    def notes(self) -> tuple[str, ...]:
        """Sentences for the report: what a file or the environment set that can change numbers or the exit code.

        What can loosen the gate is no note: the report says it first (`Gate.loosening`).
        """
        first = {each.setting for each in self.loosening()}
        facts_by_source: dict[str, list[str]] = {}
        for key, source in self.sources.items():
            if key in PRESENTATION or key in self.typed or key in first:
                continue
            where = source if key in self.in_file else "the environment"
            facts_by_source.setdefault(where, []).append(f"{key} {self.shown(key)}")
        return tuple(f"settings from {where}: {', '.join(facts)}" for where, facts in facts_by_source.items())

    def loosening(self) -> tuple[Loosening, ...]:
        """What can loosen the gate, and who says it; that the command line names photos is what a gate asks for."""
        return tuple(
            Loosening(setting=key, value=self.shown(key), source=source)
            for key, source in self.sources.items()
            if POWERS[key].power == LOOSENS and self.is_other(key) and not (key == "images" and key in self.typed)
        )

    def is_other(self, key: str) -> bool:
        """Whether a setting has another value than its default that can do what its rule says.

        Of the share of unusable images that is a larger one, of the device none of EXACT_DEVICES.
        """
        if key == "device":
            return self.settings.device.partition(":")[0].lower() not in EXACT_DEVICES
        value, default = getattr(self.settings, FIELDS[key]), Settings.model_fields[FIELDS[key]].default
        return bool(value > default if key == "max-bad" else value != default)

    def shown(self, key: str) -> str:
        """A setting's value in a few words, without secrets."""
        value = getattr(self.settings, FIELDS[key])
        if key == "waivers":
            return f"{len(value)} in all"
        return ", ".join(map(redact_text, value)) if isinstance(value, tuple) else redact_text(str(value))


def resolve(
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    file: str | None = None,
    isolated: bool = False,
    waivers_file: str | None = None,
) -> Resolved:
    """Put defaults, file, environment and command line over each other.

    Args:
        given: what the command line sets, by field; typer has checked it.
        environment: the variables.
        file: of --config; None = ROBUSTCHECK_CONFIG, else the nearest one upward from the current folder.
        isolated: read neither file nor environment.
        waivers_file: of --waivers; its waivers count, and none of a settings file.

    Raises:
        UsageError: a file or variable is wrong; EnvironmentFaultError: a file can't be read.
    """
    settings, sources = Settings.model_validate({}), dict[str, str]()
    used: Path | None = None
    in_file = frozenset[str]()
    if isolated and file is not None:
        raise UsageError(f"--config is {file!r}; --isolated reads no file", "leave out --config or --isolated")
    if not isolated:
        from_environment = _environment(environment)
        used = find_named(environment, file)
        if used is not None:
            layer = _layer(read_table(used, required=True) or {}, str(used), strict=True)
            layer = _rebased(layer, used.parent)
            settings = settings.model_copy(update=layer)
            sources |= {_key(name): str(used) for name in layer}
            in_file = frozenset(layer) - frozenset(from_environment)
        settings = settings.model_copy(update=from_environment)
        sources |= {_key(name): PREFIX + name.upper() for name in from_environment}
    # not validated again: typer has checked these, and a path that is no valid text must stay as it is
    settings = settings.model_copy(update=dict(given))
    sources |= {_key(name): COMMAND_LINE for name in given}
    typed = frozenset(given)
    if waivers_file is not None:
        settings = settings.model_copy(update={"waivers": _waivers_of(waivers_file)})
        sources["waivers"], typed = waivers_file, typed | {"waivers"}
    ordered = {key: sources[key] for key in FIELDS if key in sources}
    return Resolved(
        settings,
        ordered,
        None if used is None else str(used),
        typed=frozenset(map(_key, typed)),
        in_file=frozenset(map(_key, in_file - typed)),
    )


def _waivers_of(file: str) -> tuple[Waiver, ...]:
    """The waivers of a file that holds nothing else. Raises as `resolve`."""
    table = read_table(Path(file), required=True) or {}
    if others := sorted(table.keys() - {"waivers"}):
        raise UsageError(f"{file}: key is {others[0]}; a file of --waivers holds waivers alone", f"--config {file}")
    waivers: tuple[Waiver, ...] = _layer(table, file, strict=True).get("waivers", ())
    return waivers


def _environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the environment's variables set, by field; an empty variable counts as not set."""
    values: dict[str, Any] = {}
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        text = environment[variable]
        if variable in OTHER_VARIABLES:
            continue
        key = VARIABLES.get(variable)
        if key is None:
            vocabulary.refuse_removed("environment: variable", variable, vocabulary.REMOVED_VARIABLES)
            near = difflib.get_close_matches(variable, [*VARIABLES, *OTHER_VARIABLES], 1)
            raise UsageError(
                f"environment: variable {variable} is not known"
                + (f"; the closest is {near[0]}" if near else f"; names that start with {PREFIX} are settings"),
                f"unset {variable}",
            )
        if not text:
            continue
        value: object = text
        if key in ("output", "provider-option"):
            value = tuple(part.strip() for part in text.split(","))
        values |= _layer({key: value}, "environment", strict=False)
    return values


def _layer(values: Mapping[str, Any], where: str, *, strict: bool) -> dict[str, Any]:
    """Check what the file or the environment sets; the values by field. Raises UsageError with key and nearest name."""
    try:
        layer = Settings.model_validate({key: _frozen(value) for key, value in values.items()}, strict=strict)
    except ValidationError as fault:
        raise _explained(fault, where) from fault
    for number, waiver in enumerate(layer.waivers, 1):
        _check_waiver(waiver, f"{where}: waiver {number}:")
    return {name: getattr(layer, name) for name in layer.model_fields_set}


def _frozen(value: object) -> object:
    """A TOML value with tuples in place of its lists."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value


def _explained(fault: ValidationError, where: str) -> UsageError:
    """The first fault as an error with a hint."""
    first = fault.errors(include_url=False)[0]
    keys, kind, value = list(first["loc"]), first["type"], first["input"]
    known = list(FIELDS)
    if keys[0] == "waivers" and len(keys) > 1:
        where, known = f"{where}: waiver {int(keys[1]) + 1}", list(Waiver.model_fields)
        keys = keys[2:]
    key = str(keys[0]) if keys else "waiver"
    if keys == ["waivers"] and isinstance(value, dict):
        header = f"tool.{TABLE}.waivers" if Path(where).name == SHARED_FILE else "waivers"
        return UsageError(f"{where}: waivers is one table; each waiver starts with [[{header}]]", f"[[{header}]]")
    if where == "environment":
        key = PREFIX + key.upper().replace("-", "_")
    if kind == "extra_forbidden":
        vocabulary.refuse_removed(f"{where}: key", key, vocabulary.REMOVED_KEYS)
        if key in NOT_SETTINGS and known == list(FIELDS):
            return UsageError(f"{where}: key is {key}; it is no setting: {NOT_SETTINGS[key]}", LOOK)
        near = difflib.get_close_matches(key, known, 1)
        rule = f"the closest is {near[0]}" if near else f"keys are {', '.join(known)}"
        return UsageError(f"{where}: key is {key}; {rule}", LOOK)
    if kind == "missing":
        return UsageError(f"{where}: {key} is missing; a waiver needs {', '.join(WAIVER_NEEDS)}", f"{key} = …")
    return UsageError(f"{where}: {key} is {value!r}; {rule_of(first)}", LOOK)


WAIVER_NEEDS = ("reason", "because", "owner", "expires")


def _check_waiver(waiver: Waiver, where: str) -> None:
    if waiver.reason not in RULES:
        near = difflib.get_close_matches(waiver.reason, RULES, 1)
        raise UsageError(
            f"{where} reason is {waiver.reason!r}; " + (f"the closest is {near[0]}" if near else "there is none"),
            "robustcheck explain reasons",
        )
    for key in ("because", "owner"):
        if not getattr(waiver, key).strip():
            raise UsageError(f"{where} {key} is blank; a waiver says who accepted what, and why", f'{key} = "…"')
    if not waiver.models or not all(waiver.models):
        raise UsageError(f"{where} models is {list(waiver.models)}; it must name models", 'models = ["*"]')


def _rebased(layer: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a file with its relative paths joined to its folder."""
    names = {"thresholds": tuple(PACKAGED), "preprocess": ("clip", "imagenet"), "images": (STOCK,)}
    joined: dict[str, Any] = {
        name: rebased(layer[name], folder)
        for name in ("images", "thresholds", "preprocess", "sign", "log_file")
        if name in layer and layer[name] not in names.get(name, ())
    }
    if "output" in layer:
        joined["output"] = rebased_outputs(layer["output"], folder)
    return layer | joined


def _in_short(waiver: dict[str, Any]) -> str:
    of = "" if waiver["models"] == ["*"] else f" for {', '.join(waiver['models'])}"
    return f"{waiver['reason']}{of}, until {waiver['expires']} by {waiver['owner']}"


def value_text(key: str, value: object) -> str:
    """A setting's value as text; for one that is not set, what happens instead."""
    if isinstance(value, bool):
        return str(value).lower()  # as it is written in a file
    if isinstance(value, list) and value:
        return "; ".join(_in_short(entry) if isinstance(entry, dict) else str(entry) for entry in value)
    if value not in (None, []):
        return str(value)
    about = Settings.model_fields[FIELDS[key]].description or ""
    _, _, instead = about.partition("Default: ")
    return "none" if instead in ("", "none.") else f"not set: {instead.removesuffix('.')}"


def settings_json(resolved: Resolved) -> dict[str, Any]:
    """Every setting with its value and source, as a JSON document."""
    values = resolved.settings.model_dump(mode="json", by_alias=True)
    for key in ("images", "preprocess", "thresholds", "output"):  # a URL shows no key
        values[key] = (
            list(map(redact_text, values[key])) if key == "output" else values[key] and redact_text(values[key])
        )
    settings = {key: {"value": value, "source": resolved.source(key)} for key, value in values.items()}
    return {"schema_version": 1, "tool": "robustcheck", "file": resolved.file, "settings": settings}


EXAMPLES: dict[str, object] = {
    "timeout": 600,
    "max-memory": "8GiB",
    "max-model-size": "2GiB",
    "images": "photos/",
    "max-images": 500,
    "preprocess": "clip",
    "tensor": "image_embedding",
    "pool": "none",
    "thresholds": "default",
    "provider-option": ("use_tf32=1",),
    "accept": "not_applicable",
    "output": ("terminal", "json=report.json"),
    "sign": "key.pem",
    "log-file": "robustcheck.log",
}
"""What `init` writes for settings without a default value."""


def template() -> str:
    """A commented robustcheck.toml: every key with its default or an example, and one line about it."""
    lines = [
        "# Settings of `robustcheck check`. To change one, remove the # in front of its name. The command line and",
        "# variables (ROBUSTCHECK_MAX_IMAGES=…) count before this file.",
        "# Paths count from this file's folder. `robustcheck check --show-settings` shows what holds, and from where.",
        "# With --strict, as in pipelines, what loosens the gate counts from the command line alone.",
    ]
    for key, name in FIELDS.items():
        if name == "waivers":
            continue
        about = Settings.model_fields[name]
        value = EXAMPLES.get(key, about.default)
        lines += ["", f"# {about.description}", f"#{key} = {as_toml(value)}"]
    return "\n".join(lines) + "\n" + WAIVER_TEMPLATE


WAIVER_TEMPLATE = """
# An accepted reason for WARN: it no longer fails the run, up to and with the day in `expires`. The report still says
# WARN, and who accepted what. `models`: globs of the model's path as it is typed. One such table for each reason.
#[[waivers]]
#reason = "too_few_images"
#because = "the model sees ten scenes in all"
#owner = "name@example.org"
#expires = 2026-12-31
#models = ["*"]
"""


def as_toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, int | float):
        return str(value)
    return '"' + str(value) + '"'


def refuse_loosening(resolved: Resolved, line: CommandLine) -> None:
    """Refuse what `--strict` does not take.

    Args:
        resolved: the settings that hold.
        line: what was typed.

    Raises:
        UsageError: a model is named before `--`; a file or a variable says what only the command line may; the command
            line names no images.
    """
    if line.arguments != line.behind_dashes:
        before = line.arguments[: len(line.arguments) - len(line.behind_dashes)]
        raise UsageError(
            f"MODEL.onnx is {before[0]!r}, before --; with --strict models are named after --, so that no name is an "
            "option",
            f"robustcheck check --strict --images {shlex.quote(resolved.settings.images or 'photos/')} -- "
            f"{shlex.join(line.arguments)}",
        )
    said = [
        key
        for key in resolved.sources
        if POWERS[key].power != HARMLESS and key not in resolved.typed and resolved.is_other(key)
    ]
    if said:
        facts = "; ".join(f"{resolved.source(key)}: {key} is {resolved.shown(key)}" for key in said)
        raise UsageError(
            f"{facts}; with --strict only the command line may say that ({POWERS[said[0]].why})",
            f"remove it there, or type {' '.join(_typed_again(resolved, key) for key in said)}",
        )
    if resolved.settings.images is None:
        raise UsageError(
            "--images is missing; with --strict a gate names its photos: without it these would be the bundled ones, "
            "not yours (--images bundled says that they are meant)",
            "--images photos/",
        )


def _typed_again(resolved: Resolved, key: str) -> str:
    """The option that says the same on the command line."""
    if key == "waivers":
        return "--waivers FILE"
    value = getattr(resolved.settings, key.replace("-", "_"))
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"--{key} {shlex.quote(str(each))}" for each in values)
