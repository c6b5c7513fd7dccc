"""Rooms, the import-free check path, the wheel, and the command's start."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker.text import PAGES
from support import ROOT, Place
from support.bad_input import Done, run

ALONE = """
import socket, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
def refuse(*a, **k): raise AssertionError("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
{code}
"""
HEAVY = {"torch", "torchvision", "open_clip", "timm", "transformers", "scipy", "requests", "httpx"}


def alone(code: str, names: set[str] = HEAVY) -> Done:
    """Run code where packages are refused, and connections."""
    return run([sys.executable, "-Ic", ALONE.format(names=names, code=code)])


@pytest.mark.process
def test_the_command_needs_neither_torch_nor_a_connection(lookup_pass: Place) -> None:
    model, photos = lookup_pass
    calls = [["--help"], ["explain"], ["export", "--help"], ["doctor"], [str(model), "--images", str(photos)]]
    done = alone(
        f"from robustcheck_onnx.checker import cli\nprint([cli.main(call) for call in {calls}])\n"
        "heavy = {'torch', 'timm', 'scipy', 'requests', 'httpx', 'fsspec', 'aiohttp', 'huggingface_hub'}\n"
        "print('loaded', sorted(heavy & sys.modules.keys()))"
    )
    assert done.returncode == 0, done.stderr
    codes, loaded = done.stdout.splitlines()[-2:]
    assert re.fullmatch(r"\[0, 0, 0, [04], 0\]", codes)  # doctor finds the packages missing
    assert loaded == "loaded []"
    refused = alone("from robustcheck_onnx.checker import cli\nimport typer", {"typer"})
    assert "refused: typer" in refused.stderr  # the probe can fail
    assert "AssertionError" in alone("socket.create_connection(('127.0.0.1', 9))").stderr


@pytest.mark.process
def test_onnx_runtimes_telemetry_never_starts(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}  # nothing of ours: where CI=true, ONNX Runtime starts none by itself
    code = "{}import onnxruntime"
    for first, left in (("from robustcheck_onnx.checker.runtime import session; ", []), ("", [".ses"])):
        subprocess.run([sys.executable, "-Ic", code.format(first)], env=environment, check=True)
        assert [path.name for path in tmp_path.iterdir()] == left  # without us there is a session file: it can fail


@pytest.mark.process
def test_what_loads_which_room() -> None:
    """In one process, the lightest first; each line is what is loaded by then."""
    code = """
import contextlib, io
prefix = "robustcheck_onnx.checker."
def rooms(): return {name.removeprefix(prefix).split(".")[0] for name in sys.modules if name.startswith(prefix)}
def heavy(): return {"onnx", "onnxruntime", "PIL", "fsspec", "ray", "torch"} & sys.modules.keys()
from robustcheck_onnx.checker import cli
with contextlib.redirect_stdout(io.StringIO()):
    assert cli.main(["--help"]) == 0
assert rooms() == {"cli", "errors", "text"}, rooms()
from robustcheck_onnx.checker import evidence, report, statistics, text, verdict  # these run no model and open no file
assert not heavy(), heavy()
from robustcheck_onnx.checker.runtime import session
assert "onnxruntime" in heavy()  # the probe can fail
"""
    done = alone(code)
    assert done.returncode == 0, done.stderr


def test_no_message_names_a_page_that_the_package_lacks() -> None:
    """The pages of docs/ are not in the wheel; what a message names is its title (`text.page`)."""
    named = [
        f"{path.name}: {text.value!r}"
        for room in ("checker", "exporters", "thresholds")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if not isinstance(node, ast.Expr)  # a docstring
        for text in ast.iter_child_nodes(node)
        if isinstance(text, ast.Constant) and re.search(r"docs/[a-z-]+\.md", str(text.value))
    ]
    assert named == []


def test_titles_of_pages_are_theirs() -> None:
    for name, title in PAGES.items():
        assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {title}")
