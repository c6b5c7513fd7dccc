"""Shell completion: for a shell that is named, and for `robustcheck MODEL.onnx`, which is short for `check`."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping, Sequence

from robustcheck_onnx.checker.cli_parts import one_of
from robustcheck_onnx.checker.errors import UsageError

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
