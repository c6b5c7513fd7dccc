"""Rooms, the import-free check path, the wheel, and the command's start."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from robustcheck_onnx.checker.text import PAGES, VERSION
from support import ROOT

BIN = Path(sys.executable).parent

CHECK_WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
from robustcheck_onnx.checker import cli
code = cli.main({arguments!r})
print("loaded", sorted(m for m in sys.modules if m in {names}))
sys.exit(code)
"""
HEAVY = {"torch", "torchvision", "open_clip", "timm", "transformers", "scipy", "requests", "httpx"}


def probe(arguments: list[str], names: set[str] = HEAVY) -> subprocess.CompletedProcess[str]:
    code = CHECK_WITHOUT_TORCH.format(names=names, arguments=arguments)
    return subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["explain"], ["schema"], ["doctor"], ["export", "--help"]])
def test_verbs_run_without_torch(arguments: list[str]) -> None:
    done = probe(arguments)
    assert done.returncode in {0, 4}, done.stderr
    assert "loaded []" in done.stdout


def test_a_whole_check_runs_without_torch(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    done = probe([str(model), "--images", str(photos), "-o", "json"])
    assert done.returncode == 0, done.stderr
    assert '"verdict": "PASS"' in done.stdout
    assert "loaded []" in done.stdout


def test_the_probe_can_fail() -> None:
    done = probe(["--help"], {"typer"})
    assert done.returncode != 0
    assert "refused: typer" in done.stderr


NO_NETWORK = """
import socket, sys
def refuse(*a, **k): raise AssertionError("a connection was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
from robustcheck_onnx.checker import cli
sys.exit(cli.main({arguments!r}))
"""


def test_a_check_opens_no_connection(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    code = NO_NETWORK.format(arguments=[str(model), "--images", str(photos), "-qq"])
    done = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bad = NO_NETWORK.split("from robustcheck", maxsplit=1)[0] + "socket.create_connection(('127.0.0.1', 9))"
    assert subprocess.run([sys.executable, "-Ic", bad], capture_output=True, check=False).returncode == 1


def test_onnx_runtimes_telemetry_never_starts(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}  # nothing of ours: where CI=true, ONNX Runtime starts none by itself
    code = "{}import onnxruntime"
    for first, left in (("from robustcheck_onnx.checker import runtime; ", []), ("", [".ses"])):
        subprocess.run([sys.executable, "-Ic", code.format(first)], env=environment, check=True)
        assert [path.name for path in tmp_path.iterdir()] == left  # without us there is a session file: it can fail


def test_import_rules_hold() -> None:
    environment = {**os.environ, "PYTHONPATH": ".typings"}  # as in `make lint`
    command = [str(BIN / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " kept, 0 broken." in done.stdout


def test_the_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    source = tmp_path / "source"  # a build leaves a folder behind, which the next one would take files from
    for room in ("face", "checker", "exporters", "thresholds"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {"face": "", "checker": "checker/", "exporters": "exporters/", "thresholds": "thresholds/"}
    for folder, package in folders.items():
        sources = list((ROOT / folder).rglob("*.py"))
        assert sources
        for path in sources:
            assert f"robustcheck_onnx/{package}{path.relative_to(ROOT / folder)}" in names
    assert "robustcheck_onnx/thresholds/data/default.json" in names
    assert {"robustcheck_onnx/py.typed", "robustcheck_onnx/checker/py.typed"} <= names
    assert "robustcheck_onnx/checker/photos/ATTRIBUTION.md" in names
    for room in ("compare", "concepts", "directions", "report/html", "scan"):
        templates = [path.name for path in (ROOT / "checker" / room / "templates").iterdir()]
        assert templates
        assert {f"robustcheck_onnx/checker/{room}/templates/{name}" for name in templates} <= names
    photos = [name for name in names if name.endswith(".jpg")]
    assert len(photos) == len(list((ROOT / "checker" / "photos").glob("*.jpg"))) >= 50
    top = {name.split("/")[0] for name in names}
    assert top == {"robustcheck_onnx", f"robustcheck_onnx-{VERSION}.dist-info"}


def test_shell_completion() -> None:
    script = subprocess.run(
        [BIN / "robustcheck", "--show-completion", "bash"], capture_output=True, text=True, check=False
    )
    assert "_ROBUSTCHECK_COMPLETE" in script.stdout
    for words, cword, want in (("robustcheck ins", "1", "inspect"), ("robustcheck check --dev", "2", "--device")):
        env = {"_ROBUSTCHECK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": cword, "PATH": "/usr/bin"}
        done = subprocess.run([BIN / "robustcheck"], capture_output=True, text=True, check=False, env=env)
        assert want in done.stdout.split()


def test_no_message_names_a_page_that_the_package_lacks() -> None:
    """The pages of docs/ are not in the wheel; what a message names is its title (`text.page`)."""
    named = []
    for room in ("checker", "exporters", "thresholds"):
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
            named += [
                f"{path.name}: {node.value}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and id(node) not in prose
                if isinstance(node.value, str) and re.search(r"docs/[a-z-]+\.md", node.value)
            ]
    assert named == []


def test_titles_of_pages_are_theirs() -> None:
    for name, title in PAGES.items():
        assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {title}")


def loaded_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-Ic", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_loads_no_room_but_the_command_line() -> None:
    loaded = loaded_after("from robustcheck_onnx.checker import cli; assert cli.main(['--help']) == 0")
    prefix = "robustcheck_onnx.checker."
    rooms = {name.removeprefix(prefix).split(".")[0] for name in loaded if name.startswith(prefix)}
    assert rooms == {"cli", "errors", "text"}


@pytest.mark.parametrize("room", ["evidence", "statistics", "text", "verdict", "report"])
def test_pure_rooms_load_nothing_that_runs_models_or_opens_files(room: str) -> None:
    heavy = {"onnx", "onnxruntime", "PIL", "fsspec", "ray", "torch"}
    assert not heavy & loaded_after(f"import robustcheck_onnx.checker.{room}")
    assert "onnxruntime" in loaded_after("import robustcheck_onnx.checker.runtime")  # the probe can fail
