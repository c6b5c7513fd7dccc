"""The simulation of a calibration on many workers, where it has a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from support import benchmark_scripts

simulation = benchmark_scripts.load("simulation")
Cluster, Model, simulate = simulation.Cluster, simulation.Model, simulation.simulate


def seconds(models: list[object], cluster: object, seed: int = 0) -> float:
    return float(simulate(models, cluster, np.random.default_rng(seed)))


def test_one_worker_takes_the_sum() -> None:
    models = [Model(3, 2.0, 10.0), Model(1, 2.0, 7.0)]
    assert seconds(models, Cluster(1, start_s=4.0)) == pytest.approx(4 + 2 + 30 + 2 + 7)
    assert seconds(models, Cluster(1, start_s=4.0, driver_s=0.5)) == pytest.approx(45 + 4 * 0.5)


def test_workers_share_the_shards_where_they_may() -> None:
    one = [Model(8, 1.0, 10.0)]
    assert seconds(one, Cluster(4)) == pytest.approx(1 + 2 * 10)  # each opens the model, and takes two shards
    assert seconds(one, Cluster(4, helps=False)) == pytest.approx(1 + 8 * 10)
    assert seconds([Model(2, 0.0, 5.0), Model(6, 0.0, 5.0)], Cluster(2)) == pytest.approx(20.0)


def test_a_driver_that_is_slower_than_the_workers_is_the_floor() -> None:
    assert seconds([Model(20, 0.0, 1.0)], Cluster(10, driver_s=2.0)) == pytest.approx(1 + 20 * 2.0)


def test_a_long_shard_holds_nobody_up() -> None:
    """The driver takes shards as they are done, not as they were begun."""
    models = [Model(1, 0.0, 100.0), Model(9, 0.0, 10.0)]
    assert seconds(models, Cluster(2, driver_s=1.0, helps=False)) == pytest.approx(101.0)  # 9 × 11 = 99 meanwhile
    assert seconds([Model(3, 0.0, 10.0, first_s=5.0)], Cluster(1)) == pytest.approx(35.0)


def test_a_straggler_takes_its_last_shard_last() -> None:
    models = [Model(1, 0.0, 10.0), Model(1, 0.0, 10.0)]
    assert seconds(models, Cluster(2, slow_share=0.5, slow_factor=3.0)) == pytest.approx(30.0)


def test_failures_cost_what_the_formula_says() -> None:
    """Of a task of d seconds that is begun again after each failure: (1/λ + r)(e^{λd} − 1) seconds in the mean."""
    d, restart, rate = 100.0, 30.0, 1 / 80
    cluster = Cluster(1, start_s=restart, failures_an_hour=3600 * rate)
    runs = [seconds([Model(1, 0.0, d)], cluster, seed) for seed in range(4000)]
    expected = restart + (1 / rate + restart) * math.expm1(rate * d)
    assert np.mean(runs) == pytest.approx(expected, abs=float(4 * np.std(runs) / math.sqrt(len(runs))))


def test_what_a_failed_worker_had_begun_is_not_lost() -> None:
    cluster = Cluster(3, start_s=1.0, failures_an_hour=200.0, helps=False)
    models = [Model(4, 1.0, 5.0)] * 5
    least = sum(model.open_s + model.n_shards * model.shard_s for model in models) / 3
    assert all(seconds(models, cluster, seed) >= least for seed in range(50))


def test_the_spread_is_drawn_from_what_was_measured() -> None:
    runs = [seconds([Model(100, 0.0, 1.0)], Cluster(1, spread=(0.5, 1.5, 4.0)), seed) for seed in range(50)]
    assert np.mean(runs) == pytest.approx(200, rel=0.03)
