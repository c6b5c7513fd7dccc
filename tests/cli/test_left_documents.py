"""Where documents go, as read before typer; no PASS of an earlier run stands where a run ended without a verdict.

Every way in which a run can end inside this process, times every form; whole processes that are killed or signalled
are in test_app.py, test_models.py and benchmarks/kills.py.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker import pipeline
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli.command_line import CommandLine, read
from robustcheck_onnx.checker.report import forms
from support import Made, Patch, code_in
from support.bad_input import GROUP_OF, Run

OUTPUTS = " ".join(f"-o {form}={{model}}.{form}" for form in forms.FORMS)
PASSED = '{"schema_version": 1, "tool": "robustcheck", "verdict": {"verdict": "PASS"}}'
PASS = re.compile(rb'"verdict": "PASS"|"PASS"|\xe2\x9c\x93 PASS|is PASS|^robustcheck_verdict{[^}]*} 1', re.MULTILINE)


@pytest.fixture
def no_pass_stands(here: Path, ends: Run) -> Made:
    """Type a command line where a PASS stands in every form: each is gone afterwards."""
    (here / "empty").mkdir()
    ends(0, f"pass.onnx --images photos -qq {OUTPUTS}")
    earlier = {form: (here / f"pass.{form}").read_bytes() for form in forms.FORMS}
    assert [form for form in forms.FORMS if not PASS.search(earlier[form])] == ["gitlab"]  # there an empty list

    def stands(words: str, code: int) -> None:
        for form, content in earlier.items():
            (here / f"pass.{form}").write_bytes(content)
        ends(code, f"check -qq {OUTPUTS} {words}")
        for form, content in earlier.items():
            left = (here / f"pass.{form}").read_bytes()
            assert (left != content, PASS.search(left)) == (True, None), (words, form)
        assert code_in("pass.json") == code, words

    return stands


ENDS = {
    "--bogus pass.onnx": 2,  # typer
    "--max-bad 7 pass.onnx": 2,
    "--bogus pass*.onnx": 2,  # a pattern: which models it means is looked up
    "pass.onnx empty": 2,
    "--strict -- pass.onnx": 2,
    "pass.onnx --thresholds none.json --images photos": 2,
    "pass.onnx --images absent": 2,
    "pass.onnx --images empty": 3,
    "pass.onnx --config none.toml": 2,
}


def test_no_earlier_pass_stands_in_any_form(no_pass_stands: Made) -> None:
    for words, code in ENDS.items():
        no_pass_stands(words, code)


def test_nor_where_the_measurement_fails(no_pass_stands: Made, monkeypatch: Patch) -> None:
    """Who is killed while it measures leaves what stands there by then."""
    for fault, code in ((MemoryError(), 4), (ZeroDivisionError("x"), 70)):

        def fail(*_: object, fault: Exception = fault, **__: object) -> None:
            assert [form for form in forms.FORMS if PASS.search(Path(f"pass.{form}").read_bytes())] == []
            assert code_in("pass.json") == 137
            raise fault

        monkeypatch.setattr(pipeline, "check", fail)
        no_pass_stands("pass.onnx --images photos", code)


def test_nor_where_settings_say_the_report_goes(ends: Run) -> None:
    Path("settings").mkdir()
    for words, variables, lines in (
        ("pass.onnx", {"ROBUSTCHECK_BOGUS": "1"}, ""),
        ("pass.onnx", {}, "bogus = 1"),
        ("absent.onnx --images photos", {}, ""),
        ("none/*.onnx", {}, ""),
        ("pass.onnx --bogus --config=settings/robustcheck.toml", {"ROBUSTCHECK_CONFIG": "none.toml"}, ""),
        ("pass.onnx --bogus --config none.toml", {"ROBUSTCHECK_OUTPUT": "json, json=report.json"}, ""),
    ):
        for folder in ("", "settings/"):
            Path(f"{folder}robustcheck.toml").write_text(f'output = ["json=report.json"]\n{lines}\n')
        report = Path("settings/report.json" if "settings" in words else "report.json")
        for own, place in (
            ("", report),
            ("--isolated --bogus", None),
            ("-o json=other.json --bogus", Path("other.json")),
        ):
            for path in (report, Path("other.json")):
                path.write_text(PASSED)
            ends(2, f"{own} {words}", **variables)
            assert place is None or code_in(str(place)) == 2
            assert place == report or report.read_text() == PASSED  # this run would not write it


def test_an_error_replaces_a_report_of_ours_and_nothing_else(here: Path, ends: Run) -> None:
    Path("mine.json").write_text('{"mine": 1}')
    before = sorted(here.iterdir())
    ends(3, "text.onnx -o json=mine.json")
    assert Path("mine.json").read_text() == '{"mine": 1}'
    assert sorted(here.iterdir()) == before


def test_a_question_writes_its_error_as_a_page(here: Path, run: Run) -> None:
    for verb in ("scan", "concepts", "directions"):
        assert run(f"{verb} text.onnx -o html={verb}.html").returncode >= 2
        assert "<title>ERROR: " in Path(f"{verb}.html").read_text()


def test_a_pipe_that_a_settings_file_names_is_not_waited_for(here: Path, ends: Run) -> None:
    os.mkfifo("pipe.json")
    Path("robustcheck.toml").write_text('output = ["json=pipe.json"]')
    ends(2, "text.onnx")
    assert Path("pipe.json").is_fifo()


def line(words: str) -> CommandLine:
    group: Any = GROUP_OF(cli.app)
    return read(shlex.split(words), group)


def test_where_documents_go(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, documents in {
        "check m.onnx -o json=r.json --output junit": "json=r.json junit=",
        "check m.onnx -qo json=r.json -ohtml=r --output=junit=-": "json=r.json html=r junit=",
        "check --bogus m.onnx --no-time=3 -xo json=r.json --max-bad": "json=r.json",
        "check --images -o m.onnx -o json": "json=",  # the first -o is a path of images
        "check -o json -o json=- -o 'json={model}.json' m.onnx": "json= json=m.json",
        "check -- -o json=r.json": "",
        "scan m.onnx -o terminal=r.txt -o json=r.json": "json=r.json",
        "profiles shw default -o json": "json=",
        "chek m.onnx -o json=r.json": "json=r.json",
        "export timm resnet18 -o json": "",  # an ONNX file of that name
        "sign r.json m.onnx --key k.pem -o json": "",
        "": "",
    }.items():
        assert " ".join(map("=".join, line(words).documents())) == documents, words


def test_arguments_and_options_are_told_apart_as_the_verb_declares_them() -> None:
    read_line = line("check --images a.onnx -vv -q b/M.ONNX --seed -1 --isolated -- -c.onnx")
    assert read_line.verb == "check"
    assert read_line.arguments == ("b/M.ONNX", "-c.onnx")
    assert read_line.model == "b/M.ONNX"
    assert read_line.options == {
        "images": ("a.onnx",), "verbose": ("", ""), "quiet": ("",), "seed": ("-1",), "isolated": ("",)
    }  # fmt: skip
    assert line("mlflow gate encoder 3 r.json --no-rerun").arguments == ("gate", "encoder", "3", "r.json")
    assert line("check s3://key:secret@bucket/m.onnx").model == "s3://***@bucket/m.onnx"
