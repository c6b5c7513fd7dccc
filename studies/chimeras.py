"""Which candidates pass a comparison with a reference, with and without the limits on the whole representation.

    python studies/chimeras.py EMBEDDINGS_DIR [MODEL.onnx ...]    # some twenty minutes on one core

Prints the tables of studies/results/chimeras.md. EMBEDDINGS_DIR holds one <set>.npz per set (entry x: (image,
feature)). Rows that occur twice count once. The references are the sets that pass against themselves. A chimera has the
outlier features, and is not a copy. A collapse is a copy in which images of a kind lie closer together. Each MODEL is
quantised, rounded and given wrong preprocessing, and compared with itself on the bundled photos.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from robustcheck_onnx.checker.questions.compare import CompareReport, compare
from robustcheck_onnx.checker.questions.compare.similarity import MIN_CKA, MIN_NEAREST_DISTANCE, MIN_SAME_NEAREST
from support.comparisons import alike, judged

Array = npt.NDArray[np.float64]
SEED = 0
GROUPS = {"10": 10, "n/10": 0.1, "n/5": 0.2}
"""number of groups that stand for classes, or their share of the images"""
FILES = (
    "fp16", "int8, static, QDQ", "int8, dynamic", "weights of 8 bits", "weights of 6 bits", "weights of 4 bits",
    "*resize:* nearest", "*wrong mean:* 0", "*wrong channels:* BGR",
)  # fmt: skip
"""changes of `index_pairs.py`"""


def rounded(x: Array, bits: int) -> Array:
    """Round to the levels of one scale for the whole matrix, as a per-tensor quantiser does."""
    step = np.abs(x).max() / (2 ** (bits - 1) - 1)
    return np.asarray(np.round(x / step) * step)


def collapsed(x: Array, n_groups: int, left: float) -> Array:
    """Move each vector towards the mean of its group (k-means of the directions); `left` of the way remains."""
    _, group = kmeans2(x / np.linalg.norm(x, axis=1, keepdims=True), n_groups, seed=SEED, minit="++")
    means = np.stack([x[group == each].mean(axis=0) if (group == each).any() else x[0] for each in range(n_groups)])
    return np.asarray(means[group] + left * (x - means[group]))


def candidates(x: Array, outliers: tuple[int, ...]) -> dict[str, Array]:
    """Return the vectors of each candidate, by name; the order is that of the table."""
    rng = np.random.default_rng(SEED)
    n, d = x.shape
    other = x[np.roll(np.arange(n), 1 + int(rng.integers(n - 1)))]
    noise, is_outlier = x.std(axis=0) * rng.normal(size=x.shape), np.isin(np.arange(d), outliers)
    zeroed = np.isin(np.arange(d), rng.permutation(np.flatnonzero(~is_outlier))[: (d - len(outliers)) // 2])
    made = {
        "the same": x,
        "L2-normalised": x / np.linalg.norm(x, axis=1, keepdims=True),
        "8 bits": rounded(x, 8),
        "6 bits": rounded(x, 6),
        "noise of a quarter SD": x + noise / 4,
        "noise of half an SD": x + noise / 2,
        "noise of a whole SD": x + noise,
        "half of the other features zeroed": np.where(zeroed, 0, x),
        "*chimera:* mean of the right and another image's vector": (x + other) / 2,
        "*chimera:* 0.6 of the right, 0.4 of another": 0.6 * x + 0.4 * other,
        "*chimera:* 0.7 of the right, 0.3 of another": 0.7 * x + 0.3 * other,
        "*chimera:* 0.8 of the right, 0.2 of another": 0.8 * x + 0.2 * other,
        "*chimera:* exact outlier features, Gaussian rest": np.where(is_outlier, x, x.mean(axis=0) + noise),
        "*chimera:* exact outlier features, another image's rest": np.where(is_outlier, x, other),
    }
    for name, number in GROUPS.items():
        n_groups = int(number if number >= 1 else number * n)
        for removed in (99, 90, 75, 50):
            what = f"*collapse:* {removed} % of the variation within {name} groups removed"
            made[what] = collapsed(x, n_groups, (1 - removed / 100) ** 0.5)
    for removed in (90, 75, 50):
        what = f"{removed} % of all variation removed"
        made[what] = x.mean(axis=0) + (1 - removed / 100) ** 0.5 * (x - x.mean(axis=0))
    return made | {
        "another image's vector": other,
        "centred": x - x.mean(axis=0),
        "rotated": x @ np.linalg.qr(rng.normal(size=(d, d)))[0],
        "permuted": x[:, rng.permutation(d)],
        "outlier features removed": np.where(is_outlier, x - x.mean(axis=0), x),
        "outlier features × 0.7": np.where(is_outlier, 0.7 * x, x),
        "outlier features × 0.95": np.where(is_outlier, 0.95 * x, x),
        "outlier features × 1.05": np.where(is_outlier, 1.05 * x, x),
        "outlier features × 1.1": np.where(is_outlier, 1.1 * x, x),
        "outlier features × 1.2": np.where(is_outlier, 1.2 * x, x),
    }


def numbers_of(report: CompareReport) -> tuple[float, ...]:
    """Return whether it passed without the limits, whether it passes, and the three numbers."""
    before = {reason.id for reason in report.verdict.reasons} <= {"representation_changed"}
    found = alike(report)
    values = (found.cka_debiased, found.same_nearest, found.nearest_distance)
    return float(before), float(report.passed), *(np.nan if value is None else value for value in values)


def of_vectors(folder: Path, say: Callable[[str], object]) -> None:
    """Compare every candidate with every reference, and print a row per candidate."""
    found: dict[str, list[tuple[float, ...]]] = {}
    n_sets = 0
    for path in sorted(folder.glob("*.npz")):
        stored = np.load(path, allow_pickle=False)["x"].astype(np.float64)
        x = stored[np.sort(np.unique(stored, axis=0, return_index=True)[1])]
        itself = judged(x, x)
        if not itself.passed:
            continue
        n_sets += 1
        for name, rows in candidates(x, itself.reference.carrying).items():
            found.setdefault(name, []).append(numbers_of(judged(rows, x)))
    say(f"{n_sets} references\n")
    say("| candidate | passed before | passes now | debiased CKA | same nearest neighbour | times as far away |")
    say("|---|---:|---:|---|---|---|")
    for name, rows_of in found.items():
        before, now, *values = np.array(rows_of).T
        spread = (f"{v.min():.2f}, {np.median(v):.2f}, {v.max():.2f}" for v in values)
        say(f"| {name} | {before.sum():.0f} | {now.sum():.0f} | {' | '.join(spread)} |")


def of_files(models: list[Path], say: Callable[[str], object]) -> None:
    """Compare changed files with their originals, and print a row per file."""
    import index_pairs  # it needs torch

    say("\n| model | what was done | debiased CKA | same nearest neighbour | times as far away |")
    say("|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "candidate.onnx"
        for model in models:
            for what in FILES:
                index_pairs.CHANGES[what](model, candidate)
                report = compare(candidate, model, device="cpu")
                values = " | ".join(f"{value:.3f}" for value in numbers_of(report)[2:])
                say(f"| {model.stem} | {what} | {values} |")


def main(folder: Path, models: list[Path], say: Callable[[str], object] = print) -> None:
    """Print both tables."""
    needed = f"{MIN_CKA:g}, {100 * MIN_SAME_NEAREST:g} % and {MIN_NEAREST_DISTANCE:g}"
    say(f"A PASS needs {needed}.\n")
    of_vectors(folder, say)
    if models:
        of_files(models, say)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
