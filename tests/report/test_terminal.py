"""The terminal report: golden files, what must hold at every width; the numbers, words and bars of it."""

import itertools
import os
import random
import re
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustcheck_onnx.checker import text as texts
from robustcheck_onnx.checker.core.evidence import Interval
from robustcheck_onnx.checker.core.preprocessing import CLIP, Preprocessing
from robustcheck_onnx.checker.core.verdict.gate import decide
from robustcheck_onnx.checker.core.verdict.kinds import KINDS
from robustcheck_onnx.checker.core.verdict.notes import BUNDLED_NOTE, HEAD_NOTE
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.core.verdict.rule import Reason, reason, verdict_for
from robustcheck_onnx.checker.questions.check import _reference
from robustcheck_onnx.checker.report import forms, overview
from robustcheck_onnx.checker.report.basis import INTERVALS_IN_SHORT
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.document import document_of
from robustcheck_onnx.checker.report.numbers import clears, group_text, reference_lines, widest_kurtosis
from robustcheck_onnx.checker.report.preprocessing import preprocessing_text
from robustcheck_onnx.checker.report.record import Failed, Outcome, ReferenceRow
from robustcheck_onnx.checker.report.terminal import REASONS_LISTED, render_document
from robustcheck_onnx.checker.report.words import one_line, step_of
from robustcheck_onnx.thresholds.profile import load
from support import Fields, but, reports, sized
from support.bad_input import agrees
from support.outcomes import NOTHING, gated
from support.reports import MADE, passing, report, terminal_text, undecided, warning
from support.screens import printed

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (60, 80, 97, 140, 61, 72, 79, 100, 121)[: sized(4, 9)]


def words_of(text: str) -> str:
    return " ".join(text.split())


def whole(shown: Report, width: int = 100) -> str:
    return terminal_text(shown, width, verbose=True)


def test_golden() -> None:
    for name, width, ascii_only, verbose in itertools.product(MADE, (80, 120), (False, True), (False, True)):
        layout = "whole" if verbose else "short"
        path = GOLDEN / f"terminal-{layout}-{name}{'-ascii' if ascii_only else ''}-{width}.txt"
        text = terminal_text(MADE[name](), width, ascii_only=ascii_only, verbose=verbose)
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.write_text(text)
        assert text == path.read_text(), path.name


def given(statistics: Fields | None = None, **changes: Any) -> str:
    """The words of a whole report."""
    return whole(report(reports.PASS_STATISTICS | (statistics or {}), **changes))


def test_at_every_width_lines_fit_and_the_numbers_that_decide_are_whole() -> None:
    numbers = "6.40 4.498 8.30 4.5 1.00 0.910 1.00 0.75 0.444 0.428 0.460 0.35"
    for width in WIDTHS:
        for shown, ascii_only, verbose in itertools.product(
            (passing(), warning(), undecided(), NOTHING), (False, True), (False, True)
        ):
            text = terminal_text(shown, width, ascii_only=ascii_only, verbose=verbose)
            for line in text.splitlines():
                assert cell_len(line) <= width or line.startswith("  robustcheck ")  # a command is never broken
                assert line == line.rstrip()
        assert text.count("? unknown") == 3  # of nothing, whole, in ASCII
        (table,) = re.findall(r"^  statistic .*?\n\n", whole(undecided(), width), re.MULTILINE | re.DOTALL)
        right = table.index("ok?")  # what is next to the table begins further right
        assert re.findall(r"(?<!-)\b\d[\d.]*", " ".join(line[:right] for line in table.splitlines())) == numbers.split()


def test_the_wording_is_one_sided() -> None:
    for made in MADE.values():  # what each says stands in its golden files
        text = words_of(whole(made()))
        assert not re.search(r"(is|are|not|un|isn't) ?robust\b|fragile", text, re.IGNORECASE)


def test_every_reason_is_shown_with_what_was_seen_and_the_next_step() -> None:
    new = Reason(id="from_a_newer_version", kind="absent", seen="seen of the unknown one", next_step="Look it up.")
    told = [f"✗ {new.id} {new.seen} → {new.next_step}"]
    reasons = [reason(i, f"seen of {i}") for i in RULES]
    told += [f"✗ {RULES[each.id].title} {each.id} {each.seen} → {each.next_step}" for each in reasons]
    for width in (60, 100, 140):
        text = words_of(whole(but(warning(), verdict__reasons=(*reasons, new)), width))
        assert [each for each in told if each not in text] == []


