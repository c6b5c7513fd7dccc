"""Explain a command line that typer refuses. The module has messages, hints, and shell completion."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import form_of

from . import help, vocabulary
from .command_line import CommandLine
from .help import EXAMPLE
from .options import one_of
from .vocabulary import nearest

VERSION_OPTIONS = ("--version", "-V")
GROUP_OPTIONS = ("--help", "-h", "--help-all", *VERSION_OPTIONS, "--install-completion", "--show-completion")


def explain(fault: TyperException, line: CommandLine) -> tuple[str, str]:
    """Return message and hint for a refused command line. Typer refuses it."""
    context = getattr(fault, "ctx", None)
    command = context.command_path if context is not None else f"robustcheck {line.verb}".strip()
    look = f"{command} --help"
    text = fault.format_message().rstrip(".")
    kind = type(fault).__name__
    option = getattr(fault, "option_name", None)
    if kind == "NoSuchOption" and option:
        params = [] if context is None else context.command.params
        known = [name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("-")]
        return _no_option(option, [*GROUP_OPTIONS, *known], line, look)
    if option:
        rule = "it takes none" if "does not take" in text else "it needs one"
        params = [] if context is None else context.command.params
        hint = next((_described(each) for each in params if option in each.opts), look)
        return f"{option} is given {'a' if 'none' in rule else 'no'} value; {rule}", hint
    param = getattr(fault, "param", None)
    if kind == "MissingParameter" and param is not None:
        name = param.opts[0] if param.opts[0].startswith("-") else (param.metavar or param.name.upper())
        epilog = (context.command.epilog if context else "") or ""
        shown = re.search(rf" ((?:{'|'.join(param.opts)}) \S+)", epilog) if name.startswith("-") else None
        example = epilog.partition("\n")[0].removeprefix(EXAMPLE) if epilog.startswith(EXAMPLE) else look
        return f"{name} is missing; {command} needs it", (
            _command(*line.words, *shown[1].split()) if shown else example
        )
    if param is not None:
        name = max(param.opts, key=len)
        rule = re.sub(r", unable to parse.*", "", fault.message).replace("Input should be", "it must be")
        values = line.options.get(param.name)
        value = next((value for value in reversed(values or ()) if value), "")
        return f"{name} is {repr(value) if value else 'not valid'}; {rule}", _described(param)
    if context is not None and isinstance(context.command, TyperGroup):
        return _no_verb(context.command, text, line, command)
    extra = re.fullmatch(r"Got unexpected extra arguments? \((.*)\)", text.replace("(s)", "s"))
    if extra:
        takes_images = any("--images" in param.opts for param in context.command.params) if context else False
        is_last = takes_images and line.words[-1] == extra.group(1) and Path(line.words[-1]).exists()
        again = _command(*line.words[:-1], "--images", line.words[-1])
        return f"unexpected argument {extra.group(1)}", again if is_last else look
    return text, look


def _described(param: Any) -> str:
    """Return an option with its value and help."""
    return f"{max(param.opts, key=len)}{help.value_of(param)}: {help.about(param)}"


def _command(*words: str) -> str:
    return shlex.join(["robustcheck", *words])


def _no_option(option: str, known: list[str], line: CommandLine, look: str) -> tuple[str, str]:
    """Return message and hint for an unknown option. The verb does not have it."""
    if option in vocabulary.REMOVED_OPTIONS:
        return f"option {option} was removed", vocabulary.REMOVED_OPTIONS[option]
    ours = nearest(option, known, vocabulary.OTHER_OPTIONS)
    message = f"unknown option {option}"
    if ours is None or (ours.startswith("-") and ours.split()[0] not in known):
        return message, look
    if ours.startswith("robustcheck"):
        return message, ours
    if ours in GROUP_OPTIONS:
        return f"{message}. Did you mean {ours}?", _command(ours)
    at = next(index for index, word in enumerate(line.words) if word.startswith(option))
    value, rest, words = line.words[at].removeprefix(option).removeprefix("="), list(line.words[at + 1 :]), ours.split()
    if len(words) > 1 and rest and (rest[0].isdigit() or form_of(rest[0])):  # of theirs: --gpu 1, --html report.html
        value = rest.pop(0)
    sign = {"-o": "=", "--device": ":"}.get(words[0], "") if len(words) > 1 else ""
    words = [*words[:-1], f"{words[-1]}{sign}{value}"] if sign and value else [*words, *filter(None, [value])]
    named = f"Did you mean {ours}?" if ours else "A model is an argument."
    return f"{message}. {named}", _command(*line.words[:at], *words, *rest)


def _no_verb(group: TyperGroup, text: str, line: CommandLine, command: str) -> tuple[str, str]:
    """Return message and hint for a group's verb. It is missing or unknown."""
    verbs = sorted(group.commands)
    unknown = re.match(r"No such command '(.*?)'", text)
    if not unknown:
        return f"command is missing; {command} needs one of {', '.join(verbs)}", f"{command} --help"
    word = unknown.group(1)
    if (name := f"{group.name} {word}") in vocabulary.REMOVED_VERBS:
        return f"command {name} was removed", vocabulary.REMOVED_VERBS[name]
    ours = nearest(word, verbs, {})
    if ours is None:
        return f"unknown command {word}; {command} needs one of {', '.join(verbs)}", f"{command} --help"
    again = [ours if typed == word else typed for typed in line.words]
    return f"unknown command {word}. Did you mean {ours}?", _command(*again)


