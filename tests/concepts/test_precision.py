"""Average precision along many directions, against the definition step by step."""

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


def test_one_score_for_all_and_every_image_a_positive() -> None:
    assert one([1, 0, 0, 1, 0], [2, 2, 2, 2, 2]) == pytest.approx((0.4, 0.4))  # the share of positives
    assert one([1, 1, 1], [3, 1, 2]) == (1.0, 1.0)
