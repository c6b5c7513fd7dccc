"""What a comparison adds up over the images that both models could be measured on; pure, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker import kurtosis
from robustcheck_onnx.checker import state as sums

Array = npt.NDArray[np.float64]

KEPT_IMAGES = 1024  # rows kept for similarity and matching, the first of the seeded order: memory stays bounded


@dataclass
class Side:
    """One model's sums over the images: `state.State`, and how often each feature is far out, by group.

    far: (2, group, feature) number of images with z > 4, with z < −4 (float64).
    rows: the first `KEPT_IMAGES` representations, each scaled to length √feature, float32; one array a batch.
    """

    state: sums.State
    far: Array = field(init=False)
    rows: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.far = np.zeros((2, sums.GROUPS, self.state.n_features))

    @property
    def kept_rows(self) -> Array:
        """(image, feature) float64."""
        width = self.state.n_features
        return np.concatenate(self.rows or [np.zeros((0, width), np.float32)]).astype(np.float64)

    def add(self, h: Array, keys: npt.NDArray[np.int64]) -> None:
        """Add usable representations (image, feature) and the keys of their images."""
        sums.update(self.state, h, keys)
        if not len(h):
            return
        z, groups = kurtosis.standardise(h), keys % sums.GROUPS
        np.add.at(self.far[0], groups, z > kurtosis.FREQUENT_SD)
        np.add.at(self.far[1], groups, z < -kurtosis.FREQUENT_SD)
        room = KEPT_IMAGES - sum(map(len, self.rows))
        if room > 0:
            self.rows.append(scaled(h[:room]).astype(np.float32))


@dataclass
class Pair:
    """Candidate and reference over the same images, and how often they predict the same class."""

    candidate: Side
    reference: Side
    n_predicted: int = 0
    n_agreeing: int = 0


def update(pair: Pair, h_candidate: npt.ArrayLike, h_reference: npt.ArrayLike, keys: npt.ArrayLike) -> None:
    """Add the representations of the same images, in place.

    A pair counts only where both can be measured; what can't is counted at its own model.

    Args:
        pair: the sums so far.
        h_candidate, h_reference: (image, feature), any float dtype; the widths may differ.
        keys: (image,) integers that fix each image's jackknife group (`state.update`), the same for both.
    """
    key = np.asarray(keys, dtype=np.int64)
    pairs = [
        (pair.candidate, np.asarray(h_candidate, np.float64)),
        (pair.reference, np.asarray(h_reference, np.float64)),
    ]
    usable = [kurtosis.usable_rows(h).usable for _, h in pairs]
    both = usable[0] & usable[1]
    for (side, h), own in zip(pairs, usable, strict=True):
        side.add(h[both], key[both])
        sums.update(side.state, h[~own], key[~own])  # counts them, adds nothing


def add_predictions(pair: Pair, candidate: npt.ArrayLike, reference: npt.ArrayLike) -> None:
    """Count the images of a batch on which both models have the same largest class score, in place.

    Args:
        pair: the counts so far.
        candidate, reference: (image, class) scores of equal width. A tie for the largest score, or a NaN, is no
            prediction and agrees with nothing.
    """
    a, b = _top1(candidate), _top1(reference)
    pair.n_predicted += len(a)
    pair.n_agreeing += int(((a == b) & (a >= 0)).sum())


def _top1(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    x = np.asarray(scores, dtype=np.float64)
    known = np.asarray(~np.isnan(x).any(axis=1))
    x = np.where(known[:, None], x, 0.0)
    alone = (x == x.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(known & alone, x.argmax(axis=1), -1)


def scaled(h: npt.ArrayLike) -> Array:
    """Representations (image, feature) scaled to length √feature each: a rotation of h rotates them too."""
    x = np.asarray(h, dtype=np.float64)
    x = x / np.abs(x).max(axis=1, keepdims=True)  # safe from overflow in the squares
    return np.asarray(x / np.sqrt(np.mean(x**2, axis=1, keepdims=True)), dtype=np.float64)


def usual_side(state: sums.State, index: int) -> int:
    """0 where a feature's mean z is positive, 1 where it is negative: the first axis of `Side.far`."""
    return 0 if state.powers[0, :, index].sum() >= 0 else 1


def usual_share(side: Side, index: int) -> float:
    """Share of the images in which a feature is beyond 4 SD on its usual side."""
    return float(side.far[usual_side(side.state, index), :, index].sum() / side.state.n)
