"""Read a command line, also where typer refuses it or a signal ends the run.

Imports only typer and Python's own library, for it is needed where a signal has ended the import of everything else.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.core import TyperGroup, TyperOption

from ..errors import RobustcheckError
from ..text import Texts, frozen, is_onnx
from .destinations import follows_link, may_write, split
from .named_models import stems_of
from .options import PLACEHOLDER, Values, Words
from .settings_file import outputs_elsewhere

Documents = list[tuple[str, str]]
"""each as (form, path); path "" is stdout"""


def safe_documents(outputs: Words, stems: Words, folder: Path | None, *, strict: bool) -> Documents:
    """Return the documents that a run may write, without repeats. The others are never touched.

    Each FORM[=PATH] of the outputs gives (form, path), with path "" for stdout.

    stems: what `{model}` in a path stands for, one path for each; without any, such a path is left out.
    folder: of the settings file, where that names them.
    """

    def is_safe(path: str) -> bool:
        if not path:
            return True
        if folder is not None:
            return may_write(path, folder)
        return not (strict and follows_link(path))

    documents: Documents = []
    for form, _, path in map(split, outputs):
        paths = [path]
        if path == "-":
            paths = [""]
        elif PLACEHOLDER in path:
            paths = [path.replace(PLACEHOLDER, stem) for stem in stems]
        documents += [(form, place) for place in paths if is_safe(place)]
    return list(dict.fromkeys(documents))


DEFAULT_VERB = "check"
FORMS_OF = {
    **dict.fromkeys(("explain", "doctor", "calibrate", "profiles", "mlflow"), ("json",)),
    **dict.fromkeys(("scan", "shift", "concepts", "directions", "inspect", "verify"), ("json", "html", "markdown")),
}
"""The forms of the documents of a verb. All forms, where it is not listed."""


LOOK_UPS = ("explain", "--version", "-V")
"""what judges nothing: the exit code is 0 though the reader of its text goes away"""
HELP_OPTIONS = ("--help", "-h", "--help-all")


@frozen
class CommandLine:
    """A command line with its verb. Options that the verb does not declare are left out; refusing them is typer's."""

    words: Texts = ()
    """all of it, without the program's name; the verb is the first one"""
    arguments: Texts = ()
    """what follows the verb and is not an option; the first one after a group is its verb"""
    behind_dashes: Texts = ()
    """those of the arguments that follow `--`, which ends the options"""
    options: Values = field(default_factory=dict)
    """by parameter, such as no_ci, what was typed: a text, a list of them, a number of times, or True or False"""
    twice: str = ""
    """an option that takes one value and was given several, such as --seed"""

    @property
    def verb(self) -> str:
        """Return the verb, or its group. "" where nothing was typed."""
        return self.words[0] if self.words else ""

    @property
    def only_informs(self) -> bool:
        """Return whether the call only looks something up, as `explain` and the help of a verb do."""
        *before, last = self.words or ("",)
        return self.verb in LOOK_UPS or (last in HELP_OPTIONS and len(before) < 2)

    @property
    def model(self) -> str:
        """Return the first argument named like a model, without keys of a URL; "" where there is none."""
        from ..outside.storage.places import redact  # keeps `--help` fast

        return redact(next(filter(is_onnx, self.arguments), ""))

    def typed(self, name: str) -> list[str]:
        """Return the texts that were typed for an option; none for a flag."""
        value = self.options.get(name, [])
        values = value if isinstance(value, list) else [value]
        return [text for text in values if isinstance(text, str)]

    def reads(self, path: str) -> bool:
        """Return whether an argument, or an option but `-o`, names this file."""
        words = list(self.arguments)
        for name in self.options.keys() - {"output"}:
            words += self.typed(name)
        real_paths = map(os.path.realpath, words)
        return os.path.isfile(path) and os.path.realpath(path) in real_paths  # noqa: PTH113

    def documents(self) -> Documents:
        """Return each `-o FORM[=PATH]` as (form, path). Path "" is stdout; paths that hold `{model}` are left out.

        Of a check without `-o`: those that its settings file or the environment gives, if they can be read.
        """
        outputs: Words = self.typed("output")
        stems: list[str] = []
        folder = None
        is_check = self.verb == DEFAULT_VERB
        if is_check and not outputs and "isolated" not in self.options:
            with suppress(RobustcheckError, OSError, TypeError, AttributeError):
                outputs, folder = outputs_elsewhere(os.environ, self.options.get("config"))
        if is_check and any(PLACEHOLDER in text for text in outputs):
            stems = stems_of(self.arguments)
        documents = safe_documents(outputs, stems, folder, strict="strict" in self.options)
        forms = FORMS_OF.get(self.verb)
        return [(form, path) for form, path in documents if forms is None or form in forms]


