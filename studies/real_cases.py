"""Runs compare and check on models and representations of which the right answer is known: results/real-cases.md.

python studies/real_cases.py [EMBEDDINGS_DIR] [--fast]

EMBEDDINGS_DIR holds one <set>.npz a set (entry x: (image, feature)); without it only EfficientNet-Lite0 is run.
--fast: one set, 80 images, and no file is written. Exit code 1 if any answer is not the expected one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.evidence import OUTLIER_SD
from robustcheck_onnx.checker.questions.compare.run import compare
from robustcheck_onnx.exporters.run import run
from robustcheck_onnx.thresholds import profile
from support import lookup

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "studies" / "results" / "real-cases.md"
PHOTOS = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
SETS = ("ik_clip_l14_openai", "imas_imagenet_b32", "mahlet_openclip_l14_laion2b", "clipv_caltech_rn50")
N_IMAGES = 150
N_FAST = 80
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One candidate beside its reference, and what is expected.

    reasons: those that must be among the seen ones. checks: the verdict of check; empty = either. why: in words.
    """

    name: str
    candidate: Path
    reference: Path
    images: Path | None
    compares: str
    reasons: frozenset[str]
    checks: str
    why: str


@dataclass(frozen=True)
class Seen:
    """What the two verbs said."""

    compares: str
    reasons: tuple[str, ...]
    checks: str
    check_reasons: tuple[str, ...]
    fates: str


def look(case: Case, n_images: int) -> Seen:
    """Run compare and check, on the same images."""
    images = None if case.images is None else str(case.images)
    report = compare(case.candidate, case.reference, images=images, device="cpu", max_images=n_images)
    alone = check(case.candidate, images=images, device="cpu", max_images=n_images)
    fates = sorted({feature.fate for feature in report.features})
    return Seen(
        report.verdict.verdict,
        tuple(reason.id for reason in report.verdict.reasons),
        alone.verdict.verdict,
        tuple(reason.id for reason in alone.verdict.reasons),
        ", ".join(fates),
    )


def as_expected(case: Case, seen: Seen) -> bool:
    """Both verdicts, and the reasons that must be there."""
    return (seen.compares, seen.checks) == (case.compares, case.checks) and case.reasons <= set(seen.reasons)


# -------------------------------------------------------------------------------------------- real weights


def lite0(folder: Path) -> Iterator[Case]:
    """EfficientNet-Lite0 and the planted demo, each in four precisions, and with its strongest features clipped."""
    for factory in ("efficientnet_lite0", "planted_outlier"):
        full = folder / f"{factory}.onnx"
        target = f"robustcheck_onnx.exporters.demo:{factory}"
        run("torch", target, full, photos=PHOTOS)
        made = {"fp16": folder / f"{factory}-fp16.onnx"}
        run("torch", target, made["fp16"], precision="fp16", photos=PHOTOS)
        for precision in ("int8-dynamic", "int8-qdq"):
            made[precision] = folder / f"{factory}-{precision}.onnx"
            calibration = PHOTOS if precision == "int8-qdq" else []
            run(
                "onnx",
                str(full),
                made[precision],
                precision=precision,
                photos=PHOTOS,
                calibration=calibration,
            )
        made["strongest features clipped"] = clipped(full, folder / f"{factory}-clipped.onnx")
        planted = factory == "planted_outlier"
        for name, path in ({"fp32": full} | made).items():
            case = f"{'planted demo' if planted else 'EfficientNet-Lite0'}, {name}"
            yield Case(case, path, full, None, *_expected(name, planted))


