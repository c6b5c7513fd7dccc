"""Resolve the settings of a check, from the command line, the environment and a file, and show them.

The command line counts before the environment, that before the file, and that before the default. An unknown key, a
value of a wrong type and an unreadable file end the run: a gate must not run with other settings than were written.
"""

import os
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_origin

from pydantic import BaseModel, ByteSize, Field, ValidationError, create_model
from pydantic_core import to_jsonable_python

from ...thresholds.profile import PACKAGED
from ...thresholds.records import Frozen
from ..core.options import STOCK
from ..core.verdict.gate import Loosening, Waiver
from ..core.verdict.reasons import RULES
from ..errors import UsageError
from ..outside.storage.places import redact_text
from ..text import Texts, frozen, quoted, rule_of
from .command_line import CommandLine
from .options import (
    FIELDS,
    HARMLESS,
    LOOSENS,
    ONLY_TYPED,
    ROWS,
    ROWS_BY_KEY,
    TYPES,
    Settings,
    Values,
    Variables,
    Words,
    as_tuples,
    key_of,
)
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
DEFAULT = "default"
COMMAND_LINE = "command line"
EXACT_DEVICES = ("auto", "cpu", "cuda")  # TF32 is off there; TensorRT may take it
NOT_SETTINGS = {key_of(name): row.why for name, row in ROWS.items() if row.power == ONLY_TYPED}
NOT_SETTINGS["models"] = "models are named on the command line"
LOOK = "robustcheck check --show-settings --isolated  # shows every key"


def _in_file(name: str) -> Any:
    """Return an option's type and default in settings files."""
    row = ROWS[name]
    hint = TYPES[name]
    least = row.more.get("min")
    if "count" in row.more:
        least = 0
    if name == "waivers":
        hint = tuple[Waiver, ...]
    elif "parser" in row.more:
        hint = ByteSize | None
    limits: Values = {"ge": least, "le": row.more.get("max"), "pattern": row.pattern}
    return hint, Field(row.default, alias=key_of(name), description=row.about, **limits)


_FIELDS: Any = {name: _in_file(name) for name in FIELDS.values()}
FILE: type[BaseModel] = create_model("Settings", __base__=Frozen, **_FIELDS)
"""What a settings file or the environment may set, to check it"""
VARIABLES = {PREFIX + name.upper(): key for key, name in FIELDS.items() if name != "waivers"}


class SettingSource(NamedTuple):
    """The place where a setting was set."""

    layer: Literal["default", "file", "variable", "typed"]
    name: str
    """DEFAULT, COMMAND_LINE, a variable's name, or the file"""


UNSET = SettingSource("default", DEFAULT)


@frozen
class Resolved:
    """The settings that hold, and the source of each."""

    settings: Settings
    sources: Mapping[str, SettingSource] = field(default_factory=dict)
    """by key, of what is set; `waivers` of a file that the command line names is typed"""
    file: str | None = None
    """the file that was used, as it can be typed"""

    def source(self, key: str) -> str:
        """Return where a setting came from."""
        return self.sources.get(key, UNSET).name

    def is_from(self, layer: str, *keys: str) -> bool:
        """Return whether one of these settings has its value from a layer."""
        return layer in [self.sources.get(key, UNSET).layer for key in keys]

    def notes(self) -> Texts:
        """Write the settings of a file or the environment that can change numbers or the exit code, for the report.

        What can loosen the gate is not a note: the report says it first (`Gate.loosening`).
        """
        first = {loosening.setting for loosening in self.loosening()}
        facts: defaultdict[str, list[str]] = defaultdict(list)
        for key, source in self.sources.items():
            if ROWS_BY_KEY[key].power == LOOSENS and source.layer != "typed" and key not in first:
                where = source.name if source.layer == "file" else "the environment"
                facts[where].append(f"{key} {self.shown(key)}")
        return tuple(f"settings from {where}: {', '.join(some)}" for where, some in facts.items())

    def loosening(self) -> tuple[Loosening, ...]:
        """Return the settings that can loosen the gate, with their sources.

        Photos named on the command line do not count, since a gate asks for them.
        """
        loosening: list[Loosening] = []
        for key, source in self.sources.items():
            is_asked_for = (key, source.layer) == ("images", "typed")
            if ROWS_BY_KEY[key].power == LOOSENS and self.is_other(key) and not is_asked_for:
                value = self.shown(key)
                loosening.append(Loosening(setting=key, value=value, source=source.name))
        return tuple(loosening)

    def is_other(self, key: str) -> bool:
        """Return whether a setting differs from its default in a way that can do what its rule says.

        Of the share of unusable images that is a larger one, of the device none of EXACT_DEVICES.
        """
        if key == "device":
            return self.settings.device.partition(":")[0].lower() not in EXACT_DEVICES
        value: Any = getattr(self.settings, FIELDS[key])
        default = ROWS_BY_KEY[key].default
        if key == "max-bad":
            return bool(value > default)
        return bool(value != default)

    def shown(self, key: str) -> str:
        """Write a setting's value in a few words, without secrets."""
        value = getattr(self.settings, FIELDS[key])
        if key == "waivers":
            return f"{len(value)} in all"
        values = value if isinstance(value, tuple) else (str(value),)
        return ", ".join(map(redact_text, values))


