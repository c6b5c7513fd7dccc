"""`robustcheck calibrate`: measured once, kept through kills, the same on every engine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.thresholds import profile
from robustcheck_onnx.thresholds.ends import End
from support.calibrations import COMMAND, N_IMAGES, N_MODELS, Calibrated, Call, calibrate, rows, run, words
from support.measuring import never_decided


def test_rows_hold_what_a_check_of_all_images_measures(calibrated: Calibrated) -> None:
    found = rows(calibrated.table)
    assert len({row.key for row in found}) == len(found) == N_MODELS
    for row in found:
        assert (row.n_images, row.n_features, row.preprocessing_source) == (N_IMAGES, 512, "contract")
        assert {"robustcheck-onnx", "numpy"} <= set(row.versions)
        assert row.execution["providers"] == ["CPUExecutionProvider"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row.date)
    row = next(r for r in found if r.id == "made_with_1")
    model = calibrated.folder / "made_with_1.onnx"
    evidence = check(model, images=calibrated.photos, thresholds=never_decided()).evidence
    assert (row.model_digest, row.images_digest) == (evidence.model.digest, evidence.images.digest)
    assert row.statistic_version == evidence.statistics.statistic_version
    for name, value in row.statistics.items():
        measured = getattr(evidence.statistics, name)
        assert [value.estimate, value.low, value.high] == pytest.approx(
            [measured.estimate, measured.low, measured.high], rel=1e-5
        )


def test_the_profile_parts_the_suite_and_says_what_it_rests_on(calibrated: Calibrated, call: Call) -> None:
    fitted = profile.load(calibrated.profile)
    c = fitted.calibration
    assert (fitted.id, fitted.tensor, c.suite, c.n_with_checkpoints, c.n_without_checkpoints) == (
        *("mini", "representation", "mini"),
        *(2, 4),
    )
    assert (c.left_out_false_pass, c.missed, c.missing) == ((), (), ())
    assert "2 checkpoints with and 4 without it: too few" in c.few
    assert f"{N_IMAGES} images" in c.images
    assert c.date == rows(calibrated.table)[0].date
    assert any("made by hand" in text for text in fitted.limits)
    assert fitted.tensor_rules == ("encoder_output",)
    assert fitted.ends == (End("other", "Gather"),)
    for name, code in (("made_with_1", 0), ("made_without_1", 1), ("made_rectified_1", 1)):
        model = calibrated.folder / f"{name}.onnx"
        call(model, "--images", calibrated.photos, "--thresholds", calibrated.profile, "-qq", code=code)


def test_a_rerun_measures_nothing_and_it_and_a_refit_write_the_same_bytes(
    calibrated: Calibrated, tmp_path: Path, call: Call
) -> None:
    before = calibrated.profile.read_bytes(), calibrated.table.read_bytes()
    _, err = call(*words(calibrated.suite, calibrated.photos, calibrated.profile))
    assert f"{N_MODELS} models: {N_MODELS} measured before, 0 to do" in err
    assert (calibrated.profile.read_bytes(), calibrated.table.read_bytes()) == before
    out = tmp_path / "again.json"
    refit = ("calibrate", "--from-evidence", calibrated.table, "--id", "mini", "--out", out)
    call(*refit, "--suite", calibrated.suite)
    assert out.read_bytes() == before[0]
    call(*refit)  # without the suite: the same thresholds, and it says that nobody looked for missing models
    alone = profile.load(out)
    assert alone.thresholds == profile.load(calibrated.profile).thresholds
    assert any("whether models are missing was not looked at" in text for text in alone.limits)


def test_a_poisoned_model_fails_alone_and_its_absence_shows(calibrated: Calibrated, tmp_path: Path, call: Call) -> None:
    folder, made = tmp_path / "copy", tmp_path / "p.json"
    shutil.copytree(calibrated.folder, folder)
    (folder / "made_without_1.onnx").write_bytes(b"no model at all")
    table = tmp_path / "p.results.jsonl"
    keep = [line for line in calibrated.table.read_text().splitlines(keepends=True) if '"made_with_0"' not in line]
    table.write_text("".join(keep))
    again = words(folder / "suite.toml", folder / "photos", made)
    _, err = call(*again, code=3)
    assert f"measured made_with_0: {N_IMAGES} images" in err
    assert "profile is not written, as 1 models could not be measured: made_without_1:" in err
    assert "with --allow-missing" in err
    assert not made.exists()
    out, _ = call(*again, "--allow-missing")
    assert "! not complete: 1 models of its suite were not measured" in out
    assert [name for name, _ in profile.load(made).calibration.missing] == ["made_without_1"]
    report = check(folder / "made_with_1.onnx", images=folder / "photos", thresholds=made)
    assert any("not complete: 1 models" in note for note in report.notes)


def test_the_plan_does_nothing_and_says_how_much_there_is(calibrated: Calibrated, tmp_path: Path, call: Call) -> None:
    asked = ("calibrate", "--suite", calibrated.suite, "--images", calibrated.photos, "--plan", "--device", "cpu")
    before = sorted(path.name for path in calibrated.folder.iterdir())
    some = tmp_path / "some.jsonl"
    some.write_text("".join(calibrated.table.read_text().splitlines(keepends=True)[:4]))
    for table, n, how in (
        ((), 0, "no model was measured on this device yet"),
        (("--results", some), 4, "from 4 models measured on this device"),
        (("--results", calibrated.table), N_MODELS, "from 6 models measured on this device"),
    ):
        plan = json.loads(call(*asked, "-o", "json", *table)[0])
        ready = [row for row in plan["rows"] if row["state"] == "ready file"]
        done = [row for row in plan["rows"] if row["state"] == "measured"]
        assert (len(ready), len(done), plan["n_images"]) == (N_MODELS - n, n, N_IMAGES)
        assert {row["passes"] for row in ready} <= {N_IMAGES}
        assert {row["passes"] for row in done} <= {0}
        assert all((row["estimate_s"] is not None) == bool(n) for row in ready)
        assert how in plan["how_estimated"]
    text, _ = call(*asked)
    assert "?" not in text
    assert f"{N_MODELS} ready file; 2 present, 4 absent" in text
    assert "360 forward passes" in text
    assert sorted(path.name for path in calibrated.folder.iterdir()) == before


@pytest.mark.long
def test_killed_in_the_middle_it_goes_on_where_it_was(calibrated: Calibrated, tmp_path: Path) -> None:
    out, table = tmp_path / "mini.json", tmp_path / "mini.results.jsonl"
    command = [COMMAND, *words(calibrated.suite, calibrated.photos, out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not (table.exists() and table.read_text().count("\n") >= 3):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.02)
        process.kill()
    assert not out.exists()
    kept = len(rows(table))
    assert 3 <= kept < N_MODELS
    with table.open("a", encoding="utf-8") as file:
        file.write('{"schema_version": 1, "id": "made_wi')  # what a kill in the middle of a write leaves
    done = calibrate(calibrated.suite, calibrated.photos, out)
    assert f"{kept} measured before, {N_MODELS - kept} to do" in done.stderr
    assert done.stderr.count("measured made_") == N_MODELS - kept
    assert out.read_bytes() == calibrated.profile.read_bytes()


@pytest.mark.long
def test_without_the_libraries_a_plan_is_one_error_with_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open_clip", "timm", "torchvision", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('not installed', name={name!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run("calibrate", "--suite", "paper", "--plan", "--cache", tmp_path / "cache", code=4)
    assert done.stdout == ""
    assert re.fullmatch(
        r"error: 81 of 81 models can't be planned: how large they are is known only with open_clip, timm, "
        r"torch(vision)? installed\nhint: pip install '\.\[export\]'  # in a clone\n",
        done.stderr,
    )


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Ray needs /dev/shm")
def test_ray_gives_the_same_profile(calibrated: Calibrated, tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:  # not imported here: Ray settles its keys for a process when it is
        pytest.skip("extra `ray` is not installed")
    out = tmp_path / "mini.json"
    calibrate(calibrated.suite, calibrated.photos, out, "--engine", "ray", "--workers", "2")
    assert out.read_bytes() == calibrated.profile.read_bytes()


@pytest.mark.long
def test_what_ray_refuses_is_said_before_anything_is_exported(calibrated: Calibrated, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    entry = '[[models]]\nsource = "torch"\nname = "mine:{0}"\ngroup = "other"\nlabel = "{0}"\n'
    suite = tmp_path / "suite.toml"
    suite.write_text('schema_version = 1\nname = "x"\n' + entry.format("present") + entry.format("absent"))
    nobody = "--ray-address is 127.0.0.1:1; cluster can't be used: "
    if importlib.util.find_spec("ray") is None:
        nobody = "ray: package is not importable"
    ray = ("--engine", "ray", "--ray-address", "127.0.0.1:1")  # nothing listens there
    for device, code, said in (("cpu", 4, nobody), ("cuda:1", 2, "--device is cuda:1; Ray gives out the GPUs")):
        done = calibrate(suite, calibrated.photos, tmp_path / "p.json", *ray, "--device", device, code=code)
        assert f"error: {said}" in done.stderr
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"mine.py", "suite.toml"}  # no cache, no profile, and the module was not run
