"""State what help shows, and explain a command line that typer refuses.

The look of help is typer's own. Imports nothing heavy.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, MutableMapping
from copy import copy
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from ..errors import UsageError
from ..text import form_of, is_onnx
from .command_line import HELP_OPTIONS, CommandLine, long_name
from .named_models import with_blanks
from .options import ROWS, Variables, Words, one_of

EXAMPLE = "Example: "
ALL = "--help-all"
SHORT = (
    "images",
    "max_images",
    "preprocess",
    "tensor",
    "device",
    "fail_on",
    "waivers",
    "batch_size",
    "output",
    "quiet",
    "verbose",
    "config",
    "strict",
)
"""the options of a check that every `--help` shows; `--help-all` shows its others, too"""


class Verbs(typer.Typer):
    """A typer app, or a group of verbs in one, whose verbs state examples and exit codes."""

    def __init__(self, *, name: str, help: str, **settings: Any) -> None:  # typer's word
        context = {"help_option_names": list(HELP_OPTIONS)}
        super().__init__(name=name, help=help, cls=Group, context_settings=context, **settings)

    def verb(
        self, *examples: str, name: str | None = None, codes: str = "", panel: str | None = None
    ) -> Callable[[Callable[..., int]], Callable[..., int]]:
        """Decorate a function as a verb.

        examples: command lines. name: None = the function's name. codes: what its exit codes mean. panel: its heading
        in the help of the app itself; None = "Commands".
        """
        lines = [EXAMPLE + example for example in examples]
        epilog = "\n\n".join([*lines, codes])
        return self.command(name, cls=Verb, epilog=epilog, rich_help_panel=panel)


class Group(TyperGroup):
    """A group of verbs, or the whole app."""

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """Return the option `--help` in our words."""
        return _in_our_words(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help (called by `--help`)."""
        _colour_terminals_only()
        super().format_help(ctx, formatter)


