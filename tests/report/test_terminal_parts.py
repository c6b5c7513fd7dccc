"""The pure parts of the terminal report: numbers, spelling, bars, places."""

from __future__ import annotations

import random
from typing import Any

import pytest

from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Interval, Preprocessing
from robustcheck_onnx.checker.report import words
from robustcheck_onnx.checker.report.record import Placed
from robustcheck_onnx.checker.text import (
    BLOCKS,
    bars,
    bound_text,
    name_text,
    number_text,
    percent_text,
    prose_text,
    sentence_text,
    short_checkpoint,
    short_digest,
    short_provider,
)
from robustcheck_onnx.thresholds.profile import Limits


def row(ratio: float, k: float = 10.0, checkpoint: str = "c", shows: bool = True) -> Placed:
    of = {"checkpoint": checkpoint, "group": "supervised", "images": "i", "source": "s", "top3_share": 0.5}
    return Placed(**of, kurtosis=k, persistence_ratio=ratio, shows_outlier_features=shows)  # type: ignore[arg-type]


def test_numbers_have_three_significant_digits() -> None:
    for value, text in (
        (0.5561, "0.556"),
        (1.0, "1.00"),
        (23.45, "23.4"),
        (999.4, "999"),
        (12345.6, "12346"),
        (0.00123, "0.00123"),
        (0.0, "0"),
        (-6.434, "-6.43"),
        (1.234e-7, "1.23e-07"),
    ):
        assert number_text(value) == text
        assert float(text) == pytest.approx(value, rel=5e-3)


def test_a_bound_never_reads_on_the_wrong_side_of_its_threshold() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        minimum = round(10 ** rng.uniform(-1, 2), rng.randint(0, 3)) or 1.0
        value = minimum * (1 + rng.choice([-1, 1]) * 10 ** rng.uniform(-12, 0))
        shown = float(bound_text(value, minimum))
        assert (shown > minimum) == (value > minimum)
        assert (shown < minimum) == (value < minimum)
    assert bound_text(8.0, 8.0) == "8.00"
    assert bound_text(93.68, 8.0) == "93.7"
    assert bound_text(7.996, 8.0) == "7.996"


def test_percentages_say_all_and_nothing_only_when_it_is_true() -> None:
    for share, text in (
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.5, "50.0 %"),
        (0.9995, "> 99.9 %"),
        (1e-9, "< 0.1 %"),
        (None, "not measured"),
    ):
        assert percent_text(share) == text


def test_clears() -> None:
    for low, high, answer in (
        (2.1, 3.0, "yes"),
        (1.0, 1.9, "no"),
        (2.0, 3.0, "straddles"),
        (1.0, 2.0, "straddles"),
        (None, None, "not measured"),
    ):
        assert words.clears(Interval(estimate=2.0, low=low, high=high), Limits(2.0)) == answer


def test_bars_are_proportional() -> None:
    assert bars([0, 1, 2, 4, 8], 1) == [" ▁▂▄█"]
    assert bars([8, 16, 12, 0], 2) == [" █▄ ", "███ "]
    assert bars([1, 1000], 2) == [" █", "▁█"]
    assert bars([0, 0], 1) == ["  "]
    assert bars([], 2) == ["", ""]
    heights = [sum(BLOCKS.index(line[i]) for line in bars(range(101), 5)) for i in range(101)]
    assert heights == [max(round(40 * i / 100), i > 0) for i in range(101)]


def test_names_are_shown_exactly_or_escaped() -> None:
    assert name_text("modèle 1.onnx", False) == "modèle 1.onnx"
    assert name_text("modèle→.onnx", True) == r"mod\xe8le\u2192.onnx"
    assert name_text("a\nb\x1b\x9b\u200f\udc80", False) == r"a\nb\x1b\x9b\u200f\udc80"
    assert name_text("\U0001f600", True) == r"\U0001f600"


