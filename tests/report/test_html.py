"""The HTML report: well-formed, self-contained, accessible, true to the numbers; hostile names stay text.

The reports are those of tests/support/reports.py (made up), the galleries are made here.
"""

import itertools
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from robustcheck_onnx.checker.core.evidence import Gallery, SeenImage
from robustcheck_onnx.checker.core.verdict import rule as verdicts
from robustcheck_onnx.checker.core.verdict.kinds import KINDS, Kind
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.report import charts, forms
from robustcheck_onnx.checker.report import page as html
from robustcheck_onnx.checker.report import template as report_html_page
from robustcheck_onnx.checker.report.basis import INTERVALS
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.document import Bar, Chart, document_of
from robustcheck_onnx.checker.report.model_names import FormOptions
from robustcheck_onnx.checker.report.page import of_document
from robustcheck_onnx.checker.report.record import Failed, Outcome
from robustcheck_onnx.checker.report.words import plain_text, spelled, verdict_text
from robustcheck_onnx.checker.text import percent_text
from robustcheck_onnx.thresholds import published
from robustcheck_onnx.thresholds.ends import End
from robustcheck_onnx.thresholds.profile import load
from robustcheck_onnx.thresholds.statistics import DECIDING, DEFINITIONS
from support import PATIENCE_S, Fields, Patch, but, reports
from support.bad_input import Run
from support.comparisons import judged, planted
from support.outcomes import ALL_WAIVED, NOTHING, WAIVED, gated
from support.reports import interval
from support.screens import Element, assert_it_is_accessible, assert_it_loads_nothing, parse, words

Pages = dict[str, str]
STYLE = report_html_page.TEMPLATES / "style.css"
PIXEL = "data:image/jpeg;base64,/9j/4AAQSkZJRg=="
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e\udcff{{ 7 * 7 }}"


def with_gallery(report: Report) -> Report:
    features = report.evidence.statistics.features
    drawn = default_rng(1).normal([f.mean_z for f in features], 1.0, (6, len(features)))
    rows = tuple(
        SeenImage(name=f"photo {i}.jpg", digest=f"sha256:{i}", kurtosis=70.0 + i, z=z) for i, z in enumerate(drawn)
    )
    kept = Gallery(features=tuple(f.index for f in features), shown=rows, most=rows[:1], least=rows[1:2])
    return but(gated(report), evidence__gallery=kept)


def hostile() -> Report:
    changes: Fields = dict.fromkeys(("file", "source", "tensor", "why", "producer", "synthetic"), HOSTILE)
    report = gated(reports.warning(), **changes, external_digests={HOSTILE: HOSTILE}, waived=("one_sided",))
    image = SeenImage(name=HOSTILE, digest="sha256:0", kurtosis=79.0, z=(9.0,))
    images: Fields = {"source": HOSTILE, "n_skipped": 1, "skipped": ((HOSTILE, HOSTILE),)}
    return but(
        report,
        **{f"evidence__images__{name}": value for name, value in images.items()},
        evidence__gallery=Gallery(features=(526,), shown=(image,), most=(but(image, digest="d"),), least=()),
        notes=(HOSTILE,),
    )


FAILED = Failed(model="models/broken.onnx", message="models/broken.onnx: file is empty", hint="ls -l", exit_code=3)


@pytest.fixture(scope="module")
def pages() -> Pages:
    """Pages that are well-formed, load nothing and are accessible."""
    passing, warning = reports.passing(), reports.warning()
    none: Fields = {"random_weights": None, "batch_difference": None, "output_difference": None, "opset": {}}
    outcomes: dict[str, list[Outcome]] = {
        "pass": [with_gallery(passing)], "warn": [with_gallery(warning)], "without gallery": [passing],
        "unmeasured": [but(gated(NOTHING, **none), reference=(), time=None)], "waived": [ALL_WAIVED, WAIVED],
        "failed": [FAILED], "several": [with_gallery(passing), FAILED, with_gallery(warning)],
        "hostile": [hostile(), Failed(model=HOSTILE, message=HOSTILE, hint=HOSTILE, exit_code=70)], "none": [],
    }  # fmt: skip
    options = FormOptions(thumbnails={"sha256:0": PIXEL, "d": "https://example.invalid/x.png"})
    made = {name: forms.render("html", found, options) for name, found in outcomes.items()}
    for page in made.values():
        assert_it_loads_nothing(page)
        assert_it_is_accessible(page)
    return made


