"""`robustcheck calibrate` with wrong options, suites, tables and rows: it says so, and writes no profile."""

import json
from pathlib import Path
from typing import Any

from robustcheck_onnx.checker.calibrate.terminal import causes
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError
from robustcheck_onnx.thresholds import tables
from support import Patch, but
from support.bad_input import Run
from support.calibrations import Calibrated

SUITE = 'schema_version = 1\nname = "x"\n[[models]]\nmodel = "a.onnx"\ngroup = "other"\nlabel = "{}"\n'
CALLS = {
    "": "--suite, --from-evidence and --from-reference: one is needed",
    "--suite a --from-reference": "--from-reference: one is needed",
    "--from-reference --plan": "--plan is for a suite",
    "--suite paper": "--out is missing; a calibration writes a profile",
    "--suite papr --out p.json": "papr: suite cannot be read",
    "--suite paper --out default.json --id default-1": (
        "default, default-3, default-2, default-1 are ids of packaged profiles"
    ),
    "--suite paper --out nowhere/p.json": "nowhere is missing; reports are written into existing folders",
    "--suite paper --out p.json --results ./p.json": "p.json: --results and --out are one file; they must be two",
    "--suite paper --out p.json --tensor pool": "--tensor is 'pool'; it must be one of auto, representation",
    "--suite paper --out p.json --engine rai": "--engine is 'rai'; it must be one of local, ray",
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
    some, text = tables.read(calibrated.table), calibrated.table.read_text(encoding="utf-8")
    first = json.loads(tables.to_line(some[0]))

    def odd(**change: Any) -> str:
        return text + tables.to_line(but(some[0], id="other", **change))

    def measured(name: str, **change: float) -> str:
        statistics = first["statistics"]
        return json.dumps(first | {"statistics": statistics | {name: statistics[name] | change}})

    def changed(**change: Any) -> str:
        return "".join(tables.to_line(row.model_copy(update=change)) for row in some)

    one_sided = "".join(tables.to_line(row) for row in some if row.label == "present")
    table, out = tmp_path / "t.jsonl", tmp_path / "p.json"
    for content, code, message in (
        ("", 2, "no rows found; a fit needs measured models"),
        ("x\n", 2, "line 1: row is not JSON"),
        ('{"schema_version": 2}\n', 2, "line 1: schema_version is 2; this robustcheck reads 1"),
        ('{"schema_version": true}\n', 2, "line 1: schema_version is True"),
        ("[]\n", 2, "line 1: schema_version is None"),
        ('{"schema_version": 1}\n', 2, "line 1: id: Field required"),
        (
            measured("top3_share", estimate=7.0, high=8.0),
            2,
            "line 1: : Value error, statistics.top3_share is 8; a share is at most 1",
        ),
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
    one, table = tables.read(calibrated.table)[0], tmp_path / "t.jsonl"
    said = f"{one.id}, representation: row differs from the one in"
    for row, code, words in ((one, 0, ""), (but(one, n_features=7), 2, said)):
        table.write_text(tables.to_line(row))
        ends(
            code, f"calibrate --from-evidence {calibrated.table} --from-evidence {table} --out {tmp_path}/p.json", words
        )
