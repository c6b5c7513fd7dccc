"""The rows of `make bench` for `robustcheck directions`: the linear algebra, against one np.linalg.svd of the same W.

`python benchmarks/directions.py` prints the rows alone. Time and peak memory are those of a process of its own: a
random W and 300 random representations in; both decompositions, every curve and the outlier features out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from robustcheck_onnx.checker.core.runtime.devices import cpu_name, cpu_threads

SIZES = ((1000, 768, 1.0), (21_843, 1024, 10.0))  # classes, features, goal in s
IMAGES = 300
MOST_MIB = 1000e6 / 2**20
CHILD = Path(__file__).parent / "children" / "directions.py"


def rows(runs: int = 3) -> list[dict[str, object]]:
    """Two rows a size: median seconds against those of the SVD alone, and peak memory of the process."""
    out: list[dict[str, object]] = []
    for classes, features, goal in SIZES:
        words = [str(number) for number in (classes, features, IMAGES, runs)]
        done = subprocess.run([sys.executable, CHILD, *words], capture_output=True, text=True, check=True)
        ours, cpu, svd, peak = json.loads(done.stdout)
        what = f"directions of a head of {classes:,} × {features:,}, {IMAGES} images"
        out += [
            {"what": what, "ours": f"{ours:.2f} s ({cpu:.2f} s CPU)",
             "baseline": f"np.linalg.svd of W alone: {svd:.2f} s",
             "ratio": round(ours / svd, 2), "goal": f"≤ {goal:g} s", "met": ours <= goal},
            {"what": f"peak memory, {what}", "ours": f"{peak:.0f} MiB",
             "baseline": f"W itself: {8 * classes * features / 2**20:.0f} MiB",
             "ratio": round(peak / (8 * classes * features / 2**20), 2), "goal": "≤ 1 GB", "met": peak <= MOST_MIB},
        ]  # fmt: skip
    return out


def main() -> None:
    """Print the rows as JSON lines."""
    print(f"{cpu_name()}, {cpu_threads()} cores")
    for row in rows():
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
