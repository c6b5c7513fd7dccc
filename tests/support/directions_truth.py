"""What `robustcheck directions` must find, by plain NumPy: every pruned head from one SVD of W."""

from itertools import product
from typing import Any

import numpy as np
import scipy.stats
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from support import Fields

Array = NDArray[Any]
PERCENT = (90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 2)


def truth(weight: Array, bias: Array, h: Array, *, centred: bool = False, seed: int = 0) -> Fields:
    """All numbers of one analysis; weight (class, feature), h (image, feature)."""
    w, x = np.asarray(weight, np.float64), np.asarray(h, np.float64)
    wc = w - w.mean(0) if centred else w
    u, s, vt = np.linalg.svd(wc, full_matrices=False)
    if centred and len(w) <= w.shape[1]:
        u, s, vt = u[:, :-1], s[:-1], vt[:-1]  # the last one is the mean, taken away
    cos = np.abs(x @ vt.T) / np.linalg.norm(x, axis=1)[:, None]
    p = s / s.sum() * cos.mean(0)
    q = np.sort(p / p.sum())[::-1]
    full = x @ w.T + bias
    first = full.argmax(1)
    second, best = np.sort(full, axis=1)[:, -2:].T
    confident = np.argsort(second - best, kind="stable")[: (len(x) + 1) // 2]

    def predicted(kept: Array) -> Array:
        return np.asarray((x @ vt[kept].T @ (u[:, kept] * s[kept]).T + bias).argmax(1))

    orders = {
        "importance": np.argsort(-p, kind="stable"),
        "singular value": np.arange(len(s)),
        "random": np.random.default_rng(seed).permutation(len(s)),
    }
    same = {}
    for (name, order), percent in product(orders.items(), PERCENT):
        agree = predicted(order[: int(np.ceil(percent * len(s) / 100))]) == first
        same[name, percent] = (agree.sum(), agree[confident].sum())
    return {
        "sigma": s, "importance": p, "v": np.abs(vt), "order": orders["importance"], "same": same,
        "cosines": cos.mean(0), "half": 1.959963984540054 * s / s.sum() * cos.std(0, ddof=1) / len(x) ** 0.5,
        "sums": [1 / (q**2).sum(), np.exp(scipy.stats.entropy(q)), *(q[:k].sum() for k in (1, 3, 10))],
        "predicted": predicted, "first": first,
    }  # fmt: skip


def changed(weight: Array, bias: Array, h: Array, features: list[int], value: Array | float) -> tuple[int, float]:
    """Predictions that change when features are set to a value, and the share of the margin that goes."""
    other = h.astype(np.float64)
    other[:, features] = value
    scores = [x.astype(np.float64) @ np.asarray(weight, np.float64).T + bias for x in (h, other)]
    best = np.argsort(-scores[0], axis=1, kind="stable")[:, :2]
    before, after = (np.take_along_axis(each, best, axis=1) @ (1, -1) for each in scores)
    n_changed = (scores[0].argmax(1) != scores[1].argmax(1)).sum()
    return int(n_changed), float((before - after).sum() / before.sum())


def assert_is_truth(analysis: Any, expected: Fields, n_images: int, rtol: float = 1e-6, of_largest: float = 0) -> None:
    """Every number of an `Analysis` against `truth`.

    of_largest: difference of importances, over the largest one, that is allowed as well: directions of nearly equal
        singular values turn into each other by the last digits of W, which is read in float32.
    """
    sums = (analysis.participation_ratio, analysis.effective_rank, *(top.share for top in analysis.top))
    allowed = max(of_largest * max(expected["importance"]), 1e-12)
    for found, wanted, atol in (
        (analysis.singular_values, expected["sigma"], 1e-12 * expected["sigma"][0]),
        (analysis.importances, expected["importance"], allowed),
        ([each.estimate for each in sums], expected["sums"], 0),
    ):
        assert_allclose(found, wanted, rtol=rtol, atol=atol)
    assert [each.index for each in analysis.leading] == list(expected["order"][:10])
    for each in analysis.leading:
        v, half, middle = expected["v"][each.index], expected["half"][each.index], each.importance.estimate
        assert each.largest_feature == v.argmax()
        assert_allclose(each.largest_component, v.max(), rtol=rtol)
        assert_allclose(each.cosine, expected["cosines"][each.index], rtol=rtol, atol=of_largest)
        assert_allclose([each.importance.low, each.importance.high], [max(middle - half, 0), middle + half], rtol=1e-4)
    points = {(curve.order, point.percent): point for curve in analysis.curves for point in curve.points}
    assert {at: (p.same.n_correct, p.same_confident.n_correct) for at, p in points.items()} == expected["same"]
    assert {point.same.n for point in points.values()} == {n_images}
