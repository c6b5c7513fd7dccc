"""How a model's predictions spread over its classes: nuclear norm, MaNo, and whether classes shifted; pure.

The two norms rise with accuracy over many shifts of one model: they rank sets, and are no accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .scores import MANO_POWER, ImageScores

MANO_CERTAIN = 5.0  # η of Xie et al. 2024: above this mean cross-entropy to the uniform the softmax is taken
NUCLEAR_IMAGES = 1000  # the most that the nuclear norm is taken of: its time grows with their square
PERMUTATIONS = 1000
SHIFTED_P = 0.01  # p-value and excess distance from which a shift of the predicted classes is told
SHIFTED_DISTANCE = 0.1
Normaliser = Literal["softmax", "taylor"]


def nuclear_norm(probabilities: npt.NDArray[Any]) -> float:
    """Compute the nuclear norm of the prediction matrix over its upper bound, 0 to 1.

    ‖P‖_* / √(min(N, K)·N): N images, K classes, ‖P‖_* the sum of the singular values (Deng et al. 2023, "Confidence
    and dispersity speak: characterising prediction matrix for unsupervised accuracy estimation"; the bound follows of
    ‖P‖_* ≤ √rank·‖P‖_F and ‖P‖_F ≤ √N). 1 where every prediction is certain and the classes are equally frequent. It
    depends on N: sets are compared at equal numbers of images.

    probabilities: (image, class), rows adding up to 1; at least one image.

    >>> nuclear_norm(np.eye(4))
    1.0
    """
    n, classes = probabilities.shape
    values = np.linalg.svd(np.asarray(probabilities, dtype=np.float64), compute_uv=False)
    return float(values.sum() / np.sqrt(min(n, classes) * n))


def normaliser_of(scores: ImageScores) -> Normaliser:
    """Which normalisation of the logits MaNo takes: softmax where the predictions are far from uniform.

    The criterion is the mean cross-entropy between the uniform distribution and the softmax, which is compared with
    η = 5 (Xie et al. 2024, eq. 6 and the authors' code). It is at least log(classes): with 149 classes or more it is
    always the softmax.
    """
    return "softmax" if float(scores.uniform_cross_entropy.mean()) > MANO_CERTAIN else "taylor"


def mano(scores: ImageScores, n_classes: int, normaliser: Normaliser) -> float:
    """Compute MaNo: the entry-wise norm of the normalised logits, (Σ |σ(q)|⁴ / (N·K))^(1/4), 0 to 1.

    Xie et al. 2024, "MaNo: exploiting matrix norms for unsupervised accuracy estimation under distribution shifts",
    p = 4. σ is the softmax, or (1 + q + q²/2) over its sum (the paper's; the authors' code subtracts the smallest
    value of an image first). Of the whole set at once, not the mean over batches.
    """
    powers = scores.softmax_power if normaliser == "softmax" else scores.taylor_power
    return float((powers.mean() / n_classes) ** (1 / MANO_POWER))


@dataclass(frozen=True)
class ClassShift:
    """How much the predicted classes of two sets differ."""

    distance: float
    """total variation: half the sum of |differences of shares|, 0 to 1"""
    expected: float
    """its mean when the images of both sets are mixed at random"""
    p_value: float

    @property
    def is_told(self) -> bool:
        """Whether it is clearly more than chance, and much."""
        return self.p_value <= SHIFTED_P and self.distance - self.expected >= SHIFTED_DISTANCE


def class_shift(inside: npt.ArrayLike, outside: npt.ArrayLike, seed: tuple[int, ...]) -> ClassShift:
    """Compare the classes predicted on two sets by a permutation test of their total variation distance.

    Under mixing, the counts of the one set are multivariate hypergeometric. p is (1 + permutations at least as far) /
    (1 + PERMUTATIONS). A difference may be other classes (label shift), or the same ones taken for others.

    inside, outside: (image,) class indices; at least one image each.
    """
    a, b = np.asarray(inside), np.asarray(outside)
    classes = np.union1d(a, b)
    one, two = (np.searchsorted(classes, each) for each in (a, b))
    counts_a, counts_b = (np.bincount(each, minlength=len(classes)) for each in (one, two))

    def distance(of: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.abs(of / len(a) - other / len(b)).sum(axis=-1) / 2)

    both = counts_a + counts_b
    mixed = np.random.default_rng(seed).multivariate_hypergeometric(both, len(a), size=PERMUTATIONS)
    found, chance = float(distance(counts_a, counts_b)), distance(mixed, both - mixed)
    p = (1 + int((chance >= found - 1e-12).sum())) / (1 + PERMUTATIONS)
    return ClassShift(found, float(chance.mean()), p)
