"""Outcomes for the tests of the report's forms: their text, and what parsers read in it."""

from collections import Counter
from datetime import date
from typing import Any
from xml.etree import ElementTree

from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from robustcheck_onnx.checker.core.verdict.gate import Waiver, decide
from robustcheck_onnx.checker.report import forms
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.model_names import FormOptions
from robustcheck_onnx.checker.report.record import Failed, Outcome
from robustcheck_onnx.thresholds.statistics import STATISTICS
from support import Fields, but, reports

PLACE = FormOptions(working_folder="/repo/sub", root="/repo")
HOSTILE = (
    "=cmd|'/C calc'!A1 \"<b>&amp;\n\r\t`x` **y** [z](http://a) 100%, :: $m$ @all #1 \x1b[31m \u202e \udcff é😀.onnx"
)
TODAY = date(2026, 11, 24)


def gated(report: Report, *, waived: tuple[str, ...] = (), expired: tuple[str, ...] = (), **changes: Any) -> Report:
    """The report as the command makes it: with the gate's answer."""
    report = but(report, **{f"evidence__model__{name}": value for name, value in changes.items()})
    waivers = [
        Waiver(reason=r, because="known <since> May", owner="vision team", expires=date(2026, month, 30))
        for month, reasons in ((12, waived), (10, expired))
        for r in reasons
    ]
    gate = decide(report.verdict, report.evidence.model.file, waivers=waivers, today=TODAY)
    return but(report, gate=gate)


def failed(model: str = HOSTILE, message: str = "m.onnx: model is not readable; it must be ONNX") -> Failed:
    return Failed(model=model, message=message, hint="robustcheck inspect m.onnx", exit_code=3)


PASSING, WARNING, UNDECIDED = (gated(made()) for made in reports.MADE.values())
WAIVED = gated(reports.warning(), waived=("one_sided", "assumed_preprocessing"), expired=("not_persistent", "too_weak"))
ALL_WAIVED = gated(reports.warning(), waived=("one_sided", "assumed_preprocessing", "not_persistent", "too_weak"))
HOSTILE_REPORT = gated(reports.warning(), file=HOSTILE, tensor=HOSTILE)
NONE = ("centred_kurtosis", "rms_kurtosis", "max_median_ratio", "zero_share", "negative_share", "spread")
UNKNOWN = {name: reports.interval(None, None, None) for name in STATISTICS} | dict.fromkeys(NONE)
EMPTY: Fields = {"kurtosis_quantiles": None, "features": (), "histogram_edges": (), "histogram_counts": ()}
NOTHING = gated(reports.report(reports.WARN_STATISTICS | UNKNOWN | EMPTY))
FAILED = failed()
EVERY: list[Outcome] = [PASSING, WARNING, UNDECIDED, WAIVED, ALL_WAIVED, HOSTILE_REPORT, NOTHING, FAILED]


def text_of(form: str, *outcomes: Outcome) -> str:
    text = forms.render(form, outcomes, PLACE)
    assert text.endswith("\n")
    text.encode()  # no lone surrogates: it can be written
    return text


# Any words, lone surrogates among them.
ANY = st.characters(exclude_categories=[]) | st.sampled_from("`*_|<>&[]()!#\\~$@:-+=. 1")
NAME = st.text(ANY, min_size=1, max_size=30)


def junit(*outcomes: Outcome) -> ElementTree.Element:
    """Counts are those of the cases, which have a name each (test_pipelines.py holds the rest)."""
    root = ElementTree.fromstring(text_of("junit", *outcomes))
    assert root.tag == "testsuites"
    for element in root.iter():
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


def metrics(*outcomes: Outcome) -> dict[str, dict[tuple[str, ...], float]]:
    text = text_of("openmetrics", *outcomes)
    assert text.endswith("# EOF\n")
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }
