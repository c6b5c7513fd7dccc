"""robustcheck compare as a command: exit codes, documents, the terminal report, bad input."""

import json
import re
from itertools import product
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.compare.index import IndexOptions, IndexReport
from robustcheck_onnx.checker.compare.judge import CompareReport
from robustcheck_onnx.checker.report import markdown
from support import Capture, but, read_json, robustcheck
from support.comparisons import Workshop, alike, eight_bits, judged, planted, rotation
from support.terminal import shown


def test_the_command_says_it_by_exit_code_and_in_every_format(workshop: Workshop, capsys: Capture) -> None:
    h = planted()
    a, b = workshop.model("candidate", eight_bits(h)), workshop.model("reference", h)
    out = workshop.folder / "report.json"
    call = ["compare", a, b, "--images", workshop.photos, "--device", "cpu", "--no-time"]
    assert robustcheck(*call, "-o", f"json={out}") == 0
    assert "✓ PASS" in capsys.readouterr().out
    first = out.read_text(encoding="utf-8")
    report = CompareReport.model_validate_json(first)
    assert (report.document, report.verdict.verdict, report.time) == ("compare", "PASS", None)
    assert robustcheck(*call, "-o", "json") == 0
    assert capsys.readouterr().out == first
    workshop.model("candidate", h @ rotation(384))
    assert robustcheck(*call, "-q") == 1
    assert re.fullmatch(rf"WARN · \w+ {re.escape(str(a))}: [\w, ]+\n", capsys.readouterr().out)


def test_each_form_is_of_its_kind_and_tells_the_verdict() -> None:
    lost = judged(planted() @ rotation(384), planted())
    ids = {each.id for each in lost.verdict.reasons}
    forms = ("json", "junit", "markdown", "sarif", "html")
    text = {form: getattr(lost, f"to_{form}")() for form in forms}
    assert CompareReport.model_validate_json(text["json"]).model_dump() == lost.model_dump()
    suites = ElementTree.fromstring(text["junit"])
    assert suites.tag == "testsuites"
    assert {failure.attrib["type"] for failure in suites.iter("failure")} == ids
    (run,) = json.loads(text["sarif"])["runs"]
    assert {result["ruleId"] for result in run["results"]} == ids
    assert run["automationDetails"]["id"].startswith("robustcheck-compare/")
    assert text["markdown"].startswith(markdown.MARK)
    assert f"WARN · {lost.kind}: {lost.candidate.evidence.model.file}".replace("_", r"\_") in text["markdown"]
    assert alike(lost).text in text["markdown"]
    assert all(each.endswith("\n") for each in text.values())


def test_a_required_index_verdict_is_named_and_decides_in_every_form() -> None:
    h, fits = planted(), IndexReport(options=IndexOptions())
    for candidate, index, code, level in (
        (h, fits.because("cosine", "re-embed", "seen", "step"), 1, "warning"),
        (h @ rotation(384), fits, 0, "note"),
    ):
        report = but(judged(candidate, h), index=index, required=("index",))
        text = {form: getattr(report, f"to_{form}")() for form in ("sarif", "markdown", "html")}
        (run,) = json.loads(text["sarif"])["runs"]
        assert run["invocations"] == [{"executionSuccessful": True, "exitCode": code}]
        assert {result["level"] for result in run["results"]} == {level}
        headings = [text["markdown"].split("## ")[1], text["html"].split("title>")[1]]
        for heading in (*headings, shown(report).splitlines()[-1]):
            assert f"index {index.verdict}" in heading
        assert f'class="verdict {"warn" if code else "pass"}"' in text["html"]
        assert f"{index.plain} Only this is required. On outlier features it is" in " ".join(shown(report).split())
        assert re.findall(r"explain (\w+)", shown(report)) == ["cosine"] * code  # no step for the other verdict
    for require in ((), ("both",), "indexes"):
        with pytest.raises(rc.UsageError, match="require is"):
            assert but(report, required=require).exit_code
        with pytest.raises(rc.UsageError, match="require is"):  # before anything is looked for
            rc.compare("candidate.onnx", "reference.onnx", require=require)  # type: ignore[arg-type]


def test_no_line_is_too_wide_and_ascii_is_ascii() -> None:
    h = planted(features=(7, 40))
    report = judged(h @ rotation(384), h)
    for width, ascii_only in product((60, 80, 120), (False, True)):
        text = shown(report, width, ascii_only=ascii_only, verbose=True)
        assert max(map(len, text.splitlines())) <= width
        assert text.isascii() == ascii_only
        assert re.search(r"^ +7 +\+\d+\.\d .*(rotated away)$", text, re.MULTILINE)  # nothing is cut
        flat = " ".join(text.split())
        assert "linear CKA" in flat
        for reason in report.verdict.reasons:
            assert reason.id in flat


def test_bad_input(workshop: Workshop, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop.model("a", planted()).parent)
    workshop.model("b", planted())
    workshop.model("broken", np.full((80, 384), np.nan))
    Path("link").symlink_to("outside")
    call = f"compare --images {workshop.photos} --device cpu -o json=report.json"
    for words, said in {
        "a.onnx": "REFERENCE.onnx is missing",
        "a.onnx b.onnx --tolerance 1": "--tolerance is 1; it must be at least 0 and less than 1",
        "a.onnx b.onnx --baseline b.json": "compared with one of them",
        "a.onnx --baseline b.json": "baseline is not readable",
        "a.onnx --baseline b.onnx": "baseline is not JSON",
        "a.onnx --write-baseline x.json": "nothing is compared, so there is no report for --output",
        "a.onnx b.onnx --write-baseline a.onnx": "must not replace it",
        "a.onnx b.onnx --write-baseline report.json": "which a report uses too",
        "--strict -o html=link -- a.onnx b.onnx": "output is html=link, which follows a link",
        "--strict --write-baseline link -- a.onnx b.onnx": "--write-baseline is link, which follows a link",
        "--strict --write-baseline outside -- a.onnx": "REFERENCE.onnx is missing",
        "broken.onnx b.onnx": "broken.onnx: number of finite, not constant representations is 0 of 80",
    }.items():
        assert robustcheck(*f"{call} {words}".split()) == 2 + ("broken" in words)
        out, err = capsys.readouterr()
        assert (said in err, out) == (True, "")
        assert not Path("outside").exists()
    assert read_json(Path("report.json"))["error"]["exit_code"] == 3
    walls = Mock(side_effect=isolation.Wall)
    monkeypatch.setattr(isolation, "Wall", walls)
    assert robustcheck(*f"{call} a.onnx b.onnx".split()) == 0
    walls.assert_called_once()  # another one makes pictures, for a page alone
