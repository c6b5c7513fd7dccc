"""Reports in a notebook: one line, HTML without a script, data frames, pictures; nothing of it is loaded by a check."""

import io
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from rich.console import Console

import robustcheck_onnx as rc
from robustcheck_onnx.checker.report import notebook
from robustcheck_onnx.checker.report.words import statistics_of
from robustcheck_onnx.thresholds.profile import STATISTICS
from support import Place, but, extra, lookup, normal, reports
from support.comparisons import Workshop, judged, planted
from support.onnx_models import encoder, save
from support.outcomes import gated
from support.pages import parse

EVIL = "<script>alert(1)</script>\x1b[8m\n&.onnx"


def told_of(result: Any) -> tuple[str, str]:
    """The one line, and what stands in the cells, a line each; that holds nothing that could run."""
    root = parse(result._repr_html_())
    assert {e.tag for e in root.all()} <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for e in root.all() for name in e.attributes} == {"style"}
    return repr(result), "\n".join(root.texts) + "\n"


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> rc.ScanReport:
    """Two layers, on random tensors."""
    model = save(encoder(), tmp_path_factory.mktemp("scanned") / "small.onnx")
    pixels = normal(9, 3, 8, 8).astype(np.float32)
    return rc.scan(model, images=pixels, preprocess="imagenet", device="cpu")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, photos_80: Path) -> rc.CompareReport:
    """The second feature is lost."""
    workshop = Workshop(tmp_path_factory.mktemp("compared"), photos_80, lookup.write_lookup_model)
    h = planted(features=(7, 50))
    return workshop.compare(h - (np.arange(384) == 50) * h[:, 50].mean(), h)


# ------------------------------------------------------------------------------------------------------ a line


def test_a_check_is_one_line_and_a_page() -> None:
    shown, passed = reports.warning(), reports.passing()
    line, page = told_of(shown)
    assert line == f"Report(verdict='WARN', kind='{shown.kind}', model='models/efficientnet-lite0.onnx', images=160)"
    assert str(shown).startswith(f"verdict='WARN' kind='{shown.kind}' model=")
    assert page.startswith(f"▲ WARN · {shown.kind} · models/efficientnet-lite0.onnx\n")
    assert "160 of 300 images" in page
    for reason in shown.verdict.reasons:
        assert f"{reason.id} ({reason.kind}): {reason.seen}" in page
        assert reason.next_step in page
    for each in statistics_of(shown):
        assert f"{each.name}\n{each.value}\n{each.bounds(' – ')}\n{each.limits}\n" in page
    assert all(note in page for note in shown.notes)
    line, page = told_of(gated(passed, file=EVIL))
    assert not set(line + page) & {"\x1b", "\x07"} | set(line) & {"\n"}
    assert page.startswith("✓ PASS · ")
    assert "<script>alert(1)</script>\\x1b[8m\\n&.onnx" in page
    console = Console(file=(printed := io.StringIO()), width=200)
    console.print(passed)
    assert printed.getvalue().count("\n") <= 6


def test_a_verification_is_one_line_and_true_for_exit_code_0_alone(
    passed: rc.Report, lookup_pass: Place, tmp_path: Path
) -> None:
    model, photos = lookup_pass
    written = tmp_path / "report.json"
    written.write_text(passed.model_dump_json(), encoding="utf-8")
    other = save(encoder(), tmp_path / "other.onnx")
    found = rc.verify(written, model, images=photos)
    line, page = told_of(found)
    assert line == f"Verification(result='VERIFIED', exit_code=0, report='{written}', model='{model}')"
    assert page.startswith(f"✓ VERIFIED · {model} · exit code 0\n{written} says PASS\n{found.rests_on}\n{found.rule}\n")
    assert all(f"{each.check}\n✓ {each.status}\n{each.seen}\n" in page.replace("–", "✓") for each in found.findings)
    others = rc.verify(written, model), rc.verify(written, other, rerun=False)
    assert [(each.exit_code, each.passed) for each in (found, *others)] == [(0, True), (1, False), (3, False)]


# -------------------------------------------------------------------------------------------------- data frames


def test_a_scan_and_a_comparison(scanned: rc.ScanReport, compared: rc.CompareReport) -> None:
    line, page = told_of(scanned)
    assert line == f"ScanReport(model='{scanned.model.file}', layers=2, begins=None, images=9)"
    assert scanned.summary in page
    assert all(f"{i}\n{layer.kind}\n{layer.tensor}\n" in page for i, layer in enumerate(scanned.layers, 1))
    line, page = told_of(compared)
    ends = f"CompareReport\\(verdict='WARN', kind={compared.kind!r}, candidate='.*reference.onnx', images=80\\)"
    assert re.fullmatch(ends, line)
    assert page.startswith(f"▲ WARN · {compared.kind} · {compared.candidate.evidence.model.file} · ")
    assert compared.verdict.reasons
    assert all(f"{r.id} ({r.kind}): {r.seen}" in page for r in compared.verdict.reasons)
    kept = [c.keeps.replace("not required", "–") for c in compared.statistics]
    assert sorted(re.findall("^(?:. )?(kept|shrank|undecided|–)$", page, re.MULTILINE)) == sorted(kept)


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


# ----------------------------------------------------------------------------------------------------- pictures


def test_without_the_libraries_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name in ("pandas", "matplotlib"):
            for loaded in [each for each in sys.modules if each.split(".")[0] == name]:
                patch.delitem(sys.modules, loaded)
            patch.setitem(sys.modules, name, None)
        with pytest.raises(
            rc.EnvironmentFaultError, match=r"^package pandas is not installed; a data frame needs it\n"
        ):
            reports.passing().to_frame()
        with pytest.raises(
            rc.EnvironmentFaultError, match=r"^package matplotlib is not installed; a plot needs it"
        ) as caught:
            reports.passing().plot()
    assert caught.value.hint == extra("plot")


@pytest.mark.long
def test_pictures(scanned: rc.ScanReport, compared: rc.CompareReport, tmp_path: Path) -> None:
    """What they are told to draw is asked in test_plots.py."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = reports.passing()
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
        (name, reports.interval(*bounds), unit, sound)
        for name, bounds, unit, sound in (
            ("both", (6.0, 4.0, 10.0), 2.0, True),
            ("zero", (6.0, 0.0, 10.0), 2.0, False),
            ("upper", (6.0, None, 10.0), 2.0, True),
            ("lower", (6.0, 4.0, None), 2.0, True),
            ("nothing", (None, None, None), 2.0, False),
            ("negative", (-6.0, -7.0, -5.0), 2.0, False),
            ("no unit", (6.0, 4.0, 10.0), 0.0, True),
        )
    ]
    panel = axes()
    notebook.intervals(panel, rows, "value / threshold")
    assert [call.args for call in panel.plot.call_args_list] == [
        ([2.0, 5.0], [0, 0]), (3.0, 0, "o"), ([1e-3, 5.0], [1, 1]), (3.0, 1, "X"), (3.0, 2, "o"), (3.0, 3, "o"),
    ]  # fmt: skip
    assert [call.args[:2] for call in panel.text.call_args_list] == [(1.0, 4), (1.0, 5), (1.0, 6)]
    (places, names), _ = panel.set_yticks.call_args
    assert (list(places), names) == (list(range(7)), [name for name, *_ in rows])


def test_a_pair_shows_both_histograms_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
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