def _expected(name: str, planted: bool) -> tuple[str, frozenset[str], str, str]:
    if not planted:
        reasons = {"reference_without_indication", "too_weak", "not_persistent", "one_sided"}
        if name == "int8-dynamic":
            reasons.add("batch_dependent")
        return "WARN", frozenset(reasons), "WARN", "supervised and rectified: there is nothing to keep"
    return {
        "fp32": ("PASS", frozenset[str](), "PASS", "the same file"),
        "fp16": ("PASS", frozenset[str](), "PASS", "rounding to 11 bits moves no outlier feature"),
        "int8-dynamic": (
            "WARN",
            frozenset({"batch_dependent"}),
            "WARN",
            "activations are scaled over the batch: the result depends on it",
        ),
        "int8-qdq": (
            "WARN",
            frozenset({"end_not_calibrated"}),
            "WARN",
            "the feature is kept; the quantised graph shows that rectified features are pooled and mapped",
        ),
        "strongest features clipped": (
            "WARN",
            frozenset({"statistic_shrank", "outlier_feature_lost"}),
            "WARN",
            "the planted feature is gone",
        ),
    }[name]


def clipped(source: Path, target: Path, limit_sd: float = 2.0) -> Path:
    """A copy whose representation ends within mean ± limit_sd standard deviations of each image's features."""
    model = onnx.load(source)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == "representation":
                    names[index] = "unclipped"
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    assert opset >= 18, "axes are an input of ReduceMean from opset 18 on"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], np.int64), "clip.axis"),
            numpy_helper.from_array(np.array(limit_sd, np.float32), "clip.limit"),
        ]
    )
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["unclipped", "clip.axis"], ["clip.mean"]),
            helper.make_node("Sub", ["unclipped", "clip.mean"], ["clip.centred"]),
            helper.make_node("Mul", ["clip.centred", "clip.centred"], ["clip.squares"]),
            helper.make_node("ReduceMean", ["clip.squares", "clip.axis"], ["clip.variance"]),
            helper.make_node("Sqrt", ["clip.variance"], ["clip.sd"]),
            helper.make_node("Mul", ["clip.sd", "clip.limit"], ["clip.reach"]),
            helper.make_node("Neg", ["clip.reach"], ["clip.minus"]),
            helper.make_node("Min", ["clip.centred", "clip.reach"], ["clip.below"]),
            helper.make_node("Max", ["clip.below", "clip.minus"], ["clip.inside"]),
            helper.make_node("Add", ["clip.inside", "clip.mean"], ["representation"]),
        ]
    )
    onnx.save(model, target)
    return target


# ------------------------------------------------------------------------------------ real representations


def rounded(x: Array, bits: int) -> Array:
    """Rounded to so many levels of one scale for the whole matrix, as a per-tensor quantiser does."""
    step = np.abs(x).max() / (2 ** (bits - 1) - 1)
    return np.asarray(np.round(x / step) * step)


def bfloat16(x: Array) -> Array:
    """Rounded to the nearest bfloat16 (8 bits of mantissa; ties to even)."""
    words = x.astype(np.float32).view(np.uint32)
    up = ((words >> 16) & 1) + np.uint32(0x7FFF)
    return np.asarray(((words + up) & np.uint32(0xFFFF0000)).view(np.float32), dtype=np.float64)


def outliers(x: Array) -> list[int]:
    """Persistent outlier features, by the check's own definition, or else the strongest feature."""
    z = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    share = np.maximum((z > OUTLIER_SD).mean(axis=0), (z < -OUTLIER_SD).mean(axis=0))
    found = np.flatnonzero(share >= 0.5)
    return [int(i) for i in found] or [int(np.abs(z.mean(axis=0)).argmax())]


