"""No PASS of an earlier run stands where a run that ended without a verdict would have written.

Every way in which a run can end inside this process, times every form; whole processes that are killed or signalled
are in test_app.py, test_bad_input_processes.py and benchmarks/kills.py.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from robustcheck_onnx.checker import isolated, pipeline
from robustcheck_onnx.checker.report import forms
from support.bad_input import Typed

FORMS = [form for form in forms.NAMES if form != "terminal"]
PASSED = '{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}'


@pytest.fixture
def earlier(tmp_path: Path, lookup_pass: tuple[Path, Path], typed: Typed) -> dict[str, bytes]:
    """What a PASS of m.onnx wrote in every form, at paths with `{model}`; tmp_path is the current folder."""
    shutil.copy(lookup_pass[0], tmp_path / "m.onnx")
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    done = typed(tmp_path, "m.onnx", "--images", "photos", "-qq", *outputs())
    assert done.returncode == 0, done.stderr
    written = {form: (tmp_path / f"m.{form}").read_bytes() for form in FORMS}
    assert {form for form in FORMS if not says_pass(written[form])} == {"gitlab"}  # there an empty list
    return written


def outputs() -> list[str]:
    return [word for form in FORMS for word in ("-o", f"{form}={{model}}.{form}")]


def says_pass(content: bytes) -> bool:
    text = content.decode()
    return bool(re.search(r'"verdict": "PASS"|"PASS"|✓ PASS|is PASS|^robustcheck_verdict{[^}]*} 1', text, re.MULTILINE))


ENDS: list[tuple[str, int]] = [
    ("--bogus m.onnx", 2),  # typer
    ("--max-bad 7 m.onnx", 2),
    ("--bogus .", 2),  # a folder, a pattern: which models they mean is looked up
    ("--bogus m*.onnx", 2),
    ("m.onnx empty", 2),
    ("--strict -- m.onnx", 2),
    ("m.onnx --thresholds none.json --images photos", 2),
    ("m.onnx --images absent", 2),
    ("m.onnx --images empty", 3),
    ("m.onnx --config none.toml", 2),
]


def test_no_earlier_pass_stands_in_any_form(tmp_path: Path, earlier: dict[str, bytes], typed: Typed) -> None:
    for words, code in ENDS:
        for form, content in earlier.items():
            (tmp_path / f"m.{form}").write_bytes(content)
        done = typed(tmp_path, "check", "-qq", *outputs(), *words.split())
        assert done.returncode == code, (words, done.stderr)
        for form, content in earlier.items():
            left = (tmp_path / f"m.{form}").read_bytes()
            assert (left != content, says_pass(left)) == (True, False), (words, form)
        document = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
        assert (document["error"]["exit_code"], "verdict" in document) == (code, False), words


@pytest.mark.parametrize(("fault", "code"), [(MemoryError(), 4), (ZeroDivisionError("x"), 70)])
def test_nor_where_the_measurement_fails(
    tmp_path: Path,
    earlier: dict[str, bytes],
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    code: int,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(isolated, "check", fail)
    monkeypatch.setattr(pipeline, "check", fail)
    assert typed(tmp_path, "m.onnx", "--images", "photos", "-qq", *outputs()).returncode == code
    for form, content in earlier.items():
        left = (tmp_path / f"m.{form}").read_bytes()
        assert (left != content, says_pass(left)) == (True, False), form
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["error"]["exit_code"] == code


@pytest.mark.parametrize(
    ("words", "variables", "lines"),
    [
        ([], {"ROBUSTCHECK_BOGUS": "1"}, ""),
        ([], {}, "bogus = 1"),
        (["--images", "photos"], {}, ""),
        (["--bogus", "--config=settings/robustcheck.toml"], {"ROBUSTCHECK_CONFIG": "none.toml"}, ""),
        (["--bogus", "--config", "none.toml"], {"ROBUSTCHECK_OUTPUT": "json, json=report.json"}, ""),
    ],
)
def test_nor_where_settings_say_the_report_goes(
    tmp_path: Path, words: list[str], variables: dict[str, str], lines: str, typed: Typed
) -> None:
    (tmp_path / "other.json").write_text(PASSED, encoding="utf-8")
    (tmp_path / "settings").mkdir()
    for folder in (tmp_path, tmp_path / "settings"):
        (folder / "report.json").write_text(PASSED, encoding="utf-8")
        (folder / "robustcheck.toml").write_text(f'output = ["json=report.json"]\n{lines}\n', encoding="utf-8")
    report = tmp_path / ("settings/report.json" if "settings" in str(words) else "report.json")
    done = typed(tmp_path, "m.onnx", *words, **variables)
    assert done.returncode == 2, done.stderr
    assert json.loads(report.read_text(encoding="utf-8"))["error"]["exit_code"] == 2
    for own in (["--isolated"], ["-o", "json=other.json"]):
        report.write_text(PASSED, encoding="utf-8")
        assert typed(tmp_path, "m.onnx", *own, "--bogus", **variables).returncode == 2
        assert report.read_text(encoding="utf-8") == PASSED  # this run would not write it
    assert json.loads((tmp_path / "other.json").read_text(encoding="utf-8"))["error"]["exit_code"] == 2


def test_an_error_replaces_a_report_of_ours_and_nothing_else(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    (tmp_path / "mine.json").write_text('{"mine": 1}', encoding="utf-8")
    assert typed(tmp_path, "text.onnx", "-o", "json=mine.json").returncode == 3
    assert (tmp_path / "mine.json").read_text(encoding="utf-8") == '{"mine": 1}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "text.onnx"]
