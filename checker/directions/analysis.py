"""Compute every number of the report. Arrays go in (a head, representations, labelled sets), records come out.

Outlier features are found, and how the head uses them and each direction is measured. The head of k directions is
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
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import Array, Bools, Floats, Indices
from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.runtime.session import LinearHead
from robustcheck_onnx.checker.shift import robustness, sets
from robustcheck_onnx.checker.shift.robustness import Effective, SetResult
from robustcheck_onnx.checker.statistics import definitions
from robustcheck_onnx.checker.statistics.definitions import Accuracy, wilson
from robustcheck_onnx.checker.text import count_text, interval_text, number_text, percent_text
from robustcheck_onnx.thresholds.profile import Frozen

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
CLASSES_AT_ONCE = 2048  # rows of W in one step of the decomposition
AT_ONCE = 2**20  # values of a table that is worked on at once: 8 MiB, so that it stays in a cache
SAME = 1e-6  # of the largest singular value: below, two differ, or one differs from 0, by rounding of float32
Order = Literal["importance", "singular value", "random"]


class Direction(Frozen):
    """One direction of the head."""

    index: int
    """place among the singular values, from 0 for the largest"""
    singular_value: float
    cosine: float
    """mean over images of |cos| between the direction and the representation"""
    importance: Interval
    largest_feature: int
    """the feature with the largest |component| in the direction"""
    largest_component: float
    """that |component|; 1 = the direction is that feature alone"""
    on_features: tuple[float, ...]
    """|component| on each of `Outliers.features`, in their order"""


class TopShare(Frozen):
    """How much of all importance the first directions hold."""

    directions: int
    share: Interval


class Point(Frozen):
    """The head with some of its directions."""

    percent: int
    """of the directions that are kept"""
    kept: int
    importance: float
    """share of all importance that they hold, 0–1"""
    same: Accuracy
    """share of the images whose predicted class is that of the whole head"""
    same_confident: Accuracy
    """the same of the confident images: the half with the largest margin of the whole head"""
    accuracy: dict[str, Accuracy]
    """top-1 on each labelled set, by its name"""
    effective_robustness: dict[str, Effective]
    """on each shifted set that has one"""


class Curve(Frozen):
    """Predictions against the number of directions kept."""

    order: Order
    """which directions are kept first"""
    points: tuple[Point, ...]


class Fewest(Frozen):
    """The fewest directions that keep a share of the predictions. The most important ones come first."""

    share: float
    directions: int
    percent: float
    """of all directions, 0–100"""


class Analysis(Frozen):
    """The analysed directions. They are those of W, or of W less its mean over classes."""

    n_directions: int
    singular_values: tuple[float, ...]
    """falling"""
    importances: tuple[float, ...]
    """in the order of the singular values"""
    participation_ratio: Interval
    """of the importances p: (Σp)² / Σp²; 1 = one direction has all, `n_directions` = all have the same"""
    effective_rank: Interval
    """exp of the entropy of the importances' shares; the same range"""
    top: tuple[TopShare, ...]
    leading: tuple[Direction, ...]
    """the most important directions"""
    curves: tuple[Curve, ...]
    fewest: tuple[Fewest, ...]


class HeadFeature(Frozen):
    """A feature of the representation."""

    index: int
    frequency: float
    """share of the images with |z| > 6"""
    kurtosis_share: float
    """its share of the activation kurtosis"""


class Replacement(Frozen):
    """The effect of replacing features by one value. It is the same in every image."""

    value: Literal["mean over images", "zero"]
    changed: Accuracy
    """share of the images whose predicted class becomes another one"""
    margin_share: Interval
    """part of the margin between the first two classes that what is replaced gives: the sum over images of
    Σ_j (W_aj − W_bj)·(h_j − replacement) over the sum of the margins, a and b the classes of the two largest scores"""


