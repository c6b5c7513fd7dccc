"""Measures the smallest loss that a comparison sees on real representations: results/smallest-loss.md.

python studies/smallest_loss.py EMBEDDINGS_DIR

EMBEDDINGS_DIR holds one <set>.npz a set (entry x: (image, feature)). The candidate is the set with its persistent
outlier features scaled down.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.core.statistics import state
from robustcheck_onnx.checker.core.verdict.rule import inside
from robustcheck_onnx.checker.questions.compare.changes import StatisticChange, changes, jackknife_of, required_by
from robustcheck_onnx.checker.questions.compare.pairs import Pair, Side, decisive_features, update
from robustcheck_onnx.thresholds.profile import load

Array = npt.NDArray[np.float64]
PAGE = Path(__file__).parent / "results" / "smallest-loss.md"
SETS = (
    ("ashirvad_openclip_b32_laion2b", "OpenCLIP B/32 laion2b, a first set"),
    ("fairouz_openclip_b32_laion2b", "OpenCLIP B/32 laion2b, a second set"),
    ("imas_imagenet_b32", "CLIP B/32"),
    ("ik_clip_l14_openai", "CLIP L/14"),
)
SIZES = (50, 100, 300)
DRAWS = 12
TOLERANCE = 0.2
STEPS = 10
NOT_KEPT = ("undecided", "shrank")
PROFILE = load()


def pair_of(candidate: Array, reference: Array) -> Pair:
    """Return the sums of two models over the same images."""
    width = candidate.shape[1]
    pair = Pair(Side(state.State(width)), Side(state.State(width)))
    update(pair, candidate, reference, np.arange(len(candidate)))
    return pair


def strength_of(candidate: Array, reference: Array) -> StatisticChange:
    """Return what became of the strength."""
    pair = pair_of(candidate, reference)
    numbers = [jackknife_of(side) for side in (pair.candidate, pair.reference)]
    required = required_by(PROFILE)
    found = changes(numbers[0], numbers[1], required, PROFILE.alpha, TOLERANCE)
    return next(change for change in found if change.name == "strength")


def clears(h: Array) -> bool:
    """Return whether the statistics of a model clear all thresholds, as a PASS of a comparison with itself needs."""
    statistics = state.statistics(pair_of(h, h).candidate.state, PROFILE.alpha, PROFILE.bounds)
    return all(inside(getattr(statistics, name), PROFILE.minimum_of(name)) for name in PROFILE.deciding)


def smallest(reference: Array, answers: Sequence[str]) -> float:
    """Return the smallest loss of the strength that has one of these answers."""
    statistics = state.statistics(pair_of(reference, reference).candidate.state, PROFILE.alpha, PROFILE.bounds)
    features = [feature.index for feature in decisive_features(statistics)]

    def change_at(scale: float) -> StatisticChange:
        candidate = reference.copy()
        candidate[:, features] *= scale
        return strength_of(candidate, reference)

    scale = bisected(lambda scale: change_at(scale).keeps in answers)
    return 1 - (change_at(scale).ratio.estimate or 0.0)


def bisected(holds: Callable[[float], bool]) -> float:
    """Return the largest scale from 0.3 to 1 at which a condition holds."""
    low, high = 0.3, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def rows(folder: Path) -> list[str]:
    """Return a row of the table for each set and number of images."""
    table = []
    for name, title in SETS:
        x = np.load(folder / f"{name}.npz")["x"].astype(np.float64)
        for n in SIZES:
            draws = [np.random.default_rng(seed).permutation(len(x))[:n] for seed in range(DRAWS)]
            n_warn = sum(not clears(x[draw]) for draw in draws)
            losses = ["–", "–"]
            first = next((draw for draw in draws if clears(x[draw])), None)
            if first is not None:
                losses = [f"{100 * smallest(x[first], answers):.1f} %" for answers in (NOT_KEPT, NOT_KEPT[1:])]
            of = f"{n_warn} of {DRAWS}" if n < len(x) else ("yes" if n_warn else "no")
            table.append(f"| {title} | {n} | {losses[0]} | {losses[1]} | {of} |")
            print(table[-1], flush=True)
    return table


HEAD = f"""# The smallest loss that a comparison sees

`python studies/smallest_loss.py EMBEDDINGS_DIR` wrote this page.

The candidate is a set of real vectors with its persistent outlier features scaled down. The table shows the smallest
loss of the strength that `robustcheck compare` does not answer by `kept`, and the smallest that it answers by `shrank`,
at the default tolerance of {TOLERANCE:g}. Both models are measured on the same photos, so the intervals are narrow, and
the tolerance limits what is seen: more photos hardly help. The last column counts the draws of so many photos in which
the set compared with itself is WARN, because its own statistics do not clear the thresholds of the check. The
losses are of the first draw that is not WARN; a dash means that there is none.

| vectors | photos | not `kept` from | `shrank` from | WARN against itself |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    PAGE.write_text(HEAD + "\n".join(rows(Path(sys.argv[1]))) + "\n", encoding="utf-8")
