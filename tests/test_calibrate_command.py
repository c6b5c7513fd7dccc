"""`robustcheck calibrate` through the real command: measured once, kept through kills, the same on every engine."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import pytest

from robustcheck_onnx.checker import calibration_table, calibration_tasks, cli, cli_process
from robustcheck_onnx.checker.verdict import ALIKE_SPREAD
from robustcheck_onnx.thresholds import profile, results, suite
from robustcheck_onnx.thresholds.calibrate import fitted_profile, rows_of
from robustcheck_onnx.thresholds.results import Result

ROOT = Path(__file__).parent.parent
COMMAND = str(Path(sys.executable).parent / "robustcheck")
SHARED = Path(os.environ.get("ROBUSTCHECK_SHARED", ROOT.parent / "shared"))
EMBEDDINGS = SHARED / "data" / "embeddings"
N_MODELS = 12


def run(
    *words: str | Path, code: int = 0, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {}), "COLUMNS": "100"},
        timeout=300,
    )
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-3000:])
    return done


class Call(Protocol):
    """The command within this process: exit code expected, (stdout, stderr) returned."""

    def __call__(self, *words: str | Path, code: int = 0) -> tuple[str, str]: ...


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def made_call(*words: str | Path, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        assert cli_process.run(cli.app, list(map(str, words))) == code
        out, err = capfd.readouterr()
        return out, err

    return made_call


@pytest.fixture(scope="session")
def mini_suite() -> ModuleType:
    """benchmarks/mini_suite.py."""
    return importlib.import_module("mini_suite")


class Made(NamedTuple):
    """A suite of look-up models, calibrated."""

    folder: Path
    suite: Path
    photos: Path
    table: Path
    profile: Path
    progress: str


def calibrate(
    suite: Path, photos: Path, out: Path, *more: str | Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    where = ("--suite", suite, "--images", photos, "--out", out, "--cache", suite.parent / "cache")
    return run("calibrate", *where, "--id", "mini", "--device", "cpu", *more, code=code)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, mini_suite: ModuleType) -> Made:
    folder = tmp_path_factory.mktemp("mini")
    suite = mini_suite.write_suite(folder, exported=False)
    out = folder / "mini.json"
    done = calibrate(suite, folder / "photos", out, "--workers", "2")
    return Made(folder, suite, folder / "photos", folder / "mini.results.jsonl", out, done.stderr)


def rows(path: Path) -> list[Result]:
    return results.read(path)


def test_every_model_has_a_row_with_what_influences_it(made: Made) -> None:
    found = rows(made.table)
    assert len(found) == N_MODELS
    for row in found:
        assert (row.n_images, row.n_features, row.statistic_version) == (120, 640, 2)
        assert row.model_digest.startswith("sha256:")
        assert row.images_digest.startswith("sha256:")
        assert row.preprocessing_source == "contract"
        assert {"robustcheck-onnx", "numpy"} <= set(row.versions)
        assert row.execution["providers"] == ["CPUExecutionProvider"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row.date)
        assert len(row.key) == 64
    assert len({row.key for row in found}) == N_MODELS
    assert f"{N_MODELS} models: 0 measured before, {N_MODELS} to do" in made.progress


def test_rows_hold_what_a_check_of_all_images_measures(made: Made) -> None:
    row = next(r for r in rows(made.table) if r.id == "made_with_1")
    never = profile.seal(profile.load().model_copy(update={"id": "all", "min_images": 10**6}))
    path = made.folder / "never.json"
    path.write_text(profile.to_json(never))
    done = run(made.folder / "made_with_1.onnx", "--images", made.photos, "-o", "json", "--thresholds", path, code=1)
    statistics = json.loads(done.stdout)["evidence"]["statistics"]
    for name, value in row.statistics.items():
        for field in ("estimate", "low", "high"):
            assert getattr(value, field) == pytest.approx(statistics[name][field], rel=1e-5)


def test_the_profile_parts_the_suite_and_says_what_it_rests_on(made: Made) -> None:
    fitted = profile.load(made.profile)
    c = fitted.calibration
    assert (fitted.id, fitted.tensor, c.suite, c.n_with_checkpoints, c.n_without_checkpoints) == (
        "mini",
        "representation",
        "mini",
        4,
        8,
    )
    assert (c.left_out_false_pass, c.missed, c.missing) == ((), (), ())
    assert "4 checkpoints with and 8 without it: too few" in c.few
    assert "120 images" in c.images
    assert c.date == rows(made.table)[0].date
    assert any("made by hand" in text for text in fitted.limits)
    assert fitted.tensor_rules == ("encoder_output",)
    assert fitted.ends == ("other:Gather",)
    for name, code in (("made_with_2", 0), ("made_without_2", 1), ("made_rectified_2", 1)):
        model = made.folder / f"{name}.onnx"
        run(model, "--images", made.photos, "--thresholds", made.profile, "-q", code=code)


def test_a_rerun_measures_nothing_and_writes_the_same_bytes(made: Made) -> None:
    before = made.profile.read_bytes(), made.table.read_bytes()
    done = calibrate(made.suite, made.photos, made.profile)
    assert f"{N_MODELS} models: {N_MODELS} measured before, 0 to do" in done.stderr
    assert (made.profile.read_bytes(), made.table.read_bytes()) == before


def test_a_refit_from_the_table_is_the_same_profile(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "again.json"
    refit = ("calibrate", "--from-evidence", made.table, "--id", "mini", "--out", out)
    run(*refit, "--suite", made.suite)
    assert out.read_bytes() == made.profile.read_bytes()
    run(*refit)  # without the suite: the same thresholds, and it says that nobody looked for missing models
    alone = profile.load(out)
    assert alone.thresholds == profile.load(made.profile).thresholds
    assert any("whether models are missing was not looked at" in text for text in alone.limits)


def wait_for_rows(process: subprocess.Popen[bytes], table: Path, n: int) -> None:
    until = time.monotonic() + 60
    while not (table.exists() and table.read_text().count("\n") >= n):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_killed_in_the_middle_it_goes_on_where_it_was(made: Made, tmp_path: Path) -> None:
    out, table = tmp_path / "mini.json", tmp_path / "mini.results.jsonl"
    words = (
        "calibrate",
        "--suite",
        made.suite,
        "--images",
        made.photos,
        "--out",
        out,
        "--id",
        "mini",
        "--device",
        "cpu",
    )
    with subprocess.Popen(
        [COMMAND, *map(str, words)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        wait_for_rows(process, table, 3)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    kept = len(rows(table))
    assert 3 <= kept < N_MODELS
    with table.open("a", encoding="utf-8") as file:
        file.write('{"schema_version": 1, "id": "made_wi')  # what a kill in the middle of a write leaves
    done = calibrate(made.suite, made.photos, out)
    assert f"{kept} measured before, {N_MODELS - kept} to do" in done.stderr
    assert done.stderr.count("measured made_") == N_MODELS - kept
    assert out.read_bytes() == made.profile.read_bytes()


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Made:
    """The calibrated suite in a folder of its own, to be broken."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    return Made(folder, folder / "suite.toml", folder / "photos", folder / "mini.results.jsonl", folder / "p.json", "")