def test_ascii_only_holds_for_data_too() -> None:
    shown = report(
        reports.WARN_STATISTICS, file="modèles/модель.onnx", source="my libräry ☃ (weights)", synthetic="ein Ausreißer",
        notes=("Größe → 3 × 4",), skipped=(("фото.jpg", "broken – really"),),
        execution={"device": "Prozessör", "fallback_reason": "ße"}, with_profile=load(), reference=_reference(),
    )  # fmt: skip
    text = terminal_text(shown, ascii_only=True, verbose=True)
    assert (text + terminal_text(shown, ascii_only=True)).isascii()
    for said in (
        r"mod\xe8les/\u043c\u043e\u0434\u0435\u043b\u044c.onnx",
        r"Gr\xf6\xdfe -> 3 x 4",
        r"\u0444\u043e\u0442\u043e.jpg (broken - really)",
        r"synthetic: ein Ausrei\xdfer",
        "Crabbe et al.",
    ):
        assert said in words_of(text)
    for name in ("modèles/модель.onnx", "my libräry ☃ (weights)", "фото.jpg", "Größe → 3 × 4", "Crabbé"):
        assert name in whole(shown)


def test_names_can_neither_style_nor_steer_the_terminal() -> None:
    shown = report(
        reports.PASS_STATISTICS,
        file="[red]a[/red][/]\x1b[31m\u202eb\udcff.onnx",
        source="[link=x]:smile:[/link]",
        notes=("[/] note\r\nnext",),
        skipped=(("[bold]c\x07.jpg", "[/bold]"),),
    )
    text = whole(shown, 120)
    for said in (
        r"[red]a[/red][/]\x1b[31m\u202eb\udcff.onnx · ",
        "\n[link=x]:smile:[/link]\n",
        r"[/] note\r\nnext",
        r"[bold]c\x07.jpg ([/bold])",
    ):
        assert said in text
    assert not set(text) & set("\x1b\x07\r\u202e")
    assert text.encode("utf-8")  # a lone surrogate would raise here
    assert one_line(shown) == r"PASS [red]a[/red][/]\x1b[31m\u202eb\udcff.onnx"


def test_only_colours_that_read_on_dark_and_light_and_none_carries_meaning() -> None:
    for name, made in MADE.items():
        segments = list(Console(width=100).render(render_document(document_of(made()))))
        styles = [s.style for s in segments if s.style is not None]
        colours = {style.color.name for style in styles if style.color is not None}
        assert {"green" if name == "pass" else "yellow"} <= colours <= {"green", "yellow", "cyan"}
        assert {style.bgcolor for style in styles} == {None}
        assert "".join(s.text for s in segments) == terminal_text(made(), 100)


def test_what_could_not_be_measured_is_said() -> None:
    text = whole(NOTHING)
    assert len(re.findall(r"–  not measured +(?:> [\d.]+|[\d.]+ to [\d.]+) +\? unknown", text)) == 3
    labels = "centred kurtosis|RMS kurtosis|max-median ratio|sparsity \\(zeros\\)|negative values|spread over images"
    assert len(re.findall(rf"(?:{labels}) +not measured", text)) == 6
    assert re.search(r"Most extreme features  of 1280; [^\n]+\n  not measured\n", text)
    assert "not placed" in text
    # an estimate without bounds clears nothing, and a ratio to nothing is infinite
    text = given({"strength": reports.interval(82.31, None, None), "max_median_ratio": None})
    assert re.search(r"strength +82\.3 +not measured +> 4\.5 +\? unknown", text)
    assert re.search(r"max-median ratio +infinite  ", text)


def test_at_most_eight_outlier_features_and_the_rest_counted() -> None:
    text = given({"features": tuple(reports.feature(100 + i, 0.05, 0.9, 7.0) for i in range(12))})
    assert "Most extreme features  of 1024; " in text
    assert not re.search("persistent", text.partition("Most extreme features")[2].partition("Place among")[0])
    assert re.findall(r" (1\d\d) +5\.0 %", text) == [str(100 + i) for i in range(8)]
    assert "  and 4 more\n" in text
    text = given({"features": (reports.feature(7, 0.9, 0.8, -0.04),)})
    assert re.search(r" 7 +90\.0 % +80\.0 % +\+0\.0\n", text)  # what rounds to nothing has no minus


def test_what_only_some_runs_have_is_said() -> None:
    shown = report(reports.PASS_STATISTICS, preprocessing_source="tensors")
    digest = "sha256:" + "ab" * 32
    facts: Fields = {"external_digests": {"weights.bin": digest}, "opset": {"": 18, "com.microsoft": 1}}
    text = words_of(whole(gated(shown, **facts), 140))
    assert "preprocessing none: the images were given as preprocessed tensors" in text
    assert f"opset 18 · opset 1 (com.microsoft) · pytorch 2.13.0 weights.bin {digest}" in text


