"""The forms as the command writes them: files, stdout, GitHub Actions; what is left after an error."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from robustcheck_onnx.checker import formats

COMMAND = str(Path(sys.executable).parent / "robustcheck")
STRANGER = "a file of somebody else\n"


def small_files() -> None:
    """Files of at most 1 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def run(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
    return subprocess.run(
        [COMMAND, *map(str, arguments), "--device", "cpu"],
        capture_output=True, text=True, check=False, cwd=folder, env=plain | environment,
    )  # fmt: skip


def everywhere(folder: Path) -> list[str]:
    return [word for form in formats.NAMES for word in ("-o", f"{form}={folder / form}")]


def test_no_pass_of_an_earlier_run_survives_an_error(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    (tmp_path / "m.onnx").write_bytes(model.read_bytes())
    call = ["m.onnx", "--images", str(photos), *everywhere(tmp_path), "-q"]
    done = run(tmp_path, *call)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    before = {form: (tmp_path / form).read_text(encoding="utf-8") for form in formats.NAMES}
    assert before["gitlab"] == "[]\n"
    (tmp_path / "m.onnx").write_bytes(b"no model")
    assert run(tmp_path, *call).returncode == 3
    after = {form: (tmp_path / form).read_text(encoding="utf-8") for form in formats.NAMES}
    for form in formats.NAMES:
        assert after[form] != before[form]
        assert "m.onnx" in after[form]
    assert json.loads(after["json"])["error"]["exit_code"] == 3
    assert ElementTree.fromstring(after["junit"]).attrib["errors"] == "1"
    assert json.loads(after["sarif"])["runs"][0]["invocations"][0]["executionSuccessful"] is False
    assert json.loads(after["gitlab"])[0]["severity"] == "blocker"
    assert after["terminal"].startswith("robustcheck: no verdict (exit code 3)\nerror: m.onnx")
    for form in formats.NAMES:  # a run that works again replaces them, whatever they hold
        (tmp_path / form).write_text(STRANGER)
    assert run(tmp_path, *call).returncode == 3
    for form in formats.NAMES:  # a run that failed may have been given a wrong path
        assert (tmp_path / form).read_text() == STRANGER
    (tmp_path / "m.onnx").write_bytes(model.read_bytes())
    assert run(tmp_path, *call).returncode == 0
    assert STRANGER not in {(tmp_path / form).read_text(encoding="utf-8") for form in formats.NAMES}


@pytest.mark.parametrize("form", ["junit", "sarif"])
def test_an_error_on_stdout_is_one_document(form: str, tmp_path: Path) -> None:
    done = run(tmp_path, "no.onnx", "-o", form)
    assert done.returncode in {2, 3}
    if form == "junit":
        assert ElementTree.fromstring(done.stdout).attrib["errors"] == "1"
    else:
        assert json.loads(done.stdout)["runs"][0]["invocations"][0]["exitCode"] == done.returncode
    assert done.stderr.startswith("error: no.onnx")


def test_a_disk_without_room_for_the_error_keeps_no_pass(tmp_path: Path) -> None:
    stale = formats.render_error("sarif", "stands for an earlier PASS", "", 3)
    (tmp_path / "r.sarif").write_text(stale)
    (tmp_path / "mine.sarif").write_text(STRANGER)
    done = subprocess.run(
        [COMMAND, "no.onnx", "-o", "sarif=r.sarif", "-o", "gitlab=mine.sarif"],
        capture_output=True, text=True, check=False, cwd=tmp_path, preexec_fn=small_files,
    )  # fmt: skip
    assert done.returncode in {2, 3}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.sarif": STRANGER}


def test_a_report_that_can_not_be_written_or_made_is_exit_4(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    call = [str(model), "--images", str(photos), "-q", "-o", f"markdown={tmp_path / 'r.md'}"]
    full = run(tmp_path, *call, "-o", "junit=/dev/full")
    assert full.returncode == 4
    assert "ERROR" in (tmp_path / "r.md").read_text(encoding="utf-8")  # it was written as a PASS before
    assert "PASS" not in (tmp_path / "r.md").read_text(encoding="utf-8").replace("That is never a PASS", "")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "junitparser.py").write_text("raise ImportError('not here', name='junitparser')")
    (tmp_path / "r.xml").write_text('<testsuites name="robustcheck"><testsuite name="x" failures="0"/></testsuites>')
    missing = run(tmp_path, *call, "-o", f"junit={tmp_path / 'r.xml'}", PYTHONPATH=str(broken))
    assert missing.returncode == 4
    assert (tmp_path / "r.xml").read_text().startswith("robustcheck: no verdict (exit code 4)\n")


def test_github_annotations_and_summary(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    here = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    call = [str(model), "--images", str(photos), "--max-images", "40", "--no-time"]
    done = run(tmp_path, *call, **here)
    assert (done.returncode, done.stderr) == (1, "")
    assert "▲ WARN" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert line.startswith("::warning file=")
    assert "title=robustcheck WARN%3A too few varied images::40 varied images were measured" in line
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- robustcheck report -->\n\n## ▲ WARN")
    assert "::" not in run(tmp_path, *call, "--no-ci", **here).stdout
    assert summary.read_text(encoding="utf-8") == text
    document = run(tmp_path, *call, "-o", "json", **here)
    assert json.loads(document.stdout)["verdict"]["verdict"] == "WARN"
    assert document.stderr.startswith("::warning file=")
    error = run(tmp_path, "no.onnx", "-o", "json", **here)
    assert error.returncode in {2, 3}
    assert json.loads(error.stdout)["error"]
    assert "::error file=no.onnx,line=1,title=robustcheck%3A could not assess::no.onnx" in error.stderr
    assert "✗ ERROR: no.onnx" in summary.read_text(encoding="utf-8")


def test_a_summary_that_can_not_be_written_changes_no_verdict(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    call = [str(model), "--images", str(photos), "-q"]
    for place, word in ((tmp_path / "no" / "summary.md", "is not written"), (tmp_path / "full.md", "is full")):
        if place.parent.exists():
            place.write_text("x" * 2**20)
        done = run(tmp_path, *call, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(place))
        assert done.returncode == 0
        assert done.stderr.startswith("note: GITHUB_STEP_SUMMARY ")
        assert word in done.stderr
    assert (tmp_path / "full.md").stat().st_size == 2**20


def test_compare_in_the_forms_for_pipelines(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    call = ["compare", str(model), str(model), "--images", str(photos), "-q", "--no-time"]
    places = [word for form in ("junit", "sarif", "markdown") for word in ("-o", f"{form}={tmp_path / form}")]
    assert run(tmp_path, *call, *places).returncode == 0
    assert ElementTree.fromstring((tmp_path / "junit").read_text()).attrib["failures"] == "0"
    assert "## ✓ PASS" in (tmp_path / "markdown").read_text(encoding="utf-8")
    assert run(tmp_path, *call, *places, "--max-images", "40").returncode == 1
    results = json.loads((tmp_path / "sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    failures = ElementTree.fromstring((tmp_path / "junit").read_text()).iter("failure")
    found = {result["ruleId"] for result in results}
    assert "too_few_images" in found
    assert {failure.attrib["type"] for failure in failures} == found
    assert "## ▲ WARN" in (tmp_path / "markdown").read_text(encoding="utf-8")
    refused = run(tmp_path, *call, "-o", "csv")
    assert refused.returncode == 2
    assert "it must be one of terminal, json, junit, markdown, sarif" in refused.stderr
