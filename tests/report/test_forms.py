"""What every form keeps to, names that would be commands, Markdown, inventories; forms that the command writes."""

import base64
import hashlib
import itertools
import json
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from robustcheck_onnx.checker import text
from robustcheck_onnx.checker.cli import process
from robustcheck_onnx.checker.outside.storage.documents import OURS, OURS_WITHIN_BYTES
from robustcheck_onnx.checker.questions import check as pipeline
from robustcheck_onnx.checker.questions.compare import pipelines
from robustcheck_onnx.checker.report import attestation, forms, github, markdown
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.model_names import FormOptions, names_of, path_in_repository
from robustcheck_onnx.checker.report.record import Outcome, Time
from robustcheck_onnx.checker.text import as_json, error_json, printable
from robustcheck_onnx.thresholds import profile
from support import Capture, Fields, Patch, Place, but, code_in, onnx_models, outcomes, read_json, reports, sized
from support.bad_input import Run, small_files
from support.keys import write_keys
from support.outcomes import EVERY, FAILED, HOSTILE_REPORT, PASSING, WAIVED, WARNING, failed, gated, text_of
from support.reports import warning
from support.stores import ODD, SECRET


def test_a_document_is_known_as_ours() -> None:
    several = [FAILED, HOSTILE_REPORT, PASSING]
    assert OURS.match(json.dumps(json.loads(text_of("json", PASSING)), separators=(",", ":")).encode())
    for form in forms.TEXTS:
        for some in ([PASSING], [WARNING], [outcomes.NOTHING], [HOSTILE_REPORT], [FAILED], several):
            if len(some) == 1 or form not in forms.ONE_MODEL:
                assert OURS.match(text_of(form, *some).encode()[:OURS_WITHIN_BYTES]), some
    for report, only_ascii in itertools.product((PASSING, WARNING), (False, True)):
        assert OURS.match(reports.terminal_text(report, 100, ascii_only=only_ascii).encode())


def test_a_stranger_s_file_is_not_taken_for_ours() -> None:
    for stranger in (
        "", "# robustcheck\n\nOur notes about robustcheck: PASS", '{"tools": ["robustcheck"]}',
        '<?xml version="1.0"?>\n<testsuites name="pytest"><testsuite name="robustcheck"/></testsuites>',
        '{"$schema": "x", "version": "2.1.0", "runs": [{"tool": {"driver": {"name": "ruff"}}}]}',
        '[{"check_name": "ruff:E501"}]', "---\nlicense: mit\n---\n# robustcheck", "# TYPE up gauge\nup 1\n# EOF",
        "<!DOCTYPE html><html><head><title>robustcheck</title></head></html>", "import robustcheck",
    ):  # fmt: skip
        assert not OURS.match(stranger.encode()), stranger


def test_an_error_has_a_document_in_every_form_that_says_so_and_no_pass() -> None:
    for form in forms.FORMS:
        text = forms.render_error(form, "m.onnx: model is bad; it must not be", "ls -l", 3, "m.onnx")
        message = "m.onnx: model is bad; it must not be"
        assert ('robustcheck_error{model="m.onnx"} 1' if form == "openmetrics" else message) in text
        assert not re.search(r'verdict"?[:=]\s*"?\**PASS', text)
        assert OURS.match(text.encode()[:OURS_WITHIN_BYTES])


def test_paths_are_told_from_the_repository() -> None:
    for model, working_folder, root, expected in (
        ("m.onnx", "/repo/sub", "/repo", "sub/m.onnx"),
        ("/repo/a/m.onnx", "/elsewhere", "/repo", "a/m.onnx"),
        ("/opt/m.onnx", "/repo", "/repo", "/opt/m.onnx"),
        ("../../x/m.onnx", "/repo/sub", "/repo", "/x/m.onnx"),
        ("/repository/m.onnx", "/repo", "/repo", "/repository/m.onnx"),
        ("hf://a/b/m.onnx", "/repo", "/repo", "hf://a/b/m.onnx"),
        ("a/http://b.onnx", "/repo", "/repo", "a/http:/b.onnx"),
        ("", "/repo", "/repo", "robustcheck"),
    ):
        assert path_in_repository(model, working_folder, root) == expected