def test_the_execution_of_an_int8_file_shows_whether_its_sums_saturate() -> None:
    text = given(execution={"precision": "int8", "int8_sums": {"plain": 0.5059, "exact": 1}})
    assert "int8 sums saturate at 50.6 % of the exact sum" in words_of(text)
    assert "int8 sums" not in given()


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
    assert one_line(warning()) == (
        "WARN · not_applicable models/efficientnet-lite0.onnx (on the bundled photos, not yours): "
        "one_sided, assumed_preprocessing, too_weak, not_persistent"
    )


def test_a_pass_whose_preprocessing_only_an_option_states_says_so_first() -> None:
    claims = [("user", "--preprocess clip"), ("contract", "contract (--preprocess clip)")]
    for source, origin in claims:
        stated = but(passing(), evidence__preprocessing__source=source, evidence__preprocessing__origin=origin)
        _, first, *rest = terminal_text(stated, 80).splitlines()
        assert first == "! preprocessing stated only by --preprocess clip"
        assert any(line.startswith("preprocessing ") and origin in line for line in rest)
        assert "(preprocessing stated only by --preprocess clip)" in one_line(stated)
    for source, origin in [("sidecar", "open_clip_config.json"), ("contract", "contract (open_clip_config.json)")]:
        stated = but(passing(), evidence__preprocessing__source=source, evidence__preprocessing__origin=origin)
        assert "stated only by" not in terminal_text(stated, 80) + one_line(stated)
        assert origin in terminal_text(stated, 80)
    assert "preprocessing ImageNet mean and SD, assumed\n" in terminal_text(warning(), 80)


def shown_for(*names: str, rule: str = "head_input") -> Report:
    """The WARN of MADE with these reasons, of a tensor that this rule found."""
    verdict = verdict_for((reason(name, f"{name} was seen") for name in names), load())
    return but(warning(), verdict=verdict, evidence__model__rule=rule)


def test_the_short_report_is_18_lines_at_most() -> None:
    for shown in (passing(), undecided(), *(shown_for(name) for name in RULES), shown_for(*RULES)):
        assert max(len(terminal_text(shown, width).splitlines()) for width in (80, 100, 140)) <= 18
    assert f" and {len(RULES) - REASONS_LISTED} more -v explains them" in words_of(terminal_text(shown_for(*RULES), 80))


def test_what_an_interval_is_about_is_shown_once_below_the_intervals() -> None:
    for verbose in (False, True):
        lines = [line.strip() for line in terminal_text(warning(), 100, verbose=verbose).splitlines()]
        (at,) = [n for n, line in enumerate(lines) if line == INTERVALS_IN_SHORT]
        assert [line for line in lines[:at] if line][-1].startswith("two-sidedness")
    assert forms.render("markdown", [warning()]).count(INTERVALS_IN_SHORT) == 1


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
    short, long = (terminal_text(shown_for(*names), 100, verbose=verbose) for verbose in (False, True))
    assert f"✗ {', '.join(reversed(names))}  -v explains them\n" in short
    assert f"→ {step_of(RULES['too_few_images'].next_step, 'm.onnx', scores=True)[0]}\n" in short
    assert re.findall(r"^  +(not_established|not_applicable|absent): ", long, re.MULTILINE) == [*KINDS][:3]


def test_a_model_without_class_scores_is_not_sent_to_measure_its_accuracy() -> None:
    assert "\n  robustcheck shift models" in terminal_text(shown_for("one_sided"))
    assert "\n  robustcheck models/efficientnet-lite0.onnx --waivers FILE\n" in terminal_text(
        shown_for("one_sided", rule="encoder_output")
    )


def test_too_few_photos_come_first_but_where_the_file_can_not_pass() -> None:
    for names, said in (
        (
            ("one_sided", "too_few_images", "end_not_calibrated"),
            "robustcheck 0.1.0 WARN: This check does not apply to this model. Its features are the"
            "… there is no threshold for such models. More photos will not change that. This says"
            "… robustcheck shift models/efficientnet-lite0.onnx",
        ),
        (
            ("one_sided", "too_few_images"),
            "robustcheck 0.1.0 WARN: The check came to no result on this model: too_few_images was seen. Do the"
            "…→ Give more varied photos",
        ),
    ):
        assert agrees(f"{said}…", words_of(terminal_text(shown_for(*names), 80)))


def test_a_pass_of_a_classifier_says_that_its_head_was_not_looked_at() -> None:
    text = words_of(terminal_text(but(passing(), notes=(HEAD_NOTE, BUNDLED_NOTE)), 80))
    assert (HEAD_NOTE in text, BUNDLED_NOTE in text) == (True, False)