class Outliers(Frozen):
    """The outlier features, and how the head uses them."""

    persistent: bool
    """|z| > 6 in at least half of the images; without any, the one with most of the kurtosis"""
    n_features: int
    """how many are replaced"""
    features: tuple[HeadFeature, ...]
    """the first of them by their share of the kurtosis"""
    replacements: tuple[Replacement, ...]


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

    def n_right(self, images: slice, scores: Array) -> int:
        """Count the images predicted right in a piece. scores: (image, class)."""
        return int(sets.is_correct(scores, self.right[images], self.compete).sum())


def correct(head: LinearHead, each: Labelled) -> int:
    """Count the labelled images that the head predicts right."""
    return sum(
        each.n_right(images, head.scores(each.representations[images]))
        for images in pieces(len(each.right), len(head.bias))
    )


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
    whole = predict_whole(head, h)
    outliers = _outliers(head, h, whole)

    def effective(accuracy: dict[str, Accuracy]) -> dict[str, Effective]:
        """Return effective robustness by shifted set, from the accuracies of all sets."""
        results = [each.result.model_copy(update={"accuracy": accuracy[each.name]}) for each in labelled if each.result]
        found = {each.name: robustness.effective(results[0], each, baseline)[0] for each in results[1:]}
        return {name: each for name, each in found.items() if each is not None}

    def analysis(directions: Directions) -> Analysis:
        columns = directions.v.T @ head.weight.T - (directions.v.T @ directions.mean)[:, None]
        projected = directions.project(h)
        others = [(each, directions.project(each.representations)) for each in labelled]
        weighed = _weigh(directions, h, projected, [feature.index for feature in outliers.features])
        n, importances = weighed.n_directions, np.array(weighed.importances)
        kept = {percent: math.ceil(percent * n / 100) for percent in PERCENT}
        steps = {math.ceil(n * step / STEPS) for step in range(1, STEPS + 1)} - {n}
        orders: dict[Order, Indices] = {
            "importance": np.argsort(-importances, kind="stable"),
            "singular value": np.arange(n),
            "random": np.random.default_rng(seed).permutation(n),
        }
        curves, same = [], dict[int, float]()
        for name, order in orders.items():
            tried = {*kept.values(), *(steps if name == "importance" else ())}
            found = {k: np.empty(len(projected), dtype=np.intp) for k in tried}
            for k, part, scores in pruned_scores(columns, projected, head.bias, order, tried):
                found[k][part] = scores.argmax(axis=1)
            agrees = {k: whole.agrees(classes) for k, classes in found.items()}
            same = same or {k: float(agree.mean()) for k, agree in agrees.items()}  # of the first order
            right = Counter[tuple[int, str]]()
            for each, of_set in others:
                for k, part, scores in pruned_scores(columns, of_set, head.bias, order, kept.values()):
                    right[k, each.name] += each.n_right(part, scores)
            points = tuple(
                Point(
                    percent=percent,
                    kept=k,
                    importance=min(float(importances[order[:k]].sum() / importances.sum()), 1.0),
                    same=_share(agrees[k]),
                    same_confident=_share(agrees[k][whole.confident]),
                    accuracy=(of_sets := {s.name: wilson(right[k, s.name], len(s.right)) for s in labelled}),
                    effective_robustness=effective(of_sets),
                )
                for percent, k in kept.items()
            )
            curves.append(Curve(order=name, points=points))
        fewest = []
        for share in KEEPS:  # from there on every larger number tried keeps that share, too
            too_few = max((k for k in same if same[k] < share), default=0)
            least = min((k for k in same if k > too_few), default=n)
            fewest.append(Fewest(share=share, directions=least, percent=100 * least / n))
        return weighed.model_copy(update={"curves": tuple(curves), "fewest": tuple(fewest)})

    return analysis(raw), analysis(centred), outliers


