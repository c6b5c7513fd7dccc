"""Directions, concepts found along them, average precision by its definition, and what chance gives."""

import itertools

import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal

from robustcheck_onnx.checker.questions.concepts import directions, document, run
from robustcheck_onnx.checker.questions.concepts.directions import (
    SearchResult,
    average_precisions,
    of_features,
    rank,
    search,
)
from robustcheck_onnx.checker.questions.concepts.document import NotJudged
from support import Patch, normal, sized
from support.comparisons import Array, rotation


def test_a_head_has_as_many_directions_as_its_weight_has_rank() -> None:
    weight = normal(5, 8)
    for rows, n in ((weight, 5), (np.vstack([weight, weight]), 5), (np.zeros((3, 8)), 0)):
        assert directions.of_head(rows).n == n


def test_principal_axes_and_features() -> None:
    h = (normal(60, 4) * [9, 5, 2, 1] @ rotation(4) + 7).astype(np.float32)
    found = directions.of_axes(h)
    _, values, rows = np.linalg.svd(h - h.mean(axis=0), full_matrices=False)
    assert_allclose(np.array(found.strengths, float), values / np.sqrt(60), rtol=1e-4)
    assert_allclose(np.abs(rows @ np.array(found.vectors, float)), np.eye(4), atol=1e-4)
    assert directions.of_axes(h[:3]).n == 2  # three images lie in a plane
    assert directions.of_axes(np.ones((5, 4), np.float32)).n == 0
    ((_, scores),) = directions.of_features(4).blocks(h)
    assert_array_equal(scores, h.T.astype(np.float64))


def test_scores_of_all_blocks_are_the_projections(monkeypatch: Patch) -> None:
    monkeypatch.setattr(directions, "BLOCK", 3)
    monkeypatch.setattr(directions, "ROWS", 4)
    h, found = normal(10, 8).astype(np.float32), directions.of_head(normal(7, 8, seed=1))
    starts, scores = zip(*found.blocks(h), strict=True)
    assert starts == (0, 3, 6)
    assert_allclose(np.vstack(scores), (h.astype(float) @ np.array(found.vectors, float)).T)


def test_planted_concepts_are_found_where_they_are(monkeypatch: Patch) -> None:
    """Two concepts along feature 3 (one against it), one along 5, one nowhere; in blocks of a few numbers."""
    monkeypatch.setattr("robustcheck_onnx.checker.questions.concepts.directions.BLOCK_VALUES", 100)
    rng = default_rng(3)
    h = rng.normal(size=(120, 70))
    names = ["high", "low", "other", "nothing"]
    positives = [np.arange(20), np.arange(30, 55), rng.permutation(120)[:15], rng.permutation(120)[:40]]
    for images, feature, by in zip(positives, (3, 3, 5), (12, -12, 12), strict=False):
        h[images, feature] += by
    done, features = list[int](), directions.of_features(70)
    measured = search(h, features, positives, n_shuffles=60, seed=0, progress=done.append)
    assert done == [64, 70]
    *told_of, nothing = directions.judge(measured, names, [20, 25, 15, 40])
    established = [(each.name, each.best[0].direction, each.best[0].sign) for each in told_of if each.established]
    assert established == [("high", 3, 1), ("low", 3, -1), ("other", 5, 1)]
    assert (told_of[0].ap, told_of[0].p, told_of[0].n_directions) == (1.0, 1 / 61, 1)
    assert (nothing.encoded, nothing.p > 0.05) == (False, True)
    told = directions.direction_facts(measured, names, features, "the features")
    assert {each.direction: {*each.concepts} for each in told.telling} == {3: {"high", "low"}, 5: {"other"}}
    assert (told.n, told.n_telling, told.n_polysemantic) == (70, 2, 1)
    facts = directions.chance_facts(measured, 0)
    assert (sum(facts.shuffled), sum(facts.measured), facts.shuffles, len(facts.edges)) == (240, 4, 60, 21)
    # the same numbers without blocks
    found = average_precisions(rank(h.T.copy()), positives[3][np.newaxis])
    assert_array_equal(measured.ap[3], np.max(found, axis=0)[:, 0])


def test_concepts_that_cannot_be_judged() -> None:
    present = np.arange(30)[:, np.newaxis] < (10, 9, 25, 30)
    few = {"nine": (9, "9 images with it"), "most": (25, "5 without it"), "all": (30, "0 without it")}
    others = [NotJudged(name=name, n_images=n, reason=f"{said}; 10 are needed") for name, (n, said) in few.items()]
    assert run.split(present, ["ten", *few], 10) == ([0], (*others,))


def by_definition(has: Array, scores: Array) -> float:
    """Σ (R_n − R_{n−1})·P_n over the distinct scores, highest first."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        true = int((chosen & has).sum())
        total += (true / int(has.sum()) - recall) * true / int(chosen.sum())
        recall = true / int(has.sum())
    return total


def test_average_precision_is_its_definition() -> None:
    drawn, orders = normal(7, 50), np.argsort(normal(6, 50, seed=1), axis=1)
    for decimals, n_positives in itertools.product((9, 1, 0, -2), (11, 50)):  # no, few, many ties, one score for all
        scores, positives = np.round(drawn, decimals), orders[:, :n_positives]
        assert (rank(scores).at_most is not None) == (decimals < 9)
        found = average_precisions(rank(scores), positives)
        has = np.array([np.isin(np.arange(50), images) for images in positives])
        truth = [[[by_definition(each, sign * row) for each in has] for row in scores] for sign in (1, -1)]
        assert_allclose(found, truth, rtol=0, atol=1e-14)
    assert_allclose(truth, 1)


def noise(seed: int, n: int, d: int, counts: list[int], n_shuffles: int = 99, *, times: int = 1) -> SearchResult:
    """Representations and labels that have nothing to do with each other; each label so many times."""
    rng = default_rng(seed)
    positives = [rng.permutation(n)[:count] for count in counts] * times
    return search(rng.normal(size=(n, d)), of_features(d), positives, n_shuffles=n_shuffles, seed=seed)


def test_the_error_rate_on_noise_is_the_nominal_one() -> None:
    """5 % of sets without any relation have a concept beyond chance: rare, common and frequent ones together.

    One concept six times is one question: a correction that counts it as six would be far below the rate.
    """
    for runs, n, d, counts, times in ((sized(150, 500), 50, 6, [5, 12, 40], 1), (sized(100, 300), 40, 4, [10], 6)):
        found = [noise(seed, n, d, counts, times=times).chance.p <= document.ERROR_RATE for seed in range(runs)]
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
    chance = directions.compare(np.array([0.5, 0.9]), np.full((19, 2), 0.5))
    assert (chance.needed.tolist(), chance.p.tolist()) == ([0.5, 0.5], [1.0, 0.05])


def test_a_small_set_makes_no_discoveries() -> None:
    """6 of 14 images and 3000 directions of noise: AP 0.9 is easy, and nothing is beyond chance."""
    measured = noise(1, 14, 3000, [6, 6, 7], n_shuffles=40)
    found = directions.judge(measured, ["a", "b", "c"], [6, 6, 7])
    assert [(each.encoded, each.established) for each in found] == [(True, False)] * 3  # three without chance
    assert all(each.chance[0] >= 0.9 and each.p > 0.05 for each in found)
    assert directions.direction_facts(measured, ["a", "b", "c"], of_features(3000), "").telling == ()
