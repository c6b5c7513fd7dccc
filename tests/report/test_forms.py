"""What every form of the report keeps to, names that would be commands of a pipeline, Markdown, inventories."""

import base64
import hashlib
import itertools
import json
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from robustcheck_onnx.checker.cli import process
from robustcheck_onnx.checker.report import forms, markdown, pipelines, record
from robustcheck_onnx.checker.report.forms import names_of, path_in_repository
from robustcheck_onnx.checker.report.record import Outcome, Report, Time
from robustcheck_onnx.checker.storage import stores
from robustcheck_onnx.checker.storage.stores import OURS
from robustcheck_onnx.checker.text import as_json, printable
from robustcheck_onnx.thresholds import profile
from support import Capture, Fields, Place, but, read_json, reports, sized
from support.bad_input import Run
from support.keys import write_keys
from support.outcomes import (
    ALL_WAIVED,
    EVERY,
    FAILED,
    HOSTILE,
    HOSTILE_REPORT,
    NAME,
    NOTHING,
    PASSING,
    PLACE,
    WAIVED,
    WARNING,
    failed,
    gated,
    junit,
    metrics,
    text_of,
)
from support.reports import warning


def test_a_document_is_known_as_ours() -> None:
    several = [FAILED, HOSTILE_REPORT, PASSING]
    for form in forms.TEXTS:
        for outcomes in ([PASSING], [WARNING], [NOTHING], [HOSTILE_REPORT], [FAILED], several):
            if len(outcomes) == 1 or form not in forms.ONE_MODEL:
                assert OURS.match(text_of(form, *outcomes).encode()[: stores.OURS_WITHIN_BYTES]), outcomes
    for report, only_ascii in itertools.product((PASSING, WARNING), (False, True)):
        assert OURS.match(reports.terminal_text(report, 100, ascii_only=only_ascii).encode())


def test_a_stranger_s_file_is_not_taken_for_ours() -> None:
    for stranger in (
        "",
        "# robustcheck\n\nOur notes about robustcheck: PASS",
        '{"tools": ["robustcheck"]}',
        '<?xml version="1.0"?>\n<testsuites name="pytest"><testsuite name="robustcheck"/></testsuites>',
        '{"$schema": "x", "version": "2.1.0", "runs": [{"tool": {"driver": {"name": "ruff"}}}]}',
        '[{"check_name": "ruff:E501"}]',
        "---\nlicense: mit\n---\n# robustcheck",
        "# TYPE up gauge\nup 1\n# EOF",
        "<!DOCTYPE html><html><head><title>robustcheck</title></head></html>",
        "import robustcheck",
    ):
        assert not OURS.match(stranger.encode()), stranger


def test_an_error_has_a_document_in_every_form_that_says_so_and_no_pass() -> None:
    for form in forms.FORMS:
        text = forms.render_error(form, "m.onnx: model is bad; it must not be", "ls -l", 3, "m.onnx")
        told = (
            'robustcheck_error{model="m.onnx"} 1' if form == "openmetrics" else "m.onnx: model is bad; it must not be"
        )
        assert told in text
        assert not re.search(r'verdict"?[:=]\s*"?\**PASS', text)
        assert OURS.match(text.encode()[: stores.OURS_WITHIN_BYTES])


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


def test_the_repository_is_the_nearest_folder_with_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".git").write_text("gitdir: elsewhere")  # a work tree has a file there
    monkeypatch.chdir(tmp_path / "a" / "b")
    options = forms.FormOptions()
    assert (options.working_folder, options.root) == (str(tmp_path / "a" / "b"), str(tmp_path / "a"))


@given(st.lists(NAME, min_size=1, max_size=3))
def test_any_names_parse_in_every_form(names: Sequence[str]) -> None:
    outcomes = [failed(model=name, message=name) for name in names]
    assert [s.attrib["name"] for s in junit(*outcomes)] == names_of(outcomes)
    assert len(metrics(*outcomes)["robustcheck_error"]) == len(names)
    json.loads(text_of("sarif", *outcomes))
    json.loads(text_of("gitlab", *outcomes))


COMMANDS = {
    *("add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group", "notice", "remove-matcher"),
    *("save-state", "set-env", "set-output", "stop-commands", "warning"),
}
NAMES = [
    "##[set-output name=verdict;]PASS.onnx",
    "x ##[stop-commands]t.onnx",
    "::set-output name=verdict::PASS.onnx",
    "::Stop-Commands::t.onnx",
    "a:::error file=a::b.onnx",
    "###[add-mask]WARN.onnx",
]
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
            assert commands_in(forms.render(form, [outcome], PLACE)) == [], name


