"""Analyse how a linear head uses the directions of a representation. Pure.

The outlier features are found, and how the head uses them and each direction is measured. The head of k directions is
W V_k V_kᵀ h + b; the bias stays whole. Each image is projected once, and the directions are added in their order, so
that a whole curve costs little more than one set of scores.

Directions are the right singular vectors of the head's weight matrix W (class, feature): W = U Σ Vᵀ. Source: Crabbé,
Rodríguez, Shankar, Zappella, Blaas, "Interpreting CLIP: Insights on the Robustness to ImageNet Distribution Shifts",
TMLR 2024. Where singular values are equal, their directions are no more than one choice among many.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ...arrays import Array, Bools, Floats, Indices, float64
from ...core.evidence import Interval
from ...core.statistics.definitions import PERSISTENT_SHARE, shares_of_kurtosis, standardise
from ...core.statistics.intervals import Accuracy, wilson
from ...text import Fields
from ..head import LinearHead
from ..shift import robustness
from ..shift.classes import is_correct
from ..shift.robustness import Effective, SetResult
from .linear import HeadDirections, Predictions, decompose, pieces, predict
from .records import (
    SAME,
    AccuracyBySet,
    Analysis,
    Direction,
    Fewest,
    HeadFeature,
    Order,
    Outliers,
    Point,
    Replacement,
    TopShare,
    TruncationCurve,
)

LEADING = 10  # directions that are listed
OUTLIER_SD = 6.0  # Bondarenko et al. 2023, "Quantizable Transformers"; Dettmers et al. 2022, LLM.int8
LISTED = 8  # outlier features that are named, those with the largest share of the kurtosis first
PERCENT = (90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 2)
"""share of the directions that is kept at each point of a curve"""
KEEPS = (0.99, 0.95)
"""shares of the predictions for which the smallest number of directions is looked for"""
STEPS = 50  # numbers of directions that are tried for it, evenly spaced; all where there are fewer
Z = 1.959963984540054  # normal quantile of a two-sided 95 % interval
TOP = (1, 3, 10)  # numbers of directions whose share of the importance is reported


class SameWeightsError(ValueError):
    """All classes of a head have the same weights."""


class Labelled(NamedTuple):
    """The representations of one labelled set."""

    name: str
    representations: Floats
    """(image, feature)"""
    right: Sequence[tuple[int, ...]]
    """the classes that are right for each image"""
    compete: Sequence[int]
    """the classes among which the prediction is made"""
    result: SetResult | None = None
    """as `shift` reports it, for effective robustness"""
    digests: Sequence[str] = ()  # of the images

    def n_right(self, images: slice, scores: Array) -> int:
        """Count the images predicted right in a piece. scores: (image, class)."""
        is_right = is_correct(scores, self.right[images], self.compete)
        return int(is_right.sum())


def correct(head: LinearHead, labelled: Labelled) -> int:
    """Count the labelled images that the head predicts right."""
    n_right = 0
    for images in pieces(len(labelled.right), len(head.bias)):
        scores = head.scores(labelled.representations[images])
        n_right += labelled.n_right(images, scores)
    return n_right


def analyse(
    head: LinearHead, h: Floats, *, labelled: Sequence[Labelled] = (), baseline: str = "timm", seed: int = 0
) -> tuple[Analysis, Analysis, Outliers]:
    """Measure the directions of a head on some images.

    Args:
        head: two classes or more.
        h: (image, feature), two images or more, finite and not constant.
        labelled: sets on which accuracy is measured, too; the in-distribution one first.
        baseline: of effective robustness, as in `measure_shift`.
        seed: fixes the random order.

    Returns:
        Of W raw, of W centred, and of the outlier features.

    Raises:
        SameWeightsError: all classes have the same weights, so that no prediction depends on the image.
    """
    raw, centred = decompose(head.weight)
    if not centred.sigma[0] > SAME * raw.sigma[0]:
        raise SameWeightsError
    predictions = predict(head, h)
    outliers = _outliers(head, h, predictions)
    named = [feature.index for feature in outliers.features]

    def analysis(directions: HeadDirections) -> Analysis:
        projected = directions.project(h)
        weighed = _weigh(directions, h, projected, named)
        of_mean = directions.v.T @ directions.mean
        columns = directions.v.T @ head.weight.T - of_mean[:, np.newaxis]
        importances = np.array(weighed.importances)
        pruning = Pruning(head, columns, projected, predictions, importances)
        others = [(images, directions.project(images.representations)) for images in labelled]
        return weighed.model_copy(update=_pruned(pruning, others, baseline, seed))

    return analysis(raw), analysis(centred), outliers


class Pruning(NamedTuple):
    """A head whose directions are pruned, and what it predicts with all of them."""

    head: LinearHead
    columns: Array
    """(direction, class) (U Σ)ᵀ"""
    projected: Array
    """(image, direction) h V"""
    predictions: Predictions
    importances: Array
    """(direction,)"""

    def scores(self, projected: Array, order: Indices, numbers: Collection[int]) -> Iterator[tuple[int, slice, Array]]:
        """Yield a head's scores with fewer directions, a piece of the images at a time.

        Args:
            projected: (image, direction) h V, h as the head takes it (of length 1 where it normalises).
            order: (direction,) which direction is added first.
            numbers: of directions.

        Yields:
            The number kept, the piece of the images, and its (image, class) scores, which are overwritten afterwards.
        """
        bias = self.head.bias
        levels = sorted(set(numbers))
        added = [order[low:high] for low, high in itertools.pairwise([0, *levels])]
        columns = [self.columns[directions] for directions in added]
        for images in pieces(len(projected), len(bias)):
            piece = projected[images]
            total = np.tile(bias, (len(piece), 1))
            for number, directions, of_directions in zip(levels, added, columns, strict=True):
                total += piece[:, directions] @ of_directions
                yield number, images, total

    def agreement(self, order: Indices, numbers: Collection[int]) -> dict[int, Bools]:
        """Return by number of directions which images keep their predicted class. order: as of `scores`."""
        predicted = {k: np.empty(len(self.projected), dtype=np.intp) for k in numbers}
        for k, part, scores in self.scores(self.projected, order, numbers):
            predicted[k][part] = scores.argmax(axis=1)
        return {k: self.predictions.agrees(classes) for k, classes in predicted.items()}

    def accuracies(
        self, order: Indices, numbers: Collection[int], labelled: Iterable[tuple[Labelled, Array]]
    ) -> dict[int, AccuracyBySet]:
        """Return by number of directions the accuracy on each labelled set, which comes with its projection."""
        accuracies: dict[int, AccuracyBySet] = {k: {} for k in numbers}
        for images, projected in labelled:
            n_images = len(images.right)
            n_right = Counter[int]()
            for k, part, scores in self.scores(projected, order, numbers):
                n_right[k] += images.n_right(part, scores)
            for k, of_sets in accuracies.items():
                of_sets[images.name] = wilson(n_right[k], n_images)
        return accuracies


def _pruned(pruning: Pruning, labelled: Sequence[tuple[Labelled, Array]], baseline: str, seed: int) -> Fields:
    """Return curves and fewest directions of an `Analysis`."""
    importances = pruning.importances
    n = len(importances)
    numbers = {percent: math.ceil(percent * n / 100) for percent in PERCENT}
    steps = {math.ceil(n * step / STEPS) for step in range(1, STEPS)}
    steps.discard(n)
    orders: dict[Order, Indices] = {
        "importance": np.argsort(-importances, kind="stable"),
        "singular value": np.arange(n),
        "random": np.random.default_rng(seed).permutation(n),
    }
    results = [images.result for images, _ in labelled if images.result]
    curves = []
    same: dict[int, float] = {}
    for name, order in orders.items():
        tried = set(numbers.values())
        if name == "importance":
            tried |= steps
        agrees = pruning.agreement(order, tried)
        if not same:  # of the first order
            same = {k: float(agree.mean()) for k, agree in agrees.items()}
        accuracies = pruning.accuracies(order, set(numbers.values()), labelled)
        points = []
        for percent, k in numbers.items():
            importance = float(importances[order[:k]].sum() / importances.sum())
            of_confident = agrees[k][pruning.predictions.confident]
            point = Point(
                percent=percent,
                kept=k,
                importance=min(importance, 1.0),
                same=_share(agrees[k]),
                same_confident=_share(of_confident),
                accuracy=accuracies[k],
                effective_robustness=_effective(results, accuracies[k], baseline),
            )
            points.append(point)
        curves.append(TruncationCurve(order=name, points=tuple(points)))
    fewest = []
    for share in KEEPS:  # from there on every larger number tried keeps that share, too
        too_few = max([k for k in same if same[k] < share], default=0)
        enough = [k for k in same if k > too_few]
        least = min(enough, default=n)
        percent_kept = 100 * least / n
        fewest.append(Fewest(share=share, directions=least, percent=percent_kept))
    return {"curves": tuple(curves), "fewest": tuple(fewest)}


def _effective(results: Sequence[SetResult], accuracies: AccuracyBySet, baseline: str) -> dict[str, Effective]:
    """Return effective robustness by shifted set, from the accuracies of all sets."""
    measured = [result.model_copy(update={"accuracy": accuracies[result.name]}) for result in results]
    by_name = {}
    for shifted in measured[1:]:
        beyond, _ = robustness.effective(measured[0], shifted, baseline)
        if beyond is not None:
            by_name[shifted.name] = beyond
    return by_name


def _weigh(directions: HeadDirections, h: Floats, projected: Array, named: Sequence[int]) -> Analysis:
    """Weigh the directions on some images, without pruning them.

    Intervals are normal ones over images: of a function of the mean importances by the delta method, its gradient times
    each image's importances standing for the image.

    Args:
        directions: of a head whose singular values are not all 0.
        h: (image, feature), two images or more, not 0.
        projected: (image, direction) h V.
        named: features whose part in the leading directions is reported.
    """
    sigma = directions.sigma
    n = len(sigma)
    squared_lengths = np.einsum("ij,ij->i", h, h, dtype=np.float64)
    lengths = np.sqrt(squared_lengths)
    cosines = np.abs(projected) / lengths[:, None]
    scale = sigma / sigma.sum()
    means = cosines.mean(axis=0)
    values = scale * means
    spread = cosines.std(axis=0, ddof=1)
    root_n = np.sqrt(len(h))
    errors = scale * spread / root_n
    order = np.argsort(-values, kind="stable")

    def interval(value: float, half: float, ceiling: float = math.inf) -> Interval:
        low = max(value - half, 0.0)
        high = min(value + half, ceiling)
        return Interval(estimate=value, low=low, high=high)

    def estimate(value: float, gradient: Array, ceiling: float) -> Interval:
        """Return a value with its interval. `gradient` is by each direction's importance."""
        of_images = cosines @ (scale * gradient)
        half = Z * of_images.std(ddof=1) / root_n
        return interval(value, float(half), ceiling)

    total = values.sum()
    shares = values / total
    has_share = shares > 0
    logs = np.zeros_like(shares)
    np.log(shares, where=has_share, out=logs)
    entropy = -float((shares * logs).sum())
    rank = float(np.exp(entropy))
    by_entropy = np.where(has_share, -rank * (logs + entropy) / total, 0.0)
    squares = float((values**2).sum())
    by_ratio = 2 * total / squares - 2 * total**2 * values / squares**2
    tops = []
    for k in TOP:
        selected = np.zeros(n)
        selected[order[:k]] = 1.0
        share = 1.0
        if k < n:
            share = min(float(shares @ selected), 1.0)
        gradient = (selected - share) / total
        top = TopShare(directions=k, share=estimate(share, gradient, 1.0))
        tops.append(top)
    leading = []
    for i in map(int, order[:LEADING]):
        components = np.abs(directions.v[:, i])
        leading.append(
            Direction(
                index=i,
                singular_value=float(sigma[i]),
                cosine=float(means[i]),
                importance=interval(float(values[i]), Z * float(errors[i])),
                largest_feature=int(components.argmax()),
                largest_component=float(components.max()),
                on_features=tuple(components[named].tolist()),
            )
        )
    return Analysis(
        n_directions=n,
        singular_values=tuple(sigma.tolist()),
        importances=tuple(values.tolist()),
        participation_ratio=estimate(float(total**2 / squares), by_ratio, n),
        effective_rank=estimate(rank, by_entropy, n),
        top=tuple(tops),
        leading=tuple(leading),
        curves=(),
        fewest=(),
    )


