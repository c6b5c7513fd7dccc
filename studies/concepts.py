"""Concepts of the drawn set along the directions of EfficientNet-Lite0 (real weights), next to what chance gives.

    python studies/concepts.py [--images 400] [--shuffles 200]     (extra demo; two minutes on two cores)

Prints the tables of studies/results/concepts.md. The images are drawings (drawn_concepts.py), so the numbers show
how the command works and what chance gives, not what the model knows of photos.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import drawn_concepts
import numpy as np

import robustcheck_onnx as rc
from robustcheck_onnx.exporters import run

PHOTOS = sorted((Path(__file__).parents[1] / "checker/photos").glob("*.jpg"))
FACTORY = "robustcheck_onnx.exporters.demo:efficientnet_lite0"


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def table(report: rc.ConceptsReport) -> None:
    row("concept", "images", "best AP", "chance: median, 95 %, largest", "needed", "p", "directions", "established")
    row(*["---"] * 8)
    for each in report.concepts:
        chance = ", ".join(f"{value:.3f}" for value in each.chance)
        needed = "none" if each.needed is None else f"{each.needed:.3f}"
        found = "yes" if each.established else "no"
        row(each.name, each.n_images, f"{each.ap:.3f}", chance, needed, f"{each.p:.3f}", each.n_directions, found)


def histogram(report: rc.ConceptsReport) -> None:
    chance = report.chance
    row("best AP", "shuffles", "as they are")
    row(*["---"] * 3)
    for low, high, shuffled, measured in zip(
        chance.edges, chance.edges[1:], chance.shuffled, chance.measured, strict=False
    ):
        if shuffled or measured:
            row(f"{low:.2f}–{high:.2f}", shuffled, measured)


def summary(name: str, report: rc.ConceptsReport) -> None:
    facts = report.directions
    largest = max(each.chance[2] for each in report.concepts)
    row(
        name,
        report.images.n_read,
        facts.n,
        len(report.concepts),
        report.n_encoded,
        report.n_established,
        f"{facts.n_telling}, {facts.n_polysemantic}",
        f"{largest:.3f}",
    )


def deal(manifest: Path, seed: int) -> Path:
    """The same rows with the images dealt anew: concepts keep their numbers, and stay together."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    images = sorted({each["path"] for each in rows})
    dealt = dict(zip(images, np.random.default_rng(seed).permutation(images).tolist(), strict=True))
    path = manifest.with_name("dealt.csv")
    path.write_text("path,concept\n" + "".join(f"{dealt[each['path']]},{each['concept']}\n" for each in rows))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--shuffles", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, manifest = Path(folder) / "efficientnet_lite0.onnx", drawn_concepts.write(Path(folder), given.images)
        run.run("torch", FACTORY, model, photos=PHOTOS[:5])

        def measured(concepts: Path, **options: Any) -> rc.ConceptsReport:
            return rc.concepts(model, concepts, shuffles=given.shuffles, device="cpu", isolate=False, **options)

        start = time.perf_counter()
        head = measured(manifest)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"{head.model.source}, {head.directions.source}; {given.images} drawings\n")
        table(head)
        print()
        histogram(head)
        print()
        row(
            "directions",
            "images",
            "number",
            "judged",
            "AP ≥ 0.9",
            "established",
            "tell one, several",
            "largest by chance",
        )
        row(*["---"] * 8)
        summary("head", head)
        summary("features", measured(manifest, of="features"))
        summary("axes", measured(manifest, of="axes"))
        summary("head, labels dealt to other images", measured(deal(manifest, 0)))
        few = {"max_images": 24, "min_positives": 4}
        summary("head, 24 images, concepts of 4 or more", measured(manifest, **few))
        summary("the same, labels dealt to other images", measured(deal(manifest, 0), **few))
        print(f"\nhead: {seconds:.0f} s, peak {peak:.0f} MiB with the exporter's libraries loaded")


if __name__ == "__main__":
    main()
