"""What chance gives: the error rate on pure noise, the correction against a plain script, sets too small to tell."""

import numpy as np
from numpy.random import default_rng

from robustcheck_onnx.checker.concepts import directions
from robustcheck_onnx.checker.concepts.directions import Measured, of_features, search
from support import normal, sized
from support.comparisons import Array


def noise(seed: int, n: int, d: int, counts: list[int], n_shuffles: int = 99, *, times: int = 1) -> Measured:
    """Representations and labels that have nothing to do with each other; each label so many times."""
    rng = default_rng(seed)
    positives = [rng.permutation(n)[:count] for count in counts] * times
    return search(rng.normal(size=(n, d)), of_features(d), positives, n_shuffles=n_shuffles, seed=seed)


def test_the_error_rate_on_noise_is_the_nominal_one() -> None:
    """5 % of sets without any relation have a concept beyond chance: rare, common and frequent ones together.

    One concept six times is one question: a correction that counts it as six would be far below the rate.
    """
    for runs, n, d, counts, times in ((sized(150, 500), 50, 6, [5, 12, 40], 1),
                                      (sized(100, 300), 40, 4, [10], 6)):  # fmt: skip
        found = [noise(seed, n, d, counts, times=times).chance.p <= directions.ERROR_RATE for seed in range(runs)]
        rate = np.mean([each.any() for each in found])
        assert abs(rate - 0.05) < 3.3 * np.sqrt(0.05 * 0.95 / runs), times  # three in a thousand such tests fail


def by_hand(best: Array, shuffled: Array) -> list[float]:
    """p-values, row by row."""
    rows = np.vstack([best, shuffled])
    others = [np.delete(rows, i, axis=0) for i in range(len(rows))]
    first, *largest = [(row - other.mean(0)) / other.std(0) for row, other in zip(rows, others, strict=True)]
    return [(1 + sum(max(each) >= t for each in largest)) / len(rows) for t in first]


def test_p_values_and_needed_are_those_of_a_plain_script() -> None:
    """What is needed is where the p-value of a plain script falls to 0.05, were it the AP of that concept."""
    for n_shuffles, n_concepts in ((19, 1), (19, 4), (39, 4), (200, 1), (200, 4)):
        rng = default_rng(n_shuffles)
        for _ in range(sized(2, 5)):
            best, shuffled = rng.beta(5, 3, n_concepts), rng.beta(4, 8, (n_shuffles, n_concepts))
            chance = directions.compare(best, shuffled)
            np.testing.assert_allclose(chance.p, by_hand(best, shuffled))
            assert ((best > chance.needed) == (chance.p <= 0.05)).all()
            for index, needed in enumerate(chance.needed):
                for ap, is_beyond in ((min(needed, 1.0) - 1e-9, False), (min(needed + 1e-9, 1.0), needed <= 1.0)):
                    if_ap = np.where(np.arange(n_concepts) == index, ap, best)
                    assert (by_hand(if_ap, shuffled)[index] <= 0.05) == is_beyond


def test_one_strong_direction_does_not_lower_the_bar_for_the_others() -> None:
    """A concept that direction 0 tells perfectly: 49 directions of noise are beyond chance in 5 % of the sets."""
    runs, wrong = sized(100, 300), 0
    for seed in range(runs):
        h = normal(60, 50, seed=seed)
        h[:20, 0] += 20
        measured = search(h, of_features(50), [np.arange(20)], n_shuffles=39, seed=seed)
        assert measured.ap[0, 0] == 1.0
        wrong += bool((measured.ap[0, 1:] > measured.chance.needed[0]).any())
    assert wrong / runs < 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / runs), wrong


def test_an_ap_that_no_shuffle_moves() -> None:
    """Every image is like every other: chance gives one AP, and only more than that is beyond it."""
    shuffled = np.full((19, 2), 0.5)
    chance = directions.compare(np.array([0.5, 0.9]), shuffled)
    assert chance.needed.tolist() == [0.5, 0.5]
    assert chance.p.tolist() == [1.0, 0.05]


def test_a_small_set_makes_no_discoveries() -> None:
    """6 of 14 images and 3000 directions of noise: AP 0.9 is easy, and nothing is beyond chance."""
    measured = noise(1, 14, 3000, [6, 6, 7], n_shuffles=40)
    found = directions.judge(measured, ["a", "b", "c"], [6, 6, 7])
    assert [each.encoded for each in found] == [True] * 3  # what a count without chance would print
    assert not any(each.established for each in found)
    assert all(each.chance[0] >= 0.9 and each.p > 0.05 for each in found)
    assert directions.directions_told(measured, ["a", "b", "c"], of_features(3000), "").telling == ()
