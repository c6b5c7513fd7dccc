"""`import robustcheck_onnx as rc`: installed, editable or not; what it names, what it loads."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.pipeline import check
from robustcheck_onnx.checker.text import VERSION

ROOT = Path(__file__).parents[2]
FIRST_USE = "import robustcheck_onnx as rc; print(rc.__file__, inspect.getfile(rc.check), rc.__version__, sep='\\n')"


def printed(code: str, folder: Path, **environment: str) -> list[str]:
    """The lines that a script prints which is started in `folder`, which is on its sys.path then."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_a_plain_install_is_used_in_the_clones_root(tmp_path: Path) -> None:
    """A clone after `pip install .`: what it installed, every file of the package, is in site/."""
    clone = tmp_path / "clone"
    rooms = {"face": "", "checker": "checker", "exporters": "exporters", "thresholds": "thresholds"}
    for name in rooms:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, clone / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", "site", "."]
    subprocess.run(pip, cwd=clone, check=True, capture_output=True)
    site = clone / "site"
    package = site / "robustcheck_onnx"
    for room, inside in rooms.items():
        files = {path.relative_to(clone / room) for path in (clone / room).rglob("*") if path.is_file()}
        assert {str(file) for file in files if not (package / inside / file).is_file()} == set()
    for folder in (clone, ROOT, tmp_path):
        face, pipeline, version = printed("import inspect; " + FIRST_USE, folder, PYTHONPATH=str(site))
        assert face == str(package / "__init__.py")
        assert pipeline == str(package / "checker" / "pipeline.py")
        assert version == VERSION
    assert (package / "py.typed").is_file()
    module = (
        "import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('robustcheck_onnx', run_name='__main__')"
    )
    assert printed(module, clone, PYTHONPATH=str(site)) == [f"robustcheck {VERSION}"]


@pytest.mark.process
def test_importing_it_loads_nothing_heavy_and_it_is_what_is_tested(tmp_path: Path) -> None:
    loaded = "print(sorted({'numpy', 'onnx', 'onnxruntime', 'pydantic', 'typer', 'torch'} & sys.modules.keys()))"
    lazy, errors, used, *first = printed(
        f"import sys, robustcheck_onnx as rc; dir(rc); rc.__version__; {loaded}; rc.UsageError; {loaded}; "
        f"rc.check; {loaded}; import inspect; {FIRST_USE}", tmp_path
    )  # fmt: skip
    assert (lazy, errors) == ("[]", "[]")
    assert used == "['numpy', 'onnx', 'onnxruntime', 'pydantic']"  # the probe can fail
    assert first == [rc.__file__, inspect.getfile(rc.check), VERSION]  # where this process has it: a clone, or a wheel


@pytest.mark.process
def test_the_module_is_the_command() -> None:
    calls = ([sys.executable, "-m", "robustcheck_onnx"], [Path(sys.executable).parent / "robustcheck"])
    module, command = (subprocess.run([*call, "--help"], capture_output=True, check=False) for call in calls)
    assert (module.returncode, module.stdout) == (0, command.stdout)


def test_it_lists_the_names_that_type_checkers_see() -> None:
    body = ast.parse((ROOT / "face" / "__init__.py").read_text(encoding="utf-8")).body
    (typed,) = [node.body for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {alias.name: node.module for node in typed if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {ast.unparse(node.target) for node in typed if isinstance(node, ast.AnnAssign)}
    assert dir(rc) == sorted(rc.__all__) == sorted(homes.keys() | declared)
    for name, home in homes.items():
        assert getattr(rc, name) is getattr(sys.modules[str(home)], name)  # both say where it is
    wanted = "check compare scan concepts directions measure_shift verify Report RobustcheckError"
    assert set(dir(rc)) >= set(wanted.split())


def test_it_hands_on_the_functions_themselves() -> None:
    assert rc.check is check
    assert {"thresholds", "options"} <= inspect.signature(rc.check).parameters.keys()
    assert "RunOptions" in str(inspect.signature(rc.check).parameters["options"].annotation)
    assert issubclass(rc.VerdictError, AssertionError)
    assert [error.exit_code for error in (rc.UsageError, rc.CannotAssessError, rc.EnvironmentFaultError)] == [2, 3, 4]


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'robustcheck_onnx' has no attribute 'chekc'"):
        rc.chekc  # type: ignore[attr-defined]  # noqa: B018
