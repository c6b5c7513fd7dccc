"""Fixtures that several files share; what they are made of is the package `support`."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

pytest.register_assert_rewrite("support")  # before its import: a failed assert there shows its values too
from robustcheck_onnx.checker.outside import isolation  # noqa: E402
from support import (  # noqa: E402
    EXAMPLES,
    PHOTOS,
    ROOT,
    Capture,
    Patch,
    Place,
    calibrations,
    documents,
    lookup,
    normal,
    package_links,
)
from support.walls import NoWall  # noqa: E402

if Path(isolation.__file__).is_relative_to(ROOT):  # an editable install; an installed wheel must not be hidden
    package_links.make()
REAL_WALL = isolation.Wall
hypothesis.settings.register_profile("robustcheck", deadline=None, derandomize=True, max_examples=EXAMPLES)
hypothesis.settings.load_profile("robustcheck")

if TYPE_CHECKING:
    from robustcheck_onnx.checker.core.model.open import ModelFile
    from robustcheck_onnx.checker.report.check import Report
    from support.bad_input import Done, Run
    from support.comparisons import Workshop


HEAVY = ("matplotlib", "mlflow", "open_clip", "ray", "timm", "torch", "transformers")
"""packages that no quick test may import"""


def _imported() -> set[str]:
    return {name for name in HEAVY if sys.modules.get(name)}  # None: a test says that it is not installed


def pytest_collection_finish(session: pytest.Session) -> None:
    """End a quick run whose test files import what is heavy."""
    heavy = sorted(_imported())
    if heavy and _is_quick(session.config):
        pytest.exit(f"collecting the tests imported {', '.join(heavy)}; only tests marked long may", 4)


def _is_quick(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "not long")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a quick test that imports what is heavy."""
    before = _imported()
    yield
    heavy = sorted(_imported() - before)
    if heavy and _is_quick(item.config):
        pytest.fail(f"the test imported {', '.join(heavy)}; it must be marked long")


LONGEST = (
    "exporters/test_families.py", "whole/test_controls.py", "verify/test_every_field.py", "calibrate/test_tasks.py",
    "project/test_tutorial.py", "calibrate/test_command.py", "measure/test_ray_engine.py", "shift/test_run.py",
    "shift/test_predicted.py",
)  # fmt: skip
"""Files that take longest: they come first, so that no process is left with one of them while the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; the others stay in their order."""
    places = {str(Path(__file__).parent / name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))


@pytest.fixture(autouse=True, scope="session")
def _no_wall() -> Iterator[None]:
    """Read models in this process: a child for each of thousands of checks takes long, and no test could look into it.

    The fixture `wall` puts the child process back; so does every test that types the command in a process of its own.
    """
    with Patch.context() as patch:
        patch.setattr(isolation, "Wall", NoWall)
        yield


@pytest.fixture(autouse=True, scope="session")
def _documents() -> Iterator[None]:
    """Hold each JSON document that a command writes against the schema."""
    from robustcheck_onnx.checker.cli import app

    with Patch.context() as patch:
        patch.setattr(app, "main", documents.validating(app.main))
        yield


@pytest.fixture
def wall(monkeypatch: Patch) -> None:
    """Read models in a child process, as users do."""
    monkeypatch.setattr(isolation, "Wall", REAL_WALL)


