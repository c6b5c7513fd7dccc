"""The tutorial: every command is run, in order, and what the page shows is what it printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
NOT_RUN = {
    "python3 -m venv .venv": "the tests run in an environment of their own",
    ". .venv/bin/activate": "the tests run in an environment of their own",
    "pip install '.[demo]'": "installed before; needs a package index",
}
Ran = list[tuple[object, int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROBUSTCHECK_", "GITHUB_"))}
    cache = str(tmp_path_factory.mktemp("cache"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "COLUMNS": "80", "ROBUSTCHECK_CACHE_DIR": cache}


@pytest.mark.export
def test_the_commands_do_what_the_tutorial_shows(
    commands: ModuleType, folder: Path, environment: dict[str, str]
) -> None:
    listed = commands.read(PAGE)
    assert {command.text for command in listed} >= set(NOT_RUN)
    ran = commands.run([c for c in listed if c.text not in NOT_RUN], folder, environment)
    for number, (command, code, output) in enumerate(ran):
        assert commands.missing(command, output) is None, (command.text, commands.missing(command, output), output)
        if command.text == "echo $?":
            assert [output.strip()] == [line.strip() for line in command.shown]
        else:
            asked = number + 1 < len(ran) and ran[number + 1][0].text == "echo $?"
            assert asked or code == 0, (command.text, code, output)
    # what the words of the page claim
    gate = folder / "gate"
    assert {"report.json", "report.html", "junit.xml", "int8.onnx", "gate.json"} <= {p.name for p in gate.iterdir()}
    verbs = {command.text.split()[1] for command, _, _ in ran if command.text.startswith("robustcheck")}
    assert verbs >= {"demo", "export", "inspect", "explain", "init", "check", "compare", "verify", "model.onnx"}