def test_a_poisoned_model_fails_alone_and_its_absence_shows(copied: Made) -> None:
    model = copied.folder / "made_without_3.onnx"
    whole = model.read_bytes()
    model.write_bytes(b"no model at all")
    fresh = copied.folder / "fresh.results.jsonl"
    keep = [line for line in copied.table.read_text().splitlines(keepends=True) if '"made_with_0"' not in line]
    fresh.write_text("".join(keep))
    done = calibrate(copied.suite, copied.photos, copied.profile, "--results", fresh, code=3)
    assert "measured made_with_0: 120 images" in done.stderr
    assert "profile is not written, as 1 models could not be measured: made_without_3:" in done.stderr
    assert "with --allow-missing" in done.stderr
    assert not copied.profile.exists()
    done = calibrate(copied.suite, copied.photos, copied.profile, "--results", fresh, "--allow-missing")
    assert "! not complete: 1 models of its suite were not measured" in done.stdout
    incomplete = profile.load(copied.profile)
    assert [name for name, _ in incomplete.calibration.missing] == ["made_without_3"]
    report = run(
        copied.folder / "made_with_2.onnx", "--images", copied.photos, "--thresholds", copied.profile, "-o", "json"
    )
    assert any("not complete: 1 models" in note for note in json.loads(report.stdout)["notes"])
    model.write_bytes(whole)
    done = calibrate(copied.suite, copied.photos, copied.profile, "--results", fresh)
    assert "11 measured before, 1 to do" in done.stderr or "12 measured before, 0 to do" in done.stderr