def _weigh(directions: Directions, h: Floats, projected: Array, named: Sequence[int]) -> Analysis:
    """Weigh the directions on some images, without pruning them.

    Intervals are normal ones over images: of a function of the mean importances by the delta method, its gradient times
    each image's importances standing for the image.

    Args:
        directions: of a head whose singular values are not all 0.
        h: (image, feature), two images or more, not 0.
        projected: (image, direction) h V.
        named: features whose part in the leading directions is reported.
    """
    sigma, n = directions.sigma, len(directions.sigma)
    scale = sigma / sigma.sum()
    absolute = np.abs(projected) / np.sqrt(np.einsum("ij,ij->i", h, h, dtype=np.float64))[:, None]
    cosines = absolute.mean(axis=0)
    values, errors = scale * cosines, scale * absolute.std(axis=0, ddof=1) / np.sqrt(len(h))
    order = np.argsort(-values, kind="stable")

    def interval(value: float, half: float, ceiling: float = math.inf) -> Interval:
        return Interval(estimate=value, low=max(value - half, 0.0), high=min(value + half, ceiling))

    def estimate(value: float, gradient: Array, ceiling: float) -> Interval:
        """Return a value with its interval. `gradient` is by each direction's importance."""
        return interval(value, float(Z * (absolute @ (scale * gradient)).std(ddof=1) / np.sqrt(len(h))), ceiling)

    total, squares = values.sum(), float((values**2).sum())
    shares = values / total
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy = -float((shares * logs).sum())
    rank = float(np.exp(entropy))
    tops = []
    for k in TOP:
        held = np.zeros(n)
        held[order[:k]] = 1.0
        share = min(float(shares @ held), 1.0) if k < n else 1.0
        tops.append(TopShare(directions=k, share=estimate(share, (held - share) / total, 1.0)))
    leading = []
    for i in map(int, order[:LEADING]):
        components = np.abs(directions.v[:, i])
        leading.append(
            Direction(
                index=i,
                singular_value=float(sigma[i]),
                cosine=float(cosines[i]),
                importance=interval(float(values[i]), Z * float(errors[i])),
                largest_feature=int(components.argmax()),
                largest_component=float(components.max()),
                on_features=tuple(components[named].tolist()),
            )
        )
    by_ratio = 2 * total / squares - 2 * total**2 * values / squares**2
    return Analysis(
        n_directions=n,
        singular_values=tuple(sigma.tolist()),
        importances=tuple(values.tolist()),
        participation_ratio=estimate(float(total**2 / squares), by_ratio, n),
        effective_rank=estimate(rank, np.where(shares > 0, -rank * (logs + entropy) / total, 0.0), n),
        top=tuple(tops),
        leading=tuple(leading),
        curves=(),
        fewest=(),
    )


def _outliers(head: LinearHead, h: Floats, whole: Predictions) -> Outliers:
    """Find the outlier features, and replace them by mean and by zero. The value is the same in every image.

    They have |z| > 6 in at least half of the images; without any it is the feature with most of the kurtosis.

    h: (image, feature), finite and not constant (`definitions.usable_rows`).
    """
    x, z = h.astype(np.float64), definitions.standardise(h)
    frequency = (np.abs(z) > OUTLIER_SD).mean(axis=0)
    share = definitions.shares_of_kurtosis((z**4).sum(axis=0))
    by_share = np.argsort(-share, kind="stable")
    persistent = by_share[frequency[by_share] >= definitions.PERSISTENT_SHARE]
    chosen = persistent if len(persistent) else by_share[:1]
    difference = head.weight[whole.first][:, chosen] - head.weight[whole.second][:, chosen]
    values: dict[Literal["mean over images", "zero"], Array] = {
        "mean over images": x[:, chosen].mean(axis=0),
        "zero": np.zeros(len(chosen)),
    }
    replacements = []
    for name, value in values.items():
        other = x.copy()
        other[:, chosen] = value
        predicted = [head.scores(other[images]).argmax(axis=1) for images in pieces(len(other), len(head.bias))]
        given = (difference * (x[:, chosen] - value)).sum(axis=1)
        replacements.append(
            Replacement(
                value=name,
                changed=_share(~whole.agrees(np.concatenate(predicted))),
                margin_share=margin_share(given, whole.margins),
            )
        )
    return Outliers(
        persistent=bool(len(persistent)),
        n_features=len(chosen),
        features=tuple(
            HeadFeature(index=i, frequency=float(frequency[i]), kurtosis_share=float(share[i]))
            for i in map(int, chosen[:LISTED])
        ),
        replacements=tuple(replacements),
    )