def root_of(*outcomes: Outcome) -> Element:
    return parse(forms.render("html", outcomes))


def of_class(root: Element, tag: str, name: str) -> list[Element]:
    """Elements of a tag and a class."""
    return [e for e in root.all(tag) if e.attributes.get("class") == name]


def test_hostile_names_stay_text(pages: Pages) -> None:
    page = pages["hostile"]
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\udcff", "\\udcff")
    root = parse(page)
    assert not {sign for sign in ("<script", "\x1b", "\u202e") if sign in page}
    assert "{{ 7 * 7 }}" in page  # no template of a template
    assert [e.text for e in root.all("h2") if "alert(1)" in e.text] == [shown, shown]
    (thumbnails,) = of_class(root, "ul", "thumbs")
    assert re.match("no preview.*" + re.escape(shown), thumbnails.text.strip(), re.DOTALL)
    assert not list(thumbnails.all("img"))  # an address is not a picture


def contrast(*colours: str) -> float:
    """WCAG 2.1: the ratio of the relative luminances of two colours."""
    parts = np.array([[*bytes.fromhex(colour[1:])] for colour in colours]) / 255
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    dark, light = np.sort(linear @ (0.2126, 0.7152, 0.0722)) + 0.05
    return float(light / dark)


def test_contrast_is_sufficient_in_light_dark_and_print() -> None:
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's own example of "not enough"
    css = STYLE.read_text()
    blocks = re.findall(r"(@media [^{]*\{\s*)?:root \{([^}]*)\}", css)
    assert [bool(media) for media, _ in blocks] == [False, True, True]  # light, dark, print
    themes = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", body)) for _, body in blocks]
    faint = [float(found) for found in re.findall(r"svg \.bar \{[^}]*opacity: ([.\d]+);", css)]
    assert len(faint) == 1  # intervals
    texts = itertools.product(("ink", "muted", "data", "pass", "warn", "fail", "above"), ("paper", "panel"), [4.5])
    pairs = [*texts, ("above", "cell", 3), ("below", "cell", 3)]  # pictures: 3 : 1
    for theme in themes:
        assert theme.keys() == themes[0].keys() >= set(re.findall(r"var\(--([a-z]+)\)", css))
        for mark, ground, least in pairs:
            assert contrast(theme[mark], theme[ground]) >= least, (mark, ground)
        for opacity, mark in itertools.product(faint, ("pass", "warn", "data")):
            both = zip(bytes.fromhex(theme[mark][1:]), bytes.fromhex(theme["paper"][1:]), strict=True)
            through = "#" + bytes(round(opacity * above + (1 - opacity) * below) for above, below in both).hex()
            assert contrast(through, theme["paper"]) >= 3, mark


def test_the_verdict_its_reasons_and_its_numbers_are_told(pages: Pages) -> None:
    report = reports.warning()
    text = words(parse(pages["warn"]))
    for said in (
        *("▲ WARN", "Exit code 1: a pipeline stops here. The verdict is WARN", "2.79", "1.87 to 3.71", "> 4.5"),
        *(report.evidence.model.digest, report.claim, *report.notes, *report.profile.limits),
        *(reason.seen for reason in report.verdict.reasons),
        *(reason.next_step.replace("`", "") for reason in report.verdict.reasons),
    ):
        assert said in text
    root = parse(pages["pass"])
    assert not [e for e in root.all("th", "td") if "title" in e.attributes]  # what a statistic is needs no mouse
    assert [e.text for e in root.all("dd") if e.text in DEFINITIONS.values()] == [DEFINITIONS[i] for i in DECIDING]
    waived = words(parse(pages["waived"]))
    assert ["✓ PASS" in each for each in (text, words(root), waived)] == [False, True, False]
    assert waived.count("Waived by vision team until 2026-12-30: known <since> May") == 6
    assert "ended on 2026-10-30 and no longer counts" in waived


