"""Average precision along many directions, against the definition step by step."""

import itertools

import numpy as np

from robustcheck_onnx.checker.concepts.directions import average_precisions, rank
from support.scan_truth import Array


def by_definition(has: Array, scores: Array) -> float:
    """Σ (R_n − R_{n−1})·P_n over the distinct scores, highest first."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        true = int((chosen & has).sum())
        total += (true / int(has.sum()) - recall) * true / int(chosen.sum())
        recall = true / int(has.sum())
    return total


def test_it_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    drawn, orders = rng.normal(size=(7, 50)), np.array([rng.permutation(50) for _ in range(6)])
    for decimals, n_positives in itertools.product((9, 1, 0, -2), (11, 50)):  # no, few, many ties, one score for all
        scores, positives = np.round(drawn, decimals), orders[:, :n_positives]
        assert (rank(scores).at_most is not None) == (decimals < 9)
        found = average_precisions(rank(scores), positives)
        has = np.array([np.isin(np.arange(50), images) for images in positives])
        truth = [[[by_definition(each, sign * row) for each in has] for row in scores] for sign in (1, -1)]
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-14)
    np.testing.assert_allclose(truth, 1)