def test_other_images_do_not_cost_the_rows_that_are_there(copied: Made) -> None:
    next(copied.photos.glob("*.png")).unlink()
    done = run(
        *("calibrate", "--suite", copied.suite, "--images", copied.photos, "--out", copied.profile),
        *("--results", copied.table, "--max-images", "60", "--device", "cpu", "--workers", "2"),
    )
    assert f"0 measured before, {N_MODELS} to do" in done.stderr
    assert {row.n_images for row in rows(copied.table)} == {60}
    beside = calibration_table.superseded(copied.table)
    assert {row.n_images for row in rows(beside)} == {120}


def test_the_plan_does_nothing_and_says_how_much_there_is(made: Made, tmp_path: Path) -> None:
    words = ("calibrate", "--suite", made.suite, "--images", made.photos, "--plan", "--device", "cpu")
    before = sorted(path.name for path in made.folder.iterdir())
    plan = json.loads(run(*words, "-o", "json").stdout)
    assert {row["state"] for row in plan["rows"]} == {"ready file"}
    assert (plan["n_images"], sum(row["passes"] for row in plan["rows"])) == (120, 120 * N_MODELS)
    assert plan["rows"][0]["estimate_s"] is None
    assert "no model was measured on this device yet" in plan["how_estimated"]
    plan = json.loads(run(*words, "-o", "json", "--results", made.table).stdout)
    assert {(row["state"], row["passes"]) for row in plan["rows"]} == {("measured", 0)}
    some = tmp_path / "some.jsonl"
    some.write_text("".join(made.table.read_text().splitlines(keepends=True)[:4]))
    plan = json.loads(run(*words, "-o", "json", "--results", some).stdout)
    assert sum(row["state"] == "measured" for row in plan["rows"]) == 4
    assert all(row["estimate_s"] > 0 for row in plan["rows"] if row["passes"])
    assert "from 4 models measured on this device" in plan["how_estimated"]
    assert sorted(path.name for path in made.folder.iterdir()) == before
    text = run(*words).stdout
    assert f"{N_MODELS} ready file; 4 present, 8 absent" in text
    assert "1 440 forward passes" in text


