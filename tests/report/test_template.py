"""Templates of the user: what they get, what they can't do, and that none changes what a run says."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from robustcheck_onnx.checker import isolated
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import template
from robustcheck_onnx.checker.report.record import Outcome
from robustcheck_onnx.checker.storage import write
from robustcheck_onnx.checker.text import printable
from support import ROOT, Capture, Place
from support.outcomes import EVERY, FAILED, HOSTILE, HOSTILE_REPORT, PASSING, WARNING, failed, gated
from support.profile import PATIENCE_S
from support.reports import warning

EXAMPLES = ROOT / "docs" / "examples" / "templates"
pytestmark = pytest.mark.usefixtures("capsys")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a template into the test's folder."""

    def write_(source: str, name: str = "t.txt.j2") -> Path:
        (tmp_path / name).write_text(source, encoding="utf-8")
        return tmp_path / name

    return write_


def text_of(file: Path, *outcomes: Outcome, into_file: bool = False) -> str:
    template.check(file, into_file=into_file)
    return isolated.template(file, outcomes, into_file=into_file)


def fault_of(file: Path, *outcomes: Outcome, into_file: bool = False) -> str:
    with pytest.raises(UsageError) as fault:
        text_of(file, *(outcomes or (WARNING,)), into_file=into_file)
    assert fault.value.message.startswith(f"{file}: ")
    return fault.value.message.removeprefix(f"{file}: ")


# ------------------------------------------------------------------------------------------------ what it gets


def test_the_examples_say_each_verdict() -> None:
    said = json.loads(text_of(EXAMPLES / "slack.json.j2", *EVERY, into_file=True))
    assert list(said) == ["text"]
    lines = said["text"].splitlines()
    assert lines[0] == template.mark()
    assert sum(line.startswith(":white_check_mark:") for line in lines) == 1
    assert sum(line.startswith(":warning:") for line in lines) == len(EVERY) - 2
    assert "<b>" not in said["text"]
    rows = text_of(EXAMPLES / "digests.csv.j2", *EVERY, into_file=True).splitlines()
    assert rows[0] == f"# {template.mark()}"
    table = list(csv.DictReader(rows[1:], strict=True))
    assert [row["verdict"] for row in table] == ["PASS", *["WARN"] * (len(EVERY) - 2), "ERROR"]
    assert table[-1]["model"] == "'" + printable(HOSTILE)
    for rendered in ("\n".join(rows), json.dumps(said)):
        assert write.OURS.match(rendered.encode())


def test_a_template_reads_the_fields_of_the_json_report(written: Callable[..., Path]) -> None:
    file = written("{{ report.verdict.verdict }} {{ report.profile.id }} {{ reports | length }}")
    assert text_of(file, PASSING) == "PASS test-1 1\n"
    assert text_of(file, WARNING) == "WARN test-1 1\n"
    assert "line 1 of the template: 'report' is undefined" in fault_of(file, PASSING, FAILED)
    written("{{ mark }}: {% block words %}{% endblock %}", "base.j2")
    extended = written("{% extends 'base.j2' %}{% block words %}{{ report.verdict.verdict }}{% endblock %}")
    assert text_of(extended, PASSING, into_file=True) == f"{template.mark()}: PASS\n"
    several = written(
        "{% for r in reports %}{{ r.verdict.verdict if r.error is not defined else r.model }};{% endfor %}"
    )
    assert text_of(several, PASSING, failed(model="m.onnx")) == "PASS;m.onnx;\n"


def test_markup_is_escaped_by_the_name_of_the_template(written: Callable[..., Path]) -> None:
    report = gated(warning(), file="<b>&.onnx")
    source = "{{ report.evidence.model.file }}"
    for name, expected in (
        ("t.html.j2", "&lt;b&gt;&amp;.onnx\n"),
        ("t.XML.j2", "&lt;b&gt;&amp;.onnx\n"),
        ("t.txt.j2", "<b>&.onnx\n"),
        ("html.j2", "<b>&.onnx\n"),
    ):
        assert text_of(written(source, name), report) == expected


