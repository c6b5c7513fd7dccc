"""What `robustcheck directions` must find, by plain NumPy: every pruned head from one SVD of W."""

from typing import Any

import numpy as np
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
    q = p[p > 0] / p.sum()
    full = x @ w.T + bias
    first = full.argmax(1)
    ordered = np.sort(full, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    confident = np.argsort(-margin, kind="stable")[: (len(x) + 1) // 2]

    def predicted(kept: Array) -> Array:
        return np.asarray((x @ vt[kept].T @ (u[:, kept] * s[kept]).T + bias).argmax(1))

    orders = {
        "importance": np.argsort(-p, kind="stable"),
        "singular value": np.arange(len(s)),
        "random": np.random.default_rng(seed).permutation(len(s)),
    }
    same = {}
    for name, order in orders.items():
        for percent in PERCENT:
            agree = predicted(order[: int(np.ceil(percent * len(s) / 100))]) == first
            same[name, percent] = (agree.sum(), agree[confident].sum())
    return {
        "sigma": s, "importance": p, "v": vt, "order": orders["importance"], "same": same,
        "cosines": cos.mean(0), "se": s / s.sum() * cos.std(0, ddof=1) / len(x) ** 0.5,
        "participation": p.sum() ** 2 / (p**2).sum(), "rank": np.exp(-(q * np.log(q)).sum()),
        "top": [np.sort(p)[::-1][:k].sum() / p.sum() for k in (1, 3, 10)],
        "predicted": predicted, "first": first,
    }  # fmt: skip


def changed(weight: Array, bias: Array, h: Array, features: list[int], value: Array | float) -> tuple[int, float]:
    """Predictions that change when features are set to a value, and the share of the margin that goes."""
    x = np.asarray(h, np.float64)
    other = x.copy()
    other[:, features] = value
    before, after = x @ np.asarray(weight, np.float64).T + bias, other @ np.asarray(weight, np.float64).T + bias
    best = np.argsort(-before, axis=1, kind="stable")[:, :2]
    rows = np.arange(len(x))
    margin = [scores[rows, best[:, 0]] - scores[rows, best[:, 1]] for scores in (before, after)]
    return int((before.argmax(1) != after.argmax(1)).sum()), float((margin[0] - margin[1]).sum() / margin[0].sum())


def assert_is_truth(analysis: Any, expected: Fields, n_images: int, rtol: float = 1e-6, of_largest: float = 0) -> None:
    """Every number of an `Analysis` against `truth`.

    of_largest: difference of importances, over the largest one, that is allowed as well: directions of nearly equal
        singular values turn into each other by the last digits of W, which is read in float32.
    """
    scale = expected["sigma"][0]
    assert_allclose(analysis.singular_values, expected["sigma"], rtol=rtol, atol=1e-12 * scale)
    allowed = max(of_largest * max(expected["importance"]), 1e-12)
    assert_allclose(analysis.importances, expected["importance"], rtol=rtol, atol=allowed)
    assert_allclose(analysis.participation_ratio.estimate, expected["participation"], rtol=rtol)
    assert_allclose(analysis.effective_rank.estimate, expected["rank"], rtol=rtol)
    assert_allclose([top.share.estimate for top in analysis.top], expected["top"], rtol=rtol)
    assert [each.index for each in analysis.leading] == list(expected["order"][:10])
    for each in analysis.leading:
        v = np.abs(expected["v"][each.index])
        assert each.largest_feature == v.argmax()
        assert_allclose(each.largest_component, v.max(), rtol=rtol)
        assert_allclose(each.cosine, expected["cosines"][each.index], rtol=rtol, atol=of_largest)
        half = 1.959963984540054 * expected["se"][each.index]
        low = max(each.importance.estimate - half, 0)
        assert_allclose([each.importance.low, each.importance.high], [low, each.importance.estimate + half], rtol=1e-4)
    found = {
        (curve.order, point.percent): (point.same.n_correct, point.same_confident.n_correct)
        for curve in analysis.curves
        for point in curve.points
    }
    assert found == expected["same"]
    assert {point.same.n for curve in analysis.curves for point in curve.points} == {n_images}
