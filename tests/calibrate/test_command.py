"""`robustcheck calibrate`: measured once, kept through kills."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.thresholds import profile, tables
from robustcheck_onnx.thresholds.profile import End
from support.bad_input import COMMAND, Run
from support.calibrations import N_IMAGES, N_MODELS, Calibrated, line
from support.measuring import never_decided
from support.walls import wait_until


def test_rows_hold_what_a_check_of_all_images_measures(calibrated: Calibrated) -> None:
    found = tables.read(calibrated.table)
    assert len({row.key for row in found}) == len(found) == N_MODELS
    (row,) = (row for row in found if row.id == "made_with_1")
    assert (row.n_images, row.n_features, row.preprocessing_source) == (N_IMAGES, 512, "contract")
    assert {"robustcheck-onnx", "numpy"} <= set(row.versions)
    assert row.execution["providers"] == ["CPUExecutionProvider"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", row.date)
    model = calibrated.folder / "made_with_1.onnx"
    evidence = check(model, images=calibrated.photos, thresholds=never_decided()).evidence
    assert (row.model_digest, row.images_digest) == (evidence.model.digest, evidence.images.digest)
    for name, value in row.statistics.items():
        assert value.model_dump() == pytest.approx(getattr(evidence.statistics, name).model_dump(), rel=1e-5), name


def test_the_profile_parts_the_suite_and_says_what_it_rests_on(calibrated: Calibrated, ends: Run) -> None:
    fitted = profile.load(calibrated.profile)
    c = fitted.calibration
    assert (fitted.id, fitted.tensor, fitted.tensor_rules, fitted.ends, c.suite) == (
        *("mini", "representation", ("encoder_output",), (End("other", "Gather"),), "mini"),
    )
    assert (c.left_out_false_pass, c.missed, c.missing, c.date) == ((), (), (), tables.read(calibrated.table)[0].date)
    assert "2 checkpoints with and 4 without it: too few" in c.few
    assert f"{N_IMAGES} images" in c.images
    assert any("made by hand" in text for text in fitted.limits)
    for name, code in {"made_with_1": 0, "made_without_1": 1, "made_rectified_1": 1}.items():
        words = f"--images {calibrated.photos} --thresholds {calibrated.profile} -qq"
        ends(code, f"{calibrated.folder}/{name}.onnx {words}")


def test_a_rerun_measures_nothing_and_it_and_a_refit_write_the_same_bytes(
    calibrated: Calibrated, tmp_path: Path, ends: Run
) -> None:
    before = calibrated.profile.read_bytes(), calibrated.table.read_bytes()
    again = line(calibrated.suite, calibrated.photos, calibrated.profile)
    ends(0, again, f"{N_MODELS} models: {N_MODELS} measured before, 0 to do")
    assert (calibrated.profile.read_bytes(), calibrated.table.read_bytes()) == before
    out = tmp_path / "again.json"
    refit = f"calibrate --from-evidence {calibrated.table} --id mini --out {out}"
    ends(0, f"{refit} --suite {calibrated.suite}")
    assert out.read_bytes() == before[0]
    ends(0, refit)  # without the suite: it says that nobody looked for missing models
    alone = profile.load(out)
    assert alone.thresholds == profile.load(calibrated.profile).thresholds
    assert "whether models are missing was not looked at" in str(alone.limits)
    assert any("whether models are missing was not looked at" in text for text in profile.load(out).limits)


def test_a_poisoned_model_fails_alone_and_its_absence_shows(calibrated: Calibrated, tmp_path: Path, ends: Run) -> None:
    folder, made = tmp_path / "copy", tmp_path / "p.json"
    shutil.copytree(calibrated.folder, folder)
    (folder / "made_without_1.onnx").write_bytes(b"no model at all")
    lines = calibrated.table.read_text().splitlines(keepends=True)
    (table := tmp_path / "p.results.jsonl").write_text("".join(row for row in lines if '"made_with_0"' not in row))
    again = line(folder / "suite.toml", folder / "photos", made)
    missing = "profile is not written, as 1 models could not be measured: made_without_1: "
    ends(3, again, f"measured made_with_0: {N_IMAGES} images", missing, "with --allow-missing")
    refit = f"calibrate --suite {folder}/suite.toml --from-evidence {table} --out {made}"
    ends(3, refit, f"{missing}no row of")
    assert not made.exists()
    for words in (refit, again):
        out = ends(0, f"{words} --allow-missing").stdout
        assert "! not complete: 1 models of its suite were not measured" in out
        assert [name for name, _ in profile.load(made).calibration.missing] == ["made_without_1"]


def test_the_plan_does_nothing_and_says_how_much_there_is(calibrated: Calibrated, tmp_path: Path, ends: Run) -> None:
    asked = f"calibrate --suite {calibrated.suite} --images {calibrated.photos} --plan --device cpu"
    before = sorted(path.name for path in calibrated.folder.iterdir())
    some = tmp_path / "some.jsonl"
    some.write_text("".join(calibrated.table.read_text().splitlines(keepends=True)[:4]))
    plan = json.loads(ends(0, f"{asked} -o json --results {some}").stdout)
    states = Counter((row["state"], row["passes"], row["estimate_s"] is None) for row in plan["rows"])
    assert states == Counter({("ready file", N_IMAGES, False): 2, ("measured", 0, True): 4})
    assert plan["n_images"] == N_IMAGES
    assert "from 4 models measured on this device" in plan["how_estimated"]
    text = " ".join(ends(0, asked).stdout.split())
    counts = (f"{N_MODELS} ready file; 2 present, 4 absent", "360 forward passes")
    for said in (*counts, "time not known; no model was measured on this device yet"):
        assert said in text
    assert sorted(path.name for path in calibrated.folder.iterdir()) == before


@pytest.mark.long
def test_killed_in_the_middle_it_goes_on_where_it_was(calibrated: Calibrated, tmp_path: Path, ends: Run) -> None:
    out, table = tmp_path / "mini.json", tmp_path / "mini.results.jsonl"
    call = line(calibrated.suite, calibrated.photos, out)
    with subprocess.Popen([COMMAND, *call.split()], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: process.poll() is not None or (table.exists() and table.read_text().count("\n") >= 3))
        process.kill()
    assert (process.returncode, out.exists()) == (-9, False)
    kept = len(tables.read(table))
    assert 3 <= kept < N_MODELS
    with table.open("a", encoding="utf-8") as file:
        file.write('{"schema_version": 1, "id": "made_wi')  # what a kill in the middle of a write leaves
    done = ends(0, call, f"{kept} measured before, {N_MODELS - kept} to do")
    assert done.stderr.count("measured made_") == N_MODELS - kept
    assert out.read_bytes() == calibrated.profile.read_bytes()
