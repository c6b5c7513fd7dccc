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
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after `pip install .`: what it installed is in site/."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("face", "checker", "exporters", "thresholds"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", "site", "."]
    subprocess.run(pip, cwd=clone, check=True, capture_output=True)
    return clone


def test_the_face_of_a_plain_install_is_used_in_the_clones_root(clone: Path, tmp_path: Path) -> None:
    site = clone / "site"
    for folder in (clone, ROOT, tmp_path):
        face, pipeline, version = printed("import inspect; " + FIRST_USE, folder, PYTHONPATH=str(site))
        assert face == str(site / "robustcheck_onnx" / "__init__.py")
        assert pipeline == str(site / "robustcheck_onnx" / "checker" / "pipeline.py")
        assert version == VERSION
    assert (site / "robustcheck_onnx" / "py.typed").is_file()


def test_the_command_of_a_plain_install_runs_as_a_module(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robustcheck_onnx", "--version"],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"robustcheck {VERSION}\n"), done.stderr


def test_the_face_of_the_editable_install_is_the_clones(tmp_path: Path) -> None:
    for folder in (ROOT, tmp_path):
        face, pipeline, version = printed("import inspect; " + FIRST_USE, folder)
        assert (face, pipeline) == (str(ROOT / "face" / "__init__.py"), str(ROOT / "checker" / "pipeline.py"))
        assert version == VERSION


def test_the_module_is_the_command() -> None:
    module = subprocess.run([sys.executable, "-m", "robustcheck_onnx", "--help"], capture_output=True, check=False)
    command = subprocess.run([Path(sys.executable).parent / "robustcheck", "--help"], capture_output=True, check=False)
    assert (module.returncode, module.stdout) == (0, command.stdout)
    version = subprocess.run(
        [sys.executable, "-m", "robustcheck_onnx", "--version"], capture_output=True, text=True, check=False
    )
    assert (version.returncode, version.stdout) == (0, f"robustcheck {VERSION}\n")


LOADED = "print(sorted({'numpy', 'onnx', 'onnxruntime', 'pydantic', 'typer', 'torch'} & sys.modules.keys()))"


def test_importing_it_loads_nothing_heavy(tmp_path: Path) -> None:
    (lazy,) = printed(f"import sys, robustcheck_onnx as rc; dir(rc); rc.__version__; {LOADED}", tmp_path)
    assert lazy == "[]"
    (errors,) = printed(f"import sys, robustcheck_onnx as rc; rc.UsageError; {LOADED}", tmp_path)
    assert errors == "[]"
    (used,) = printed(f"import sys, robustcheck_onnx as rc; rc.check; {LOADED}", tmp_path)
    assert used == "['numpy', 'onnx', 'onnxruntime', 'pydantic']"  # the probe can fail


def test_it_lists_the_names_that_type_checkers_see() -> None:
    body = ast.parse((ROOT / "face" / "__init__.py").read_text(encoding="utf-8")).body
    (typed,) = [node.body for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {alias.name: node.module for node in typed if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {ast.unparse(node.target) for node in typed if isinstance(node, ast.AnnAssign)}
    assert dir(rc) == sorted(rc.__all__) == sorted(homes.keys() | declared)
    for name, home in homes.items():
        assert getattr(rc, name) is getattr(sys.modules[str(home)], name)  # both say where it is
    assert set(dir(rc)) >= {
        "check",
        "compare",
        "scan",
        "concepts",
        "directions",
        "measure_shift",
        "verify",
        "Report",
        "RobustcheckError",
    }


def test_it_hands_on_the_functions_themselves() -> None:
    assert rc.check is check
    assert {"thresholds", "options"} <= inspect.signature(rc.check).parameters.keys()
    assert "RunOptions" in str(inspect.signature(rc.check).parameters["options"].annotation)
    assert issubclass(rc.VerdictError, AssertionError)
    assert [error.exit_code for error in (rc.UsageError, rc.CannotAssessError, rc.EnvironmentFaultError)] == [2, 3, 4]


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'robustcheck_onnx' has no attribute 'chekc'"):
        rc.chekc  # type: ignore[attr-defined]  # noqa: B018
