"""Average precision along many directions, against the definition step by step and closed forms."""

import numpy as np
import numpy.typing as npt
import pytest

from robustcheck_onnx.checker.concepts.directions import average_precisions, rank

Array = npt.NDArray[np.float64]


def by_definition(has: npt.NDArray[np.bool_], scores: Array) -> float:
    """Σ (R_n − R_{n−1})·P_n over the distinct scores, highest first."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        true = int((chosen & has).sum())
        total += (true / int(has.sum()) - recall) * true / int(chosen.sum())
        recall = true / int(has.sum())
    return total


def one(has: list[int], scores: list[float]) -> tuple[float, float]:
    along, against = average_precisions(rank(np.array([scores])), np.flatnonzero(has)[np.newaxis])
    return float(along[0, 0]), float(against[0, 0])


def test_it_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    drawn, positives = rng.normal(size=(7, 50)), np.array([rng.permutation(50)[:11] for _ in range(6)])
    for decimals in (9, 1, 0):  # no, few and many ties
        scores = np.round(drawn, decimals)
        assert (rank(scores).at_most is not None) == (decimals < 9)
        along, against = average_precisions(rank(scores), positives)
        assert along.shape == against.shape == (7, 6)
        for d, row in enumerate(scores):
            for a, images in enumerate(positives):
                has = np.isin(np.arange(50), images)
                assert along[d, a] == pytest.approx(by_definition(has, row), abs=1e-14)
                assert against[d, a] == pytest.approx(by_definition(has, -row), abs=1e-14)


def test_closed_forms() -> None:
    # the example of scikit-learn's documentation: precision 1 at recall ½, 2/3 at recall 1
    assert one([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])[0] == pytest.approx((1 + 2 / 3) / 2)
    # all positives first: 1; all last, of n = 6 with 2: (1/5 + 2/6) / 2
    assert one([1, 1, 0, 0, 0, 0], [6, 5, 4, 3, 2, 1]) == pytest.approx((1.0, (1 / 5 + 2 / 6) / 2))
    # one score for all: the share of positives, along and against
    assert one([1, 0, 0, 1, 0], [2, 2, 2, 2, 2]) == pytest.approx((0.4, 0.4))
    # every image a positive: 1 in every order
    assert one([1, 1, 1], [3, 1, 2]) == (1.0, 1.0)
    # a tie across the border: a positive and a negative share the first place
    assert one([1, 0, 0], [5, 5, 1])[0] == pytest.approx(1 / 2)
