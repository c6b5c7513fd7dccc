"""Rooms, the import-free check path, the command's start, titles of pages, examples of docstrings, long files."""

import ast
import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from robustcheck_onnx.checker.text import PAGES
from support import ROOT, Place, read_text
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


def test_onnx_runtimes_telemetry_never_starts(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}  # nothing of ours: where CI=true, ONNX Runtime starts none by itself
    code = "{}import onnxruntime"
    for first, left in (("from robustcheck_onnx.checker.core.runtime import session; ", []), ("", [".ses"])):
        subprocess.run([sys.executable, "-Ic", code.format(first)], env=environment, check=True)
        assert [path.name for path in tmp_path.iterdir()] == left  # without us there is a session file: it can fail


def test_what_loads_which_room() -> None:
    """In one process, the lightest first; each line is what is loaded by then."""
    code = """
import contextlib, io
prefix = "robustcheck_onnx.checker."
def loaded(): return {name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix)}
def heavy(): return {"onnx", "onnxruntime", "PIL", "fsspec", "ray", "torch"} & sys.modules.keys()
from robustcheck_onnx.checker import cli
with contextlib.redirect_stdout(io.StringIO()):
    assert cli.main(["--help"]) == 0
others = {name for name in loaded() if name.split(".")[0] != "cli"}
assert others == {"core", "core.model_size", "errors", "text"}, others
from robustcheck_onnx.checker import text
from robustcheck_onnx.checker.core import evidence  # these run no model and open no file
from robustcheck_onnx.checker.report import record
from robustcheck_onnx.checker.core.statistics import definitions, state
from robustcheck_onnx.checker.core.verdict import gate, rule
assert not heavy(), heavy()
from robustcheck_onnx.checker.core.runtime import session
assert "onnxruntime" in heavy()  # the probe can fail
"""
    done = alone(code)
    assert done.returncode == 0, done.stderr


TERMINAL = ("typer", "click", "rich")


def private_names(code: str) -> list[str]:
    """Return the private names of typer, click and rich that a file imports, and, if it imports one, of any object."""
    imported: list[str] = []
    read: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") not in ("self", "cls"):
            read.append(f".{node.attr}")
    theirs = [name for name in imported if name.split(".")[0] in TERMINAL]
    of_named_tuples = (".__", "._asdict", "._fields", "._replace")
    return [name for name in theirs + (read if theirs else []) if "._" in name and not name.startswith(of_named_tuples)]


def test_no_private_part_of_typer_click_or_rich_is_used() -> None:
    """Such a part may change in any release, so the bounds of pyproject.toml could not reach the next major version."""
    for code, found in {
        "import typer._click.core": ["typer._click.core"],
        "from rich._wrap import divide_line": ["rich._wrap.divide_line"],
        "def f():\n    from typer import _click as c": ["typer._click"],
        "import typer\ntyper.Typer()._add_completion": ["._add_completion"],
        "import typer\nself._mine, row._replace(a=1), typer.Option.__name__": [],
        "import other._part": [],
    }.items():
        assert private_names(code) == found  # the probe can fail
    for room in ("checker", "exporters", "thresholds", "face"):
        for path in (ROOT / room).rglob("*.py"):
            assert private_names(read_text(path)) == [], path


def test_no_message_names_a_page_that_the_package_lacks() -> None:
    """The pages of docs/ are not in the wheel; what a message names is its title (`text.page`)."""
    named = [
        f"{path.name}: {text.value!r}"
        for room in ("checker", "exporters", "thresholds")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(read_text(path)))
        if not isinstance(node, ast.Expr)  # a docstring
        for text in ast.iter_child_nodes(node)
        if isinstance(text, ast.Constant) and re.search(r"docs/[a-z-]+\.md", str(text.value))
    ]
    assert named == []


def test_titles_of_pages_are_theirs() -> None:
    for name, title in PAGES.items():
        assert read_text(f"docs/{name}.md").startswith(f"# {title}")


def test_the_examples_of_the_docstrings() -> None:
    """Whatever module they stand in.

    pytest's own `--doctest-modules` would import the folders under other names (`checker`), and torch into every run.
    """
    for room in ["checker", "exporters", "thresholds"]:
        found = [path for path in sorted((ROOT / room).rglob("*.py")) if ">>> " in read_text(path)]
        assert found
        for path in found:
            name = ".".join(("robustcheck_onnx", *path.relative_to(ROOT).with_suffix("").parts))
            outcome = doctest.testmod(import_module(name.removesuffix(".__init__")))
            assert outcome.failed == 0 < outcome.attempted, name


def test_a_file_has_at_most_700_lines() -> None:
    folders = ("checker", "exporters", "thresholds", "face", "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in paths if len(read_text(path).splitlines()) > 700] == []
