"""Pages, scripts and workflows of this repository, as the tests run them."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import yaml

from support import PATIENCE_S, ROOT, Fields, read_text


@dataclass(frozen=True)
class Command:
    """A command as it is typed, and the lines that the page shows under it."""

    text: str
    shown: tuple[str, ...] = ()


def commands_of(page: str) -> list[Command]:
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


def run_commands(
    commands: Iterable[Command], folder: Path, environment: dict[str, str]
) -> list[tuple[Command, int, str]]:
    """Type the commands into one bash; for each its exit code and what it wrote to stdout and stderr."""
    listed = list(commands)
    script = "".join(
        f"{command.text}\n__code=$?; printf '\\n@@ %d %d\\n' {number} $__code; (exit $__code)\n"
        for number, command in enumerate(listed)
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, text=True, check=False, timeout=PATIENCE_S,
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


def load(script: str) -> ModuleType:
    """The script of this path, without its suffix, as a module, run once."""
    name = Path(script).name
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{script}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)  # for scripts that import it, too
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


ACTION = ROOT / "action.yml"


def jobs(path: Path) -> Fields:
    return dict(yaml.safe_load(read_text(path))["jobs"])


def steps_of(path: Path) -> list[Fields]:
    if path == ACTION:
        return list(yaml.safe_load(read_text(path))["runs"]["steps"])
    return [step for job in jobs(path).values() for step in job["steps"]]


def script(workflow: str, job: str, begins: str) -> str:
    """The shell lines of the step of a job whose name, id or lines begin so."""
    steps = jobs(ROOT / ".github" / "workflows" / f"{workflow}.yml")[job]["steps"]
    (found,) = [s["run"] for s in steps if "run" in s and (s.get("name") or s.get("id") or s["run"]).startswith(begins)]
    return str(found)


def run_step(lines: str, folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run a step as GitHub runs `shell: bash`, and read its outputs."""
    outputs = folder / "github_output"
    outputs.write_text("")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GITHUB_OUTPUT": str(outputs)} | variables
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", lines],
        cwd=folder, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    return done, dict(line.split("=", 1) for line in outputs.read_text().splitlines())


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
