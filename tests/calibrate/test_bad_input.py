"""`robustcheck calibrate` with wrong options, suites, tables and rows: it says so, and writes no profile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker.calibrate import causes
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError
from robustcheck_onnx.thresholds import results
from robustcheck_onnx.thresholds.results import Result
from support.calibrations import Calibrated, Call, rows, run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--suite, --from-evidence and --from-reference: one is needed"),
        ("--suite a --from-reference", "--from-reference: one is needed"),
        ("--from-reference --plan", "--plan is for a suite"),
        ("--suite paper", "--out is missing; a calibration writes a profile"),
        ("--suite papr --out p.json", "papr: suite cannot be read"),
        (
            "--suite paper --out default.json --id default-1",
            "--id is 'default-1'; default, default-2, default-1 are ids of packaged profiles",
        ),
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


def test_a_cause_is_said_once_for_all_its_models() -> None:
    missing = EnvironmentFaultError("timm: package is missing; it must be there", "pip install timm")
    failed = {f"timm:{name}": missing for name in "abcde"} | {"own.onnx": CannotAssessError("own.onnx: is empty")}
    assert causes(failed) == [
        "timm:a, timm:b, timm:c and 2 more: timm: package is missing; it must be there (pip install timm)",
        "own.onnx: own.onnx: is empty",
    ]
    three = dict.fromkeys("abc", missing)
    assert causes(three) == [
        "a, b, c: timm: package is missing; it must be there (pip install timm)",
    ]


@pytest.mark.long
def test_a_name_that_the_library_does_not_have_ends_it_before_anything_runs(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="extra `export` is not installed")
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'schema_version = 1\nname = "x"\n'
        '[[models]]\nsource = "timm"\nname = "resnet50.a1_in2k"\ngroup = "other"\nlabel = "present"\n'
        '[[models]]\nmodel = "a.onnx"\ngroup = "other"\nlabel = "absent"\n'
    )
    done = run("calibrate", "--suite", suite, "--out", tmp_path / "p.json", "--cache", tmp_path / "c", code=2)
    assert (
        "suite entry timm:resnet50.a1_in2k: resnet50.a1_in2k: tag is a1_in2k; it must be one of a1_in1k" in done.stderr
    )
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
    assert f"suite x: number of models labelled {other} is 0; a fit needs models of both labels" in err


def test_true_is_no_version_of_a_suite(tmp_path: Path, call: Call) -> None:
    (tmp_path / "suite.toml").write_text('schema_version = true\nname = "x"\n')
    _, err = call("calibrate", "--suite", tmp_path / "suite.toml", "--out", tmp_path / "p.json", code=2)
    assert "schema_version is True; this robustcheck reads 1" in err


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
    calibrated: Calibrated, tmp_path: Path, change: dict[str, Any], message: str, call: Call
) -> None:
    some = rows(calibrated.table)
    odd = some[0].model_copy(update=change | {"id": "other"})
    text = refused(call, tmp_path, [calibrated.table, written(tmp_path / "odd.jsonl", [odd])], 2)
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
    calibrated: Calibrated, tmp_path: Path, call: Call, statistic: str, change: dict[str, float], message: str
) -> None:
    row = json.loads(results.to_line(rows(calibrated.table)[0]))
    row["statistics"][statistic] |= change
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    text = refused(call, tmp_path, [tmp_path / "t.jsonl"], 2)
    assert "line 1: " in text
    assert message in text


def test_one_model_measured_twice(calibrated: Calibrated, tmp_path: Path, call: Call) -> None:
    some = rows(calibrated.table)
    same = written(tmp_path / "same.jsonl", some[:2])
    call("calibrate", "--from-evidence", calibrated.table, "--from-evidence", same, "--out", tmp_path / "ok.json")
    other = written(tmp_path / "other.jsonl", [some[0].model_copy(update={"n_features": 7})])
    assert f"{some[0].id}, representation: row differs from the one in" in refused(
        call, tmp_path, [calibrated.table, other], 2
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "number of rows is 0; a fit needs measured models"),
        ("x\n", "line 1: row is not JSON"),
        ('{"schema_version": 2}\n', "line 1: schema_version is 2; this robustcheck reads 1"),
        ('{"schema_version": true}\n', "line 1: schema_version is True"),
        ("[]\n", "line 1: schema_version is None"),
        ('{"schema_version": 1}\n', "line 1: id: Field required"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, message: str, call: Call) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text(text)
    assert message in refused(call, tmp_path, [table], 2)


def test_rows_that_nothing_can_be_fitted_to(calibrated: Calibrated, tmp_path: Path, call: Call) -> None:
    one_sided = [row for row in rows(calibrated.table) if row.label == "present"]
    text = refused(call, tmp_path, [written(tmp_path / "a.jsonl", one_sided)], 3)
    assert "no thresholds can be fitted; representation: the table needs sets with and without" in text
    few = [row.model_copy(update={"n_varied": 12}) for row in rows(calibrated.table)]
    assert "left out: 12 varied images" in refused(call, tmp_path, [written(tmp_path / "b.jsonl", few)], 3)
