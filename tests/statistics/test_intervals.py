"""Confidence bounds that hold at every look."""

import math

import numpy as np
import pytest

from robustcheck_onnx.checker.statistics import intervals

ALPHA = 0.05


def test_the_bounds_are_tightest_at_a_look() -> None:
    assert (intervals.LOOK_EVERY, intervals.TUNED_FOR) == (32, 64)
    assert intervals.TUNED_FOR % intervals.LOOK_EVERY == 0


def test_radius_is_the_formula_of_the_paper_widened_for_few_images() -> None:
    n, sd = 64, 2.0
    rho = math.sqrt((-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA) + 1)) / 64)
    want = sd * math.sqrt(2 * (n * rho**2 + 1) / (n**2 * rho**2) * math.log(math.sqrt(n * rho**2 + 1) / ALPHA))
    want *= 1 + 2 / math.sqrt(n)
    assert intervals.radius(n, sd, ALPHA) == pytest.approx(want, rel=1e-12)


def test_radius_is_wider_than_a_fixed_time_interval_and_shrinks() -> None:
    assert intervals.radius(64, 1.0, ALPHA) > 1.96 / 8
    assert intervals.radius(6400, 1.0, ALPHA) < intervals.radius(640, 1.0, ALPHA) < intervals.radius(64, 1.0, ALPHA)


def test_unknown_spread_gives_no_bound() -> None:
    assert intervals.radius(64, math.nan, ALPHA) == math.inf


def test_jackknife_of_a_mean_with_single_images_is_the_sample_sd() -> None:
    x = np.random.default_rng(0).normal(size=40)
    without = (x.sum() - x) / 39
    got = intervals.grouped_jackknife_sd(float(x.mean()), without, np.ones(40))
    assert got == pytest.approx(float(x.std(ddof=1)), rel=1e-10)


def test_jackknife_with_unequal_groups_estimates_the_sd() -> None:
    rng = np.random.default_rng(0)
    sizes = np.tile([10.0, 20.0], 50)
    estimates = []
    for _ in range(200):
        groups = [rng.normal(0, 3, int(m)) for m in sizes]
        total, n = sum(g.sum() for g in groups), sizes.sum()
        without = np.array([(total - g.sum()) / (n - m) for g, m in zip(groups, sizes, strict=True)])
        estimates.append(intervals.grouped_jackknife_sd(total / n, without, sizes))
    assert np.mean(estimates) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_jackknife_of_an_undefined_statistic_is_undefined(bad: float) -> None:
    assert math.isnan(intervals.grouped_jackknife_sd(1.0, np.array([1.0, bad]), np.ones(2)))
    assert math.isnan(intervals.grouped_jackknife_sd(1.0, np.array([1.0]), np.ones(1)))


@pytest.mark.parametrize(
    ("name", "draw", "mean"),
    [
        ("light", lambda g, s: g.uniform(0, 1, s), 0.5),
        ("normal", lambda g, s: g.normal(10, 3, s), 10.0),
        ("heavy", lambda g, s: g.lognormal(0, 1, s), math.exp(0.5)),
        ("heavier", lambda g, s: g.pareto(3, s) + 1, 1.5),
    ],
)
def test_wrong_stops_stay_below_alpha(name: str, draw: object, mean: float) -> None:
    """A threshold exactly at the true mean: every stop is wrong. Looks from 64 to 2,048 images, every 32."""
    rng = np.random.default_rng(11)
    runs, most = 2000, 2048
    x = draw(rng, (runs, most))  # type: ignore[operator]
    looks = np.arange(64, most + 1, 32)
    n = looks[None, :]
    s1, s2 = np.cumsum(x, axis=1)[:, looks - 1], np.cumsum(x**2, axis=1)[:, looks - 1]
    sd = np.sqrt((s2 - s1**2 / n) / (n - 1))
    # one of four statistics gets a quarter of alpha, exactly as in evidence.statistics
    radius = np.array([intervals.radius(int(m), 1.0, ALPHA / 4) for m in looks]) * sd
    too_high = ((s1 / n - radius) > mean).any(axis=1).mean()  # "above the threshold": the way to a false PASS
    wrong = (np.abs(s1 / n - mean) > radius).any(axis=1).mean()
    assert too_high <= ALPHA / 4
    assert wrong <= ALPHA, name
