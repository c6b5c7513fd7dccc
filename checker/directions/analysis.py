"""Compute every number of the report. Arrays go in (a head, representations, labelled sets), records come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Bools, Floats, Indices
from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.runtime import LinearHead
from robustcheck_onnx.checker.shift import SetResult, labels, robustness
from robustcheck_onnx.checker.statistics import wilson

from . import features
from .decompose import TOP, Directions, Estimate, Importance, Z, decompose, importance, in_pieces
from .features import Predictions, predict_whole, predicted
from .records import (
    SAME,
    Analysis,
    Curve,
    Direction,
    Fewest,
    HeadFeature,
    Order,
    Outliers,
    Point,
    Replacement,
    TopShare,
)

LEADING = 10  # directions that are listed


class SameWeightsError(ValueError):
    """All classes of a head have the same weights."""


@dataclass(frozen=True)
class Labelled:
    """The representations of one labelled set."""

    name: str
    representations: Floats
    """(image, feature)"""
    right: Sequence[tuple[int, ...]]
    """the classes that are right for each image"""
    compete: Sequence[int]
    """the classes among which the prediction is made"""


@dataclass(frozen=True)
class Sets:
    """The labelled sets, for effective robustness. They are as `shift` reports them."""

    inner: SetResult | None = None
    shifted: tuple[SetResult, ...] = ()
    baseline: str = "timm"


def correct(head: LinearHead, each: Labelled) -> int:
    """Count the labelled images that the head predicts right."""
    count = 0

    def piece(images: slice) -> None:
        nonlocal count
        scores = head.scores(each.representations[images])
        count += int(labels.is_correct(scores, each.right[images], each.compete).sum())

    in_pieces(len(each.right), len(head.bias), piece)
    return count


def analyse(
    head: LinearHead,
    h: Floats,
    *,
    labelled: Sequence[Labelled] = (),
    sets: Sets | None = None,
    seed: int = 0,
) -> tuple[Analysis, Analysis, Outliers]:
    """Measure the directions of a head on some images.

    Args:
        head: two classes or more.
        h: (image, feature), two images or more, finite and not constant.
        labelled: sets on which accuracy is measured, too.
        sets: the same, as `shift` reports them.
        seed: fixes the random order.

    Returns:
        Of W raw, of W centred, and of the outlier features.

    Raises:
        SameWeightsError: all classes have the same weights, so that no prediction depends on the image.
    """
    raw, centred = decompose(head.weight)
    if not centred.sigma[0] > SAME * raw.sigma[0]:
        raise SameWeightsError
    whole, found = predict_whole(head, h), features.outlier_features(h)
    norms = np.sqrt(np.einsum("ij,ij->i", h, h, dtype=np.float64))
    known = Sets() if sets is None else sets
    of_raw, of_centred = (
        _analysis(head, each, h, norms, whole, found.indices[: features.LISTED], labelled, known, seed)
        for each in (raw, centred)
    )
    return of_raw, of_centred, _outliers(head, h, whole, found)


def _analysis(
    head: LinearHead,
    directions: Directions,
    h: Floats,
    norms: Array,
    whole: Predictions,
    named: Indices,
    labelled: Sequence[Labelled],
    sets: Sets,
    seed: int,
) -> Analysis:
    columns = directions.columns(head.weight)
    projected = directions.project(h)
    weights = importance(directions, projected, norms)
    n, steps = directions.n, features.steps_of(directions.n)
    pruned = features.Pruned(columns, projected, head.bias)
    others = [
        (each, features.Pruned(columns, directions.project(each.representations), head.bias)) for each in labelled
    ]
    kept = {percent: features.n_kept(percent, n) for percent in features.PERCENT}
    orders: dict[Order, Indices] = {
        "importance": weights.order,
        "singular value": np.arange(n),
        "random": np.random.default_rng(seed).permutation(n),
    }
    curves, same = [], dict[int, float]()
    for name, order in orders.items():
        tried = [*kept.values(), *(steps if name == "importance" else ())]
        agrees = {k: whole.agrees(found) for k, found in features.predictions(pruned, order, tried).items()}
        if name == "importance":
            same = {k: float(agree.mean()) for k, agree in agrees.items()}
        rights = {each.name: _n_right(of_set, each, order, list(kept.values())) for each, of_set in others}
        points = tuple(
            _point(percent, k, weights, order, agrees[k], whole, {name: right[k] for name, right in rights.items()},
                   {each.name: len(each.right) for each in labelled}, sets)
            for percent, k in kept.items()
        )  # fmt: skip
        curves.append(Curve(order=name, points=points))
    fewest = [(share, features.fewest(list(same.items()), n, share)) for share in features.KEEPS]
    return Analysis(
        n_directions=n,
        singular_values=tuple(map(float, directions.sigma)),
        importances=tuple(map(float, weights.values)),
        participation_ratio=_interval(weights.participation_ratio),
        effective_rank=_interval(weights.effective_rank),
        top=tuple(
            TopShare(directions=k, share=_interval(share)) for k, share in zip(TOP, weights.top_shares, strict=True)
        ),
        leading=tuple(_direction(directions, weights, int(i), named) for i in weights.order[:LEADING]),
        curves=tuple(curves),
        fewest=tuple(Fewest(share=share, directions=k, percent=100 * k / n) for share, k in fewest),
    )


def _n_right(pruned: features.Pruned, each: Labelled, order: Indices, kept: Sequence[int]) -> dict[int, int]:
    """Count the labelled images predicted right, by directions kept."""
    counts = dict.fromkeys(kept, 0)

    def look(k: int, images: slice, scores: Array) -> None:
        counts[k] += int(labels.is_correct(scores, each.right[images], each.compete).sum())

    pruned.scores(order, kept, look)
    return counts


def _point(
    percent: int,
    kept: int,
    weights: Importance,
    order: Indices,
    agree: Bools,
    whole: Predictions,
    right: dict[str, int],
    n_images: dict[str, int],
    sets: Sets,
) -> Point:
    accuracy = {name: wilson(count, n_images[name]) for name, count in right.items()}
    beyond = {}
    if sets.inner is not None:
        inner = sets.inner.model_copy(update={"accuracy": accuracy[sets.inner.name]})
        for result in sets.shifted:
            outside = result.model_copy(update={"accuracy": accuracy[result.name]})
            found, _ = robustness.effective(inner, outside, sets.baseline)
            if found is not None:
                beyond[result.name] = found
    confident = agree[whole.confident]
    return Point(
        percent=percent,
        kept=kept,
        importance=min(float(weights.values[order[:kept]].sum() / weights.values.sum()), 1.0),
        same=wilson(int(agree.sum()), len(agree)),
        same_confident=wilson(int(confident.sum()), len(confident)),
        accuracy=accuracy,
        effective_robustness=beyond,
    )


def _direction(directions: Directions, weights: Importance, index: int, named: Indices) -> Direction:
    components = np.abs(directions.v[:, index])
    value, half = float(weights.values[index]), Z * float(weights.se[index])
    largest = int(components.argmax())
    return Direction(
        index=index,
        singular_value=float(directions.sigma[index]),
        cosine=float(weights.cosines[index]),
        importance=Interval(estimate=value, low=max(value - half, 0.0), high=value + half),
        largest_feature=largest,
        largest_component=float(components[largest]),
        on_features=tuple(map(float, components[named])),
    )


def _outliers(head: LinearHead, h: Floats, whole: Predictions, found: features.OutlierFeatures) -> Outliers:
    """Replace the outlier features by mean and by zero."""
    x = h.astype(np.float64)
    chosen = found.indices
    difference = head.weight[whole.first][:, chosen] - head.weight[whole.second][:, chosen]
    replacements = []
    for name, values in (("mean over images", x[:, chosen].mean(axis=0)), ("zero", np.zeros(len(chosen)))):
        changed = ~whole.agrees(predicted(head, features.replaced(x, chosen, values)))
        given = (difference * (x[:, chosen] - values)).sum(axis=1)
        share = features.margin_share(given, whole.margins)
        replacements.append(
            Replacement.model_validate(
                {"value": name, "changed": wilson(int(changed.sum()), len(changed)), "margin_share": share}
            )
        )
    listed = range(min(len(chosen), features.LISTED))
    return Outliers(
        persistent=found.persistent,
        n_features=len(chosen),
        features=tuple(
            HeadFeature(
                index=int(chosen[i]), frequency=float(found.frequencies[i]), kurtosis_share=float(found.shares[i])
            )
            for i in listed
        ),
        replacements=tuple(replacements),
    )


def _interval(estimate: Estimate) -> Interval:
    return Interval(estimate=estimate.value, low=estimate.low, high=estimate.high)
