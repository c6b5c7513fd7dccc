"""Read the command line before typer parses it.

It is known even where typer refuses it, and where a signal ends the run.

Which words are options, and which of them take a value, is what the verb itself declares.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from typer.core import TyperGroup, TyperOption

from robustcheck_onnx.checker.errors import RobustcheckError

from . import settings_file
from .options import PLACEHOLDER

DEFAULT_VERB = "check"
FORMS_OF = {
    **dict.fromkeys(("explain", "shift", "inspect", "doctor", "calibrate", "profiles", "verify", "mlflow"), ("json",)),
    **dict.fromkeys(("scan", "concepts", "directions"), ("json", "html")),
}
"""The forms of the documents of a verb. All forms, where it is not listed."""


LOOK_UPS = ("explain", "--version", "-V")
"""what judges nothing: the exit code is 0 though the reader of its text goes away"""


@dataclass(frozen=True)
class CommandLine:
    """A command line with its verb. Options that the verb does not declare are left out; refusing them is typer's."""

    words: tuple[str, ...] = ()
    """all of it, without the program's name; the verb is the first one"""
    arguments: tuple[str, ...] = ()
    """what follows the verb and is not an option; the first one after a group is its verb"""
    behind_dashes: tuple[str, ...] = ()
    """those of the arguments that follow `--`, which ends the options"""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """by parameter, such as no_ci: each value that was typed; "" for a flag"""
    twice: str = ""
    """an option that takes one value and was given several, such as --seed"""

    @property
    def verb(self) -> str:
        """Return the verb, or its group. "" where nothing was typed."""
        return self.words[0] if self.words else ""

    @property
    def only_informs(self) -> bool:
        """Return whether the call judges nothing. It looks something up: `explain`, or the help of a verb."""
        helps = (("--help",), ("-h",), ("--help-all",))
        help_alone = self.words[1:] in helps or self.words in helps
        return help_alone or self.verb in LOOK_UPS

    @property
    def model(self) -> str:
        """Return the first argument named like a model. It is without keys of a URL; "" where there is none."""
        from robustcheck_onnx.checker.storage.places import redact  # keeps `--help` fast

        return redact(next((word for word in self.arguments if word.lower().endswith(".onnx")), ""))

    def documents(self) -> list[tuple[str, str]]:
        """Return each `-o FORM[=PATH]` as (form, path). Path "" is stdout; paths that hold `{model}` are left out.

        Of a check without `-o`: those that its settings file or the environment gives, if they can be read.
        """
        outputs: Sequence[str] = self.options.get("output", ())
        if not outputs and self.verb == DEFAULT_VERB and "isolated" not in self.options:
            with contextlib.suppress(RobustcheckError, OSError, TypeError, AttributeError):
                outputs = settings_file.outputs(os.environ, self.options.get("config", (None,))[-1])
        documents = settings_file.safe_documents(
            documents_of(outputs, self.stems()), None, strict="strict" in self.options
        )
        return [each for each in documents if each[0] in FORMS_OF.get(self.verb, each)]

    def stems(self) -> list[str]:
        """Return the stems that can replace `{model}`.

        The typed models have them, as far as they can be found.
        """
        from . import models  # keeps `--help` fast

        stems: list[str] = []
        for word in self.arguments if self.verb == DEFAULT_VERB else ():
            with contextlib.suppress(RobustcheckError, OSError, ValueError):
                stems += map(models.stem, models.expand([word]))
        return stems


@dataclass
class Invocation:
    """A call of the command. It has what was typed, and the places where its verb puts documents.

    Made before the verb runs, which gets it as `typer.Context.obj`; read when an error ends the run.
    """

    line: CommandLine
    documents: list[tuple[str, str]] | None = None
    """as `CommandLine.documents`; None until a verb has read its settings"""
    annotates: bool | None = None
    """whether to annotate on GitHub Actions; None until a verb has read its settings"""
    judged: bool = False
    """whether models were checked to the end: with `--strict` nothing else ends with 0"""


def documents_of(outputs: Sequence[str], stems: Sequence[str]) -> list[tuple[str, str]]:
    """Return each FORM[=PATH] as (form, path), without repeats. Path "" is stdout.

    stems: what `{model}` in a path stands for, one path for each; without any, such a path is left out.
    """
    parts = [settings_file.split(text) for text in outputs]
    filled = (
        (form, name)
        for form, _, path in parts
        for name in ([path.replace(PLACEHOLDER, stem) for stem in stems] if PLACEHOLDER in path else [path])
    )
    return list(dict.fromkeys((form, "" if path == "-" else path) for form, path in filled))


def read(words: Sequence[str], group: TyperGroup) -> CommandLine:
    """Read a command line that starts with its verb. Where there is no such verb, it is read as one of a check.

    An option's value may follow as the next word or after `=`, short options may stand together (`-qo json`), and `--`
    ends the options. `--json` becomes `-o json`.
    """
    command = group.commands.get(words[0]) if words else None
    for word in words[1:]:
        if isinstance(command, TyperGroup):
            command = command.commands.get(word)
    if command is None or isinstance(command, TyperGroup):
        command = group.commands[DEFAULT_VERB]
    declared = {
        name: option
        for option in command.params
        if isinstance(option, TyperOption)
        for name in (*option.opts, *option.secondary_opts)
    }
    arguments: list[str] = []
    behind: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] = {}
    twice = ""
    rest, typed = list(words[1:]), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--json" and (output := declared.get("-o")) is not None and output.name == "output":
            typed[len(typed) - len(rest) - 1 : len(typed) - len(rest)] = rest[:0] = ["-o", "json"]
            continue
        if word == "--":
            arguments += rest
            behind = tuple(rest)
            break
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            continue
        long = word.startswith("--")
        name, separator, attached = word.partition("=") if long else (word[:2], word[2:], word[2:])
        option, value = declared.get(name), ""
        if option is not None and not (option.is_flag or option.count):
            value = attached if separator else (rest.pop(0) if rest else "")
        elif attached and not long:
            rest.insert(0, f"-{attached}")  # `-qo` is `-q -o`
        if option is not None and option.name is not None:
            if option.name in options and not (option.is_flag or option.count or option.multiple):
                twice = max(option.opts, key=len)
            options[option.name] = (*options.get(option.name, ()), value)
    return CommandLine(tuple(typed), tuple(arguments), behind, options, twice)