def release_of(page: str, place: int = 0) -> str:
    """What the page says of the release: of all its models, or of one."""
    root = parse(page)
    found = [e for e in root.all("p") if e.attributes.get("class", "").split()[:1] in (["release"], ["gate"])]
    return " ".join(e.text for e in found[2 * place : 2 * place + 2])


def test_the_page_first_shows_whether_the_release_may_go(pages: Pages) -> None:
    stopped, goes_on = "Exit code 1: a pipeline stops here.", "Exit code 0: a pipeline goes on."
    allowed = f"may go although there are reasons for WARN. {goes_on} Every reason for WARN is waived"
    assert release_of(pages["warn"]).startswith(f"The release is stopped. {stopped} The verdict is WARN (")
    assert release_of(pages["pass"]) == f"The release may go. {goes_on} The verdict is PASS."
    alone = forms.render("html", [ALL_WAIVED])
    assert release_of(alone).startswith(f"The release {allowed}")
    several = [release_of(pages["several"], place) for place in range(4)]
    for said, start in zip(several, ("The release is", "This file is", "This file is", "This file may"), strict=True):
        assert said.startswith(start)
    assert several[0].endswith("Exit code 3: a pipeline stops here.")
    assert release_of(pages["waived"]).startswith(f"The release is stopped. {stopped}")  # of the two, one is not waived
    assert "No exit code: this report was made in Python" in words(root_of(reports.passing()))


def test_a_page_about_one_of_several_models_says_no_more_than_what_this_file_does() -> None:
    page = forms.render("html", [reports.passing()], FormOptions(n_models=2))
    assert "The release" not in page
    passing = forms.render("html", [gated(reports.passing())], FormOptions(n_models=2))
    assert release_of(passing).startswith(
        "This file may go. Exit code 0 of this file; the run ends with the worst of all"
    )


def test_several_models_whose_warnings_are_let_through_may_go_although_they_warn() -> None:
    page = forms.render("html", [ALL_WAIVED, gated(reports.passing())])
    assert release_of(page).startswith("The release may go although there are reasons for WARN.")
    (answer,) = (e for e in parse(page).all("p") if e.attributes.get("class", "") == "release warn")
    assert answer.text == "The release may go although there are reasons for WARN."


def test_a_page_that_judges_no_release_says_its_exit_code_alone() -> None:
    looked_at = replace(document_of(reports.passing()), decides="")
    assert "may go" not in words(parse(of_document(replace(looked_at, exit_code=0))))
    assert "Exit code 0" in words(parse(of_document(replace(looked_at, exit_code=0, rule="nothing was required"))))
    assert "No exit code" not in words(parse(of_document(looked_at)))


def test_a_comparison_whose_features_are_not_required_may_go_although_they_warn() -> None:
    compared = document_of(judged(planted(features=(7,)), planted(features=(50,))))
    assert (compared.exit_code, bool(compared.reasons)) == (1, True)
    page = of_document(replace(compared, exit_code=0, rule="the index verdict is compatible"))
    said = (
        "may go although there are reasons for WARN. Exit code 0: a pipeline goes on. The index verdict is compatible."
    )
    assert release_of(page) == f"The release {said}"


