"""Constructions that try to pass the rule of three statistics, and what another candidate for the rule gives them.

python studies/attack.py

Each is drawn ten times at two widths, 300 images, and judged by estimates. Then families whose mean vector is drawn
from one distribution, as runs of at most 100 images judged by bounds: what passes by definition. Writes both tables to
stdout: that of studies/results/operating-characteristic.md, then that of docs/dev/decisions/three-statistics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from robustcheck_onnx.checker.core.evidence import Statistics
from robustcheck_onnx.checker.core.statistics.intervals import is_look
from robustcheck_onnx.checker.core.statistics.state import State, statistics, update
from robustcheck_onnx.checker.core.verdict.rule import decided, inside
from robustcheck_onnx.thresholds import profile
from robustcheck_onnx.thresholds.profile import Profile
from robustcheck_onnx.thresholds.statistics import DECIDING

WIDTHS = (512, 1024)
IMAGES = 300
DRAWS = 10
CRITERION = {"two_sidedness": 0.37, "persistence_ratio": 1.933, "top3_share": 0.514}  # the criterion's first winner
Draw = Callable[[np.random.Generator, int], np.ndarray]
Noise = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


class Attack(NamedTuple):
    """A construction, and whether outlier features are really in it."""

    name: str
    has_features: str
    """yes, no or open: whether a reader who saw the construction would call them persistent outlier features"""
    draw: Draw


def gauss(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Gaussian features with means of their own."""
    return rng.normal(size=shape) + rng.normal(0, 0.5, shape[1])