def changes(x: Array) -> dict[str, tuple[Array, str, frozenset[str], str, str]]:
    """Name → (representations, compare's verdict, reasons that must be there, check's verdict, why)."""
    d, top = x.shape[1], outliers(x)
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    order = rng.permutation(d)
    middle = x.mean(axis=1, keepdims=True)
    removed, smaller, half, larger = x.copy(), x.copy(), x.copy(), x.copy()
    removed[:, top] = middle + (x[:, top] - x[:, top].mean(axis=0))
    smaller[:, top] = middle + 0.97 * (x[:, top] - middle)
    half[:, top] = middle + 0.5 * (x[:, top] - middle)
    larger[:, top] = middle + 1.5 * (x[:, top] - middle)
    none: frozenset[str] = frozenset()
    gone = frozenset({"statistic_shrank", "outlier_feature_lost"})
    return {
        "the same": (x, "PASS", none, "PASS", "nothing was changed"),
        "outlier features removed": (removed, "WARN", gone, "", "what made it pass is gone"),
        "outlier features × 0.97": (smaller, "PASS", none, "PASS", "inside the tolerance of 20 %"),
        "outlier features × 0.5": (
            half,
            "WARN",
            frozenset({"statistic_shrank"}),
            "",
            "strength falls by more than 20 %",
        ),
        "outlier features × 1.5": (larger, "PASS", none, "PASS", "stronger is not a loss"),
        "rotated": (
            x @ turn,
            "WARN",
            frozenset({"representation_rotated", "statistic_shrank"}),
            "WARN",
            "no basis is left in which a feature stands out",
        ),
        "permuted": (
            x[:, order],
            "WARN",
            frozenset({"representation_permuted"}),
            "PASS",
            "the same numbers under other indices: whoever reads them by index is misled",
        ),
        "8 bits": (rounded(x, 8), "PASS", none, "PASS", "the usual int8 rounding of an embedding"),
        "fp16": (x.astype(np.float16).astype(np.float64), "PASS", none, "PASS", "rounding"),
        "bf16": (bfloat16(x), "PASS", none, "PASS", "rounding"),
        "all × 100": (100 * x, "PASS", none, "PASS", "no statistic depends on the scale"),
    }


def embeddings(folder: Path, sets: tuple[str, ...], work: Path) -> Iterator[Case]:
    """Look-up models of real CLIP representations against changed ones. An empty check verdict is open."""
    photos = work / "photos"
    lookup.write_lookup_images(photos, N_IMAGES)
    for name in sets:
        x = np.load(folder / f"{name}.npz", allow_pickle=False)["x"][:N_IMAGES].astype(np.float64)
        reference = lookup.write_lookup_model(work / f"{name}.onnx", x)
        for what, (rows, verdict, reasons, alone, why) in changes(x).items():
            candidate = lookup.write_lookup_model(work / "candidate.onnx", rows)
            yield Case(f"{name}, {what}", candidate, reference, photos, verdict, reasons, alone, why)


# ---------------------------------------------------------------------------------------------------- page

START, END = "<!-- table -->\n", "<!-- end of table -->\n"
COLUMNS = ("case", "compare: expected", "seen", "reasons of compare", "features", "check: expected", "seen", "why")


def row(case: Case, seen: Seen) -> str:
    """A line of the table."""
    cells = [
        case.name,
        case.compares,
        seen.compares,
        ", ".join(seen.reasons),
        seen.fates,
        case.checks or "either",
        seen.checks + (f" ({', '.join(seen.check_reasons)})" if seen.check_reasons else ""),
        case.why,
    ]
    return "| " + " | ".join(cells) + " |\n"


def agrees(case: Case, seen: Seen) -> bool:
    """`as_expected`, where an open check verdict is anything."""
    open_check = case if case.checks else Case(**{**case.__dict__, "checks": seen.checks})
    return as_expected(open_check, seen)


def main(folder: Path | None, *, fast: bool, say: Callable[[str], object] = print) -> int:
    """Run all cases, print the table, write it into the page; 1 if any is not as expected."""
    lines, wrong = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        cases: list[Iterator[Case]] = [] if fast else [lite0(work)]
        if folder is not None:
            cases.append(embeddings(folder, SETS[:1] if fast else SETS, work))
        for case in (case for group in cases for case in group):
            seen = look(case, N_FAST if fast else N_IMAGES)
            lines.append(row(case, seen))
            say(lines[-1].rstrip())
            if not agrees(case, seen):
                wrong.append(case.name)
    if not fast and folder is not None:
        head = f"Profile {profile.load().id}.\n\n| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"
        page = PAGE.read_text(encoding="utf-8")
        before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
        PAGE.write_text(before + head + "".join(lines) + after, encoding="utf-8")
    say(f"not as expected: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("embeddings", nargs="?", type=Path)
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    sys.exit(main(options.embeddings, fast=options.fast))
