"""Add up what two models give for the same images, and tell which classes they predict. Pure.

Sums take bounded memory, however many images there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ....thresholds.profile import Profile
from ....thresholds.records import Frozen
from ...arrays import Array, Bools, Counts, Float32s, float64
from ...core.evidence import OUTLIER_SD, Evidence, OutlierFeature, Statistics
from ...core.statistics import definitions, intervals
from ...core.statistics import state as sums
from ...core.verdict.rule import Verdict, judge
from .similarity import UNRELATED_CKA, Similarity, scaled

LISTED = 16  # features whose fate is reported
MAX_ROWS = 1024  # rows kept for similarity and matching, the first of the seeded order: memory stays bounded


@dataclass
class Side:
    """One model's sums over the images: `state.State`, and how often each feature is far out, by group.

    far: (2, group, feature) number of images with z > 4, with z < −4 (float64).
    rows: the first `MAX_ROWS` representations, float32; one array a batch.
    """

    state: sums.State
    far: Array = field(init=False)
    rows: list[Float32s] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.far = np.zeros((2, sums.GROUPS, self.state.n_features))

    @property
    def vectors(self) -> Float32s:
        """(image, feature) the kept representations."""
        no_rows = np.zeros((0, self.state.n_features), np.float32)
        return np.concatenate([no_rows, *self.rows])

    @property
    def scaled_rows(self) -> Array:
        """(image, feature) float64, each scaled to length √feature."""
        return scaled(self.vectors)

    def mean_z(self, index: int) -> float:
        """Return the mean z of a feature over images."""
        return float(self.state.z_powers[0, :, index].sum() / self.state.n)

    def usual_side(self, index: int) -> int:
        """Return the side of a feature's mean z, 0 for plus and 1 for minus: the first axis of `far`."""
        return int(self.mean_z(index) < 0)

    def share(self, index: int, where: int) -> float:
        """Return the share of the images in which a feature is beyond 4 SD on one side."""
        return float(self.far[where, :, index].sum() / self.state.n)

    def add(self, h: Array, keys: Counts) -> None:
        """Add usable representations (image, feature), with image keys."""
        sums.update(self.state, h, keys)
        if not len(h):
            return
        z = definitions.standardise(h)
        groups = keys % sums.GROUPS
        np.add.at(self.far[0], groups, z > OUTLIER_SD)
        np.add.at(self.far[1], groups, z < -OUTLIER_SD)
        room = MAX_ROWS - sum(map(len, self.rows))
        if room > 0:
            self.rows.append(h[:room].astype(np.float32))


@dataclass
class Pair:
    """Candidate and reference over the same images, and the classes that they predict."""

    candidate: Side
    reference: Side
    predicted: list[Counts] = field(default_factory=list)
    """(2, image) the class that candidate and reference predict; −1: none"""
    images: list[tuple[str, str]] = field(default_factory=list)
    """name and digest of each image of the kept rows"""


def update(pair: Pair, h_candidate: npt.ArrayLike, h_reference: npt.ArrayLike, keys: npt.ArrayLike) -> Bools:
    """Add the representations of the same images, in place. Returns which of them counted, (image,).

    A pair counts only where both can be measured; what can't is counted at its own model.

    Args:
        pair: the sums so far.
        h_candidate, h_reference: (image, feature), any float dtype; the widths may differ.
        keys: (image,) integers that fix each image's jackknife group (`state.update`), the same for both.
    """
    key = np.asarray(keys, dtype=np.int64)
    ours = float64(h_candidate)
    theirs = float64(h_reference)
    our_usable = definitions.usable_rows(ours).usable
    their_usable = definitions.usable_rows(theirs).usable
    both = our_usable & their_usable
    for side, h, usable in ((pair.candidate, ours, our_usable), (pair.reference, theirs, their_usable)):
        side.add(h[both], key[both])
        sums.update(side.state, h[~usable], key[~usable])  # counts them, adds nothing
    return np.asarray(both)


class ClassAgreement(Frozen):
    """The share of images with the same predicted class. It has a Wilson score interval."""

    n: int
    n_same: int
    value: float
    low: float
    high: float
    confidence: float
    chance: float
    """share on which independent predictions with these class frequencies would agree"""


def add_predictions(pair: Pair, candidate: npt.ArrayLike, reference: npt.ArrayLike) -> None:
    """Add the predicted classes of the same images, in place.

    Args:
        pair: the classes so far.
        candidate, reference: (image, class) scores of equal width. A tie for the largest score, or a NaN, is not
            a prediction and agrees with nothing.
    """
    tops = []
    for scores in (float64(candidate), float64(reference)):
        is_largest = scores == scores.max(axis=1, keepdims=True)
        is_alone = is_largest.sum(axis=1) == 1
        tops.append(np.where(is_alone, scores.argmax(axis=1), -1))
    pair.predicted.append(np.stack(tops))


def agreement(pair: Pair) -> ClassAgreement | None:
    """Compare the predicted classes; None without any.

    By chance Σ_k p_k q_k agree, with the shares of both models' predictions, as in Cohen's kappa (Cohen 1960, "A
    coefficient of agreement for nominal scales").
    """
    if not pair.predicted:
        return None
    predicted = np.hstack(pair.predicted)
    ours, theirs = predicted
    n_classes = predicted.max() + 1
    p, q = (np.bincount(classes[classes >= 0], minlength=n_classes) / len(classes) for classes in predicted)
    is_same = (ours == theirs) & (ours >= 0)
    same = intervals.wilson(int(is_same.sum()), len(ours))
    return ClassAgreement(
        n=same.n,
        n_same=same.n_correct,
        value=same.value,
        low=same.low,
        high=same.high,
        confidence=intervals.CONFIDENCE,
        chance=float(p @ q),
    )


class Compared(Frozen):
    """One of the two models. It is as a check over these images would show it."""

    evidence: Evidence
    verdict: Verdict
    carrying: tuple[int, ...]
    """indices of its outlier features, strongest first; of its strongest feature where it has none"""

    @classmethod
    def of(cls, evidence: Evidence, profile: Profile) -> Compared:
        """Judge a model by itself."""
        indices = tuple(feature.index for feature in decisive_features(evidence.statistics))
        return cls(evidence=evidence, verdict=judge(evidence, profile), carrying=indices)


def decisive_features(statistics: Statistics) -> tuple[OutlierFeature, ...]:
    """Return the persistent outlier features, at most `LISTED`, or the strongest feature where there are none."""
    return statistics.persistent[:LISTED] or statistics.features[:1]


def unrelated(similarity: Similarity | None, agreement: ClassAgreement | None) -> Iterator[str]:
    """Yield in which ways the candidate is as unrelated to the reference as a model made by itself.

    Agreement at chance says something only where full agreement would have been told from chance.
    """
    if similarity is not None and similarity.is_below(UNRELATED_CKA):
        yield f"{similarity.text}; a CKA of {UNRELATED_CKA:g} is needed"
    if agreement is not None and agreement.low <= agreement.chance < intervals.wilson(agreement.n, agreement.n).low:
        yield (
            f"both predict the same class on {agreement.n_same} of {agreement.n} images (lower bound "
            f"{100 * agreement.low:.1f} %); by chance it would be {100 * agreement.chance:.1f} %"
        )
