"""The numbers of a head's directions: an independent NumPy script, closed forms, and the bootstrap."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcheck_onnx.checker.directions.analysis import Labelled, analyse, decompose, pieces
from robustcheck_onnx.checker.runtime.head import LinearHead
from robustcheck_onnx.checker.shift import robustness
from robustcheck_onnx.checker.shift.records import SetResult
from robustcheck_onnx.checker.statistics import Accuracy, wilson
from robustcheck_onnx.thresholds.published import IMAGENET
from support import but, directions_truth

Array = NDArray[Any]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def head_of(weight: Array, bias: Array | None = None) -> LinearHead:
    return LinearHead(
        np.asarray(weight, np.float64),
        np.zeros(len(weight)) if bias is None else np.asarray(bias, np.float64),
        "a test",
    )


def test_every_number_is_that_of_an_independent_script() -> None:
    for n_classes, d in [(60, 24), (24, 60), (2, 5), (30, 30)]:
        weight = rng(1).normal(size=(n_classes, d)) * rng(2).lognormal(0, 1, d) + rng(3).normal(size=d)
        bias, h = (
            rng(4).normal(size=n_classes),
            (rng(5).normal(size=(91, d)) + rng(6).normal(size=d)).astype(np.float32),
        )
        raw, centred, outliers = analyse(head_of(weight, bias), h, seed=3)
        for found, is_centred in ((raw, False), (centred, True)):
            expected = directions_truth.truth(weight, bias, h, centred=is_centred, seed=3)
            assert found.n_directions == len(expected["sigma"]) == min(n_classes - is_centred, d)
            directions_truth.assert_is_truth(found, expected, len(h))
            for fewest in found.fewest:  # every number of directions, one after the other
                shares = [(expected["predicted"](expected["order"][:k]) == expected["first"]).mean()
                          for k in range(1, found.n_directions)]  # fmt: skip
                n = found.n_directions
                steps = {int(np.ceil(n * step / 50)) for step in range(1, 50)}
                tried = sorted(steps | {int(np.ceil(n * percent / 100)) for percent in directions_truth.PERCENT})
                bad = [k for k in tried if k < n and shares[k - 1] < fewest.share]
                assert fewest.directions == min([k for k in [*tried, n] if not bad or k > bad[-1]])
                assert fewest.percent == 100 * fewest.directions / n
        x = np.asarray(h, np.float64)
        z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        (feature,) = outliers.features
        assert not outliers.persistent
        assert feature.index == (z**4).sum(0).argmax()
        for replacement, value in zip(outliers.replacements, (x[:, feature.index].mean(), 0.0), strict=True):
            n_changed, share = directions_truth.changed(weight, bias, h, [feature.index], value)
            assert replacement.changed == wilson(n_changed, len(h))
            assert replacement.margin_share.estimate == pytest.approx(share, rel=1e-6)


def test_an_outlier_feature_that_the_head_ignores_or_uses() -> None:
    """One feature is 30 in every image; the head has weights on it or none."""
    h, weight = rng(5).normal(size=(80, 64)), rng(7).normal(size=(10, 64))
    h[:, 7] = 30 + rng(6).normal(size=80)
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
    weight = rng(1).normal(size=(40, 20)) * rng(2).lognormal(0, 1, 20)
    h = rng(5).normal(size=(200, 20)) * rng(6).lognormal(0, 0.5, (200, 1)) + 2 * rng(7).normal(size=20)
    raw, _, outliers = analyse(head_of(weight), h)
    v = decompose(np.asarray(weight, np.float64))[0]
    scale = v.sigma / v.sigma.sum()
    cos = np.abs(h @ v.v) / np.linalg.norm(h, axis=1)[:, None]
    scores = h @ weight.T
    best = np.argsort(-scores, axis=1)[:, :2]
    (feature,) = outliers.features
    given = (weight[best[:, 0], feature.index] - weight[best[:, 1], feature.index]) * h[:, feature.index]
    margin = np.sort(scores, 1)[:, -1] - np.sort(scores, 1)[:, -2]
    draws = []
    for number in range(2000):
        i = rng(number).integers(0, 200, 200)
        p = scale * cos[i].mean(0)
        q = p / p.sum()
        own = [p.sum() ** 2 / (p**2).sum(), np.exp(-(q * np.log(q)).sum()), np.sort(q)[-3:].sum()]
        draws.append([*own, given[i].sum() / margin[i].sum()])
    shares = (raw.top[1].share, outliers.replacements[1].margin_share)
    for interval, sd in zip((raw.participation_ratio, raw.effective_rank, *shares), np.std(draws, 0), strict=True):
        low, high = interval.low, interval.high
        assert (high - low) / 2 / 1.96 == pytest.approx(sd, rel=0.1)  # type: ignore[operator]


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of a few images at once, weights of a few classes at once."""
    weight, h = rng().normal(size=(50, 8)), rng(1).normal(size=(33, 8))
    right = [(int(label),) for label in rng(2).integers(0, 50, 33)]

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
    weight, bias, h = rng().normal(size=(9, 6)), rng(1).normal(size=9), rng(2).normal(size=(70, 6))
    right = [(int(a), int(b)) for a, b in rng(3).integers(0, 6, (70, 2))]
    compete = range(6)  # of nine classes
    raw, _, _ = analyse(head_of(weight, bias), h, labelled=[Labelled("a", h, right, compete)])
    _, _, vt = np.linalg.svd(weight)
    assert all(list(point.accuracy) == ["a"] for curve in raw.curves for point in curve.points)
    order = [each.index for each in raw.leading]
    for point in raw.curves[0].points:
        kept = vt[order[: point.kept]]
        best = (h @ (weight @ kept.T @ kept).T + bias)[:, :6].argmax(1)
        n_right = sum(int(label) in group for label, group in zip(best, right, strict=True))
        assert point.accuracy["a"] == wilson(n_right, 70)


