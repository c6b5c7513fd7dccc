"""robustcheck compare as a command: exit codes, documents, what they say in words, bad input."""

import hashlib
import json
import re
import zipfile
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.verdict.kinds import NAMES
from robustcheck_onnx.checker.outside import isolation
from robustcheck_onnx.checker.questions.compare.document import heading
from robustcheck_onnx.checker.questions.compare.index_report import SIGNS, IndexOptions, IndexReport
from robustcheck_onnx.checker.questions.compare.judge import CompareReport
from robustcheck_onnx.checker.report.document import Table, cell_of, document_of
from robustcheck_onnx.checker.text import number_text
from robustcheck_onnx.exporters.contract import embed
from support import TORN_NPY, Capture, Patch, but, flip, lookup, raised, read_json, read_text, robustcheck
from support.bad_input import Run
from support.comparisons import Workshop, alike, ids, judged, planted, rotation
from support.screens import assert_it_is_accessible, assert_it_loads_nothing, parse, shown, words


def test_the_command_says_it_by_exit_code_and_in_every_format(workshop: Workshop, capsys: Capture) -> None:
    h, out = planted(), workshop.folder / "report.json"
    a, b = workshop.model("candidate", h), workshop.model("reference", h)
    call = ["compare", a, b, "--images", workshop.photos, "--device", "cpu", "--no-time"]
    assert robustcheck(*call, "-o", f"json={out}") == 0
    assert "✓ PASS" in capsys.readouterr().out
    assert robustcheck(*call, "-o", "json") == 0
    assert read_text(out) == capsys.readouterr().out
    report = CompareReport.model_validate_json(out.read_bytes())
    assert (report.document, report.passed, report.n_images, report.time) == ("compare", True, 80, None)
    assert (alike(report).cka, alike(report).cosine_change) == pytest.approx((1, 0), abs=1e-9)
    assert any("same file" in note for note in report.notes)
    workshop.model("candidate", h @ rotation(384))
    assert robustcheck(*call, "-q") == 1
    line = rf"WARN · \w+ {re.escape(str(a))}: [\w, ]+ · STOPPED · exit code 1: the verdict is WARN\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def test_python_has_the_words_of_the_command(workshop: Workshop, capsys: Capture) -> None:
    old, new = workshop.model("old", planted()), workshop.model("new", planted() @ rotation(384))
    call = ["compare", new, old, "--images", workshop.photos, "--device", "cpu", "--no-time"]
    report = but(rc.compare(new, old, workshop.photos, device="cpu"), time=None)
    assert robustcheck(*call, "-o", "markdown") == report.exit_code == 1
    assert capsys.readouterr().out == report.to_markdown()
    assert f"The new file rotated away 1 of 1 outlier features of {old}" in document_of(report).summary
    assert robustcheck(*call, "-q", "--require", "index") == 1
    error = raised(rc.IndexVerdictError, "", rc.assert_same_index, new, old, workshop.photos, device="cpu")
    first, *_ = str(error).splitlines()
    assert capsys.readouterr().out.startswith(f"{first} On outlier features: WARN · ")


def test_each_form_is_of_its_kind_and_tells_the_verdict() -> None:
    lost = judged(planted() @ rotation(384), planted())
    assert CompareReport.model_validate_json(lost.to_json()).model_dump() == lost.model_dump()
    failures = ElementTree.fromstring(lost.to_junit()).iter("failure")
    (run,) = json.loads(lost.to_sarif())["runs"]
    assert {failure.attrib["type"] for failure in failures} == ids(lost) == {each["ruleId"] for each in run["results"]}
    assert run["automationDetails"]["id"].startswith("robustcheck-compare/")
    heading = f"WARN · {lost.kind} · STOPPED: {lost.candidate.evidence.model.file}"
    assert heading.replace("_", r"\_") in lost.to_markdown()


def test_the_metrics_and_the_predicate_have_both_verdicts() -> None:
    index = IndexReport(options=IndexOptions()).because("cosine", "re-embed", "seen", "step")
    report = but(judged(planted(), planted()), index=index, required=("index",))
    name = report.candidate.evidence.model.file
    metrics = report.to_openmetrics()
    (kept,) = [change.ratio.low for change in report.statistics if change.name == "strength"]
    for line in (
        f'robustcheck_verdict{{model="{name}"}} 1',
        f'robustcheck_exit_code{{model="{name}"}} 1',
        f'robustcheck_required{{model="{name}",verdict="index"}} 1',
        f'robustcheck_index_verdict{{model="{name}",index="re-embed"}} 0',
        f'robustcheck_index_reason{{model="{name}",reason="cosine"}} 1',
        f'robustcheck_ratio_low{{model="{name}",statistic="strength"}} {kept}',
    ):
        assert f"{line}\n" in metrics
    assert (metrics.count("# EOF\n"), metrics.endswith("# EOF\n")) == (1, True)
    predicate = json.loads(report.to_predicate())
    reference = {"digest": {"sha256": report.reference.evidence.model.digest.removeprefix("sha256:")}}
    compared = {
        "required": ["index"],
        "exit_code": 1,
        "index": "re-embed",
        "reference": reference | {"baseline": False},
    }
    assert (predicate["verdict"], predicate["comparison"]) == ("PASS", compared)
    written = hashlib.sha256(report.to_json().encode()).hexdigest()
    assert predicate["report"] == {"digest": {"sha256": written}}