LONGEST = "assumed_preprocessing"
NAMES = ["a.onnx", "models/" + 12 * "unbroken_" + ".onnx", "broken.onnx"]


def table(width: int, **changes: Any) -> list[str]:
    """The lines about a PASS, a WARN with these changes, whose longest reason comes first, and an error."""
    failed = Failed(model="broken.onnx", message="broken.onnx: file is empty", hint="ls", exit_code=3)
    reasons = sorted(warning().verdict.reasons, key=lambda reason: reason.id != LONGEST)
    outcomes: list[Outcome] = [passing(), but(warning(), verdict__reasons=tuple(reasons), **changes), failed]
    lines = printed(overview.render_several(outcomes, models=NAMES, code=3), width).splitlines()
    assert max(map(len, lines)) <= width
    return lines


def order(lines: list[str]) -> list[str]:
    """The verdicts of the table."""
    return re.findall("^[✗▲✓] (\\w+)", "\n".join(lines[: lines.index("")]), re.MULTILINE)


def test_the_table_then_the_reasons_by_model_and_last_the_exit_code() -> None:
    for width in (60, 80, 100, 120, 160):
        lines = table(width)
        assert lines[0].startswith("robustcheck ")
        assert order(lines) == ["error", "WARN", "PASS"]
        broken, warned = lines.index("broken.onnx"), lines.index(NAMES[1][:width])
        assert lines[broken + 1 : broken + 3] == ["✗ file is empty", "hint: ls"]
        below = words_of(" ".join(lines[warned:]))
        assert below.partition("WARN: ")[2].startswith("This check does not apply to this model. ")
        ids = below.partition("✗ ")[2].partition(" -v explains them")[0].split(", ")
        assert (ids[0], set(ids)) == (LONGEST, {reason.id for reason in warning().verdict.reasons})
        assert broken < warned
        assert NAMES[0] not in lines[broken:]
        assert lines[-1].startswith("━━ ✗ 3 models: 1 PASS, 1 WARN, 1 ERROR · exit code 3")


def test_of_several_errors_the_gravest_comes_first_and_their_names_are_plain() -> None:
    failed = [Failed(model="m", message="m", hint="", exit_code=code) for code in (3, 70)]
    table = overview.render_several(failed, models=["ä.onnx", "b\x1b.onnx"], code=70, ascii_only=True)
    text = printed(table, 60)
    assert (text.isascii(), "\x1b" in text) == (True, False)
    assert text.index("error 70") < text.index("error 3")


def test_what_lets_a_warn_through_is_said_with_its_model() -> None:
    lines = table(120, gate=decide(warning().verdict, "w.onnx", fail_on="never", today=date(2026, 1, 1)))
    assert any(line.startswith("▲ WARN · not_applicable (let through)") for line in lines)
    assert "! --fail-on is never (command line): WARN does not fail this run" in lines
    assert order(lines) == ["error", "WARN", "PASS"]  # its exit code is that of a PASS


def row(strength: float, k: float = 20.0, checkpoint: str = "c", shows: bool = True) -> ReferenceRow:
    of = {"checkpoint": checkpoint, "group": "supervised", "images": "i", "source": "s", "persistence_ratio": 1.0}
    return ReferenceRow(**of, kurtosis=k, top3_share=strength / k, shows_outlier_features=shows)  # type: ignore[arg-type]


def test_numbers_have_three_significant_digits() -> None:
    for value, text in (
        (0.5561, "0.556"), (1.0, "1.00"), (23.45, "23.4"), (999.4, "999"), (12345.6, "12346"), (0.00123, "0.00123"),
        (0.0, "0"), (-6.434, "-6.43"), (1.234e-7, "1.23e-07"),
    ):  # fmt: skip
        assert texts.number_text(value) == text
        assert float(text) == pytest.approx(value, rel=5e-3)


def test_a_bound_never_reads_on_the_wrong_side_of_its_threshold() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        minimum = round(10 ** rng.uniform(-1, 2), rng.randint(0, 3)) or 1.0
        value = minimum * (1 + rng.choice([-1, 1]) * 10 ** rng.uniform(-12, 0))
        shown = float(texts.bound_text(value, minimum))
        assert (shown > minimum, shown < minimum) == (value > minimum, value < minimum)
    assert [texts.bound_text(value, 8.0) for value in (8.0, 93.68, 7.996)] == ["8.00", "93.7", "7.996"]