def result(name: str, shift: str, accuracy: Accuracy) -> SetResult:
    return SetResult(
        name=name, source=name, shift=shift, label_set=IMAGENET, labels="", n_labels=1000, n_compete=1000,
        n_available=4000, n_read=4000, n_skipped=0, skipped=(), digest="", accuracy=accuracy,
    )  # fmt: skip


def test_effective_robustness_is_shifts_own() -> None:
    """Of whole, precise ImageNet sets; with few directions as with all."""
    n, weight = 2500, rng().normal(size=(1000, 3))
    inside = [result("imagenet", IMAGENET, wilson(2000, n)), result("v2", "imagenetv2", wilson(1500, n))]
    h = {each.name: (weight[np.arange(n) % 1000] + rng(1 + i).normal(0, (0.1, 0.4)[i], (n, 3))).astype(np.float32)
         for i, each in enumerate(inside)}  # fmt: skip
    right = [(i % 1000,) for i in range(n)]
    labelled = [Labelled(each.name, h[each.name], right, range(1000), each) for each in inside]
    raw, _, _ = analyse(head_of(weight), h["v2"][:100], labelled=labelled)
    first = raw.curves[0].points[0]  # all three directions
    assert first.kept == 3
    inner, outer = (but(each, accuracy=first.accuracy[each.name]) for each in inside)
    expected, why = robustness.effective(inner, outer, "timm")
    assert why == ""
    assert first.effective_robustness == {"v2": expected}


def test_classes_that_are_copies_of_each_other_change_nothing() -> None:
    """With two copies of every class rounding settles which of them wins: that is no other prediction."""
    weight, h = rng(1).normal(size=(120, 64)), rng(2).normal(size=(200, 64)).astype(np.float32)
    one, _, outliers = analyse(head_of(weight), h)
    three, _, of_three = analyse(head_of(np.tile(weight, (3, 1))), h)
    for curve, other in zip(one.curves, three.curves, strict=True):
        assert [point.same for point in curve.points] == [point.same for point in other.points]
    assert [each.changed for each in outliers.replacements] == [each.changed for each in of_three.replacements]