def resolve(
    typed: Values,
    environment: Variables,
    *,
    file: str | None = None,
    isolated: bool = False,
    waivers_file: str | None = None,
) -> Resolved:
    """Merge defaults, file, environment and command line. Later ones override earlier ones.

    Args:
        typed: what the command line sets, by field; typer has checked it.
        environment: the variables.
        file: of --config; None = ROBUSTCHECK_CONFIG, else the nearest one upward from the current folder.
        isolated: read neither file nor environment.
        waivers_file: of --waivers; its waivers count, and none of a settings file.

    Raises:
        UsageError: a file or variable is wrong; EnvironmentFaultError: a file can't be read.
    """
    if isolated and file is not None:
        raise UsageError(f"--config is {file!r}; --isolated reads no file", "leave out --config or --isolated")
    settings = Settings()
    sources: dict[str, SettingSource] = {}

    def put(source: SettingSource, values: Values) -> None:
        nonlocal settings
        settings = replace(settings, **values)
        for name in values:
            named = source.name or PREFIX + name.upper()
            sources[key_of(name)] = source._replace(name=named)

    used: Path | None = None
    if not isolated:
        from_environment = _environment(environment)
        used = find_named(environment, file)
        if used is not None:
            layer = _layer(read_table(used), str(used), strict=True)
            put(SettingSource("file", str(used)), _rebased(layer, used.parent))
        put(SettingSource("variable", ""), from_environment)
    # not validated again: typer has checked these, and a path that is not a valid text must stay as it is
    put(SettingSource("typed", COMMAND_LINE), typed)
    if waivers_file is not None:
        table = read_table(Path(waivers_file))
        for key in sorted(table.keys() - {"waivers"}):
            rule = "a file of --waivers may only hold waivers"
            raise UsageError(f"{waivers_file}: key is {key}; {rule}", f"--config {waivers_file}")
        layer = _layer(table, waivers_file, strict=True)
        put(SettingSource("typed", waivers_file), {"waivers": ()} | layer)
    ordered = {key: sources[key] for key in FIELDS if key in sources}
    return Resolved(settings, ordered, None if used is None else str(used))


def _closest(word: str, words: Words, otherwise: str) -> str:
    near = get_close_matches(word, words, 1)
    return f"the closest is {near[0]}" if near else otherwise


def _environment(environment: Variables) -> Values:
    """Return the settings of environment variables, by field. An empty variable counts as not set."""
    values: Values = {}
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        text = environment[variable]
        key = VARIABLES.get(variable)
        if key is None and variable not in OTHER_VARIABLES:
            known = (*VARIABLES, *OTHER_VARIABLES)
            rule = _closest(variable, known, f"names that start with {PREFIX} are settings")
            raise UsageError(f"environment: variable {variable} is not known; {rule}", f"unset {variable}")
        if key and text:
            value: object = text
            if get_origin(TYPES[FIELDS[key]]) is tuple:
                value = tuple(map(str.strip, text.split(",")))
            values |= _layer({key: value}, "environment", strict=False)
    return values