def test_unprintable_names_are_escapes(written: Callable[..., Path]) -> None:
    text = text_of(written("{{ report.evidence.model.file }}"), HOSTILE_REPORT)
    assert text == printable(HOSTILE) + "\n"
    command = gated(warning(), file="##[set-output name=verdict;]PASS\n::set-output name=a::b.onnx")
    assert len(text_of(written("{{ report.evidence.model.file }}"), command).splitlines()) == 1
    assert "##[" not in text_of(written("{{ report.evidence.model.file }}"), command)


# ------------------------------------------------------------------------------------------- what it can't do


def test_faults_with_their_line(written: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    for source, said in (
        ("a\n{{ report.verdct }}", "line 2 of the template: 'dict object' has no attribute 'verdct'"),
        ("a\n\n{% for %}", "line 3 of the template: "),
        ("{{ 1 | nosuch }}", "line 1 of the template: filter 'nosuch' is not known"),
        ("\n{{ 1 is nosuch }}", "line 2 of the template: test 'nosuch' is not known"),
        ("{{ ''.__class__.__mro__ }}", "line 1 of the template: access to attribute '__class__'"),
        ("{{ report.clear() }}", "line 1 of the template: "),
        ("{{ cycler.__init__.__globals__ }}", "line 1 of the template: access to attribute '__init__'"),
        ("{% include '../secret.txt' %}", "line 1 of the template: ../secret.txt"),
        ("{% include '/etc/passwd' %}", "line 1 of the template: "),
        ("{% include 'link.txt' %}", "line 1 of the template: 'link.txt' lies outside the template's folder"),
        ("{{ 1 // 0 }}", "line 1 of the template: integer division or modulo by zero"),
        ("{% for i in range(10 ** 6) %}x{% endfor %}", "line 1 of the template: Range too big"),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "its text has more than 10 MiB"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "it is nested too deeply"),
    ):
        message = fault_of(written(source, "own/t.j2"))
        assert said in message
        assert "secret" not in message.replace("../secret.txt", "")


