"""Measures published embedding sets and writes thresholds/data/reference_statistics.csv.

python benchmarks/measure_reference.py EMBEDDINGS_DIR SOURCES.csv

EMBEDDINGS_DIR holds one <set>.npz a set (entry x: (image, feature)); SOURCES.csv has the columns set, group,
checkpoint, source. The vectors are not part of the project (most source repositories carry no licence); the
statistics are, with the source of each.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.statistics.state import State, statistics, update
from robustcheck_onnx.thresholds.profile import STATISTICS

SUBSETS = 200  # random subsets a set, for the smallest and largest value that 50 images can show
SUBSET_IMAGES = 50  # the least number of images that can PASS
OUTPUT = Path(__file__).parent.parent / "thresholds" / "data" / "reference_statistics.csv"

# Zero-shot and contrastively finetuned encoders that show no outlier features: robust or not, WARN is right.
ABSENT = {"ik_openclip_bigG_laion2b", "kruchji_mcip_so400m"}
PRESENT_GROUPS = {"zero_shot_clip", "finetuned_clip"}
EXCLUDED = {"run_lite0_logits": "class logits: the thresholds are for representations"}


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


def main(folder: Path, sources: Path) -> None:
    """Measure every set of SOURCES.csv and write the table."""
    measured_columns = [c for s in STATISTICS for c in (s, f"{s}_low", f"{s}_high")]
    columns = ["set", "group", "checkpoint", "expected", "excluded", "n", "d", *measured_columns]
    columns += [
        "centred_kurtosis",
        "rms_kurtosis",
        "persistent_outlier_features",
        "spread",
        "negative_share",
        "source",
    ]
    with sources.open(encoding="utf-8", newline="") as handle:
        listed = list(csv.DictReader(handle))
    with OUTPUT.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        for entry in listed:
            name = entry["set"]
            x = np.load(folder / f"{name}.npz", allow_pickle=False)["x"]
            present = entry["group"] in PRESENT_GROUPS and name not in ABSENT
            few = f"{len(x)} images" if len(x) < SUBSET_IMAGES else ""
            writer.writerow(
                measure(x)
                | {k: entry[k] for k in ("set", "group", "checkpoint", "source")}
                | {"expected": "present" if present else "absent", "excluded": EXCLUDED.get(name, few)}
            )
            print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