def test_the_papers_plan_has_every_model_and_its_size(tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="extra `export` is not installed")
    pytest.importorskip("timm", reason="extra `export` is not installed")
    words = ("calibrate", "--suite", "paper", "--plan", "--cache", tmp_path / "cache")
    plan = json.loads(run(*words, "-o", "json").stdout)
    assert len(plan["rows"]) == 81
    assert {(row["state"], row["fault"]) for row in plan["rows"]} == {("to export", "")}
    sizes = {row["id"]: (row["download_bytes"], row["disk_bytes"]) for row in plan["rows"]}
    # as in open_clip's docs/model_profile.csv (151.28 M, image 87.85 M) and in torchvision's documentation (25,557,032)
    download, disk = sizes["open_clip:ViT-B-32/openai"]
    assert (round(download / 4e6, 2), round(disk / 4e6, 2)) == (151.28, 87.85)
    assert sizes["torchvision:resnet50/IMAGENET1K_V1"] == (4 * 25_557_032, 4 * 25_557_032)
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Ray needs /dev/shm")
def test_ray_gives_the_same_profile(made: Made, tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:  # not imported here: Ray settles its keys for a process when it is
        pytest.skip("extra `ray` is not installed")
    out = tmp_path / "mini.json"
    calibrate(made.suite, made.photos, out, "--engine", "ray", "--workers", "2")
    assert out.read_bytes() == made.profile.read_bytes()


# ----------------------------------------------------------------------------------------- real and exported models


@pytest.mark.skipif(not EMBEDDINGS.is_dir(), reason="the published embedding vectors are not part of the project")
def test_real_embeddings_give_thresholds_as_the_reference_table_does(tmp_path: Path, mini_suite: ModuleType) -> None:
    """Another sample of the same vectors, confidence bounds instead of subsets: the same sets fall on the same side."""
    suite = mini_suite.write_suite(tmp_path, EMBEDDINGS, exported=False)
    out = tmp_path / "real.json"
    calibrate(suite, tmp_path / "photos", out, "--workers", "2")
    fitted, default = profile.load(out), profile.load()
    assert set(fitted.calibration.with_indication) == set(default.calibration.with_indication)
    assert fitted.calibration.missed == ()
    assert fitted.calibration.left_out_false_pass == ()
    for name, threshold in fitted.thresholds.items():
        assert threshold.minimum == pytest.approx(default.thresholds[name].minimum, rel=0.1)


def _hub_repo(cache: Path, repo: str) -> Path:
    """Lay a repository out as the hub client does: refs/main names the snapshot folder."""
    root = cache / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    return snapshot


@pytest.mark.export
def test_the_whole_path_offline_with_stand_in_weights(
    tmp_path: Path, mini_suite: ModuleType, efficientnet_lite0: Path, planted_outlier: Path
) -> None:
    """Entries of the packaged suite by their own names, from a cache laid out as the hub client does; what is not in
    it fails alone with what to place where; real weights and look-up models beside them."""
    open_clip = pytest.importorskip("open_clip", reason="extra `export` is not installed")
    timm = pytest.importorskip("timm", reason="extra `export` is not installed")
    from safetensors.torch import save_file

    cache, name = tmp_path / "hub", "test_resnet.r160_in1k"  # the smallest that timm publishes
    model = open_clip.create_model("RN50", load_weights=False)
    save_file(model.state_dict(), _hub_repo(cache, "timm/resnet50_clip.openai") / "open_clip_model.safetensors")
    state = timm.create_model(name, pretrained=False).state_dict()
    save_file(state, _hub_repo(cache, f"timm/{name}") / "model.safetensors")
    folder = tmp_path / "suite"
    suite: Path = mini_suite.write_suite(folder, exported=False)
    own = suite.read_text(encoding="utf-8").split("\n[[models]]\n")
    paper = (ROOT / "thresholds" / "data" / "paper_suite.toml").read_text(encoding="utf-8").split("\n[[models]]\n")
    blocks = [b for b in own if "source" not in b]
    keys = ('name = "RN50"\nweights = "openai"', 'name = "mobilenetv3_large_100.ra_in1k"')
    blocks.append(f'source = "timm"\nname = "{name}"\ngroup = "supervised"\nlabel = "absent"\n')
    real = [f'model = "{path}"\ngroup = "supervised"\nlabel = "{label}"\n' for path, label in (
        (efficientnet_lite0, "absent"), (planted_outlier, "present"))]  # fmt: skip
    blocks += [*(next(b for b in paper if key in b) for key in keys), *real]
    suite.write_text("\n[[models]]\n".join(blocks), encoding="utf-8")

    done = run(
        *("calibrate", "--suite", suite, "--images", folder / "photos", "--out", tmp_path / "p.json", "--workers", "2"),
        *("--cache", tmp_path / "exports", "--device", "cpu", "--max-images", "60"),
        code=4,
        env={"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"},
    )
    assert (
        "as 1 models could not be measured: timm:mobilenetv3_large_100.ra_in1k: mobilenetv3_large_100.ra_in1k: weights"
        in done.stderr
    )
    assert "copy models--timm--mobilenetv3_large_100.ra_in1k into $HF_HOME/hub" in done.stderr
    assert not (tmp_path / "p.json").exists()
    table = tmp_path / "p.results.jsonl"
    found = {(row.id, row.tensor): row for row in rows(table)}
    assert found["open_clip:RN50/openai", "representation"].rule == "encoder_output"
    assert found["open_clip:RN50/openai", "pooled"].rule == "pooled"
    assert found[f"timm:{name}", "representation"].rule == "head_input"
    assert found["planted_outlier", "representation"].persistent == (92,)
    lite0 = found["efficientnet_lite0", "representation"]
    assert (lite0.n_features, lite0.synthetic, lite0.label) == (1280, "", "absent")

    refit = ("calibrate", "--suite", suite, "--from-evidence", table, "--out", tmp_path / "p.json")
    assert (
        "as 1 models could not be measured: timm:mobilenetv3_large_100.ra_in1k: no row of" in run(*refit, code=3).stderr
    )
    run(*refit, "--allow-missing")
    fitted = profile.load(tmp_path / "p.json")
    assert [one.tensor for one in fitted.calibration.tensors] == ["representation", "pooled"]
    assert "open_clip:RN50/openai" in {*fitted.calibration.missed, *dict(fitted.calibration.excluded)}
    assert "planted_outlier" not in fitted.calibration.missed
    assert [name for name, _ in fitted.calibration.missing] == ["timm:mobilenetv3_large_100.ra_in1k"]


MINE = """
import os, signal, time
def crash(): os.kill(os.getpid(), signal.SIGKILL)
def slow():
    open("running", "w").write(str(os.getpid()))
    time.sleep(300)
"""


@pytest.mark.export
def test_an_export_that_crashes_fails_alone_and_one_in_progress_ends_with_the_run(tmp_path: Path) -> None:
    """The user's own code is found beside the suite; it runs in a process of its own."""
    pytest.importorskip("torch", reason="extra `export` is not installed")
    (tmp_path / "mine_for_calibrate.py").write_text(MINE)
    (tmp_path / "suite.toml").write_text(
        'schema_version = 1\nname = "x"\n'
        + "".join(
            f'[[models]]\nsource = "torch"\nname = "mine_for_calibrate:{name}"\ngroup = "other"\nlabel = "{label}"\n'
            for name, label in (("crash", "present"), ("slow", "absent"))
        )
    )
    words = (COMMAND, "calibrate", "--suite", "suite.toml", "--out", "p.json", "--cache", "exports")
    running = tmp_path / "running"
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (running.exists() and running.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
    assert process.returncode == 143
    assert (
        "failed torch:mine_for_calibrate:crash: torch:mine_for_calibrate:crash: export was ended by signal 9" in stderr
    )
    assert "error: terminated (SIGTERM)" in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(running.read_text()), 0)
    assert not {path.name for path in tmp_path.glob("p.*")}
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_cached_export_is_known_by_everything_that_influences_it(tmp_path: Path) -> None:
    settings = calibration_tasks.Settings(images=None, cache=tmp_path / "cache")
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "p.json").write_text("{}")
    (tmp_path / "w.pt").write_bytes(b"PK")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_model.safetensors").write_bytes(b"1")
    text = (
        'schema_version = 1\nname = "x"\n[[models]]\nsource = "torch"\nname = "mine:make"\nweights = "w.pt"\n'
        'preprocessing = "p.json"\ngroup = "other"\nlabel = "present"\n'
        '[[models]]\nsource = "open_clip"\nname = "local-dir:clip"\ngroup = "other"\nlabel = "absent"\n'
    )
    (tmp_path / "s.toml").write_text(text)

    def keys() -> list[str]:
        work = calibration_tasks.tasks(suite.open_suite(tmp_path / "s.toml"), settings, "sha256:images")
        assert [task.fault for task in work] == [None, None]
        return [str(task.model) for task in work]

    seen = [keys()]
    for file, which in (("mine.py", 0), ("p.json", 0), ("w.pt", 0), ("clip/open_clip_model.safetensors", 1)):
        (tmp_path / file).write_bytes(b"PK another")
        now = keys()
        assert (now[0] == seen[-1][0], now[1] == seen[-1][1]) == (which == 1, which == 0)
        seen.append(now)
    (tmp_path / "w.pt").unlink()
    task = calibration_tasks.tasks(suite.open_suite(tmp_path / "s.toml"), settings, "sha256:images")[0]
    assert task.fault is not None
    assert (task.fault.exit_code, task.fault.hint) == (4, f"place it at {tmp_path / 'w.pt'}")