def test_no_line_of_the_terminal_report_is_a_command_however_it_wraps() -> None:
    for name, width, blanks in itertools.product(NAMES, WIDTHS, range(8)):
        report = gated(warning(), file=f"{'d' * (width - blanks - 2)}{name}", tensor=name)
        assert commands_in(reports.terminal_text(report, width)) == [], (name, width, blanks)


def test_an_annotation_and_an_error_are_no_other_command(capsys: Capture) -> None:
    for name in NAMES:
        report = gated(warning(), file=name, tensor=name)
        assert {command_of(line) for line in pipelines.commands([report], PLACE)} == {"warning", "notice"}
        process.say(f"{name}: {name}", name)
        assert commands_in(capsys.readouterr().err) == []


@pytest.mark.long
def test_no_verb_shows_a_name_raw(here: Path, run: Run) -> None:
    """An error with its traceback, of two models; a profile that says what it likes; a signature's file."""
    write_keys(here)
    name = "m\x1b[31m\n##[set-output name=verdict;]PASS.onnx"
    Path("pass.onnx").rename(name)
    edited = profile.seal(but(profile.load(), id="mine-1", edited=name))
    Path("edited.json").write_text(profile.to_json(edited))
    for code, *words in (
        (2, "check --debug --images photos -qq", f"no {name}", name),
        (0, "profiles show edited.json"),
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
    assert shown.isprintable()
    assert "##[" not in shown
    plain = text.replace("#", "").replace(":", "")
    assert printable(plain) == plain.replace("\n", "\\n")
    for stays in ("onnx::MatMul_12", "std::vector<int>", "## heading [1]", "#[a]", "s3://a/b", "modèle.onnx"):
        assert printable(stays) == stays


def tokens(text: str) -> list[Token]:
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [t for token in found for t in (token, *(token.children or []))]


def words(text: str) -> str:
    """The text that a reader sees in inline content, joined."""
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return "\n".join("".join(c.content for c in t.children or []) for t in found if t.type == "inline")


def test_markdown_shows_names_as_they_are_and_runs_none_of_them() -> None:
    text = text_of("markdown", HOSTILE_REPORT, FAILED)
    kinds = Counter(t.type for t in tokens(text))
    assert kinds["html_inline"] == 0
    assert [t.content for t in tokens(text) if t.type == "html_block"] == ["<!-- robustcheck report -->\n"]
    assert kinds["link_open"] == kinds["image"] == kinds["em_open"] == 0
    assert words(text).count(printable(HOSTILE)) >= 5
    assert "@all" not in re.sub(r"`[^\n]*`", "", text)


def test_markdown_tables_have_their_cells() -> None:
    found = tokens(text_of("markdown", HOSTILE_REPORT, FAILED, PASSING, NOTHING))
    rows = []
    for token in found:
        if token.type == "tr_open":
            rows.append(0)
        if token.type in {"td_open", "th_open"}:
            rows[-1] += 1
    assert rows == [4] * 5 + [5] * 4 * 3


def test_markdown_says_what_a_reader_needs() -> None:
    text = words(text_of("markdown", WAIVED))
    for said in (
        "▲ WARN · not_applicable: models/efficientnet-lite0.onnx",
        "exit code 1",
        "waived by vision team until 2026-12-30: known <since> May",
        "a waiver by vision team expired on 2026-10-30",
        WAIVED.evidence.model.digest,
        WAIVED.evidence.images.digest,
        WAIVED.verdict.profile_digest,
        *(reason.seen for reason in WAIVED.verdict.reasons),
        *(reason.next_step.replace("`", "") for reason in WAIVED.verdict.reasons),
        *WAIVED.profile.limits,
    ):
        assert said in text
    assert "every reason for WARN is waived" in words(text_of("markdown", ALL_WAIVED))
    assert "✓ PASS" in words(text_of("markdown", PASSING))
    assert "ERROR" in words(text_of("markdown", FAILED))


@given(NAME)
def test_markdown_any_words_are_literal(name: str) -> None:
    expected = " ".join(printable(name).split())
    for around in ("", "a | b "):
        assert " ".join(words(around + markdown.text(name)).split()) == " ".join((around + expected).split())
    kinds = {t.type for t in tokens(markdown.text(name))}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


@given(NAME)
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
    assert (payload["predicateType"], payload["predicate"]) == (record.PREDICATE_TYPE, made)
    assert (made["verdict"], made["reasons"], made["time"]) == ("PASS", [], report["time"]["started"])
    assert made["report"] == {"digest": {"sha256": sha256("pass.json")}}
    assert made["result"]["digest"]["sha256"] == report["binding"]["result_digest"].removeprefix("sha256:")
    assert (failed["error"]["exit_code"], "verdict" in failed) == (3, False)