def margin_share(given: Array, margins: Array) -> Interval:
    """Return the features' share of the margins.

    It is the sum over images of what they give over the sum of the margins.

    The interval is normal over images (delta method of a ratio of means).

    Args:
        given: (image,) Σ_j (W_aj − W_bj)·(h_j − r_j), over the features j, with a and b the classes of the largest and
            the second score and r_j what h_j is replaced by.
        margins: (image,) the first score less the second.

    Returns:
        Nothing measured where all margins are 0. Below 0 where the features speak against the predictions; above 1
        where the rest of the representation does.
    """
    mean, n = float(margins.mean()), len(margins)
    if mean <= 0:
        return Interval(estimate=None, low=None, high=None)
    share = float(given.mean()) / mean
    half = Z * float((given - share * margins).std(ddof=1)) / mean / n**0.5
    return Interval(estimate=share, low=share - half, high=share + half)


class Predictions(NamedTuple):
    """What the whole head makes of some images."""

    first: Indices
    """(image,) class of the largest score; a tie goes to the smaller index"""
    second: Indices
    """(image,) class of the largest score of the others"""
    margins: Array
    """(image,) the first score less the second"""
    copies: Indices
    """(class,) the first of each class's copies, which have the same weights and bias: only rounding decides there"""

    def agrees(self, found: Indices) -> Bools:
        """Return whether a class is the predicted one, (image,). A copy of it counts as the same."""
        return np.asarray(self.copies[found] == self.copies[self.first])

    @property
    def confident(self) -> Indices:
        """Return the half of the images with the largest margins. The middle one is included."""
        return np.argsort(-self.margins, kind="stable")[: -(-len(self.margins) // 2)]


def predict_whole(head: LinearHead, h: Floats) -> Predictions:
    """Predict with the whole head. h: (image, feature)."""
    parts = []
    for images in pieces(len(h), len(head.bias)):
        scores = head.scores(h[images])
        rows, first = np.arange(len(scores)), scores.argmax(axis=1)
        best = scores[rows, first]
        scores[rows, first] = -np.inf
        second = scores.argmax(axis=1)
        parts.append((first, second, best - scores[rows, second]))
    firsts: dict[bytes, int] = {}
    classes = zip(head.weight, head.bias, strict=True)
    copies = [
        firsts.setdefault(blake2b(row.tobytes() + bias.tobytes()).digest(), i) for i, (row, bias) in enumerate(classes)
    ]
    first, second, margins = map(np.concatenate, zip(*parts, strict=True))
    return Predictions(first, second, margins, np.array(copies))


def pruned_scores(
    columns: Array, projected: Array, bias: Array, order: Indices, kept: Collection[int]
) -> Iterator[tuple[int, slice, Array]]:
    """Yield a head's scores with fewer directions. They come a piece of the images at a time.

    Args:
        columns: (direction, class) (U Σ)ᵀ.
        projected: (image, direction) h V, h as the head takes it (of length 1 where it normalises).
        bias: (class,).
        order: (direction,) which direction is added first.
        kept: numbers of directions.

    Yields:
        The number kept, the piece of the images, and its (image, class) scores. They are overwritten afterwards.
    """
    levels = sorted(set(kept))
    added = [columns[order[low:high]] for low, high in zip([0, *levels], levels, strict=False)]
    for images in pieces(len(projected), len(bias)):
        total, low = np.tile(bias, (len(projected[images]), 1)), 0
        for high, some in zip(levels, added, strict=True):
            total += projected[images][:, order[low:high]] @ some
            yield high, images, total
            low = high


def _share(agree: Bools) -> Accuracy:
    return wilson(int(agree.sum()), len(agree))


class Directions(NamedTuple):
    """The right singular vectors of a head. They are those of W, or of W less its mean over classes."""

    mean: Array
    """(feature,) what was taken from each class's weights: zeros, or their mean over classes"""
    sigma: Array
    """(direction,) singular values, falling"""
    v: Array
    """(feature, direction) unit vectors; their signs mean nothing"""

    def project(self, h: Floats) -> Array:
        """h V, (image, direction) of (image, feature)."""
        return np.concatenate([h[images].astype(np.float64) @ self.v for images in pieces(len(h), len(self.v))])


def decompose(weight: Array) -> tuple[Directions, Directions]:
    """Return the singular vectors and values of a head. They are those of W, and of W less its mean over classes.

    Softmax and the predicted class can't see that mean. One QR decomposition of [1 W] gives both: below its first row
    stands R of the centred W, and with the row R of W itself. It goes piece by piece, R of the pieces so far on top of
    the next one, which is exact and copies nothing of W's size.

    Args:
        weight: (class, feature), finite, at least two classes.

    Returns:
        Raw, then centred: min(classes, features) and min(classes − 1, features) directions.
    """
    n_classes, d = weight.shape
    r = np.empty((0, d + 1))
    for start in range(0, n_classes, CLASSES_AT_ONCE):
        piece = weight[start : start + CLASSES_AT_ONCE]
        r = np.asarray(np.linalg.qr(np.concatenate([r, np.c_[np.ones(len(piece)), piece]]), mode="r"))
    return _directions(r[:, 1:], np.zeros(d)), _directions(r[1:, 1:], weight.mean(axis=0))


def _directions(r: Array, mean: Array) -> Directions:
    _, sigma, vt = np.linalg.svd(r, full_matrices=False)
    return Directions(mean, sigma, np.ascontiguousarray(vt.T))


def pieces(n_images: int, n_columns: int) -> Iterator[slice]:
    """Yield the images piece by piece. A piece has at least one image, and at most `AT_ONCE` values of a table.

    n_columns: values of the table for each image.
    """
    step = max(1, AT_ONCE // n_columns)
    for start in range(0, n_images, step):
        yield slice(start, min(start + step, n_images))


def spectrum_notes(raw: Analysis) -> list[str]:
    """Return the notes on singular values. They tell how far single directions mean anything."""
    sigma = raw.singular_values
    rounding = SAME * sigma[0]
    rank = sum(value > rounding for value in sigma)
    n_equal = sum(a - b <= rounding for a, b in itertools.pairwise(sigma[:rank]))
    notes = []
    if rank < len(sigma):
        notes.append(
            f"{len(sigma) - rank} of {len(sigma)} directions weigh nothing: the head's matrix has rank {rank}."
        )
    if n_equal:
        notes.append(
            f"{count_text(n_equal, 'singular value')} equal to the one before (to 1e-6 of the largest): such "
            "directions are one choice among many, and so is every number of a single one, of the order and the rank."
        )
    return notes


def summary_of(raw: Analysis) -> str:
    """What was found, in two sentences."""
    first, last = raw.top[0].share.estimate, raw.top[-1]
    twenty = next(point for point in raw.curves[0].points if point.percent == 20)
    keeps = raw.fewest[-1]
    rank, same = number_text(raw.effective_rank.estimate), twenty.same
    return (
        f"Of {raw.n_directions} directions the most important holds {percent_text(first)} of the importance, the "
        f"first {min(last.directions, raw.n_directions)} hold {percent_text(last.share.estimate)}; the effective rank "
        f"is {rank}. The most important 20 % ({twenty.kept}) keep {percent_text(same.value)} of the predictions "
        f"({interval_text(100 * same.low, 100 * same.high)} %); {keeps.directions} or more "
        f"({keeps.percent:.0f} %) keep {100 * keeps.share:.0f} %."
    )
