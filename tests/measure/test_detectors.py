"""Detectors of other packages: only those named run, they only ever add a WARN, and one that fails ends the run."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.measure import detectors
from robustcheck_onnx.checker.report.record import Report, to_json
from support import ROOT, lookup
from support.measuring import never_decided

COMMAND = Path(sys.executable).parent / "robustcheck"
N_IMAGES, WIDTH = 80, 512
CONSTANT, NOT_FINITE = 3, 9
PlugIn = Callable[..., None]
Command = Callable[..., subprocess.CompletedProcess[str]]

HEAD = """
from robustcheck_onnx.checker.evidence import DetectorResult

def sound(**other):
    return DetectorResult(**dict(name="one", version="1", values={}, finding="ok", text="nothing seen") | other)

class One:
    name, version = "one", "1"
    def update(self, representations): pass
    def result(self): return sound()
"""


def representations() -> np.ndarray:
    """That of conftest's `lookup_pass`: one planted persistent outlier feature, which passes."""
    rng = np.random.default_rng(3)
    h = rng.normal(size=(N_IMAGES, WIDTH)) + rng.normal(0, 0.5, WIDTH)
    h[:, 7] += 20
    return np.asarray(h * rng.uniform(0.5, 2, (N_IMAGES, 1)), dtype=np.float32)


def in_order(folder: Path) -> list[int]:
    """Numbers of the images in the order of a run."""
    names = sorted(path.name for path in folder.iterdir())
    return [names.index(entry.name) for entry in open_images(folder).entries]


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlugIn:
    """`plug_in(code)`: a module with entry points, on the path as an installed one is; returns nothing."""

    def install(code: str, *, name: str = "one", package: str = "plug", attribute: str = "One") -> None:
        site = tmp_path / "site"
        info = site / f"{package}-2.5.dist-info"
        info.mkdir(parents=True)
        (site / f"{package}_module.py").write_text(HEAD + code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[{detectors.GROUP}]\n{name} = {package}_module:{attribute}\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, f"{package}_module", raising=False)
        importlib.invalidate_caches()

    return install


