"""Reports in a notebook: one line, HTML without a script, data frames, pictures; nothing of it is loaded by a check."""

import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from rich.console import Console

import robustcheck_onnx as rc
from robustcheck_onnx.checker.report.words import statistics_of
from robustcheck_onnx.checker.verdict import NAMES
from robustcheck_onnx.thresholds.profile import STATISTICS
from support import onnx_models, reports
from support.comparisons import Workshop, planted

EVIL = "<script>alert(1)</script>\x1b[8m\n&.onnx"


class Tags(HTMLParser):
    """Checks that every tag is closed, and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def html_of(result: Any) -> Tags:
    page = Tags(result._repr_html_())
    assert page.tags <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.attributes == {"style"}
    return page


def renamed(report: rc.Report, name: str) -> rc.Report:
    evidence = report.evidence
    model = evidence.model.model_copy(update={"file": name})
    return report.model_copy(update={"evidence": evidence.model_copy(update={"model": model})})


@pytest.fixture
def scanned(tmp_path: Path) -> rc.ScanReport:
    """A residual graph on random tensors."""
    w = {"w": onnx_models.weight(16, 3, 3, 3), "v": onnx_models.weight(16, 16, 1, 1)}
    nodes = [
        ("Conv", ["image", "w"], ["c"], {"kernel_shape": [3, 3]}), ("Relu", ["c"], ["x"]),
        ("Conv", ["x", "v"], ["y"]), ("Add", ["x", "y"], ["z"]),
        ("GlobalAveragePool", ["z"], ["p"]), ("Flatten", ["p"], ["embedding"]),
    ]  # fmt: skip
    model = onnx_models.build(nodes, [("embedding", TensorProto.FLOAT, ("batch", 16))], w)
    onnx_models.save(model, tmp_path / "small.onnx")
    pixels = np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32)
    return rc.scan(tmp_path / "small.onnx", images=pixels, preprocess="imagenet", device="cpu")


@pytest.fixture
def compared(workshop: Workshop) -> rc.CompareReport:
    """The second feature is lost."""
    h = planted(features=(7, 50))
    return workshop.compare(h - (np.arange(384) == 50) * h[:, 50].mean(), h)


# ------------------------------------------------------------------------------------------------------ a line


def test_a_report_is_one_line() -> None:
    n = reports.passing().evidence.statistics.n_images
    file = reports.passing().evidence.model.file
    assert repr(reports.passing()) == f"Report(verdict='PASS', kind=None, model='{file}', images={n})"
    assert str(reports.warning()).startswith(f"verdict='WARN' kind='{reports.warning().kind}' model=")
    shown = repr(renamed(reports.passing(), EVIL))
    assert "\n" not in shown
    assert "\x1b" not in shown
    console = Console(file=io.StringIO(), width=200)
    console.print(reports.passing())
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") <= 6
    assert len(repr(reports.passing().evidence)) < 300


def test_a_scan_and_a_comparison_are_one_line(scanned: rc.ScanReport, compared: rc.CompareReport) -> None:
    assert repr(scanned) == f"ScanReport(model='{scanned.model.file}', layers=3, begins=None, images=9)"
    assert repr(compared).startswith(f"CompareReport(verdict='WARN', kind={compared.kind!r}, candidate='")
    assert repr(compared).endswith("reference.onnx', images=80)")
    assert len(repr(compared)) < 600
    assert len(repr(compared.next_baseline)) < 400


# -------------------------------------------------------------------------------------------------------- HTML


def test_html_of_a_check() -> None:
    shown = reports.warning()
    page = html_of(shown)
    assert page.text.startswith(f"▲ WARN · {shown.kind} · {shown.evidence.model.file} · ")
    for reason in shown.verdict.reasons:
        assert f"{reason.id} ({reason.kind}): {reason.seen}" in page.text
        assert reason.next_step in page.text
    for each in statistics_of(shown):
        assert f"{each.name}\n{each.value}\n{each.bounds()}\n{each.limits}\n" in page.text
    assert html_of(reports.passing()).text.startswith("✓ PASS · ")
    assert all(note in html_of(reports.passing()).text for note in reports.passing().notes)


def test_names_stay_text() -> None:
    page = html_of(renamed(reports.passing(), EVIL))
    assert "<script>alert(1)</script>\\x1b[8m\\n&.onnx" in page.text
    assert "\x1b" not in page.text


def test_html_of_a_scan_and_a_comparison(scanned: rc.ScanReport, compared: rc.CompareReport) -> None:
    page = html_of(scanned)
    assert scanned.summary in page.text
    assert all(f"{i}. {layer.kind} {layer.tensor}" in page.text for i, layer in enumerate(scanned.layers, 1))
    page = html_of(compared)
    assert page.text.startswith(f"▲ WARN · {compared.kind} · {compared.candidate.evidence.model.file} against ")
    assert compared.verdict.reasons
    assert all(f"{r.id} ({r.kind}): {r.seen}" in page.text for r in compared.verdict.reasons)
    assert all(f"\n{change.keeps}\n" in page.text for change in compared.statistics)


# -------------------------------------------------------------------------------------------------- data frames


def test_data_frames(scanned: rc.ScanReport, compared: rc.CompareReport) -> None:
    pytest.importorskip("pandas")
    shown = reports.warning()
    frame = shown.to_frame()
    assert tuple(frame.index) == STATISTICS
    for name in STATISTICS:
        interval = getattr(shown.evidence.statistics, name)
        assert frame.loc[name, "estimate"] == interval.estimate
        assert frame.loc[name, "low"] == interval.low
        decides = name in shown.profile.deciding
        assert frame["minimum"].notna()[name] == frame["clears"].notna()[name] == decides
    assert frame.loc["kurtosis", "minimum"] == shown.profile.limits_of("kurtosis").minimum
    layers = scanned.to_frame()
    assert list(layers.index) == [1, 2, 3]
    assert list(layers["kurtosis"]) == [layer.statistics.kurtosis for layer in scanned.layers]
    changes = compared.to_frame()
    assert list(changes["keeps"]) == [change.keeps for change in compared.statistics]
    assert list(changes["ratio_low"].dropna()) == [c.ratio.low for c in compared.statistics if c.ratio.low is not None]


# ----------------------------------------------------------------------------------------------------- pictures


def labels(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_the_picture_of_a_check(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = reports.passing()
    made: Any = shown.plot()
    histogram, bars, plane = made.axes
    assert sum(patch.get_data().values.sum() for patch in histogram.patches) == shown.evidence.statistics.n_images
    assert labels(bars) == [each.name for each in statistics_of(shown)]
    first = statistics_of(shown)[0]
    assert first.interval.low is not None
    assert bars.lines[0].get_xdata()[0] == first.interval.low / first.limits.minimum
    points = sum(len(group.get_offsets()) for group in plane.collections)
    assert points == len(shown.reference) + 1
    assert pyplot.get_fignums() == []  # a notebook shows it once
    made.savefig(tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 10_000
    renamed(shown, "a$b$_{c}.onnx").plot().savefig(tmp_path / "math.png")  # no formula
    reports.undecided().plot().savefig(tmp_path / "undecided.png")


def test_the_pictures_of_a_scan_and_a_comparison(
    scanned: rc.ScanReport, compared: rc.CompareReport, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    depth: Any = scanned.plot()
    kurtosis, share = depth.axes
    assert list(kurtosis.lines[0].get_ydata()) == [layer.statistics.kurtosis for layer in scanned.layers]
    assert list(share.lines[0].get_xdata()) == [1, 2, 3]
    pair: Any = compared.plot()
    histogram, kept, features = pair.axes
    assert [text.get_text() for text in histogram.get_legend().get_texts()] == ["reference", "candidate"]
    assert labels(kept) == [NAMES[change.name] for change in compared.statistics]
    assert [label.get_text() for label in features.get_xticklabels()] == [str(f.index) for f in compared.features]
    for name, made in (("scan", depth), ("compare", pair)):
        made.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_without_the_libraries_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "matplotlib"):
        for loaded in [each for each in sys.modules if each.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(rc.EnvironmentFaultError, match=r"^package pandas is not installed; a data frame needs it$"):
        reports.passing().to_frame()
    with pytest.raises(rc.EnvironmentFaultError, match=r"^package matplotlib is not installed; a picture") as caught:
        reports.passing().plot()
    assert caught.value.hint == "pip install '.[plot]'  # in a clone"


def test_a_check_loads_neither(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = map(str, lookup_pass)
    code = f"""
import sys
import robustcheck_onnx as rc
report = rc.check({model!r}, images={photos!r}, max_images=3)
repr(report), report._repr_html_()
rc.compare, rc.scan, rc.measure_shift, rc.verify
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"pandas", "matplotlib", "IPython", "torch"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
