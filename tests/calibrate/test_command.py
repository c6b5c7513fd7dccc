"""`robustcheck calibrate` through the real command: measured once, kept through kills, the same on every engine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from robustcheck_onnx.checker.calibrate.table import superseded
from robustcheck_onnx.thresholds import profile
from robustcheck_onnx.thresholds.ends import End
from support.calibrations import COMMAND, N_MODELS, Calibrated, calibrate, rows, run
from support.measuring import never_decided


def test_every_model_has_a_row_with_what_influences_it(calibrated: Calibrated) -> None:
    found = rows(calibrated.table)
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
    assert f"{N_MODELS} models: 0 measured before, {N_MODELS} to do" in calibrated.progress


def test_rows_hold_what_a_check_of_all_images_measures(calibrated: Calibrated) -> None:
    row = next(r for r in rows(calibrated.table) if r.id == "made_with_1")
    path = calibrated.folder / "never.json"
    path.write_text(profile.to_json(never_decided()))
    done = run(
        calibrated.folder / "made_with_1.onnx",
        "--images",
        calibrated.photos,
        "-o",
        "json",
        "--thresholds",
        path,
        code=1,
    )
    statistics = json.loads(done.stdout)["evidence"]["statistics"]
    for name, value in row.statistics.items():
        for field in ("estimate", "low", "high"):
            assert getattr(value, field) == pytest.approx(statistics[name][field], rel=1e-5)


def test_the_profile_parts_the_suite_and_says_what_it_rests_on(calibrated: Calibrated) -> None:
    fitted = profile.load(calibrated.profile)
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
    assert c.date == rows(calibrated.table)[0].date
    assert any("made by hand" in text for text in fitted.limits)
    assert fitted.tensor_rules == ("encoder_output",)
    assert fitted.ends == (End("other", "Gather"),)
    for name, code in (("made_with_2", 0), ("made_without_2", 1), ("made_rectified_2", 1)):
        model = calibrated.folder / f"{name}.onnx"
        run(model, "--images", calibrated.photos, "--thresholds", calibrated.profile, "-qq", code=code)


def test_a_rerun_measures_nothing_and_writes_the_same_bytes(calibrated: Calibrated) -> None:
    before = calibrated.profile.read_bytes(), calibrated.table.read_bytes()
    done = calibrate(calibrated.suite, calibrated.photos, calibrated.profile)
    assert f"{N_MODELS} models: {N_MODELS} measured before, 0 to do" in done.stderr
    assert (calibrated.profile.read_bytes(), calibrated.table.read_bytes()) == before


def test_a_refit_from_the_table_is_the_same_profile(calibrated: Calibrated, tmp_path: Path) -> None:
    out = tmp_path / "again.json"
    refit = ("calibrate", "--from-evidence", calibrated.table, "--id", "mini", "--out", out)
    run(*refit, "--suite", calibrated.suite)
    assert out.read_bytes() == calibrated.profile.read_bytes()
    run(*refit)  # without the suite: the same thresholds, and it says that nobody looked for missing models
    alone = profile.load(out)
    assert alone.thresholds == profile.load(calibrated.profile).thresholds
    assert any("whether models are missing was not looked at" in text for text in alone.limits)


def wait_for_rows(process: subprocess.Popen[bytes], table: Path, n: int) -> None:
    until = time.monotonic() + 60
    while not (table.exists() and table.read_text().count("\n") >= n):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_killed_in_the_middle_it_goes_on_where_it_was(calibrated: Calibrated, tmp_path: Path) -> None:
    out, table = tmp_path / "mini.json", tmp_path / "mini.results.jsonl"
    words = (
        "calibrate",
        "--suite",
        calibrated.suite,
        "--images",
        calibrated.photos,
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
    done = calibrate(calibrated.suite, calibrated.photos, out)
    assert f"{kept} measured before, {N_MODELS - kept} to do" in done.stderr
    assert done.stderr.count("measured made_") == N_MODELS - kept
    assert out.read_bytes() == calibrated.profile.read_bytes()


@pytest.fixture
def calibrated_copy(calibrated: Calibrated, tmp_path: Path) -> Calibrated:
    """The calibrated suite in a folder of its own, to be broken."""
    folder = tmp_path / "copy"
    shutil.copytree(calibrated.folder, folder)
    return Calibrated(
        folder, folder / "suite.toml", folder / "photos", folder / "mini.results.jsonl", folder / "p.json", ""
    )


def test_a_poisoned_model_fails_alone_and_its_absence_shows(calibrated_copy: Calibrated) -> None:
    model = calibrated_copy.folder / "made_without_3.onnx"
    whole = model.read_bytes()
    model.write_bytes(b"no model at all")
    fresh = calibrated_copy.folder / "fresh.results.jsonl"
    keep = [line for line in calibrated_copy.table.read_text().splitlines(keepends=True) if '"made_with_0"' not in line]
    fresh.write_text("".join(keep))
    done = calibrate(calibrated_copy.suite, calibrated_copy.photos, calibrated_copy.profile, "--results", fresh, code=3)
    assert "measured made_with_0: 120 images" in done.stderr
    assert "profile is not written, as 1 models could not be measured: made_without_3:" in done.stderr
    assert "with --allow-missing" in done.stderr
    assert not calibrated_copy.profile.exists()
    done = calibrate(
        calibrated_copy.suite, calibrated_copy.photos, calibrated_copy.profile, "--results", fresh, "--allow-missing"
    )
    assert "! not complete: 1 models of its suite were not measured" in done.stdout
    incomplete = profile.load(calibrated_copy.profile)
    assert [name for name, _ in incomplete.calibration.missing] == ["made_without_3"]
    report = run(
        calibrated_copy.folder / "made_with_2.onnx",
        "--images",
        calibrated_copy.photos,
        "--thresholds",
        calibrated_copy.profile,
        "-o",
        "json",
    )
    assert any("not complete: 1 models" in note for note in json.loads(report.stdout)["notes"])
    model.write_bytes(whole)
    done = calibrate(calibrated_copy.suite, calibrated_copy.photos, calibrated_copy.profile, "--results", fresh)
    assert "11 measured before, 1 to do" in done.stderr or "12 measured before, 0 to do" in done.stderr


def test_other_images_do_not_cost_the_rows_that_are_there(calibrated_copy: Calibrated) -> None:
    next(calibrated_copy.photos.glob("*.png")).unlink()
    done = run(
        *(
            "calibrate",
            "--suite",
            calibrated_copy.suite,
            "--images",
            calibrated_copy.photos,
            "--out",
            calibrated_copy.profile,
        ),
        *("--results", calibrated_copy.table, "--max-images", "60", "--device", "cpu", "--workers", "2"),
    )
    assert f"0 measured before, {N_MODELS} to do" in done.stderr
    assert {row.n_images for row in rows(calibrated_copy.table)} == {60}
    beside = superseded(calibrated_copy.table)
    assert {row.n_images for row in rows(beside)} == {120}


def test_the_plan_does_nothing_and_says_how_much_there_is(calibrated: Calibrated, tmp_path: Path) -> None:
    words = ("calibrate", "--suite", calibrated.suite, "--images", calibrated.photos, "--plan", "--device", "cpu")
    before = sorted(path.name for path in calibrated.folder.iterdir())
    plan = json.loads(run(*words, "-o", "json").stdout)
    assert {row["state"] for row in plan["rows"]} == {"ready file"}
    assert (plan["n_images"], sum(row["passes"] for row in plan["rows"])) == (120, 120 * N_MODELS)
    assert plan["rows"][0]["estimate_s"] is None
    assert "no model was measured on this device yet" in plan["how_estimated"]
    plan = json.loads(run(*words, "-o", "json", "--results", calibrated.table).stdout)
    assert {(row["state"], row["passes"]) for row in plan["rows"]} == {("measured", 0)}
    some = tmp_path / "some.jsonl"
    some.write_text("".join(calibrated.table.read_text().splitlines(keepends=True)[:4]))
    plan = json.loads(run(*words, "-o", "json", "--results", some).stdout)
    assert sum(row["state"] == "measured" for row in plan["rows"]) == 4
    assert all(row["estimate_s"] > 0 for row in plan["rows"] if row["passes"])
    assert "from 4 models measured on this device" in plan["how_estimated"]
    assert sorted(path.name for path in calibrated.folder.iterdir()) == before
    text = run(*words).stdout
    assert "?" not in text
    assert f"{N_MODELS} ready file; 4 present, 8 absent" in text
    assert "1 440 forward passes" in text


def test_without_the_libraries_a_plan_is_one_error_with_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open_clip", "timm", "torchvision", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('not installed', name={name!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run("calibrate", "--suite", "paper", "--plan", "--cache", tmp_path / "cache", code=4)
    assert done.stdout == ""
    message, hint = done.stderr.splitlines()
    assert re.fullmatch(
        r"error: 81 of 81 models can't be planned: how large they are is known only with open_clip, timm, "
        r"torch(vision)? installed",
        message,
    )
    assert hint == "hint: pip install '.[export]'  # in a clone"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Ray needs /dev/shm")
def test_ray_gives_the_same_profile(calibrated: Calibrated, tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:  # not imported here: Ray settles its keys for a process when it is
        pytest.skip("extra `ray` is not installed")
    out = tmp_path / "mini.json"
    calibrate(calibrated.suite, calibrated.photos, out, "--engine", "ray", "--workers", "2")
    assert out.read_bytes() == calibrated.profile.read_bytes()


def test_what_ray_refuses_is_said_before_anything_is_exported(calibrated: Calibrated, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    entry = '[[models]]\nsource = "torch"\nname = "mine:{0}"\ngroup = "other"\nlabel = "{0}"\n'
    suite = tmp_path / "suite.toml"
    suite.write_text('schema_version = 1\nname = "x"\n' + entry.format("present") + entry.format("absent"))
    nobody = "--ray-address is 127.0.0.1:1; cluster can't be used: "
    if importlib.util.find_spec("ray") is None:
        nobody = "ray: package is not importable"
    words = ("--engine", "ray", "--ray-address", "127.0.0.1:1")  # nothing listens there
    for device, code, said in (("cpu", 4, nobody), ("cuda:1", 2, "--device is cuda:1; Ray gives out the GPUs")):
        done = calibrate(suite, calibrated.photos, tmp_path / "p.json", *words, "--device", device, code=code)
        assert f"error: {said}" in done.stderr
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"mine.py", "suite.toml"}  # no cache, no profile, and the module was not run