def test_the_head_has_date_photos_preprocessing_and_what_decides(pages: Pages) -> None:
    root = parse(pages["warn"])
    (basis,) = of_class(root, "dl", "basis")
    rows = {next(row.all("dt")).text: next(row.all("dd")).text for row in basis.children}
    assert rows["Date"] == "2026-01-02 03:04 UTC"
    assert rows["Photos"] == "160 of 300 photos measured; 160 of 160 compared are varied"
    assert rows["Their source"] == "photos that robustcheck brings along, not yours"
    assert rows["Preprocessing"] == "ImageNet mean and SD, assumed"
    (tiles,) = of_class(root, "dl", "tiles")
    assert [tile.text for tile in tiles.all("dt")] == ["Strength", "Persistence", "Two-sidedness"]
    assert "2.79✗ no: 1.87 to 3.71, must be > 4.5" in tiles.text.replace("\n", "")
    assert INTERVALS in words(root)


def test_the_page_links_how_to_read_it_where_the_project_has_a_home(monkeypatch: Patch) -> None:
    said = 'The page "How to read this report" of the documentation'
    monkeypatch.setattr(html, "HOME", "")
    html._pages.cache_clear()
    assert said in words(root_of(reports.passing()))
    monkeypatch.setattr(html, "HOME", "https://git.example/owner/robustcheck")
    html._pages.cache_clear()
    links = {e.text: e.attributes["href"] for e in root_of(reports.passing()).all("a")}
    html._pages.cache_clear()
    address = "https://git.example/owner/robustcheck/blob/main/docs/how-to-read.md"
    assert links["How to read this report"] == address


def test_no_reason_or_kind_stands_on_a_page_without_its_words() -> None:
    slugs = [name for name in (*RULES, *KINDS) if "_" in name]
    for outcomes in ([ALL_WAIVED, WAIVED], [reports.warning()], [shown(*RULES)]):
        page = re.sub(r"<code.*?</code>", "", forms.render("html", outcomes))
        assert [slug for slug in slugs if re.search(rf"(?<![\w./-]){slug}(?![\w./-])", page)] == []


def shown(*reasons: str) -> Report:
    """A WARN with these reasons, as the command makes it."""
    report = reports.warning()
    verdict = verdicts.verdict_for([verdicts.reason(name, "seen") for name in reasons], report.profile)
    return gated(but(report, verdict=verdict))


def of_kinds(*kinds: Kind) -> Report:
    """A synthetic model's report whose reasons are of these kinds, in this order."""
    report = reports.report(reports.WARN_STATISTICS, synthetic="one feature planted")
    by_kind = {rule.kind: name for name, rule in reversed(RULES.items()) if name != "undecided"}  # which comes last
    found = [verdicts.reason(by_kind[kind], f"seen of {kind}") for kind in kinds]
    return but(report, verdict=verdicts.verdict_for(found, report.profile))


def test_two_sentences_of_plain_english_stand_above_the_numbers() -> None:
    rows: list[tuple[tuple[Kind, ...], str]] = [
        ((), "On the 160 photos that were measured, this model shows the outlier features"),
        (("absent",), "On the 160 photos that were measured, this model does not show the outlier features"),
        (("absent", "not_applicable"), "This check does not apply to this model."),
        (("absent", "not_established"), "The check came to no result on this model: seen of not_established."),
        (("other_signal",), "shows the outlier features that robust CLIP encoders show; another signal warns."),
    ]
    for n, told in ((1, "1 photo that was"), (1200, "1,200 photos that were")):
        report = but(of_kinds("absent"), evidence__statistics__n_images=n)
        said = plain_text(report.verdict, report.evidence.statistics, End("linear"))
        assert said.startswith(f"WARN: On the {told} measured, ")
    for kinds, said in rows:
        report = of_kinds(*kinds)
        (head,) = (e for e in root_of(report).all("header") if "Synthetic: one feature planted" in e.text)
        (headline,), (lead,) = ([e.text for e in of_class(head, "p", name)] for name in ("word", "lead"))
        assert said in headline
        assert len(re.findall(r"[.](?: |$)", lead)) == 1 + (report.verdict.kind == "not_applicable")
        evidence = report.evidence
        assert headline[2:] + " " + lead == plain_text(report.verdict, evidence.statistics, evidence.model.ends_in)
        assert f"Verdict{spelled(verdict_text(report.verdict))}\n" in head.text


