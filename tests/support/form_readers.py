"""Forms of the report, read by parsers that are not ours and held against their rules."""

from collections import Counter
from xml.etree import ElementTree

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from robustcheck_onnx.checker.report.record import Outcome
from support.outcomes import text_of


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