def student(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Student t features, 4.5 degrees of freedom, SD 1."""
    return np.asarray(rng.standard_t(4.5, size=shape) / np.sqrt(4.5 / 2.5))


def laplace(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Laplace features, SD 1."""
    return np.asarray(rng.laplace(size=shape) / np.sqrt(2))


def planted(noise: Noise, k: int, size: float, share: float = 1.0, jitter: float = 0.0) -> Draw:
    """Features of so many SD in a share of the images."""

    def draw(rng: np.random.Generator, d: int) -> np.ndarray:
        h = noise(rng, (IMAGES, d))
        there = rng.random((IMAGES, 1)) < share
        h[:, :k] += size * rng.choice([-1, 1], k) * there * (1 + jitter * rng.normal(size=(IMAGES, k)))
        return h

    return draw


def means(noise: Noise, ratio: float) -> Draw:
    """A mean vector that is drawn like the features, and images that vary around it."""

    def draw(rng: np.random.Generator, d: int) -> np.ndarray:
        return ratio * noise(rng, (1, d)) + rng.normal(size=(IMAGES, d))

    return draw


def spikes_on_one(rng: np.random.Generator, d: int) -> np.ndarray:
    """A feature of 4.6 SD in all images, and of 20 SD in one of twenty."""
    h = rng.normal(size=(IMAGES, d))
    h[:, 0] += 4.6 + 15.4 * (rng.random(IMAGES) < 0.05)
    return h


def turns(rng: np.random.Generator, d: int, kinds: int = 2) -> np.ndarray:
    """Kinds of images, each with an outlier feature of its own."""
    h = rng.normal(size=(IMAGES, d))
    h[np.arange(IMAGES), rng.integers(0, kinds, IMAGES)] += 20
    return h


def one_sided_shifted(rng: np.random.Generator, d: int) -> np.ndarray:
    """Rectified features less a constant, so that half of the energy about zero is negative, and a feature of 20 SD."""
    h = np.maximum(rng.normal(size=(IMAGES, d)), 0)
    h[:, 0] += 20 * h.std()
    return np.asarray(h - h[:, 1:].mean() * 1.6)


def skewed(rng: np.random.Generator, d: int) -> np.ndarray:
    """Exponential features less their mean, and a feature of 20 SD."""
    h = rng.exponential(size=(IMAGES, d)) - 1
    h[:, 0] += 20
    return h


def crowd(share: float) -> Draw:
    """A share of the features shifted as far as they can be."""

    def draw(rng: np.random.Generator, d: int) -> np.ndarray:
        h = rng.normal(size=(IMAGES, d))
        k = max(1, round(share * d))
        h[:, :k] += 60 * rng.choice([-1, 1], k)
        return h

    return draw


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Lognormal sizes with random signs."""
    return np.asarray(rng.lognormal(0, 1, shape) * rng.choice([-1, 1], shape))


ATTACKS = (
    *(
        Attack(f"{name}, {k} of 20 SD", "yes", planted(noise, k, 20))
        for name, noise in (("Gauss", gauss), ("Student t(4.5)", student), ("Laplace", laplace))
        for k in (1, 3, 10)
    ),
    Attack("Gauss, 3 of 6 SD", "yes", planted(gauss, 3, 6)),
    Attack("Gauss, 3 of 7 SD, just strong enough", "yes", planted(gauss, 3, 7)),
    Attack("Gauss, 3 of 4.6 SD", "open", planted(gauss, 3, 4.6)),
    Attack("Student t(4.5), 1 of 4.6 SD", "no", planted(student, 1, 4.6)),
    Attack("Student t(4.5), 3 of 6 SD", "yes", planted(student, 3, 6)),
    Attack("Laplace, 1 of 7.5 SD, varying by 40 %", "open", planted(laplace, 1, 7.5, jitter=0.4)),
    Attack("Gauss, 1 of 20 SD in 25 % of the images", "no", planted(gauss, 1, 20, 0.25)),
    Attack("Gauss, 1 of 20 SD in 40 % of the images", "no", planted(gauss, 1, 20, 0.4)),
    Attack("Gauss, 1 of 20 SD in 50 % of the images", "open", planted(gauss, 1, 20, 0.5)),
    Attack("Gauss, 1 of 20 SD in 61 % of the images", "open", planted(gauss, 1, 20, 0.61)),
    Attack("two kinds of images, an outlier feature each", "no", turns),
    Attack("1 of 4.6 SD always, of 20 SD in 5 %", "open", spikes_on_one),
    Attack("2 % of the features, all beyond 4 SD", "open", crowd(0.02)),
    Attack("4 % of the features, all beyond 4 SD", "no", crowd(0.04)),
    Attack("ReLU less a constant, 1 of 20 SD", "no", one_sided_shifted),
    Attack("exponential less its mean, 1 of 20 SD", "no", skewed),
    Attack("mean vector Laplace", "no", means(laplace, 1.5)),
    Attack("mean vector Student t(4.5)", "no", means(student, 1.5)),
    Attack("mean vector lognormal(1), random signs", "open", means(lognormal, 1.0)),
)  # fmt: skip


def passes(measured: Statistics, judged_by: Profile | dict[str, float]) -> bool:
    """Whether the estimates lie inside the limits."""
    if isinstance(judged_by, dict):
        return all(getattr(measured, name).estimate > minimum for name, minimum in judged_by.items())
    return all(getattr(measured, name).estimate > judged_by.minimum_of(name) for name in judged_by.deciding)


def rows(rules: dict[str, Profile | dict[str, float]]) -> list[str]:
    """A row of the table for each construction."""
    out = []
    for attack in ATTACKS:
        passed = dict.fromkeys(rules, 0)
        seen = []
        for d in WIDTHS:
            for draw in range(DRAWS):
                h = attack.draw(np.random.default_rng([draw, d]), d)
                state = State(d)
                update(state, h, np.arange(IMAGES))
                measured = statistics(state, 0.05)
                seen.append([getattr(measured, n).estimate for n in DECIDING])
                for name, rule in rules.items():
                    passed[name] += passes(measured, rule)
        middle = " | ".join(f"{value:.2f}" for value in np.median(seen, axis=0))
        counts = " | ".join(f"{n} of {len(seen)}" for n in passed.values())
        out.append(f"| {attack.name} | {attack.has_features} | {middle} | {counts} |")
        print(out[-1], flush=True)
    return out


def student_mean(df: int, rng: np.random.Generator, d: int) -> np.ndarray:
    """A mean vector of Student t features, SD 1."""
    return np.asarray(rng.standard_t(df, d) / np.sqrt(df / (df - 2)))


FAMILIES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "Gauss": lambda g, d: g.normal(size=d),
    "Laplace": lambda g, d: g.laplace(size=d) / np.sqrt(2),
    **{f"Student t({df})": partial(student_mean, df) for df in (10, 5, 4, 3)},
    "lognormal(1), random signs": lambda g, d: g.lognormal(0, 1, d) * g.choice([-1, 1], d) / np.exp(1),
}
RATIOS = (1.0, 1.5, 2.0)  # SD of the mean vector over that of the images around it
FAMILY_DRAWS = 60
FAMILY_IMAGES = 100


def last_look(h: np.ndarray, keys: np.ndarray, judged_by: Profile) -> Statistics:
    """Return what a run knows at the look where it stops: the first at which the evidence decides, or the last."""
    state, start = State(h.shape[1]), 0
    for stop in [n for n in range(1, len(h) + 1) if is_look(n, judged_by.min_images) or n == len(h)]:
        update(state, h[start:stop], keys[start:stop])
        start = stop
        measured = statistics(state, judged_by.alpha, judged_by.bounds)
        if decided(measured, judged_by):
            break
    return measured


def clears(measured: Statistics, judged_by: Profile) -> bool:
    """Return whether the whole interval of each deciding statistic lies inside its limits."""
    return all(inside(getattr(measured, name), judged_by.minimum_of(name)) for name in judged_by.deciding)


def families(rules: dict[str, Profile]) -> list[str]:
    """A row for each distribution of the mean vector: the share of draws that pass by the statistics, by ratio."""
    out = []
    for name, draw in FAMILIES.items():
        cells = []
        passed = {(rule, ratio): 0 for rule in rules for ratio in RATIOS}
        for ratio in RATIOS:
            for seed in range(FAMILY_DRAWS):
                g = np.random.default_rng([seed, int(10 * ratio)])
                d = WIDTHS[seed % len(WIDTHS)]
                h, keys = ratio * draw(g, d) + g.normal(size=(FAMILY_IMAGES, d)), np.arange(FAMILY_IMAGES)
                for rule, judged_by in rules.items():
                    passed[rule, ratio] += clears(last_look(h, keys, judged_by), judged_by)
        for rule in rules:
            shares = [100 * passed[rule, ratio] / FAMILY_DRAWS for ratio in RATIOS]
            cells.append(" / ".join(f"{share:.0f}" for share in shares))
        out.append(f"| {name} | {' | '.join(cells)} |")
        print(out[-1], flush=True)
    return out


if __name__ == "__main__":
    families({"default-4": profile.load()})
    rows({"first winner": CRITERION, "default-4": profile.load()})
