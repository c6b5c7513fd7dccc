"""What is wrong with a command line, in the words of all other errors; and shell completion."""

from __future__ import annotations

import contextlib
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

from robustcheck_onnx.checker.errors import RobustcheckError, UsageError

from .options import one_of

# Verbs whose only document is JSON; the csv of `reference` is a table of its own.
ONLY_JSON = ("reference", "scan", "shift", "inspect", "doctor", "calibrate", "profiles", "verify", "mlflow", "cache")
GROUP_OPTIONS = ("--help", "-h", "--version", "--install-completion", "--show-completion")


def explain(fault: TyperException, arguments: Sequence[str]) -> tuple[str, str]:
    """The message and the hint for a command line that the parser refuses.

    arguments: the command line with its verb, without the program's name.
    """
    verb = arguments[0] if arguments else ""
    context = getattr(fault, "ctx", None)
    command = context.command_path if context is not None else f"robustcheck {verb}".strip()
    look = f"{command} --help"
    text = fault.format_message().rstrip(".")
    kind = type(fault).__name__
    option = getattr(fault, "option_name", None)
    if kind == "NoSuchOption" and option:
        known = [*GROUP_OPTIONS]
        if context is not None:
            known += [name for param in context.command.params for name in param.opts]
        near = difflib.get_close_matches(option, known, 1)
        if not near:
            return f"option {option} is not known; {command} has no such option", look
        typed = [near[0] + word.removeprefix(option) if word.startswith(option) else word for word in arguments]
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
        return f"{name} is {_value(param.opts, arguments)}; {rule}", look
    if context is not None and isinstance(context.command, TyperGroup):
        return _no_verb(context.command, text, arguments, command)
    extra = re.fullmatch(r"Got unexpected extra argument\(s\) \((.*)\)", text)
    if extra:
        return f"argument is {extra.group(1)}; {command} takes no more", look
    return text, look


def _no_verb(group: TyperGroup, text: str, arguments: Sequence[str], command: str) -> tuple[str, str]:
    """Message and hint where a group's verb is missing or unknown."""
    verbs = sorted(group.commands)
    unknown = re.match(r"No such command '(.*?)'", text)
    if not unknown:
        return f"command is missing; {command} needs one of {', '.join(verbs)}", f"{command} --help"
    word = unknown.group(1)
    near = difflib.get_close_matches(word, verbs, 1)
    if not near:
        return f"command is {word!r}; {command} needs one of {', '.join(verbs)}", f"{command} --help"
    again = [near[0] if typed == word else typed for typed in arguments]
    return f"command is {word!r}; the closest is {near[0]}", shlex.join(["robustcheck", *again])


def near_verb(arguments: Sequence[str], verbs: Sequence[str]) -> tuple[str, str] | None:
    """Message and hint when the first word is a mistyped verb rather than a model; None otherwise."""
    word = arguments[0]
    near = difflib.get_close_matches(word, verbs, 1)
    if not near or "." in word or "/" in word or Path(word).exists():
        return None
    return f"command is {word!r}; the closest is {near[0]}", shlex.join(["robustcheck", near[0], *arguments[1:]])


def verb_over_models(arguments: Sequence[str], verbs: Sequence[str]) -> str:
    """A hint for who may have meant the models in a folder that bears a verb's name; "" where nothing suggests it.

    Only the first folders below it are looked at: a verb must not wait for a large disk.
    """
    word, options = arguments[0], arguments[1:]
    if word not in verbs or (options and not options[0].startswith("-")) or {"-q", "--quiet"} & {*options}:
        return ""
    for _, _, names in itertools.islice(os.walk(word), 100):
        if any(name.lower().endswith(".onnx") for name in names):
            return f"{word} is a command; for the models in the folder {word}: robustcheck check {word}"
    return ""


def document_targets(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Each `-o FORM[=PATH]` as (form, path), path "" for stdout; read before and without the parser.

    Of a check without one: those that its settings file or the environment gives.
    """
    if not arguments or arguments[0] == "export":  # its -o is the ONNX file
        return []
    values: list[str] = []
    for place, word in enumerate(arguments):
        if word in ("-o", "--output"):
            values += arguments[place + 1 : place + 2]
        elif word.startswith("--output="):
            values.append(word.removeprefix("--output="))
        elif word.startswith("-o"):
            values.append(word.removeprefix("-o"))
    if not values and arguments[0] == "check" and "--isolated" not in arguments:
        values = _outputs_set(arguments)
    forms = [value.partition("=") for value in values]
    # "{model}" in a path: which models there are is not known yet
    found = dict.fromkeys((form, "" if path == "-" else path) for form, _, path in forms if "{model}" not in path)
    if arguments[0] in ONLY_JSON:
        return [target for target in found if target[0] == "json"]
    return list(found)


def _outputs_set(arguments: Sequence[str]) -> list[str]:
    """What a check's settings say where its command line names no report; nothing where they can't be read."""
    from . import settings_file  # keeps `--help` fast

    named = [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    named += [after for word, after in itertools.pairwise(arguments) if word == "--config"]
    with contextlib.suppress(RobustcheckError, OSError, TypeError, AttributeError):
        return list(settings_file.outputs(os.environ, named[-1] if named else None))
    return []


def model_of(arguments: Sequence[str]) -> str:
    """The model that a command line is about, read without the parser; empty where no word looks like one."""
    from robustcheck_onnx.checker.storage import redact  # keeps `--help` fast

    return redact(next((word for word in arguments if word.lower().endswith(".onnx") and not word.startswith("-")), ""))


def _value(names: Sequence[str], arguments: Sequence[str]) -> str:
    """What was typed for an option, quoted."""
    for place, word in enumerate(arguments):
        for name in names:
            if word == name and place + 1 < len(arguments):
                return repr(arguments[place + 1])
            if word.startswith(name + "="):
                return repr(word.partition("=")[2])
    return "not valid"


SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
OPTIONS = ("--show-completion", "--install-completion")


def for_shell(arguments: Sequence[str], program: str, variable: str) -> bool:
    """Do what `--show-completion SHELL` or `--install-completion SHELL` asks for; False for any other command line.

    Without a SHELL typer finds out which one runs the command. With one, it would not look at it.
    Raises UsageError: no such shell, or more words.
    """
    if len(arguments) < 2 or arguments[0] not in OPTIONS or arguments[1].startswith("-"):
        return False
    from typer._completion_shared import get_completion_script, install  # what typer's own options call

    option, shell, *more = arguments
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
    """What to say where typer does not know the shell that runs the command (it would exit with 1)."""
    return UsageError(
        f"{option}: the shell that runs this is not known; completion is for {', '.join(SHELLS)}",
        f"robustcheck {option} bash",
    )


def complete_as_check(environment: MutableMapping[str, str], verbs: Sequence[str]) -> None:
    """Make the line that a shell wants completed one about `check` where its first word is a model.

    environment: as the completion scripts set it (COMP_WORDS, COMP_CWORD; _TYPER_COMPLETE_ARGS); changed in place.
    A first word that is still being typed may become a verb, and stays.
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
