"""The tutorial: every command is run, in order, and what the page shows is what it printed."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.text import HOME
from support import BIN, PATIENCE_S, ROOT, Patch, read_text, repository

PAGE, LANDING = (read_text(ROOT / "docs" / name) for name in ("tutorial.md", "index.md"))
NOT_RUN = {
    "python3 -m venv .venv": "the tests run in an environment of their own",
    ". .venv/bin/activate": "the tests run in an environment of their own",
    f"pip install '{'robustcheck-onnx' if HOME else '.'}[demo]'": "installed before; needs a package index",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a clone: the tutorial's own folder is made in it."""
    clone = tmp_path_factory.mktemp("tutorial")
    for name in ("benchmarks", "studies", "tests"):
        (clone / name).symlink_to(ROOT / name)
    return clone


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROBUSTCHECK_", "GITHUB_"))}
    return kept | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture(scope="module")
def ran(folder: Path, environment: dict[str, str]) -> list[Any]:
    """Every command of the page but NOT_RUN, with its exit code and output."""
    listed = repository.commands_of(PAGE)
    assert {command.text for command in listed} >= set(NOT_RUN)
    return repository.run_commands([c for c in listed if c.text not in NOT_RUN], folder, environment)


@pytest.mark.long
def test_the_commands_do_what_the_tutorial_shows(ran: list[Any], folder: Path) -> None:
    for number, (command, code, output) in enumerate(ran):
        assert repository.missing(command, output) is None, (command.text, repository.missing(command, output), output)
        if command.text == "echo $?":
            assert [output.strip()] == [line.strip() for line in command.shown]
        else:
            asked = number + 1 < len(ran) and ran[number + 1][0].text == "echo $?"
            assert asked or code == 0, (command.text, code, output)
    # what the words of the page claim
    gate = folder / "gate"
    assert {"report.json", "report.html", "junit.xml", "int8.onnx", "gate.json"} <= {p.name for p in gate.iterdir()}
    kurtosis = check(gate / "model.onnx", images=gate / "photos").evidence.statistics.kurtosis
    assert f" a kurtosis of {kurtosis.estimate:.1f}." in PAGE
    demo = next(output for command, _, output in ran if command.text.startswith("robustcheck demo"))
    shown = re.findall(r"^  (?:[▲✓]|statistic|strength|persistence|two-sidedness) .*", LANDING, re.MULTILINE)
    assert len(shown) == 10
    assert [line for line in shown if line not in demo] == []


@pytest.mark.long
@pytest.mark.usefixtures("ran")
def test_the_notebook_runs_where_the_tutorial_ended(
    folder: Path, environment: dict[str, str], tmp_path: Path, monkeypatch: Patch
) -> None:
    """The exports are the tutorial's, and not made twice."""
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]  # kept without outputs
    made = re.findall(r"^ *!(robustcheck.*)", "\n".join(cell.source for cell in notebook.cells), re.MULTILINE)
    assert made
    assert [line for line in made if f"\n$ {line}\n" not in PAGE] == []
    gate = folder / "gate"
    assert (gate / "model.onnx").exists()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))  # nothing is left in the home folder
    homes = {name: str(tmp_path / name) for name in ("IPYTHONDIR", "MPLCONFIGDIR")}
    client = nbclient.NotebookClient(notebook, timeout=int(PATIENCE_S), resources={"metadata": {"path": str(gate)}})
    client.execute(env=environment | homes | {"JUPYTER_RUNTIME_DIR": str(tmp_path)})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    for shown in (
        "model.onnx WARN ['one_sided', 'too_weak', 'not_persistent']", "demo/planted.onnx PASS []",
        "PASS [(92, 'kept')]", "['chequers', 'dots', 'stripes', 'triangle']",
        "<Representations: 50 images, 512 features, representation of demo/planted.onnx>",
    ):  # fmt: skip
        assert shown in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
