"""Messages and hints for a command line that typer refuses; and shell completion."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import shlex
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from typer.core import TyperGroup
from typer.exceptions import TyperException

from robustcheck_onnx.checker.errors import UsageError

from . import removed
from .command_line import CommandLine
from .options import one_of

VERSION_OPTIONS = ("--version", "-V")
GROUP_OPTIONS = ("--help", "-h", *VERSION_OPTIONS, "--install-completion", "--show-completion")


def explain(fault: TyperException, line: CommandLine) -> tuple[str, str]:
    """The message and the hint for a command line that typer refuses."""
    context = getattr(fault, "ctx", None)
    command = context.command_path if context is not None else f"robustcheck {line.verb}".strip()
    look = f"{command} --help"
    text = fault.format_message().rstrip(".")
    kind = type(fault).__name__
    option = getattr(fault, "option_name", None)
    if kind == "NoSuchOption" and option:
        if option in removed.OPTIONS:
            return f"option {option} was removed", removed.OPTIONS[option]
        known = [*GROUP_OPTIONS]
        if context is not None:
            known += [name for param in context.command.params for name in param.opts]
        near = difflib.get_close_matches(option, known, 1)
        if not near:
            return f"option {option} is not known; {command} has no such option", look
        typed = [near[0] + word.removeprefix(option) if word.startswith(option) else word for word in line.words]
        again = ["robustcheck", near[0]] if near[0] in GROUP_OPTIONS else ["robustcheck", *typed]
        return f"option {option} is not known; the closest is {near[0]}", shlex.join(again)
    if option:
        rule = "it takes none" if "does not take" in text else "it needs one"
        return f"{option} is given {'a' if 'none' in rule else 'no'} value; {rule}", look
    param = getattr(fault, "param", None)
    if kind == "MissingParameter" and param is not None:
        name = param.opts[0] if param.opts[0].startswith("-") else (param.metavar or param.name.upper())
        return f"{name} is missing; {command} needs it", look
    if param is not None:
        name = max(param.opts, key=len)
        rule = re.sub(r", unable to parse.*", "", fault.message).replace("Input should be", "it must be")
        values = line.options.get(param.name)
        value = next((value for value in reversed(values or ()) if value), "")
        return f"{name} is {repr(value) if value else 'not valid'}; {rule}", look
    if context is not None and isinstance(context.command, TyperGroup):
        return _no_verb(context.command, text, line, command)
    extra = re.fullmatch(r"Got unexpected extra argument\(s\) \((.*)\)", text)
    if extra:
        return f"argument is {extra.group(1)}; {command} takes no more", look
    return text, look


def _no_verb(group: TyperGroup, text: str, line: CommandLine, command: str) -> tuple[str, str]:
    """Message and hint where a group's verb is missing or unknown."""
    verbs = sorted(group.commands)
    unknown = re.match(r"No such command '(.*?)'", text)
    if not unknown:
        return f"command is missing; {command} needs one of {', '.join(verbs)}", f"{command} --help"
    word = unknown.group(1)
    if (name := f"{group.name} {word}") in removed.VERBS:
        return f"command {name} was removed", removed.VERBS[name]
    near = difflib.get_close_matches(word, verbs, 1)
    if not near:
        return f"command is {word!r}; {command} needs one of {', '.join(verbs)}", f"{command} --help"
    again = [near[0] if typed == word else typed for typed in line.words]
    return f"command is {word!r}; the closest is {near[0]}", shlex.join(["robustcheck", *again])


def refuse_near_verb(words: Sequence[str], verbs: Sequence[str]) -> None:
    """Raise UsageError if the first word is a mistyped or removed verb rather than a model."""
    word = words[0]
    if word.startswith("-") or {".", "/"} & set(word) or Path(word).exists():
        return
    removed.refuse("command", word, removed.VERBS)
    near = difflib.get_close_matches(word, verbs, 1)
    if near:
        again = shlex.join(["robustcheck", near[0], *words[1:]])
        raise UsageError(f"command is {word!r}; the closest is {near[0]}", again)


def verb_over_models(line: CommandLine, verbs: Sequence[str]) -> str:
    """A hint where a verb without arguments is also a folder that holds models, which may have been meant; else "".

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
    """Do what `--show-completion SHELL` or `--install-completion SHELL` asks for; False for any other command line.

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
    """The error where typer does not know the shell that runs the command (typer would exit with 1)."""
    return UsageError(
        f"{option}: the shell that runs this is not known; completion is for {', '.join(SHELLS)}",
        f"robustcheck {option} bash",
    )


def nothing_judged() -> UsageError:
    """The error where `--strict` would end with 0 though no model was checked: for `--help`, which is no PASS."""
    return UsageError(
        "--strict: no model was checked; with it exit code 0 is a verdict's alone, and help is shown without it",
        "robustcheck check --help",
    )


def complete_as_check(environment: MutableMapping[str, str], verbs: Sequence[str]) -> None:
    """Insert `check` into the line that a shell wants completed, if its first word is a model.

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
