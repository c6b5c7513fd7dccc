"""Search the directions of a representation for concepts.

Average precision, chance and the judgement. Pure.

h·v is looked at for v and for −v: the sign of a singular vector means nothing, so both signs are one direction.

AP = Σ_n (R_n − R_{n−1})·P_n over the distinct scores in falling order, P_n and R_n precision and recall of all images
with at least that score: no interpolation, images of one score count together (scikit-learn's definition). It is the
mean over the positives of (positives with at least this score) / (images with at least this score).

Chance: the rows of the assignment of images to concepts are permuted, so each concept keeps its number of positives and
concepts stay together as often as they are. Concepts differ in what chance gives them (a frequent one starts from a
high AP), so each is standardised by its own shuffles, and the largest over all concepts is what every concept has to
exceed: the single-step max-T procedure of Westfall and Young (Resampling-Based Multiple Testing, 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...arrays import Array, Bools, Floats
from .document import (
    BINS,
    ENCODED_AP,
    ERROR_RATE,
    ChanceFacts,
    Concept,
    DirectionConcepts,
    DirectionFacts,
    DirectionScore,
    Of,
)

OF: tuple[Of, ...] = ("head", "features", "axes")
BLOCK = 64  # directions whose scores are in memory at once
ROWS = 4096  # images that are projected at once
BISECTIONS = 50  # halvings of 0 to 1: to about the rounding of an AP
EPS = np.finfo(np.float32).eps  # rounding of a representation
ROUNDING = 1e-12  # of an AP
MIN_SHUFFLES = 19  # with fewer no result can be beyond chance at that rate: 1 / (1 + 19) = 0.05
BLOCK_VALUES = 100_000  # numbers that shuffles are ranked in at once: they stay in the cache
BEST = 5  # directions named of a concept


def search(
    h: Floats,
    directions: SearchedDirections,
    positives: Sequence[npt.NDArray[np.integer]],
    *,
    n_shuffles: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> SearchResult:
    """Measure the AP along all directions, with the labels as they are and shuffled.

    Time grows with directions × shuffles × the positives of all concepts; memory with images × `directions.BLOCK`.

    Args:
        h: (image, feature), finite.
        directions: of its space, one at least.
        positives: of each concept the indices of its images, one at least.
        n_shuffles: at least `MIN_SHUFFLES`.
        seed: of the shuffles.
        progress: called with the number of directions that are done.
    """
    n_concepts = len(positives)
    shuffles = permutations(len(h), n_shuffles, seed)
    ap = np.empty((n_concepts, directions.n))
    is_plus = np.empty((n_concepts, directions.n), bool)
    shuffled = np.zeros((n_shuffles, n_concepts))
    for start, scores in directions.blocks(h):
        ranked = rank(scores)
        block = slice(start, start + len(scores))
        for concept, images in enumerate(positives):
            as_they_are = images[np.newaxis]
            plus, minus = np.squeeze(average_precisions(ranked, as_they_are), -1)
            ap[concept, block] = np.maximum(plus, minus)
            is_plus[concept, block] = plus >= minus
            some = max(1, BLOCK_VALUES // (len(images) * len(scores)))
            for first in range(0, n_shuffles, some):
                part = slice(first, first + some)
                plus, minus = average_precisions(ranked, shuffles[part, images])
                best = np.maximum(plus, minus).max(axis=0)
                largest = shuffled[part, concept]
                np.maximum(largest, best, out=largest)
        progress(block.stop)
    return SearchResult(ap, is_plus, shuffled, compare(ap.max(axis=1), shuffled))


class SearchedDirections(NamedTuple):
    """Directions of the space of representations."""

    of: Of
    vectors: Array | None
    """(feature, direction) float64, of length 1; None: the features themselves"""
    strengths: Array | None
    """(direction,) singular values of a head, or SDs along principal axes, falling; None of features"""
    n: int

    def blocks(self, h: Floats) -> Iterator[tuple[int, Array]]:
        """Yield blocks of scores h·v: the number of the first direction, and (direction, image) float64."""
        for start in range(0, self.n, BLOCK):
            block = slice(start, start + BLOCK)
            if self.vectors is None:
                yield start, h[:, block].T.astype(np.float64)
                continue
            scores = []
            for row in range(0, len(h), ROWS):
                rows = slice(row, row + ROWS)
                scores.append(h[rows].astype(np.float64) @ self.vectors[:, block])
            yield start, np.ascontiguousarray(np.concatenate(scores).T)


def of_head(weight: Array) -> SearchedDirections:
    """Return the right singular vectors of a head's (class, feature) weight whose singular value is above rounding.

    The paper's directions (Crabbé et al., TMLR 2024, section on concepts). Neither the bias nor a mean over classes is
    taken out.
    """
    _, values, rows = np.linalg.svd(weight, full_matrices=False)
    above = values > values[0] * max(weight.shape) * EPS
    strengths = values[above]
    return SearchedDirections("head", rows[above].T, strengths, len(strengths))


def of_features(n_features: int) -> SearchedDirections:
    """Return the features of the representation, one by one."""
    return SearchedDirections("features", None, None, n_features)


def of_axes(h: Floats) -> SearchedDirections:
    """Return the principal axes of (image, feature) representations whose variance is above rounding.

    The axes come from the images without their labels, so shuffled labels tell what chance gives along them, too.
    """
    centred = h.astype(np.float64)
    centred -= centred.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    rising, vectors = np.linalg.eigh(covariance)
    variances = rising[::-1]
    above = variances > variances[0] * max(h.shape) * EPS**2
    above[len(h) - 1 :] = False  # n images about their mean span n − 1 directions
    falling = vectors[:, ::-1]
    axes = np.ascontiguousarray(falling[:, above])
    strengths = np.sqrt(variances[above])
    return SearchedDirections("axes", axes, strengths, len(strengths))


class SearchResult(NamedTuple):
    """What was found along all directions."""

    ap: Array
    """(concept, direction) the larger AP of both signs"""
    is_plus: Bools
    """(concept, direction) whether that is h·v, not −h·v"""
    shuffled: Array
    """(shuffle, concept) the largest AP over directions and signs with shuffled labels"""
    chance: Chance

    @property
    def is_beyond(self) -> Bools:
        """Return whether the AP is 0.9 or more and beyond chance, (concept, direction)."""
        needed = self.chance.needed[:, np.newaxis]
        return (self.ap >= ENCODED_AP - ROUNDING) & (self.ap > needed)


def judge(measured: SearchResult, names: Sequence[str], counts: Sequence[int]) -> tuple[Concept, ...]:
    """Judge concepts; established ones first, then by AP.

    names, counts: of the concepts, and of their images.
    """
    quantiles = np.quantile(measured.shuffled, [0.5, 0.95, 1], axis=0)
    is_beyond = measured.is_beyond
    concepts = []
    for index, (concept, count) in enumerate(zip(names, counts, strict=True)):
        ap = measured.ap[index]
        needed = float(measured.chance.needed[index])
        n_directions = int(is_beyond[index].sum())
        best = []
        for direction in map(int, np.argsort(-ap, kind="stable")[:BEST]):
            is_plus = measured.is_plus[index, direction]
            sign: Literal[1, -1] = 1 if is_plus else -1
            best.append(DirectionScore(direction=direction, sign=sign, ap=float(ap[direction])))
        judged = Concept(
            name=concept,
            n_images=count,
            ap=float(ap.max()),
            encoded=bool(ap.max() >= ENCODED_AP - ROUNDING),
            established=n_directions > 0,
            needed=needed if np.isfinite(needed) else None,
            p=float(measured.chance.p[index]),
            chance=tuple(quantiles[:, index].tolist()),
            n_directions=n_directions,
            best=tuple(best),
        )
        concepts.append(judged)
    concepts.sort(key=lambda c: (not c.established, -c.ap, c.name))
    return tuple(concepts)


def direction_facts(
    measured: SearchResult, names: Sequence[str], directions: SearchedDirections, source: str
) -> DirectionFacts:
    """Return the directions that tell concepts, most concepts first. source: what the directions are, in words."""
    is_beyond = measured.is_beyond
    telling = []
    for index in map(int, np.flatnonzero(is_beyond.any(axis=0))):
        falling = np.argsort(-measured.ap[:, index], kind="stable")
        concepts = [names[i] for i in falling if is_beyond[i, index]]
        strength = None if directions.strengths is None else float(directions.strengths[index])
        telling.append(DirectionConcepts(direction=index, strength=strength, concepts=tuple(concepts)))
    telling.sort(key=lambda d: (-len(d.concepts), d.direction))
    return DirectionFacts(
        of=directions.of,
        source=source,
        n=directions.n,
        n_telling=len(telling),
        n_polysemantic=sum(len(d.concepts) > 1 for d in telling),
        telling=tuple(telling),
    )


def chance_facts(measured: SearchResult, seed: int) -> ChanceFacts:
    """Return how chance was measured, and its distribution."""
    edges = np.linspace(0, 1, BINS + 1)
    shuffled, _ = np.histogram(measured.shuffled, edges)
    highest = measured.ap.max(axis=1)
    best, _ = np.histogram(highest, edges)
    return ChanceFacts(
        shuffles=len(measured.shuffled),
        seed=seed,
        error_rate=ERROR_RATE,
        edges=tuple(edges.round(2).tolist()),
        shuffled=tuple(shuffled.tolist()),
        measured=tuple(best.tolist()),
    )


class Chance(NamedTuple):
    """What chance gives each concept."""

    needed: Array
    """(concept,) AP that a direction has to exceed to be beyond chance, whatever the best one reached; inf: none can"""
    p: Array
    """(concept,) p-value of the best direction, corrected over concepts: at least 1 / (1 + shuffles)"""


def compare(best: Array, shuffled: Array) -> Chance:
    """Compare each concept's best AP with its shuffles, corrected over concepts.

    The labels as they are and the shuffles count alike: each is standardised by the mean and SD of the others, so that
    under chance alone all are exchangeable and the error rate is exact, whatever the images, directions and concepts.

    Args:
        best: (concept,) largest AP over directions.
        shuffled: (shuffle, concept) the same with shuffled labels, at least `MIN_SHUFFLES` of them.
    """
    n_shuffles = len(shuffled)
    t = _by_the_others(np.vstack([best, shuffled]))
    chance = np.sort(t[1:].max(axis=1))
    n_as_large = n_shuffles - np.searchsorted(chance, t[0], side="left")
    varies = shuffled.std(axis=0) > 0
    needed = np.where(varies, _needed(t, shuffled), shuffled.max(axis=0))
    return Chance(needed, (1 + n_as_large) / (1 + n_shuffles))


def permutations(n_images: int, n_shuffles: int, seed: int) -> npt.NDArray[np.int32]:
    """Return shuffles of the labels, (shuffle, image) int32: for each image the one that gets its labels."""
    rng = np.random.default_rng(seed)
    in_order = np.arange(n_images, dtype=np.int32)
    rows = np.tile(in_order, (n_shuffles, 1))
    return rng.permuted(rows, axis=1)


def _needed(t: Array, shuffled: Array) -> Array:
    """Return the AP from which each concept's p-value is at most `ERROR_RATE`, the other concepts as they are.

    The AP is found by bisection, as it counts among the values that standardise its own shuffles.

    t: (1 + shuffle, concept) the standardised APs, those of the labels as they are first.
    """
    n_shuffles, n_concepts = shuffled.shape
    allowed = int(ERROR_RATE * (1 + n_shuffles) + 1e-9) - 1  # shuffles that may reach the AP
    of_others = _largest_of_others(t[1:])

    def is_beyond(ap: Array) -> Bools:
        own = _by_the_others(np.vstack([ap, shuffled]))
        reaches_ap = np.maximum(own[1:], of_others) >= own[0]
        return np.asarray(reaches_ap.sum(axis=0) <= allowed)

    low = np.zeros(n_concepts)
    high = np.ones(n_concepts)
    possible = is_beyond(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        beyond = is_beyond(middle)
        low = np.where(beyond, low, middle)
        high = np.where(beyond, middle, high)
    return np.where(possible, high, np.inf)


def _largest_of_others(values: Array) -> Array:
    """Return the largest value of each row without the column itself, −∞ where there is one column."""
    ordered = np.sort(values, axis=1)
    largest = ordered[:, -1:]
    second = ordered[:, -2:-1]
    if values.shape[1] == 1:
        second = np.full_like(largest, -np.inf)
    return np.where(values < largest, largest, second)


def _by_the_others(values: Array) -> Array:
    """Standardise each row by mean and (biased) SD of the other rows, column by column.

    Where the others do not vary it is 0 for what is equal to them and ±inf for what is not.
    """
    n = len(values)
    away = values - values.mean(axis=0)
    total = (away**2).sum(axis=0)
    tiny = 1e-24 * n  # rounding of APs
    own = away**2 * n / (n - 1)
    others = total - own  # sum of squares of the others about their mean
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(others > tiny, others, 0.0) / (n - 1)
        t = away * n / (n - 1) / np.sqrt(variance)
    return np.where(away**2 <= tiny, 0.0, t)


Counts = npt.NDArray[np.int32]


class RankedImages(NamedTuple):
    """Images ranked along some directions, from either end."""

    at_least: Counts
    """(direction, image): number of images whose score is at least this one's, itself included"""
    at_most: Counts | None
    """the same along −v; None where no two images have one score, which gives it"""


