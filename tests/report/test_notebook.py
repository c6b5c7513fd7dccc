"""Reports in a notebook: one line, HTML without a script, data frames, pictures; nothing of it is loaded by a check."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image
from rich.console import Console

import robustcheck_onnx as rc
from robustcheck_onnx.checker.report.words import statistics_of
from robustcheck_onnx.checker.shift.records import Effective
from robustcheck_onnx.checker.verdict import NAMES
from robustcheck_onnx.thresholds.profile import STATISTICS
from support import Place, lookup, onnx_models, reports
from support.comparisons import Workshop, planted
from support.pages import Element, parse

EVIL = "<script>alert(1)</script>\x1b[8m\n&.onnx"


def texts(element: Element) -> Iterator[str]:
    for child in element.children:
        yield from [child] if isinstance(child, str) else texts(child)


def html_of(result: Any) -> str:
    """What stands in the cells, a line each; it holds nothing that could run."""
    root = parse(result._repr_html_())
    assert {e.tag for e in root.all()} <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for e in root.all() for name in e.attributes} == {"style"}
    return "\n".join(texts(root)) + "\n"


def renamed(report: rc.Report, name: str) -> rc.Report:
    evidence = report.evidence
    model = evidence.model.model_copy(update={"file": name})
    return report.model_copy(update={"evidence": evidence.model_copy(update={"model": model})})


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> rc.ScanReport:
    """A residual graph on random tensors."""
    folder = tmp_path_factory.mktemp("scanned")
    w = {"w": onnx_models.weight(16, 3, 3, 3), "v": onnx_models.weight(16, 16, 1, 1)}
    nodes = [
        ("Conv", ["image", "w"], ["c"], {"kernel_shape": [3, 3]}), ("Relu", ["c"], ["x"]),
        ("Conv", ["x", "v"], ["y"]), ("Add", ["x", "y"], ["z"]),
        ("GlobalAveragePool", ["z"], ["p"]), ("Flatten", ["p"], ["embedding"]),
    ]  # fmt: skip
    model = onnx_models.build(nodes, [("embedding", TensorProto.FLOAT, ("batch", 16))], w)
    onnx_models.save(model, folder / "small.onnx")
    pixels = np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32)
    return rc.scan(folder / "small.onnx", images=pixels, preprocess="imagenet", device="cpu")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, photos_80: Path) -> rc.CompareReport:
    """The second feature is lost."""
    workshop = Workshop(tmp_path_factory.mktemp("compared"), photos_80, lookup.write_lookup_model)
    h = planted(features=(7, 50))
    return workshop.compare(h - (np.arange(384) == 50) * h[:, 50].mean(), h)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> rc.ShiftReport:
    """Ten classes, of which two occur, and 16 images in each set."""
    folder = tmp_path_factory.mktemp("shifted")
    rng = np.random.default_rng(0)
    for name in ("val/0", "val/3", "blur/0", "blur/3"):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    onnx_models.save(onnx_models.classifier(10), folder / "classes.onnx")
    return rc.measure_shift(folder / "classes.onnx", folder / "val", folder / "blur", preprocess="imagenet")


# ------------------------------------------------------------------------------------------------------ a line


def test_results_are_one_line(scanned: rc.ScanReport, compared: rc.CompareReport, shifted: rc.ShiftReport) -> None:
    n = reports.passing().evidence.statistics.n_images
    file = reports.passing().evidence.model.file
    assert repr(reports.passing()) == f"Report(verdict='PASS', kind=None, model='{file}', images={n})"
    assert str(reports.warning()).startswith(f"verdict='WARN' kind='{reports.warning().kind}' model=")
    assert not set(repr(renamed(reports.passing(), EVIL))) & {"\n", "\x1b"}
    console = Console(file=(printed := io.StringIO()), width=200)
    console.print(reports.passing())
    assert printed.getvalue().count("\n") <= 6
    assert len(repr(reports.passing().evidence)) < 300
    assert repr(scanned) == f"ScanReport(model='{scanned.model.file}', layers=3, begins=None, images=9)"
    assert repr(compared).startswith(f"CompareReport(verdict='WARN', kind={compared.kind!r}, candidate='")
    assert repr(compared).endswith("reference.onnx', images=80)")
    assert len(repr(compared)) < 600
    assert len(repr(compared.next_baseline)) < 400
    inside, blur = (s.accuracy.value for s in (shifted.in_distribution, shifted.shifted[0].result))
    assert repr(shifted) == (
        f"ShiftReport(model='{shifted.model.file}', verdict='WARN', agreement='nothing to compare', "
        f"accuracies={{'val': {inside:.4g}, 'blur': {blur:.4g}}})"
    )


def test_a_verification_is_one_line_and_true_for_exit_code_0_alone(
    passed: rc.Report, lookup_pass: Place, tmp_path: Path
) -> None:
    model, photos = lookup_pass
    written = tmp_path / "report.json"
    written.write_text(passed.model_dump_json(), encoding="utf-8")
    holds = rc.verify(written, model, images=photos)
    page = html_of(holds)
    assert page.startswith(f"VERIFIED · exit code 0\n{written} says PASS\n{holds.rests_on}\n{holds.rule}\n")
    assert all(f"{each.check}\n{each.status}\n{each.seen}\n" in page for each in holds.findings)
    assert repr(holds) == f"Verification(result='VERIFIED', exit_code=0, report='{written}', model='{model}')"
    alone = rc.verify(written, model)
    assert alone.result == "NOT VERIFIED: nothing but the report vouches for it"
    onnx_models.save(onnx_models.encoder(), tmp_path / "other.onnx")
    other = rc.verify(written, tmp_path / "other.onnx", rerun=False)
    assert other.result == "DOES NOT HOLD"
    assert [(each.exit_code, bool(each)) for each in (holds, alone, other)] == [(0, True), (1, False), (3, False)]


# -------------------------------------------------------------------------------------------------------- HTML


def test_html_of_a_check() -> None:
    shown = reports.warning()
    page = html_of(shown)
    assert page.startswith(f"▲ WARN · {shown.kind} · {shown.evidence.model.file} · ")
    for reason in shown.verdict.reasons:
        assert f"{reason.id} ({reason.kind}): {reason.seen}" in page
        assert reason.next_step in page
    for each in statistics_of(shown):
        assert f"{each.name}\n{each.value}\n{each.bounds()}\n{each.limits}\n" in page
    assert all(note in page for note in shown.notes)
    page = html_of(renamed(reports.passing(), EVIL))
    assert page.startswith("✓ PASS · ")
    assert "<script>alert(1)</script>\\x1b[8m\\n&.onnx" in page
    assert "\x1b" not in page


def test_html_of_a_scan_and_a_comparison(scanned: rc.ScanReport, compared: rc.CompareReport) -> None:
    page = html_of(scanned)
    assert scanned.summary in page
    assert all(f"{i}. {layer.kind} {layer.tensor}" in page for i, layer in enumerate(scanned.layers, 1))
    page = html_of(compared)
    assert page.startswith(f"▲ WARN · {compared.kind} · {compared.candidate.evidence.model.file} against ")
    assert compared.verdict.reasons
    assert all(f"{r.id} ({r.kind}): {r.seen}" in page for r in compared.verdict.reasons)
    assert all(f"\n{change.keeps}\n" in page for change in compared.statistics)


def test_html_of_a_shift(shifted: rc.ShiftReport) -> None:
    page = html_of(shifted)
    assert page.startswith(f"Accuracy under distribution shift · {shifted.model.file}\n")
    assert f"WARN · nothing to compare: {shifted.agreement.sentence}" in page
    assert all(note in page for note in (*shifted.notes, shifted.claim))
    inside, blur = (s.accuracy for s in (shifted.in_distribution, shifted.shifted[0].result))
    gap = shifted.shifted[0].difference
    bounds = [f"{100 * each.low:.1f} – {100 * each.high:.1f}" for each in (inside, blur)]
    assert f"val\n16\n{100 * inside.value:.1f} %\n{bounds[0]}\nin-distribution\n" in page
    change = f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    assert f"blur\n16\n{100 * blur.value:.1f} %\n{bounds[1]}\n{change}\n–\n" in page
    beyond = Effective(points=3.25, low=1, high=5.5, expected=0.5, extrapolated=False, baseline="timm")
    first = shifted.shifted[0].model_copy(update={"effective_robustness": beyond})
    assert "+3.2 (+1.0 to +5.5)" in html_of(shifted.model_copy(update={"shifted": (first,)}))


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


@pytest.mark.long
def test_the_picture_of_a_check(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = reports.passing()
    made: Any = shown.plot()
    histogram, bars, plane = made.axes
    assert sum(patch.get_data().values.sum() for patch in histogram.patches) == shown.evidence.statistics.n_images
    assert [label.get_text() for label in bars.get_yticklabels()] == [each.name for each in statistics_of(shown)]
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


@pytest.mark.long
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
    assert [label.get_text() for label in kept.get_yticklabels()] == [
        NAMES[change.name] for change in compared.statistics
    ]
    assert [label.get_text() for label in features.get_xticklabels()] == [str(f.index) for f in compared.features]
    for made in (depth, pair):
        made.savefig(tmp_path / "made.png")
        assert (tmp_path / "made.png").stat().st_size > 10_000


def test_without_the_libraries_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name in ("pandas", "matplotlib"):
            for loaded in [each for each in sys.modules if each.split(".")[0] == name]:
                patch.delitem(sys.modules, loaded)
            patch.setitem(sys.modules, name, None)
        with pytest.raises(rc.EnvironmentFaultError, match=r"^package pandas is not installed; a data frame needs it$"):
            reports.passing().to_frame()
        with pytest.raises(rc.EnvironmentFaultError, match=r"^package matplotlib is not installed; a pic") as caught:
            reports.passing().plot()
    assert caught.value.hint == "pip install '.[plot]'  # in a clone"


@pytest.mark.long
def test_a_check_loads_neither(lookup_pass: Place) -> None:
    model, photos = map(str, lookup_pass)
    code = f"""
import sys
import robustcheck_onnx as rc
report = rc.check({model!r}, images={photos!r}, max_images=3)
repr(report), report._repr_html_()
rc.compare, rc.scan, rc.measure_shift, rc.verify
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"pandas", "matplotlib", "IPython", "torch", "jinja2"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
