"""The pure parts of the terminal report: numbers, spelling, bars, places."""

import random
from functools import partial
from typing import Any

import pytest

from robustcheck_onnx.checker.evidence import CLIP, Interval, Preprocessing
from robustcheck_onnx.checker.report import forms
from robustcheck_onnx.checker.report.record import ReferenceRow
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
)
from robustcheck_onnx.thresholds.profile import Limits
from support import but


def row(strength: float, k: float = 20.0, checkpoint: str = "c", shows: bool = True) -> ReferenceRow:
    of = {"checkpoint": checkpoint, "group": "supervised", "images": "i", "source": "s", "persistence_ratio": 1.0}
    return ReferenceRow(**of, kurtosis=k, top3_share=strength / k, shows_outlier_features=shows)  # type: ignore[arg-type]


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


def test_clears() -> None:
    for low, high, answer in (
        (2.1, 3.0, "yes"),
        (1.0, 1.9, "no"),
        (2.0, 3.0, "straddles"),
        (1.0, 2.0, "straddles"),
        (None, None, "not measured"),
    ):
        assert forms.clears(Interval(estimate=2.0, low=low, high=high), Limits(2.0)) == answer


def test_the_pure_words() -> None:
    told: dict[Any, dict[Any, str]] = {
        percent_text: {0.0: "0 %", 0.5: "50.0 %", None: "not measured"},
        forms.group_text: {"zero_shot_clip": "zero-shot CLIP", "some_new_group": "some new group"},
        short_checkpoint: {"(odd)": "(odd)"},
        short_digest: {"sha256:" + "ab" * 32: "sha256:abababababab", "": ""},
        partial(name_text, ascii_only=False): {
            "modèle 1.onnx": "modèle 1.onnx",
            "a\nb\x1b\x9b\u200f\udc80": r"a\nb\x1b\x9b\u200f\udc80",
        },
        partial(name_text, ascii_only=True): {"modèle→.onnx": r"mod\xe8le\u2192.onnx", "\U0001f600": r"\U0001f600"},
        partial(sentence_text, ascii_only=True): {"Größe ≥ 3 × 4": r"Gr\xf6\xdfe >= 3 x 4"},
        partial(prose_text, ascii_only=True): {"Crabbé et al. – ☃": r"Crabbe et al. - \u2603"},
        partial(prose_text, ascii_only=False): {"Crabbé – ☃": "Crabbé – ☃"},
    }  # fmt: skip
    for function, rows in told.items():
        for given, shown in rows.items():
            assert function(given) == shown
    signs = sentence_text("✓✗▲▶•·→×…–—−≥≤’“”━─│└▁▂▃▄▅▆▇█", True)
    assert signs.isascii()
    assert "\\" not in signs


def test_bars_are_proportional() -> None:
    for counts, height, drawn in (
        ([0, 1, 2, 4, 8], 1, [" ▁▂▄█"]),
        ([8, 16, 12, 0], 2, [" █▄ ", "███ "]),
        ([1, 1000], 2, [" █", "▁█"]),
        ([0, 0], 1, ["  "]),
        ([], 2, ["", ""]),
    ):
        assert bars(counts, height) == drawn
    heights = [sum(map(BLOCKS.index, column)) for column in zip(*bars(range(101), 5), strict=True)]
    assert heights == [max(round(40 * i / 100), i > 0) for i in range(101)]


def test_the_reference_list_shows_the_neighbours_and_both_ends() -> None:
    table = [row(float(r)) for r in (9, 1, 8, 2, 7, 3, 6, 4, 5, 10)]
    for strength, everything, shown in (
        (0.0, False, [(1, 10, 0), (7, 4, 5), (8, 3, 0), (9, 2, 0), (10, 1, 0), (11, None, 0)]),
        (11.0, True, [(1, None, 0), *((rank, 12 - rank, 0) for rank in range(2, 12))]),
    ):
        lines = forms.reference_lines(table, strength, everything=everything)
        assert [(p.rank, p.reference and p.reference.strength, p.left_out) for p in lines] == shown
    for few in ([], table[1:2]):
        lines = forms.reference_lines(few, 1.0)
        assert [line.reference for line in lines] == [*few, None]


def test_widest_kurtosis_compares_one_checkpoint_with_itself() -> None:
    table = [row(1, 10.0, "a"), row(1, 50.0, "b"), row(1, 30.0, "a"), row(1, 60.0, "b"), row(1, 900.0, "c")]
    logits = [row(1, 7.0, "d", shows=False), row(1, 70.0, "d", shows=False)]
    assert forms.widest_kurtosis(table + logits) == ("a", 10.0, 30.0)
    assert forms.widest_kurtosis(table[:2]) is None


def test_preprocessing_in_one_line() -> None:
    def given(size: tuple[int, int], mode: Any, **more: Any) -> Preprocessing:
        return Preprocessing(
            size=size, resize_mode=mode, resize_size=size, interpolation="lanczos", rescale=1.0, **more
        )

    for preprocessing, text in (
        (
            but(CLIP, color_order="BGR", mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3)),
            "224×224 px: shortest edge 224 px, bicubic, centre crop, mean 0.5, SD 0.1 0.2 0.3, BGR",
        ),
        (given((300, 200), "longest"), "200×300 px: within 200×300 px, lanczos, centre crop, pixels × 1, mean 0, SD 1"),
        (given((8, 8), "none", crop="none"), "8×8 px: no resize, pixels × 1, mean 0, SD 1"),
    ):
        assert forms.preprocessing_text(preprocessing) == text
