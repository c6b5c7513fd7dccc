"""Reports in a notebook: one line, HTML without a script, data frames, pictures; nothing of it is loaded by a check."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import robustcheck_onnx as rc
from robustcheck_onnx.checker.report import notebook
from robustcheck_onnx.checker.report.forms import statistics_of
from robustcheck_onnx.thresholds.profile import STATISTICS
from support import Patch, but, extra, normal, raised, reports
from support.comparisons import judged, planted
from support.onnx_models import encoder, save
from support.outcomes import gated
from support.reports import interval, passing
from support.screens import in_notebook, printed


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> rc.ScanReport:
    """Two layers, on random tensors."""
    model = save(encoder(), tmp_path_factory.mktemp("scanned") / "small.onnx")
    pixels = normal(9, 3, 8, 8).astype(np.float32)
    return rc.scan(model, images=pixels, preprocess="imagenet", device="cpu")


@pytest.fixture(scope="module")
def compared() -> rc.CompareReport:
    """The second feature is lost."""
    h = planted(features=(7, 50))
    return judged(h - (np.arange(384) == 50) * h[:, 50].mean(), h)


def test_a_check_is_one_line_and_a_page() -> None:
    shown, passed = reports.warning(), gated(passing(), file="<script>alert(1)</script>\x1b[8m\n&.onnx")
    other = in_notebook(passed).text
    fields = f"verdict='WARN', kind='{shown.kind}', model='models/efficientnet-lite0.onnx', images=160"
    assert (repr(shown), str(shown)) == (f"Report({fields})", fields.replace(",", ""))
    assert "160 of 300 images" in in_notebook(shown).text
    assert not set(repr(passed) + other) & {"\x1b", "\x07"}
    assert "\n" not in repr(passed)
    assert other.startswith("✓ PASS · ")
    assert "<script>alert(1)</script>\\x1b[8m\\n&.onnx" in other
    assert printed(passed, 200).count("\n") <= 6


def test_a_scan_and_a_comparison(scanned: rc.ScanReport, compared: rc.CompareReport) -> None:
    assert repr(scanned) == f"ScanReport(model='{scanned.model.file}', layers=2, begins=None, images=9)"
    file, n = compared.candidate.evidence.model.file, compared.n_images
    kind = compared.kind
    said = f"CompareReport(verdict='WARN', {kind=}, candidate={file!r}, reference={file!r}, images={n})"
    assert repr(compared) == said


@pytest.mark.long
def test_data_frames(scanned: rc.ScanReport, compared: rc.CompareReport) -> None:
    pytest.importorskip("pandas")
    shown = reports.warning()
    frame = shown.to_frame()
    for name in STATISTICS:
        assert frame.loc[name, ["estimate", "low", "high"]].to_dict() == dict(getattr(shown.evidence.statistics, name))
    assert frame["minimum"].dropna().to_dict() == {
        i: shown.profile.limits_of(i).minimum for i in shown.profile.deciding
    }
    kurtosis = {i: layer.statistics.kurtosis for i, layer in enumerate(scanned.layers, 1)}
    assert dict(scanned.to_frame()["kurtosis"]) == kurtosis
    assert list(compared.to_frame()["keeps"]) == [change.keeps for change in compared.statistics]


def test_without_the_libraries_there_is_a_hint(monkeypatch: Patch) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] in ("pandas", "matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    for name, what, made, hint in (
        ("pandas", "a data frame", passing().to_frame, "pip install pandas"),
        ("matplotlib", "a plot", passing().plot, extra("plot")),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        fault = raised(rc.EnvironmentFaultError, rf"^package {name} is not installed; {what} needs it", made)
        assert fault.hint == hint


@pytest.mark.long
def test_pictures(scanned: rc.ScanReport, compared: rc.CompareReport, tmp_path: Path) -> None:
    """What they are told to draw is asked below."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = passing()
    named = gated(shown, file="a$b$_{c}.onnx")  # no formula
    made: list[Any] = [each.plot() for each in (shown, scanned, compared, reports.undecided(), named)]
    histogram, bars, _ = made[0].axes
    assert sum(patch.get_data().values.sum() for patch in histogram.patches) == shown.evidence.statistics.n_images
    assert [each.get_text() for each in bars.get_yticklabels()] == [each.name for each in statistics_of(shown)]
    assert pyplot.get_fignums() == []  # a notebook shows it once
    for picture in made:
        picture.savefig(tmp_path / "picture.png")


def axes() -> MagicMock:
    panel = MagicMock()
    panel.get_xlim.return_value = (0.5, 1.4)
    return panel


def test_an_interval_is_drawn_where_both_bounds_are_known_in_its_unit() -> None:
    rows = [
        ("both", interval(6.0, 4.0, 10.0), 2.0, True),
        ("zero", interval(6.0, 0.0, 10.0), 2.0, False),
        ("upper", interval(6.0, None, 10.0), 2.0, True),
        ("lower", interval(6.0, 4.0, None), 2.0, True),
        ("nothing", interval(None, None, None), 2.0, False),
        ("negative", interval(-6.0, -7.0, -5.0), 2.0, False),
        ("no unit", interval(6.0, 4.0, 10.0), 0.0, True),
    ]
    panel = axes()
    notebook.intervals(panel, rows, "value / threshold")
    assert [call.args for call in panel.plot.call_args_list] == [
        ([2.0, 5.0], [0, 0]), (3.0, 0, "o"), ([1e-3, 5.0], [1, 1]), (3.0, 1, "X"), (3.0, 2, "o"), (3.0, 3, "o"),
    ]  # fmt: skip
    assert [call.args[:2] for call in panel.text.call_args_list] == [(1.0, 4), (1.0, 5), (1.0, 6)]
    (places, names), _ = panel.set_yticks.call_args
    assert [*zip(places, names, strict=True)] == [(place, row[0]) for place, row in enumerate(rows)]


def test_a_pair_shows_both_histograms_where_they_are_known(monkeypatch: Patch) -> None:
    report = judged(planted(features=(7, 40)), planted(features=(7, 40)))
    fates = [but(each, candidate_mean_z=z) for each, z in zip(report.features, (4.0, None), strict=True)]
    known = but(report, features=fates)
    statistics = "candidate__evidence__statistics__histogram"
    unknown = but(known, **{f"{statistics}_counts": (), f"{statistics}_edges": ()})
    for compared, drawn in ((known, ["reference", "candidate"]), (unknown, ["reference"])):
        panels = [axes(), axes(), axes()]
        monkeypatch.setattr(notebook, "figure", lambda *_, panels=panels: ("made", panels))
        made: object = compared.plot()
        assert made == "made"
        assert [call.kwargs["label"] for call in panels[0].stairs.call_args_list] == drawn
        bars = {call.kwargs["label"]: call.args for call in panels[2].bar.call_args_list}
        assert_array_equal(bars["reference"][1], [each.mean_z for each in report.features])
        assert_array_equal(bars["candidate"][1], [4.0, np.nan])
