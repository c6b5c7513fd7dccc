"""The HTML page of a scan: the rules of a check's page, one bar and one row a layer, hostile names stay text."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from robustcheck_onnx.checker.scan import html
from robustcheck_onnx.checker.scan.records import PersistentFeature, ScanReport
from robustcheck_onnx.checker.text import number_text
from support import but
from support.pages import assert_it_is_accessible, assert_it_loads_nothing, parse, words
from support.scan_truth import scanned, small_model

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\x1b[31m"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def report(model: Path) -> ScanReport:
    return scanned(model, batch_size=8)[0]


def with_outliers(report: ScanReport, at: int) -> ScanReport:
    """The report with five persistent features in one layer."""
    features = tuple(PersistentFeature(feature=i, frequency=1.0, kurtosis_share=0.1) for i in range(5))
    layers = list(report.layers)
    layers[at] = but(layers[at], statistics__n_persistent=5, statistics__persistent=features)
    return but(report, layers=tuple(layers), begins=at)


def page_of(report: ScanReport) -> str:
    page = html.render(report)
    assert_it_loads_nothing(page)
    assert_it_is_accessible(page)
    return page


def test_every_layer_has_a_row_and_a_bar_in_proportion(report: ScanReport) -> None:
    root = parse(page_of(report))
    rows = list(next(root.all("table")).all("tr"))[1:]
    for number, (row, layer) in enumerate(zip(rows, report.layers, strict=True), 1):
        cells = {cell.attributes["data-label"]: cell.text for cell in row.all("td")}
        heading = next(row.all("th")).text
        assert (heading.split()[0], layer.tensor in heading) == (str(number), True)
        told = (number_text(layer.statistics.kurtosis), number_text(layer.statistics.rms_kurtosis), "–")
        assert (cells["Kurtosis"], cells["RMS"], cells["Persistent"]) == told
    chart = html.profile(report.layers)
    assert chart is not None
    values = np.array([layer.statistics.kurtosis for layer in report.layers], dtype=float)
    np.testing.assert_allclose([bar.height for bar in chart.bars], html.ROOM * values / values.max())
    assert all(bar.y + bar.height == pytest.approx(html.BASE) for bar in chart.bars)
    assert chart.top == number_text(float(values.max()))
    text = words(root)  # it is not a verdict
    assert [each in text for each in (report.summary, report.limits, "PASS", "WARN")] == [True, True, False, False]


def test_a_layer_with_outlier_features_is_marked_and_named(report: ScanReport) -> None:
    root = parse(page_of(with_outliers(report, 1)))
    (picture,) = [e for e in root.all("svg") if e.attributes["class"].startswith("picture")]
    assert [e.attributes["class"] for e in picture.all("rect")] == ["fill", "above", "fill"]
    assert sum(e.text == "▲" for e in picture.all("text")) == 1
    text = words(root)
    assert "0, 1, 2 + 2 more" in text
    assert "feature 4layer 2, 100 %" in text
    assert "With persistent outlier features1of 3" in text


def test_the_words_below_the_axis_keep_apart_and_name_the_last_layer(report: ScanReport) -> None:
    for n in (1, 2, 3, 15, 16, 40, 97):
        chart = html.profile(report.layers[:1] * n)
        assert chart is not None
        places, names = zip(*chart.ticks, strict=True)
        assert names[-1] == str(n)
        assert all(after - before >= html.TICK for before, after in itertools.pairwise(places))
        assert html.NARROWEST <= chart.width <= html.WIDEST
        assert chart.bars[-1].x + chart.bars[-1].width <= chart.width


def test_without_any_kurtosis_there_is_no_picture(report: ScanReport) -> None:
    (layer, *_) = report.layers
    layer = but(layer, statistics__kurtosis=None)
    assert html.profile((layer,)) is None
    assert "No layer has a kurtosis." in words(parse(page_of(but(report, layers=(layer,)))))


def test_hostile_names_stay_text(report: ScanReport) -> None:
    layers = tuple(but(layer, tensor=HOSTILE) for layer in report.layers)
    names = dict.fromkeys(("model__file", "model__source", "model__tensor"), HOSTILE)
    page = page_of(but(report, **names, layers=layers, notes=(HOSTILE,), time=None))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "{{ 7 * 7 }}" in page
    assert [e.text for e in parse(page).all("h2")] == [HOSTILE.replace("\x1b", "\\x1b")]
