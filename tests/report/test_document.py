"""The questions in each form: terminal, page, Markdown and notebook; data frames and pictures."""

import itertools
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from markdown_it import MarkdownIt
from numpy.testing import assert_array_equal
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.outside.storage.documents import OURS
from robustcheck_onnx.checker.questions.scan.layer import PersistentFeature
from robustcheck_onnx.checker.questions.shift.robustness import Effective
from robustcheck_onnx.checker.report import charts, figures, markdown, notebook, page, terminal
from robustcheck_onnx.checker.report.document import (
    Cell,
    Chart,
    Column,
    Document,
    Section,
    Series,
    Table,
    cell_of,
    document_of,
    text_of,
)
from robustcheck_onnx.checker.report.numbers import statistics_of
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.checker.trust.verify.checks import unchecked
from robustcheck_onnx.checker.trust.verify.run import Verification
from robustcheck_onnx.thresholds.statistics import STATISTICS
from support import Patch, but, extra, levels, normal, onnx_models, raised, reports, screens
from support.bad_input import Run
from support.comparisons import judged, planted, rotation
from support.onnx_models import encoder, save
from support.outcomes import gated
from support.reports import interval, passing, warning
from support.screens import Element, in_notebook, parse, printed, words

ASKED = ["scan", "concepts", "directions", "shift", "compare", "inspect", "verify"]
QUESTIONS = pytest.mark.parametrize("question", ASKED)
HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}|`\x1b[31m"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, labelled sets of two classes, and a set without labels."""
    folder = tmp_path_factory.mktemp("questions")
    for i, pixels in enumerate(levels(64, 8, 8, 3)):
        for path in (folder / ("val", "blur")[i % 2] / str(3 * (i % 4 // 2)), folder / "target"):
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / f"{i}.png")
    onnx_models.save(onnx_models.classifier(10), folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def results(place: Path) -> dict[str, Any]:
    """One result of each question; a layer of the scan has five persistent features."""
    model, val, blur = place / "model.onnx", place / "val", [str(place / "blur")]
    given: dict[str, Any] = {"preprocess": "imagenet", "device": "cpu", "isolate": False}
    scan = rc.scan(model, images=val, **given)
    features = tuple(PersistentFeature(feature=i, frequency=1.0, kurtosis_share=0.1) for i in range(5))
    first = but(scan.layers[0], statistics__n_persistent=5, statistics__persistent=features)
    return {
        "scan": but(scan, layers=(first, *scan.layers[1:]), begins=0),
        "concepts": rc.concepts(model, val, **given),
        "directions": rc.directions(model, labelled=str(val), shifted=blur, **given),
        "shift": rc.measure_shift(model, val, blur, target=[str(place / "target")], **given),
        "compare": judged(planted(features=(7, 40)) @ rotation(384), planted(features=(7, 40))),
        "inspect": rc.inspect(model),
        "verify": Verification(
            tool_version=VERSION, report="report.json", model="model.onnx", verdict="WARN", reasons=("too_weak",),
            result_digest="sha256:1", cautions=("a caution",), findings=(unchecked("signature", "none was given"),),
            rests_on="The numbers: nothing.", exit_code=1, rule="nothing was checked",
        ),
    }  # fmt: skip


def blocks_of(document: Document, kind: type) -> list[Any]:
    sections = (section for section in document.sections if section.shown != "brief")
    return [block for section in sections for block in section.blocks if isinstance(block, kind)]


@QUESTIONS
def test_the_terminal_fits(question: str, results: dict[str, Any]) -> None:
    document = document_of(results[question])
    names = rf"{re.escape(document.model.file)}|224\\xd7224"
    for width, ascii_only, verbose in itertools.product((80, 120), (False, True), (False, True)):
        text = printed(terminal.render_document(document, ascii_only=ascii_only, verbose=verbose), width)
        lines, flat = text.splitlines(), " ".join(text.split())
        assert max(len(line) for line in lines if not line.startswith("  robustcheck ")) <= width  # a command is whole
        assert OURS.match(text.encode())
        assert ("\nLimits\n" in text) == (verbose and bool(document.limits))
        for section in document.sections:
            here = section.shown in ("short", "whole" if verbose else "brief")
            assert any(line.startswith(section.title or line) for line in lines) == (here or not section.title)
        if not verbose:
            assert document.hint in flat
            assert ", ".join(reason.id for reason in document.reasons) in flat
        if ascii_only:
            assert text.isascii()
            assert "\\x" not in re.sub(names, "", text)
            continue
        assert not verbose or all(reason.seen in flat for reason in document.reasons)
        summary = " ".join(document.summary.split())
        assert summary in " ".join(text.partition("\n\n")[0].split()) if document.verdict else flat.endswith(summary)
        if document.verdict and document.exit_code is not None:
            assert f"━━ {document.verdict.text} · exit code {document.exit_code}" in flat
        assert ("▲" in text) == (question in ("scan", "compare", "verify"))
    assert document.one_line.count("\n") == 0


def shown_in(row: Element) -> list[Element]:
    """The cells of a row but for those that hold a bar."""
    return [cell for cell in row.all("th", "td") if "bars" not in cell.attributes.get("class", "")]


@QUESTIONS
def test_the_page_holds_every_number(question: str, results: dict[str, Any]) -> None:
    document, root = document_of(results[question]), parse(results[question].to_html())
    tables, n_bars = blocks_of(document, Table), 0
    for table, shown in zip(tables, root.all("table"), strict=True):
        heads = [column.head.lower() for column in table.columns]
        titles, *rows = map(shown_in, shown.all("tr"))
        assert [cell.text.lower() for cell in titles] == heads
        for row, told in zip(table.rows, rows, strict=True):
            assert [cell.text.strip() for cell in told] == [cell_of(each).text for each in row]
            assert [cell.attributes["data-label"].lower() for cell in told[1:]] == heads[1:]
        with_bars = [any(cell_of(each).bar for each in row) for row in table.rows]
        n_bars += sum(with_bars) + with_bars[0]  # the first has an axis, too
    text = words(root)
    reasons = [reason.seen for reason in document.reasons]
    for said in (document.summary, document.limits, document.claim, *document.notes, *document.cautions, *reasons):
        assert said in text
    assert len(list(root.all("svg"))) == len(blocks_of(document, Chart)) + n_bars


def test_bars_are_in_proportion_and_marked(results: dict[str, Any]) -> None:
    scan = results["scan"]
    root = parse(scan.to_html())
    (picture,) = root.all("svg")
    values = np.array([layer.statistics.kurtosis for layer in scan.layers], float)
    bars = [bar.attributes for bar in picture.all("rect")]
    np.testing.assert_allclose([float(bar["height"]) for bar in bars], charts.ROOM * values / values.max(), atol=0.01)
    assert [bar["class"] for bar in bars] == ["above", *["fill"] * (len(values) - 1)]
    assert sum(each.text == "▲" for each in picture.all("text")) == 1
    for said in ("0, 1, 2 + 2 more", "feature 4layer 1, 100 %"):
        assert said in words(root)


def points_of(line: Element) -> list[list[float]]:
    return [[float(part) for part in each.split(",")] for each in line.attributes["points"].split()]


def test_curves_are_in_proportion(results: dict[str, Any]) -> None:
    report = results["directions"]
    pruning, spectrum = parse(report.to_html()).all("svg")
    lines, curves = list(pruning.all("polyline")), report.raw.curves
    assert [line.attributes["class"] for line in lines] == list(charts.SHAPES)
    for line, curve in zip(lines, curves, strict=True):
        points = [(p.percent / 100 * charts.OF_CURVES, charts.y_of(p.same.value)) for p in curve.points[::-1]]
        np.testing.assert_allclose(points_of(line), points, atol=0.01)
    assert sum(each.attributes["class"] == "range" for each in pruning.all("line")) == len(curves[0].points)
    first, *_, last = points_of(next(spectrum.all("polyline")))
    np.testing.assert_allclose(
        [first, last], [[0, charts.BASE], [charts.OF_CURVES, charts.BASE - charts.ROOM]], atol=0.01
    )


def test_words_below_an_axis_keep_apart_and_the_last_is_there() -> None:
    for n in (1, 2, 3, 15, 16, 40, 97):
        numbers = tuple(map(str, range(1, n + 1)))
        drawn = charts.picture(Chart("a", numbers, (Series("b", (1.0,) * n, numbers),), "1"))
        assert drawn is not None
        assert drawn.ticks[-1].text == str(n)
        assert all(b.at - a.at >= charts.APART for a, b in itertools.pairwise(drawn.ticks))
        assert charts.NARROWEST <= drawn.width <= charts.WIDEST
        assert drawn.bars[-1].x + drawn.bars[-1].width <= drawn.width
    assert charts.picture(Chart("a", ("1",), (Series("b", (0.0,), ("0",)),), "0")) is None


@QUESTIONS
def test_markdown_has_every_section_and_table(question: str, results: dict[str, Any]) -> None:
    document, text = document_of(results[question]), results[question].to_markdown()
    assert OURS.match(text.encode())
    assert text.endswith("\n")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    headings = [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    titles = [each.title for each in document.sections if each.title and each.shown != "brief"]
    reasons = ["Reasons and next steps"] * bool(document.reasons)
    assert [heading.partition(" (")[0] for heading in headings[1:]] == [*reasons, *titles]
    n_of = Counter(token.type for token in tokens)
    assert n_of["tr_open"] == sum(len(block.rows) + 1 for block in blocks_of(document, Table))
    assert n_of["fence"] == len(blocks_of(document, Chart))
    assert results[question]._repr_markdown_() == text


def test_a_head_is_shown_as_it_is_and_a_wide_only_column_where_there_is_room(results: dict[str, Any]) -> None:
    """A head can be the name of an image set, which may start with any sign."""
    columns = (Column("set"), Column("=>a", right=True), Column("?b", no_wrap=True), Column(">c", wide_only=True))
    table = Table(columns, (("one", "two", "three", "four"),))
    document = replace(document_of(results["verify"]), sections=(Section("Sets", "", (table,), "short"),))
    narrow, wide = (printed(terminal.render_document(document), width) for width in (80, 120))
    assert "  set  =>a  ?b\n  one  two  three\n\n  >c: from 110 columns on\n" in narrow
    assert "  set  =>a  ?b     >c\n  one  two  three  four\n" in wide
    assert "| set | \\=&gt;a | ?b | &gt;c |\n| --- | ---: | --- | --- |\n" in markdown.of_document(document)
    shown = parse(page.of_document(document))
    assert [cell.text for cell in shown.all("th")] == ["Set", "=>a", "?b", ">c", "one"]
    assert [cell.attributes.get("class") for cell in shown.all("td")] == ["num", "nowrap", None]
    assert [cell.attributes["data-label"] for cell in shown.all("td")] == ["=>a", "?b", ">c"]
    styles = [cell.attributes["style"].partition(";")[0] for cell in parse(notebook.table(table)).all("th")]
    assert styles == ["text-align:left", "text-align:right", "text-align:left", "text-align:left"]


@pytest.mark.parametrize("question", ["check", *ASKED])
def test_a_notebook_shows_the_short_report(question: str, results: dict[str, Any]) -> None:
    result = results.get(question, warning())
    document, root = document_of(result), in_notebook(result)
    code = "" if document.exit_code is None else f" · exit code {document.exit_code}"
    assert root.texts[0] == f"{(document.verdict or Cell(document.title)).text} · {document.model.file}{code}"
    said = [document.claim, document.summary, document.limits, *document.notes, *document.cautions]
    said += [f"{each.id} ({each.kind}): {each.seen}→ {each.next_step}" for each in document.reasons]
    assert [each for each in said if each not in root.text] == []
    rows = [[cell.text for cell in row.all("td")] for row in root.all("tr")]
    tables = [(each, part.shown) for part in document.sections for each in part.blocks if isinstance(each, Table)]
    short = [each for each, shown in tables if shown in {"brief", "short"}] or [tables[0][0]]
    assert [each for each in rows if each] == [[*map(text_of, row)] for each in short for row in each.rows]


def test_a_verification_is_one_line_and_true_for_exit_code_0_alone(results: dict[str, Any]) -> None:
    found = results["verify"]
    result = "NOT VERIFIED: nothing was measured again, and no signature was checked"
    assert repr(found) == f"Verification({result=}, exit_code=1, report='report.json', model='model.onnx')"
    assert [but(found, exit_code=code).passed for code in (0, 1, 3)] == [True, False, False]


def test_a_shift_in_a_notebook(results: dict[str, Any]) -> None:
    shifted = results["shift"]
    (first,) = shifted.shifted
    start = "ShiftReport\\(model='.*', verdict='WARN', agreement='nothing to compare', accuracies={'val': "
    assert re.match(start, repr(shifted))
    beyond = Effective(points=3.25, low=1, high=5.5, expected=0.5, extrapolated=False, baseline="timm")
    changed = but(shifted, shifted=(but(first, effective_robustness=beyond, result__shift="imagenetv2"),))
    page, other = ("\n".join(in_notebook(each).texts) for each in (shifted, changed))
    change = [100 * each for each in (first.difference.value, first.difference.low, first.difference.high)]
    assert "\n{:+.1f} ({:+.1f} to {:+.1f})\n".format(*change) in page
    assert "V2\n+3.2\n+1.0 – +5.5\n" in other


NAMED = {
    "compare": "candidate__evidence__model__file candidate__evidence__model__source baseline notes",
    "inspect": "file",
    "verify": "model rule cautions",
}
PARTS = {"scan": ("layers", "tensor"), "concepts": ("concepts", "name")}


@QUESTIONS
def test_hostile_names_stay_text(question: str, results: dict[str, Any]) -> None:
    def named(word: str) -> Any:
        names = NAMED.get(question, "model__file model__source notes").split()
        report = but(results[question], **{name: (word,) if name[-1] == "s" else word for name in names})
        for many, name in [PARTS[question]] if question in PARTS else []:
            report = but(report, **{many: tuple(but(each, **{name: word}) for each in getattr(report, many))})
        return report

    report = named(HOSTILE)
    page, markdown = report.to_html(), report.to_markdown()
    screens.assert_it_loads_nothing(page)
    screens.assert_it_is_accessible(page)
    assert [each.text for each in parse(page).all("h2")] == [HOSTILE.replace("\x1b", "\\x1b")]
    for text in (page, markdown, report._repr_html_()):
        assert "<script" not in text
        assert "\x1b" not in text
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    assert (
        len({tuple(token.type for token in parser.parse(text)) for text in (named("x").to_markdown(), markdown)}) == 1
    )


def test_the_command_writes_markdown_and_a_page(place: Path, results: dict[str, Any], ends: Run) -> None:
    sets = f"--in {place}/val --shifted {place}/blur --target {place}/target -o markdown -o {place}/page.html"
    done = ends(0, f"shift {place}/model.onnx {sets} --preprocess imagenet --device cpu --no-time")
    shown = but(results["shift"], time=None)
    assert (done.stdout, (place / "page.html").read_text()) == (shown.to_markdown(), shown.to_html())


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
    assert frame["minimum"].dropna().to_dict() == {i: shown.profile.minimum_of(i) for i in shown.profile.deciding}
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
    figures.intervals(panel, rows, "value / threshold")
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
        monkeypatch.setattr(figures, "figure", lambda *_, panels=panels: ("made", panels))
        made: object = compared.plot()
        assert made == "made"
        assert [call.kwargs["label"] for call in panels[0].stairs.call_args_list] == drawn
        bars = {call.kwargs["label"]: call.args for call in panels[2].bar.call_args_list}
        assert_array_equal(bars["reference"][1], [each.mean_z for each in report.features])
        assert_array_equal(bars["candidate"][1], [4.0, np.nan])