def _layer(values: Values, where: str, *, strict: bool) -> Values:
    """Check the settings of a file or the environment.

    Returns the values by field. Raises UsageError with key and nearest name.
    """
    try:
        layer: Any = FILE.model_validate(as_tuples(values), strict=strict)
    except ValidationError as fault:
        raise _explained(fault, where) from fault
    for number, waiver in enumerate(layer.waivers, 1):
        _check_waiver(waiver, f"{where}: waiver {number}:")
    return {name: getattr(layer, name) for name in layer.model_fields_set}


def _explained(fault: ValidationError, where: str) -> UsageError:
    """Return the first fault as an error with a hint."""
    first = fault.errors(include_url=False)[0]
    keys = list(first["loc"])
    kind = first["type"]
    value = first["input"]
    allowed = list(FIELDS)
    if keys[0] == "waivers" and len(keys) > 1:
        where = f"{where}: waiver {int(keys[1]) + 1}"
        allowed = list(Waiver.model_fields)
        keys = keys[2:] or ["waiver"]
    key = str(keys[0])
    if keys == ["waivers"] and isinstance(value, dict):
        header = f"tool.{TABLE}.waivers" if Path(where).name == SHARED_FILE else "waivers"
        return UsageError(f"{where}: waivers is one table; each waiver starts with [[{header}]]", f"[[{header}]]")
    if where == "environment":
        key = PREFIX + key.upper().replace("-", "_")
    if kind == "extra_forbidden":
        if key in NOT_SETTINGS and allowed == list(FIELDS):
            return UsageError(f"{where}: key is {key}; it is not a setting: {NOT_SETTINGS[key]}", LOOK)
        rule = _closest(key, allowed, f"keys are {', '.join(allowed)}")
        return UsageError(f"{where}: key is {key}; {rule}", LOOK)
    if kind == "missing":
        needs = ", ".join(WAIVER_NEEDS)
        return UsageError(f"{where}: {key} is missing; a waiver needs {needs}", f"{key} = …")
    return UsageError(f"{where}: {key} is {value!r}; {rule_of(first)}", LOOK)


WAIVER_NEEDS = ("reason", "because", "owner", "expires")


def _check_waiver(waiver: Waiver, where: str) -> None:
    if waiver.reason not in RULES:
        rule = _closest(waiver.reason, list(RULES), "there is none")
        raise UsageError(f"{where} reason is {waiver.reason!r}; {rule}", "robustcheck explain reasons")
    for key in ("because", "owner"):
        if not getattr(waiver, key).strip():
            raise UsageError(f"{where} {key} is blank; a waiver must name who accepted what, and why", f'{key} = "…"')
    if not waiver.models or not all(waiver.models):
        raise UsageError(f"{where} models is {list(waiver.models)}; it must name models", 'models = ["**"]')


def _rebased(layer: Values, folder: Path) -> Values:
    """Join relative paths in a file's settings to its folder."""
    words: dict[str, Iterable[str]] = {"thresholds": PACKAGED, "preprocess": ("clip", "imagenet"), "images": (STOCK,)}
    joined = dict(layer)
    for name in layer.keys() & {"sign", "log_file", *words}:
        if layer[name] not in words.get(name, ()):
            joined[name] = rebased(layer[name], folder)
    if "output" in layer:
        joined["output"] = rebased_outputs(layer["output"], folder)
    return joined


def of_check(line: Settings, typed: Values) -> Resolved:
    """Return the settings of a check. line: the options of its command line, of which these were typed."""
    named = typed.pop("waivers", None)
    return resolve(typed, os.environ, file=line.config, isolated=line.isolated, waivers_file=named)


