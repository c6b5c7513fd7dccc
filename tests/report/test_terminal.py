"""The terminal report: golden files, and what must hold at every width.

The reports shown are made up (support/reports.py).
UPDATE_GOLDEN=1 writes the golden files anew.
"""

import io
import itertools
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustcheck_onnx.checker.report import terminal
from robustcheck_onnx.checker.report.forms import one_line
from robustcheck_onnx.checker.report.layout import REASONS_LISTED, of_document
from robustcheck_onnx.checker.report.record import Failed, Outcome, Report
from robustcheck_onnx.checker.report.terminal import document_of
from robustcheck_onnx.checker.report.words import step_of
from robustcheck_onnx.checker.verdict.gate import Waiver, decide
from robustcheck_onnx.checker.verdict.notes import BUNDLED_NOTE, HEAD_NOTE
from robustcheck_onnx.checker.verdict.reasons import KINDS, RULES
from robustcheck_onnx.checker.verdict.rule import Reason, reason, verdict_for
from robustcheck_onnx.thresholds.profile import load
from support import Fields, but, reports
from support.outcomes import NOTHING, gated
from support.profile import sized
from support.reports import (
    MADE,
    PASS_STATISTICS,
    WARN_STATISTICS,
    feature,
    interval,
    passing,
    placed_references,
    report,
    terminal_text,
    undecided,
    warning,
)

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (60, 80, 97, 140, 61, 72, 79, 100, 121)[: sized(4, 9)]


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", MADE)
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for width, ascii_only, verbose in itertools.product((80, 120), (False, True), (False, True)):
        layout = "whole" if verbose else "short"
        path = GOLDEN / f"terminal-{layout}-{name}{'-ascii' if ascii_only else ''}-{width}.txt"
        text = terminal_text(MADE[name](), width, ascii_only=ascii_only, verbose=verbose)
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        assert text.encode() == path.read_bytes(), path.name


def given(statistics: Fields | None = None, **changes: Any) -> str:
    """The words of a whole report."""
    return terminal_text(report(PASS_STATISTICS | (statistics or {}), **changes), 100, verbose=True)


def test_no_line_is_wider_than_the_console_or_ends_in_blanks() -> None:
    shown = [*(made() for made in MADE.values()), NOTHING]
    for each, width, ascii_only, verbose in itertools.product(shown, WIDTHS, (False, True), (False, True)):
        for line in terminal_text(each, width, ascii_only=ascii_only, verbose=verbose).splitlines():
            assert cell_len(line) <= width or line.startswith("  robustcheck ")  # a command is never broken
            assert line == line.rstrip()