def test_clears() -> None:
    for low, high, answer in (
        (2.1, 3.0, "yes"),
        (1.0, 1.9, "no"),
        (2.0, 3.0, "straddles"),
        (1.0, 2.0, "straddles"),
        (None, None, "not measured"),
    ):
        assert clears(Interval(estimate=2.0, low=low, high=high), 2.0) == answer


def test_the_pure_words() -> None:
    ascii_name = partial(texts.name_text, ascii_only=True)
    told: dict[Any, dict[Any, str]] = {
        texts.percent_text: {0.0: "0 %", 0.5: "50.0 %", None: "not measured"},
        group_text: {"zero_shot_clip": "zero-shot CLIP", "some_new_group": "some new group"},
        texts.short_checkpoint: {"(odd)": "(odd)"},
        texts.short_digest: {"sha256:" + "ab" * 32: "sha256:abababababab", "": ""},
        partial(texts.name_text, ascii_only=False): {
            "modèle 1.onnx": "modèle 1.onnx",
            "a\nb\x1b\x9b\u200f\udc80": r"a\nb\x1b\x9b\u200f\udc80",
        },
        ascii_name: {"modèle→.onnx": r"mod\xe8le\u2192.onnx", "\U0001f600": r"\U0001f600"},
        partial(texts.sentence_text, ascii_only=True): {"Größe ≥ 3 × 4": r"Gr\xf6\xdfe >= 3 x 4"},
        partial(texts.prose_text, ascii_only=True): {"Crabbé et al. – ☃": r"Crabbe et al. - \u2603"},
        partial(texts.prose_text, ascii_only=False): {"Crabbé – ☃": "Crabbé – ☃"},
    }  # fmt: skip
    for function, rows in told.items():
        assert {given: function(given) for given in rows} == rows
    signs = texts.sentence_text("✓✗▲▶•·→×…–—−≥≤’“”━─│└▁▂▃▄▅▆▇█", True)
    assert (signs.isascii(), "\\" in signs) == (True, False)


def test_bars_are_proportional() -> None:
    for counts, height, drawn in (
        ([0, 1, 2, 4, 8], 1, [" ▁▂▄█"]),
        ([8, 16, 12, 0], 2, [" █▄ ", "███ "]),
        ([1, 1000], 2, [" █", "▁█"]),
        ([0, 0], 1, ["  "]),
        ([], 2, ["", ""]),
    ):
        assert texts.bars(counts, height) == drawn
    heights = [sum(map(texts.BLOCKS.index, column)) for column in zip(*texts.bars(range(101), 5), strict=True)]
    assert heights == [max(round(40 * i / 100), i > 0) for i in range(101)]


def test_the_reference_list_shows_the_neighbours_and_both_ends() -> None:
    table = [row(float(r)) for r in (9, 1, 8, 2, 7, 3, 6, 4, 5, 10)]
    for strength, shown in (
        (0.0, [(1, 10, 0), (7, 4, 5), (8, 3, 0), (9, 2, 0), (10, 1, 0), (11, None, 0)]),
        (11.0, [(1, None, 0), (2, 10, 0), (3, 9, 0), (4, 8, 0), (5, 7, 0), (11, 1, 5)]),
    ):
        lines = reference_lines(table, strength)
        assert [(p.rank, p.reference and p.reference.strength, p.left_out) for p in lines] == shown
    for few in ([], table[1:2]):
        assert [line.reference for line in reference_lines(few, 1.0)] == [*few, None]


def test_widest_kurtosis_compares_one_checkpoint_with_itself() -> None:
    table = [row(1, 10.0, "a"), row(1, 50.0, "b"), row(1, 30.0, "a"), row(1, 60.0, "b"), row(1, 900.0, "c")]
    logits = [row(1, 7.0, "d", shows=False), row(1, 70.0, "d", shows=False)]
    assert widest_kurtosis(table + logits) == ("a", 10.0, 30.0)
    assert widest_kurtosis(table[:2]) is None


def test_preprocessing_in_one_line() -> None:
    def given(size: tuple[int, int], mode: Any, **more: Any) -> Preprocessing:
        return Preprocessing(size=size, resize_mode=mode, resize_size=size, interpolation="lanczos", rescale=1, **more)

    clip = but(CLIP, color_order="BGR", mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3))
    for preprocessing, text in (
        (clip, "224×224 px: shortest edge 224 px, bicubic, centre crop, mean 0.5, SD 0.1 0.2 0.3, BGR"),
        (given((300, 200), "longest"), "200×300 px: within 200×300 px, lanczos, centre crop, pixels × 1, mean 0, SD 1"),
        (given((8, 8), "none", crop="none"), "8×8 px: no resize, pixels × 1, mean 0, SD 1"),
    ):
        assert preprocessing_text(preprocessing) == text
