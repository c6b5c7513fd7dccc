"""Predicted against measured accuracy on two small tasks, without a shift and under 24 corruptions.

    python studies/predicted_accuracy.py      # a minute on one core; needs scikit-learn

Trains one small network per task: scikit-learn's digits, and textures that are made here. Labelled and target images
are 300 each; each of the 24 corruptions is drawn four times, with other images. Writes the table of
studies/results/predicted-accuracy.md. Exits with 1 where the sentence that every report prints (`records.SEEN`)
has other figures.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from robustcheck_onnx.checker.questions.shift.confidence import ImageScores, as_logits, describe
from robustcheck_onnx.checker.questions.shift.predicted import NAMES, SEEN, Method, predict, resample_inside

PAGE = Path(__file__).parent / "results" / "predicted-accuracy.md"
START, END = "<!-- predicted -->\n", "<!-- end of predicted -->\n"
N_IMAGES = 300
SEVERITIES = (1, 2, 3)
REPEATS = 4
Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Corruption = Callable[[Array, float, np.random.Generator], Array]


class Trial(NamedTuple):
    """What was predicted for one target, and its measured accuracy."""

    name: str
    truth: float
    found: dict[Method, tuple[float, float | None, float | None]]
    """value and bounds"""


def textures(n: int, rng: np.random.Generator) -> tuple[Array, Labels]:
    """Make waves in noise, 16 × 16 pixels: ten classes of five directions and two wavelengths."""
    labels = rng.integers(10, size=n)
    angle, wave = np.pi * (labels % 5) / 5, np.where(labels < 5, 3.0, 5.0)
    y, x = np.mgrid[:16, :16]
    angle = angle + rng.normal(0, 0.15, n)
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    waves = np.sin(2 * np.pi * along / wave[:, None, None] + phase)
    contrast = rng.uniform(0.1, 0.4, (n, 1, 1))
    return np.clip(0.5 + contrast * waves + rng.normal(0, 0.15, (n, 16, 16)), 0, 1), labels


def digits() -> tuple[Array, Labels]:
    """Return scikit-learn's digits, 8 × 8 pixels between 0 and 1, in an order by seed."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return found.images[order] / 16, found.target[order].astype(np.int64)


def _spots(x: Array, severity: float, rng: np.random.Generator) -> Array:
    drawn = rng.random(x.shape)
    return np.where(drawn < 0.06 * severity, 0.0, np.where(drawn > 1 - 0.06 * severity, 1.0, x))


def _bar(x: Array, severity: float, rng: np.random.Generator) -> Array:
    width, start = x.shape[2] * severity / 10, rng.uniform(0, x.shape[2], (len(x), 1, 1))
    return np.where((np.arange(x.shape[2]) - start) % x.shape[2] < width, 0.0, x)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": lambda x, s, rng: x + rng.normal(0, 0.15 * s, x.shape),
    "spots": _spots,
    "blur": lambda x, s, _: ndimage.gaussian_filter(x, (0, 0.4 * s, 0.4 * s)),
    "contrast": lambda x, s, _: 0.5 + (x - 0.5) * (1 - 0.25 * s),
    "brightness": lambda x, s, _: x + 0.15 * s,
    "rotation": lambda x, s, _: ndimage.rotate(x, 12 * s, axes=(2, 1), reshape=False, order=1, mode="nearest"),
    "shift": lambda x, s, _: ndimage.shift(x, (0, 0.5 * s, 0.5 * s), order=1, mode="nearest"),
    "bar": _bar,
}


def scores_of(network: MLPClassifier, x: Array) -> ImageScores:
    """Describe the network's probabilities as `robustcheck shift` does."""
    p = network.predict_proba(np.clip(x, 0, 1).reshape(len(x), -1))
    return describe(as_logits(p, "probabilities"), range(p.shape[1]))


def tried(x: Array, labels: Labels, n_train: int) -> Iterator[Trial]:
    """Train on the first images; yield targets without a shift and as many corrupted ones."""
    network = MLPClassifier((64,), max_iter=300, random_state=0)
    network.fit(x[:n_train].reshape(n_train, -1), labels[:n_train])
    x, labels = x[n_train:], labels[n_train:]
    whole: list[tuple[str, Corruption | None, float]] = [("no shift", None, repeat) for repeat in range(24)]
    whole += [(f"{name} {severity}", how, severity) for name, how in CORRUPTIONS.items() for severity in SEVERITIES]
    for number, (name, corrupted, severity) in enumerate(REPEATS * whole):
        rng = np.random.default_rng(number)
        rows = rng.permutation(len(x))[: 2 * N_IMAGES]
        inside, outside = rows[:N_IMAGES], rows[N_IMAGES:]
        target = x[outside] if corrupted is None else corrupted(x[outside], severity, rng)
        ours, theirs = scores_of(network, x[inside]), scores_of(network, target)
        right = ours.predicted == labels[inside]
        truth = float((theirs.predicted == labels[outside]).mean())
        found = predict(resample_inside(ours, right, number), theirs, (number, 1))
        yield Trial(name, truth, {method: (i.value, i.low, i.high) for method, i in found.items()})


def measured(task: str, x: Array, labels: Labels, n_train: int) -> tuple[list[str], dict[str, float]]:
    """Return the rows of the table for a task, and the figures of the sentence."""
    rows, figures, found = [], {}, list(tried(x, labels, n_train))
    for kind in ("no shift", "corrupted"):
        part = [each for each in found if (each.name == "no shift") == (kind == "no shift")]
        truth = np.array([each.truth for each in part])
        cells = [task, kind, f"{100 * truth.mean():.0f} ({100 * truth.min():.0f} – {100 * truth.max():.0f})"]
        for method in NAMES:
            value, low, high = np.array([each.found[method] for each in part], dtype=np.float64).T
            error = 100 * np.abs(value - truth).mean()
            figures[f"{method} {kind} error"] = error
            figures[f"{method} {kind} held"] = held = 100 * ((low <= truth) & (truth <= high)).mean()
            is_interval = np.isfinite(low).all()
            cells.append(f"{error:.1f}")
            cells += [f"{held:.0f} %", f"{100 * (high - low).mean():.0f}"] if is_interval else []
        rows.append(f"| {' | '.join(cells)} |")
    return rows, figures


def main() -> int:
    """Write the table into the page; return 1 where the printed sentence has other figures."""
    tasks = {"digits": (*digits(), 900), "textures": (*textures(3000, np.random.default_rng(1)), 1500)}
    rows, by_task = [], []
    for task, (x, labels, n_train) in tasks.items():
        lines, figures = measured(task, x, labels, n_train)
        rows += lines
        by_task.append(figures)
    head = "| task | target | accuracy, mean (range) | " + " | ".join(
        f"{name}: error | {'' if method == 'doc' else 'held | width | '}" for method, name in NAMES.items()
    ).replace("|  |", "|")
    table = "\n".join([head.rstrip(), "|---" * (head.count("|") - 1) + "|", *rows]) + "\n"
    print(table)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page[: page.index(START) + len(START)] + table + page[page.index(END) :], encoding="utf-8")
    said = [
        " and ".join(f"{figures[name]:.0f}" for figures in by_task)
        for name in (
            "atc_confidence no shift held",
            "atc_confidence corrupted held",
            "atc_confidence corrupted error",
            "doc corrupted error",
        )
    ]
    if re.findall(r"\d+ and \d+", SEEN) != said:
        print(f"records.SEEN has other figures; measured: {said}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