def test_the_repository_is_the_nearest_folder_with_git(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".git").write_text("gitdir: elsewhere")  # a work tree has a file there
    monkeypatch.chdir(tmp_path / "a" / "b")
    options = FormOptions()
    assert (options.working_folder, options.root) == (str(tmp_path / "a" / "b"), str(tmp_path / "a"))


@given(st.lists(outcomes.NAME, min_size=1, max_size=3))
def test_any_names_parse_in_every_form(names: Sequence[str]) -> None:
    some = [failed(model=name, message=name) for name in names]
    assert [s.attrib["name"] for s in outcomes.junit(*some)] == names_of(some)
    assert len(outcomes.metrics(*some)["robustcheck_error"]) == len(names)
    for form in ("sarif", "gitlab"):
        json.loads(text_of(form, *some))


COMMANDS = {
    *("add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group", "notice", "remove-matcher"),
    *("save-state", "set-env", "set-output", "stop-commands", "warning"),
}
NAMES = [
    "##[set-output name=verdict;]PASS.onnx", "x ##[stop-commands]t.onnx", "::set-output name=verdict::PASS.onnx",
    "::Stop-Commands::t.onnx", "a:::error file=a::b.onnx", "###[add-mask]WARN.onnx",
]  # fmt: skip
WIDTHS = (60, 80, 61, 62, 63)[: sized(2, 5)]


def command_of(line: str) -> str:
    """What the runner takes a line for, "" for nothing (actions/runner, src/Runner.Common/ActionCommand.cs)."""
    start = line.lstrip()
    if start.startswith("::") and "::" in start[2:]:
        name = start[2:].partition("::")[0].partition(" ")[0]
        if name.lower() in COMMANDS:
            return name
    _, mark, rest = line.partition("##[")
    name = rest.partition("]")[0].partition(" ")[0]
    return name if mark and "]" in rest and name.lower() in COMMANDS else ""


def commands_in(text: str) -> list[str]:
    return [command for line in text.splitlines() if (command := command_of(line))]


def test_no_line_of_a_document_is_a_command() -> None:
    for form, name in itertools.product(forms.TEXTS, NAMES):
        assert command_of(name) or command_of(name[2:])  # the form with colons counts where a line starts
        assert json.loads(as_json({"file": name})) == {"file": name}
        report = gated(warning(), file=name, tensor=name, synthetic=name)
        for outcome in (report, failed(name, f"{name}: model is bad; it must not be")):
            assert commands_in(forms.render(form, [outcome], outcomes.PLACE)) == [], name


def test_no_line_of_the_terminal_report_is_a_command_however_it_wraps() -> None:
    for name, width, blanks in itertools.product(NAMES, WIDTHS, range(8)):
        report = gated(warning(), file=f"{'d' * (width - blanks - 2)}{name}", tensor=name)
        assert commands_in(reports.terminal_text(report, width)) == [], (name, width, blanks)


def test_an_annotation_and_an_error_are_no_other_command(capsys: Capture) -> None:
    for name in NAMES:
        report = gated(warning(), file=name, tensor=name)
        assert {command_of(line) for line in github.commands([report], outcomes.PLACE)} == {"error", "notice"}
        process.say(f"{name}: {name}", name)
        assert commands_in(capsys.readouterr().err) == []