@pytest.fixture(scope="session")
def lookup_pass(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A look-up model that passes (one planted persistent outlier feature), and 80 photos to check it on."""
    folder = tmp_path_factory.mktemp("pass")
    lookup.write_lookup_images(folder / "photos", 80)
    return lookup.write_lookup_model(folder / "model.onnx", lookup.passing_rows()), folder / "photos"


@pytest.fixture(scope="session")
def passed(lookup_pass: Place) -> Report:
    """A PASS on own photos."""
    from robustcheck_onnx import check

    return check(lookup_pass[0], images=lookup_pass[1])


def _exported(folder: Path, factory: str) -> Path:
    from robustcheck_onnx.exporters import run

    run.run("torch", f"robustcheck_onnx.exporters.demo:{factory}", folder / f"{factory}.onnx", photos=PHOTOS[:5])
    return folder / f"{factory}.onnx"


@pytest.fixture(scope="session")
def efficientnet_lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 with its real weights, exported by the real exporter."""
    return _exported(tmp_path_factory.mktemp("real"), "efficientnet_lite0")


@pytest.fixture(scope="session")
def planted_outlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same backbone, its features mixed to signed ones, with one persistent outlier feature planted."""
    return _exported(tmp_path_factory.mktemp("planted"), "planted_outlier")


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., ModelFile]:
    """Opens a graph as a file, with the options of `open_model`."""
    import onnx

    from robustcheck_onnx.checker.core.model.open import open_model

    def open_(model: onnx.ModelProto, **options: Any) -> ModelFile:
        onnx.save(model, tmp_path / "m.onnx")
        return open_model(tmp_path / "m.onnx", **options)

    return open_


@pytest.fixture(scope="session")
def skimage_photos() -> list[Path]:
    """Five real photos, which scikit-image carries."""
    pytest.importorskip("skimage", reason="real photos come from scikit-image")
    return lookup.skimage_photos()


@pytest.fixture
def my_vision(tmp_path: Path, monkeypatch: Patch) -> str:
    """A user's own module in the current folder, which is the test's own one."""
    from support.torch_models import FACTORIES

    (tmp_path / "my_vision.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_vision", raising=False)
    return "my_vision"


@pytest.fixture(scope="session")
def photos_80(lookup_pass: Place) -> Path:
    """80 photos for look-up models."""
    return lookup_pass[1]


@pytest.fixture
def workshop(tmp_path: Path, photos_80: Path) -> Workshop:
    """Writes look-up models into the test's folder, and compares them."""
    from support.comparisons import Workshop

    return Workshop(tmp_path, photos_80, lookup.write_lookup_model)


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's store in memory, empty."""
    fsspec: Any = pytest.importorskip("fsspec", reason="the extra remote is not installed")
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Downloads go to a folder that each test can look into."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return folder


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> calibrations.Calibrated:
    """A suite of look-up models, calibrated."""
    from robustcheck_onnx.checker.cli import app, process

    folder = tmp_path_factory.mktemp("mini")
    suite = calibrations.write_suite(folder)
    table = folder / "mini.results.jsonl"
    found = calibrations.Calibrated(folder, suite, folder / "photos", table, folder / "mini.json")
    with contextlib.redirect_stdout(io.StringIO()):  # the process would mend pytest's own, and close it
        assert process.run(app.app, calibrations.line(suite, found.photos, found.profile).split()) == 0
    return found


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place) -> Path:
    """A folder of broken files, and of a model that passes with its photos."""
    from support import bad_input

    folder = tmp_path_factory.mktemp("world")
    bad_input.write(folder, *lookup_pass)
    return folder


SABOTEUR = """
import os, signal, sys

def strike(event, arguments):
    if event != "open" or not isinstance(arguments[0], str):
        return
    for name, times in {targets!r}.items():
        for number in range(times if arguments[0].endswith(name) else 0):
            try:
                os.close(os.open(f"{folder}/{{name}}.{{number}}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(strike)
"""


@pytest.fixture
def saboteur(tmp_path: Path, monkeypatch: Patch) -> Callable[[dict[str, int]], Path]:
    """`saboteur({name: times})`: Python processes started from now on are killed when they open a file of that name.

    Returns the folder that holds one file a kill.
    """

    def prepare(targets: dict[str, int]) -> Path:
        kills, code = tmp_path / "kills", tmp_path / "sabotage"
        kills.mkdir()
        code.mkdir()
        (code / "sitecustomize.py").write_text(SABOTEUR.format(targets=targets, folder=kills))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH", "")])))
        return kills

    return prepare


@pytest.fixture
def runner(opened: Callable[..., ModelFile]) -> Any:
    """A session for a graph made in the test."""
    from robustcheck_onnx.checker.core.runtime.runner import Runner

    def make(model: Any, device: str = "cpu", *, threads: int | None = None, batch_size: int = 32, **given: Any) -> Any:
        return Runner(opened(model, **given), device, threads=threads, batch_size=batch_size)

    return make


@pytest.fixture(scope="session")
def _models(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place) -> Path:
    """A folder of pass.onnx, its photos, text.onnx (no model) and warn.onnx, whose rows are Gaussian."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(lookup_pass[0], folder / "pass.onnx")
    (folder / "photos").symlink_to(lookup_pass[1])
    (folder / "text.onnx").write_text("no model", encoding="utf-8")
    lookup.write_lookup_model(folder / "warn.onnx", normal(80, 512, seed=3))
    return folder


@pytest.fixture
def here(_models: Path, tmp_path: Path, monkeypatch: Patch) -> Path:
    """The current folder, with the models and the photos."""
    monkeypatch.chdir(shutil.copytree(_models, tmp_path / "here", symlinks=True))
    return tmp_path / "here"


@pytest.fixture
def run(capfd: Capture) -> Run:
    """Type a command line in this process: `run("pass.onnx --images photos", **environment)`."""
    from support.bad_input import Typed

    return Typed(capfd)


@pytest.fixture
def ends(run: Run) -> Run:
    """Type a command line that must end with this code, and with these texts on stderr: `ends(2, "pass.onnx", "x")`."""

    def typed(code: int, line: str, *said: str, **environment: str) -> Done:
        done = run(line, **environment)
        assert (done.returncode, [text for text in said if text not in done.stderr]) == (code, []), done.stderr
        return done

    return typed