def test_files_that_are_no_template(tmp_path: Path) -> None:
    for name, content, said in (
        ("none.j2", None, "it is missing or no file"),
        ("t.txt", b"x", "its name must end in .j2"),
        (".j2", b"x", "its name must end in .j2"),
        ("t.j2", b"\xff", "it is no UTF-8"),
        ("t.j2", b"x" * (1 << 20) + b"y", "it has more than 1048576 bytes"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert said in fault_of(tmp_path / name), name
    assert "it is missing or no file" in fault_of(tmp_path / "..j2")


def test_a_text_in_a_file_shows_whose_it_is(written: Callable[..., Path]) -> None:
    for source in ("PASS", "{{ 'x' * 1400 }}{{ mark }}", "{% if false %}{{ mark }}{% endif %}"):
        assert "template does not write {{ mark }}" in fault_of(written(source), into_file=True)
        assert text_of(written(source), PASSING)  # on stdout nothing stays
    assert write.OURS.match(text_of(written("{{ 'x' * 1300 }} {{ mark }}"), PASSING, into_file=True).encode())


@pytest.mark.process
@pytest.mark.usefixtures("wall")
def test_the_child_process_bounds_time_and_memory(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "TEMPLATE_BYTES", 1 << 29)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    for source, timeout_s, fault in (
        (endless, 1.0, "NotReadError"),
        ("{{ 'x' | center(10 ** 10) }}", PATIENCE_S, "EnvironmentFaultError"),
    ):
        monkeypatch.setattr(isolated, "TEMPLATE_S", timeout_s)
        message = fault_of(written(source))
        assert f"template gave no text within {timeout_s:g} s" in message
        assert f"({fault})" in message


# ------------------------------------------------------------------------------------------------ in a run


@pytest.fixture
def place(tmp_path: Path, lookup_pass: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(lookup_pass[0], tmp_path / "m.onnx")
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    (tmp_path / "t.j2").write_text("{{ mark }} {{ report.verdict.verdict }}", encoding="utf-8")
    (tmp_path / "always.j2").write_text("{{ mark }} PASS", encoding="utf-8")
    (tmp_path / "broken.j2").write_text("{{ mark }}\n{{ report.nothing }}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, model: str = "m.onnx") -> int:
    return cli.main(["check", model, "--images", "photos", "-qq", *words])


def test_the_exit_code_is_the_verdicts_whatever_a_template_says(place: Path, capsys: Capture) -> None:
    assert run("-o", "template=t.j2=out.txt") == 0
    assert (place / "out.txt").read_text() == f"{template.mark()} PASS\n"
    assert run("-o", "template=always.j2=out.txt", "--max-images", "40") == 1
    assert run("-o", "template=t.j2", "--max-images", "40") == 1
    assert capsys.readouterr().out == f"{template.mark()} WARN\n"
    shutil.copy("m.onnx", "n.onnx")
    assert run("n.onnx", "-o", "template=t.j2={model}.txt") == 0
    assert (place / "m.txt").read_text() == (place / "n.txt").read_text() == f"{template.mark()} PASS\n"


def test_a_run_that_fails_leaves_no_pass_and_nobody_elses_file(place: Path, capsys: Capture) -> None:
    files = ["-o", "json=r.json", "-o", "junit=r.xml", "-o", "template=t.j2=out.txt"]
    assert run(*files) == 0
    assert run(*files[:-1], "template=broken.j2=out.txt") == 2
    assert "broken.j2: line 2 of the template: 'dict object' has no attribute 'nothing'" in capsys.readouterr().err
    assert json.loads((place / "r.json").read_text())["error"]["exit_code"] == 2
    assert 'errors="1"' in (place / "r.xml").read_text()
    assert (place / "out.txt").read_text().startswith("robustcheck: no verdict (exit code 2)\n")
    (place / "m.onnx").write_bytes(b"no model")
    (place / "mine.txt").write_text("a file of somebody else\n")
    assert run("-o", "template=t.j2=out.txt", "-o", "template=t.j2=mine.txt", "-o", "template=t.j2=new.txt") == 3
    for name in ("out.txt", "new.txt"):
        assert (place / name).read_text().startswith("robustcheck: no verdict (exit code 3)\nerror: m.onnx")
    assert (place / "mine.txt").read_text() == "a file of somebody else\n"


def test_how_it_is_named(place: Path, capsys: Capture) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    for output, said in (
        ("template", "it needs the template's file"),
        ("template=", "it needs the template's file"),
        ("template=none.j2", "it is missing or no file"),
        ("template=m.onnx", "its name must end in .j2"),
        ("template=t.j2=", "a path must follow the equals sign"),
        ("template=t.j2=t.j2", "is a file that this run reads"),
        ("template=t.j2=m.onnx", "is a file that this run reads"),
        ("template=https://example.org/t.j2", "a template must be a file of this machine"),
        ("template=s3://bucket/t.j2=out.txt", "a template must be a file of this machine"),
        ("json=t.j2", None),
    ):
        words = ["-o", output] if said else ["-o", output, "-o", "template=t.j2"]
        assert run(*words) == 2, output
        assert (said or "is a file that this run reads") in capsys.readouterr().err
        assert {name: (place / name).read_bytes() for name in before} == before, output
    assert cli.main(["scan", "m.onnx", "--images", "photos", "-o", "template=t.j2"]) == 2
    assert "--output is 'template'; it must be one of" in capsys.readouterr().err


def test_only_the_command_line_names_a_template(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    (place / "robustcheck.toml").write_text('output = ["template=t.j2=out.txt"]\n')
    assert run() == 2
    assert "so only the command line may name one" in capsys.readouterr().err
    assert run("-o", "template=t.j2=out.txt") == 0
    (place / "robustcheck.toml").unlink()
    monkeypatch.setenv("ROBUSTCHECK_OUTPUT", "json=r.json,template=t.j2")
    assert run() == 2
    assert "so only the command line may name one" in capsys.readouterr().err