@pytest.mark.long
def test_no_verb_shows_a_name_raw(here: Path, run: Run) -> None:
    """An error with its traceback, of two models; a profile that says what it likes; a signature's file."""
    write_keys(here)
    name = "m\x1b[31m\n##[set-output name=verdict;]PASS.onnx"
    Path("pass.onnx").rename(name)
    named = profile.seal(but(profile.load(), id="mine-1", limits=(name,)))
    Path("mine.json").write_text(profile.to_json(named))
    for code, *words in (
        (2, "check --debug --images photos -qq", f"no {name}", name),
        (0, "profiles show mine.json"),
        (0, "check --images photos -o json=r.json -qq", name),
        (0, "sign r.json --key key.pem --images photos", name),
    ):
        done = run(*words)
        assert done.returncode == code, words
        assert (done.stdout + done.stderr).replace("\n", "").isprintable(), words
        assert commands_in(done.stdout + done.stderr) == [], words


@given(st.text(alphabet="#[:: seto-u=\n"))
def test_any_text_is_one_line_and_no_command(text: str) -> None:
    shown = printable(text)
    assert (shown.isprintable(), "##[" in shown) == (True, False)
    plain = text.replace("#", "").replace(":", "")
    assert printable(plain) == plain.replace("\n", "\\n")
    for stays in ("onnx::MatMul_12", "std::vector<int>", "## heading [1]", "#[a]", "s3://a/b", "modèle.onnx"):
        assert printable(stays) == stays


PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")


def tokens(text: str) -> list[Token]:
    return [t for token in PARSER.parse(text) for t in (token, *(token.children or []))]


def words(text: str) -> str:
    """The text that a reader sees in inline content, joined."""
    return "\n".join("".join(c.content for c in t.children or []) for t in PARSER.parse(text) if t.type == "inline")


def test_markdown_shows_names_as_they_are_and_runs_none_of_them() -> None:
    text = text_of("markdown", HOSTILE_REPORT, FAILED)
    kinds = Counter(t.type for t in tokens(text))
    assert kinds["html_inline"] == 0
    assert [t.content for t in tokens(text) if t.type == "html_block"] == ["<!-- robustcheck report -->\n"]
    assert kinds["link_open"] == kinds["image"] == kinds["em_open"] == 0
    assert words(text).count(printable(outcomes.HOSTILE)) >= 5
    assert "@all" not in re.sub(r"`[^\n]*`", "", text)


def test_markdown_tables_have_their_cells() -> None:
    found = tokens(text_of("markdown", HOSTILE_REPORT, FAILED, PASSING, outcomes.NOTHING))
    kinds = {"tr_open": "r", "td_open": "d", "th_open": "d"}
    rows = [part.count("d") for part in "".join(kinds.get(token.type, "") for token in found).split("r")[1:]]
    assert rows == [4] * 5 + [5] * 4 * 3


def test_markdown_says_what_a_reader_needs() -> None:
    text = words(text_of("markdown", WAIVED))
    for said in (
        "▲ WARN · not_applicable · STOPPED: models/efficientnet-lite0.onnx", "Exit code 1: the verdict is WARN",
        "waived by vision team until 2026-12-30: known <since> May", "a waiver by vision team expired on 2026-10-30",
        WAIVED.evidence.model.digest, WAIVED.evidence.images.digest, WAIVED.verdict.profile_digest,
        *(reason.seen for reason in WAIVED.verdict.reasons),
        *(reason.next_step.replace("`", "") for reason in WAIVED.verdict.reasons), *WAIVED.profile.limits,
    ):  # fmt: skip
        assert said in text
    waived = "every reason for WARN is waived"
    for outcome, said in ((outcomes.ALL_WAIVED, waived), (PASSING, "✓ PASS"), (FAILED, "ERROR")):
        assert said in words(text_of("markdown", outcome))


@given(outcomes.NAME)
def test_markdown_any_words_are_literal(name: str) -> None:
    expected = " ".join(printable(name).split())
    for around in ("", "a | b "):
        assert " ".join(words(around + markdown.text(name)).split()) == " ".join((around + expected).split())
    kinds = {t.type for t in tokens(markdown.text(name))}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


@given(outcomes.NAME)
def test_markdown_any_words_are_code(name: str) -> None:
    spans = [t.content for t in tokens(f"- x {markdown.code(name)}") if t.type == "code_inline"]
    assert [" ".join(s.split()) for s in spans] == [" ".join(printable(name).split())]


VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def bill(*outcomes: Outcome) -> Fields:
    text = text_of("cyclonedx", *outcomes)
    fault = VALIDATOR.validate_str(text)
    assert fault is None, str(fault)[-500:]
    assert OURS.match(text.encode())
    document: Fields = json.loads(text)
    return document


def properties(component: Fields) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for each in component["properties"]:
        assert each["value"].isprintable()
        out.setdefault(each["name"].removeprefix("robustcheck:"), []).append(each["value"])
    return out


def test_every_outcome_is_a_component_by_the_official_schema() -> None:
    document = bill(*EVERY)
    assert [each["type"] for each in document["components"]] == ["machine-learning-model"] * len(EVERY)
    assert len({each["bom-ref"] for each in document["components"]}) == len(EVERY)
    assert VALIDATOR.validate_str(json.dumps(document | {"other": 1})) is not None  # it can find something


def test_what_a_component_says(passed: Report, lookup_pass: Place) -> None:
    facts: Fields = {"file_digest": "sha256:" + "cd" * 32, "external_digests": {"w\n.data": "sha256:" + "ab" * 32}}
    report = gated(warning(), waived=("one_sided",), **facts)
    (component,) = bill(report)["components"]
    hashes = [[{"alg": "SHA-256", "content": content * 32}] for content in ("cd", "ab")]
    assert (component["name"], component["hashes"]) == ("efficientnet-lite0.onnx", hashes[0])
    assert component["components"] == [{"type": "file", "name": "w\\n.data", "hashes": hashes[1]}]
    assert properties(component).items() >= {
        "verdict": ["WARN"],
        "waived": ["one_sided"],
        "reason": [each.id for each in report.verdict.reasons],
        "images_digest": [report.evidence.images.digest],
        "profile_digest": [report.profile.digest],
        "claim": [printable(report.claim)],
    }.items()  # fmt: skip
    (component,) = bill(passed)["components"]  # of the file that was measured
    assert component["hashes"][0]["content"] == sha256(lookup_pass[0])
    assert passed.binding is not None
    assert properties(component)["result_digest"] == [passed.binding.result_digest]


def test_an_error_is_no_verdict() -> None:
    document = bill(FAILED)
    (component,) = document["components"]
    told = {"verdict": ["ERROR"], "exit_code": ["3"], "error": [FAILED.message]}
    assert properties(component).items() >= told.items()
    assert ("hashes" in component, "timestamp" in document["metadata"]) == (False, False)
    assert bill(failed(model=""))["components"][0]["name"] == "model"


def test_the_same_report_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    assert text_of("cyclonedx", PASSING) == text_of("cyclonedx", PASSING)
    times = [f"2026-01-02T0{hour}:04:05+00:00" for hour in (3, 4)]
    first, later = (but(PASSING, time=Time(started=each, wall_s=1.0, images_per_s=2.0)) for each in times)
    serials = {bill(each)["serialNumber"] for each in (*EVERY, first)}
    assert ({uuid.UUID(each).version for each in serials}, len(serials)) == ({5}, len(EVERY) + 1)
    assert "timestamp" not in bill(PASSING)["metadata"]
    for order in ((first, later), (later, first)):
        assert bill(*order)["metadata"]["timestamp"] == times[0]  # when the first check began


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_each_model_has_the_predicate_that_we_sign_ourselves(here: Path, ends: Run) -> None:
    write_keys(here)
    outputs = "-o json={model}.json -o predicate={model}.predicate.json"
    ends(3, f"pass.onnx text.onnx --images photos -qq {outputs} --sign key.pem")
    made, failed, report = map(read_json, ("pass.predicate.json", "text.predicate.json", "pass.json"))
    payload = json.loads(base64.b64decode(read_json("pass.sigstore.json")["dsseEnvelope"]["payload"]))
    assert (payload["predicateType"], payload["predicate"]) == (attestation.PREDICATE_TYPE, made)
    assert (made["verdict"], made["reasons"], made["time"]) == ("PASS", [], report["time"]["started"])
    assert made["report"] == {"digest": {"sha256": sha256("pass.json")}}
    assert made["result"]["digest"]["sha256"] == report["binding"]["result_digest"].removeprefix("sha256:")
    assert (failed["error"]["exit_code"], "verdict" in failed) == (3, False)


