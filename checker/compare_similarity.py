"""How alike two representations of the same images are as wholes: linear CKA, and the cosines between images; pure."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.thresholds.frozen import Frozen

Array = npt.NDArray[np.float64]


class Similarity(Frozen):
    """How alike two representations are as wholes: no rotation, no permutation, no width changes it."""

    n_images: int
    cka: float | None
    """linear centred kernel alignment, 0 to 1; with fewer images than features it is too high"""
    cka_debiased: float | None
    """the same from unbiased estimates: about 0 for unrelated representations whatever the number of images"""
    cosine_change: float | None
    """RMS difference of the cosines between images, means included (0 after any rotation); None for one image"""


def similarity(x: Array, y: Array) -> Similarity:
    """Linear CKA of two representations of the same images.

    ⟨K, L⟩ / (‖K‖ ‖L‖) with K = HXXᵀH, L = HYYᵀH, H centring over images: equal to ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of the
    centred X, Y (Kornblith, Norouzi, Lee, Hinton 2019, "Similarity of Neural Network Representations Revisited").
    Debiased: each product replaced by the unbiased estimate of HSIC (Song, Smola, Gretton, Bedo, Borgwardt 2012,
    "Feature Selection via Dependence Maximization"), since with fewer images than features even unrelated
    representations have a CKA near 1.

    Args:
        x: (image, feature); y: (image, other); at the scale of `scaled`, so that no image's length weighs.

    Returns:
        None where a representation does not vary, and, debiased, with fewer than four images.
    """
    k, m = x @ x.T, y @ y.T
    kc, mc = (_centred(gram) for gram in (k, m))
    biased = _alignment(float((kc * mc).sum()), float((kc * kc).sum()), float((mc * mc).sum()), float((k * k).sum()))
    debiased = None
    if len(x) >= 4:
        debiased = _alignment(_hsic(k, m), _hsic(k, k), _hsic(m, m), float((k * k).sum()))
    change = cosine_change(x, y) if len(x) > 1 else None
    return Similarity(n_images=len(x), cka=biased, cka_debiased=debiased, cosine_change=change)


def cosine_change(x: Array, y: Array) -> float:
    """Root mean square difference of the cosines between images in two representations; no rotation changes them.

    Args:
        x: (image, feature); y: (image, other); at the scale of `scaled`, of at least two images.
    """
    off = ~np.eye(len(x), dtype=bool)
    change = (x @ x.T / x.shape[1] - y @ y.T / y.shape[1])[off]
    return float(np.sqrt(np.mean(change**2)))


def _centred(gram: Array) -> Array:
    middle = gram.mean(axis=0)
    return np.asarray(gram - middle - middle[:, None] + middle.mean(), dtype=np.float64)  # symmetric


def _alignment(product: float, first: float, second: float, scale: float) -> float | None:
    if min(first, second) <= 1e-14 * scale:  # what rounding leaves of representations that are all the same
        return None
    return min(product / math.sqrt(first * second), 1.0)


def _hsic(k: Array, m: Array) -> float:
    """n(n − 3) times Song et al.'s unbiased HSIC: the factor cancels."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    rows = k.sum(axis=1), m.sum(axis=1)
    whole = rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2))
    return float((k * m).sum() + whole - 2 / (n - 2) * (rows[0] @ rows[1]))
