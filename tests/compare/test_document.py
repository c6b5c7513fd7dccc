"""A comparison as a page and in the terminal: true to the numbers, and what it says in words."""

import re

import numpy as np
import pytest

from robustcheck_onnx.checker.compare.document import plain_text
from robustcheck_onnx.checker.compare.judge import CompareReport
from robustcheck_onnx.checker.report.document import Table, cell_of, document_of
from robustcheck_onnx.checker.text import number_text
from robustcheck_onnx.checker.verdict import rule as verdicts
from robustcheck_onnx.checker.verdict.reasons import NAMES, RULES
from support import but
from support.comparisons import alike, judged, planted, rotation
from support.screens import assert_it_is_accessible, assert_it_loads_nothing, parse, shown, words


@pytest.fixture(scope="module")
def kept() -> CompareReport:
    return judged(planted(), planted())


def page_of(report: CompareReport) -> str:
    page = report.to_html()
    assert_it_loads_nothing(page)
    assert_it_is_accessible(page)
    return page


def test_what_was_kept_is_told(kept: CompareReport) -> None:
    text = words(parse(page_of(kept)))
    for said in (
        "✓ PASS",
        f"Compared with {kept.reference.evidence.model.file}",
        "On the 80 photos that were measured, the candidate has kept the outlier features",
        "Statistics kept2 of 2",
        "Outlier features kept1 of 1",
        "CKA, debiased1.00",
        "Same nearest neighbour100 %",
        "Exit code 0",
    ):
        assert said in text
    assert "WARN" not in text


def test_every_number_of_the_tables_is_the_reports() -> None:
    rotated = judged(planted() @ rotation(384), planted())
    tables = [block for each in document_of(rotated).sections for block in each.blocks if isinstance(block, Table)]
    _, statistics, features = ([[cell_of(cell).text for cell in row] for row in table.rows] for table in tables)
    assert {row[0]: (*row[1:3], row[4].split()[-1]) for row in statistics} == {
        NAMES[each.name]: (*map(number_text, (each.candidate, each.reference)), each.keeps.replace("not required", "–"))
        for each in rotated.statistics
    }
    assert [(row[0], row[-1]) for row in features] == [("7", "✗ rotated away")]
    for ascii_only in (False, True):  # nothing is cut
        text = shown(rotated, 60, ascii_only=ascii_only, verbose=True)
        assert re.search(r"^ +7 +\+\d+\.\d .*(rotated away)$", text, re.MULTILINE)
    assert "▲ WARN" in words(parse(page_of(rotated)))


def test_two_sentences_say_what_the_verdict_means(kept: CompareReport) -> None:
    reasons = {rule.kind: [verdicts.reason(name, "")] for name, rule in RULES.items()}
    for found in ([], *reasons.values()):
        said = plain_text(but(kept, verdict=verdicts.verdict_for(found, kept.profile)))
        assert said.count(". ") == 1
        assert said.endswith(".")
        assert ("has kept" in said) == (not found)


def test_nothing_that_may_be_missing_is_written(kept: CompareReport) -> None:
    bare = but(kept, similarity=None, agreement=None, features=(), paired=False, time=None)
    text = words(parse(page_of(bare)))
    assert "Not compared: the baseline's images" in text
    assert "not in pairs" in text
    nothing = but(bare, statistics=tuple(but(each, keeps="not required") for each in bare.statistics))
    assert "more" not in shown(nothing)  # than no row


def test_where_both_models_come_from_is_told(kept: CompareReport) -> None:
    report = but(kept, reference__evidence__model__source="open_clip <i>RN50</i> [red]")
    assert "Reference: what was measured, and how  open_clip <i>RN50</i> [red]\n" in shown(report, 120, verbose=True)
    assert words(parse(page_of(report))).count("open_clip <i>RN50</i> [red]") == 2


def test_photos_that_are_not_the_readers_are_said_first(kept: CompareReport) -> None:
    said = "on the bundled photos, not yours"
    for bundled in (True, False):
        report = but(kept, candidate__evidence__images__bundled=bundled)
        for verbose in (False, True):
            assert (shown(report, verbose=verbose).splitlines()[1] == f"! {said}") is bundled
        forms = report.to_junit(), report.to_markdown(), report.to_sarif(), report.to_html()
        for text in (document_of(report).one_line, *forms):  # JSON has a note of the check itself
            assert (said in text) is bundled


def test_a_heading_is_one_line_and_a_ratio_without_bounds_is_told() -> None:
    h = planted()
    report = judged(h - (np.arange(384) == 7) * h[:, 7].mean(), h)
    text, reasons = shown(report), {reason.id: reason.seen for reason in report.verdict.reasons}
    heading = "Statistics  80 images, paired; 80 % must be kept, 95 % confidence together"
    assert {heading, f"as a whole: {alike(report).text}"} <= {*text.splitlines()}
    assert "statistic_shrank" in text.split("✗ ")[-len(reasons)]  # what was lost comes first
    assert reasons["statistic_shrank"].startswith("at least 80 % of the reference's value must be kept: ")
    assert "not measured" not in reasons["statistic_shrank"]
    (frequency,) = [each.ratio for each in report.statistics if each.name == "outlier_frequency"]
    assert frequency.low is None
    assert f"(ratio {number_text(frequency.estimate)}, no bounds)" in reasons["statistic_shrank"]
