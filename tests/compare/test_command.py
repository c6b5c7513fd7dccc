"""robustcheck compare as a command: exit codes, documents, the terminal report, bad input."""

import json
import re
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.compare.index import IndexOptions, IndexReport
from robustcheck_onnx.checker.compare.judge import CompareReport
from support import Capture, Patch, but, raised, read_json, robustcheck
from support.comparisons import Workshop, alike, ids, judged, planted, rotation
from support.screens import shown


def test_the_command_says_it_by_exit_code_and_in_every_format(workshop: Workshop, capsys: Capture) -> None:
    h = planted()
    a, b = workshop.model("candidate", h), workshop.model("reference", h)
    out = workshop.folder / "report.json"
    call = ["compare", a, b, "--images", workshop.photos, "--device", "cpu", "--no-time"]
    assert robustcheck(*call, "-o", f"json={out}") == 0
    assert "✓ PASS" in capsys.readouterr().out
    assert robustcheck(*call, "-o", "json") == 0
    first = capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == first
    report = CompareReport.model_validate_json(first)
    assert (report.document, report.passed, report.n_images, report.time) == ("compare", True, 80, None)
    assert (alike(report).cka, alike(report).cosine_change) == pytest.approx((1, 0), abs=1e-9)
    assert any("same file" in note for note in report.notes)
    workshop.model("candidate", h @ rotation(384))
    assert robustcheck(*call, "-q") == 1
    assert re.fullmatch(rf"WARN · \w+ {re.escape(str(a))}: [\w, ]+\n", capsys.readouterr().out)


def test_each_form_is_of_its_kind_and_tells_the_verdict() -> None:
    lost = judged(planted() @ rotation(384), planted())
    assert CompareReport.model_validate_json(lost.to_json()).model_dump() == lost.model_dump()
    failures = ElementTree.fromstring(lost.to_junit()).iter("failure")
    assert {failure.attrib["type"] for failure in failures} == ids(lost)
    (run,) = json.loads(lost.to_sarif())["runs"]
    assert {result["ruleId"] for result in run["results"]} == ids(lost)
    assert run["automationDetails"]["id"].startswith("robustcheck-compare/")
    heading = f"WARN · {lost.kind}: {lost.candidate.evidence.model.file}"
    assert heading.replace("_", r"\_") in lost.to_markdown()


def test_a_required_index_verdict_is_named_and_decides_in_every_form() -> None:
    h, fits = planted(), IndexReport(options=IndexOptions())
    for candidate, index, code, level in (
        (h, fits.because("cosine", "re-embed", "seen", "step"), 1, "warning"),
        (h @ rotation(384), fits, 0, "note"),
    ):
        report = but(judged(candidate, h), index=index, required=("index",))
        (run,) = json.loads(report.to_sarif())["runs"]
        assert run["invocations"] == [{"executionSuccessful": True, "exitCode": code}]
        assert {result["level"] for result in run["results"]} == {level}
        page, text = report.to_html(), shown(report)
        headings = report.to_markdown().split("## ")[1], page.split("title>")[1], text.splitlines()[-1]
        assert all(f"index {index.verdict}" in heading for heading in headings)
        assert f'class="verdict {"warn" if code else "pass"}"' in page
        assert f"{index.plain} Only this is required. On outlier features it is" in " ".join(text.split())
        assert re.findall(r"explain (\w+)", text) == ["cosine"] * code  # no step for the other verdict
    for require in ((), ("both",), "indexes"):
        with pytest.raises(rc.UsageError, match="require is"):
            assert but(report, required=require).exit_code
        # before anything is looked for
        raised(rc.UsageError, "require is", rc.compare, "candidate.onnx", "reference.onnx", require=require)


def test_bad_input(workshop: Workshop, capsys: Capture, monkeypatch: Patch) -> None:
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