def test_ray_that_is_not_there_is_said_before_anything_is_exported(made: Made, tmp_path: Path) -> None:
    words = ("--engine", "ray", "--ray-address", "127.0.0.1:1", "--device", "cuda:1")
    done = calibrate(made.suite, made.photos, tmp_path / "p.json", *words, code=2)
    assert "--device is cuda:1; Ray gives out the GPUs" in done.stderr
    assert "measured" not in done.stderr
    assert not (tmp_path / "p.json").exists()


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--suite, --from-evidence and --from-reference say what to fit to; one of them is needed"),
        ("--suite a --from-reference", "one of them is needed"),
        ("--from-reference --plan", "--plan is for a suite"),
        ("--suite paper", "--out is missing; a calibration writes a profile"),
        ("--suite papr --out p.json", "papr: suite cannot be read"),
        ("--suite paper --out default.json --id default-1", "--id is 'default-1'; default-1, default are the packaged"),
        ("--suite paper --out nowhere/p.json", "nowhere is missing; reports are written into existing folders"),
        ("--suite paper --out p.json --results ./p.json", "p.json: --results and --out are one file; they must be two"),
        ("--suite paper --out p.json --tensor pool", "--tensor is 'pool'; it must be one of auto, representation"),
        ("--suite paper --out p.json --engine rai", "--engine is 'rai'; it must be one of local, ray"),
        ("--suite paper --out p.json --images nowhere", "nowhere: image set is not readable"),
        ("--from-evidence nowhere.jsonl --out p.json", "nowhere.jsonl: results table cannot be read"),
    ],
)
def test_wrong_calls(words: str, message: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out, err = call("calibrate", *words.split(), code=2)
    assert err.startswith("error: ")
    assert message in err
    assert "hint: " in err
    assert (out, list(tmp_path.iterdir())) == ("", [])


def test_a_name_that_the_library_does_not_have_ends_it_before_anything_runs(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="extra `export` is not installed")
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'schema_version = 1\nname = "x"\n'
        '[[models]]\nsource = "timm"\nname = "resnet50.a1_in2k"\ngroup = "other"\nlabel = "present"\n'
        '[[models]]\nmodel = "a.onnx"\ngroup = "other"\nlabel = "absent"\n'
    )
    done = run("calibrate", "--suite", suite, "--out", tmp_path / "p.json", "--cache", tmp_path / "c", code=2)
    assert "suite entry timm:resnet50.a1_in2k: resnet50.a1_in2k: tag is a1_in2k; one of a1_in1k" in done.stderr
    assert "hint: robustcheck export timm resnet50.a1_in1k" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["suite.toml"]


