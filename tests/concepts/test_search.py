"""Directions, planted concepts found along them, and average precision against its definition."""

import itertools

import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal

from robustcheck_onnx.checker.concepts import directions, run
from robustcheck_onnx.checker.concepts.directions import average_precisions, rank, search
from support import Patch, normal
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
    assert found.vectors is not None
    assert_allclose(np.vstack(scores), (h.astype(float) @ found.vectors).T)


def test_planted_concepts_are_found_where_they_are(monkeypatch: Patch) -> None:
    """Two concepts along feature 3 (one against it), one along 5, one nowhere; in blocks of a few numbers."""
    monkeypatch.setattr("robustcheck_onnx.checker.concepts.directions.AT_ONCE", 100)
    rng = default_rng(3)
    h = rng.normal(size=(120, 70))
    names = ["high", "low", "other", "nothing"]
    positives = [np.arange(20), np.arange(30, 55), rng.permutation(120)[:15], rng.permutation(120)[:40]]
    for images, feature, by in zip(positives, (3, 3, 5), (12, -12, 12), strict=False):
        h[images, feature] += by
    done: list[int] = []
    features = directions.of_features(70)
    measured = search(h, features, positives, n_shuffles=60, seed=0, progress=done.append)
    assert done == [64, 70]
    *told_of, nothing = directions.judge(measured, names, [20, 25, 15, 40])
    assert [(each.name, each.best[0].direction, each.best[0].sign) for each in told_of if each.established] == [
        ("high", 3, 1), ("low", 3, -1), ("other", 5, 1),
    ]  # fmt: skip
    assert (told_of[0].ap, told_of[0].p, told_of[0].n_directions) == (1.0, 1 / 61, 1)
    assert (nothing.encoded, nothing.p > 0.05) == (False, True)
    told = directions.directions_told(measured, names, features, "the features")
    assert {each.direction: {*each.concepts} for each in told.telling} == {3: {"high", "low"}, 5: {"other"}}
    assert (told.n, told.n_telling, told.n_polysemantic) == (70, 2, 1)
    facts = directions.chance_facts(measured, 0)
    assert (sum(facts.shuffled), sum(facts.measured), facts.shuffles, len(facts.edges)) == (240, 4, 60, 21)
    # the same numbers without blocks
    found = average_precisions(rank(h.T.copy()), positives[3][np.newaxis])
    assert_array_equal(measured.ap[3], np.max(found, axis=0)[:, 0])


def test_concepts_that_cannot_be_judged() -> None:
    present = np.arange(30)[:, np.newaxis] < (10, 9, 25, 30)
    judged, others = run.split(present, ["ten", "nine", "most", "all"], 10)
    assert judged == [0]
    assert [(each.name, each.n_images, each.reason) for each in others] == [
        ("nine", 9, "9 images with it; 10 are needed"),
        ("most", 25, "5 without it; 10 are needed"),
        ("all", 30, "0 without it; 10 are needed"),
    ]


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
