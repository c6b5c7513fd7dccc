"""Read a command line by typer's parser, also where typer refuses it or a signal ends the run.

Imports only typer and Python's own library, for it is needed where a signal has ended the import of everything else.
"""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer._click.parser import _ParsingState
from typer.core import TyperGroup, TyperOption
from typer.exceptions import TyperException

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
    """by parameter, such as no_ci, what was typed: a text, a list of them, a number of times, or True for a flag"""
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
    """Read a command line that starts with its verb, by typer's parser, which here goes on after a mistake.

    Where there is no such verb, the line is read as one of a check. `--json` becomes `-o json`.
    """
    command: Any = group
    for word in words:
        if isinstance(command, TyperGroup):
            command = command.commands.get(word)
    if command is None or isinstance(command, TyperGroup):
        command = group.commands[DEFAULT_VERB]
    if any(param.name == "output" for param in command.params):
        words = _spelled_out(words)
    above = group.context_class(group, **group.context_settings)
    parser = command.make_parser(command.context_class(command, parent=above, ignore_unknown_options=True))
    state = _ParsingState(list(words[1:]))
    is_read = False
    while not is_read:
        with suppress(TyperException):  # of a word that is taken off the list by then
            parser._process_args_for_options(state)  # `parse_args` ends at the first mistake
            is_read = True
    arguments = [word for word in state.largs if word == "-" or not word.startswith("-")]
    counts = Counter(filter(_takes_one_value, state.order))
    twice = [long_name(param) for param, count in counts.items() if count > 1]
    return CommandLine(
        words=tuple(words),
        arguments=(*arguments, *state.rargs),
        behind_dashes=tuple(state.rargs),
        options=state.opts,
        twice="".join(twice[:1]),
    )


def _takes_one_value(param: object) -> bool:
    return isinstance(param, TyperOption) and not (param.is_flag or param.count or param.multiple)


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
