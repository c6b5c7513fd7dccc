"""Runs of a check over a population of representations, thousands at once: the three statistics at every look.

The numbers are the package's (`images_needed.py` compares some runs), by matrix products instead of a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from robustcheck_onnx.checker.core.evidence import OUTLIER_SD, TOP_FEATURES
from robustcheck_onnx.checker.core.statistics import definitions, intervals
from robustcheck_onnx.checker.core.statistics.state import GROUPS

LOOKS = tuple(n for n in range(1, intervals.HORIZON + 1) if intervals.is_look(n))
N = np.array(LOOKS)[:, None]


class Population(NamedTuple):
    """What the statistics need of each image of a set."""

    z: np.ndarray
    z4: np.ndarray
    energies: np.ndarray
    """(4, image, feature): `definitions.energies`"""


class Runs(NamedTuple):
    """What runs measure, each (look, run) but for the last."""

    strength: np.ndarray
    strength_spread: np.ndarray
    """(2, look, run): SD and skewness, as `intervals.grouped_jackknife`"""
    n_far: np.ndarray
    """images in which the strongest feature is beyond 4 SD on its usual side"""
    sides: np.ndarray
    """(4, look, run): negE, 1 − negE, negE of z, 1 − negE of z, without the features left out at the first look"""
    sides_spread: np.ndarray
    """(2, 4, look, run)"""
    true_sides: np.ndarray
    """(run,) two-sidedness of the population, without each run's own features"""
    keys: tuple[np.ndarray, np.ndarray]
    """(run, image) which image was drawn, and its group"""


Value = TypeVar("Value")


class Values(NamedTuple, Generic[Value]):
    """Strength, outlier frequency and two-sidedness: of a population, their thresholds, or their bounds."""

    strength: Value
    frequency: Value
    two_sidedness: Value


def population(h: np.ndarray) -> Population:
    """Prepare a set."""
    h = np.asarray(h, dtype=np.float64)
    z = definitions.standardise(h)
    energies = np.stack(definitions.energies(h, z))
    return Population(z, z**4, energies)


