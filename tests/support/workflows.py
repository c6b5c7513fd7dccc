"""The workflows of .github/ and their steps, run as GitHub runs them."""

import os
import subprocess
from pathlib import Path

import yaml

from . import ROOT, Fields

ACTION = ROOT / "action.yml"


def jobs(path: Path) -> Fields:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"])


def steps_of(path: Path) -> list[Fields]:
    if path == ACTION:
        return list(yaml.safe_load(path.read_text(encoding="utf-8"))["runs"]["steps"])
    return [step for job in jobs(path).values() for step in job["steps"]]


def script(workflow: str, job: str, begins: str) -> str:
    """The shell lines of the step of a job whose name, id or lines begin so."""
    steps = jobs(ROOT / ".github" / "workflows" / f"{workflow}.yml")[job]["steps"]
    (found,) = [s["run"] for s in steps if "run" in s and (s.get("name") or s.get("id") or s["run"]).startswith(begins)]
    return str(found)


def run(lines: str, folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
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
