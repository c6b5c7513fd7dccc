"""Top-1 accuracy: intervals against SciPy and Newcombe's own table, predictions against NumPy's argmax."""

import numpy as np
from numpy.testing import assert_allclose
from scipy import stats

from robustcheck_onnx.checker.shift.robustness import difference
from robustcheck_onnx.checker.shift.sets import is_correct
from robustcheck_onnx.checker.statistics.definitions import wilson
from support import raised


def test_the_interval_is_scipys_wilson() -> None:
    for n_correct, n in [(0, 1), (1, 1), (0, 40), (33, 40), (25_000, 50_000), (199, 200)]:
        found = wilson(n_correct, n)
        truth = stats.binomtest(n_correct, n).proportion_ci(0.95, method="wilson")
        assert_allclose([found.low, found.value, found.high], [truth.low, n_correct / n, truth.high], atol=1e-12)
        assert found.low <= found.value <= found.high


def test_a_share_of_nothing_is_refused() -> None:
    for n_correct, n in [(0, 0), (-1, 3), (4, 3)]:
        raised(ValueError, "between 0 and n", wilson, n_correct, n)


def test_the_difference_is_newcombes() -> None:
    for first, second, low, high in [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ]:
        found = difference(wilson(*first), wilson(*second))
        assert_allclose([found.low, found.high], [low, high], atol=6e-5)


def test_a_prediction_is_the_largest_of_the_competing_scores() -> None:
    rng = np.random.default_rng(0)
    for classes in range(2, 10):
        scores = rng.normal(size=(50, classes))
        compete = sorted(rng.choice(classes, size=rng.integers(2, classes + 1), replace=False).tolist())
        truth, right = np.take(compete, scores[:, compete].argmax(axis=1)), rng.choice(compete, 50)
        assert is_correct(scores, right[:, None].tolist(), compete).tolist() == (truth == right).tolist()


def test_ties_infinities_and_several_right_classes() -> None:
    everything = (0, 1, 2)
    scores = np.array([[1.0, 1.0, 0.0], [np.inf, 1.0, 0.0], [-np.inf, -np.inf, -5.0], [2.0, 2.0, 1.0]])
    assert is_correct(scores, [(0,), (0,), (2,), (0, 1)], everything).tolist() == [False, True, True, True]
    raised(ValueError, "NaN", is_correct, np.array([[np.nan, 1.0, 0.0]]), [(1,)], everything)
    # a NaN among classes that do not compete says nothing
    assert is_correct(np.array([[np.nan, 1.0, 0.0]]), [(1,)], (1, 2)).tolist() == [True]
