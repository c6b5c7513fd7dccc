"""What many models in one call cost: on one core, one after the other on all, and side by side.

    python benchmarks/many_models.py [--models 20] [--runs 5] [--cores 2] [--only WORD]

Copies of a look-up model, whose passes cost nothing, and of a ViT-B/32 with random weights. With a typed --timeout one
model follows the other. Commands take turns; on the same cores the reports must be the same bytes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import last_fifth
import made_models
import numpy as np
import speed

from support import lookup


def models(folder: Path, n: int, only: str) -> Iterator[tuple[str, Path, Path]]:
    """Name of each kind, the folder of its copies, and the photos for them."""
    if only in "look-up":
        rng = np.random.default_rng(0)
        h = rng.normal(size=(last_fifth.PHOTOS, 512)) + rng.normal(0, 0.5, 512)
        h[:, 7] += 20
        model = lookup.write_lookup_model(folder / "look-up.onnx", h)
        sources = sorted((speed.ROOT / "checker" / "photos").glob("*.jpg"))
        lookup.write_lookup_images(folder / "drawn", last_fifth.PHOTOS, photos=sources)
        yield f"{n} look-up models", _copies(model, n), folder / "drawn"
    if only in "ViT-B-32":
        model = last_fifth.with_contract(made_models.vit(folder / "vit.onnx", made_models.B32))
        few = max(2, n // 5)
        yield f"{few} ViT-B/32", _copies(model, few), speed.write_photos(folder / "photos", last_fifth.PHOTOS)


def _copies(model: Path, n: int) -> Path:
    folder = model.with_suffix("")
    folder.mkdir()
    for number in range(n):
        (folder / f"{number:02}.onnx").hardlink_to(model)
    return folder


def rows(folder: Path, n: int, runs: int, cores: int, only: str) -> Iterator[str]:
    """A line for each kind of model."""
    for name, copies, photos in models(folder, n, only):
        check = [str(speed.COMMAND), str(copies), "--images", str(photos), "-q", "--no-time"]
        ways = {
            "one core": ([], 1),
            "one after the other": (["--timeout", "7200"], cores),
            "side by side": ([], cores),
        }
        costs: dict[str, list[last_fifth.Cost]] = {way: [] for way in ways}
        reports = set()
        for _ in range(runs):
            for way, (words, count) in ways.items():
                costs[way].append(last_fifth.cost([*check, *words, "-o", f"json={folder / 'all.json'}"], count))
                if count == cores:
                    reports.add((folder / "all.json").read_bytes())
        took = {way: statistics.median(cost.wall_s for cost in some) for way, some in costs.items()}
        used = {way: statistics.median(cost.processor_s for cost in some) for way, some in costs.items()}
        first = took["one core"]
        shown = ", ".join(f"{way} {s:.2f} s ({used[way]:.2f} CPU, {first / s:.2f} x)" for way, s in took.items())
        yield f"{name}, {cores} cores: {shown}; different reports: {len(reports)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--only", default="", help="the models whose name holds this")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name), given.models, given.runs, given.cores, given.only):
            sys.stdout.write(row + "\n")
            sys.stdout.flush()
