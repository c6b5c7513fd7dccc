"""The forms as the command writes them: files, stdout, stores, GitHub Actions.

That no earlier PASS stays where a run ends in its process is in cli/test_left_documents.py."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest

from robustcheck_onnx.checker import pipeline, text
from robustcheck_onnx.checker.report import forms, markdown, pipelines
from robustcheck_onnx.checker.text import error_json
from support import Patch, code_in, onnx_models, read_json
from support.bad_input import Run, small_files
from support.keys import write_keys
from support.stores import ODD, SECRET

STRANGER = "a file of somebody else\n"
pytestmark = pytest.mark.usefixtures("own_temporary_folder", "here")


def test_other_verbs_replace_an_earlier_document_when_their_work_starts(ends: Run, monkeypatch: Patch) -> None:
    """What a killed process leaves is what stood there when the work was under way."""
    left = list[int]()

    def work(*_: object, **__: object) -> None:
        left.append(code_in("r.json"))
        raise MemoryError

    for function, words in {
        "compare.compare": "compare pass.onnx pass.onnx --images photos",
        "directions.run.directions": "directions pass.onnx --images photos",
        "scan.run.scan": "scan pass.onnx --images photos",
        "shift.run.measure_shift": "shift pass.onnx --in photos --shifted photos",
        "verify.run.verify": "verify report.json pass.onnx",
    }.items():
        Path("r.json").write_text(error_json("stands for an earlier PASS", "", 3))
        monkeypatch.setattr(f"robustcheck_onnx.checker.{function}", work)
        ends(4, f"{words} -o json=r.json", "error: memory")
        assert (left.pop(), code_in("r.json")) == (137, 4)


def test_no_report_replaces_weights_beside_a_model(ends: Run) -> None:
    Path("store").mkdir()
    weights = Path("store/m.onnx.data")
    onnx_models.save(onnx_models.encoder(), Path("store/m.onnx"), external=True)
    content = weights.read_bytes()
    Path("link").symlink_to(weights)
    Path("hard").hardlink_to(weights)
    Path("current.onnx").symlink_to("store/m.onnx")  # keeps its weights beside the target
    for words in (
        "store/m.onnx -o junit=hard",
        "store/m.onnx -o json=store/{model}.onnx.data",
        "store/m.onnx --log-file store/m.onnx.data",
        "current.onnx -o json=link",
        "compare store/m.onnx --write-baseline store/m.onnx.data",
    ):
        ends(2, f"{words} -qq", "is a file that this run reads; a report must not replace it")
        assert weights.read_bytes() == content
    Path("store/other.data").write_text(STRANGER)  # a file that the model does not name
    ends(1, "store/m.onnx --max-images 3 -qq -o json=store/other.data")


def test_an_error_is_one_document_on_stdout_and_no_pass_in_a_file(ends: Run) -> None:
    done = ends(2, "no.onnx -o junit")
    assert ElementTree.fromstring(done.stdout).attrib["errors"] == "1"
    earlier, mine = Path("r.sarif"), Path("mine.sarif")
    earlier.write_text(forms.render_error("sarif", "stands for an earlier PASS", "", 3))
    mine.write_text(STRANGER)
    with small_files():  # no room for the error
        ends(2, f"{'no/' * 400}no.onnx -o sarif=r.sarif -o gitlab=mine.sarif")
    assert (earlier.exists(), mine.read_text()) == (False, STRANGER)
    ends(2, "compare pass.onnx pass.onnx -o cyclonedx")  # no form of a comparison


def test_a_form_that_fails_takes_neither_the_verdict_nor_another_form_with_it(ends: Run, monkeypatch: Patch) -> None:
    write_keys(Path())
    json = "--images photos -qq -o json=json"
    check = f"pass.onnx {json} --sign key.pem -o markdown={{model}}.md -o openmetrics"
    ends(4, f"{check} -o sarif=/dev/full", "error: /dev/full: report is not written (No space left on device)")
    broken = Mock(side_effect=TypeError("no such argument"))
    monkeypatch.setattr(pipelines, "write_junit", broken)
    monkeypatch.setattr(markdown, "write_markdown", broken)
    Path("junit").write_text('<testsuites name="robustcheck"><testsuite name="x" failures="0"/></testsuites>')
    said = "error: internal error: TypeError: no such argument; internal error: TypeError: "
    assert "\nrobustcheck_verdict{" in ends(4, f"{check} -o junit=junit", said).stdout
    assert read_json("json")["verdict"]["verdict"] == "PASS"
    assert Path("json.sigstore.json").exists()
    for name in ("junit", "pass.md"):
        assert Path(name).read_text().startswith("robustcheck: no verdict (exit code 4)\n")
    for words in ("pass.onnx -o junit", "compare pass.onnx pass.onnx -o junit=junit"):
        Path("json").unlink()
        ends(4, f"{words} {json}")
        assert read_json("json")["verdict"]["verdict"] == "PASS"


def test_github_annotations_and_summary(here: Path, ends: Run) -> None:
    summary = here / "summary.md"
    summary.write_text("before\n")
    on = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    call = "pass.onnx --images photos --max-images 40 --no-time"
    done = ends(1, call, **on)
    assert "▲ WARN" in done.stdout
    annotation = (
        "::warning file=pass.onnx,line=1,title=robustcheck WARN · not_established%3A too few varied images::40 "
    )
    assert [annotation in line for line in done.stdout.splitlines() if line.startswith("::")] == [True]
    text = summary.read_text()
    assert text.startswith("before\n<!-- robustcheck report -->\n\n## ▲ WARN")
    assert "::" not in ends(1, f"{call} --no-ci", **on).stdout
    assert summary.read_text() == text
    document = ends(1, f"{call} -o json", annotation, **on)
    assert json.loads(document.stdout)["verdict"]["verdict"] == "WARN"
    said = "::error file=no.onnx,line=1,title=robustcheck%3A could not assess::no.onnx"
    assert json.loads(ends(2, "no.onnx -o json", said, **on).stdout)["error"]["exit_code"] == 2
    assert "✗ ERROR: no.onnx" in summary.read_text()
    summary.write_text("x" * 2**20)  # GitHub takes no more
    for place, said in (("no/summary.md", "is not written"), ("summary.md", "is full")):
        ends(1, f"{call} -qq", "note: GITHUB_STEP_SUMMARY", said, **on | {"GITHUB_STEP_SUMMARY": place})
    assert summary.stat().st_size == 2**20


CALL = "pass.onnx --images photos -qq --no-time"


def error_code(content: bytes) -> int:
    return int(json.loads(content)["error"]["exit_code"])


def test_reports_are_put_into_stores(ends: Run, memory: Any) -> None:
    odd = f"-o 'json=memory://{ODD}/r.json'"
    ends(0, f"{CALL} {odd} -o json=file://{Path.cwd()}/f.json -o json=p.json")
    content = memory.cat_file(f"/{ODD}/r.json")
    assert json.loads(content)["verdict"]["verdict"] == "PASS"
    assert content == Path("f.json").read_bytes() == Path("p.json").read_bytes()
    # a run that fails leaves an error, but never in place of what is not a report
    memory.pipe_file("/notes.json", b"{}")
    ends(2, f"gone.onnx {odd} -o json=memory://notes.json")
    assert error_code(memory.cat_file(f"/{ODD}/r.json")) == 2
    assert memory.cat_file("/notes.json") == b"{}"


def test_a_store_holds_no_earlier_pass_while_a_check_runs(ends: Run, memory: Any, monkeypatch: Patch) -> None:
    """Who is killed leaves what stands there; who is stopped by a signal does not wait for a store."""
    memory.pipe_file("/r.json", text.error_json("stands for an earlier PASS", "", 3).encode())
    memory.pipe_file("/notes.json", b"{}")  # what is not a report stays until there is a result
    monkeypatch.setattr(pipeline, "check", Mock(side_effect=KeyboardInterrupt))
    ends(130, f"{CALL} -o json=memory://r.json -o json=memory://new.json -o json=memory://notes.json")
    assert error_code(memory.cat_file("/r.json")) == 137
    assert (memory.exists("/new.json"), memory.cat_file("/notes.json")) == (False, b"{}")


def test_reports_that_cannot_be_put_there(ends: Run, memory: Any, monkeypatch: Patch) -> None:
    calls = {
        f"{CALL} -o json=https://u:{SECRET}@h/r.json": 2,
        f"{CALL} -o json=memory://folder/": 2,
        "memory://m.onnx -o json=memory://m.onnx": 2,
        f"{CALL} -o json=memory://r.json": 4,  # the verdict was PASS
    }
    refused = PermissionError(f"no write for s3://r.json?sig={SECRET}")
    monkeypatch.setattr(type(memory), "pipe_file", Mock(side_effect=refused))
    for call, code in calls.items():
        done = ends(code, call, "no write for" if code == 4 else "error: ")
        assert SECRET not in done.stdout + done.stderr
    assert not memory.exists("/r.json")


def test_a_run_with_urls_shows_no_key_anywhere(ends: Run, here: Path, memory: Any) -> None:
    memory.pipe_file("/m.onnx", Path("pass.onnx").read_bytes())
    forms = ("json", "junit", "sarif", "markdown", "html", "openmetrics", "gitlab", "terminal")
    wanted = " ".join(f"-o {form}=report.{form}" for form in forms)
    bad = f"https://u:{SECRET}@127.0.0.1:9/x?X-Amz-Signature={SECRET}"
    for code, call in (
        (4, f"{bad} memory://m.onnx --images photos {wanted}"),  # one fails, one passes
        (0, f"check --images {bad} --show-settings"),
        (2, f"{bad} --offline {wanted}"),
    ):
        done = ends(code, f"{call} --debug -v")
        said = done.stdout + done.stderr + "".join(path.read_text() for path in here.glob("report.*"))
        assert (SECRET in said, "127.0.0.1:9/x?***" in done.stdout + done.stderr) == (False, True), call