def test_reasons_are_grouped_by_kind_in_the_order_of_what_to_do_first() -> None:
    told: dict[Kind, int] = {"not_established": 1, "absent": 2, "other_signal": 1}
    root = root_of(of_kinds("other_signal", "absent", "not_established", "absent"))
    assert [
        (next(group.all("h4")).text, [p.text for p in group.all("p") if "seen of" in p.text])
        for group in of_class(root, "div", "kind")
    ] == [(f"{kind.replace('_', ' ')} {KINDS[kind]}", n * [f"seen of {kind}"]) for kind, n in told.items()]
    first = next(root_of(reports.warning()).all("h4"))
    assert first.text.startswith("not applicable ")  # no run mends it: what another would change stands below


def test_several_models_have_a_table_first_with_the_worst_first_as_in_the_terminal(pages: Pages) -> None:
    root = parse(pages["several"])
    assert next(root.all("h2")).text == "3 models: 1 PASS, 1 WARN, 1 ERROR"  # not "checked": one could not be
    _, *rows = (" ".join(cell.text for cell in row.all("th", "td")) for row in next(root.all("table")).all("tr"))
    for row, start in zip(
        rows,
        (
            f"{FAILED.model} ✗ ERROR file is empty 3",  # the row names the model
            "models/efficientnet-lite0.onnx ▲ WARN · not applicable · STOPPED one-sided representation; ",
            "models/rn50-openai.onnx ✓ PASS ",
        ),
        strict=True,
    ):
        assert row.startswith(start)
    failed, *others = root.all("article")
    assert [next(each.all("a")).attributes["href"] for each in (failed, *others)] == ["#summary"] * 3  # a way back
    told = [said in failed.text for said in ("this model could not be assessed", FAILED.message, "PASS")]
    assert told == [True, True, False]
    assert "Nothing was checked, so there is no verdict." in parse(pages["none"]).text


def test_a_bar_lies_right_of_the_middle_exactly_if_it_clears_its_threshold() -> None:
    middle = charts.BAR_WIDTH / 2
    for low, width, minimum in default_rng(0).uniform(0.01, 30, (200, 3)):
        bar = charts.drawn_bar(Bar(interval(low + width / 2, low, low + width), minimum, "pass", unit=minimum))
        assert bar is not None
        assert (bar.low > middle, bar.high < middle) == (low > minimum, low + width < minimum)
        assert 0 <= bar.low <= bar.estimate <= bar.high <= charts.BAR_WIDTH
    for bounds, minimum in ((None, 1), (1, 0)):
        assert charts.drawn_bar(Bar(interval(1, bounds, bounds), minimum, "pass", unit=minimum)) is None


def test_each_threshold_and_every_bound_of_a_wrong_pass_are_shown() -> None:
    root = root_of(reports.passing())
    bars = [cell for cell in root.all("td") if cell.attributes.get("class", "").startswith("bars")]
    assert [len(of_class(cell, "line", "threshold")) for cell in bars] == [1, 1, 1]
    text = words(root_of(but(reports.passing(), profile=load())))
    *shown, of_two = load().calibration.rates
    for rate in shown:
        assert f"{rate.of}{rate.n_wrong} of {rate.n}, at most {percent_text(rate.upper)}" in text
    assert of_two.n == 2  # a rate of two checkpoints says nothing
    assert of_two.of not in text


