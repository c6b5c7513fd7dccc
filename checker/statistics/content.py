"""How much representations vary between images, and in how many directions; pure functions, float64.

The other statistics speak mostly of the mean of the representations. A model that has learned hardly more than that
mean, as one that was trained to match another encoder's vectors may have, shows all of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.arrays import Array

SAME = 1e-12  # share of the energy below which nothing varies: float64 rounding of a Gram matrix is 1e-16 · rows


def unit_rows(h: npt.ArrayLike) -> Array:
    """Scale each representation to length 1.

    Args:
        h: (image, feature), finite, no row all zero; any float dtype.

    Returns:
        (image, feature) float64.

    >>> unit_rows([[3.0, 4.0]]).round(12).tolist()
    [[0.6, 0.8]]
    """
    x = np.asarray(h, dtype=np.float64)
    x = x / np.abs(x).max(axis=1, keepdims=True, initial=0.0)  # safe from overflow in the squares
    return np.asarray(x / np.sqrt(np.sum(x**2, axis=1, keepdims=True)), dtype=np.float64)


def relative_variance(h: npt.ArrayLike) -> float:
    """Measure which share of the representations' energy varies between images.

    Σ_i |u_i − ū|² / Σ_i |u_i|² = 1 − |ū|², u_i = h_i / |h_i|, ū the mean over images.

    Args:
        h: (image, feature), finite, no row all zero; any float dtype.

    Returns:
        0 to 1. Degenerate: 0 where all representations point the same way, and for fewer than two images.

    >>> round(relative_variance([[2.0, 0.0], [0.0, 5.0]]), 12)
    0.5
    >>> relative_variance([[1.0, 2.0], [2.0, 4.0]])
    0.0
    """
    u = unit_rows(h)
    if len(u) < 2:
        return 0.0
    share = float(np.sum((u - u.mean(axis=0)) ** 2)) / len(u)
    return share if share > SAME else 0.0


def effective_rank(h: npt.ArrayLike) -> float:
    """Measure in how many directions the representations vary between images.

    exp(−Σ_k p_k ln p_k), p_k = σ_k² / Σ σ², σ the singular values of the L2-normalised representations less their mean:
    of n images at most min(n − 1, feature). The effective rank of Roy and Vetterli 2007 ("The effective rank: a measure
    of effective dimensionality") takes p_k = σ_k / Σ σ; RankMe (Garrido et al., ICML 2023) takes that of embeddings
    that are neither centred nor normalised. Here the squares: shares of the variance, which few small directions do not
    raise; and centred, since the mean is what must not count.

    Args:
        h: (image, feature), finite, no row all zero; any float dtype.

    Returns:
        1 or more. Degenerate: 0 where nothing varies, and for fewer than two images.

    >>> round(effective_rank([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), 9)
    2.0
    >>> effective_rank([[1.0, 2.0], [2.0, 4.0]])
    0.0
    """
    u = unit_rows(h)
    if relative_variance(u) == 0:
        return 0.0
    centred = u - u.mean(axis=0)
    energy = np.linalg.eigvalsh(centred @ centred.T)  # σ² by the Gram matrix: images are few, features many
    shares = energy[energy > SAME * energy.sum()] / energy.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