def value_text(key: str, value: object) -> str:
    """Write a setting's value. For one that is not set, it is what happens instead."""
    if isinstance(value, bool):
        return str(value).lower()  # as it is written in a file
    if isinstance(value, dict):  # a waiver
        reason = value["reason"]
        if value["models"] != ["**"]:
            reason += f" for {', '.join(value['models'])}"
        return f"{reason}, until {value['expires']} by {value['owner']}"
    if isinstance(value, list) and value:
        return "; ".join(value_text(key, each) for each in value)
    if value not in (None, []):
        return str(value)
    _, _, instead = ROWS_BY_KEY[key].about.partition("Default: ")
    if instead in ("", "none."):
        return "none"
    return f"not set: {instead.removesuffix('.')}"


def settings_json(resolved: Resolved) -> Values:
    """Return the value and source of every setting as a JSON document. No URL shows a key."""

    def redacted(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(redacted, value))
        return redact_text(value) if isinstance(value, str) else value

    settings: Values = {}
    for key, name in FIELDS.items():
        value = to_jsonable_python(getattr(resolved.settings, name))
        settings[key] = {"value": redacted(value), "source": resolved.source(key)}
    return {"schema_version": 1, "tool": "robustcheck", "file": resolved.file, "settings": settings}


def template() -> str:
    """Write a robustcheck.toml in which each key, with its default or an example, is commented out."""
    lines = [
        "# Settings of `robustcheck check`. To change one, remove the # in front of its name. The command line and",
        "# variables (ROBUSTCHECK_MAX_IMAGES=…) override this file.",
        "# Paths start from this file's folder. `robustcheck check --show-settings` shows each value and its source.",
        "# With --strict, as in pipelines, only the command line can loosen the gate.",
    ]
    for key, row in ROWS_BY_KEY.items():
        if key != "waivers":
            value = row.default if row.example is None else row.example
            lines += ["", f"# {row.about}", f"#{key} = {as_toml(value)}"]
    return "\n".join([*lines, WAIVER_TEMPLATE])


WAIVER_TEMPLATE = """
# An accepted reason for WARN: it no longer fails the run, up to and with the day in `expires`. The report still shows
# WARN, and who accepted what. `models`: globs of the model's path as it is typed; `**` is any folders, `*` none. One
# such table for each reason.
#[[waivers]]
#reason = "too_few_images"
#because = "the model sees ten scenes in all"
#owner = "name@example.org"
#expires = 2026-12-31
#models = ["**"]
"""


def as_toml(value: object) -> str:
    """Write a value as TOML does."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, int | float):
        return str(value).lower()
    return f'"{value}"'


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
        images = quoted(resolved.settings.images or "photos/")
        raise UsageError(
            f"MODEL.onnx is {line.arguments[0]!r}, before --; with --strict models are named after --, so that no "
            "name is an option",
            f"robustcheck {line.verb} --strict --images {images} -- {shlex.join(line.arguments)}",
        )
    changed = [key for key in resolved.sources if resolved.is_other(key)]
    untrusted = [key for key in changed if not resolved.is_from("typed", key)]
    keys = [key for key in untrusted if ROWS_BY_KEY[key].power != HARMLESS]
    if keys:
        facts = "; ".join(f"{resolved.source(key)}: {key} is {resolved.shown(key)}" for key in keys)
        why = ROWS_BY_KEY[keys[0]].why
        again = " ".join(_typed_again(resolved, key) for key in keys)
        raise UsageError(
            f"{facts}; with --strict only the command line may set that ({why})", f"remove it there, or type {again}"
        )
    if resolved.settings.images is None:
        raise UsageError(
            "--images is missing; with --strict you must name the photos (--images bundled chooses the bundled ones)",
            "--images photos/",
        )


def _typed_again(resolved: Resolved, key: str) -> str:
    """Write a setting as options of the command line."""
    if key == "waivers":
        return "--waivers FILE"
    value = getattr(resolved.settings, FIELDS[key])
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"--{key} {quoted(each)}" for each in values)
