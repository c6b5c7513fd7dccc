"""docs/statistics.md, written from the page alone with NumPy, against the package on drawn representations."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from robustcheck_onnx.checker.core.statistics.definitions import effective_rank, relative_variance
from robustcheck_onnx.checker.core.statistics.state import State, merge, statistics, update
from robustcheck_onnx.thresholds.statistics import Bounds
from support import read_text

Array = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.integer[Any]]]
BOUNDS = read_text("docs/statistics.md").partition("## Confidence bounds")[2]
C = {name: float(value) for name, value in re.findall(r"`(\w+) = ([\d.]+)`", BOUNDS)}


class Page:
    """The quantities of usable representations, named as the package names them."""

    def __init__(self, h: Array, strongest: Indices | None = None, first: Indices | None = None) -> None:
        n, d = h.shape
        z = (h - h.mean(1, keepdims=True)) / h.std(1, keepdims=True)
        share = (z**4).mean(0) / (d * (z**4).mean())
        self.per_image = (z**4).mean(1)
        self.kurtosis = self.per_image.mean()
        self.strongest = np.argsort(-share)[:3] if strongest is None else strongest
        self.first = np.argsort(-(z[:50] ** 4).sum(0))[:3] if first is None else first
        self.top3_share = share[self.strongest].sum()
        self.strength = (z**4).mean(0)[self.strongest].sum() / d
        usual = np.where(z.mean(0) >= 0, 1, -1) * z
        self.count = int((usual[:, self.strongest[0]] > 4).sum())
        self.persistent = {int(j) for j in np.flatnonzero((usual > 4).mean(0) >= 0.5)}
        centred = z - z.mean(0)
        self.centred_kurtosis = (centred**4).mean() / (centred**2).mean() ** 2
        self.persistence_ratio = self.kurtosis / self.centred_kurtosis
        s2 = (z**2).mean(0)
        self.rms_kurtosis = (s2**2).mean() / s2.mean() ** 2
        y = z - np.median(z, axis=1, keepdims=True)
        self.negative_energy, self.negative_z_energy = (negative(x, self.strongest) for x in (h, y))
        one, other = (negative(x, self.first) for x in (h, y))
        self.sides = np.array([one, 1 - one, other, 1 - other])
        rest = np.delete(np.arange(d), self.strongest)
        self.spread = (centred[:, rest] ** 2).sum() / (z[:, rest] ** 2).sum()
        medians = np.median(np.abs(h), axis=1)
        self.max_median_ratio = (np.abs(h).max(1) / medians).mean() if medians.all() else 0.0
        ranks = np.sort(self.per_image)[np.linspace(0, n - 1, min(n, 1000)).round().astype(int)]
        self.distinct_share = (1 + (np.diff(ranks) > 1e-6 * ranks[1:]).sum()) / len(ranks)


def negative(x: Array, left_out: Indices) -> float:
    rest = np.delete(x, left_out, axis=1)
    return float((np.minimum(rest, 0) ** 2).sum() / (rest**2).sum())


def content(h: Array) -> tuple[float, float]:
    u = h / np.linalg.norm(h, axis=1, keepdims=True)
    energy = np.linalg.svd(u - u.mean(0), compute_uv=False) ** 2
    p = energy[energy > 0] / energy.sum()
    return float(np.exp(-(p * np.log(p)).sum())), float(1 - (u.mean(0) ** 2).sum())


def spread_and_skewness(whole: Array, without: Array, m: Array) -> tuple[Array, Array]:
    """Of each statistic: whole (statistic,), without (group, statistic), m (group,)."""
    n, g, h = m.sum(), len(m), (m.sum() / m)[:, None]
    p = h * whole - (h - 1) * without
    joint = g * whole - ((1 - m[:, None] / n) * without).sum(0)
    r = (p - joint) / h
    return np.sqrt(n / g * ((p - joint) ** 2 / (h - 1)).sum(0)), (r**3).sum(0) / (r**2).sum(0) ** 1.5


def sequence(n: int, a: float) -> float:
    v = (-2 * math.log(a) + math.log(1 - 2 * math.log(a))) / 50
    return math.sqrt(2 * (n * v + 1) / (n * n * v) * math.log(math.sqrt(n * v + 1) / a)) * (1 + C["w"] / math.sqrt(n))


def crossing(inside: float, outside: float, is_beyond: Callable[[float], bool]) -> float:
    for _ in range(100):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_beyond(middle) else (middle, outside)
    return outside


def edge_of_density(s: int, n: int, a: float, end: float) -> float:
    """Return where the density of Beta(s + 1, n − s + 1) falls below a, from s/n to an end."""
    ways = math.log(n + 1) + math.log(math.comb(n, s))

    def is_beyond(p: float) -> bool:
        return ways + (s * math.log(p) if s else 0) + ((n - s) * math.log1p(-p) if n > s else 0) < math.log(a)

    return end if s / n == end else crossing(s / n, end, is_beyond)


def rate_of_tail(s: int, n: int, level: float) -> float:
    """Return the p at which s or more of n have this probability."""

    def is_beyond(p: float) -> bool:
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(s, n + 1)) < level

    return 0.0 if s == 0 else crossing(s / n, 0.0, is_beyond)


def bounds_of(h: Array, groups: Indices, kind: Bounds) -> dict[str, tuple[float, float, float]]:
    """Return the estimate and both bounds of each statistic that has an interval."""
    page, n, d = Page(h), len(h), h.shape[1]
    names = ("strength", "kurtosis", "persistence_ratio", "top3_share", "negative_energy", "negative_z_energy")
    ends = np.array([d, d, np.inf, 1, 1, 1, *[0.5] * 4])

    def values(of: Page) -> Array:
        return np.array([*(getattr(of, name) for name in names), *of.sides])

    ids, m = np.unique(groups, return_counts=True)
    without = np.array([values(Page(h[groups != j], page.strongest, page.first)) for j in ids])
    whole = values(page)
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing moves
        sd, q = spread_and_skewness(whole, without, m.astype(float))
    sd[names.index("kurtosis")] = page.per_image.std(ddof=1)
    at_looks = kind == "looks" and C["first"] <= n <= C["last"]
    of_energies = np.arange(len(whole)) >= names.index("negative_energy")
    z = np.where(of_energies, math.sqrt(n) * sequence(n, C["energies"]), C["c"] * (1 + C["w"] / math.sqrt(n)))
    lower = {"each": 0.05, "looks": C["beyond"]}[kind]
    q = np.where(np.abs(q) > 1e-6, q, np.nan)
    skewed = np.where(np.isnan(q), z, 3 / q * (np.cbrt(1 + q * (z - q / 6)) - 1)) / math.sqrt(n)
    depth = np.where(at_looks | ((kind == "looks") & of_energies), skewed, sequence(n, lower))
    low, high = np.maximum(whole - sd * depth, 0), np.minimum(whole + sd * sequence(n, 0.05 / 6), ends)
    out = {name: (whole[i], low[i], high[i]) for i, name in enumerate(names)}
    out["two_sidedness"] = (whole[6:].min(), low[6:].min(), high[6:].min())
    level = math.erfc(C["c"] / math.sqrt(2)) / 2
    least = rate_of_tail(page.count, n, level) if at_looks else edge_of_density(page.count, n, lower, 0.0)
    out["outlier_frequency"] = (page.count / n, least, edge_of_density(page.count, n, 0.05 / 6, 1.0))
    return out


def drawn(seed: int, n: int) -> Array:
    """Draw representations of one of four kinds, with an outlier feature that grows in later images."""
    rng, d = default_rng(seed), 48
    h = rng.standard_t(6, size=(n, d)) * rng.lognormal(0, 0.4, d) + rng.normal(0, 0.3, d)
    h[:, 5] += rng.choice([-1, 1]) * rng.normal(12, 4, n)
    h[60:, [7, 8]] -= 25.0
    match seed % 4:
        case 1:
            h = np.maximum(h, 0)
        case 2:
            h = h[rng.integers(0, n, n)] * rng.lognormal(0, 1, (n, 1))
        case 3:
            h -= 1.5
    return h


@pytest.mark.parametrize("kind", ["looks", "each"])
@pytest.mark.parametrize(("seed", "n"), [(0, 30), (1, 50), (2, 64), (3, 171), (4, 288), (5, 300), (7, 50)])
def test_the_page_is_enough_to_compute_what_the_package_computes(seed: int, n: int, kind: Bounds) -> None:
    h = drawn(seed, n)
    keys = default_rng(seed).integers(0, 2**32, n)
    broken = np.array([[np.nan, *range(47)], [3.0] * 48, [np.inf, *range(47)]])
    state = State(48)
    for batch, ids in zip(np.array_split(h, 7), np.array_split(keys, 7), strict=True):
        update(state, np.vstack([broken, batch]), [1, 2, 3, *ids])
    got, page = statistics(state, 0.05, kind), Page(h)
    assert (got.n_images, got.n_nonfinite, got.n_constant) == (n, 14, 7)
    for name in ("centred_kurtosis", "rms_kurtosis", "spread", "distinct_share", "max_median_ratio"):
        assert (getattr(got, name) or 0.0) == pytest.approx(getattr(page, name), rel=1e-9), name
    assert [f.index for f in got.features[:3]] == page.strongest.tolist()
    assert {f.index for f in got.persistent} == page.persistent
    for name, want in bounds_of(h, keys % 128, kind).items():
        interval = getattr(got, name)
        assert (interval.estimate, interval.low, interval.high) == pytest.approx(want, rel=1e-7, abs=1e-12), name
    assert (effective_rank(h[:50]), relative_variance(h[:50])) == pytest.approx(content(h[:50]))
    halves = [State(48), State(48)]
    for half, rows in zip(halves, np.array_split(np.arange(n), 2), strict=True):
        update(half, h[rows], keys[rows])
    merged = statistics(merge(*halves), 0.05, kind).two_sidedness.estimate
    assert merged == pytest.approx(Page(h, first=page.strongest).sides.min())