def test_sentences_in_ascii() -> None:
    signs = "✓✗▲▶•·→×…–—−≥≤’“”━─│└▁▂▃▄▅▆▇█"
    shown = sentence_text(signs, True)
    assert shown.isascii()
    assert "\\" not in shown
    assert sentence_text("Größe ≥ 3 × 4", True) == r"Gr\xf6\xdfe >= 3 x 4"
    assert prose_text("Crabbé et al. – ☃", True) == r"Crabbe et al. - \u2603"
    assert prose_text("Crabbé – ☃", False) == "Crabbé – ☃"


def test_the_reference_list_shows_the_neighbours_and_both_ends() -> None:
    table = [row(float(r)) for r in (9, 1, 8, 2, 7, 3, 6, 4, 5, 10)]
    shown = words.reference_lines(table, 5.5)
    assert [p.rank for p in shown] == [1, 4, 5, 6, 7, 8, 11]
    assert [p.reference and p.reference.persistence_ratio for p in shown] == [10, 7, 6, None, 5, 4, 1]
    assert [p.reference is None for p in words.reference_lines(table, 99.0)] == [True] + [False] * 5
    assert [p.rank for p in words.reference_lines(table, 99.0)] == [1, 2, 3, 4, 5, 11]
    assert [p.rank for p in words.reference_lines(table, 0.0)] == [1, 7, 8, 9, 10, 11]
    assert [p.rank for p in words.reference_lines(table, 5.5, everything=True)] == list(range(1, 12))
    assert [p.left_out for p in shown] == [0, 2, 0, 0, 0, 0, 2]
    assert not any(p.left_out for p in words.reference_lines(table, 5.5, everything=True))
    assert words.reference_lines([], 1.0) == (words.ReferenceLine(1, None),)
    assert words.reference_lines([row(1.0)], 1.0) == (words.ReferenceLine(1, row(1.0)), words.ReferenceLine(2, None))


def test_widest_kurtosis_compares_one_checkpoint_with_itself() -> None:
    table = [row(1, 10.0, "a"), row(1, 50.0, "b"), row(1, 30.0, "a"), row(1, 60.0, "b"), row(1, 900.0, "c")]
    assert words.widest_kurtosis(table) == ("a", 10.0, 30.0)
    logits = [row(1, 7.0, "d", shows=False), row(1, 70.0, "d", shows=False)]
    assert words.widest_kurtosis(table + logits) == ("a", 10.0, 30.0)
    assert words.widest_kurtosis(table[:2]) is None
    assert words.widest_kurtosis([]) is None


def test_preprocessing_in_one_line() -> None:
    def given(size: tuple[int, int], mode: Any, **more: Any) -> Preprocessing:
        return Preprocessing(
            size=size, resize_mode=mode, resize_size=size, interpolation="lanczos", rescale=1.0, **more
        )

    for preprocessing, text in (
        (CLIP, "224×224 px: shortest edge 224 px, bicubic, centre crop, CLIP mean and SD"),
        (IMAGENET, "224×224 px: shortest edge 256 px, bilinear, centre crop, ImageNet mean and SD"),
        (
            CLIP.model_copy(update={"color_order": "BGR", "mean": (0.5, 0.5, 0.5), "std": (0.1, 0.2, 0.3)}),
            "224×224 px: shortest edge 224 px, bicubic, centre crop, mean 0.5, SD 0.1 0.2 0.3, BGR",
        ),
        (given((300, 200), "longest"), "200×300 px: within 200×300 px, lanczos, centre crop, pixels × 1, mean 0, SD 1"),
        (given((384, 384), "squash", crop="none"), "384×384 px: squashed, lanczos, pixels × 1, mean 0, SD 1"),
        (given((8, 8), "none", crop="none"), "8×8 px: no resize, pixels × 1, mean 0, SD 1"),
    ):
        assert words.preprocessing_text(preprocessing) == text


def test_small_words() -> None:
    assert words.group_text("zero_shot_clip") == "zero-shot CLIP"
    assert words.group_text("some_new_group") == "some new group"
    assert short_checkpoint("(odd)") == "(odd)"
    assert short_digest("sha256:" + "ab" * 32) == "sha256:abababababab"
    assert short_digest("") == ""
    assert short_provider("TensorrtExecutionProvider") == "Tensorrt"