def refuse_unknown_verb(words: Sequence[str], verbs: list[str]) -> None:
    """Refuse a first word that is an unknown verb.

    It can only be a verb, and is mistyped, removed, or of another tool.
    """
    word = words[0]
    if word.startswith("-") or set("./*?[") & set(word) or os.path.lexists(word):
        return
    vocabulary.refuse_removed("command", word, vocabulary.REMOVED_VERBS)
    ours = nearest(word, verbs, vocabulary.OTHER_VERBS)
    if ours is not None:
        rest = [] if ours.endswith("--help") else words[1:]
        raise UsageError(f"unknown command {word}. Did you mean {ours}?", _command(*ours.split(), *rest))
    is_model = Path(f"{word}.onnx").is_file()
    hint = _command(f"{word}.onnx", *words[1:]) if is_model else "robustcheck --help"
    raise UsageError(f"{word} is neither a command nor a file", hint)


def refuse_twice(line: CommandLine) -> None:
    """Refuse several values for a one-value option. Raises UsageError."""
    if line.twice:
        raise UsageError(f"{line.twice} is given twice; it takes one value", f"keep one {line.twice}")


def verb_over_models(line: CommandLine, verbs: Sequence[str]) -> str:
    """Return a hint where a verb is also a folder.

    The verb has no arguments, and the folder holds models, which may have been meant; else "".

    Only the first 100 folders below it are looked at: a verb must not wait for a large disk.
    """
    word = line.verb
    if word not in verbs or line.arguments or "quiet" in line.options:
        return ""
    for _, _, names in itertools.islice(os.walk(word), 100):
        if any(name.lower().endswith(".onnx") for name in names):
            return f"{word} is a command; for the models in the folder {word}: robustcheck check {word}"
    return ""


SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
COMPLETION_OPTIONS = ("--show-completion", "--install-completion")


def for_shell(words: Sequence[str], program: str, variable: str) -> bool:
    """Show or install shell completion.

    The words are `--show-completion SHELL` or `--install-completion SHELL`; False for any other command line.

    Without a SHELL typer itself finds out which one runs the command; a SHELL that follows it would not look at.
    Raises UsageError: no such shell, or more words.
    """
    if len(words) < 2 or words[0] not in COMPLETION_OPTIONS or words[1].startswith("-"):
        return False
    from typer._completion_shared import get_completion_script, install  # what typer's own options call

    option, shell, *more = words
    one_of(option, shell, SHELLS)
    if more:
        raise UsageError(f"argument is {more[0]}; {option} takes one shell", f"robustcheck {option} {shell}")
    if option == "--show-completion":
        sys.stdout.write(get_completion_script(prog_name=program, complete_var=variable, shell=shell) + "\n")
        sys.stdout.flush()
    else:
        _, path = install(shell=shell, prog_name=program, complete_var=variable)
        sys.stdout.write(f"{shell} completion installed in {path}; it takes effect in a new shell\n")
    return True


def unknown_shell(option: str) -> UsageError:
    """Return the error for an unknown shell. The shell runs the command, and typer, which does not know it, would exit
    with 1.
    """
    return UsageError(
        f"{option}: the shell that runs this is not known; completion is for {', '.join(SHELLS)}",
        f"robustcheck {option} bash",
    )


def nothing_judged() -> UsageError:
    """Return the error where `--strict` judged nothing.

    It would end with 0 though no model was checked, as for `--help`, which is not a PASS.
    """
    return UsageError(
        "--strict: no model was checked; with it exit code 0 is a verdict's alone, and help is shown without it",
        "robustcheck check --help",
    )


def complete_as_check(environment: MutableMapping[str, str], verbs: Sequence[str]) -> None:
    """Insert `check` into a line to complete. A shell wants it completed, and its first word is a model.

    environment: changed in place; completion scripts set COMP_WORDS and COMP_CWORD, or _TYPER_COMPLETE_ARGS.
    A first word that is still being typed may become a verb, so the line stays.
    """
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        line = environment.get(name, "")
        words = line.split(maxsplit=2)
        typed = len(words) > 2 or (len(words) == 2 and line[-1].isspace())
        if not typed or words[1] in verbs or words[1].startswith("-"):
            continue
        program, rest = line.split(maxsplit=1)
        environment[name] = f"{program} check {rest}"
        if name == "COMP_WORDS" and environment.get("COMP_CWORD", "").isdigit():
            environment["COMP_CWORD"] = str(int(environment["COMP_CWORD"]) + 1)
