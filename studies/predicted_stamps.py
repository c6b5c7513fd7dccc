"""Predicted against measured accuracy on scripted shifts of 344 labelled pictures, by method.

    python studies/predicted_stamps.py [OUT] [--background grey]     # ends by printing the tables

Prints tables of studies/results/predicted-accuracy.md.
Needs Debian's package tuxpaint-stamps-default (304 stamps, labelled in stamps.csv) and the extra `demo`. Stamps have
transparent backgrounds: they are put on white, or on grey. Half of the pictures, drawn by seed, is the labelled
in-distribution set; the other half is the target, as it is and in the four versions of make_shifted.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

import make_shifted
import numpy as np
from PIL import Image

from robustcheck_onnx.checker.questions.shift.document import ShiftReport
from robustcheck_onnx.checker.questions.shift.predicted import NAMES, Target, bounds_text
from robustcheck_onnx.checker.questions.shift.run import measure_shift
from robustcheck_onnx.exporters import run

HERE = Path(__file__).parent
STAMPS = Path("/usr/share/tuxpaint/stamps")
PHOTOS = HERE.parent / "tests" / "shift" / "labelled_photos.csv"
MARGIN = 0.1  # of the longest edge, around a stamp
BACKGROUNDS = {"white": (255, 255, 255), "grey": (128, 128, 128)}
SEED = 0


def stamp(path: Path, background: tuple[int, int, int]) -> Image.Image:
    """A stamp on a square of one colour."""
    picture = Image.open(path).convert("RGBA")
    edge = round(max(picture.size) * (1 + 2 * MARGIN))
    square = Image.new("RGBA", (edge, edge), (*background, 255))
    square.alpha_composite(picture, ((edge - picture.width) // 2, (edge - picture.height) // 2))
    return square.convert("RGB")


def write_sets(out: Path, background: tuple[int, int, int]) -> dict[str, Path]:
    """Write both halves, the four versions of the second one, and the class map; the folder of each by name."""
    classes: dict[str, list[int | str]] = {}
    pictures: list[tuple[str, str, Image.Image]] = []
    for row in csv.DictReader((HERE / "stamps.csv").open(encoding="utf-8")):
        classes[row["label"]] = [
            index
            for part in row["classes"].split()
            for index in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        ]
        name = Path(row["path"]).with_suffix("").as_posix().replace("/", "-")
        pictures.append((row["label"], name, stamp(STAMPS / row["path"], background)))
    for row in csv.DictReader(PHOTOS.open(encoding="utf-8")):
        classes[row["label"]] = [row["label"]]
        pictures.append((row["label"], Path(row["path"]).stem, Image.open(PHOTOS.parent / row["path"]).convert("RGB")))
    order = np.random.default_rng(SEED).permutation(len(pictures))
    for place, index in enumerate(order):
        label, name, picture = pictures[index]
        folder = out / ("in" if place < len(order) // 2 else "held-out") / label
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{name}.png")
    (out / "map.json").write_text(json.dumps({"labels": classes, "compete": "all"}))
    shifted: dict[str, Path] = make_shifted.write(str(out / "held-out"), out)
    return {"in": out / "in", "held-out": out / "held-out", **{name: shifted[name] for name in sorted(shifted)}}


def table(report: ShiftReport) -> list[str]:
    """A row a target: measured accuracy, and what each method predicts, with the error that counts in brackets.

    An error counts only beyond the measured accuracy's own interval: how far the prediction lies outside of it.
    """
    assert report.predicted is not None
    methods = [each.method for each in report.predicted.targets[0].estimates]
    lines = [
        f"| set | measured | {' | '.join(NAMES[method] for method in methods)} |",
        "|---" * (len(methods) + 2) + "|",
    ]
    lines += [f"| {each.name} | {measured(each)} | {' | '.join(cells(each))} |" for each in report.predicted.targets]
    for index, method in enumerate(methods):
        found = [each.estimates[index] for each in report.predicted.targets]
        errors = [
            abs(one.accuracy - target.measured.value)
            for one, target in zip(found, report.predicted.targets, strict=True)
            if one.accuracy is not None and target.measured is not None and target.name != "held-out"
        ]
        inside = sum(
            target.measured.low <= one.accuracy <= target.measured.high
            for one, target in zip(found, report.predicted.targets, strict=True)
            if one.accuracy is not None and target.measured is not None and target.name != "held-out"
        )
        covered = sum(
            one.low <= target.measured.value <= one.high
            for one, target in zip(found, report.predicted.targets, strict=True)
            if one.low is not None and one.high is not None and target.measured and target.name != "held-out"
        )
        lines += [""] * (index == 0)
        if errors:
            lines.append(
                f"- {NAMES[method]}: mean absolute error {100 * np.mean(errors):.1f} points over {len(errors)} shifts; "
                f"{inside} within the measured interval, {covered} intervals hold the measured accuracy"
            )
        else:
            lines.append(f"- {NAMES[method]}: on no shift")
    return lines


def measured(target: Target) -> str:
    accuracy = target.measured
    assert accuracy is not None
    return f"{100 * accuracy.value:.1f} ({100 * accuracy.low:.1f} – {100 * accuracy.high:.1f})"


def cells(target: Target) -> list[str]:
    written = []
    assert target.measured is not None
    for each in target.estimates:
        if each.accuracy is None:
            written.append("not established")
            continue
        beyond = max(each.accuracy - target.measured.high, target.measured.low - each.accuracy, 0)
        sign = "+" if each.accuracy > target.measured.value else "−"
        error = f" **{sign}{100 * beyond:.1f}**" if beyond else ""
        bounds = bounds_text(each)
        written.append(f"{100 * each.accuracy:.1f}{f' ({bounds})' if bounds else ''}{error}")
    return written


def main(out: Path, background: str) -> None:
    sets = write_sets(out, BACKGROUNDS[background])
    photos = sorted((HERE.parent / "checker" / "photos").glob("*.jpg"))[:5]
    model = out / "lite0.onnx"
    run.run("torch", "robustcheck_onnx.exporters.demo:efficientnet_lite0", model, photos=photos)
    inside, *others = [str(path) for path in sets.values()]
    report = measure_shift(model, inside, others, target=others, classes=[str(out / "map.json")])
    assert report.predicted is not None
    inner = report.in_distribution
    print(f"\n{background} background: in-distribution", end=" ")
    print(f"{100 * inner.accuracy.value:.1f} % ({100 * inner.accuracy.low:.1f} – {100 * inner.accuracy.high:.1f})")
    print(f"on {inner.accuracy.n} pictures, {inner.n_labels} labels, mean confidence", end=" ")
    print(f"{report.predicted.mean_confidence:.3f}\n")
    print("\n".join(table(report)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predicted against measured accuracy, by method.")
    parser.add_argument(
        "out", nargs="?", type=Path, help="a new folder for pictures and models; default: one is deleted"
    )
    parser.add_argument("--background", choices=sorted(BACKGROUNDS), default="white")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(given.out or Path(temporary), given.background)