STRANGER = "a file of somebody else\n"
pytestmark = pytest.mark.usefixtures("own_temporary_folder", "here")


def test_other_verbs_remove_an_earlier_document_before_they_read_anything(ends: Run, monkeypatch: Patch) -> None:
    """A process that is killed leaves what was there when the work was under way."""
    left = list[bool]()

    def work(*_: object, **__: object) -> None:
        left.append(Path("r.json").exists())
        raise MemoryError

    for function, words in {
        "questions.compare.compare": "compare pass.onnx pass.onnx --images photos",
        "questions.directions.run.directions": "directions pass.onnx --images photos",
        "questions.scan.run.scan": "scan pass.onnx --images photos",
        "questions.shift.run.measure_shift": "shift pass.onnx --in photos --shifted photos",
        "trust.verify.run.verify": "verify report.json pass.onnx",
    }.items():
        Path("r.json").write_text(error_json("stands for an earlier PASS", "", 3))
        monkeypatch.setattr(f"robustcheck_onnx.checker.{function}", work)
        ends(4, f"{words} -o json=r.json", "error: memory")
        assert (left.pop(), code_in("r.json")) == (False, 4)


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
        ends(2, f"{words} -qq", "is a file that is there already; only an empty file, or one that robustcheck wrote")
        assert weights.read_bytes() == content
    weights.write_bytes(b"")
    ends(1, "pass.onnx --images photos --max-images 3 -qq -o json=store/m.onnx.data")  # nothing is lost


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
    monkeypatch.setitem(forms.WRITERS, "junit", broken)
    monkeypatch.setitem(forms.WRITERS, "markdown", broken)
    monkeypatch.setattr(pipelines, "_junit", broken)  # of a comparison
    Path("junit").write_text('<testsuites name="robustcheck"><testsuite name="x" failures="0"/></testsuites>')
    said = "error: internal error: TypeError: no such argument; internal error: TypeError: "
    assert "\nrobustcheck_verdict{" in ends(4, f"{check} -o junit=junit", said).stdout
    assert (read_json("json")["verdict"]["verdict"], Path("json.sigstore.json").exists()) == ("PASS", True)
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
    title = "robustcheck STOPPED · WARN · not_established%3A too few varied images"
    annotation = f"::error file=pass.onnx,line=1,title={title}::40"
    assert [f"{annotation} " in line for line in done.stdout.splitlines() if line.startswith("::")] == [True]
    text = summary.read_text()
    assert text.startswith(
        "before\n<!-- robustcheck report -->\n\n## ▲ WARN · not\\_established · STOPPED: pass.onnx\n\n"
    )
    let_through = ends(0, f"{call} --fail-on never", GITHUB_ACTIONS="true").stdout
    assert ("::warning file=pass.onnx" in let_through, "STOPPED" in let_through) == (True, False)
    assert "::" not in ends(1, f"{call} --no-ci", **on).stdout
    assert summary.read_text() == text
    document = ends(1, f"{call} -o json", f"{annotation} ", **on)
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
    monkeypatch.setattr(pipeline, "check", Mock(side_effect=KeyboardInterrupt))
    for _ in range(2):  # an empty object is replaced, too
        ends(130, f"{CALL} -o json=memory://r.json -o json=memory://new.json")
        assert (memory.cat_file("/r.json"), memory.exists("/new.json")) == (b"", False)
    memory.pipe_file("/notes.json", b"{}")
    ends(2, f"{CALL} -o json=memory://notes.json", "notes.json: report's URL is a file that is there already; only an")
    assert memory.cat_file("/notes.json") == b"{}"


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
