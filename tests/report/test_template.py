"""Templates of the user: what they get, what they can't do, and that none changes what a run says."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import template
from robustcheck_onnx.checker.report.record import Outcome
from robustcheck_onnx.checker.report.template import mark
from robustcheck_onnx.checker.storage import stores
from robustcheck_onnx.checker.text import printable
from support import PATIENCE_S, ROOT, Made, Patch, raised, read_json
from support.bad_input import Run
from support.outcomes import EVERY, FAILED, HOSTILE, PASSING, WARNING, failed, gated
from support.reports import warning

EXAMPLES = ROOT / "docs" / "examples" / "templates"


@pytest.fixture
def written(here: Path) -> Made:
    """Writes a template into the test's folder, the current one."""

    def write_(source: str, name: str = "t.txt.j2") -> Path:
        (here / name).write_text(source)
        return here / name

    return write_


def text_of(file: Path, *outcomes: Outcome, into_file: bool = False) -> str:
    template.check(file, into_file=into_file)
    return template.render_apart(file, outcomes, into_file=into_file)


def fault_of(file: Path, *, into_file: bool = False) -> str:
    with pytest.raises(UsageError) as fault:
        text_of(file, WARNING, into_file=into_file)
    start, message = fault.value.message.split(": ", 1)
    assert start == str(file)
    return message


# ------------------------------------------------------------------------------------------------ what it gets


def test_the_examples_say_each_verdict() -> None:
    said = json.loads(text_of(EXAMPLES / "slack.json.j2", *EVERY, into_file=True))
    assert list(said) == ["text"]
    assert said["text"].startswith(mark())
    assert re.findall("\n:(warning|white_check_mark):", said["text"]).count("warning") == len(EVERY) - 2
    assert "<b>" not in said["text"]
    rows = text_of(EXAMPLES / "digests.csv.j2", *EVERY, into_file=True)
    table = list(csv.DictReader(rows.splitlines()[1:], strict=True))
    assert [row["verdict"] for row in table] == ["PASS", *["WARN"] * (len(EVERY) - 2), "ERROR"]
    assert table[-1]["model"] == "'" + printable(HOSTILE)


def test_a_template_reads_the_fields_of_the_json_report(written: Made) -> None:
    file = written("{{ report.verdict.verdict }} {{ report.profile.id }} {{ reports | length }}")
    assert text_of(file, PASSING) == "PASS test-1 1\n"
    raised(UsageError, "line 1 of the template: 'report' is undefined", text_of, file, PASSING, FAILED)
    written("{{ mark }}: {% block words %}{% endblock %}", "base.j2")
    extended = written("{% extends 'base.j2' %}{% block words %}{{ report.verdict.verdict }}{% endblock %}")
    assert text_of(extended, PASSING, into_file=True) == f"{mark()}: PASS\n"
    each = "{% for r in reports %}{{ r.verdict.verdict if r.error is not defined else r.model }};{% endfor %}"
    assert text_of(written(each), PASSING, failed(model="m.onnx")) == "PASS;m.onnx;\n"


# ------------------------------------------------------------------------------------------- what it can't do


def test_names_are_escaped_by_the_name_of_the_template(written: Made) -> None:
    command = "##[set-output name=verdict;]PASS\n::set-output name=a::b.onnx"
    for name, model, expected in (
        ("t.html.j2", "<b>&.onnx", "&lt;b&gt;&amp;.onnx"),
        ("t.XML.j2", "<b>&.onnx", "&lt;b&gt;&amp;.onnx"),
        ("html.j2", "<b>&.onnx", "<b>&.onnx"),
        ("t.txt.j2", HOSTILE, printable(HOSTILE)),
        ("t.txt.j2", command, printable(command)),
    ):
        file = written("{{ report.evidence.model.file }}", name)
        assert text_of(file, gated(warning(), file=model)) == expected + "\n"


def test_faults_with_their_line(written: Made, here: Path) -> None:
    (here / "own").mkdir()
    written("secret", "secret.txt")
    (here / "own" / "link.txt").symlink_to(here / "secret.txt")
    for source, said in (
        ("a\n{{ report.verdct }}", "line 2 of the template: 'dict object' has no attribute 'verdct'"),
        ("a\n\n{% for %}", "line 3 of the template: "),
        ("\n{{ 1 is nosuch }}", "line 2 of the template: test 'nosuch' is not known"),
        ("{{ ''.__class__.__mro__ }}", "line 1 of the template: access to attribute '__class__'"),
        ("{{ cycler.__init__.__globals__ }}", "line 1 of the template: access to attribute '__init__'"),
        ("{% include '../secret.txt' %}", "line 1 of the template: ../secret.txt"),
        ("{% include '/etc/passwd' %}", "line 1 of the template: "),
        ("{% include 'link.txt' %}", "line 1 of the template: 'link.txt' lies outside the template's folder"),
        ("{{ 1 // 0 }}", "line 1 of the template: integer division or modulo by zero"),
        ("{% for i in range(10 ** 6) %}x{% endfor %}", "line 1 of the template: Range too big"),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "its text has more than 10 MiB"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "it is nested too deeply"),
        ("x" * (1 << 20) + "y", "it has more than 1048576 bytes"),
    ):
        message = fault_of(written(source, "own/t.j2"))
        assert said in message
        assert "secret" not in message.replace("../secret.txt", "")
    (here / "latin.j2").write_bytes(b"\xff")
    for name, said in {
        "none.j2": "it is missing or no file",
        "..j2": "it is missing or no file",
        "secret.txt": "its name must end in .j2",
        ".j2": "its name must end in .j2",
        "latin.j2": "it is not UTF-8",
    }.items():
        assert said in fault_of(here / name), name


