"""Which candidates pass a comparison with a reference, with and without the limit on CKA.

    python benchmarks/chimeras.py EMBEDDINGS_DIR     # some ten minutes on one core

Prints the table of benchmarks/results/chimeras.md. EMBEDDINGS_DIR holds one <set>.npz per set (entry x: (image,
feature)). Rows that occur twice count once. The references are the sets that pass against themselves. A
chimera has the outlier features, and is not a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.compare.pairs import MIN_CKA
from support.comparisons import judged

Array = npt.NDArray[np.float64]
SEED = 0


def rounded(x: Array, bits: int) -> Array:
    """Round to the levels of one scale for the whole matrix, as a per-tensor quantiser does."""
    step = np.abs(x).max() / (2 ** (bits - 1) - 1)
    return np.asarray(np.round(x / step) * step)


def candidates(x: Array, outliers: tuple[int, ...]) -> dict[str, Array]:
    """Return the vectors of each candidate, by name; the order is that of the table."""
    rng = np.random.default_rng(SEED)
    n, d = x.shape
    other = x[np.roll(np.arange(n), 1 + int(rng.integers(n - 1)))]
    noise, is_outlier = x.std(axis=0) * rng.normal(size=x.shape), np.isin(np.arange(d), outliers)
    zeroed = np.isin(np.arange(d), rng.permutation(np.flatnonzero(~is_outlier))[: (d - len(outliers)) // 2])
    return {
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
        "*chimera:* exact outlier features, Gaussian rest": np.where(is_outlier, x, x.mean(axis=0) + noise),
        "*chimera:* exact outlier features, another image's rest": np.where(is_outlier, x, other),
        "another image's vector": other,
        "centred": x - x.mean(axis=0),
        "rotated": x @ np.linalg.qr(rng.normal(size=(d, d)))[0],
        "permuted": x[:, rng.permutation(d)],
        "outlier features removed": np.where(is_outlier, x - x.mean(axis=0), x),
        "outlier features × 0.7": np.where(is_outlier, 0.7 * x, x),
    }


def main(folder: Path, say: Callable[[str], object] = print) -> None:
    """Compare every candidate with every reference, and print a row per candidate."""
    found: dict[str, list[tuple[bool, bool, float, float]]] = {}
    n_sets = 0
    for path in sorted(folder.glob("*.npz")):
        stored = np.load(path, allow_pickle=False)["x"].astype(np.float64)
        x = stored[np.sort(np.unique(stored, axis=0, return_index=True)[1])]
        itself = judged(x, x)
        if not itself.passed:
            continue
        n_sets += 1
        for name, rows in candidates(x, itself.reference.carrying).items():
            report = judged(rows, x)
            whole = report.similarity
            assert whole is not None
            assert whole.cka_debiased is not None
            assert whole.same_nearest is not None
            # the one reason of that limit alone
            before = all(each.seen.startswith("the outlier features are there, ") for each in report.verdict.reasons)
            found.setdefault(name, []).append((before, report.passed, whole.cka_debiased, whole.same_nearest))
    say(f"{n_sets} references; a debiased CKA of {MIN_CKA:g} is needed\n")
    say("| candidate | passed before | passes now | debiased CKA: min, median, max | same nearest neighbour |")
    say("|---|---:|---:|---|---|")
    for name, rows_of in found.items():
        before, now, cka, nearest = np.array(rows_of).T
        spread = [f"{v.min():.2f}, {np.median(v):.2f}, {v.max():.2f}" for v in (cka, nearest)]
        say(f"| {name} | {before.sum():.0f} | {now.sum():.0f} | {spread[0]} | {spread[1]} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