def top_of(sums: np.ndarray) -> np.ndarray:
    """(run, 3) the strongest features, strongest first, of (run, feature) sums of z⁴."""
    top = np.argpartition(-sums, TOP_FEATURES, axis=1)[:, :TOP_FEATURES]
    order = np.argsort(-np.take_along_axis(sums, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def both_sides(energies: np.ndarray) -> np.ndarray:
    """(4, …) shares of the energy, of (4, …) energies."""
    h, z = energies[1] / energies[0], energies[3] / energies[2]
    return np.stack([h, 1 - h, z, 1 - z])


def truth(p: Population) -> Values[float]:
    """The values of the population itself."""
    (top,) = top_of(p.z4.sum(axis=0)[None])
    strong = p.z[:, top[0]] * np.sign(p.z[:, top[0]].mean())
    left = p.energies.sum(axis=(1, 2)) - p.energies[:, :, top].sum(axis=(1, 2))
    frequency = float((strong > OUTLIER_SD).mean())
    return Values(float(p.z4[:, top].sum() / p.z.size), frequency, float(both_sides(left).min()))


def jackknife(parts: np.ndarray, sizes: np.ndarray, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """(2, run) `intervals.grouped_jackknife` of a function of sums: parts (part, run, group), sizes (run, group)."""
    n = sizes.sum(axis=1, keepdims=True)
    filled, groups = sizes > 0, (sizes > 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = of(parts.sum(axis=2), n[:, 0])
        without = of(parts.sum(axis=2, keepdims=True) - parts, n - sizes)
        h = n / sizes
        jackknifed = groups * whole - np.where(filled, (1 - sizes / n) * without, 0).sum(axis=1)
        away = h * whole[:, None] - (h - 1) * without - jackknifed[:, None]
        variance = np.where(filled, away**2 / (h - 1), 0).sum(axis=1) / groups
        moved = np.where(filled, away / h, 0)
        skewness = (moved**3).sum(axis=1) / (moved**2).sum(axis=1) ** 1.5
    return np.stack([np.sqrt(n[:, 0] * variance), skewness])


def per_run(values: np.ndarray, top: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(…, run, image) the sum over each run's three features of (…, image, feature) values at its images."""
    out = np.empty((*values.shape[:-2], *at.shape))
    kinds, which = np.unique(np.sort(top, axis=1), axis=0, return_inverse=True)
    for kind, features in enumerate(kinds):
        rows = np.flatnonzero(which.ravel() == kind)
        out[..., rows, :] = values[..., features].sum(axis=-1)[..., at[rows]]
    return out


def draw(p: Population, runs: int, rng: np.random.Generator) -> Runs:
    """Draw images with replacement and look at them."""
    (m, d), shape = p.z.shape, (len(LOOKS), runs)
    at, groups = rng.integers(0, m, (runs, LOOKS[-1])), rng.integers(0, GROUPS, (runs, LOOKS[-1]))
    slot, row = groups + GROUPS * np.arange(runs)[:, None], m * np.arange(runs)[:, None]
    out = Runs(
        np.empty(shape), np.empty((2, *shape)), np.empty(shape, dtype=int), np.empty((4, *shape)),
        np.empty((2, 4, *shape)), np.empty(runs), (at, groups),
    )  # fmt: skip
    left: np.ndarray = np.empty(0)
    z4 = p.z4.astype(np.float32)

    def grouped(values: np.ndarray, n: int) -> np.ndarray:
        return np.bincount(slot[:, :n].ravel(), values.ravel(), runs * GROUPS).reshape(runs, GROUPS)

    for look, n in enumerate(LOOKS):
        weights = np.bincount((row + at[:, :n]).ravel(), minlength=runs * m).reshape(runs, m).astype(np.float32)
        top = top_of(weights @ z4)
        if look == 0:  # which features are left out is settled here
            whole = p.energies.sum(axis=2)
            left = whole[:, at] - per_run(p.energies, top, at)
            every = np.broadcast_to(np.arange(m), (runs, m))
            of_all = (whole[:, None, :] - per_run(p.energies, top, every)).sum(axis=2)
            out.true_sides[:] = both_sides(of_all).min(axis=0)
        sizes = grouped(np.ones((runs, n)), n)
        of_top = grouped(per_run(p.z4, top, at[:, :n]), n)[None]
        out.strength[look] = of_top.sum(axis=(0, 2)) / (n * d)
        out.strength_spread[:, look] = jackknife(of_top, sizes, lambda s, k: s[0] / (k * d))
        energies = np.stack([grouped(one[:, :n], n) for one in left])
        out.sides[:, look] = both_sides(energies.sum(axis=2))
        for side, part in ((0, [1, 0]), (2, [3, 2])):
            sd, skewness = jackknife(energies[part], sizes, lambda s, _: s[0] / s[1])
            out.sides_spread[:, side, look], out.sides_spread[:, side + 1, look] = (sd, skewness), (sd, -skewness)
        z = p.z[at[:, :n], top[:, :1]]
        out.n_far[look] = (z * np.sign(z.mean(axis=1, keepdims=True)) > OUTLIER_SD).sum(axis=1)
    return out


LEVEL = 0.05


def _table(bound: Callable[[int, int], float]) -> np.ndarray:
    """(look, count) a bound of a share."""
    return np.array([[bound(s, n) if s <= n else np.nan for s in range(LOOKS[-1] + 1)] for n in LOOKS])


def _radii(alpha: float) -> np.ndarray:
    return np.array([intervals.radius(n, 1.0, alpha) for n in LOOKS])[:, None]


FLOORS = {
    "each": _table(lambda s, n: intervals.share_bounds(s, n, LEVEL)[0]),
    "looks": _table(intervals.share_floor),
}
CEILING = _table(lambda s, n: intervals.share_bounds(s, n, LEVEL / 6)[1])
WIDTHS, UPPER = _radii(LEVEL), _radii(LEVEL / 6)


def depths(spread: np.ndarray, *, of_energies: bool = False) -> np.ndarray:
    """(…, look, run) `intervals.depth` of (2, …, look, run) spreads."""
    q = spread[1]
    z = WIDTHS * np.sqrt(N) if of_energies else intervals.CRITICAL * (1 + intervals.SMALL_SAMPLE / np.sqrt(N))
    q = np.where(np.abs(q) > intervals.NO_SKEWNESS, q, intervals.NO_SKEWNESS)
    return np.asarray(spread[0] / np.sqrt(N) * 3 / q * (np.cbrt(1 + q * (z - q / 6)) - 1))


def lower(r: Runs, bounds: str) -> Values[np.ndarray]:
    """(look, run) lower bounds: for all n (`each`), or for looks."""
    below = [WIDTHS * r.strength_spread[0], WIDTHS * r.sides_spread[0]]
    if bounds == "looks":
        below = [depths(r.strength_spread), depths(r.sides_spread, of_energies=True)]
    floor = FLOORS[bounds][np.arange(len(LOOKS))[:, None], r.n_far]
    return Values(r.strength - below[0], floor, (r.sides - below[1]).min(axis=0))


def upper(r: Runs) -> Values[np.ndarray]:
    """(look, run) upper bounds."""
    ceiling = CEILING[np.arange(len(LOOKS))[:, None], r.n_far]
    sides = (r.sides + UPPER * r.sides_spread[0]).min(axis=0)
    return Values(r.strength + UPPER * r.strength_spread[0], ceiling, sides)


def endings(r: Runs, bounds: str, least: Values[float]) -> tuple[np.ndarray, np.ndarray]:
    """(run,) which runs pass, and the image count at which each ends."""
    above = np.all([low > t for low, t in zip(lower(r, bounds), least, strict=True)], axis=0)
    below = np.any([high < t for high, t in zip(upper(r), least, strict=True)], axis=0)
    over = above | below
    first = over.argmax(axis=0)
    return above[first, np.arange(above.shape[1])], np.where(over.any(axis=0), N[first, 0], LOOKS[-1])


def passes_truth(r: Runs, bounds: str, true: Values[float]) -> Values[float]:
    """Share of runs in which a lower bound is ever above the truth; the two-sidedness's is that of its own features."""
    truths = (true.strength, true.frequency, r.true_sides)
    return Values(*(float((low > t).any(axis=0).mean()) for low, t in zip(lower(r, bounds), truths, strict=True)))
