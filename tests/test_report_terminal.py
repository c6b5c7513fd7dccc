"""The terminal report: golden files, and what must hold at every width.

The reports shown are made up for the tests; the reference rows are from thresholds/data/reference_statistics.csv.
UPDATE_GOLDEN=1 writes the golden files anew.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustcheck_onnx.checker import text as parts_text
from robustcheck_onnx.checker.evidence import (
    CLIP,
    IMAGENET,
    Evidence,
    Execution,
    Finding,
    ImageFacts,
    ImageSetFacts,
    Interval,
    ModelFacts,
    OutlierFeature,
    Preprocessing,
    PreprocessingFacts,
    Statistics,
)
from robustcheck_onnx.checker.report.record import CLAIM, Placed, Report, Time
from robustcheck_onnx.checker.report.terminal import one_line, render
from robustcheck_onnx.checker.verdict.reasons import RULES
from robustcheck_onnx.checker.verdict.rule import Reason, judge
from robustcheck_onnx.thresholds.ends import End
from robustcheck_onnx.thresholds.profile import STATISTICS, Calibration, Profile, Threshold, load, seal
from robustcheck_onnx.thresholds.reference import references

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (60, 61, 72, 79, 80, 97, 100, 121, 140)
MINIMUM = {
    "kurtosis": 8.0,
    "persistence_ratio": 1.75,
    "top3_share": 0.5,
    "outlier_frequency": 0.75,
    "negative_energy": 0.35,
    "negative_z_energy": 0.4,
}

REFERENCE_ROWS = """\
finetuned_clip|OpenAI CLIP ViT-B/32, contrastively fine-tuned on ~100 captioned images|165.7|32.74|0.9951|yes
zero_shot_clip|OpenAI CLIP ViT-L/14 (open_clip ViT-L-14/openai)|106.3|17.75|0.9872|yes
zero_shot_clip|SigLIP SO400M/14-384 (open_clip ViT-SO400M-14-SigLIP-384/webli)|71.38|12.73|0.968|yes
zero_shot_clip|OpenCLIP ViT-L/14 laion2b_s32b_b82k|29.58|6.522|0.9064|yes
zero_shot_clip|OpenAI CLIP RN50|84.65|5.129|0.9014|yes
zero_shot_clip|OpenAI CLIP RN50|38.04|3.498|0.8744|yes
finetuned_clip|FashionCLIP (HF patrickjohncyh/fashion-clip, B/32)|13.26|3.221|0.7878|yes
zero_shot_clip|OpenCLIP ViT-B/32 laion2b_s34b_b79k|9.708|2.106|0.6588|yes
supervised|ResNet50 ImageNet (torchvision pretrained=True)|16.77|1.141|0.2529|no
zero_shot_clip|OpenCLIP ViT-bigG/14 laion2b_s39b_b160k|4.923|1.076|0.122|no
supervised|EfficientNet-Lite0 ImageNet (converted from TF)|17.08|1.041|0.03627|no
face|FaceNet (keras_facenet FaceNet(), Inception-ResNet v1)|2.922|0.9945|0.0299|no
self_supervised|DINOv2 ViT-S/14 (torch.hub dinov2_vits14)|3.046|0.9412|0.04857|no
supervised|ViT-B/16 supervised ImageNet-21k (google/vit-base-patch16-224-in21k)|3.037|0.9057|0.03835|no
"""

LIMITS = (
    "PASS means that the indication (persistent outlier features) is present; it is no proof of robustness.",
    "WARN means absent or not established: OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k) shows no outlier features.",
    "It rests on few checkpoints.",
    "It is about natural distribution shifts of ImageNet kind, not about adversarial robustness or corruptions.",
)


def reference_rows() -> tuple[Placed, ...]:
    rows = [line.split("|") for line in REFERENCE_ROWS.splitlines()]
    return tuple(
        Placed(
            checkpoint=checkpoint,
            group=group,
            images="300 images",
            kurtosis=float(k),
            persistence_ratio=float(ratio),
            top3_share=float(share),
            shows_outlier_features=shows == "yes",
            source="reference_statistics.csv",
        )
        for group, checkpoint, k, ratio, share, shows in rows
    )


def profile() -> Profile:
    thresholds = {
        name: Threshold(
            minimum=MINIMUM[name],
            highest_without=0,
            highest_without_set="a",
            lowest_with=9,
            lowest_with_set="b",
            bootstrap_low=MINIMUM[name],
            bootstrap_high=MINIMUM[name],
        )
        for name in STATISTICS
    }
    return seal(
        Profile(
            id="test-1",
            statistic_version=1,
            tensor_rules=("encoder_output", "head_input"),
            pools=("none", "spatial_mean"),
            ends=(End("linear"),),
            min_features=384,
            max_features=2048,
            min_images=50,
            alpha=0.05,
            thresholds=thresholds,
            calibration=Calibration(
                command="none",
                table="reference_statistics.csv",
                table_digest="sha256:0",
                rule="chosen by hand for the tests",
                n_sets=14,
                n_checkpoints=13,
                with_indication=(),
                without_indication=(),
                excluded=(),
                left_out_false_pass=(),
                left_out_false_warn=(),
                false_pass_upper=0.2,
                false_warn_upper=0.5,
                family_out=(),
                auroc={},
                auroc_signed={},
                bootstrap_fits=0,
                bootstrap_failed=0,
            ),
            limits=LIMITS,
        )
    )


def interval(estimate: float | None, low: float | None, high: float | None) -> Interval:
    return Interval(estimate=estimate, low=low, high=high)


def feature(index: int, share: float, frequency: float, mean_z: float) -> OutlierFeature:
    return OutlierFeature(
        index=index,
        share=share,
        frequency=frequency,
        mean_z=mean_z,
        persistent=frequency >= 0.5,
        relative_sd=0.2,
    )


PASS_STATISTICS: dict[str, Any] = {
    "statistic_version": 1,
    "n_images": 162,
    "n_nonfinite": 0,
    "n_constant": 0,
    "n_features": 1024,
    "alpha": 0.05,
    "kurtosis": interval(82.31, 70.94, 93.68),
    "persistence_ratio": interval(5.218, 4.307, 6.129),
    "top3_share": interval(0.9014, 0.8733, 0.9295),
    "outlier_frequency": interval(1.0, 0.91, 1.0),
    "negative_energy": interval(0.5561, 0.5402, 0.572),
    "negative_z_energy": interval(0.5229, 0.51, 0.536),
    "centred_kurtosis": 15.77,
    "rms_kurtosis": 71.9,
    "max_median_ratio": 46.2,
    "zero_share": 0.0,
    "negative_share": 0.4981,
    "spread": 0.7431,
    "distinct_share": 1.0,
    "kurtosis_quantiles": (38.4, 66.1, 83.2, 99.5, 121.6),
    "histogram_edges": tuple(21.0 + 5.25 * i for i in range(25)),
    "histogram_counts": (1, 2, 3, 2, 4, 5, 7, 9, 10, 13, 14, 16, 15, 13, 12, 10, 8, 6, 5, 3, 2, 1, 0, 1),
    "features": (
        feature(526, 0.8512, 1.0, 16.71),
        feature(834, 0.0311, 0.5741, -6.43),
        feature(9, 0.0191, 0.2469, 5.12),
        feature(731, 0.0021, 0.0062, 1.93),
    ),
}

WARN_STATISTICS: dict[str, Any] = PASS_STATISTICS | {
    "n_images": 160,
    "n_features": 1280,
    "kurtosis": interval(19.95, 17.41, 22.49),
    "persistence_ratio": interval(1.104, 1.049, 1.159),
    "top3_share": interval(0.1398, 0.1012, 0.1784),
    "outlier_frequency": interval(0.1267, 0.01, 0.25),
    "negative_energy": interval(0.0, 0.0, 0.0),
    "negative_z_energy": interval(0.1609, 0.15, 0.172),
    "centred_kurtosis": 18.07,
    "rms_kurtosis": 2.52,
    "max_median_ratio": None,
    "zero_share": 0.6123,
    "negative_share": 0.0,
    "spread": 0.8127,
    "distinct_share": 1.0,
    "kurtosis_quantiles": (9.87, 13.9, 17.8, 23.6, 38.9),
    "histogram_edges": tuple(7.0 + 2.5 * i for i in range(25)),
    "histogram_counts": (14, 23, 31, 26, 19, 14, 9, 7, 5, 3, 3, 1, 2, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1),
    "features": (
        feature(1101, 0.0664, 0.1125, 2.31),
        feature(402, 0.0411, 0.0813, 1.77),
        feature(77, 0.0323, 0.0625, 1.52),
        feature(5, 0.0311, 0.05, 1.2),
    ),
}


EXECUTION: dict[str, Any] = {
    "requested": "auto",
    "providers": ("CPUExecutionProvider",),
    "nodes": {"CPUExecutionProvider": 312},
    "runtime": "1.32.0",
    "device": "cpu",
    "threads": 8,
    "precision": "fp32",
    "fallback_reason": "",
    "heavy_on_cpu": {},
    "optimization": "all",
}


def report(
    statistics: dict[str, Any],
    *,
    file: str = "models/rn50-openai.onnx",
    source: str = "open_clip RN50 (openai)",
    synthetic: str = "",
    notes: tuple[str, ...] = (),
    skipped: tuple[tuple[str, str], ...] = (),
    preprocessing: Preprocessing = CLIP,
    preprocessing_source: Any = "contract",
    execution: dict[str, Any] | None = None,
    findings: tuple[Finding, ...] = (),
    reference: tuple[Placed, ...] | None = None,
    with_profile: Profile | None = None,
    time: Time | None = None,
    stopped: Any = "decided",
) -> Report:
    judged_by = with_profile or profile()
    s = Statistics(**statistics)
    evidence = Evidence(
        statistics=s,
        model=ModelFacts(
            file=file,
            digest="sha256:" + "0123456789abcdef" * 4,
            external_digests={},
            size_bytes=153_400_000,
            opset={"": 18},
            producer="pytorch 2.13.0",
            tensor="representation",
            rule="encoder_output",
            pool="none",
            ends_in=End("linear"),
            why="the contract in the file names it",
            tensor_assumed=False,
            random_weights=False,
            source=source,
            synthetic=synthetic,
            batch_difference=2e-7,
            output_difference=0.0,
        ),
        preprocessing=PreprocessingFacts(
            preprocessing=preprocessing,
            source=preprocessing_source,
            fields=(("size", "224×224", "contract"), ("interpolation", "bicubic", "contract")),
        ),
        images=ImageFacts(
            source="photos/",
            bundled=False,
            n_available=300,
            n_read=s.n_images,
            n_skipped=len(skipped),
            skipped=skipped,
            notes={"alpha composited": 3} if skipped else {},
            digest="sha256:" + "fedcba9876543210" * 4,
            seed=0,
            sanity=sanity(s.n_images, findings),
        ),
        execution=Execution(**(EXECUTION | (execution or {}))),
        stopped=stopped,
    )
    return Report(
        tool_version="0.1.0",
        verdict=judge(evidence, judged_by),
        notes=notes,
        evidence=evidence,
        profile=judged_by,
        reference=reference_rows() if reference is None else reference,
        claim=CLAIM,
        time=time,
    )


def sanity(n_varied: int, findings: tuple[Finding, ...] = ()) -> ImageSetFacts:
    return ImageSetFacts(
        n_images=n_varied,
        n_compared=n_varied,
        n_duplicates=0,
        n_near_duplicates=0,
        n_varied=n_varied,
        unlike_share=0.0,
        neighbour_correlation=0.95,
        gradient_kurtosis=9.0,
        channel_correlation=0.9,
        kurtosis_spread=0.5,
        findings=findings,
    )


def passing() -> Report:
    return report(PASS_STATISTICS)


def warning() -> Report:
    return report(
        WARN_STATISTICS,
        file="models/efficientnet-lite0.onnx",
        source="",
        preprocessing=IMAGENET,
        preprocessing_source="assumed",
        notes=("The bundled photos were used; a release gate wants your own images (`--images DIR`).",),
        skipped=(("DSC_0001.jpg", "truncated"), ("notes.png", "not an image")),
        execution={"requested": "auto", "fallback_reason": "libcudart.so.13 was not found"},
        time=Time(started="2026-01-02T03:04:05Z", wall_s=12.34, images_per_s=13.0),
    )


def undecided() -> Report:
    close = {
        "n_images": 300,
        "kurtosis": interval(9.71, 7.996, 11.42),
        "persistence_ratio": interval(2.11, 1.92, 2.3),
        "top3_share": interval(0.6588, 0.4977, 0.82),
    }
    return report(
        PASS_STATISTICS | close,
        file="models/vit-b-32-laion2b.onnx",
        source="open_clip ViT-B-32 (laion2b_s34b_b79k)",
        execution={
            "requested": "cuda",
            "providers": ("CUDAExecutionProvider", "CPUExecutionProvider"),
            "device": "a GPU",
        }
        | {"nodes": {"CUDAExecutionProvider": 308, "CPUExecutionProvider": 4}},
        stopped="all images",
    )


MADE = {"pass": passing, "warn": warning, "undecided": undecided}


def text_of(shown: Report, width: int = 100, **options: bool) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(render(shown, **options))
    return file.getvalue()


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_golden(name: str, ascii_only: bool, width: int) -> None:
    path = GOLDEN / f"terminal-{name}{'-ascii' if ascii_only else ''}-{width}.txt"
    text = text_of(MADE[name](), width, ascii_only=ascii_only)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    assert text.encode() == path.read_bytes()


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_no_line_is_wider_than_the_console_or_ends_in_blanks(name: str, ascii_only: bool) -> None:
    for width in WIDTHS:
        for line in text_of(MADE[name](), width, ascii_only=ascii_only).splitlines():
            assert cell_len(line) <= width
            assert line == line.rstrip()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        (
            "pass",
            "82.3 70.9 93.7 8 5.22 4.31 6.13 1.75 0.901 0.873 0.929 0.5 "
            "1.00 0.910 1.00 0.75 0.556 0.540 0.572 0.35 0.523 0.510 0.536 0.4",
        ),
        (
            "warn",
            "19.9 17.4 22.5 8 1.10 1.05 1.16 1.75 0.140 0.101 0.178 0.5 "
            "0.127 0.0100 0.250 0.75 0 0 0 0.35 0.161 0.150 0.172 0.4",
        ),
        (
            "undecided",
            "9.71 7.996 11.4 8 2.11 1.92 2.30 1.75 0.659 0.498 0.820 0.5 "
            "1.00 0.910 1.00 0.75 0.556 0.540 0.572 0.35 0.523 0.510 0.536 0.4",
        ),
    ],
    ids=lambda value: value.partition(" ")[0],
)
def test_every_number_of_the_deciding_statistics_is_shown_whole_at_every_width(name: str, numbers: str) -> None:
    for width in WIDTHS:
        lines = text_of(MADE[name](), width).splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("  statistic "))
        right = lines[first].index("clears it?")  # what stands beside the table begins further right
        last = next(i for i, line in enumerate(lines) if line.startswith("  centred kurtosis "))
        table = " ".join(line[:right] for line in lines[first:last])
        assert re.findall(r"(?<!-)\b\d[\d.]*", table) == numbers.split()


def test_the_verdict_comes_first_in_a_word_and_a_sign() -> None:
    assert text_of(passing()).split()[:3] == ["━━", "✓", "PASS"]
    assert text_of(warning()).split()[:3] == ["━━", "▲", "WARN"]
    assert text_of(passing(), ascii_only=True).split()[:3] == ["==", "+", "PASS"]
    assert text_of(warning(), ascii_only=True).split()[:3] == ["==", "!", "WARN"]


def test_the_wording_is_one_sided() -> None:
    for name, made in MADE.items():
        text = words_of(text_of(made(), verbose=True))
        assert not re.search(r"(is|are|not|un|isn't) ?robust\b|fragile", text, re.IGNORECASE)
        present = "robustness to natural distribution shifts is present on the images that were given"
        absent = "robustness to natural distribution shifts is absent or was not established"
        assert (present in text) == (name == "pass")
        assert (absent in text) == (name != "pass")


@pytest.mark.parametrize("width", [60, 100, 140])
def test_every_reason_is_shown_with_what_was_seen_and_the_next_step(width: int) -> None:
    reasons = tuple(Reason(id=i, seen=f"seen of {i}", next_step=RULES[i].next_step) for i in RULES)
    unknown = Reason(id="from_a_newer_version", seen="seen of the unknown one", next_step="Look it up.")
    shown = warning()
    verdict = shown.verdict.model_copy(update={"reasons": (*reasons, unknown)})
    text = words_of(text_of(shown.model_copy(update={"verdict": verdict}), width))
    first: dict[str, str] = {}
    for reason in verdict.reasons:
        rule = RULES.get(reason.id)
        owner = first.setdefault(reason.next_step, reason.id)
        step = reason.next_step if owner == reason.id else f"The same as for {owner}."
        title = f"{rule.title} " if rule else ""
        assert f"✗ {title}{reason.id} {reason.seen} → {step}" in text
    assert text.count("The same as for") == len(verdict.reasons) - len({r.next_step for r in verdict.reasons}) > 0


def test_a_pass_has_no_reasons_section() -> None:
    assert "Reasons" not in text_of(passing())
    assert "Reasons" in text_of(warning())


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
        text = text_of(shown, ascii_only=True, verbose=verbose)
        assert text.isascii()
        assert r"mod\xe8les/\u043c\u043e\u0434\u0435\u043b\u044c.onnx" in text
        assert r"\u0444\u043e\u0442\u043e.jpg (broken - really)" in text
        assert r"Gr\xf6\xdfe -> 3 x 4" in text
        assert r"synthetic: ein Ausrei\xdfer" in words_of(text)
        assert "Crabbe et al." in text
    unicode = text_of(shown)
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
    text = text_of(shown, 120)
    assert r"[red]a[/red][/]\x1b[31m\u202eb\udcff.onnx · [link=x]:smile:[/link]" in text
    assert r"[/] note\r\nnext" in text
    assert r"[bold]c\x07.jpg ([/bold])" in text
    assert not set(text) & set("\x1b\x07\r\u202e")
    assert text.encode("utf-8")  # a lone surrogate would raise here
    assert one_line(shown) == r"PASS [red]a[/red][/]\x1b[31m\u202eb\udcff.onnx"


def test_long_paths_fold_and_are_never_cut() -> None:
    path = "/models/" + "0123456789" * 20 + ".onnx"
    for width in (60, 80, 120):
        assert path in re.sub(r"\s", "", text_of(report(PASS_STATISTICS, file=path), width))


@pytest.mark.parametrize("name", MADE)
def test_only_colours_that_read_on_dark_and_light_and_none_carries_meaning(name: str) -> None:
    console = Console(width=100, force_terminal=True, color_system="standard", file=io.StringIO())
    segments = list(console.render(render(MADE[name]())))
    styles = [s.style for s in segments if s.style is not None]
    colours = {style.color.name for style in styles if style.color is not None}
    assert colours <= {"green", "yellow", "cyan"}
    assert ("green" if name == "pass" else "yellow") in colours
    assert {style.bgcolor for style in styles} == {None}
    assert "".join(s.text for s in segments) == text_of(MADE[name](), 100)


def test_headings_are_bold_and_their_remarks_are_not() -> None:
    segments = list(Console(width=100).render(render(passing())))
    style = {s.text.strip(): s.style for s in segments if s.style is not None}
    heading, remark = style["Outlier features"], style["2 persistent, of 1024 features"]
    assert heading is not None
    assert remark is not None
    assert heading.bold
    assert remark.dim
    assert not remark.bold


def test_render_is_pure(capsys: pytest.CaptureFixture[str]) -> None:
    shown = passing()
    rendered = render(shown)
    assert capsys.readouterr() == ("", "")
    files = [io.StringIO(), io.StringIO()]
    for file in files:
        Console(file=file, width=90).print(rendered)
    assert files[0].getvalue() == files[1].getvalue() == text_of(shown, 90)


def test_what_could_not_be_measured_is_said() -> None:
    nothing = interval(None, None, None)
    names = tuple(MINIMUM)
    others = ("centred_kurtosis", "rms_kurtosis", "max_median_ratio", "zero_share", "negative_share", "spread")
    empty = {"histogram_edges": (), "histogram_counts": (), "features": (), "kurtosis_quantiles": None}
    shown = report(PASS_STATISTICS | dict.fromkeys(names, nothing) | dict.fromkeys(others) | empty)
    text = text_of(shown)
    assert len(re.findall(r"–  not measured +> [\d.]+ +\? unknown", text)) == 6
    labels = "centred kurtosis|RMS kurtosis|max-median ratio|sparsity \\(zeros\\)|negative values|spread over images"
    assert len(re.findall(rf"(?:{labels}) +not measured", text)) == 6
    assert re.search(r"Outlier features  none persistent, of 1024 features\n  not measured\n", text)
    assert "not placed" in text
    for width in WIDTHS:
        narrow = text_of(shown, width)
        assert max(cell_len(line) for line in narrow.splitlines()) <= width
        assert narrow.count("? unknown") == 6


def test_an_unbounded_estimate_is_shown_without_clearing_anything() -> None:
    text = text_of(report(PASS_STATISTICS | {"kurtosis": interval(82.31, None, None)}))
    assert re.search(r"activation kurtosis +82\.3 +not measured +> 8 +\? unknown", text)


def test_at_most_eight_outlier_features_and_the_rest_counted() -> None:
    features = tuple(feature(100 + i, 0.05, 0.9, 7.0) for i in range(12))
    text = text_of(report(PASS_STATISTICS | {"features": features}))
    assert "12 persistent, of 1024 features" in text
    assert re.findall(r" (1\d\d) +5\.0 %", text) == [str(100 + i) for i in range(8)]
    assert "  and 4 more\n" in text


def test_a_mean_that_rounds_to_nothing_has_no_minus() -> None:
    text = text_of(report(PASS_STATISTICS | {"features": (feature(7, 0.9, 0.8, -0.04),)}))
    assert re.search(r" 7 +90\.0 % +80\.0 % +\+0\.0  ✓ yes\n", text)


def test_verbose_shows_everything() -> None:
    shown = report(PASS_STATISTICS, with_profile=load(), reference=placed_references())
    short, full = words_of(text_of(shown, 140)), words_of(text_of(shown, 140, verbose=True))
    for digest in (shown.verdict.profile_digest, shown.evidence.images.digest):
        assert digest in full
        assert digest not in short
        assert digest[: len("sha256:") + 12] in short
    assert shown.evidence.model.digest in short
    for limit in shown.profile.limits:
        assert limit in full
    assert f"{len(shown.profile.limits) - 2} more with --verbose" in short
    unwrapped = full.replace(" ", "")
    for row in references():
        assert row.source.replace(" ", "") in unwrapped
    assert "size: 224×224 (contract)" in full


def test_the_limits_shown_are_the_claim_and_those_of_this_verdict() -> None:
    for made, own, other in ((passing, "PASS means", "WARN means"), (warning, "WARN means", "PASS means")):
        text = words_of(text_of(made()))
        assert CLAIM in text
        assert f"• {own}" in text
        assert f"• {other}" not in text
        assert "• It rests on few checkpoints." in text


def placed_references() -> tuple[Placed, ...]:
    return tuple(
        Placed(
            checkpoint=row.checkpoint,
            group=row.group,
            images=row.set,
            kurtosis=row.kurtosis,
            persistence_ratio=row.persistence_ratio,
            top3_share=row.top3_share,
            shows_outlier_features=row.expected == "present",
            source=row.source,
        )
        for row in references()
    )


def test_the_model_stands_in_its_place_in_the_real_table() -> None:
    table = placed_references()
    text = text_of(report(PASS_STATISTICS, reference=table), 120)
    above = sum(row.persistence_ratio >= 5.218 for row in table)
    assert re.search(rf"▶ +{above + 1} +5\.22 +82\.3 +this model", text)
    last = min(table, key=lambda row: row.persistence_ratio)
    assert re.search(rf"^ +{len(table) + 1} .*{re.escape(parts_text.short_checkpoint(last.checkpoint))}", text, re.M)
    assert "K (kurtosis) moves with the image set: OpenAI CLIP RN50 reads 38.0 on one, 84.7 on another." in text


def test_a_mark_stands_where_the_reference_list_leaves_sets_out() -> None:
    text = text_of(report(PASS_STATISTICS, reference=placed_references()), 80)
    listed = text.partition("Place among")[2].partition("K (kurtosis)")[0]
    ranks = [int(found) for found in re.findall(r"^ +▶? +(\d+) +[\d.]+ +[\d.]+ ", listed, re.M)]
    gaps = [int(found) for found in re.findall(r"^ +… +(\d+) sets? between$", listed, re.M)]
    jumps = [b - a - 1 for a, b in itertools.pairwise(ranks) if b - a > 1]
    assert ranks[-1] == len(placed_references()) + 1
    assert gaps == jumps != []


def test_an_infinite_ratio_is_not_called_unmeasured() -> None:
    whole = report(PASS_STATISTICS)
    nothing = {"max_median_ratio": None}
    for update, said in ((nothing, "infinite"), (nothing | {"rms_kurtosis": None}, "not measured")):
        statistics = whole.evidence.statistics.model_copy(update=update)
        evidence = whole.evidence.model_copy(update={"statistics": statistics})
        text = text_of(whole.model_copy(update={"evidence": evidence}), 80)
        assert re.search(rf"max-median ratio +{said}  ", text)


def test_what_was_measured_on_what() -> None:
    text = words_of(text_of(warning(), 140))
    assert "2 skipped: DSC_0001.jpg (truncated), notes.png (not an image)" in text
    assert "converted: alpha composited 3" in text
    assert "224×224 px: shortest edge 256 px, bilinear, centre crop, ImageNet mean and SD · assumed" in text
    assert "auto → CPU (312 nodes) · cpu, 8 threads, fp32 · ONNX Runtime 1.32.0" in text
    assert "fallback: libcudart.so.13 was not found" in text
    assert "2026-01-02T03:04:05Z, 12.3 s, 13.0 images/s" in text
    assert "cuda → CUDA (CUDA 308 nodes, CPU 4 nodes)" in words_of(text_of(undecided(), 140))


def test_workers_are_said_where_there_were_some() -> None:
    spread = report(PASS_STATISTICS, execution={"engine": "ray", "workers": 2})
    assert "8 threads, fp32, ray with 2 workers · ONNX" in words_of(text_of(spread, 140))
    assert "worker" not in words_of(text_of(passing(), 140))


def test_a_note_is_not_said_twice() -> None:
    noted = ("Synthetic model: feature 3 raised by 15 SD.", "no libcudart.so.13", "1 skipped (a.jpg: truncated)")
    shown = report(
        PASS_STATISTICS,
        synthetic="feature 3 raised by 15 SD",
        notes=noted,
        skipped=(("a.jpg", "truncated"),),
        execution={"fallback_reason": "no libcudart.so.13"},
    )
    text = text_of(shown)
    assert "models/rn50-openai.onnx · open_clip RN50 (openai) · synthetic\n" in text
    for once in ("feature 3 raised by 15 SD", "no libcudart.so.13", "a.jpg"):
        assert text.count(once) == 1


def test_external_data_and_other_opsets_are_named() -> None:
    shown = passing()
    facts = {"external_digests": {"weights.bin": "sha256:" + "ab" * 32}, "opset": {"": 18, "com.microsoft": 1}}
    model = shown.evidence.model.model_copy(update=facts)
    evidence = shown.evidence.model_copy(update={"model": model})
    text = words_of(text_of(shown.model_copy(update={"evidence": evidence}), 120))
    assert "opset 18 · opset 1 (com.microsoft) · pytorch 2.13.0 weights.bin sha256:" + "ab" * 32 in text


def test_tensors_need_no_preprocessing() -> None:
    text = text_of(report(PASS_STATISTICS, preprocessing_source="tensors"))
    assert "preprocessing  none: the images were given as preprocessed tensors\n" in text


def test_one_line() -> None:
    assert one_line(passing()) == "PASS models/rn50-openai.onnx"
    assert one_line(warning()) == (
        "WARN models/efficientnet-lite0.onnx: assumed_preprocessing, rectified, no_persistent_outlier_features"
    )
    assert one_line(undecided()) == "WARN models/vit-b-32-laion2b.onnx: undecided"


def test_the_report_stays_short() -> None:
    assert len(text_of(passing(), 100).splitlines()) <= 58
    assert len(text_of(warning(), 100).splitlines()) <= 82