def test_a_required_index_verdict_is_named_and_decides_in_every_form() -> None:
    h, fits = planted(), IndexReport(options=IndexOptions(accept_untested=True), n_vectors=7, tested="no")
    for candidate, index, code, level in (
        (h, fits.because("cosine", "re-embed", "seen", "step"), 1, "error"),
        (h @ rotation(384), fits, 0, "note"),
    ):
        report = but(judged(candidate, h), index=index, required=("index",))
        (run,) = json.loads(report.to_sarif())["runs"]
        rule = f"the index verdict is {index.verdict}"
        (ended,) = run["invocations"]
        assert (ended["exitCode"], ended["exitCodeDescription"]) == (code, "STOPPED: " * code + rule)
        fields = json.loads(report.to_json())
        assert (fields["gate"]["exit_code"], fields["gate"]["rule"]) == (code, rule)
        assert [*fields].index("gate") < [*fields].index("verdict")
        assert {result["level"] for result in run["results"]} == {level}
        page, text = report.to_html(), shown(report)
        headings = report.to_markdown().split("## ")[1], page.split("title>")[1], text.splitlines()[-1]
        first = f"{SIGNS[index.verdict]} index {index.verdict}{' · STOPPED' * code} · outlier features: "
        assert [each.lstrip(">━ ").startswith(first) for each in headings] == [True] * 3
        assert f'class="verdict {"fail" if code else "pass"}"' in page
        effect = {0: "a pipeline goes on", 1: "a pipeline stops here"}[code]
        assert f"Exit code {code}: {effect}. {rule.capitalize()}." in words(parse(page))
        assert f"{SIGNS[index.verdict]} {SIGNS[index.verdict]}" not in words(parse(page))
        assert f"**Exit code {code}:** {rule}." in report.to_markdown()
        told = " ".join(text.split())
        assert f"{index.plain} Only this is required. On outlier features it is" in told
        untested = "compatible, but it was not tested whether the reference made the index (accepted by --accept"
        assert (untested in told) == (index is fits)
        assert re.findall(r"explain (\w+)", text) == ["cosine"] * code  # no step for the other verdict
    stops = but(
        judged(h, h), index=fits.because("cosine", "re-embed", "seen", "step"), required=("index", "indication")
    )
    for each, line, first in (
        (stops, "✗ vector index: re-embed: seen. step", "index_verdict"),
        (but(stops, index=fits), "PASS models/", "verdict"),
        (but(report, required=stops.required), "WARN · absent models/", "verdict"),
    ):
        assert document_of(each).one_line.startswith(line)
        assert document_of(each).one_line.endswith(f"exit code {each.exit_code}: {each.rule}")
        assert heading(each)[2:].startswith("index re-embed" if first == "index_verdict" else line[:4])
        assert next(ElementTree.fromstring(each.to_junit()).iter("property")).attrib["name"] == first
    for require in ((), ("both",), "indexes"):
        with pytest.raises(rc.UsageError, match="require is"):
            assert but(report, required=require).exit_code
        # before anything is looked for
        raised(rc.UsageError, "require is", rc.compare, "candidate.onnx", "reference.onnx", require=require)


BAD_INPUT = """\
a.onnx | REFERENCE.onnx is missing
a.onnx b.onnx --tolerance 1 | --tolerance is 1; it must be at least 0 and less than 1
a.onnx b.onnx --baseline b.json | compared with one of them
a.onnx --baseline b.json | baseline is not readable
a.onnx --baseline b.onnx | baseline is not JSON
a.onnx --baseline torn.npz | baseline is not JSON
a.onnx --write-baseline x.json | nothing is compared, so there is no report for --output
a.onnx b.onnx --write-baseline a.onnx | a.onnx: path of --write-baseline is a file that is there already
a.onnx b.onnx --write-baseline report.json | which a report uses too
--strict -o html=link -- a.onnx b.onnx | output is html=link, which follows a link
--strict --write-baseline link -- a.onnx b.onnx | --write-baseline is link, which follows a link
--strict --write-baseline outside -- a.onnx | REFERENCE.onnx is missing
broken.onnx b.onnx | broken.onnx: number of finite, not constant representations is 0 of 80"""


