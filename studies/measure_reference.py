"""Measures published embedding sets and simulated traps: thresholds/data/reference_statistics.csv and traps.csv.

python studies/measure_reference.py EMBEDDINGS_DIR

EMBEDDINGS_DIR holds one <set>.npz a set (entry x: (image, feature)). reference_sources.csv says what each set is: kind
of training, checkpoint, what ends the representation, why it is not evidence, source. The vectors are not part of the
project (most source repositories carry no licence); the statistics are, with the source of each.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from draws import NEGATIVES

from robustcheck_onnx.checker.core.evidence import TOP_FEATURES, Statistics
from robustcheck_onnx.checker.core.statistics.state import State, statistics, update
from robustcheck_onnx.thresholds.statistics import ENERGIES, STATISTICS, Statistic
from robustcheck_onnx.thresholds.tables import TABLE, TRAPS, TWO_SIDED

SUBSETS = 200  # random subsets a set, for the smallest and largest value that 50 images can show
SUBSET_IMAGES = 50  # the least number of images that can PASS
SOURCES = Path(__file__).parent / "reference_sources.csv"
DATA = Path(__file__).parent.parent / "thresholds" / "data"
LEAST: dict[Statistic, float] = {"strength": 4.0, "outlier_frequency": 0.5, "two_sidedness": TWO_SIDED}
"""Round numbers within the gaps of the reference table: from these estimates on, a set shows the indication. A verdict
needs bounds beyond thresholds that are fitted in those gaps (`fit`), so it is the stricter of the two."""
TRAP = "trap"  # group of a simulated set
TRAP_WIDTHS = (512, 1024, 2048)
TRAP_IMAGES = 300


def sums(x: np.ndarray) -> State:
    """The state over all rows of x."""
    state = State(x.shape[1])
    update(state, x, np.arange(len(x)))
    return state


def measure(x: np.ndarray) -> dict[str, str]:
    """All columns that are measured, as text."""
    state = sums(x)
    full = statistics(state, alpha=0.05)
    rng = np.random.default_rng(0)
    draws = [
        statistics(sums(x[rng.choice(len(x), SUBSET_IMAGES, replace=False)]), alpha=0.05)
        for _ in range(SUBSETS if len(x) > SUBSET_IMAGES else 0)
    ] or [full]
    row = {
        "n": str(full.n_images),
        "d": str(full.n_features),
        "centred_kurtosis": f"{full.centred_kurtosis:.4g}",
        "rms_kurtosis": f"{full.rms_kurtosis:.4g}",
        "persistent_kurtosis": f"{persistent_kurtosis(full):.4g}",
        "persistent_outlier_features": " ".join(str(f.index) for f in full.persistent),
        "spread": f"{full.spread:.3f}",
        "negative_share": f"{full.negative_share:.3f}",
    }
    for statistic in STATISTICS:
        values = [float(getattr(draw, statistic).estimate) for draw in draws]
        row[statistic] = f"{getattr(full, statistic).estimate:.4g}"
        row[f"{statistic}_low"] = f"{min(values):.4g}"
        row[f"{statistic}_high"] = f"{max(values):.4g}"
    return row


def persistent_kurtosis(full: Statistics) -> float:
    """The strength of those of the three strongest features that are persistent."""
    kurtosis = full.kurtosis.estimate
    assert kurtosis is not None, "a set without usable representations has no statistics"
    return kurtosis * sum(f.share for f in full.features[:TOP_FEATURES] if f.persistent)


def derived(row: dict[str, str]) -> dict[str, str]:
    """The later columns of a set without vectors, from those that it has: estimates, and no extremes of subsets.

    Of its persistent kurtosis only the largest possible value is known.
    """
    strength = float(row["kurtosis"]) * float(row["top3_share"])
    energies = [float(row[name]) for name in ENERGIES]
    two_sidedness = min(min(energy, 1 - energy) for energy in energies)
    return {
        "strength": f"{strength:.4g}",
        "persistent_kurtosis": f"{strength:.4g}",
        "two_sidedness": f"{two_sidedness:.4g}",
    }


def columns_of(measured: Sequence[str]) -> list[str]:
    """The columns of the table, in its order."""
    statistics_ = [c for s in STATISTICS for c in (s, f"{s}_low", f"{s}_high")]
    after = [
        "centred_kurtosis",
        "rms_kurtosis",
        "persistent_kurtosis",
        "persistent_outlier_features",
        "spread",
        "negative_share",
        "source",
    ]
    return [*measured, "expected", "excluded", "n", "d", *statistics_, *after]


def write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write a table with the label that each row's estimates give it."""
    columns = columns_of(["set", "group", "training", "model", "ends_in", "checkpoint"])
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            shows = all(float(row[name]) >= least for name, least in LEAST.items())
            label = "present" if shows else "absent"
            writer.writerow({**row, "expected": label})


def real_rows(folder: Path) -> list[dict[str, str]]:
    """A row a set of `SOURCES`; of one without vectors (faces and persons) the numbers that the table has."""
    with (DATA / TABLE).open(encoding="utf-8", newline="") as handle:
        before = {row["set"]: row for row in csv.DictReader(handle)}
    with SOURCES.open(encoding="utf-8", newline="") as handle:
        listed = list(csv.DictReader(handle))
    out = []
    for entry in listed:
        said = {key: value for key, value in entry.items() if key != "left_out"} | {"excluded": entry["left_out"]}
        vectors = folder / f"{entry['set']}.npz"
        found = vectors.is_file()
        known = before[entry["set"]]
        numbers = measure(np.load(vectors, allow_pickle=False)["x"]) if found else known | derived(known)
        out.append({**numbers, **said})
        print(entry["set"], "measured" if found else "as in the table")
    return out


def trap_rows() -> list[dict[str, str]]:
    """A row a family of simulated representations and width, 300 images each."""
    out = []
    for name, draw in NEGATIVES.items():
        for d in TRAP_WIDTHS:
            rng = np.random.default_rng([d, *name.encode()])
            said = dict.fromkeys(("training", "ends_in"), "") | {"set": f"{name}, d = {d}", "group": TRAP}
            said |= {
                "model": f"simulated: {name}",
                "checkpoint": name,
                "excluded": "simulated",
                "source": "studies/draws.py",
            }
            out.append({**measure(draw(rng, TRAP_IMAGES, d)), **said})
    return out


def main(folder: Path) -> None:
    """Measure every set and every trap, and write the two tables."""
    write(DATA / TABLE, real_rows(folder))
    write(DATA / TRAPS, trap_rows())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