def test_every_number_of_the_deciding_statistics_is_shown_whole_at_every_width() -> None:
    numbers = "6.40 4.498 8.30 4.5 1.00 0.910 1.00 0.75 0.444 0.428 0.460 0.35"
    for width in WIDTHS:
        text = terminal_text(undecided(), width, verbose=True)
        (table,) = re.findall(r"^  statistic .*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
        right = table.index("clears it?")  # what stands beside the table begins further right
        assert re.findall(r"(?<!-)\b\d[\d.]*", " ".join(line[:right] for line in table.splitlines())) == numbers.split()


def test_the_wording_is_one_sided() -> None:
    for name, made in MADE.items():
        text = words_of(terminal_text(made(), verbose=True))
        assert not re.search(r"(is|are|not|un|isn't) ?robust\b|fragile", text, re.IGNORECASE)
        present = "features of robust CLIP encoders are present on the images that were given. They are an indication"
        not_established = "not established whether the outlier features of robust CLIP encoders are present"
        assert (present in text) == (name == "pass")
        assert (not_established in text) == (name == "undecided")
        assert ("the check says nothing of its robustness" in text) == (name == "warn")


def test_what_lets_a_warn_through_comes_first_and_the_exit_code_last() -> None:
    ids = [reason.id for reason in warning().verdict.reasons]
    waivers = [Waiver(reason=i, because="known", owner="me", expires=date(2026, 1, 2)) for i in ids]
    expired = [f"! {i}: a waiver by me expired on 2026-01-02: known" for i in ids]
    waived = f"! every reason for WARN is waived ({', '.join(sorted(ids))})"
    for day, first, last in ((1, [waived], "(waived) · exit code 0 "), (3, expired, "· exit code 1 ")):
        gate = decide(warning().verdict, "m.onnx", today=date(2026, 1, day), waivers=waivers)
        lines = terminal_text(but(warning(), gate=gate), 140).splitlines()
        assert lines[1 : 1 + len(first)] == first
        assert lines[-1].startswith(f"━━ ▲ WARN · not_applicable {last}")
    assert terminal_text(gated(passing())).splitlines()[-1].startswith("━━ ✓ PASS · exit code 0 ")


def test_every_reason_is_shown_with_what_was_seen_and_the_next_step() -> None:
    reasons = [reason(i, f"seen of {i}") for i in RULES]
    unknown = Reason(id="from_a_newer_version", kind="absent", seen="seen of the unknown one", next_step="Look it up.")
    shown = but(warning(), verdict__reasons=(*reasons, unknown))
    told = [f"✗ {RULES[each.id].title} {each.id} {each.seen} → {each.next_step}" for each in reasons]
    for width in (60, 100, 140):
        text = words_of(terminal_text(shown, width, verbose=True))
        assert [each for each in (*told, f"✗ {unknown.id} {unknown.seen} → Look it up.") if each not in text] == []


def test_ascii_only_holds_for_data_too() -> None:
    shown = report(
        WARN_STATISTICS,
        file="modèles/модель.onnx",
        source="my libräry ☃ (weights)",
        synthetic="ein Ausreißer",
        notes=("Größe → 3 × 4",),
        skipped=(("фото.jpg", "broken – really"),),
        execution={"device": "Prozessör", "fallback_reason": "ße"},
        with_profile=load(),
        reference=placed_references(),
    )
    assert terminal_text(shown, ascii_only=True).isascii()
    text = terminal_text(shown, ascii_only=True, verbose=True)
    assert text.isascii()
    assert r"mod\xe8les/\u043c\u043e\u0434\u0435\u043b\u044c.onnx" in text
    assert r"Gr\xf6\xdfe -> 3 x 4" in text
    assert r"\u0444\u043e\u0442\u043e.jpg (broken - really)" in text
    assert r"synthetic: ein Ausrei\xdfer" in words_of(text)
    assert "Crabbe et al." in words_of(text)
    unicode = terminal_text(shown, 100, verbose=True)
    for name in ("modèles/модель.onnx", "my libräry ☃ (weights)", "фото.jpg", "Größe → 3 × 4", "Crabbé"):
        assert name in unicode


def test_names_can_neither_style_nor_steer_the_terminal() -> None:
    shown = report(
        PASS_STATISTICS,
        file="[red]a[/red][/]\x1b[31m\u202eb\udcff.onnx",
        source="[link=x]:smile:[/link]",
        notes=("[/] note\r\nnext",),
        skipped=(("[bold]c\x07.jpg", "[/bold]"),),
    )
    text = terminal_text(shown, 120, verbose=True)
    assert r"[red]a[/red][/]\x1b[31m\u202eb\udcff.onnx · " in text
    assert "\n[link=x]:smile:[/link]\n" in text
    assert r"[/] note\r\nnext" in text
    assert r"[bold]c\x07.jpg ([/bold])" in text
    assert not set(text) & set("\x1b\x07\r\u202e")
    assert text.encode("utf-8")  # a lone surrogate would raise here
    assert one_line(shown) == r"PASS [red]a[/red][/]\x1b[31m\u202eb\udcff.onnx"


def test_only_colours_that_read_on_dark_and_light_and_none_carries_meaning() -> None:
    for name, made in MADE.items():
        segments = list(Console(width=100).render(of_document(document_of(made()))))
        styles = [s.style for s in segments if s.style is not None]
        colours = {style.color.name for style in styles if style.color is not None}
        assert {"green" if name == "pass" else "yellow"} <= colours <= {"green", "yellow", "cyan"}
        assert {style.bgcolor for style in styles} == {None}
        assert "".join(s.text for s in segments) == terminal_text(made(), 100)


def test_what_could_not_be_measured_is_said() -> None:
    text = terminal_text(NOTHING, 100, verbose=True)
    assert len(re.findall(r"–  not measured +(?:> [\d.]+|[\d.]+ to [\d.]+) +\? unknown", text)) == 3
    labels = "centred kurtosis|RMS kurtosis|max-median ratio|sparsity \\(zeros\\)|negative values|spread over images"
    assert len(re.findall(rf"(?:{labels}) +not measured", text)) == 6
    assert re.search(r"Most extreme features  of 1280; [^\n]+\n  not measured\n", text)
    assert "not placed" in text
    assert {terminal_text(NOTHING, width, verbose=True).count("? unknown") for width in WIDTHS} == {3}
    # an estimate without bounds clears nothing, and a ratio to nothing is infinite
    text = given({"strength": interval(82.31, None, None), "max_median_ratio": None})
    assert re.search(r"strength +82\.3 +not measured +> 4\.5 +\? unknown", text)
    assert re.search(r"max-median ratio +infinite  ", text)


def test_at_most_eight_outlier_features_and_the_rest_counted() -> None:
    text = given({"features": tuple(feature(100 + i, 0.05, 0.9, 7.0) for i in range(12))})
    assert "Most extreme features  of 1024; " in text
    assert not re.search("persistent", text.partition("Most extreme features")[2].partition("Place among")[0])
    assert re.findall(r" (1\d\d) +5\.0 %", text) == [str(100 + i) for i in range(8)]
    assert "  and 4 more\n" in text
    text = given({"features": (feature(7, 0.9, 0.8, -0.04),)})
    assert re.search(r" 7 +90\.0 % +80\.0 % +\+0\.0\n", text)  # what rounds to nothing has no minus


def test_what_only_some_runs_have_is_said() -> None:
    shown = report(PASS_STATISTICS, preprocessing_source="tensors")
    facts: Fields = {
        "external_digests": {"weights.bin": "sha256:" + "ab" * 32},
        "opset": {"": 18, "com.microsoft": 1},
    }
    text = words_of(terminal_text(gated(shown, **facts), 140, verbose=True))
    assert "preprocessing none: the images were given as preprocessed tensors" in text
    assert "opset 18 · opset 1 (com.microsoft) · pytorch 2.13.0 weights.bin sha256:" + "ab" * 32 in text


def test_a_note_is_not_said_twice() -> None:
    noted = ("Synthetic model: feature 3 raised by 15 SD.", "no libcudart.so.13", "1 skipped (a.jpg: truncated)")
    text = given(
        synthetic="feature 3 raised by 15 SD",
        notes=noted,
        skipped=(("a.jpg", "truncated"),),
        execution={"fallback_reason": "no libcudart.so.13"},
    )
    assert "\nopen_clip RN50 (openai)\nsynthetic\n" in text
    for once in ("feature 3 raised by 15 SD", "no libcudart.so.13", "a.jpg"):
        assert text.count(once) == 1


def test_one_line() -> None:
    assert one_line(passing()) == "PASS models/rn50-openai.onnx"
    assert one_line(warning()) == (
        "WARN · not_applicable models/efficientnet-lite0.onnx (on the bundled photos, not yours): "
        "one_sided, assumed_preprocessing, too_weak, not_persistent"
    )
    assert one_line(undecided()) == "WARN · not_established models/vit-b-32-laion2b.onnx: undecided"


def shown_for(*names: str, rule: str = "head_input") -> Report:
    """The WARN of MADE with these reasons, of a tensor that this rule found."""
    verdict = verdict_for((reason(name, f"{name} was seen") for name in names), load())
    return but(warning(), verdict=verdict, evidence__model__rule=rule)


def test_the_short_report_is_16_lines_at_most() -> None:
    for shown in (passing(), undecided(), *(shown_for(name) for name in RULES), shown_for(*RULES)):
        assert max(len(terminal_text(shown, width).splitlines()) for width in (80, 100, 140)) <= 16
    assert f" and {len(RULES) - REASONS_LISTED} more -v explains them" in words_of(terminal_text(shown_for(*RULES), 80))


def test_a_next_step_is_a_line_of_words_and_a_command_that_is_whole_at_every_width() -> None:
    for name in RULES:
        prose, command = step_of(RULES[name].next_step, "m.onnx", scores=True)
        lines = terminal_text(shown_for(name), 80).splitlines()
        (at,) = [n for n, line in enumerate(lines) if line.startswith("  robustcheck ")]
        assert words_of(" ".join(lines[:at])).endswith(f"→ {prose}")
        assert lines[at] in terminal_text(shown_for(name), 40).splitlines()
        assert not re.search("MODEL|images PHOTOS", lines[at])
        assert command or lines[at] == f"  robustcheck explain {name}"


def test_reasons_are_sorted_by_kind_and_the_first_step_is_of_the_verdicts_kind() -> None:
    names = ("too_weak", "one_sided", "too_few_images")
    short, whole = (terminal_text(shown_for(*names), 100, verbose=verbose) for verbose in (False, True))
    assert f"✗ {', '.join(reversed(names))}  -v explains them\n" in short
    assert f"→ {step_of(RULES['too_few_images'].next_step, 'm.onnx', scores=True)[0]}\n" in short
    assert re.findall(r"^  +(not_established|not_applicable|absent): ", whole, re.MULTILINE) == [*KINDS][:3]


def test_a_model_without_class_scores_is_not_sent_to_measure_its_accuracy() -> None:
    assert "\n  robustcheck shift models" in terminal_text(shown_for("one_sided"))
    assert "\n  robustcheck init\n" in terminal_text(shown_for("one_sided", rule="encoder_output"))


def test_too_few_photos_come_first_but_where_the_file_can_not_pass() -> None:
    text = words_of(terminal_text(shown_for("one_sided", "too_few_images", "end_not_calibrated"), 80))
    assert text.startswith("robustcheck 0.1.0 WARN: This check does not apply to this model. Its features are the")
    assert " there is no threshold for such models. More photos will not change that. This says" in text
    assert "robustcheck shift models/efficientnet-lite0.onnx" in text
    text = words_of(terminal_text(shown_for("one_sided", "too_few_images"), 80))
    assert "WARN: The check came to no result on this model: too_few_images was seen. Do the" in text
    assert "→ Give more varied photos" in text


def test_a_pass_says_once_what_it_is_not_and_of_a_classifier_that_its_head_was_not_looked_at() -> None:
    text = words_of(terminal_text(passing(), 80))
    assert (text.count("not a proof"), text.count("nothing of accuracy")) == (1, 1)
    assert " compare NEW.onnx models/rn50-openai.onnx --images " in text
    assert HEAD_NOTE not in text
    text = words_of(terminal_text(but(passing(), notes=(HEAD_NOTE, BUNDLED_NOTE)), 80))
    assert HEAD_NOTE in text
    assert BUNDLED_NOTE not in text


LONGEST = "assumed_preprocessing"
NAMES = ["a.onnx", "models/" + 12 * "unbroken_" + ".onnx", "broken.onnx"]


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    failed = Failed(model="broken.onnx", message="broken.onnx: file is empty", hint="ls", exit_code=3)
    warning = reports.warning()
    reasons = sorted(warning.verdict.reasons, key=lambda reason: reason.id != LONGEST)
    return [reports.passing(), but(warning, verdict__reasons=tuple(reasons)), failed]


def table(outcomes: list[Outcome], width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), legacy_windows=False)
    console.print(terminal.render_several(outcomes, models=NAMES, code=3))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def test_the_table_then_the_reasons_by_model_and_last_the_exit_code(outcomes: list[Outcome]) -> None:
    for width in (60, 80, 100, 120, 160):
        lines = table(outcomes, width)
        assert lines[0].startswith("robustcheck ")
        assert re.findall("^[✗▲✓] (\\w+)", "\n".join(lines[: lines.index("")]), re.MULTILINE) == [
            "error",
            "WARN",
            "PASS",
        ]
        broken, warned = lines.index("broken.onnx"), lines.index(NAMES[1][:width])
        assert lines[broken + 1 : broken + 3] == ["✗ file is empty", "hint: ls"]
        below = " ".join(" ".join(lines[warned:]).split())
        assert below.partition("WARN: ")[2].startswith("This check does not apply to this model. ")
        ids = below.partition("✗ ")[2].partition(" -v explains them")[0].split(", ")
        assert (ids[0], set(ids)) == (LONGEST, {reason.id for reason in reports.warning().verdict.reasons})
        assert broken < warned
        assert NAMES[0] not in lines[broken:]
        assert lines[-1].startswith("━━ ✗ 3 models: 1 PASS, 1 WARN, 1 ERROR · exit code 3")


def test_what_lets_a_warn_through_is_said_with_its_model(outcomes: list[Outcome]) -> None:
    passing, warning, failed = outcomes
    gate = decide(reports.warning().verdict, "w.onnx", fail_on="never", today=date(2026, 1, 1))
    lines = table([passing, but(warning, gate=gate), failed], 120)
    assert any(line.startswith("▲ WARN · not_applicable (let through)") for line in lines)
    assert "! --fail-on is never (command line): WARN does not fail this run" in lines
    order = re.findall("^[✗▲✓] (\\w+)", "\n".join(lines[: lines.index("")]), re.MULTILINE)
    assert order == ["error", "WARN", "PASS"]  # its exit code is that of a PASS