@dataclass
class Invocation:
    """A call of the command: what was typed, and what became of it.

    Made before the verb runs, which gets it as `typer.Context.obj`; read when an error ends the run.
    """

    line: CommandLine
    documents: Documents | None = None
    """as `CommandLine.documents`; None: those of the line"""
    annotates: bool = True
    """whether the settings allow to annotate on GitHub Actions; True until a verb has read them"""
    judged: bool = False
    """whether models were checked to the end: with `--strict` nothing else ends with 0"""
    interrupted: Callable[[], bool] = lambda: False
    """whether a signal came; what it raised may have become another error on its way"""


def read(words: Words, group: TyperGroup) -> CommandLine:
    """Read a command line that starts with its verb, as typer does, but go on after a mistake.

    Where there is no such verb, the line is read as one of a check. `--json` becomes `-o json`.
    """
    command: Any = group
    for word in words:
        if isinstance(command, TyperGroup):
            command = command.commands.get(word)
    if command is None or isinstance(command, TyperGroup):
        command = group.commands[DEFAULT_VERB]
    options = {
        name: param
        for param in command.params
        if isinstance(param, TyperOption)
        for name in (*param.opts, *param.secondary_opts)
    }
    if "--output" in options:
        words = _spelled_out(words)
    rest = list(words[1:])
    arguments: list[str] = []
    values: Values = {}
    times: Counter[str] = Counter()
    while rest and (word := rest.pop(0)) != "--":
        if word == "-" or not word.startswith("-"):
            arguments.append(word)
            continue
        for option, value in _options_of(word, rest, options):
            name = option.name
            if option.count:
                values[name] = values.get(name, 0) + 1
            elif option.multiple:
                values[name] = [*values.get(name, []), value]
            else:
                values[name] = value
                times[long_name(option)] += not option.is_flag
    twice = [name for name, count in times.items() if count > 1]
    return CommandLine(
        words=tuple(words),
        arguments=(*arguments, *rest),
        behind_dashes=tuple(rest),
        options=values,
        twice="".join(twice[:1]),
    )


def _options_of(word: str, rest: list[str], options: Mapping[str, TyperOption]) -> list[tuple[TyperOption, Any]]:
    """Return the options of a word such as --seed=1 or -qo, each with its value; that of a flag is True or False.

    A value that the word lacks is taken off `rest`. What typer refuses is left out: an option that is not among these,
    one whose value is missing, and a flag with a value.
    """
    if word.startswith("--"):
        name, sign, value = word.partition("=")
        option = options.get(name)
        if option is None or (sign and _is_flag(option)):
            return []
        if _is_flag(option):
            return [(option, name not in option.secondary_opts)]
        return _with_value(option, [value] if sign else rest)
    found: list[tuple[TyperOption, Any]] = []
    for at, letter in enumerate(word[1:], 2):
        option = options.get(f"-{letter}")
        if option is not None and not _is_flag(option):
            value = word[at:]
            return found + _with_value(option, [value] if value else rest)
        if option is not None:
            found.append((option, True))
    return found


def _with_value(option: TyperOption, rest: list[str]) -> list[tuple[TyperOption, Any]]:
    return [(option, rest.pop(0))] if rest else []


def _is_flag(option: TyperOption) -> bool:
    return option.is_flag or option.count


def long_name(param: Any) -> str:
    """Return the name of an option as people know it, such as --output."""
    return str(max(param.opts, key=len))


def _spelled_out(words: Words) -> list[str]:
    """Write each `--json` before `--` as `-o json`."""
    end = words.index("--") if "--" in words else len(words)
    spelled: list[str] = []
    for word in words[:end]:
        spelled += ["-o", "json"] if word == "--json" else [word]
    return [*spelled, *words[end:]]