def _outliers(head: LinearHead, h: Floats, predictions: Predictions) -> Outliers:
    """Find the outlier features, and replace them by their mean and by zero in every image.

    Outlier features have |z| > 6 in at least half of the images; without any it is the feature with most of the
    kurtosis.

    h: (image, feature), finite and not constant (`definitions.usable_rows`).
    """
    x = float64(h)
    z = standardise(h)
    frequency = (np.abs(z) > OUTLIER_SD).mean(axis=0)
    share = shares_of_kurtosis((z**4).sum(axis=0))
    by_share = np.argsort(-share, kind="stable")
    persistent = by_share[frequency[by_share] >= PERSISTENT_SHARE]
    chosen = persistent if len(persistent) else by_share[:1]
    weights = head.weight[:, chosen]
    difference = weights[predictions.first] - weights[predictions.second]
    of_chosen = x[:, chosen]
    values: dict[Literal["mean over images", "zero"], Array] = {
        "mean over images": of_chosen.mean(axis=0),
        "zero": np.zeros(len(chosen)),
    }
    replacements = []
    for name, value in values.items():
        other = x.copy()
        other[:, chosen] = value
        predicted = []
        for images in pieces(len(other), len(head.bias)):
            scores = head.scores(other[images])
            predicted.append(scores.argmax(axis=1))
        is_same = predictions.agrees(np.concatenate(predicted))
        contributions = difference * (of_chosen - value)
        share_of_margin = margin_share(contributions.sum(axis=1), predictions.margins)
        replacement = Replacement(value=name, changed=_share(~is_same), margin_share=share_of_margin)
        replacements.append(replacement)
    features = []
    for i in map(int, chosen[:LISTED]):
        feature = HeadFeature(index=i, frequency=float(frequency[i]), kurtosis_share=float(share[i]))
        features.append(feature)
    return Outliers(
        persistent=bool(len(persistent)),
        n_features=len(chosen),
        features=tuple(features),
        replacements=tuple(replacements),
    )


def margin_share(contributions: Array, margins: Array) -> Interval:
    """Return the features' share of the margins: the sum over images of what they give over the sum of the margins.

    The interval is normal over images (delta method of a ratio of means).

    Args:
        contributions: (image,) Σ_j (W_aj − W_bj)·(h_j − r_j), over the features j, with a and b the classes of the
            largest and the second score and r_j what h_j is replaced by.
        margins: (image,) the first score less the second.

    Returns:
        Nothing measured where all margins are 0. Below 0 where the features speak against the predictions; above 1
        where the rest of the representation does.
    """
    mean = float(margins.mean())
    if mean <= 0:
        return Interval(estimate=None, low=None, high=None)
    share = float(contributions.mean()) / mean
    spread = (contributions - share * margins).std(ddof=1)
    half = Z * float(spread) / mean / len(margins) ** 0.5
    return Interval(estimate=share, low=share - half, high=share + half)


def _share(agree: Bools) -> Accuracy:
    return wilson(int(agree.sum()), len(agree))
