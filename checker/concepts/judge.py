"""From average precisions to judged concepts and the directions that tell them; pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustcheck_onnx.checker.arrays import Bools
from robustcheck_onnx.checker.text import count_text

from . import null
from .directions import Directions
from .records import ENCODED_AP, Along, ChanceFacts, Concept, DirectionFacts, NotJudged, Told
from .search import Measured

BEST = 5  # directions named of a concept
BINS = 20  # of the histograms of AP
ROUNDING = 1e-12


def split(present: Bools, names: Sequence[str], min_positives: int) -> tuple[list[int], tuple[NotJudged, ...]]:
    """The concepts that can be judged, and the others.

    Args:
        present: (image, concept).
        names: of the concepts.
        min_positives: images with a concept, and without it, that are needed.
    """
    counts = present.sum(axis=0).tolist()
    judged, others = [], []
    for index, (name, count) in enumerate(zip(names, counts, strict=True)):
        without = len(present) - count
        if min(count, without) >= min_positives:
            judged.append(index)
            continue
        few = f"{count_text(count, 'image')} with it" if count < min_positives else f"{without} without it"
        others.append(NotJudged(name=name, n_images=count, reason=f"{few}; {min_positives} are needed"))
    return judged, tuple(others)


def judge(measured: Measured, names: Sequence[str], counts: Sequence[int]) -> tuple[Concept, ...]:
    """Judge concepts; established ones first, then by AP.

    names, counts: of the concepts, and of their images.
    """
    beyond = _telling(measured)
    quantiles = np.quantile(measured.shuffled, [0.5, 0.95, 1], axis=0)
    concepts = []
    for index, (name, count) in enumerate(zip(names, counts, strict=True)):
        ap = measured.ap[index]
        order = np.argsort(-ap, kind="stable")[:BEST]
        n_telling, needed = int(beyond[index].sum()), float(measured.chance.needed[index])
        concepts.append(
            Concept(
                name=name,
                n_images=count,
                ap=float(ap.max()),
                encoded=bool(ap.max() >= ENCODED_AP - ROUNDING),
                established=n_telling > 0,
                needed=needed if np.isfinite(needed) else None,
                p=float(measured.chance.p[index]),
                chance=tuple(quantiles[:, index].tolist()),
                n_directions=n_telling,
                best=tuple(
                    Along(direction=int(d), sign=1 if measured.along[index, d] else -1, ap=float(ap[d])) for d in order
                ),
            )
        )
    return tuple(sorted(concepts, key=lambda each: (not each.established, -each.ap, each.name)))


def directions_told(measured: Measured, names: Sequence[str], directions: Directions, source: str) -> DirectionFacts:
    """The directions that tell concepts, most concepts first. source: what the directions are, in words."""
    beyond = _telling(measured)
    telling = []
    for index in np.flatnonzero(beyond.any(axis=0)).tolist():
        told = np.flatnonzero(beyond[:, index])
        order = told[np.argsort(-measured.ap[told, index], kind="stable")].tolist()
        strength = None if directions.strengths is None else float(directions.strengths[index])
        telling.append(Told(direction=index, strength=strength, concepts=tuple(names[each] for each in order)))
    telling.sort(key=lambda each: (-len(each.concepts), each.direction))
    return DirectionFacts(
        of=directions.of,
        source=source,
        n=directions.n,
        n_telling=len(telling),
        n_polysemantic=sum(len(each.concepts) > 1 for each in telling),
        telling=tuple(telling),
    )


def chance_facts(measured: Measured, seed: int) -> ChanceFacts:
    """How chance was measured, and its distribution."""
    edges = np.linspace(0, 1, BINS + 1)
    shuffled, _ = np.histogram(measured.shuffled, edges)
    best, _ = np.histogram(measured.ap.max(axis=1), edges)
    return ChanceFacts(
        shuffles=len(measured.shuffled),
        seed=seed,
        error_rate=null.ERROR_RATE,
        edges=tuple(round(edge, 2) for edge in edges.tolist()),
        shuffled=tuple(shuffled.tolist()),
        measured=tuple(best.tolist()),
    )


def _telling(measured: Measured) -> Bools:
    """(concept, direction): AP ≥ 0.9 and beyond chance."""
    needed = measured.chance.needed[:, np.newaxis]
    return (measured.ap >= ENCODED_AP - ROUNDING) & (measured.ap > needed)
