"""The numbers of a head's directions: an independent NumPy script, closed forms, and the bootstrap."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from robustcheck_onnx.checker.directions.analysis import Labelled, analyse, pieces
from robustcheck_onnx.checker.runtime.session import LinearHead
from robustcheck_onnx.checker.shift import robustness
from robustcheck_onnx.checker.statistics.definitions import wilson
from robustcheck_onnx.thresholds.published import IMAGENET
from support import Fields, Patch, but, normal, truths
from support.comparisons import labelled_set, numbers
from support.truths import Array


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def head_of(weight: Array, bias: Array | None = None) -> LinearHead:
    return LinearHead(weight, np.zeros(len(weight)) if bias is None else bias, "a test")


def test_every_number_is_that_of_an_independent_script() -> None:
    for n_classes, d in [(60, 24), (24, 60), (2, 5), (30, 30)]:
        weight = normal(n_classes, d, seed=1) * rng(2).lognormal(0, 1, d) + normal(d, seed=3)
        bias, h = normal(n_classes, seed=4), (normal(91, d, seed=5) + normal(d, seed=6)).astype(np.float32)
        raw, centred, outliers = analyse(head_of(weight, bias), h, seed=3)
        for found, is_centred in ((raw, False), (centred, True)):
            expected = truths.of_head(weight, bias, h, centred=is_centred, seed=3)
            n, order = found.n_directions, expected["order"]
            assert n == len(expected["sigma"]) == min(n_classes - is_centred, d)
            truths.assert_is_of_head(found, expected, len(h))
            tried = sorted({int(np.ceil(n * percent / 100)) for percent in (*range(2, 101, 2), 5)})
            shares = [(expected["predicted"](order[:k]) == expected["first"]).mean() for k in tried]
            for fewest in found.fewest:  # from there on all keep the share
                too_few = [k for k, share in zip(tried, shares, strict=True) if share < fewest.share]
                assert fewest.directions == min(k for k in tried if k > max(too_few, default=0))
                assert fewest.percent == 100 * fewest.directions / n
        x = np.asarray(h, np.float64)
        (feature,) = outliers.features
        assert not outliers.persistent
        assert feature.index == (stats.zscore(x, axis=1) ** 4).sum(0).argmax()
        for replacement, value in zip(outliers.replacements, (x[:, feature.index].mean(), 0.0), strict=True):
            n_changed, share = truths.changed(weight, bias, h, [feature.index], value)
            assert replacement.changed == wilson(n_changed, len(h))
            assert replacement.margin_share.estimate == pytest.approx(share, rel=1e-6)


def test_an_outlier_feature_that_the_head_ignores_or_uses() -> None:
    """One feature is 30 in every image; the head has weights on it or none."""
    h, weight = normal(80, 64, seed=5), normal(10, 64, seed=7)
    h[:, 7] += 30
    weight[:, 7] = 0.0
    raw, _, outliers = analyse(head_of(weight), h)
    assert outliers.persistent
    assert [(feature.index, feature.frequency) for feature in outliers.features] == [(7, 1.0)]
    for replacement in outliers.replacements:
        assert replacement.changed.n_correct == 0
        assert replacement.margin_share.estimate == pytest.approx(0, abs=1e-12)
    assert all(each.on_features == pytest.approx((0,), abs=1e-12) for each in raw.leading)
    weight[:, 7] = np.linspace(-20, 20, 10)
    raw, _, outliers = analyse(head_of(weight), h)
    by_mean, by_zero = outliers.replacements
    assert by_zero.changed.value > 0.7  # the last class won by that feature alone
    assert by_mean.changed.value == 0  # its mean decides as well as itself
    assert (by_zero.margin_share.estimate or 0) > 0.9
    assert raw.leading[0].largest_feature == 7
    assert raw.leading[0].on_features[0] > 0.9


def test_intervals_are_those_of_the_bootstrap() -> None:
    weight = normal(40, 20, seed=1) * rng(2).lognormal(0, 1, 20)
    h = normal(200, 20, seed=5) * rng(6).lognormal(0, 0.5, (200, 1)) + 2 * normal(20, seed=7)
    raw, _, outliers = analyse(head_of(weight), h)
    _, sigma, vt = np.linalg.svd(weight, full_matrices=False)
    weights = sigma * np.abs(h @ vt.T) / np.linalg.norm(h, axis=1)[:, None]
    scores = h @ weight.T
    best = np.argsort(-scores, axis=1)[:, :2]
    (feature,) = outliers.features
    by_feature = np.outer(h[:, feature.index], weight[:, feature.index])
    margin, given = (np.take_along_axis(of, best, axis=1) @ (1, -1) for of in (scores, by_feature))
    draws = []
    for number in range(2000):
        i = rng(number).integers(0, 200, 200)
        q = weights[i].mean(0) / weights[i].mean(0).sum()
        draws.append(
            (1 / (q**2).sum(), np.exp(stats.entropy(q)), np.sort(q)[-3:].sum(), given[i].sum() / margin[i].sum())
        )
    found = raw.participation_ratio, raw.effective_rank, raw.top[1].share, outliers.replacements[1].margin_share
    half = np.diff([numbers(interval.low, interval.high) for interval in found])[:, 0] / 2
    assert half / 1.96 == pytest.approx(np.std(draws, 0), rel=0.1)


def test_pieces_change_nothing(monkeypatch: Patch) -> None:
    """Scores of a few images at once, weights of a few classes at once."""
    weight, h = normal(50, 8), normal(33, 8, seed=1)
    right = [(label,) for label in rng(2).integers(0, 50, 33).tolist()]

    def found() -> Any:
        both = analyse(head_of(weight), h, labelled=[Labelled("a", h, right, range(50))])[:2]
        points = [point for each in both for curve in each.curves for point in curve.points]
        return [(p.same, p.same_confident, p.accuracy) for p in points]

    whole = found()
    module = "robustcheck_onnx.checker.directions.analysis"
    monkeypatch.setattr(f"{module}.CLASSES_AT_ONCE", 7)
    monkeypatch.setattr(f"{module}.AT_ONCE", 120)
    assert [(piece.start, piece.stop) for piece in pieces(33, 50)][-2:] == [(30, 32), (32, 33)]
    assert found() == whole


def test_accuracy_of_a_pruned_head_is_that_of_its_matrix() -> None:
    weight, bias, h = normal(9, 6), normal(9, seed=1), normal(70, 6, seed=2)
    right = rng(3).integers(0, 6, (70, 2))  # of nine classes six compete
    labelled = Labelled("a", h, [(a, b) for a, b in right.tolist()], range(6))
    raw, _, _ = analyse(head_of(weight, bias), h, labelled=[labelled])
    _, _, vt = np.linalg.svd(weight)
    assert all(list(point.accuracy) == ["a"] for curve in raw.curves for point in curve.points)
    order = [each.index for each in raw.leading]
    for point in raw.curves[0].points:
        kept = vt[order[: point.kept]]
        best = (h @ (weight @ kept.T @ kept).T + bias)[:, :6].argmax(1)
        assert point.accuracy["a"] == wilson(int((best[:, None] == right).any(axis=1).sum()), 70)


def test_effective_robustness_is_shifts_own() -> None:
    """Of whole, precise ImageNet sets; with few directions as with all."""
    n, weight = 2500, normal(1000, 3)
    right, labelled = [(i % 1000,) for i in range(n)], []
    for seed, name, shift, noise in ((1, "imagenet", IMAGENET, 0.1), (2, "v2", "imagenetv2", 0.4)):
        h = weight[np.arange(n) % 1000] + noise * normal(n, 3, seed=seed)
        facts: Fields = {"label_set": IMAGENET, "n_labels": 1000, "n_compete": 1000, "accuracy": wilson(2000, n)}
        result = labelled_set(name=name, shift=shift, **facts)
        labelled.append(Labelled(name, h.astype(np.float32), right, range(1000), result))
    raw, _, _ = analyse(head_of(weight), labelled[1].representations[:100], labelled=labelled)
    first = raw.curves[0].points[0]  # all three directions
    assert first.kept == 3
    inner, outer = (but(each.result, accuracy=first.accuracy[each.name]) for each in labelled if each.result)
    expected, why = robustness.effective(inner, outer, "timm")
    assert why == ""
    assert first.effective_robustness == {"v2": expected}


def test_classes_that_are_copies_of_each_other_change_nothing() -> None:
    """With two copies of every class rounding settles which of them wins: that is no other prediction."""
    weight, h = normal(120, 64, seed=1), normal(200, 64, seed=2).astype(np.float32)

    def found(head: Array) -> Any:
        raw, _, outliers = analyse(head_of(head), h)
        points = [point.same for curve in raw.curves for point in curve.points]
        return points, [each.changed for each in outliers.replacements]

    assert found(weight) == found(np.tile(weight, (3, 1)))
