"""The HTML page of a head's directions: the rules of a check's page, every number of both curves, hostile names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.directions import forms, html
from robustcheck_onnx.checker.directions.records import DirectionsReport
from robustcheck_onnx.checker.text import percent_text
from support import onnx_models
from support.pages import assert_it_is_accessible, assert_it_loads_nothing, parse, words

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\x1b[31m"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("directions")
    np.save(folder / "images.npy", np.random.default_rng(0).normal(size=(60, 3, 8, 8)).astype(np.float32))
    return onnx_models.save(onnx_models.classifier(12), folder / "model.onnx")


@pytest.fixture(scope="module")
def report(model: Path) -> DirectionsReport:
    return rc.directions(model, images=model.with_name("images.npy"), preprocess="imagenet", device="cpu")


def page_of(report: DirectionsReport) -> str:
    page = forms.render("html", report)
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
    for line, curve in zip(lines, report.raw.curves, strict=True):
        points = curve.points[::-1]
        ends = [line.segments[0][:2], *(segment[2:] for segment in line.segments)]
        np.testing.assert_allclose([x / html.WIDTH for x, _ in ends], [point.percent / 100 for point in points])
        shares = [(html.BASE - y) / (html.BASE - html.TOP) for _, y in ends]
        np.testing.assert_allclose(shares, [point.same.value for point in points])
    assert len(lines[0].whiskers) == 11
    held = html.importance_line("raw", "range", report.raw)
    first = held.segments[0]
    assert (first.x1, first.y1) == (0, html.BASE)
    share = max(report.raw.importances) / sum(report.raw.importances)
    assert (html.BASE - first.y2) / (html.BASE - html.TOP) == pytest.approx(share)
    last = held.segments[-1]
    assert [last.x2, last.y2] == pytest.approx([html.WIDTH, html.TOP])
    assert len(list(parse(page_of(report)).all("svg"))) >= 2


def test_hostile_names_stay_text(report: DirectionsReport) -> None:
    model = report.model.model_copy(update={"file": HOSTILE, "source": HOSTILE, "tensor": HOSTILE, "head": HOSTILE})
    page = page_of(report.model_copy(update={"model": model, "notes": (HOSTILE,), "time": None}))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "{{ 7 * 7 }}" in page


def test_the_command_writes_the_page(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "directions.html"
    head = tmp_path / "head.npy"
    np.save(head, np.random.default_rng(0).normal(size=(5, 16)))
    call = ["directions", str(model), "--images", str(model.with_name("images.npy")), "--preprocess", "imagenet", "-qq"]
    assert cli.main([*call, "--head", str(head), "--device", "cpu", "-o", f"html={out}"]) == 0
    assert capsys.readouterr().out == ""
    page = out.read_text(encoding="utf-8")
    assert "not compared: the head is not the model's own" in words(parse(page))