def test_a_text_in_a_file_shows_whose_it_is(written: Made) -> None:
    for source in ("PASS", "{{ 'x' * 1400 }}{{ mark }}", "{% if false %}{{ mark }}{% endif %}"):
        assert "template does not write {{ mark }}" in fault_of(written(source), into_file=True)
        assert text_of(written(source), PASSING)  # on stdout nothing stays
    assert stores.OURS.match(text_of(written("{{ 'x' * 1300 }} {{ mark }}"), PASSING, into_file=True).encode())


@pytest.mark.process
@pytest.mark.usefixtures("wall")
def test_the_child_process_bounds_time_and_memory(written: Made, monkeypatch: Patch) -> None:
    monkeypatch.setattr(template, "MEMORY_BYTES", 1 << 29)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    for source, timeout_s, fault in (
        (endless, 1.0, "NotReadError"),
        ("{{ 'x' | center(10 ** 10) }}", PATIENCE_S, "EnvironmentFaultError"),
    ):
        monkeypatch.setattr(template, "TIMEOUT_S", timeout_s)
        message = fault_of(written(source))
        assert re.search(rf"template gave no text within {timeout_s:g} s.*\({fault}\)", message)


# ------------------------------------------------------------------------------------------------ in a run


@pytest.fixture
def checks(written: Made, ends: Run) -> Run:
    """Checks pass.onnx on photos/ with these words, where a template t.j2 is."""
    written("{{ mark }} {{ report.verdict.verdict }}", "t.j2")
    return lambda code, words, *said: ends(code, f"check pass.onnx --images photos -qq {words}", *said)


def test_the_exit_code_is_the_verdicts_whatever_a_template_says(checks: Run, written: Made) -> None:
    written("{{ mark }} PASS", "always.j2")
    checks(1, "-o template=always.j2=out.txt --max-images 40")
    assert checks(1, "-o template=t.j2 --max-images 40").stdout == f"{mark()} WARN\n"
    shutil.copy("pass.onnx", "n.onnx")
    checks(0, "n.onnx -o template=t.j2={model}.txt")
    assert [Path(f"{name}.txt").read_text() for name in ("pass", "n")] == [f"{mark()} PASS\n"] * 2


def test_a_run_that_fails_leaves_no_pass_and_nobody_elses_file(checks: Run, written: Made) -> None:
    written("{{ mark }}\n{{ report.nothing }}", "broken.j2")
    mine = written("a file of somebody else\n", "mine.txt")
    checks(0, "-o json=r.json -o template=t.j2=out.txt")
    said = "broken.j2: line 2 of the template: 'dict object' has no attribute 'nothing'"
    checks(4, "-o json=r.json -o template=broken.j2=out.txt", said)
    assert read_json("r.json")["verdict"]["verdict"] == "PASS"
    written("no model", "pass.onnx")
    checks(3, "-o template=t.j2=new.txt -o template=t.j2=mine.txt")
    for name, start in (("out", "4)\n"), ("new", "3)\nerror: pass.onnx")):
        assert Path(f"{name}.txt").read_text().startswith(f"robustcheck: no verdict (exit code {start}")
    assert mine.read_text() == "a file of somebody else\n"


def test_how_it_is_named(checks: Run, written: Made, ends: Run) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    for output, said in {
        "template": "it needs the template's file",
        "template=pass.onnx": "its name must end in .j2",
        "template=t.j2=": "a path must follow the equals sign",
        "template=t.j2=t.j2": "is a file that this run reads",
        "template=https://example.org/t.j2": "a template must be a file on this machine",
        "json=t.j2 -o template=t.j2": "is a file that this run reads",
    }.items():
        checks(2, f"-o {output}", said)
        assert {path: path.read_bytes() for path in before} == before, output
    ends(2, "scan pass.onnx --images photos -o template=t.j2", "--output is 'template'; it must be one of")
    # only the command line names one
    written('output = ["template=t.j2=out.txt"]\n', "robustcheck.toml")
    checks(0, "-o template=t.j2=out.txt")
    checks(2, "", "so only the command line may name one")