class Verb(TyperCommand):
    """A verb whose `--help` shows the options that are typed most, and whose `--help-all` shows every one."""

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """Return the option `--help` in our words."""
        return _in_our_words(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help (called by `--help`), without the options that are rarely typed."""
        _colour_terminals_only()
        line = getattr(ctx.obj, "line", None)
        shown = copy(self)
        if line is not None and ALL not in line.words:
            shown.params = [param for param in self.params if not _is_rare(param)]
        super(Verb, shown).format_help(ctx, formatter)


def _in_our_words(option: TyperOption | None) -> TyperOption | None:
    """Give `--help` its text, and its names in an order: typer's is that of a set."""
    if option is not None:
        option.help = f"Show this help; {ALL}: every option."
        option.metavar = ""
        option.opts.sort(key=len)
    return option


def _colour_terminals_only() -> None:
    """Let help have a colour on a terminal only: typer also colours a pipe on GitHub Actions."""
    from typer import rich_utils

    rich_utils.FORCE_TERMINAL = None


def _is_rare(param: Any) -> bool:
    """Return whether an option is not among SHORT, and has the help of a check's option."""
    row = ROWS.get(param.name)
    return row is not None and param.name not in SHORT and param.help == row.help


OTHER_OPTIONS = {
    "--model": "",
    "--data": "--images",
    "--dataset": "--images",
    "--images": "--images",
    "--size": "robustcheck explain preprocessing",
    "--resize": "robustcheck explain preprocessing",
    "--limit": "--max-images",
    "-n": "--max-images",
    "--format": "--output",
    "-f": "--output",
    "--layer": "--tensor",
    "--batch": "--batch-size",
    "--gpu": "--device cuda",
    "--cpu": "--device cpu",
    "--html": "-o html",
    "--soft-fail": "--fail-on never",
    "--severity": "--fail-on warn",
    "--index-file": "--index",
    "--threshold": "thresholds are in a profile: robustcheck profiles show default",
}
"""by an option of another tool: ours, with a value if theirs is not it; what to type; or "" for an argument"""
PHOTOS = ("--images", "--in", "--concepts")
"""what names the photos: a verb has one of these"""
OTHER_VERBS = {
    "report": "check -o report.html",
    "run": "check",
    "test": "check",
    "diff": "compare",
    "info": "inspect",
    "convert": "export --help",
    "quantize": "export onnx -o int8.onnx --precision int8-dynamic",
    "help": "--help",
}
"""by a command of another tool: ours, with what else its line needs"""


def nearest(word: str, choices: Iterable[str], synonyms: Variables) -> str | None:
    """Return the synonym of a typed word, else the choice that is spelled almost like it, else None."""
    near = get_close_matches(word.lower(), choices, 1, 0.75)
    return synonyms.get(word.lower(), near[0] if near else None)


VERSION_OPTIONS = ("--version", "-V")
GROUP_OPTIONS = (*HELP_OPTIONS, *VERSION_OPTIONS, "--install-completion", "--show-completion")


def explain(fault: TyperException, line: CommandLine) -> tuple[str, str]:
    """Return typer's message about a command line that it refuses, and a hint of ours."""
    context = getattr(fault, "ctx", None)
    command = context.command_path if context else f"robustcheck {line.verb}".strip()
    message = fault.format_message().rstrip(".").replace("Value error, ", "")
    if type(fault).__name__ == "NoSuchOption":  # its possibilities are those of the spelling alone
        message = fault.message
    param: Any = getattr(fault, "param", None)
    refused = re.search(r"'([^']*)' is not one of (.*)", message)
    if param is not None and refused is not None:
        near = nearest(refused[1], re.findall(r"'([^']*)'", refused[2]), {})
        if near is not None:
            return f"{message}. Did you mean {near!r}?", f"{long_name(param)} {near}"
    return message, _hint(fault, line, context) or f"{command} --help"


def _hint(fault: Any, line: CommandLine, context: Any) -> str:
    """Return what to type instead of a command line that typer refuses; "" where its help is the best."""
    if context is None:
        return ""
    params: list[Any] = context.command.params
    names = [name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("-")]
    option = getattr(fault, "option_name", "")
    param = getattr(fault, "param", None)
    if isinstance(context.command, TyperGroup):
        return _with_verb(context.command, line)
    if type(fault).__name__ == "NoSuchOption":
        return _with_option(option, [*GROUP_OPTIONS, *names], line)
    if option:
        return next((_described(param) for param in params if option in param.opts), "")
    if type(fault).__name__ == "MissingParameter":
        return _with_value(param, line, context.command.epilog or "")
    if param is not None:
        return _described(param)
    return _with_photos(line, [name for name in names if name in PHOTOS])


def _with_value(param: Any, line: CommandLine, epilog: str) -> str:
    """Return the line with a missing option as the example has it, else the example; "" where there is none."""
    name = param.opts[0]
    needs_more = name == "--in" and line.arguments[1:]
    shown = re.search(rf" ((?:{'|'.join(param.opts)}) \S+)", epilog)
    if shown and name.startswith("-") and not needs_more:
        return _command(*line.words, *shown[1].split())
    if epilog.startswith(EXAMPLE):
        return epilog.partition("\n")[0].removeprefix(EXAMPLE)
    return ""


def _with_photos(line: CommandLine, options: list[str]) -> str:
    """Return the line with its last argument as the photos, where it exists and something names photos."""
    *others, place = line.arguments or ("",)
    if not Path(place).exists():
        return ""
    if line.verb == "inspect":
        return _command("check", *others, place)
    words = list(line.words)
    words.remove(place)
    return _command(*words, options[0], place) if options else ""


def _described(param: Any) -> str:
    """Return an option with the name of its value, and its help."""
    name = f"{long_name(param)} {param.metavar}".strip()
    return f"{name}: {param.help}"


def _command(*words: str) -> str:
    return shlex.join(["robustcheck", *words])


def _with_option(option: str, options: list[str], line: CommandLine) -> str:
    """Return the line with the option that an unknown one means."""
    ours = nearest(option, options, OTHER_OPTIONS)
    if ours == PHOTOS[0]:
        ours = next((name for name in PHOTOS if name in options), ours)
    if ours is None or (ours.startswith("-") and ours.split()[0] not in options):
        return ""
    if ours and not ours.startswith("-"):
        return ours
    if ours in GROUP_OPTIONS:
        return _command(ours)
    at = next((at for at, word in enumerate(line.words) if _is_typed(option, word)), None)
    if at is None:  # among other letters, as in -qn
        return ""
    value = line.words[at].removeprefix(option).removeprefix("=")
    rest = list(line.words[at + 1 :])
    words = ours.split()
    if words[1:]:  # a value of ours; theirs is a part of it, or goes
        if rest and not value and (option == "--severity" or rest[0].isdigit() or form_of(rest[0])):
            value = rest.pop(0)
        sign = {"-o html": "=", "--device cuda": ":"}.get(ours, "")
        value = sign and value and sign + value
        words[-1] += value
    elif value:
        words.append(value)
    return _command(*line.words[:at], *words, *rest)


def _is_typed(option: str, word: str) -> bool:
    """Return whether a word is an option, alone or with its value, as --limit=60 and -n60 are."""
    is_short = not option.startswith("--")
    return word.partition("=")[0] == option or (is_short and word.startswith(option))


def _with_verb(group: TyperGroup, line: CommandLine) -> str:
    """Return the line with the verb of a group that an unknown one means."""
    word = next((word for word in line.words[1:] if not word.startswith("-")), "")
    ours = nearest(word, sorted(group.commands), {})
    if ours is None:
        return ""
    words = list(line.words)
    words[words.index(word)] = ours
    return _command(*words)


def refuse_unknown_verb(words: Words, verbs: list[str]) -> None:
    """Refuse a first word that can only be a verb, and is mistyped or of another tool."""
    word = words[0]
    if word.startswith("-") or set("./*?[") & set(word) or os.path.lexists(word):
        return
    ours = nearest(word, verbs, OTHER_VERBS)
    if ours is not None:
        rest: list[str] = []
        if not ours.endswith("--help"):
            rest = [word for word in words[1:] if not form_of(f".{word}")]  # as in `report html`
        raise UsageError(f"unknown command {word}. Did you mean {ours}?", _command(*ours.split(), *rest))
    if again := with_blanks(words):
        raise UsageError(f"{word} is neither a command nor a file; a name with blanks needs quotes", _command(*again))
    model = f"{word}.onnx"
    hint = "robustcheck --help"
    if Path(model).is_file():
        hint = _command(model, *words[1:])
    raise UsageError(f"{word} is neither a command nor a file", hint)


def verb_over_models(line: CommandLine, verbs: Words) -> str:
    """Return a hint where a verb without arguments is also a folder of models, which may be meant; else "".

    Only the first 100 folders below it are looked at: a verb must not wait for a large disk.
    """
    word = line.verb
    if word not in verbs or line.arguments or "quiet" in line.options:
        return ""
    for _, _, names in islice(os.walk(word), 100):
        if any(map(is_onnx, names)):
            return f"{word} is a command; for the models in the folder {word}: robustcheck check {word}"
    return ""


SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
COMPLETION_OPTIONS = ("--show-completion", "--install-completion")


def complete_for_shell(words: Words, group: TyperGroup, program: str) -> None:
    """Show or install completion for a shell that is named, and end by SystemExit. Do nothing for any other words.

    Without a name typer finds out which shell runs the command; a name that follows its options it would not look at.
    Raises UsageError: no such shell, or more words.
    """
    if len(words) < 2 or words[0] not in COMPLETION_OPTIONS or words[1].startswith("-"):
        return
    from typer.completion import install_callback, show_callback  # what typer's own options call

    option, shell, *more = words
    one_of(option, shell, SHELLS)
    if more:
        raise UsageError(f"argument is {more[0]}; {option} takes one shell", f"robustcheck {option} {shell}")
    answer = show_callback if option == "--show-completion" else install_callback
    unread: Any = None
    with typer.Context(group, info_name=program) as context:
        answer(context, unread, shell)


def complete_as_check(environment: MutableMapping[str, str], verbs: Words) -> None:
    """Insert `check` into a line that a shell wants completed, and whose first word is a model.

    environment: changed in place; completion scripts set COMP_WORDS and COMP_CWORD, or _TYPER_COMPLETE_ARGS.
    A first word that is still being typed may become a verb, so the line stays.
    """
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        line = environment.get(name, "")
        words = line.split(maxsplit=2)
        is_typed = words[2:] or line[-1:].isspace()
        if not (words[1:] and is_typed) or words[1] in verbs or words[1].startswith("-"):
            continue
        program, rest = line.split(maxsplit=1)
        environment[name] = f"{program} check {rest}"
        if name == "COMP_WORDS" and environment.get("COMP_CWORD", "").isdigit():
            environment["COMP_CWORD"] = str(int(environment["COMP_CWORD"]) + 1)