@pytest.mark.parametrize("label", ["present", "absent"])
def test_a_suite_with_one_side_only(label: str, tmp_path: Path, call: Call) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(
        f'schema_version = 1\nname = "x"\n[[models]]\nmodel = "a.onnx"\ngroup = "other"\nlabel = "{label}"'
    )
    _, err = call("calibrate", "--suite", suite, "--out", tmp_path / "p.json", code=2)
    other = "absent" if label == "present" else "present"
    assert f"suite x: number of models labelled {other} is 0; a fit needs both sides" in err


def refused(call: Call, folder: Path, tables: Sequence[Path], code: int) -> str:
    words = [word for table in tables for word in ("--from-evidence", table)]
    _, err = call("calibrate", *words, "--out", folder / "p.json", code=code)
    assert not (folder / "p.json").exists()
    return err


def written(path: Path, some: Sequence[Result]) -> Path:
    path.write_text("".join(results.to_line(row) for row in some), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistic_version": 1}, "statistic version of other is 1, of made_rectified_0 2; only rows of one kind"),
        ({"images_digest": "sha256:0"}, "image set of other is sha256:0, of made_rectified_0 sha256:"),
        ({"alpha": 0.1}, "error rate of the bounds of other is 0.1, of made_rectified_0 0.05"),
    ],
)
def test_rows_that_are_not_comparable(
    made: Made, tmp_path: Path, change: dict[str, Any], message: str, call: Call
) -> None:
    some = rows(made.table)
    odd = some[0].model_copy(update=change | {"id": "other"})
    text = refused(call, tmp_path, [made.table, written(tmp_path / "odd.jsonl", [odd])], 2)
    assert message in text


@pytest.mark.parametrize(
    ("statistic", "change", "message"),
    [
        ("top3_share", {"estimate": 7.0, "high": 8.0}, "statistics.top3_share is 8; a share is at most 1"),
        ("kurtosis", {"low": 9.0, "estimate": 5.0}, "must rise from 0 or more"),
        ("kurtosis", {"low": -1.0}, "must rise from 0 or more"),
    ],
)
def test_numbers_that_cannot_be_are_no_row(
    made: Made, tmp_path: Path, call: Call, statistic: str, change: dict[str, float], message: str
) -> None:
    row = json.loads(results.to_line(rows(made.table)[0]))
    row["statistics"][statistic] |= change
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    text = refused(call, tmp_path, [tmp_path / "t.jsonl"], 2)
    assert "line 1: " in text
    assert message in text


