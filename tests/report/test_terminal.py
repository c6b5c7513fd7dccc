"""The terminal report: golden files, and what must hold at every width.

The reports shown are made up (support/reports.py).
UPDATE_GOLDEN=1 writes the golden files anew.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from datetime import date
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.report.terminal import LIMITS, one_line, render
from robustcheck_onnx.checker.text import short_checkpoint
from robustcheck_onnx.checker.verdict.gate import Waiver, decide
from robustcheck_onnx.checker.verdict.notes import BUNDLED_NOTE, HEAD_NOTE
from robustcheck_onnx.checker.verdict.reasons import KINDS, RULES
from robustcheck_onnx.checker.verdict.rule import Reason, reason, verdict_for
from robustcheck_onnx.thresholds.profile import load
from support.profile import sized
from support.reports import (
    MADE,
    MINIMUM,
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
UNMEASURED = report(
    PASS_STATISTICS
    | dict.fromkeys(MINIMUM, interval(None, None, None))
    | dict.fromkeys(("centred_kurtosis", "rms_kurtosis", "max_median_ratio", "zero_share", "negative_share", "spread"))
    | {"histogram_edges": (), "histogram_counts": (), "features": (), "kurtosis_quantiles": None}
)
WIDTHS = (60, 80, 97, 140, 61, 72, 79, 100, 121)[: sized(4, 9)]


def whole_text(shown: Report, width: int = 100, *, ascii_only: bool = False) -> str:
    return terminal_text(shown, width, ascii_only=ascii_only, verbose=True)


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", MADE)
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustcheck_onnx.checker.report.summary.VERSION", "0.1.0")  # as in the reports of MADE
    for width, ascii_only, verbose in itertools.product((80, 120), (False, True), (False, True)):
        layout = "whole" if verbose else "short"
        path = GOLDEN / f"terminal-{layout}-{name}{'-ascii' if ascii_only else ''}-{width}.txt"
        text = terminal_text(MADE[name](), width, ascii_only=ascii_only, verbose=verbose)
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        assert text.encode() == path.read_bytes(), path.name


def test_no_line_is_wider_than_the_console_or_ends_in_blanks() -> None:
    for made, width in itertools.product(MADE.values(), WIDTHS):
        for ascii_only, verbose in itertools.product((False, True), repeat=2):
            for line in terminal_text(made(), width, ascii_only=ascii_only, verbose=verbose).splitlines():
                assert cell_len(line) <= width
                assert line == line.rstrip()


def test_every_number_of_the_deciding_statistics_is_shown_whole_at_every_width() -> None:
    numbers = (
        "9.71 7.996 11.4 8 2.11 1.92 2.30 1.75 0.659 0.498 0.820 0.5 "
        "1.00 0.910 1.00 0.75 0.556 0.540 0.572 0.35 0.65 0.523 0.510 0.536 0.4 0.6"
    )
    for width in WIDTHS:
        lines = whole_text(undecided(), width).splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("  statistic "))
        right = lines[first].index("clears it?")  # what stands beside the table begins further right
        last = next(i for i, line in enumerate(lines) if line.startswith("  centred kurtosis "))
        table = " ".join(line[:right] for line in lines[first:last])
        assert re.findall(r"(?<!-)\b\d[\d.]*", table) == numbers.split()


def test_the_exit_code_stands_in_the_last_line() -> None:
    for shown, words in ((passing(), "✓ PASS"), (warning(), "▲ WARN · not_established")):
        gate = decide(shown.verdict, "m.onnx", today=date(2026, 1, 1))
        for verbose in (False, True):
            lines = terminal_text(shown.model_copy(update={"gate": gate}), 80, verbose=verbose).splitlines()
            assert lines[-1].startswith(f"━━ {words} · exit code {0 if shown.passed else 1} ")


def test_what_lets_a_warn_through_comes_first_and_stands_in_the_last_line() -> None:
    shown = warning()
    ids = [reason.id for reason in shown.verdict.reasons]
    waivers = [Waiver(reason=i, because="known", owner="me", expires=date(2026, 1, 2)) for i in ids]
    for more, first, last in (
        ({"fail_on": "never"}, "! --fail-on is never (command line): WARN does not fail this run", "(let through)"),
        ({"waivers": waivers}, f"! every reason for WARN is waived ({', '.join(sorted(ids))})", "(waived)"),
    ):
        gate = decide(shown.verdict, "m.onnx", today=date(2026, 1, 1), **more)
        lines = terminal_text(shown.model_copy(update={"gate": gate}), 140).splitlines()
        assert lines[1] == first
        assert lines[-1].startswith(f"━━ ▲ WARN · not_established {last} · exit code 0 ")
    late = decide(shown.verdict, "m.onnx", waivers=waivers, today=date(2026, 1, 3))
    lines = terminal_text(shown.model_copy(update={"gate": late}), 140).splitlines()
    assert lines[1:4] == [f"! {i}: a waiver by me expired on 2026-01-02: known" for i in ids]
    assert lines[-1].startswith("━━ ▲ WARN · not_established · exit code 1 ")


def test_the_wording_is_one_sided() -> None:
    for name, made in MADE.items():
        text = words_of(terminal_text(made(), verbose=True))
        assert not re.search(r"(is|are|not|un|isn't) ?robust\b|fragile", text, re.IGNORECASE)
        present = "robustness to natural distribution shifts is present on the images that were given"
        not_established = "not established whether the indication of robustness to natural distribution shifts is there"
        assert (present in text) == (name == "pass")
        assert (not_established in text) == (name != "pass")


def test_every_reason_is_shown_with_what_was_seen_and_the_next_step() -> None:
    reasons = tuple(reason(i, f"seen of {i}") for i in RULES)
    unknown = Reason(id="from_a_newer_version", kind="absent", seen="seen of the unknown one", next_step="Look it up.")
    shown = warning()
    verdict = shown.verdict.model_copy(update={"reasons": (*reasons, unknown)})
    for width in (60, 100, 140):
        text = words_of(whole_text(shown.model_copy(update={"verdict": verdict}), width))
        first: dict[str, str] = {}
        for each in verdict.reasons:
            rule = RULES.get(each.id)
            owner = first.setdefault(each.next_step, each.id)
            step = each.next_step if owner == each.id else f"The same as for {owner}."
            title = f"{rule.title} " if rule else ""
            assert f"✗ {title}{each.id} {each.seen} → {step}" in text
        assert text.count("The same as for") == len(verdict.reasons) - len({r.next_step for r in verdict.reasons}) > 0


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
    for verbose in (False, True):
        text = terminal_text(shown, ascii_only=True, verbose=verbose)
        assert text.isascii()
        assert r"mod\xe8les/\u043c\u043e\u0434\u0435\u043b\u044c.onnx" in text
        assert r"Gr\xf6\xdfe -> 3 x 4" in text
    assert r"\u0444\u043e\u0442\u043e.jpg (broken - really)" in text
    assert r"synthetic: ein Ausrei\xdfer" in words_of(text)
    assert "Crabbe et al." in text
    unicode = whole_text(shown)
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
    text = whole_text(shown, 120)
    assert r"[red]a[/red][/]\x1b[31m\u202eb\udcff.onnx · [link=x]:smile:[/link]" in text
    assert r"[/] note\r\nnext" in text
    assert r"[bold]c\x07.jpg ([/bold])" in text
    assert not set(text) & set("\x1b\x07\r\u202e")
    assert text.encode("utf-8")  # a lone surrogate would raise here
    assert one_line(shown) == r"PASS [red]a[/red][/]\x1b[31m\u202eb\udcff.onnx"


def test_long_paths_fold_and_are_never_cut() -> None:
    path = "/models/" + "0123456789" * 20 + ".onnx"
    for width in (60, 80, 120):
        assert path in re.sub(r"\s", "", terminal_text(report(PASS_STATISTICS, file=path), width))


def test_only_colours_that_read_on_dark_and_light_and_none_carries_meaning() -> None:
    for name in MADE:
        console = Console(width=100, force_terminal=True, color_system="standard", file=io.StringIO())
        segments = list(console.render(render(MADE[name]())))
        styles = [s.style for s in segments if s.style is not None]
        colours = {style.color.name for style in styles if style.color is not None}
        assert colours <= {"green", "yellow", "cyan"}
        assert ("green" if name == "pass" else "yellow") in colours
        assert {style.bgcolor for style in styles} == {None}
        assert "".join(s.text for s in segments) == terminal_text(MADE[name](), 100)


def test_headings_are_bold_and_their_remarks_are_not() -> None:
    segments = list(Console(width=100).render(render(passing(), verbose=True)))
    style = {s.text.strip(): s.style for s in segments if s.style is not None}
    heading, remark = style["Outlier features"], style["2 persistent, of 1024 features"]
    assert (heading.bold, remark.dim, bool(remark.bold)) == (True, True, False)


def test_what_could_not_be_measured_is_said() -> None:
    text = whole_text(UNMEASURED)
    assert len(re.findall(r"–  not measured +(?:> [\d.]+|[\d.]+ to [\d.]+) +\? unknown", text)) == 6
    labels = "centred kurtosis|RMS kurtosis|max-median ratio|sparsity \\(zeros\\)|negative values|spread over images"
    assert len(re.findall(rf"(?:{labels}) +not measured", text)) == 6
    assert re.search(r"Outlier features  none persistent, of 1024 features\n  not measured\n", text)
    assert "not placed" in text
    for width in WIDTHS:
        narrow = whole_text(UNMEASURED, width)
        assert max(cell_len(line) for line in narrow.splitlines()) <= width
        assert narrow.count("? unknown") == 6


def test_an_estimate_without_bounds_clears_nothing_and_a_ratio_to_nothing_is_infinite() -> None:
    text = whole_text(report(PASS_STATISTICS | {"kurtosis": interval(82.31, None, None)}))
    assert re.search(r"activation kurtosis +82\.3 +not measured +> 8 +\? unknown", text)
    text = whole_text(report(PASS_STATISTICS | {"max_median_ratio": None}))
    assert re.search(r"max-median ratio +infinite  ", text)


def test_at_most_eight_outlier_features_and_the_rest_counted() -> None:
    features = tuple(feature(100 + i, 0.05, 0.9, 7.0) for i in range(12))
    text = whole_text(report(PASS_STATISTICS | {"features": features}))
    assert "12 persistent, of 1024 features" in text
    assert re.findall(r" (1\d\d) +5\.0 %", text) == [str(100 + i) for i in range(8)]
    assert "  and 4 more\n" in text
    text = whole_text(report(PASS_STATISTICS | {"features": (feature(7, 0.9, 0.8, -0.04),)}))
    assert re.search(r" 7 +90\.0 % +80\.0 % +\+0\.0  ✓ yes\n", text)  # what rounds to nothing has no minus


def test_the_model_stands_in_its_place_in_the_real_table() -> None:
    table = placed_references()
    text = whole_text(report(PASS_STATISTICS, reference=table), 120)
    above = sum(row.persistence_ratio >= 5.218 for row in table)
    assert re.search(rf"▶ +{above + 1} +5\.22 +82\.3 +this model", text)
    last = min(table, key=lambda row: row.persistence_ratio)
    assert re.search(rf"^ +{len(table) + 1} .*{re.escape(short_checkpoint(last.checkpoint))}", text, re.M)
    assert "K (kurtosis) moves with the image set: OpenCLIP ViT-L/14 laion2b_s32b_b82k reads 29.6" in text


def test_what_only_some_runs_have_is_said() -> None:
    given = report(PASS_STATISTICS, preprocessing_source="tensors")
    facts = {"external_digests": {"weights.bin": "sha256:" + "ab" * 32}, "opset": {"": 18, "com.microsoft": 1}}
    model = given.evidence.model.model_copy(update=facts)
    evidence = given.evidence.model_copy(update={"model": model})
    text = words_of(whole_text(given.model_copy(update={"evidence": evidence}), 140))
    assert "preprocessing none: the images were given as preprocessed tensors" in text
    assert "opset 18 · opset 1 (com.microsoft) · pytorch 2.13.0 weights.bin sha256:" + "ab" * 32 in text


def test_a_note_is_not_said_twice() -> None:
    noted = ("Synthetic model: feature 3 raised by 15 SD.", "no libcudart.so.13", "1 skipped (a.jpg: truncated)")
    shown = report(
        PASS_STATISTICS,
        synthetic="feature 3 raised by 15 SD",
        notes=noted,
        skipped=(("a.jpg", "truncated"),),
        execution={"fallback_reason": "no libcudart.so.13"},
    )
    text = whole_text(shown)
    assert "models/rn50-openai.onnx · open_clip RN50 (openai) · synthetic\n" in text
    for once in ("feature 3 raised by 15 SD", "no libcudart.so.13", "a.jpg"):
        assert text.count(once) == 1


def test_one_line() -> None:
    assert one_line(passing()) == "PASS models/rn50-openai.onnx"
    assert one_line(warning()) == (
        "WARN · not_established models/efficientnet-lite0.onnx (on the bundled photos, not yours): "
        "assumed_preprocessing, rectified, no_persistent_outlier_features"
    )
    assert one_line(undecided()) == "WARN · not_established models/vit-b-32-laion2b.onnx: undecided"


def test_the_short_report_is_20_lines_at_most() -> None:
    every = verdict_for((reason(i, "seen " * 40) for i in RULES), load())
    shown = warning().model_copy(update={"verdict": every})
    for width in (80, 100, 140):
        for each in (passing(), undecided(), shown):
            assert len(terminal_text(each, width).splitlines()) <= 20
        assert f"✗ and {len(RULES) - 3} more: " in words_of(terminal_text(shown, width))


def test_reasons_are_sorted_by_kind_and_the_first_step_is_of_the_verdicts_kind() -> None:
    names = ("low_kurtosis", "rectified", "too_few_images")
    verdict = verdict_for((reason(name, f"{name} was seen") for name in names), load())
    shown = warning().model_copy(update={"verdict": verdict})
    short, whole = terminal_text(shown, 100), whole_text(shown, 100)
    assert re.findall(r"^✗ (\w+)", short, re.MULTILINE) == list(reversed(names))
    assert "✗ too_few_images  too_few_images was seen\n" in short  # what was seen, where no number of the table says it
    assert f"✗ low_kurtosis  {RULES['low_kurtosis'].title}\n" in short
    assert f"→ {RULES['too_few_images'].next_step}\n" in short
    assert re.findall(r"^  +(not_established|not_applicable|absent): ", whole, re.MULTILINE) == [*KINDS][:3]


def test_a_pass_always_says_the_limits_and_of_a_classifier_that_its_head_was_not_looked_at() -> None:
    shown = passing()
    assert LIMITS in terminal_text(shown, 80).splitlines()
    assert HEAD_NOTE not in words_of(terminal_text(shown, 80))
    text = words_of(terminal_text(shown.model_copy(update={"notes": (HEAD_NOTE, BUNDLED_NOTE)}), 80))
    assert HEAD_NOTE in text
    assert BUNDLED_NOTE not in text