def rank(scores: Array) -> RankedImages:
    """Rank (direction, image) finite scores."""
    ordered = np.sort(scores, axis=1)

    def below(side: Literal["left", "right"]) -> Counts:
        counts = [np.searchsorted(*rows, side) for rows in zip(ordered, scores, strict=True)]
        return np.array(counts, np.int32)

    has_ties = (ordered[:, 1:] == ordered[:, :-1]).any()
    at_least = scores.shape[1] - below("left")
    at_most = below("right") if has_ties else None
    return RankedImages(at_least, at_most)


def average_precisions(ranked: RankedImages, positives: npt.NDArray[np.integer]) -> tuple[Array, Array]:
    """Return the AP along each direction and against it.

    Args:
        ranked: n images along m directions.
        positives: (assignment, positive) indices of the images that have the concept, at least one each.

    Returns:
        (direction, assignment) each: AP of h·v, and of −h·v. 1 where all images are positives.
    """
    forward = np.take(ranked.at_least, positives, axis=1)
    forward.sort(axis=-1)
    if ranked.at_most is not None:
        backward = np.take(ranked.at_most, positives, axis=1)
        backward.sort(axis=-1)
        return _of_sorted(forward), _of_sorted(backward)
    n = ranked.at_least.shape[1]
    backward = n + 1 - forward
    hits = np.arange(1, positives.shape[-1] + 1)
    precisions = hits / forward
    against = hits[::-1] / backward
    return precisions.mean(-1), against.mean(-1)


def _of_sorted(counts: Counts) -> Array:
    """Return the AP of positives, from the number of images with at least their score, rising along the last axis."""
    n = counts.shape[-1]
    ends = np.diff(counts, append=0) != 0  # of a run of equal scores
    hits_at_ends = np.where(ends, np.arange(1, n + 1), n)
    hits = np.minimum.accumulate(hits_at_ends[..., ::-1], axis=-1)
    return np.asarray((hits[..., ::-1] / counts).mean(-1))