def test_one_model_measured_twice(made: Made, tmp_path: Path, call: Call) -> None:
    some = rows(made.table)
    same = written(tmp_path / "same.jsonl", some[:2])
    call("calibrate", "--from-evidence", made.table, "--from-evidence", same, "--out", tmp_path / "ok.json")
    other = written(tmp_path / "other.jsonl", [some[0].model_copy(update={"n_features": 7})])
    assert f"{some[0].id}, representation: row differs from the one in" in refused(
        call, tmp_path, [made.table, other], 2
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "number of rows is 0; a fit needs measured models"),
        ("x\n", "line 1: row is not JSON"),
        ('{"schema_version": 2}\n', "line 1: schema_version is 2; this robustcheck reads 1"),
        ("[]\n", "line 1: schema_version is None"),
        ('{"schema_version": 1}\n', "line 1: id: Field required"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, message: str, call: Call) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text(text)
    assert message in refused(call, tmp_path, [table], 2)


def test_rows_that_nothing_can_be_fitted_to(made: Made, tmp_path: Path, call: Call) -> None:
    one_sided = [row for row in rows(made.table) if row.label == "present"]
    text = refused(call, tmp_path, [written(tmp_path / "a.jsonl", one_sided)], 3)
    assert "no thresholds can be fitted; representation: the table needs sets with and without" in text
    few = [row.model_copy(update={"n_varied": 12}) for row in rows(made.table)]
    assert "left out: 12 varied images" in refused(call, tmp_path, [written(tmp_path / "b.jsonl", few)], 3)


def test_what_takes_no_part_in_a_fit(made: Made) -> None:
    row = rows(made.table)[0].model_copy(update={"label": "present"})
    assert results.ALIKE_SPREAD == ALIKE_SPREAD
    assert results.excluded(row) == ""
    unknown = row.statistics | {"kurtosis": results.Measured(estimate=None, low=None, high=None)}
    for change, why in (
        ({"n_nonfinite": 1}, "1 representations not finite or constant"),
        ({"statistics": unknown}, "not measurable: kurtosis"),
        ({"image_findings": ("images_not_photo_like",)}, "images: images_not_photo_like"),
        ({"n_varied": 49}, "49 varied images"),
        ({"preprocessing_source": "assumed"}, "preprocessing was assumed"),
        ({"context": {"spread": 0.1}}, "representations of all images alike, which never passes"),
        ({"label": "unlabelled"}, "unlabelled"),
    ):
        assert results.excluded(row.model_copy(update=change)) == why
    assert results.excluded(row.model_copy(update={"label": "absent", "context": {"spread": 0.1}})) == ""


def test_the_pooled_tensor_is_compared_where_models_have_it(made: Made) -> None:
    """Sharper pooled rows win; a classifier, which has no other tensor, stands by its representation."""
    some = rows(made.table)
    pooled = []
    for row in (r for r in some if r.label == "present"):
        sharper = {
            name: value.model_copy(
                update={"estimate": value.estimate * 2, "low": value.low * 2, "high": value.high * 2}
            )
            if name in ("kurtosis", "persistence_ratio")
            else value
            for name, value in row.statistics.items()
            if value.estimate is not None and value.low is not None and value.high is not None
        }
        change = {"tensor": "pooled", "rule": "pooled", "ends_in": "normalisation", "statistics": sharper}
        pooled.append(row.model_copy(update=change))
    assert len(rows_of([*some, *pooled], "pooled")) == N_MODELS
    fitted = fitted_profile([*some, *pooled], id="both")
    assert (fitted.tensor, fitted.tensor_rules, fitted.ends) == ("pooled", ("pooled",), ("normalisation",))
    gaps = {one.tensor: one.gap for one in fitted.calibration.tensors}
    assert gaps["pooled"] == pytest.approx(2 * (gaps["representation"] or 0), rel=1e-3)
    assert fitted_profile([*some, *pooled], id="both", tensor="representation").tensor == "representation"


def test_a_table_can_be_read_whatever_engine_and_day_wrote_it(made: Made) -> None:
    some = rows(made.table)
    later = [row.model_copy(update={"date": "2030-01-01", "wall_s": 99.0, "execution": {}}) for row in some]
    assert results.digest_of(later) == results.digest_of(reversed(some))
    assert results.digest_of(some[1:]) != results.digest_of(some)
    assert fitted_profile(later, id="x").thresholds == fitted_profile(some, id="x").thresholds
    assert fitted_profile(later, id="x").calibration.date == "2030-01-01"
