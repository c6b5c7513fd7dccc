"""`robustcheck calibrate`: measured once, kept through kills; what is fitted, and what is refused."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.verdict.rule import ALIKE_SPREAD
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError
from robustcheck_onnx.checker.questions.calibrate.table import open_table, superseded
from robustcheck_onnx.checker.questions.calibrate.task import Task
from robustcheck_onnx.checker.questions.calibrate.terminal import causes
from robustcheck_onnx.thresholds import profile, results
from robustcheck_onnx.thresholds.ends import End
from robustcheck_onnx.thresholds.from_results import fitted_profile, rows_of
from robustcheck_onnx.thresholds.suite import Member, SuiteEntry
from support import Patch, but, read_text
from support.bad_input import COMMAND, Run
from support.calibrations import N_IMAGES, N_MODELS, Calibrated, line
from support.measuring import never_decided
from support.walls import wait_until


def test_rows_hold_what_a_check_of_all_images_measures(calibrated: Calibrated) -> None:
    found = results.read(calibrated.table)
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
    assert (fitted.id, fitted.tensor, c.suite) == ("mini", "representation", "mini")
    assert (fitted.tensor_rules, fitted.ends) == (("encoder_output",), (End("linear"),))
    assert (c.left_out_false_pass, c.missed, c.missing, c.date) == ((), (), (), results.read(calibrated.table)[0].date)
    assert "2 checkpoints with and 4 without it: too few" in c.few
    assert f"{N_IMAGES} images" in c.images
    assert any("made by hand" in text for text in fitted.limits)
    for name, code in {"made_with_1": 0, "made_without_1": 1, "made_rectified_1": 1}.items():
        words = f"--images {calibrated.photos} --thresholds {calibrated.profile} -qq"
        ends(code, f"{calibrated.folder}/{name}.onnx {words}")


def test_a_rerun_and_a_refit_write_the_same_bytes(calibrated: Calibrated, tmp_path: Path, ends: Run) -> None:
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
        assert "! not complete: 1 models of its suite were not measured" in ends(0, f"{words} --allow-missing").stdout
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
    kept = len(results.read(table))
    assert 3 <= kept < N_MODELS
    with table.open("a", encoding="utf-8") as file:
        file.write('{"schema_version": 1, "id": "made_wi')  # what a kill in the middle of a write leaves
    done = ends(0, call, f"{kept} measured before, {N_MODELS - kept} to do")
    assert (done.stderr.count("measured made_"), out.read_bytes()) == (N_MODELS - kept, calibrated.profile.read_bytes())


SUITE = 'schema_version = 1\nname = "x"\n[[models]]\nmodel = "a.onnx"\ngroup = "other"\nlabel = "{}"\n'
CALLS = {
    "": "--suite, --from-evidence and --from-reference: one is needed",
    "--suite a --from-reference": "--from-reference: one is needed",
    "--from-reference --plan": "--plan is for a suite",
    "--suite paper": "--out is missing; a calibration writes a profile",
    "--suite papr --out p.json": "papr: suite cannot be read",
    "--suite paper --out d --id default-4": "default, default-4 are ids of packaged profiles",
    "--suite paper --out nowhere/p.json": "nowhere is missing; reports are written into existing folders",
    "--suite paper --out p.json --results ./p.json": "p.json: --results and --out are one file; they must be two",
    "--suite paper --out p.json --tensor pool": "'pool' is not one of 'auto', 'representation', 'pooled'",
    "--suite paper --out p.json --engine rai": "'rai' is not one of 'local', 'ray'",
    "--suite paper --out p.json --images nowhere": "nowhere: image set is not readable",
    "--from-evidence nowhere.jsonl --out p.json": "nowhere.jsonl: results table cannot be read",
    "--suite present.toml --out p.json": "number of models labelled absent is 0; a fit needs models of both labels",
    "--suite absent.toml --out p.json": "number of models labelled present is 0; a fit needs models of both labels",
}


def test_wrong_calls(tmp_path: Path, ends: Run, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    for label in ("present", "absent"):
        Path(f"{label}.toml").write_text(SUITE.format(label))
    for words, message in CALLS.items():
        done = ends(2, f"calibrate {words}", message, "hint: ")
        assert (done.stderr[:7], done.stdout, len(list(tmp_path.iterdir()))) == ("error: ", "", 2)


def test_a_cause_is_said_once_for_all_its_models() -> None:
    missing = EnvironmentFaultError("timm: package is missing; it must be there", "pip install timm")
    failed = {f"timm:{name}": missing for name in "abcde"} | {"own.onnx": CannotAssessError("own.onnx: is empty")}
    assert causes(failed) == [
        "timm:a, timm:b, timm:c and 2 more: timm: package is missing; it must be there (pip install timm)",
        "own.onnx: own.onnx: is empty",
    ]


def test_tables_that_cannot_be_used(calibrated: Calibrated, tmp_path: Path, ends: Run) -> None:
    some, text = results.read(calibrated.table), read_text(calibrated.table)
    first = json.loads(results.to_line(some[0]))

    def odd(**change: Any) -> str:
        return text + results.to_line(but(some[0], id="other", **change))

    def measured(name: str, **change: float) -> str:
        statistics = first["statistics"]
        return json.dumps(first | {"statistics": statistics | {name: statistics[name] | change}})

    def changed(**change: Any) -> str:
        return "".join(results.to_line(row.model_copy(update=change)) for row in some)

    share = measured("top3_share", estimate=7.0, high=8.0)
    one_sided = "".join(results.to_line(row) for row in some if row.label == "present")
    table, out = tmp_path / "t.jsonl", tmp_path / "p.json"
    for content, code, message in (
        ("", 2, "no rows found; a fit needs measured models"),
        ("x\n", 2, "line 1: row is not JSON"),
        ('{"schema_version": 2}\n', 2, "line 1: schema_version is 2; this robustcheck reads 1"),
        ('{"schema_version": true}\n', 2, "line 1: schema_version is True"),
        ("[]\n", 2, "line 1: schema_version is None"),
        ('{"schema_version": 1}\n', 2, "line 1: id: Field required"),
        (share, 2, "line 1: : Value error, statistics.top3_share is 8; a share is at most 1"),
        (measured("kurtosis", low=9e9), 2, "must rise from 0 or more"),
        (measured("kurtosis", low=-1.0), 2, "must rise from 0 or more"),
        (odd(statistic_version=1), 2, "statistic version of other is 1, of made_rectified_0 2; only rows of one kind"),
        (odd(images_digest="sha256:0"), 2, "image set of other is sha256:0, of made_rectified_0 sha256:"),
        (odd(alpha=0.1), 2, "error rate of the bounds of other is 0.1, of made_rectified_0 0.05"),
        (one_sided, 3, "no thresholds can be fitted; representation: the table needs sets with and without"),
        (changed(n_varied=12), 3, "left out: 12 varied images"),
    ):
        table.write_text(content, encoding="utf-8")
        ends(code, f"calibrate --from-evidence {table} --out {out}", message)
        assert not out.exists()


def test_one_model_measured_twice(calibrated: Calibrated, tmp_path: Path, ends: Run) -> None:
    one, table = results.read(calibrated.table)[0], tmp_path / "t.jsonl"
    said = f"{one.id}, representation: row differs from the one in"
    for row, code, why in ((one, 0, ""), (but(one, n_features=7), 2, said)):
        table.write_text(results.to_line(row))
        ends(code, f"calibrate --from-evidence {calibrated.table} --from-evidence {table} --out {tmp_path}/p.json", why)


def test_what_takes_no_part_in_a_fit(calibrated: Calibrated) -> None:
    row = but(results.read(calibrated.table)[0], label="present")
    assert (results.ALIKE_SPREAD, results.excluded(row)) == (ALIKE_SPREAD, "")
    unknown = row.statistics | {"strength": results.BoundedStatistic(estimate=None, low=None, high=None)}
    for change, why in (
        ({"n_nonfinite": 1}, "1 representations not finite or constant"),
        ({"statistics": unknown}, "not measurable: strength"),
        ({"image_findings": ("images_not_photo_like",)}, "images: images_not_photo_like"),
        ({"n_varied": 49}, "49 varied images"),
        ({"preprocessing_source": "assumed"}, "preprocessing was assumed"),
        ({"context": {"spread": 0.1}}, "representations of all images alike, which never passes"),
        ({"label": "unlabelled"}, "unlabelled"),
    ):
        assert results.excluded(row.model_copy(update=change)) == why
    assert results.excluded(but(row, label="absent", context={"spread": 0.1})) == ""


def test_the_pooled_tensor_is_compared_where_models_have_it(calibrated: Calibrated) -> None:
    """Sharper pooled rows win; a classifier, which has no other tensor, stands by its representation."""
    some = results.read(calibrated.table)
    pooled = []
    for row in (r for r in some if r.label == "present"):
        sharper = {
            name: results.BoundedStatistic(
                **{end: 2 * value for end, value in row.statistics[name].model_dump().items()}
            )
            for name in ("strength", "kurtosis")
        }
        change = {"tensor": "pooled", "rule": "pooled", "ends_in": End("normalisation")}
        pooled.append(but(row, **change, statistics={**row.statistics, **sharper}))
    assert len(rows_of([*some, *pooled], "pooled")) == N_MODELS
    fitted = fitted_profile([*some, *pooled], id="both")
    assert (fitted.tensor, fitted.tensor_rules, fitted.ends) == ("pooled", ("pooled",), (End("normalisation"),))
    gaps = {one.tensor: one.gap for one in fitted.calibration.tensors}
    assert (gaps["pooled"] or 0) > (gaps["representation"] or 0)  # a trap is the nearest to both
    plain = fitted_profile([*some, *pooled], id="both", tensor="representation")
    assert plain.tensor == "representation"
    twice = 2 * plain.thresholds["strength"].lowest_with
    assert fitted.thresholds["strength"].lowest_with == pytest.approx(twice, rel=1e-4)


def test_a_table_can_be_read_whatever_engine_and_day_wrote_it(calibrated: Calibrated) -> None:
    some = results.read(calibrated.table)
    later = [but(row, date="2030-01-01", wall_s=99.0, execution={}) for row in some]
    assert results.digest_of(later) == results.digest_of(reversed(some))
    assert results.digest_of(some[1:]) != results.digest_of(some)
    assert fitted_profile(later, id="x").calibration.date == "2030-01-01"


def test_rows_of_other_images_are_kept_beside_the_table(calibrated: Calibrated, tmp_path: Path) -> None:
    path, (first, *others) = tmp_path / "t.jsonl", results.read(calibrated.table)
    path.write_bytes(calibrated.table.read_bytes())
    entry = SuiteEntry(model="m.onnx", group="other", label="absent")
    task = Task(Member(first.id, first.id, entry, "absent", None, False), path, None, "another key")
    assert open_table(path, [task]) == others
    assert (results.read(path), results.read(superseded(path))) == (others, [first])