def test_bad_input(workshop: Workshop, capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.chdir(workshop.model("a", planted()).parent)
    workshop.model("b", planted())
    workshop.model("broken", np.full((80, 384), np.nan))
    Path("link").symlink_to("outside")
    with zipfile.ZipFile("torn.npz", "w") as archive:
        archive.writestr("vectors.npy", TORN_NPY)
    call = f"compare --images {workshop.photos} --device cpu -o json=report.json"
    for row in BAD_INPUT.splitlines():
        line, said = row.split(" | ")
        assert robustcheck(*f"{call} {line}".split()) == 2 + ("broken" in line)
        out, err = capsys.readouterr()
        assert (said in err, out) == (True, "")
        assert not Path("outside").exists()
    assert read_json(Path("report.json"))["error"]["exit_code"] == 3
    monkeypatch.setattr(isolation, "Wall", walls := Mock(side_effect=isolation.Wall))
    assert robustcheck(*f"{call} a.onnx b.onnx".split()) == 0
    walls.assert_called_once()  # another one makes pictures, for a page alone


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
    with_ = f"Compared with {kept.reference.evidence.model.file}"
    kept_words = (
        f"PASS: The new file kept 1 of 1 outlier features of {kept.reference.evidence.model.file} on the 80 photos"
    )
    tiles = ["Statistics kept2 of 2", "Outlier features kept1 of 1", "CKA, debiased1.00", "Same nearest neighbour100 %"]
    for said in ("✓ PASS", with_, kept_words, *tiles, "Exit code 0: a pipeline goes on. The verdict is PASS."):
        assert said in text
    assert "WARN" not in text
    losses = (
        "smallest loss that would not be kept: strength 20.0 % (shrank: 20.0 %), persistence 14.2 % (shrank: 25.4 %)"
    )
    assert losses in text
    assert "smallest loss" not in shown(judged(planted() @ rotation(384), planted()))


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


def test_nothing_that_may_be_missing_is_written(kept: CompareReport) -> None:
    bare = but(kept, similarity=None, agreement=None, features=(), paired=False, time=None)
    text = words(parse(page_of(bare)))
    assert all(said in text for said in ("Not compared: the baseline's images", "not in pairs"))
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
    assert re.search("^✗ statistic_shrank, ", text, re.MULTILINE)  # what was lost comes first
    assert reasons["statistic_shrank"].startswith("at least 80 % of the reference's value must be kept: ")
    assert "not measured" not in reasons["statistic_shrank"]
    (frequency,) = [each.ratio for each in report.statistics if each.name == "outlier_frequency"]
    assert frequency.low is None
    assert f"(ratio {number_text(frequency.estimate)}, no bounds)" in reasons["statistic_shrank"]


def test_a_reference_without_preprocessing_is_sent_to_preprocess(here: Path, run: Run) -> None:
    bare = onnx.load("pass.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, here / "bare.onnx")
    report = json.loads(run("compare pass.onnx bare.onnx --images photos -o json").stdout)
    reasons = {reason["id"]: reason["next_step"] for reason in report["verdict"]["reasons"]}
    names = list(reasons)
    assert names.index("assumed_preprocessing") < names.index("reference_without_indication")
    assert "`--preprocess clip` for models trained like CLIP" in reasons["assumed_preprocessing"]


def test_a_changed_file_without_its_original_at_hand_is_sent_to_it(workshop: Workshop, capsys: Capture) -> None:
    """Against a baseline, and against another model, the line has the file's name and a place for the other."""
    path = workshop.model("new", planted())
    model = onnx.load(path)
    embed(model, lookup.lookup_contract(), path.parent)
    onnx.save(model, path)
    robustcheck("compare", path, "--images", workshop.photos, "--write-baseline", workshop.folder / "b.json", "-qq")
    flip(path, path.read_bytes().index(planted().astype(np.float32).tobytes()))
    other = workshop.model("other", planted())
    for against in (["--baseline", workshop.folder / "b.json"], [other]):
        capsys.readouterr()
        assert robustcheck("compare", path, *against, "--images", workshop.photos, "-o", "json") == 1
        reasons = json.loads(capsys.readouterr().out)["verdict"]["reasons"]
        (step,) = [reason["next_step"] for reason in reasons if reason["id"] == "file_changed"]
        assert f"`robustcheck export onnx {path} --original OLD.onnx -o NEW.onnx`" in step
