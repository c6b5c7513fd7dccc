"""The commands of a Markdown page: read, run in one shell, compared with what the page shows."""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import profile


@dataclass(frozen=True)
class Command:
    """A command as it is typed, and the lines that the page shows under it."""

    text: str
    shown: tuple[str, ...] = ()


def read(page: str) -> list[Command]:
    """Every `$ command` of the console blocks; a bash block (a file to write, say) is one command as a whole."""
    found = []
    for indent, kind, block in re.findall(r"^( *)```(console|bash)\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL):
        lines = [raw.removeprefix(indent) for raw in block.splitlines()]
        if kind == "bash":
            found.append(Command("\n".join(lines)))
            continue
        for line in lines:
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif line.strip():
                found[-1] = Command(found[-1].text, (*found[-1].shown, line))
    return found


def run(commands: Iterable[Command], folder: Path, environment: dict[str, str]) -> list[tuple[Command, int, str]]:
    """Type the commands into one bash; for each its exit code and what it wrote to stdout and stderr."""
    listed = list(commands)
    script = "".join(
        f"{command.text}\n__code=$?; printf '\\n@@ %d %d\\n' {number} $__code; (exit $__code)\n"
        for number, command in enumerate(listed)
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, text=True, check=False, timeout=profile.PATIENCE_S,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    parts = re.split(r"\n@@ (\d+) (\d+)\n", done.stdout)
    assert [int(number) for number in parts[1::3]] == list(range(len(listed))), done.stdout[-2000:]
    return [(command, int(parts[3 * i + 2]), parts[3 * i]) for i, command in enumerate(listed)]


def missing(command: Command, output: str) -> str | None:
    """The first line that the page shows and the command did not print, in this order; "…" stands for the rest."""
    lines = iter(output.splitlines())
    for shown in command.shown:
        start, cut, _ = shown.partition("…")
        if not any(line.startswith(start) if cut else line.rstrip() == shown.rstrip() for line in lines):
            return shown
    return None
