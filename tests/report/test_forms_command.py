"""The forms as the command writes them: files, stdout, GitHub Actions.

That no earlier PASS stays where a run ends in its process is in cli/test_left_documents.py.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

from robustcheck_onnx.checker.report import forms, markdown, pipelines
from robustcheck_onnx.checker.text import error_json
from support import Capture, Patch, Place, onnx_models, read_json
from support.bad_input import Done, Typed, small_files
from support.keys import write_keys

Run = Callable[..., Done]
STRANGER = "a file of somebody else\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: Patch, capfd: Capture) -> Run:
    """Runs the command in this process, in the test's folder, with these variables of GitHub's runner."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return partial(Typed(capfd), "", folder=tmp_path)


def test_other_verbs_replace_an_earlier_document_when_their_work_starts(
    lookup_pass: Place, tmp_path: Path, run: Run, monkeypatch: Patch
) -> None:
    """What a killed process leaves is what stood there when the work was under way."""
    model, photos = lookup_pass
    place = tmp_path / "r.json"
    seen = []

    def left() -> int:
        return int(read_json(place)["error"]["exit_code"])

    def work(*_: object, **__: object) -> None:
        seen.append(left())
        raise MemoryError

    for function, words in {
        "compare.compare": ["compare", model, model, "--images", photos],
        "directions.run.directions": ["directions", model, "--images", photos],
        "scan.run.scan": ["scan", model, "--images", photos],
        "shift.run.measure_shift": ["shift", model, "--in", photos, "--shifted", photos],
        "verify.run.verify": ["verify", "report.json", model],
    }.items():
        place.write_text(error_json("stands for an earlier PASS", "", 3), encoding="utf-8")
        monkeypatch.setattr(f"robustcheck_onnx.checker.{function}", work)
        done = run(*words, "-o", "json=r.json")
        assert (done.returncode, left(), "error: memory" in done.stderr) == (4, 4, True), words
    assert seen == [137] * 5


def test_no_report_replaces_weights_beside_a_model(tmp_path: Path, run: Run) -> None:
    for name in ("store", "here"):
        (tmp_path / name).mkdir()
    weights = tmp_path / "store" / "m.onnx.data"
    model = onnx_models.save(onnx_models.encoder(), tmp_path / "store" / "m.onnx", external=True)
    content = weights.read_bytes()
    (tmp_path / "here" / "link").symlink_to(weights)
    (tmp_path / "here" / "hard").hardlink_to(weights)
    (tmp_path / "here" / "current.onnx").symlink_to(model)  # keeps its weights beside the target
    for given, words in (
        ("store/m.onnx", "-o junit=here/hard"),
        ("store/m.onnx", "-o json=store/{model}.onnx.data"),
        ("store/m.onnx", "--log-file store/m.onnx.data"),
        ("here/current.onnx", "-o json=here/link"),
        ("compare", "store/m.onnx --write-baseline store/m.onnx.data"),
    ):
        done = run(given, *words.split(), "-qq")
        assert done.returncode == 2, words
        assert done.stderr.count("is a file that this run reads; a report must not replace it") == 1
        assert weights.read_bytes() == content
    (tmp_path / "store" / "other.data").write_text(STRANGER)  # a file that the model does not name
    assert run("store/m.onnx", "--max-images", "3", "-qq", "-o", "json=store/other.data").returncode == 1


def test_an_error_is_one_document_on_stdout_and_no_pass_in_a_file(lookup_pass: Place, tmp_path: Path, run: Run) -> None:
    done = run("no.onnx", "-o", "junit")
    assert (done.returncode, ElementTree.fromstring(done.stdout).attrib["errors"]) == (2, "1")
    earlier, mine = tmp_path / "r.sarif", tmp_path / "mine.sarif"
    earlier.write_text(forms.render_error("sarif", "stands for an earlier PASS", "", 3))
    mine.write_text(STRANGER)
    with small_files():  # no room for the error
        done = run("no/" * 400 + "no.onnx", "-o", "sarif=r.sarif", "-o", "gitlab=mine.sarif")
    assert (done.returncode, earlier.exists(), mine.read_text()) == (2, False, STRANGER)
    assert run("compare", lookup_pass[0], lookup_pass[0], "-o", "cyclonedx").returncode == 2  # no form of a comparison


