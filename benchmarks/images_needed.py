"""How many images a verdict needs on the real sets, and how often a bound passes the truth.

python benchmarks/images_needed.py EMBEDDINGS_DIR [--runs N]

Each set is a population: up to 288 of its representations are drawn with replacement and looked at as a run does.
Writes docs/images-needed.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.evidence import Statistics
from robustcheck_onnx.checker.statistics import is_look
from robustcheck_onnx.checker.statistics.state import State, statistics, update
from robustcheck_onnx.checker.verdict import NAMES, decided, inside
from robustcheck_onnx.thresholds import profile
from robustcheck_onnx.thresholds.profile import STATISTICS, Profile
from robustcheck_onnx.thresholds.reference import references

ROOT = Path(__file__).parent.parent
PROFILES = (profile.load("default-1"), profile.load("default-2"))
IMAGES = 288
LOOKS = tuple(n for n in range(1, IMAGES + 1) if is_look(n))
RUNS = 100
CLOSE = "laion2b ViT-B/32"  # the weakest checkpoint with the indication: four times as many runs

Measured = dict[str, list[Statistics]]
"""by profile, what a run measures at each of its looks"""


def looks(x: np.ndarray, rng: np.random.Generator, *, until_decided: bool) -> Measured:
    """Look at 288 images drawn from x as a run does; on the same draws for every profile."""
    h, keys = x[rng.integers(0, len(x), IMAGES)], rng.integers(0, 2**32, IMAGES)
    out: Measured = {p.id: [] for p in PROFILES}
    state, start = State(x.shape[1]), 0
    for stop in LOOKS:
        update(state, h[start:stop], keys[start:stop])
        start = stop
        for p in PROFILES:
            out[p.id].append(statistics(state, p.alpha, p.bounds))
        if until_decided and all(decided(out[p.id][-1], p) for p in PROFILES):
            break
    return out


def ending(run: list[Statistics], judged_by: Profile) -> tuple[bool, int]:
    """Whether the run passes, and after how many images it ends."""
    for n, measured in zip(LOOKS, run, strict=False):
        if decided(measured, judged_by):
            pairs = [(getattr(measured, name), judged_by.limits_of(name)) for name in judged_by.deciding]
            return all(inside(*pair) for pair in pairs), n
    return False, IMAGES


def main(folder: Path, runs: int) -> None:
    """Draw, look, and write the page."""
    lines = []
    wrong = {(name, p.id): (0.0, "") for name in STATISTICS for p in PROFILES}
    for row in references():
        vectors = folder / f"{row.set}.npz"
        if row.excluded or not vectors.is_file():
            continue
        x = np.load(vectors, allow_pickle=False)["x"].astype(np.float64)
        population, shows = State(row.d), row.expected == "present"
        update(population, x, np.arange(len(x)))
        truth = statistics(population, 0.05)
        rng = np.random.default_rng(1)
        n_runs = (4 if row.model == CLOSE else 1) * runs if shows else runs // 5
        drawn = [looks(x, rng, until_decided=not shows) for _ in range(n_runs)]
        cells = []
        for p in PROFILES:
            ends = [ending(run[p.id], p) for run in drawn]
            passed, images = [one for one, _ in ends], [n for _, n in ends]
            cells.append(f"{100 * np.mean(passed):.1f} | {np.mean(images):.0f}")
            for name in p.deciding if shows else ():
                minimum = getattr(truth, name).estimate
                beyond = [any(getattr(look, name).low > minimum for look in run[p.id]) for run in drawn]
                wrong[name, p.id] = max(wrong[name, p.id], (float(np.mean(beyond)), row.set))
        lines.append(f"| {row.set} | {row.expected} | {n_runs} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    rates = []
    for name in STATISTICS:
        shares = [
            f"{100 * wrong[name, p.id][0]:.1f} ({wrong[name, p.id][1]})" if name in p.deciding else "–"
            for p in PROFILES
        ]
        rates.append(f"| {NAMES[name]} | {' | '.join(shares)} |")
    head = " | ".join(f"{p.id}: PASS, per cent | images, mean" for p in PROFILES)
    (ROOT / "docs" / "images-needed.md").write_text(
        f"""# How many images a verdict needs

Written by `python benchmarks/images_needed.py EMBEDDINGS_DIR`. Each reference set with vectors is a population: its
representations are drawn with replacement, {IMAGES} at most, looked at after {", ".join(map(str, LOOKS[:3]))}, … images
and judged by both packaged profiles; a run that does not decide ends at {IMAGES} as WARN. The thresholds are those in
the profiles: none was looked for on these runs. `default-1` shares its error rate between all bounds, `default-2` tests
each lower bound by itself.

| set | indication | runs | {head} |
|---|---|---|---|---|---|---|
{chr(10).join(lines)}

## How often a lower bound passes the truth
With a threshold exactly at the set's own value, a run in which the lower bound is above it at any look could pass
falsely by this statistic. Per cent of the runs, the largest over the sets with the indication (which set); α is
{100 * PROFILES[1].alpha:g} per cent.

A PASS where one truth lies at its threshold is at most as frequent as that row says. The energies leave out the three
strongest features of the images at hand: where the third nearly ties with others, a sample leaves out another one than
the population, and its energy is another by some hundredths, which no bound covers ([statistics](statistics.md)).

| statistic | {" | ".join(p.id for p in PROFILES)} |
|---|---|---|
{chr(10).join(rates)}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[sys.argv.index("--runs") + 1]) if "--runs" in sys.argv else RUNS)