def test_the_histogram_has_the_counts_and_edges_that_were_measured() -> None:
    report = reports.warning()
    (chart,) = (block for s in document_of(report).sections for block in s.blocks if isinstance(block, Chart))
    counts = report.evidence.statistics.histogram_counts
    assert chart.curves[0].values == counts
    edges = report.evidence.statistics.histogram_edges
    assert chart.curves[0].texts[0] == f"kurtosis {edges[0]:.2f} to {edges[1]:.2f}: {counts[0]}"
    assert "kurtosis of an image, and how many images have it" in words(root_of(report))


def test_the_map_counts_what_lies_beyond_four_sd() -> None:
    report = with_gallery(reports.passing())
    kept = report.evidence.gallery
    assert kept is not None
    drawn = charts.feature_map(kept, report.evidence.statistics.features)
    assert drawn is not None
    for rank, (row, z) in enumerate(zip(drawn.rows, zip(*(image.z for image in kept.shown), strict=True), strict=True)):
        assert row.strong == (rank < 2)
        signs = [(abs(value) > 6, "above" if value >= 0 else "below") for value in z]
        assert [(cell.level == 4, cell.sign) for cell in row.cells] == signs
        assert row.text.endswith(f"beyond 4 SD in {sum(abs(value) > 4 for value in z)} of 6 images shown")
    (svg,) = of_class(root_of(report), "svg", "map")
    assert len(of_class(svg, "rect", "cell")) == 6 * len(drawn.rows)


def test_what_is_published_of_a_checkpoint_stands_on_the_page_without_a_picture_of_kurtosis() -> None:
    context = published.context_for("open_clip", "ViT-B-32", "openai")
    assert context is not None
    text = words(root_of(but(reports.passing(), published=context)))
    assert context.sentence in text
    assert "context only: it decides nothing" in text
    assert "Published robustness" not in words(root_of(reports.passing()))


@pytest.mark.usefixtures("here")
def test_the_command_writes_a_page_with_or_without_photos(ends: Run) -> None:
    for word, n, said in (
        ("", 10, "everyone who gets the file can see them"),
        ("--no-thumbnails", 0, "It holds no photos"),
    ):
        root = parse(ends(0, f"pass.onnx --images photos -qq -o html {word}").stdout)
        assert len({e.attributes["alt"].removeprefix("Photo ") for e in root.all("img")}) == n
        assert said in words(root)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FRAME = """<!DOCTYPE html><title>frame</title><iframe id="f" src="page.html" width="375" height="800"></iframe><script>
onload = () => {
  const inner = document.getElementById("f").contentWindow;
  inner.document.querySelectorAll("details").forEach(e => e.open = true);
  const wide = [...inner.document.querySelectorAll("body *")].filter(e =>
    (!e.closest(".scroll") || e.matches(".num")) &&
    e.getBoundingClientRect().right > inner.innerWidth + 1 && !e.closest(".skip"));
  document.title = JSON.stringify([inner.document.documentElement.scrollWidth <= inner.innerWidth,
    inner.performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
    wide.map(e => e.tagName + "." + e.getAttribute("class")),
    [...inner.document.querySelectorAll(".summary td.why")].every(e => e.getBoundingClientRect().width >= 200)]);
}
</script>"""


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_asks_for_nothing_complains_of_nothing_and_needs_no_sideways_scrolling(
    pages: Pages, tmp_path: Path
) -> None:
    before = "<dt>Contract names</dt><dd>"
    source = f"{before}torch robustcheck_onnx.exporters.demo:efficientnet_lite0 "  # no blank for 50 characters
    page = pages["several"].replace(before, source)
    assert page.count(source) == 1
    page = page.replace(FAILED.model, "models/" + 30 * "unbroken_")  # nor for 270: words keep their room
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "frame.html").write_text(FRAME)
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom", "--enable-logging=stderr"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,1000", "--allow-file-access-from-files"]
    done = subprocess.run(
        [str(CHROMIUM), *words, f"file://{tmp_path}/frame.html"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    assert title == "[true,0,[],true]"
    assert "CONSOLE" not in done.stderr