def run(place: tuple[Path, Path], *names: str, **options: object) -> Report:
    return check(place[0], images=place[1], detectors=names, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- the packaged example


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed by pip."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for file in (ROOT / "docs" / "examples" / "detector").glob("*.*"):
        (source / file.name).write_bytes(file.read_bytes())  # pip builds in the folder that it is given
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", source], check=True)
    return folder / "site"


@pytest.fixture(scope="module")
def command(example: Path, lookup_pass: tuple[Path, Path]) -> Command:
    """`command(words, environment)`: the real command on the look-up model, with the example installed."""

    def run_it(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        model, photos = lookup_pass
        call: list[str | Path] = [COMMAND, model, "--images", photos, "-o", "json", *words]
        own = {"PYTHONPATH": str(example)} | environment
        return subprocess.run(call, capture_output=True, text=True, env=os.environ | own, check=False)

    return run_it


def test_the_example_measures_what_numpy_does(command: Command, lookup_pass: tuple[Path, Path]) -> None:
    done = command("--detector", "spectrum")
    assert done.returncode == 0, done.stderr
    report = Report.model_validate_json(done.stdout)
    assert report.verdict.verdict == "PASS"
    (found,) = report.evidence.detectors
    n = report.evidence.statistics.n_images
    rows = representations().astype(np.float64)[in_order(lookup_pass[1])[:n]]
    eigenvalues = np.linalg.eigvalsh(np.cov(rows, rowvar=False))
    want = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert found.values == {"participation_ratio": pytest.approx(want, rel=1e-6), "minimum": 0.0, "images": n}
    assert (found.name, found.version, found.finding) == ("spectrum", "0.1.0", "ok")
    assert any(found.text in note for note in report.notes)


def test_a_warning_of_the_example_turns_pass_into_warn(command: Command) -> None:
    done = command("--detector", "spectrum", SPECTRUM_MINIMUM="400")
    assert done.returncode == 1, done.stderr
    report = Report.model_validate_json(done.stdout)
    (reason,) = report.verdict.reasons
    assert reason.id == "detector_warned"
    assert reason.seen == f"spectrum 0.1.0: {report.evidence.detectors[0].text}"
    assert "(minimum 400)" in reason.seen
    assert not any("spectrum" in note for note in report.notes)


def test_a_broken_setting_of_the_example_is_no_verdict(command: Command) -> None:
    done = command("--detector", "spectrum", SPECTRUM_MINIMUM="many")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["message"].startswith("spectrum: detector of robustcheck-spectrum 0.1.0 failed (ValueError: could not")
    assert "--detector spectrum" in error["hint"]


def test_the_command_names_what_is_installed(command: Command) -> None:
    done = command("--detector", "spektrum")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == {
        "message": "--detector is 'spektrum'; it must be an installed detector (predicted-drop, spectrum)",
        "hint": "--detector spectrum",
        "exit_code": 2,
    }


def test_leaving_the_program_is_no_pass(plug_in: PlugIn, tmp_path: Path, lookup_pass: tuple[Path, Path]) -> None:
    plug_in("class One(One):\n    def update(self, h): raise SystemExit(0)\n")
    call: list[str | Path] = [COMMAND, lookup_pass[0], "--images", lookup_pass[1], "--detector", "one"]
    own = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(call, capture_output=True, text=True, env=own, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "one: detector of plug 2.5 failed (SystemExit: 0)" in done.stderr


# ------------------------------------------------------------------------------- what a detector is shown, and does


def test_only_a_named_detector_is_imported(plug_in: PlugIn, lookup_pass: tuple[Path, Path]) -> None:
    plug_in("raise RuntimeError('imported')")
    assert run(lookup_pass).verdict.verdict == "PASS"
    assert "plug_module" not in sys.modules
    with pytest.raises(CannotAssessError, match=r"one: detector of plug 2\.5 failed \(RuntimeError: imported\)"):
        run(lookup_pass, "one")


def test_a_detector_sees_the_usable_representations_in_order(
    plug_in: PlugIn,
    lookup_pass: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    h, folder = representations(), lookup_pass[1]
    h[CONSTANT], h[NOT_FINITE, 2] = 1.0, np.nan
    model = lookup.write_lookup_model(tmp_path / "m.onnx", h)
    plug_in("SEEN = []\nclass One(One):\n    def update(self, h): SEEN.append(h)\n")
    run((model, folder), "one", thresholds=never_decided(), batch_size=7)
    seen = sys.modules["plug_module"].SEEN
    want = h[[row for row in in_order(folder) if row not in (CONSTANT, NOT_FINITE)]].astype(np.float64)
    assert [batch.dtype for batch in seen] == [np.float64] * len(seen)
    np.testing.assert_array_equal(np.concatenate(seen), want)


def test_an_ok_changes_nothing_but_what_is_told_of_it(plug_in: PlugIn, lookup_pass: tuple[Path, Path]) -> None:
    plug_in("class One(One):\n    def result(self): return sound(values={'a': None, 'b': 1.5})\n")
    alone, beside = run(lookup_pass), run(lookup_pass, "one")
    (found,) = beside.evidence.detectors
    assert found.values == {"a": None, "b": 1.5}
    assert beside.evidence.model_copy(update={"detectors": ()}) == alone.evidence
    assert beside.verdict == alone.verdict
    assert set(beside.notes) - set(alone.notes) == {"Detector one 1, a plug-in, adds no reason for WARN: nothing seen"}
    assert Report.model_validate_json(to_json(beside)) == beside


@pytest.mark.parametrize("finding", ["ok", "warn"])
def test_no_detector_takes_a_warn_away(
    plug_in: PlugIn,
    lookup_pass: tuple[Path, Path],
    tmp_path: Path,
    finding: str,
) -> None:
    h = np.random.default_rng(1).normal(size=(N_IMAGES, WIDTH))
    place = lookup.write_lookup_model(tmp_path / "m.onnx", h), lookup_pass[1]
    plug_in(f"class One(One):\n    def result(self): return sound(finding={finding!r})\n")
    alone, beside = run(place), run(place, "one")
    assert alone.verdict.verdict == beside.verdict.verdict == "WARN"
    added = beside.verdict.reasons[len(alone.verdict.reasons) :]
    assert beside.verdict.reasons[: len(alone.verdict.reasons)] == alone.verdict.reasons
    assert [reason.id for reason in added] == ["detector_warned"] * (finding == "warn")


def test_what_a_detector_prints_is_not_in_the_report(
    plug_in: PlugIn,
    lookup_pass: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plug_in("print('imported')\nclass One(One):\n    def update(self, h): print('updated')\n")
    run(lookup_pass, "one")
    told = capsys.readouterr()
    assert told.out == ""
    assert set(told.err.split()) == {"imported", "updated"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("class One:\n    def __init__(self): 1 / 0\n", "ZeroDivisionError"),
        ("One = int", "it has no update and result"),
        ("class One(One):\n    name = 'two'\n", "its name is 'two'; it must be 'one'"),
        ("class One(One):\n    version = 1\n", "its version a text"),
        ("class One(One):\n    def update(self, h): raise KeyError('x')\n", "KeyError: 'x'"),
        ("class One(One):\n    def update(self, h): h[0] = 0\n", "read-only"),
        ("class One(One):\n    def result(self): raise MemoryError\n", "MemoryError"),
        ("class One(One):\n    def result(self): return None\n", "its result is a NoneType"),
        ("class One(One):\n    def result(self): return sound(values={'a': float('nan')})\n", "finite number"),
        (
            "class One(One):\n    def result(self): return DetectorResult.model_construct(name='one', version='1', "
            "values={'a': float('inf')}, finding='ok', text='x')\n",
            "finite number",
        ),
        ("class One(One):\n    def result(self): return sound(finding='pass')\n", "'ok' or 'warn'"),
        ("class One(One):\n    def result(self): return sound(text='a\\x1b[31mb')\n", "printable"),
        ("class One(One):\n    def result(self): return sound(name='two')\n", "its result is of two 1"),
        ("class One(One):\n    def result(self): return sound(version='2')\n", "its result is of one 2"),
    ],
)
def test_a_detector_that_fails_is_no_verdict(
    plug_in: PlugIn, lookup_pass: tuple[Path, Path], code: str, said: str
) -> None:
    plug_in(code)
    with pytest.raises(CannotAssessError) as error:
        run(lookup_pass, "one")
    assert error.value.exit_code == 3
    assert error.value.message.startswith("one: detector of plug 2.5 failed (")
    assert said in error.value.message
    assert error.value.hint == "leave out --detector one, or tell the makers of plug 2.5"


def test_an_entry_point_to_nothing_is_no_verdict(plug_in: PlugIn, lookup_pass: tuple[Path, Path]) -> None:
    plug_in("", attribute="Two")
    with pytest.raises(CannotAssessError, match=r"one: detector of plug 2\.5 failed \(AttributeError"):
        run(lookup_pass, "one")


def test_names_must_be_one_installed_detector_each(plug_in: PlugIn, lookup_pass: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"--detector is 'one'; .* \(predicted-drop\)"):
        run(lookup_pass, "one")
    plug_in("")
    with pytest.raises(UsageError, match="--detector names one twice"):
        run(lookup_pass, "one", "one")
    plug_in("", package="other")
    with pytest.raises(UsageError, match=r"one package must have it, and there are other 2\.5, plug 2\.5"):
        run(lookup_pass, "one")


@pytest.mark.parametrize("options", [{"engine": "ray"}, {"workers": 2}, {"ray_address": "auto"}])
def test_detectors_need_the_local_engine(lookup_pass: tuple[Path, Path], options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--detector is one; detectors need the local engine"):
        run(lookup_pass, "one", **options)


# --------------------------------------------------------------------------------------- a text, and the model's digest

TAKES_TEXT = """
class One(One):
    def __init__(self, text='nothing'): self.text = text
    def result(self): return sound(text=f'text is {self.text}')
"""


@pytest.mark.parametrize(("spec", "text"), [("one", "nothing"), ("one=a=b,c", "a=b,c"), ("one=", "")])
def test_a_detector_gets_the_text_behind_its_name(
    plug_in: PlugIn, lookup_pass: tuple[Path, Path], spec: str, text: str
) -> None:
    plug_in(TAKES_TEXT)
    (found,) = run(lookup_pass, spec).evidence.detectors
    assert found.name == "one"
    assert found.text == f"text is {text}"


def test_a_text_for_a_detector_that_takes_none_is_no_verdict(plug_in: PlugIn, lookup_pass: tuple[Path, Path]) -> None:
    plug_in("")
    with pytest.raises(CannotAssessError, match=r"one: detector of plug 2\.5 failed \(TypeError"):
        run(lookup_pass, "one=text")
    with pytest.raises(UsageError, match="--detector names one twice"):
        run(lookup_pass, "one", "one=text")
    with pytest.raises(UsageError, match="--detector is one; detectors need the local engine"):
        run(lookup_pass, "one=text", engine="ray")


def test_a_detector_that_asks_for_it_learns_the_models_digest_first(
    plug_in: PlugIn, lookup_pass: tuple[Path, Path]
) -> None:
    plug_in(
        "class One(One):\n"
        "    def __init__(self): self.seen = []\n"
        "    def begin(self, model_digest, preprocessing): self.seen += [model_digest, str(preprocessing.size)]\n"
        "    def update(self, h): self.seen.append('images')\n"
        "    def result(self): return sound(text='; '.join(self.seen[:3]))\n"
    )
    report = run(lookup_pass, "one")
    size = report.evidence.preprocessing.preprocessing.size
    assert report.evidence.detectors[0].text == f"{report.evidence.model.digest}; {size}; images"


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        ("UsageError('ours: it is wrong')", UsageError, "ours: it is wrong"),
        ("CannotAssessError('ours: it is wrong')", CannotAssessError, "ours: it is wrong"),
        ("RobustcheckError('x')", CannotAssessError, r"failed \(RobustcheckError: x"),
        ("Zero('x')", CannotAssessError, r"failed \(Zero: x"),  # its exit code would read as PASS
        ("ValueError('x')", CannotAssessError, r"failed \(ValueError: x"),
    ],
)
def test_our_own_errors_of_a_detector_stay(
    plug_in: PlugIn, lookup_pass: tuple[Path, Path], raised: str, kind: type[Exception], said: str
) -> None:
    plug_in(
        "from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError, UsageError\n"
        "class Zero(UsageError): exit_code = 0\n"
        f"class One(One):\n    def begin(self, model_digest, preprocessing): raise {raised}\n"
    )
    with pytest.raises(kind, match=said):
        run(lookup_pass, "one")
