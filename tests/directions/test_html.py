"""The HTML page of a head's directions: the rules of a check's page, every number of both curves, hostile names."""

from pathlib import Path

import numpy as np
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.directions import html
from robustcheck_onnx.checker.directions.records import DirectionsReport
from robustcheck_onnx.checker.text import percent_text
from support import but, normal, onnx_models
from support.pages import assert_it_is_accessible, assert_it_loads_nothing, parse, words

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\x1b[31m"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("directions")
    np.save(folder / "images.npy", normal(60, 3, 8, 8).astype(np.float32))
    return onnx_models.save(onnx_models.classifier(12), folder / "model.onnx")


@pytest.fixture(scope="module")
def report(model: Path) -> DirectionsReport:
    return rc.directions(model, images=model.with_name("images.npy"), preprocess="imagenet", device="cpu")


def page_of(report: DirectionsReport) -> str:
    page = html.render(report)
    assert_it_loads_nothing(page)
    assert_it_is_accessible(page)
    return page


def test_the_tables_hold_every_point(report: DirectionsReport) -> None:
    root = parse(page_of(report))
    raw, _, _, centred = root.all("table")
    for table, analysis in ((raw, report.raw), (centred, report.centred)):
        rows = list(table.all("tr"))[1:]
        assert len(rows) == 11
        for row, *points in zip(rows, *(curve.points for curve in analysis.curves), strict=True):
            cells = {cell.attributes["data-label"]: cell.text for cell in row.all("td")}
            assert next(row.all("th")).text == f"{points[0].percent} % ({points[0].kept})"
            assert cells["Same prediction"] == percent_text(points[0].same.value)
            assert cells["Confident"] == percent_text(points[0].same_confident.value)
            assert cells["Order: random"] == percent_text(points[2].same.value)
    text = words(root)
    for said in (report.summary, report.claim, report.normaliser):
        assert said in text
    assert "PASS" not in text
    assert "WARN" not in text


def test_the_curves_are_in_proportion(report: DirectionsReport) -> None:
    lines = html.pruning_lines(report.raw)
    assert [line.shape for line in lines] == ["range", "mark", "threshold"]
    height = html.BASE - html.TOP
    for line, curve in zip(lines, report.raw.curves, strict=True):
        ends = np.array([line.segments[0][:2], *(segment[2:] for segment in line.segments)])
        points = [(point.percent / 100 * html.WIDTH, html.BASE - point.same.value * height) for point in curve.points]
        np.testing.assert_allclose(ends, points[::-1])
    assert len(lines[0].whiskers) == 11
    first, *_, last = html.importance_line("raw", "range", report.raw).segments
    share = max(report.raw.importances) / sum(report.raw.importances)
    assert (first.x1, first.y1, first.y2) == pytest.approx((0, html.BASE, html.BASE - share * height))
    assert (last.x2, last.y2) == pytest.approx((html.WIDTH, html.TOP))
    assert len(list(parse(page_of(report)).all("svg"))) >= 2


def test_hostile_names_stay_text(report: DirectionsReport) -> None:
    names = dict.fromkeys(("model__file", "model__source", "model__tensor", "model__head"), HOSTILE)
    page = page_of(but(report, **names, notes=(HOSTILE,), time=None))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "{{ 7 * 7 }}" in page


def test_the_page_says_where_the_head_is_not_the_models_own(report: DirectionsReport) -> None:
    page = page_of(but(report, model__score_difference=None))
    assert "not compared: the head is not the model's own" in words(parse(page))