def test_a_form_that_fails_takes_neither_the_verdict_nor_another_form_with_it(
    lookup_pass: Place, tmp_path: Path, run: Run, monkeypatch: Patch
) -> None:
    def broken(*_: object) -> str:
        raise TypeError("no such argument")

    def told(form: str) -> str:
        return (tmp_path / form).read_text(encoding="utf-8")

    model, photos = map(str, lookup_pass)
    write_keys(tmp_path)
    check = [model, "--images", photos, "--sign", "key.pem", "-qq", "-o", "json=json", "-o", "markdown={model}.md"]
    done = run(*check, "-o", "sarif=/dev/full", "-o", "openmetrics")
    assert done.returncode == 4
    assert done.stderr.startswith("error: /dev/full: report is not written (No space left on device)")
    monkeypatch.setattr(pipelines, "write_junit", broken)
    monkeypatch.setattr(markdown, "write_markdown", broken)
    (tmp_path / "junit").write_text('<testsuites name="robustcheck"><testsuite name="x" failures="0"/></testsuites>')
    done = run(*check, "-o", "junit=junit", "-o", "openmetrics")
    assert done.returncode == 4
    assert done.stderr.startswith("error: internal error: TypeError: no such argument; internal error: TypeError: ")
    assert json.loads(told("json"))["verdict"]["verdict"] == "PASS"
    assert (tmp_path / "json.sigstore.json").exists()
    assert "\nrobustcheck_verdict{" in done.stdout
    assert told("junit").startswith("robustcheck: no verdict (exit code 4)\n")
    assert told("model.md") == told("junit")
    assert run(model, "--images", photos, "-o", "junit", "-o", "json=json").returncode == 4
    assert json.loads(told("json"))["verdict"]["verdict"] == "PASS"
    (tmp_path / "json").unlink()
    assert run("compare", model, model, "--images", photos, "-o", "junit=junit", "-o", "json=json").returncode == 4
    assert json.loads(told("json"))["verdict"]["verdict"] == "PASS"


def test_github_annotations_and_summary(lookup_pass: Place, tmp_path: Path, run: Run) -> None:
    model, photos = lookup_pass
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    here = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    call = [model, "--images", photos, "--max-images", "40", "--no-time"]
    done = run(*call, **here)
    assert (done.returncode, "▲ WARN" in done.stdout) == (1, True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert re.match(r"::warning file=.*title=robustcheck WARN · not_established%3A too few varied images::40 ", line)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- robustcheck report -->\n\n## ▲ WARN")
    assert "::" not in run(*call, "--no-ci", **here).stdout
    assert summary.read_text(encoding="utf-8") == text
    document = run(*call, "-o", "json", **here)
    assert json.loads(document.stdout)["verdict"]["verdict"] == "WARN"
    assert "::warning file=" in document.stderr
    error = run("no.onnx", "-o", "json", **here)
    assert json.loads(error.stdout)["error"]["exit_code"] == error.returncode == 2
    assert "::error file=no.onnx,line=1,title=robustcheck%3A could not assess::no.onnx" in error.stderr
    assert "✗ ERROR: no.onnx" in summary.read_text(encoding="utf-8")
    summary.write_text("x" * 2**20)  # GitHub takes no more
    for place, word in (("no/summary.md", "is not written"), ("summary.md", "is full")):
        done = run(*call, "-qq", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=place)
        assert done.returncode == 1
        assert re.match(f"note: GITHUB_STEP_SUMMARY .*{word}", done.stderr)
    assert summary.stat().st_size == 2**20
